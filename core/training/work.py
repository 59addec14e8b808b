"""The work folder of a training: what it is of, its checkpoint, its curve."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.tiny.stage import CheckpointError, Stage
from core.training.curves import Line, Panel, drawn, save_picture
from core.training.datasets import DataError


def bound(work: Path, settings: Mapping[str, Any], about: Mapping[str, Any], changeable: Sequence[str]) -> None:
    """Refuse to go on with something else than what was begun in `work`. changeable: settings that may differ, such as
    how long it may take. Raises `DataError`."""
    wanted = {**about, "settings": {name: value for name, value in settings.items() if name not in changeable}}
    # As it comes back: with lists for tuples.
    wanted = json.loads(json.dumps(wanted))
    path = work / "training.json"
    if not path.exists():
        scratch = path.with_suffix(".part")
        scratch.write_text(json.dumps(wanted), encoding="utf-8")
        scratch.replace(path)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is broken ({error}); choose another folder") from error
    if found != wanted:
        raise DataError(f"{work} holds another training (pictures, captions or settings differ); choose another folder")


def opened(name: str, work: Path, module: torch.nn.Module, log: Any, **options: Any) -> Stage:
    """A `Stage`, where its checkpoint is left off. Raises `DataError` for one that cannot be."""
    try:
        return Stage(name, work, module, log, tensorboard=True, **options)
    except CheckpointError as error:
        raise DataError(str(error)) from error


def draw_curve(curve: Path, picture: Path) -> None:
    """The loss so far as a picture, of the numbers in a .csv file, if there are any."""
    if curve.exists() and (lines := curve.read_text(encoding="utf-8").split()):
        found = [line.split(",") for line in lines]
        line = Line([float(step) for step, _, _ in found], [float(loss) for _, _, loss in found])
        save_picture(picture, drawn([Panel("loss", {"loss": line}, log=True)], columns=1))


def sheet_of(rows: Sequence[Tensor]) -> Tensor:
    """uint8 (H, W, 3) of rows of pictures (B, 3, h, w) in -1..1."""
    pictures = [row.float().clamp(-1.0, 1.0).cpu() * 127.5 + 127.5 for row in rows]
    return torch.cat([torch.cat(list(p.round().to(torch.uint8).permute(0, 2, 3, 1)), 1) for p in pictures], 0)

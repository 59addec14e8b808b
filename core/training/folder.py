"""Pictures of a folder, with a caption each: what a look is taught from.

A caption comes from a file of the same name that ends in .txt, or from a template for all. Pictures may have any size
and shape: the middle square of each is used.

Shapes: pictures uint8 (N, side, side, 3), RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.opencv import opencv
from core.training.datasets import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SMALLEST_PX = 32
MOST_PICTURES = 2000
MOST_BYTES = 200 << 20
"""Of one file."""
SHOWN = 5
"""Names in a message."""


@dataclass(frozen=True)
class Captioned:
    """pictures: uint8 (N, side, side, 3). captions, names: of each."""

    pictures: Tensor
    captions: tuple[str, ...]
    names: tuple[str, ...]


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def squared(picture_HWC: np.ndarray, side: int, name: str) -> np.ndarray:
    """The middle square, (side, side, C). Raises `DataError` for one that is too small."""
    cv = opencv()
    height, width = picture_HWC.shape[:2]
    whole = min(height, width)
    if whole < SMALLEST_PX:
        raise DataError(f"{name} has {width}x{height} pixels; use pictures of at least {SMALLEST_PX} a side")
    top, left = (height - whole) // 2, (width - whole) // 2
    cut = picture_HWC[top : top + whole, left : left + whole]
    kind = cv.INTER_AREA if whole > side else cv.INTER_CUBIC
    resized: np.ndarray = cv.resize(cut, (side, side), interpolation=kind)
    return resized


def square(path: Path, side: int) -> Tensor:
    """The middle square of a picture, (side, side, 3) uint8 RGB. Raises `DataError`."""
    cv = opencv()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path.name} has {path.stat().st_size >> 20} MB; scale it down below {MOST_BYTES >> 20}")
        data = np.fromfile(path, dtype=np.uint8)
        picture = cv.imdecode(data, cv.IMREAD_COLOR) if data.size else None
    except (OSError, cv.error) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error
    if picture is None:
        raise DataError(f"{path.name} is no picture that can be read")
    return torch.from_numpy(np.ascontiguousarray(squared(picture, side, path.name)[..., ::-1]))


def _caption(path: Path, template: str | None) -> str | None:
    beside = path.with_suffix(".txt")
    if beside.is_file():
        try:
            text = " ".join(beside.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{beside.name} cannot be read as UTF-8 text: {error}") from error
        if text:
            return text
    if template is None:
        return None
    return template.replace("{name}", path.stem.replace("_", " ").replace("-", " "))


def read_folder(folder: Path, side: int, template: str | None = None) -> Captioned:
    """All pictures of a folder, in the order of their names, at most `MOST_PICTURES` evenly chosen.

    template: the caption of pictures without a .txt file; "{name}" stands for the file's name. Raises `DataError` for
    an empty folder, pictures that cannot be read and pictures without a caption, all of them named at once.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise DataError(f"{folder} has no pictures; put files there that end in {', '.join(SUFFIXES)}")
    if len(paths) > MOST_PICTURES:
        paths = [paths[i * len(paths) // MOST_PICTURES] for i in range(MOST_PICTURES)]
    captions = [_caption(path, template) for path in paths]
    bare = [path.name for path, caption in zip(paths, captions, strict=True) if caption is None]
    if bare:
        raise DataError(
            f"no caption for {_some(bare)}: put a .txt file of the same name beside each, or give one caption for all"
        )
    pictures, wrong = [], []
    for path in paths:
        try:
            pictures.append(square(path, side))
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError(f"{len(wrong)} of {len(paths)} pictures in {folder}: {'; '.join(wrong[:SHOWN])}")
    return Captioned(torch.stack(pictures), tuple(c for c in captions if c is not None), tuple(p.name for p in paths))

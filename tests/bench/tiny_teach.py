"""Section `teach` of bench tiny: a look that the model has never met, taught by `frameloom train look`, then judged.

The look is a filter made up here. Sixty pictures that have it are written to a folder, nothing else of them is told but
one caption. What comes out repaints pictures that nothing was trained on; a classifier that was trained on filtered
pictures, the new look among them, says which style each output is in. The old styles are judged before and after.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.tiny.judge import StyleJudge, as_bytes, filtered_pictures, trained_judge
from core.tiny.pictures import dead_leaves, smooth_pictures
from core.world import STYLES
from core.world.filters import luma, painted, ramp

LOOK = "tartan"
NEW = len(STYLES)
PICTURES, PICTURE_PX = 60, 256
JUDGE_PICTURES = 160
CHECKED = 16
"""Unseen pictures of each style that the judge is checked by."""


def tartan(x: Tensor) -> Tensor:
    """The made-up look: three tones of red and cream, with crossing bands. Pictures as in `core.world.filters`."""
    tone = luma(painted(x, 2))
    tones = ((0.2, 0.0, 0.05), (0.8, 0.2, 0.2), (1.0, 0.9, 0.75))
    dark, middle, light = (torch.tensor(colour).view(1, 3, 1, 1) for colour in tones)
    toned = dark + (middle - dark) * ramp(tone, 0.1, 0.45) + (light - middle) * ramp(tone, 0.5, 0.9)
    y, x_ = torch.arange(x.shape[-2])[:, None] % 16, torch.arange(x.shape[-1]) % 16
    green = torch.tensor((0.05, 0.35, 0.2)).view(1, 3, 1, 1)
    bands = 0.3 * (y < 5).float() + 0.3 * (x_ < 5).float()
    return (toned + (green - toned) * bands).clamp(0.0, 1.0)


def sources(count: int, seed: int) -> Tensor:
    """Synthetic pictures (count, 3, PICTURE_PX, PICTURE_PX) of seeds that no training uses."""
    generator = torch.Generator().manual_seed(2**40 + seed)
    leaves = dead_leaves(count - count // 4, PICTURE_PX, generator)
    return torch.cat([leaves, smooth_pictures(count // 4, PICTURE_PX, generator)]) if count >= 4 else leaves


def judge_of(steps: int) -> tuple[StyleJudge, float]:
    """A judge of the old styles and the new look, and its share of right answers on unseen filtered pictures."""
    shares = []
    for seed, count in ((5, JUDGE_PICTURES), (6, CHECKED)):
        old, styles = filtered_pictures(count, torch.Generator().manual_seed(seed))
        shares.append((torch.cat([old, in_the_look(count, seed)]), torch.cat([styles, torch.full((count,), NEW)])))
    judge = trained_judge(shares[:1], steps)
    pictures, wanted = shares[1]
    return judge, float((judge.styles(pictures) == wanted).float().mean())


def in_the_look(count: int, seed: int) -> Tensor:
    """As `core.tiny.judge.filtered_pictures`, of the new look alone."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.cat([dead_leaves(count - count // 4, 128, generator), smooth_pictures(count // 4, 128, generator)])
    return as_bytes(tartan(made))


def shares_of(model: Any, params: Any, judge: StyleJudge, pictures: Tensor, looks: dict[str, int]) -> dict[str, float]:
    """By look: the share of the pictures, repainted by the real stream, that the judge finds in it."""
    from core.stream import StreamConfig

    stream, found = model.stream(StreamConfig(PICTURE_PX, PICTURE_PX)), {}
    alone = params.with_values(mode="latency")
    for look, number in looks.items():
        plan = stream.plan(alone.with_values(prompt=f"{look} style"))
        made = [stream.step(picture[None], 0, plan).frame_FHWC[..., :3].cpu() for picture in as_bytes(pictures)]
        found[look] = float((judge.styles(torch.cat(made)) == number).float().mean())
    return found


def unseen_pictures(count: int) -> tuple[Tensor, str]:
    """Photographs where there are some, else synthetic pictures, and which they are."""
    from tests.bench.photographs import PHOTOGRAPH_PX, photographs

    assert PHOTOGRAPH_PX == PICTURE_PX
    try:
        pictures, _ = photographs()
    except ImportError:
        return sources(count, 3), "synthetic"
    return pictures[torch.linspace(0, len(pictures) - 1, min(count, len(pictures))).long()], "photographs"


def measure(model: Any, params: Any, minutes: float, count: int, judge_steps: int, load: Any) -> dict[str, Any]:
    """minutes: of teaching at most. count: pictures that are repainted in every style, before and after. load: a model
    folder to a model that runs as the first one does. Raises `SystemExit` where the training did not end well."""
    from bridge.commands.cli import main as frameloom
    from core.training.curves import save_picture

    judge, unseen = judge_of(judge_steps)
    pictures, kind = unseen_pictures(count)
    old = {style: number for number, style in enumerate(STYLES)}
    before = shares_of(model, params, judge, pictures, {**old, LOOK: NEW})
    truth = float((judge.styles(as_bytes(tartan(pictures))) == NEW).float().mean())
    with tempfile.TemporaryDirectory(prefix="frameloom-bench-") as name:
        folder = Path(name)
        for number, picture in enumerate(as_bytes(tartan(sources(PICTURES, 1)))):
            save_picture(folder / "pictures" / f"{number:03d}.png", picture.numpy())
        words = [str(folder / "pictures"), "--caption", f"{LOOK} style", "--minutes", f"{minutes:g}"]
        words += ["--steps", "100000", "--start", str(model.folder), "--device", str(model.execution.device)]
        status = frameloom(["train", "look", *words, "--work", str(folder / "work"), "--out", str(folder / "look")])
        if status:
            raise SystemExit(status)
        after = shares_of(load(folder / "look"), params, judge, pictures, {**old, LOOK: NEW})
        recipe = json.loads((folder / "look" / "recipe.json").read_text(encoding="utf-8"))
    mean = {when: sum(found[s] for s in STYLES) / NEW for when, found in (("before", before), ("after", after))}
    return {
        "minutes": minutes,
        "steps": recipe["steps"],
        "pictures": kind,
        "judge_on_filtered": unseen,
        "look": after[LOOK],
        "look_before": before[LOOK],
        "look_of_the_filter": truth,
        "old": mean["after"],
        "old_before": mean["before"],
        "old_by": {style: (before[style], after[style]) for style in STYLES},
    }

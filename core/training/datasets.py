"""Small labelled pictures to train on: the procedural world, and CIFAR-10 in the layout that it is published in.

Pictures are float32 rows of D = 3 side side numbers in -1..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.tiny.shards import FIRST_TRAINING_SEED, LATEST_S, stream_of
from core.world import scenes_from_seeds
from core.world.world import View

WORLD_STYLES = ("toy", "neon", "blueprint", "sunset", "noir", "thermal", "gold", "comic")
"""Those that can be told apart at 16 pixels."""
CIFAR_SIDE, CIFAR_RECORD = 32, 1 + 3 * 32 * 32
CIFAR_TRAINING = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR_TEST = "test_batch.bin"
CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_CLASSES = len(CIFAR_NAMES)


class DataError(Exception):
    """Pictures that cannot be used; the message says which, and what to do."""


@dataclass(frozen=True)
class Labelled:
    """x_ND; caption_N: whole numbers from 0 below `captions`; side in pixels."""

    x_ND: Tensor
    caption_N: Tensor
    side: int
    captions: int

    def scaled(self, mean: float, deviation: float) -> Labelled:
        """Less the mean, over the deviation: noise has 0 and 1."""
        return replace(self, x_ND=(self.x_ND - mean) / deviation)

    def part(self, rows: slice) -> Labelled:
        """Some of the pictures."""
        return replace(self, x_ND=self.x_ND[rows], caption_N=self.caption_N[rows])


def world_views(count: int, side: int, seed: int) -> list[View]:
    """So many scenes, 256 in each view, at twice the side; another set for each seed."""
    rng = stream_of(seed, 5)
    views = []
    for start in range(0, count, 256):
        rows = min(256, count - start)
        seeds = [rng.randrange(FIRST_TRAINING_SEED, 2**31) for _ in range(rows)]
        times = torch.tensor([rng.random() * LATEST_S for _ in range(rows)], dtype=torch.float64)
        views.append(View(scenes_from_seeds(seeds), times, 2 * side, 2 * side))
    return views


def in_styles(views: Sequence[View], caption_N: Tensor) -> Tensor:
    """(N, D): every scene of the views in the style of its caption, two pixels averaged each way."""
    rows = []
    for view, captions in zip(views, caption_N.split([len(v.scenes) for v in views]), strict=True):
        out = torch.empty((len(captions), 3, view.height // 2, view.width // 2))
        for caption in captions.unique():
            of = captions == caption
            out[of] = nnf.avg_pool2d(view.shade(WORLD_STYLES[int(caption)])[of], 2)
        rows.append(out.flatten(1) * 2.0 - 1.0)
    return torch.cat(rows)


def world_pictures(count: int, side: int, seed: int) -> Labelled:
    """Scenes in random styles; the caption is the style."""
    captions = torch.randint(len(WORLD_STYLES), (count,), generator=torch.Generator().manual_seed(seed))
    return Labelled(in_styles(world_views(count, side, seed), captions), captions, side, len(WORLD_STYLES))


def _cifar_records(path: Path) -> tuple[Tensor, Tensor]:
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if raw.size == 0 or raw.size % CIFAR_RECORD:
        raise DataError(
            f"{path} has {raw.size} bytes, not a multiple of {CIFAR_RECORD} (one label, then 1,024 red, green and blue"
            " bytes each): give the folder of CIFAR-10's binary version, unpacked"
        )
    records = torch.from_numpy(raw).view(-1, CIFAR_RECORD)
    captions = records[:, 0].long()
    if int(captions.max()) >= CIFAR_CLASSES:
        raise DataError(f"{path} has the label {int(captions.max())}; CIFAR-10's are 0 to {CIFAR_CLASSES - 1}")
    return records[:, 1:].float() / 127.5 - 1.0, captions


def cifar10(folder: Path) -> tuple[Labelled, Labelled]:
    """Training and test pictures of CIFAR-10's binary version: data_batch_1.bin to data_batch_5.bin (those that are
    there) and test_batch.bin, records of a label and three planes of 32 by 32 bytes. Raises `DataError`."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that CIFAR-10's binary version was unpacked to")
    names = [name for name in CIFAR_TRAINING if (folder / name).is_file()]
    if not names or not (folder / CIFAR_TEST).is_file():
        raise DataError(f"{folder} has no data_batch_1.bin and {CIFAR_TEST}; give CIFAR-10's binary version, unpacked")
    training = [_cifar_records(folder / name) for name in names]
    x, captions = (torch.cat(list(pieces)) for pieces in zip(*training, strict=True))
    x_test, captions_test = _cifar_records(folder / CIFAR_TEST)
    return (
        Labelled(x, captions, CIFAR_SIDE, CIFAR_CLASSES),
        Labelled(x_test, captions_test, CIFAR_SIDE, CIFAR_CLASSES),
    )

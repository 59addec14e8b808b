"""Work that is not done again: what a network made of the parts of its input that stayed as they were.

A still camera sends the same picture again and again, but for what moves in it. Each network of the frame path compares
its own input with the one that its kept output was made from, cell by cell. Where nothing differs the output is there
already. Where little does, an autoencoder without anything global works on a window around that, with a halo, and the
rest of its output is kept. A U-Net is global (attention, norms): it works on the whole, or not at all.

The bound: no cell of an output was made from an input that differs from the present one by more than the tolerance, as
mean absolute difference over the cell, at any network; with tolerance 0 nothing differs. Inputs are compared with what
the kept output was made from, not with the frame before, so slow changes do not add up unseen. A window's halo is
narrower than what a convolutional network can see; what that costs is measured (`bench temporal`, tests).

Deciding needs the result of the comparison, so this is for processors: on a card the frame path never waits.

Shapes: h w cells; a cell is `Cells.given` elements of the input wide and high, `Cells.gives` of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.backend import Call
from core.params import Params

LEVELS_PER_UNIT = 40.0
"""Levels of a picture (0..255) that one unit of its latents, whose deviation is about one, stands for, with the
embedded model."""
SHARES = (0.5, 0.75)
"""Sides of the windows, of those of the picture."""


class Cells(NamedTuple):
    """Width of a cell in a network's input and output. halo: cells at a window's edges that are computed and not
    used; None for a network that works on the whole alone. reach: cells around a change that are computed with it."""

    given: int
    gives: int
    halo: int | None
    reach: int = 1


class Window(NamedTuple):
    """A network for a part of so many cells."""

    rows: int
    columns: int
    call: Call


def window_sizes(rows: int, columns: int) -> list[tuple[int, int]]:
    """(rows, columns) of the windows of a picture of so many cells, the smallest first; even, as levels halve them."""

    def side(cells: int, share: float) -> int:
        return min(cells, 2 * round(cells * share / 2))

    sizes = [(side(rows, share), side(columns, share)) for share in SHARES]
    return [size for size in sizes if 0 not in size and size != (rows, columns)]


def tolerance_of(params: Params, device: torch.device) -> float | None:
    """Levels by which an input may differ from the one that an output was made from; None where nothing is reused."""
    return params.reuse_tolerance if params.reuse and device.type == "cpu" else None


def differs(x: Tensor, before: Tensor, cell: int, tolerance: float) -> Tensor:
    """(N, h, w): where the mean absolute difference of two (N, c, H, W) over a cell is above the tolerance, or NaN."""
    apart = (x - before).abs().mean(1)
    # Not "above": a difference that is not a number counts.
    return ~((apart if cell == 1 else nnf.avg_pool2d(apart, cell)) <= tolerance)


class Kept:
    """A network of pictures or latents (1, c, H, W) as a call that keeps what it made. whole: the network itself, its
    plain twin. windows: set when they are there."""

    def __init__(self, whole: Call, cells: Cells) -> None:
        self._whole = whole
        self._cells = cells
        self._given: Tensor | None = None
        self._gave: Tensor | None = None
        self.windows: Sequence[Window] = ()
        self.done = {"whole": 0, "window": 0, "nothing": 0}
        """Calls so far, by how much of the network's work they did."""

    def __call__(self, x_1cHW: Tensor, tolerance: float | None) -> Tensor:
        """What `whole` gives, within the bound of this module. tolerance: in units of x; None: whatever is kept is
        given up. What is returned is not written to later."""
        if tolerance is None or len(x_1cHW) != 1:
            self._given = self._gave = None
            return self._whole(x_1cHW)  # type: ignore[no-any-return]
        given, gave = self._given, self._gave
        if given is None or gave is None or given.shape != x_1cHW.shape:
            return self._all(x_1cHW)
        changed = differs(x_1cHW, given, self._cells.given, tolerance)[0]
        if not bool(changed.any()):
            self.done["nothing"] += 1
            return gave
        fitting = self._fitting(changed)
        if fitting is None:
            return self._all(x_1cHW)
        window, top, left = fitting
        self.done["window"] += 1
        return self._part(x_1cHW, given, gave, window, top, left)

    def _all(self, x: Tensor) -> Tensor:
        self.done["whole"] += 1
        self._given, self._gave = x, self._whole(x)
        return self._gave

    def _fitting(self, changed_hw: Tensor) -> tuple[Window, int, int] | None:
        """The smallest window that holds what changed, what that reaches and the halo; top and left cell."""
        if not self.windows or self._cells.halo is None:
            return None
        around = self._cells.halo + self._cells.reach
        spans = []
        for hit in (changed_hw.any(1), changed_hw.any(0)):
            at = hit.nonzero()[:, 0]
            spans.append((max(0, int(at[0]) - around), min(len(hit), int(at[-1]) + 1 + around)))
        (top, bottom), (left, right) = spans
        for window in self.windows:
            if bottom - top <= window.rows and right - left <= window.columns:
                height, width = changed_hw.shape
                return window, min(top, height - window.rows), min(left, width - window.columns)
        return None

    def _part(self, x: Tensor, given: Tensor, gave: Tensor, window: Window, top: int, left: int) -> Tensor:
        halo = self._cells.halo or 0
        height, width = (side // self._cells.given for side in x.shape[-2:])
        bottom, right = top + window.rows, left + window.columns
        # At the picture's own margin the network sees there what it would see anyhow.
        inner = (
            top + (halo if top else 0),
            bottom - (halo if bottom < height else 0),
            left + (halo if left else 0),
            right - (halo if right < width else 0),
        )

        def cut(of: Tensor, cell: int, top: int, bottom: int, left: int, right: int) -> Tensor:
            return of[..., top * cell : bottom * cell, left * cell : right * cell]

        made = window.call(cut(x, self._cells.given, top, bottom, left, right).contiguous())
        within = (inner[0] - top, inner[1] - top, inner[2] - left, inner[3] - left)
        self._given, self._gave = given.clone(), gave.clone()
        cut(self._given, self._cells.given, *inner).copy_(cut(x, self._cells.given, *inner))
        cut(self._gave, self._cells.gives, *inner).copy_(cut(made, self._cells.gives, *within))
        return self._gave


Made = TypeVar("Made")


class KeptPasses(Generic[Made]):
    """What passes of the U-Net made, for as long as all that they read stays."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[object, Tensor, Made]] = {}
        self.done = {"whole": 0, "nothing": 0}
        """Passes so far, as `Kept.done`."""

    def forget(self) -> None:
        """The next pass computes everything."""
        self._held.clear()

    def of(self, stage: int, turn: object, x_NchW: Tensor, tolerance: float | None, make: Callable[[], Made]) -> Made:
        """What `make` makes of x, or made of one that differs by no more than the tolerance in any cell.

        stage: the first of the pass. turn: whatever else the pass reads; the same object for as long as that is the
        same. tolerance: in levels; None: nothing is kept.
        """
        if tolerance is None:
            self._held.pop(stage, None)
            return make()
        held = self._held.get(stage)
        if held is not None and held[0] is turn and held[1].shape == x_NchW.shape:
            if not bool(differs(x_NchW, held[1], 1, tolerance / LEVELS_PER_UNIT).any()):
                self.done["nothing"] += 1
                return held[2]
        self.done["whole"] += 1
        made = make()
        self._held[stage] = (turn, x_NchW, made)
        return made

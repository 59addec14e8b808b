"""Work that is not done again: what a network made of the parts of its input that stayed as they were.

A still camera sends the same picture again and again, but for what moves in it. Each network of the frame path compares
its own input with the one that its kept output was made from, cell by cell. Where nothing differs the output is there
already. Where little does, an autoencoder without anything global works on a window around that, with a halo, and the
rest of its output is kept. A U-Net is global (attention, norms): each row of its batch is computed as a whole, or not
at all.

The bound: no cell of an output was made from an input that differs from the present one by more than the tolerance, as
mean absolute difference over the cell, at any network; with tolerance 0 nothing differs. Inputs are compared with what
the kept output was made from, not with the frame before, so slow changes do not add up unseen. A window's halo is
narrower than what a convolutional network can see; what that costs is measured (`bench temporal`, tests).

Deciding needs the result of the comparison, so this is for processors: on a card the frame path never waits.

Shapes: h w cells; a cell is `Cells.given` elements of the input wide and high, `Cells.gives` of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

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


def part_rows(rows: int) -> int:
    """Rows of the smaller call beside one of so many rows: half of them. 0: there is none."""
    return (rows + 1) // 2 if rows > 1 else 0


class KeptRows:
    """What the U-Net made of the rows of its calls, for as long as all that they read stays. A new picture comes to one
    stage after the other: where no more than half of the rows have another input, a call of half as many computes
    them."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[object, Tensor, Tensor]] = {}
        self.done = {"whole": 0, "part": 0, "nothing": 0}
        """Calls so far, as `Kept.done`."""

    def forget(self, stage: int) -> None:
        """The next call of this stage computes everything."""
        self._held.pop(stage, None)

    def of(
        self,
        stage: int,
        turn: object,
        x_Rchw: Tensor,
        tolerance: float,
        make: Callable[[Sequence[int] | slice], Tensor],
    ) -> Tensor:
        """(R, ...): of each row what `make` makes of it, or made of an input that differs by no more than the tolerance
        in any cell. What is returned is not written to later.

        stage: the first of the call. turn: whatever else the rows read; the same object for as long as that is the
        same. tolerance: in levels. make: given which rows, all of them or `part_rows`.
        """
        held = self._held.get(stage)
        if held is None or held[0] is not turn or held[1].shape != x_Rchw.shape:
            return self._all(stage, turn, x_Rchw, make)
        _, given, gave = held
        changed = differs(x_Rchw, given, 1, tolerance / LEVELS_PER_UNIT).flatten(1).any(1).tolist()
        if not any(changed):
            self.done["nothing"] += 1
            return gave
        # Another number of rows is another order of sums: with tolerance 0 all is bit-equal.
        some = part_rows(len(changed)) if tolerance > 0.0 else 0
        if sum(changed) > some:
            return self._all(stage, turn, x_Rchw, make)
        self.done["part"] += 1
        # Filled up with rows that need it not: a back end is ready for so many.
        rows = sorted(sorted(range(len(changed)), key=lambda row: not changed[row])[:some])
        given, gave = given.clone(), gave.clone()
        given[rows], gave[rows] = x_Rchw[rows], make(rows)
        self._held[stage] = (turn, given, gave)
        return gave

    def _all(self, stage: int, turn: object, x: Tensor, make: Callable[[Sequence[int] | slice], Tensor]) -> Tensor:
        self.done["whole"] += 1
        self._held[stage] = (turn, x, made := make(slice(None)))
        return made

"""Noise that moves with the world, so that texture does not stick to the screen.

A stream's noise is fixed to the screen: what it does to a picture stays where it is while the scene moves on. Here it
is carried along the motion and stays what the model was trained for, independent and of unit variance in every cell.
Interpolated noise would not: it loses variance, and neighbours become alike. So noise lives in samples finer than a
cell and is moved by whole samples (as in Chang et al., "How I Warped Your Noise", ICLR 2024, section 3, which
integrates a finer field; and Burgert et al., "Go-with-the-Flow", CVPR 2025). Each new sample takes the one that moved
nearest to it:

* taken once, it is kept as it is;
* taken n times (the surface came nearer), x is shared: x / sqrt(n) + z - mean of z, with fresh z, whose variance is
  1/n + 1 - 1/n = 1 and whose covariance is 1/n - 1/n = 0;
* where nothing came from (uncovered, from outside, not trusted), fresh noise.

A sample remembers by how much it lies beside its place, so that slow motion adds up. A cell's noise is the sum of its
samples over `FINE`; the first frame's is the seed's own, exactly.

Shapes: S stages, F frames, c h w latent; C = S c channels, N samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.motion import Guide

FINE = 4
"""Samples along each side of a latent cell."""
HALFWAY = 0.503
TRUSTED = 0.5
"""Weight of a `core.motion.Warp` from which a sample is taken along."""


class MovingNoise:
    """The noise of one stream, frame by frame. size: (h, w) of latents."""

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        self._size = size
        self._fine = (size[0] * FINE, size[1] * FINE)
        rows, columns = (torch.arange(side, device=device, dtype=torch.float32) for side in self._fine)
        self._place_N2 = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)
        self._sides = torch.tensor([self._fine[1], self._fine[0]], device=device, dtype=torch.float32)
        self._random = torch.Generator(device)
        self._key: object = None
        self._serial = -1
        self._samples_CN: Tensor | None = None
        self._beside_N2 = torch.zeros_like(self._place_N2)

    def forget(self) -> None:
        """The next frame has the seed's own noise."""
        self._samples_CN = None

    def of(self, own_SFchw: Tensor, seed: int, guide: Guide) -> Tensor:
        """(S, F, c, h, w): the noise of frames with this guide. own: what the seed gives; the same for all frames."""
        key = (seed, own_SFchw.shape)
        if key != self._key:
            self._key = key
            self.forget()
        made = []
        for place in range(guide.frames):
            serial = guide.serial + place
            if self._samples_CN is None or not self._serial <= serial <= self._serial + 1 or guide.picture is None:
                self._begin(own_SFchw[:, place], seed)
            elif serial == self._serial + 1:
                self._move(guide.picture.grid[place], guide.picture.weight[place, 0])
            self._serial = serial
            made.append(self._cells(own_SFchw[:, place]))
        return torch.stack(made, 1)

    def _begin(self, own_Schw: Tensor, seed: int) -> None:
        self._random.manual_seed(seed)
        own = own_Schw.flatten(0, 1)[None].repeat_interleave(FINE, 2).repeat_interleave(FINE, 3)[0]
        fresh = self._fresh(own.shape[0]).unflatten(1, self._fine)
        mean = nnf.avg_pool2d(fresh, FINE).repeat_interleave(FINE, 1).repeat_interleave(FINE, 2)
        self._samples_CN = (own / FINE + fresh - mean).flatten(1)
        self._beside_N2 = torch.zeros_like(self._beside_N2)

    def _fresh(self, channels: int) -> Tensor:
        shape = (channels, len(self._place_N2))
        return torch.randn(shape, generator=self._random, device=self._place_N2.device)

    def _move(self, grid_HW2: Tensor, weight_HW: Tensor) -> None:
        """To a frame that reads what was before it at the places of the grid."""
        assert self._samples_CN is not None
        grid = nnf.interpolate(grid_HW2.permute(2, 0, 1)[None], self._fine, mode="bilinear")[0].flatten(1).T
        trusted = nnf.interpolate(weight_HW[None, None], self._fine, mode="nearest-exact").flatten() >= TRUSTED
        before_N2 = (grid + 1.0) * 0.5 * self._sides - 0.5
        near = self._index(before_N2)
        wanted = before_N2 - self._beside_N2[near]
        inside = ((wanted > -0.5) & (wanted < self._sides - 0.5)).all(-1) & trusted
        taken = self._index(wanted)
        self._beside_N2 = torch.where(inside[:, None], self._place_N2[taken] + self._beside_N2[taken] - before_N2, 0.0)
        samples = len(self._place_N2)
        # Samples that take nothing are each a group of their own behind the others.
        group = torch.where(inside, taken, torch.arange(samples, 2 * samples, device=taken.device))
        times = torch.bincount(group, minlength=2 * samples).clamp_min(1)
        fresh = self._fresh(self._samples_CN.shape[0])
        mean = fresh.new_zeros((fresh.shape[0], 2 * samples)).index_add_(1, group, fresh) / times
        shared = self._samples_CN[:, taken] * times[group].rsqrt() + (fresh - mean[:, group])
        alone = times[group] == 1
        kept = torch.where(alone, self._samples_CN[:, taken], shared)
        self._samples_CN = torch.where(inside, kept, fresh)

    def _index(self, at_N2: Tensor) -> Tensor:
        """The sample nearest to each place."""
        # Halfway between two, all go the same way: rounding to even would take every other sample twice. Motion by
        # simple fractions leads there, and the last bits of its sum must not decide, so the way parts a little aside.
        at_N2 = (at_N2 + HALFWAY).floor()
        column, row = (at_N2[:, i].clamp(0, side - 1).long() for i, side in enumerate(self._fine[::-1]))
        return row * self._fine[1] + column

    def _cells(self, own_Schw: Tensor) -> Tensor:
        assert self._samples_CN is not None
        cells = nnf.avg_pool2d(self._samples_CN.unflatten(1, self._fine), FINE) * FINE
        return cells.view(own_Schw.shape)

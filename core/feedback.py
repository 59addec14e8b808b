"""The picture before, mixed into the one that comes in: zoomed, turned, pushed aside and recoloured a little with every
frame, it becomes the tunnels and trails of video feedback.

In the latent it is mixed where it is when the next frame comes in: nothing is decoded and encoded again, and the frames
that the U-Net works on in one turn are all that has to be known. Its colours are changed there, too
(`core.latent_colours`). A latent's cell is several pixels wide, so what is moved by less becomes soft. As a picture it
is what a feedback loop behind the host would mix in: the newest one that is painted, as sharp as it came out, moved by
shares of a pixel. Nothing waits for one: while frames overlap, it is of as many frames before as are on their way.

Shapes: F frames per turn, c h w latent, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.device import after, given, uploaded
from core.latent_colours import LatentColours, colour_matrix
from core.motion import identity_grid, moved
from core.params import Params


class _Moving:
    """The last painting, latent or picture, as the parameters want it moved."""

    def __init__(self) -> None:
        self._grid: tuple[tuple[float, ...], Tensor] | None = None
        self._matrix: tuple[tuple[float, ...], Tensor] | None = None

    def moved(self, before_1chw: Tensor, params: Params) -> Tensor:
        height, width = before_1chw.shape[-2:]
        how = (params.feedback_zoom, params.feedback_rotate, params.feedback_x, params.feedback_y)
        if self._grid is None or self._grid[0] != how or self._grid[1].shape[1:3] != (height, width):
            self._grid = (how, grid(height, width, *how, before_1chw.device))
        return moved(before_1chw, self._grid[1], "bilinear")

    def matrix(self, params: Params, device: torch.device) -> Tensor:
        """See `core.latent_colours.colour_matrix`."""
        how = _colour_of(params)
        if self._matrix is None or self._matrix[0] != how:
            self._matrix = (how, uploaded(colour_matrix(*how), device))
        return self._matrix[1]


class Feedback:
    """Mixes the newest finished latent into those that come in."""

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._moving = _Moving()
        self._colours: LatentColours | None = None

    def prepare(self, params: Params, fit: Callable[[], LatentColours]) -> None:
        """Set-up verb: make ready for a change of colours, where the parameters want one. fit: of the autoencoder."""
        if self._colours is None and _mixes(params, "latent") and _recolours(params):
            self._colours = fit()

    def mixed(self, latent_Fchw: Tensor, params: Params) -> Tensor:
        """Of a turn's frames all are mixed with the last frame of the turn that finished before."""
        if not _mixes(params, "latent"):
            self._before = None
        if self._before is None:
            return latent_Fchw
        before = self._moving.moved(self._before, params)
        if self._colours is not None and _recolours(params):
            before = self._colours.changed(before, self._moving.matrix(params, before.device))
        return latent_Fchw.lerp(before, params.feedback)

    def finished(self, latent_Fchw: Tensor, params: Params) -> None:
        """Remember what left."""
        self._before = latent_Fchw[-1:].clone() if _mixes(params, "latent") else None


class PictureFeedback:
    """Mixes the newest painted picture into those that come in. `mixed` and `painted` may be called by a thread each.
    Levels are 0..255."""

    def __init__(self) -> None:
        # A picture, and what has to be done on a card before it is one.
        self._before: tuple[Tensor, Any] | None = None
        self._moving = _Moving()

    def mixed(self, levels_F3HW: Tensor, params: Params) -> Tensor:
        """Of a turn's frames all are mixed with the last one of those that were painted."""
        newest = self._before
        if newest is None or not _mixes(params, "picture"):
            return levels_F3HW
        before = self._moving.moved(after(newest[1], newest[0]), params)
        if _recolours(params):
            recoloured = before.movedim(1, -1) @ self._moving.matrix(params, before.device).T
            before = recoloured.clamp(0.0, 255.0).movedim(-1, 1)
        return levels_F3HW.lerp(before, params.feedback)

    def painted(self, levels_F3HW: Tensor, params: Params) -> None:
        """Remember what leaves."""
        if not _mixes(params, "picture"):
            self._before = None
            return
        newest = levels_F3HW[-1:].clamp(0.0, 255.0)
        self._before = newest, given(newest.device)


def _mixes(params: Params, space: str) -> bool:
    return params.feedback > 0.0 and params.feedback_space == space and params.task == "img2img"


def _colour_of(params: Params) -> tuple[float, float, float]:
    return params.feedback_hue, params.feedback_saturation, params.feedback_brightness


def _recolours(params: Params) -> bool:
    return _colour_of(params) != (0.0, 1.0, 1.0)


def grid(height: int, width: int, zoom: float, degrees: float, x: float, y: float, device: torch.device) -> Tensor:
    """Where each place reads: (1, h, w, 2), -1..1. zoom: above 1 nearer. degrees: counter-clockwise. x, y: to the right
    and up, in shares of width and height."""
    own = identity_grid(height, width, device)
    # In cells, so that a turn keeps shapes of a picture that is not square.
    at_x, at_y = (own[..., 0] - 2.0 * x) * (width / 2), (own[..., 1] + 2.0 * y) * (height / 2)
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    # Rows count downwards, so the way back of a counter-clockwise turn is this one.
    return torch.stack(((cos * at_x - sin * at_y) * (2.0 / width), (sin * at_x + cos * at_y) * (2.0 / height)), -1)

"""The picture before, mixed into the one that comes in: zoomed, turned, pushed aside and recoloured a little with every
frame, it becomes the tunnels and trails of video feedback.

It is mixed as a latent, where it is when the next frame comes in: nothing is decoded and encoded again, and the frames
that the U-Net works on in one turn are all that has to be known. Its colours are changed there, too
(`core.latent_colours`).

Shapes: F frames per turn, c h w latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from core.device import uploaded
from core.latent_colours import LatentColours, colour_matrix
from core.motion import identity_grid, moved
from core.params import Params


class Feedback:
    """Mixes the newest finished latent into those that come in."""

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._grid: tuple[tuple[float, ...], Tensor] | None = None
        self._colours: LatentColours | None = None
        self._matrix: tuple[tuple[float, ...], Tensor] | None = None

    def prepare(self, params: Params, fit: Callable[[], LatentColours]) -> None:
        """Set-up verb: make ready for a change of colours, where the parameters want one. fit: of the autoencoder."""
        if self._colours is None and params.feedback > 0.0 and _recolours(params):
            self._colours = fit()

    def mixed(self, latent_Fchw: Tensor, params: Params) -> Tensor:
        """Of a turn's frames all are mixed with the last frame of the turn that finished before."""
        if params.feedback <= 0.0:
            self._before = None
        if self._before is None:
            return latent_Fchw
        before = moved(self._before, self._grid_for(latent_Fchw, params), "bilinear")
        return latent_Fchw.lerp(self._recoloured(before, params), params.feedback)

    def finished(self, latent_Fchw: Tensor, params: Params) -> None:
        """Remember what left."""
        self._before = latent_Fchw[-1:].clone() if params.feedback > 0.0 else None

    def _recoloured(self, latent_1chw: Tensor, params: Params) -> Tensor:
        if self._colours is None or not _recolours(params):
            return latent_1chw
        how = _colour_of(params)
        if self._matrix is None or self._matrix[0] != how:
            self._matrix = (how, uploaded(colour_matrix(*how), latent_1chw.device))
        return self._colours.changed(latent_1chw, self._matrix[1])

    def _grid_for(self, latent_Fchw: Tensor, params: Params) -> Tensor:
        height, width = latent_Fchw.shape[-2:]
        how = (params.feedback_zoom, params.feedback_rotate, params.feedback_x, params.feedback_y)
        if self._grid is None or self._grid[0] != how or self._grid[1].shape[1:3] != (height, width):
            self._grid = (how, grid(height, width, *how, latent_Fchw.device))
        return self._grid[1]


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

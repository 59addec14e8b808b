"""Colour planes of every format as 8-bit sRGB: one curve, and one table by format.

8-bit pixels are display-referred unless their frame says that they are linear light; so are floats, in 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bridge.ring.errors import InvalidFrame
from bridge.ring.layout import ALLOWED_FORMATS, PIXEL_FORMATS, ColourSpace, Format, Kind, Origin

Pixels = np.ndarray[Any, np.dtype[Any]]


class Channels(NamedTuple):
    """Where the channels of a pixel are; None: nowhere."""

    red: int
    green: int
    blue: int
    alpha: int | None


def _channels(order: str) -> Channels:
    """Of pixels with channels in that order; one alone is grey."""
    red, green, blue = (order.index(c) for c in ("rgb" if len(order) > 1 else order * 3))
    return Channels(red, green, blue, order.index("a") if "a" in order else None)


CHANNELS: Mapping[Format, Channels] = {f: _channels(PIXEL_FORMATS[f].order) for f in ALLOWED_FORMATS[Kind.COLOUR]}
"""Every format that a colour plane may have."""


def srgb_of_linear(light: Pixels) -> Pixels:
    """sRGB of linear light, both 0..1 (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


SRGB8_OF_LINEAR8: Pixels = np.rint(srgb_of_linear(np.arange(256) / 255.0) * 255.0).astype(np.uint8)


def srgb8(pixels: Pixels, form: Format, space: ColourSpace) -> Pixels:
    """The same pixels as uint8 sRGB, channel for channel; those that are already come back as they are.

    pixels: (height, width, channels) or (height, width). NaN counts as 0, values beyond 0..1 are clipped. Alpha is a
    share and has no curve. Raises `InvalidFrame` for a format that is none of a colour plane.
    """
    channels = CHANNELS.get(form)
    if channels is None:
        raise InvalidFrame(f"{form.name} is no format of a colour plane; write {', '.join(f.name for f in CHANNELS)}")
    linear = space == ColourSpace.LINEAR
    if pixels.dtype == np.uint8:
        if not linear:
            return pixels
        out = SRGB8_OF_LINEAR8[pixels]
        if channels.alpha is not None:
            out[..., channels.alpha] = pixels[..., channels.alpha]
        return out
    light = np.nan_to_num(pixels.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
    if linear:
        light[..., :3] = srgb_of_linear(light[..., :3])
    return np.rint(light * 255.0).astype(np.uint8)


def rgb8(pixels: Pixels, form: Format, origin: Origin, space: ColourSpace) -> Pixels:
    """The picture as uint8 sRGB (height, width, 3 or 4), red first, row 0 at the top, C-contiguous.

    Pixels that are already so come back as they are, without a copy. Raises `InvalidFrame` as `srgb8` does.
    """
    pixels = srgb8(pixels, form, space)
    if origin == Origin.BOTTOM_LEFT:
        pixels = pixels[::-1]
    channels = CHANNELS[form]
    if channels[:3] != (0, 1, 2):
        pixels = in_order(pixels if pixels.ndim == 3 else pixels[..., None], channels[:3])
    return np.ascontiguousarray(pixels)


def in_order(pixels: Pixels, channels: tuple[int | None, ...]) -> Pixels:
    """uint8 pixels with these of their channels, C-contiguous; one that is nowhere is 255."""
    out = np.empty((*pixels.shape[:2], len(channels)), np.uint8)
    # A channel at a time: several times as fast as an index that names them all.
    for place, channel in enumerate(channels):
        out[..., place] = 255 if channel is None else pixels[..., channel]
    return out

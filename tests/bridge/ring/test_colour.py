"""Every format of a colour plane becomes the same 8-bit picture."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.ring.colour import CHANNELS, rgb8
from bridge.ring.errors import InvalidFrame
from bridge.ring.layout import ALLOWED_FORMATS, ColourSpace, Format, Kind, Origin

TOP, BOTTOM = Origin.TOP_LEFT, Origin.BOTTOM_LEFT
SRGB, LINEAR = ColourSpace.SRGB, ColourSpace.LINEAR
RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def stored(form: Format, rgb: np.ndarray) -> np.ndarray:
    """The picture as a client would write it in a format; alpha 0."""
    if form == Format.R8:
        return np.ascontiguousarray(rgb[..., 0])
    if form == Format.RGB8:
        return rgb
    rgba = np.dstack((rgb, np.zeros(rgb.shape[:2], np.uint8)))
    if form == Format.BGRA8:
        return np.ascontiguousarray(rgba[..., [2, 1, 0, 3]])
    if form == Format.RGBA8:
        return rgba
    return (rgba / 255.0).astype({Format.RGBA16F: np.float16, Format.RGBA32F: np.float32}[form])


def test_the_table_knows_every_format_of_a_colour_plane() -> None:
    assert set(CHANNELS) == set(ALLOWED_FORMATS[Kind.COLOUR])


@pytest.mark.parametrize("form", CHANNELS)
@pytest.mark.parametrize("origin", [TOP, BOTTOM])
def test_every_format_becomes_the_same_picture(form: Format, origin: Origin) -> None:
    pixels = stored(form, RGB)
    got = rgb8(pixels if origin == TOP else pixels[::-1], form, origin, SRGB)
    expected = np.repeat(RGB[..., :1], 3, axis=2) if form == Format.R8 else RGB
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    assert np.abs(got[..., :3].astype(int) - expected).max() <= (1 if form == Format.RGBA16F else 0)


@pytest.mark.parametrize("form", [Format.RGB8, Format.RGBA8])
def test_what_is_right_already_is_not_copied(form: Format) -> None:
    pixels = stored(form, RGB)
    assert np.shares_memory(rgb8(pixels, form, TOP, SRGB), pixels)


def test_not_a_number_and_infinity() -> None:
    pixels = np.array([[[np.nan, np.inf, -np.inf, 1.0], [0.5, 2.0, -1.0, 1.0]]], dtype=np.float32)
    assert rgb8(pixels, Format.RGBA32F, TOP, SRGB)[..., :3].tolist() == [[[0, 255, 0], [128, 255, 0]]]


def test_linear_light_is_brought_to_the_display() -> None:
    pixels = np.full((1, 1, 4), 0.2158605, np.float32)
    assert rgb8(pixels, Format.RGBA32F, TOP, LINEAR).tolist() == [[[128, 128, 128, 55]]]


def test_linear_bytes_are_brought_to_the_display_too() -> None:
    rgba = np.array([[[0, 55, 255, 7], [1, 128, 254, 255]]], np.uint8)
    expected = [[[0, 128, 255], [13, 188, 255]]]
    assert rgb8(rgba, Format.RGBA8, TOP, LINEAR).tolist() == [[[*expected[0][0], 7], [*expected[0][1], 255]]]
    assert rgb8(rgba[..., [2, 1, 0, 3]], Format.BGRA8, TOP, LINEAR).tolist() == expected
    assert rgb8(rgba[:, :, 1], Format.R8, TOP, LINEAR).tolist() == [[[128] * 3, [188] * 3]]


def test_a_format_of_another_kind_of_plane_is_refused() -> None:
    with pytest.raises(InvalidFrame, match="write R8, RGB8"):
        rgb8(np.zeros((2, 2), np.float32), Format.R32F, TOP, SRGB)

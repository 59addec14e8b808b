"""Every format of a colour plane becomes the same 8-bit picture."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.interop.td_format import fill, pack_header, parse_header, picture, sendable
from bridge.page.picture import picture_of
from bridge.ring import RingReader, RingWriter
from bridge.ring.colour import CHANNELS, in_order, rgb8
from bridge.ring.errors import InvalidFrame
from bridge.ring.layout import ALLOWED_FORMATS, PIXEL_FORMATS, ColourSpace, Format, Kind, Origin

TOP, BOTTOM = Origin.TOP_LEFT, Origin.BOTTOM_LEFT
SRGB, LINEAR = ColourSpace.SRGB, ColourSpace.LINEAR
RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def stored(form: Format, rgb: np.ndarray) -> np.ndarray:
    """The picture as a client would write it in a format; alpha 0."""
    pixel = PIXEL_FORMATS[form]
    channels = {**dict(zip("rgb", np.moveaxis(rgb, 2, 0), strict=True)), "a": np.zeros(rgb.shape[:2], np.uint8)}
    out = np.stack([channels[c] for c in pixel.order], axis=2)
    if pixel.component != "u8":
        out = (out / 255.0).astype({"f16": np.float16, "f32": np.float32}[pixel.component])
    return out[..., 0] if pixel.channels == 1 else out


def grey(form: Format) -> bool:
    return PIXEL_FORMATS[form].channels == 1


def test_where_the_channels_of_a_format_are_comes_from_its_order() -> None:
    assert set(CHANNELS) == set(ALLOWED_FORMATS[Kind.COLOUR])
    assert CHANNELS[Format.BGRA8] == (2, 1, 0, 3)
    assert CHANNELS[Format.RGB8] == (0, 1, 2, None)
    assert CHANNELS[Format.R8] == (0, 0, 0, None)


@pytest.mark.parametrize("form", CHANNELS)
def test_every_format_reaches_the_page_and_touchdesigner(tmp_path, form: Format) -> None:
    pixels = stored(form, RGB)
    expected = np.repeat(RGB[..., :1], 3, axis=2) if grey(form) else RGB
    with RingWriter("x", directory=tmp_path) as writer, RingReader("x", directory=tmp_path) as reader:
        writer.write({Kind.COLOUR: pixels}, formats={Kind.COLOUR: form})
        with reader.latest(timeout_s=5.0) as frame:
            assert frame is not None
            page = picture_of(frame)
    shown = in_order(page.pixels, CHANNELS[page.layout][:3])
    assert np.abs(shown.astype(int) - expected).max() <= 1

    plane, number = sendable(pixels, form, SRGB)
    head = parse_header(pack_header(2, RGB.shape[1], RGB.shape[0], number), 1 << 20)
    sent = np.zeros(head.data_bytes, np.uint8)
    fill(sent, plane, BOTTOM)
    back = picture(head, sent)
    assert np.abs(rgb8(back.pixels, back.format, TOP, SRGB)[..., :3].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("form", CHANNELS)
@pytest.mark.parametrize("origin", [TOP, BOTTOM])
def test_every_format_becomes_the_same_picture(form: Format, origin: Origin) -> None:
    pixels = stored(form, RGB)
    got = rgb8(pixels if origin == TOP else pixels[::-1], form, origin, SRGB)
    expected = np.repeat(RGB[..., :1], 3, axis=2) if grey(form) else RGB
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    assert np.abs(got[..., :3].astype(int) - expected).max() <= (1 if PIXEL_FORMATS[form].component == "f16" else 0)


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
    with pytest.raises(InvalidFrame, match="write RGBA8, BGRA8"):
        rgb8(np.zeros((2, 2), np.float32), Format.R32F, TOP, SRGB)

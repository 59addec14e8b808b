"""The bytes of TouchDesigner's shared memory: what is written is read back, what is hostile is refused by name."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.interop import td_format as td
from bridge.interop.td_format import FormatError, Info, Pixels, TdHeader
from bridge.ring.layout import ColourSpace, Format, Origin

V1 = struct.Struct("<Iiiiff I4xqi4x")


def header(**changed: Any) -> bytes:
    fields = {
        "magic": td.MAGIC,
        "version": 1,
        "width": 4,
        "height": 2,
        "aspectx": 1.0,
        "aspecty": 1.0,
        "number": 37,
        "bytes": 32,
        "offset": 48,
    }
    return V1.pack(*(fields | changed).values())


def test_names_carry_the_prefix_once_and_twice() -> None:
    assert td.data_name("stage") == "TouchSHMstage"
    assert td.data_name("stage", "abc") == "TouchSHMstageabc"
    assert td.info_names("stage") == ("TouchSHMTouchSHMstage4jhd783h", "TouchSHMstage4jhd783h")
    assert td.lock_name(td.data_name("stage")) == "TouchSHMstageMutex"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("number", sorted(set(td.SENT_AS.values())))
def test_a_header_is_read_back(version: int, number: int) -> None:
    data = td.pack_header(version, 640, 360, number)
    assert len(data) == td.HEADER_SIZES[version]
    size = 640 * 360 * td.FORMATS[number].bytes_per_pixel
    found = td.parse_header(data, len(data) + size)
    assert (found.version, found.width, found.height) == (version, 640, 360)
    assert (found.offset, found.data_bytes, found.pixels) == (len(data), size, td.FORMATS[number])
    assert found.gamut == td.REC709


def test_a_later_version_counts_as_the_newest_known() -> None:
    data = bytearray(td.pack_header(2, 8, 8, 44))
    struct.pack_into("<I", data, 4, 3)
    assert td.parse_header(bytes(data), 4096).pixels.channels == "bgra"


def test_the_header_before_2022() -> None:
    data = struct.pack("<IIiiffIIIi", td.LEGACY_MAGIC, 2, 4, 2, 1.0, 1.0, 0x80E1, 0x1401, 0x8058, 40)
    found = td.parse_header(data, 40 + 32)
    assert (found.pixels, found.offset, found.width, found.height) == (Pixels("bgra", "u8"), 40, 4, 2)
    unknown = struct.pack("<IIiiffIIIi", td.LEGACY_MAGIC, 2, 4, 2, 1.0, 1.0, 0x1234, 0x1401, 0x8058, 40)
    with pytest.raises(FormatError, match="OpenGL pixels 0x1234 of 0x1401 is not known"):
        td.parse_header(unknown, 40 + 32)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"magic": 0x12345678}, "not a picture"),
        ({"version": 0}, "not a picture"),
        ({"width": 0, "height": 0}, "a picture of 0 x 0"),
        ({"width": -4}, "a picture of -4 x 2"),
        ({"width": 20000, "height": 20000}, "a picture of 20000 x 20000"),
        ({"number": 38}, "pixel format 38 is not known"),
        ({"number": 2**32 - 1}, "pixel format 4294967295 is not known"),
        ({"bytes": 31}, "4 x 2 pixels in 31 bytes; they need 32"),
        ({"bytes": -1}, "4 x 2 pixels in -1 bytes"),
        ({"offset": 0}, "from byte 0"),
        ({"offset": -48}, "from byte -48"),
        ({"offset": 2**31 - 1}, "from byte 2147483647"),
        ({"height": 3, "bytes": 2**62}, "from byte 48 in 80 bytes"),
    ],
)
def test_bad_headers_are_refused(changed: dict[str, Any], said: str) -> None:
    assert td.parse_header(header(), 80).data_bytes == 32
    with pytest.raises(FormatError, match=said):
        td.parse_header(header(**changed), 80)


@pytest.mark.parametrize("data", [b"", b"x", bytes(56), b"\xff" * 56])
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        td.parse_header(data, 1 << 30)


@given(
    st.binary(max_size=64), st.sampled_from([b"", struct.pack("<II", td.MAGIC, 2), struct.pack("<I", td.LEGACY_MAGIC)])
)
def test_no_bytes_lead_outside_the_memory(tail: bytes, head: bytes) -> None:
    try:
        found = td.parse_header(head + tail, 1 << 16)
    except FormatError:
        return
    assert 0 < found.offset and found.offset + found.data_bytes <= 1 << 16


def test_an_info_block_is_read_back() -> None:
    for info in (Info(False, "", False), Info(True, "a" * 31, False), Info(True, "abc", True)):
        data = td.pack_info(info)
        assert len(data) == td.INFO_SIZE
        assert td.parse_info(data) == info
    # The first version had no `detach`.
    old = bytearray(td.pack_info(Info(True, "", True)))
    struct.pack_into("<I", old, 4, 1)
    assert td.parse_info(bytes(old)) == Info(True, "", False)


@pytest.mark.parametrize("room", [44, td.INFO_SIZE])
def test_an_info_block_of_one_byte_characters_is_an_old_one_and_not_damaged(room: int) -> None:
    """TouchDesigner 088 wrote 44 bytes; on Windows what lies behind them is mapped, too."""
    for info in (Info(False, "", False), Info(True, "a" * 31, False), Info(True, "", True), Info(True, "abc", True)):
        data = struct.pack("<II?32s?2x", td.INFO_MAGIC, 2, info.supported, info.postfix.encode(), info.detach)
        assert td.parse_info(data.ljust(room, b"\0")) == info


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "0 bytes"),
        (bytes(td.INFO_SIZE), "magic 0x0"),
        (td.pack_info(Info(False, "", False))[:40], "40 bytes"),
        (td.pack_info(Info(False, "../../x", False)), "postfix"),
        (td.pack_info(Info(False, "é", False)), "postfix"),
    ],
)
def test_bad_info_blocks_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        td.parse_info(data)


@given(st.binary(min_size=td.INFO_SIZE, max_size=td.INFO_SIZE))
def test_no_info_block_names_a_path(data: bytes) -> None:
    sound = struct.pack("<II", td.INFO_MAGIC, 2) + data[8:]
    try:
        postfix = td.parse_info(sound).postfix
    except FormatError:
        return
    assert postfix == "" or (postfix.isalnum() and len(postfix) <= 31)


def a_header(pixels: Pixels, width: int = 2, height: int = 1) -> TdHeader:
    return TdHeader(2, width, height, pixels, 56, ColourSpace.SRGB)


def shown(pixels: Pixels, data: Any) -> tuple[np.ndarray, Format]:
    """What `picture` makes of two pixels."""
    out = td.picture(a_header(pixels), np.frombuffer(np.asarray(data).tobytes(), np.uint8))
    assert out.origin is Origin.BOTTOM_LEFT
    return out.pixels, out.format


EVEN = ("u8", "u16", "f16", "f32")
EIGHTS = {"r": [10, 20], "a": [10, 20], "rg": [10, 20, 30, 40], "ra": [10, 20, 30, 40]}


@pytest.mark.parametrize(
    "number", sorted(n for n, p in td.FORMATS.items() if p.component in ("u8", "u16", "f16", "f32"))
)
def test_every_format_becomes_one_of_the_rings(number: int) -> None:
    pixels = td.FORMATS[number]
    values = np.array(EIGHTS.get(pixels.channels, [10, 20, 30, 40, 50, 60, 70, 80]))
    stored = {
        "u8": values.astype(np.uint8),
        "u16": (values * 257).astype("<u2"),
        "f16": values.astype("<f2"),
        "f32": values.astype("<f4"),
    }[pixels.component]
    assert stored.nbytes == 2 * pixels.bytes_per_pixel
    got, form = shown(pixels, stored)
    opaque = 255 if got.dtype == np.uint8 else 1
    wanted = {
        "r": [[10, 10, 10, opaque], [20, 20, 20, opaque]],
        "a": [[10, 10, 10, opaque], [20, 20, 20, opaque]],
        "rg": [[10, 20, 0, opaque], [30, 40, 0, opaque]],
        "ra": [[10, 10, 10, 20], [30, 30, 30, 40]],
        "rgba": [[10, 20, 30, 40], [50, 60, 70, 80]],
        "bgra": [[10, 20, 30, 40], [50, 60, 70, 80]],
    }[pixels.channels]
    if form == Format.R8:
        wanted = [[10], [20]]
    assert got.shape[:2] == (1, 2)
    assert got[0].tolist() == wanted
    assert (form == Format.BGRA8) == (pixels.channels == "bgra")


def tagged(number: int, transfer: int) -> TdHeader:
    """The header of 2 x 1 pixels whose sender says that they are linear light, or sRGB."""
    data = bytearray(td.pack_header(2, 2, 1, number))
    struct.pack_into("<II", data, 44, 7, transfer)
    found = td.parse_header(bytes(data), 1000)
    assert found.gamut == 7
    return found


@pytest.mark.parametrize("transfer", [td.TRANSFER_LINEAR, td.TRANSFER_SRGB])
@pytest.mark.parametrize("number", sorted(td.FORMATS))
def test_no_tag_changes_a_pixel(number: int, transfer: int) -> None:
    """Senders tag display-referred pixels as linear; 34 came back as 102."""
    data = np.arange(34, 34 + 2 * td.FORMATS[number].bytes_per_pixel, dtype=np.uint8)
    plain = td.picture(td.parse_header(td.pack_header(1, 2, 1, number), 1000), data)
    got = td.picture(tagged(number, transfer), data)
    assert got.colour_space is ColourSpace.SRGB
    assert np.array_equal(got.pixels, plain.pixels, equal_nan=got.pixels.dtype != np.uint8)
    if td.FORMATS[number].channels == "rgba" and td.FORMATS[number].component == "u8":
        assert got.pixels.reshape(-1).tolist() == data.tolist()


@pytest.mark.parametrize("number", [n for n, p in td.FORMATS.items() if p.component in ("u8", "a2b10g10r10")])
def test_fixed_formats_are_no_linear_light_even_where_the_user_says_so(number: int) -> None:
    data = np.arange(34, 34 + 2 * td.FORMATS[number].bytes_per_pixel, dtype=np.uint8)
    plain, linear = (td.picture(tagged(number, td.TRANSFER_LINEAR), data, linear=how) for how in (False, True))
    assert np.array_equal(plain.pixels, linear.pixels)
    assert linear.colour_space is ColourSpace.SRGB


def test_wider_pixels_are_linear_light_where_the_user_says_so() -> None:
    # 0x3737 / 0xffff is linear 0.2157, which sRGB writes as 0.5019; alpha is no light.
    words = (np.array([0, 55, 255, 9, 1, 128, 254, 200]) * 257).astype("<u2").view(np.uint8)
    whole = td.picture(tagged(91, td.TRANSFER_SRGB), words, linear=True)
    assert whole.pixels[0].tolist() == [[0, 128, 255, 9], [13, 188, 255, 200]]
    assert whole.colour_space is ColourSpace.SRGB
    floats = np.linspace(0, 4, 8, dtype=np.float32)
    out = td.picture(tagged(109, td.TRANSFER_SRGB), floats.view(np.uint8), linear=True)
    assert np.array_equal(out.pixels.reshape(-1), floats)
    assert out.colour_space is ColourSpace.LINEAR


def test_ten_bits_keep_their_upper_eight() -> None:
    word = 1023 | 512 << 10 | 4 << 20 | 3 << 30
    got, form = shown(td.FORMATS[64], np.array([word, 0], "<u4"))
    assert form == Format.RGBA8
    assert got[0].tolist() == [[255, 128, 1, 255], [0, 0, 0, 0]]


def test_packed_floats_are_exact() -> None:
    # Eleven bits: five of exponent (bias 15), six of fraction; ten bits: five and five.
    one, half, two_and_a_half = 15 << 6, 14 << 6, 16 << 5 | 8
    got, form = shown(td.FORMATS[122], np.array([one | half << 11 | two_and_a_half << 22, 0], "<u4"))
    assert form == Format.RGBA16F
    assert got[0].tolist() == [[1.0, 0.5, 2.5, 1.0], [0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize("origin", [Origin.TOP_LEFT, Origin.BOTTOM_LEFT])
@pytest.mark.parametrize("form", sorted(td.SENT_AS))
def test_a_rings_plane_is_written_bottom_row_first(form: Format, origin: Origin) -> None:
    channels = {Format.R8: 1, Format.RGB8: 3}.get(form, 4)
    dtype = {Format.RGBA16F: np.float16, Format.RGBA32F: np.float32}.get(form, np.uint8)
    plane = np.arange(3 * 2 * channels).reshape(3, 2, channels).astype(dtype)
    number = td.SENT_AS[form]
    head = td.parse_header(td.pack_header(2, 2, 3, number), 1 << 20)
    target = np.zeros(head.data_bytes, np.uint8)
    td.fill(target, plane[..., 0] if form == Format.R8 else plane, origin)
    back = td.picture(head, target)
    rows = back.pixels if origin is Origin.BOTTOM_LEFT else back.pixels[::-1]
    assert np.array_equal(rows[..., :channels], plane)
    if form == Format.RGB8:
        assert (rows[..., 3] == 255).all()

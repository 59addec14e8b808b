"""The bytes of TouchDesigner's Shared Mem In and Out TOPs: names, the info block, picture headers, pixel formats.

Written from documented facts of the format (Shared Mem Type "Local", the layouts of Windows builds), none of its code.
Everything read is checked here. Knows nothing of where the bytes lie. Standard library and numpy only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bridge.interop.adaptor import Array, TakenPicture, copy_rgb
from bridge.ring.colour import CHANNELS, in_order, srgb8, srgb_of_linear
from bridge.ring.layout import ColourSpace, Format, Origin

PREFIX = "TouchSHM"
INFO_DECORATION = "4jhd783h"
LOCK_SUFFIX = "Mutex"
POSTFIX_CHARS = 31


class FormatError(ValueError):
    """The bytes are no picture or no info block; the message says how to fix it."""


def data_name(name: str, postfix: str = "") -> str:
    """Where the pictures of a TOP with that name are. The lock keeps the name without postfix."""
    return f"{PREFIX}{name}{postfix}"


def info_names(name: str) -> tuple[str, str]:
    """Where the info block may be. Builds and other programs disagree on whether the prefix is there twice."""
    single = f"{PREFIX}{name}{INFO_DECORATION}"
    return PREFIX + single, single


def lock_name(memory: str) -> str:
    """The mutex that belongs to a piece of memory (a data segment's without postfix)."""
    return memory + LOCK_SUFFIX


# ---- the info block ------------------------------------------------------------------------------------------------

INFO_MAGIC = 0x56ED34BA
INFO_VERSION = 2
INFO_SIZE = 76
INFO_SUPPORTED = 8
"""Offset of the byte that a receiver sets: it follows a changed postfix."""
INFO_POSTFIX = 10
INFO_DETACH = 74
_INFO = struct.Struct("<II?x64s?x")
assert _INFO.size == INFO_SIZE
_NARROW_INFO = struct.Struct("<II?32s?2x")
"""The block of TouchDesigner 088: its postfix is of one-byte characters."""
assert _NARROW_INFO.size == 44


@dataclass(frozen=True)
class Info:
    """What the owner says besides pictures."""

    supported: bool
    postfix: str
    detach: bool


def pack_info(info: Info) -> bytes:
    """The block's bytes."""
    return _INFO.pack(INFO_MAGIC, INFO_VERSION, info.supported, pack_postfix(info.postfix), info.detach)


def pack_postfix(postfix: str) -> bytes:
    """32 two-byte characters, the last of them zero."""
    return postfix.encode("utf-16-le").ljust(64, b"\0")


def parse_info(data: bytes) -> Info:
    """Raises FormatError. data: the memory's first `INFO_SIZE` bytes, or all where it is shorter."""
    if len(data) < _NARROW_INFO.size:
        raise FormatError(f"an info block of {len(data)} bytes where {INFO_SIZE} are wanted")
    magic, version = struct.unpack_from("<II", data)
    if magic != INFO_MAGIC or version < 1:
        raise FormatError(f"an info block with magic {magic:#x}, version {version}; it is not TouchDesigner's")
    # Memory is rounded up to pages on Windows, so the size does not tell the two apart; with a postfix its first byte
    # does (padding in the wide block), and without one both read alike but for the byte of `detach`.
    narrow = len(data) < INFO_SIZE or data[9] != 0 or (data[41] == 1 and not any(data[10:41]))
    _, _, supported, raw, detach = (_NARROW_INFO if narrow else _INFO).unpack_from(data)
    postfix = raw.decode("latin-1" if narrow else "utf-16-le", "replace").partition("\0")[0]
    if len(postfix) > POSTFIX_CHARS or (postfix and not (postfix.isascii() and postfix.isalnum())):
        raise FormatError("an info block whose postfix is no name; it is damaged")
    # Version 1 has no `detach`; what lies there means nothing.
    return Info(bool(supported), postfix, bool(detach) and version > 1)


# ---- picture headers -----------------------------------------------------------------------------------------------

MAGIC = 0xD95EF835
LEGACY_MAGIC = 0xE95DF673
HEADER_BYTES = 56
"""As many bytes from the start hold any of the headers."""
MAX_SIDE_PX = 16384
"""The largest texture of today's graphics cards; TouchDesigner can make none larger."""
REC709, TRANSFER_LINEAR, TRANSFER_SRGB = 2, 0, 1
_V1 = struct.Struct("<Iiiiff I4xqi4x")
_V2 = struct.Struct("<IIiiffI4xqiII4x")
_LEGACY = struct.Struct("<IIiiffIIIi")
assert (_V1.size, _V2.size, _LEGACY.size) == (48, 56, 40)
HEADER_SIZES = {1: _V1.size, 2: _V2.size}


@dataclass(frozen=True)
class Pixels:
    """How a pixel is stored: channels in order ("rgba", "bgra", "rg", "r", "ra", "a") of a component ("u8", "u16",
    "f16", "f32"), or one 32-bit word ("a2b10g10r10", "b10g11r11f" as component). encoded: the format says sRGB."""

    channels: str
    component: str
    encoded: bool = False

    @property
    def bytes_per_pixel(self) -> int:
        return len(self.channels) * _WIDTHS[self.component] if self.component in _WIDTHS else 4


_WIDTHS = {"u8": 1, "u16": 2, "f16": 2, "f32": 4}
_DTYPES: dict[str, Any] = {"u8": np.uint8, "u16": "<u2", "f16": "<f2", "f32": "<f4"}

FORMATS = {
    9: Pixels("r", "u8"),
    16: Pixels("rg", "u8"),
    37: Pixels("rgba", "u8"),
    43: Pixels("rgba", "u8", True),
    44: Pixels("bgra", "u8"),
    50: Pixels("bgra", "u8", True),
    64: Pixels("rgba", "a2b10g10r10"),
    122: Pixels("rgb", "b10g11r11f"),
    70: Pixels("r", "u16"),
    77: Pixels("rg", "u16"),
    91: Pixels("rgba", "u16"),
    76: Pixels("r", "f16"),
    83: Pixels("rg", "f16"),
    97: Pixels("rgba", "f16"),
    100: Pixels("r", "f32"),
    103: Pixels("rg", "f32"),
    109: Pixels("rgba", "f32"),
    0xF0001: Pixels("a", "u8"),
    0xF0002: Pixels("a", "u16"),
    0xF0003: Pixels("a", "f16"),
    0xF0004: Pixels("a", "f32"),
    0xF0005: Pixels("ra", "u8"),
    0xF0006: Pixels("ra", "u16"),
    0xF0007: Pixels("ra", "f16"),
    0xF0008: Pixels("ra", "f32"),
}
"""By TouchDesigner's numbers, which are Vulkan's where Vulkan has the format."""

# OpenGL's numbers, for the header of builds before 2022.
_GL_CHANNELS = {0x1903: "r", 0x8227: "rg", 0x1908: "rgba", 0x80E1: "bgra", 0x1906: "a", 0x1909: "r", 0x190A: "ra"}
_GL_COMPONENTS = {0x1401: "u8", 0x1403: "u16", 0x140B: "f16", 0x1406: "f32"}


@dataclass(frozen=True)
class TdHeader:
    """A checked header: width and height in pixels, bytes from the start of the memory to the first pixel."""

    version: int
    width: int
    height: int
    pixels: Pixels
    offset: int
    gamut: int = REC709

    @property
    def data_bytes(self) -> int:
        return self.width * self.height * self.pixels.bytes_per_pixel


def parse_header(data: bytes, memory_bytes: int) -> TdHeader:
    """data: at least the first `HEADER_BYTES` of the memory (fewer only when it is shorter), a private copy.

    Raises FormatError for anything that is no picture inside `memory_bytes` bytes.
    """
    data = data.ljust(HEADER_BYTES, b"\0")
    magic, version = struct.unpack_from("<II", data)
    gamut, pixels = REC709, None
    if magic == MAGIC and version >= 1:
        _, _, width, height, _, _, number, stated, offset, *colour = (_V1 if version == 1 else _V2).unpack_from(data)
        pixels = FORMATS.get(number)
        least = HEADER_SIZES[min(version, 2)]
        if colour:
            # The transfer function beside it says nothing: senders tag display-referred pixels as linear.
            gamut = colour[0]
        unknown = f"pixel format {number}"
    elif magic == LEGACY_MAGIC:
        _, _, width, height, _, _, layout, component, _, offset = _LEGACY.unpack_from(data)
        if layout in _GL_CHANNELS and component in _GL_COMPONENTS:
            pixels = Pixels(_GL_CHANNELS[layout], _GL_COMPONENTS[component])
        least, stated = _LEGACY.size, None
        unknown = f"OpenGL pixels {layout:#x} of {component:#x}"
    else:
        raise FormatError(f"memory with magic {magic:#x}, version {version}: not a picture of a Shared Mem Out TOP")
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        raise FormatError(f"a picture of {width} x {height}; send 1 to {MAX_SIDE_PX} pixels each way")
    if pixels is None:
        raise FormatError(f"{unknown} is not known; set the TOP's pixel format to 8-bit fixed (RGBA)")
    header = TdHeader(int(version), width, height, pixels, offset, gamut)
    if stated is not None and stated < header.data_bytes:
        raise FormatError(f"{width} x {height} pixels in {stated} bytes; they need {header.data_bytes}")
    if offset < least or offset + header.data_bytes > memory_bytes:
        raise FormatError(
            f"{width} x {height} pixels from byte {offset} in {memory_bytes} bytes of memory; "
            "its sender is resizing or broken"
        )
    return header


def pack_header(version: int, width: int, height: int, number: int) -> bytes:
    """The header (version 1 or 2) of sRGB pixels that follow it at once, in TouchDesigner's format `number`."""
    size = width * height * FORMATS[number].bytes_per_pixel
    offset = HEADER_SIZES[version]
    first = (MAGIC, version, width, height, float(width), float(height), number, size, offset)
    return _V1.pack(*first) if version == 1 else _V2.pack(*first, REC709, TRANSFER_SRGB)


# ---- pixels --------------------------------------------------------------------------------------------------------

_DIRECT = {
    ("r", "u8"): Format.R8,
    ("rgba", "u8"): Format.RGBA8,
    ("bgra", "u8"): Format.BGRA8,
    ("rgba", "f16"): Format.RGBA16F,
    ("rgba", "f32"): Format.RGBA32F,
}


@cache
def _srgb8_of_linear16() -> Array:
    return np.rint(srgb_of_linear(np.arange(65536) / 65535.0) * 255.0).astype(np.uint8)


def picture(header: TdHeader, data: Array, *, linear: bool = False) -> TakenPicture:
    """The picture in `data`, the header's uint8 bytes of pixels. Copies only what a ring has no format for.

    Sixteen-bit whole numbers keep their upper eight bits. Red alone and alpha alone become grey. linear: the user says
    that pixels of 16 and more bits a channel are linear light: whole numbers are converted to sRGB, floats keep it, as
    rings can say so. Pixels of 8 and 10 bits are display-referred whatever anybody says.
    """
    h, w, p = header.height, header.width, header.pixels
    if p.component == "a2b10g10r10":
        word = data.view("<u4").reshape(h, w)
        pixels = np.empty((h, w, 4), np.uint8)
        for channel in range(3):
            pixels[..., channel] = (word >> (10 * channel + 2)) & 0xFF
        pixels[..., 3] = (word >> 30) * 85
        form = Format.RGBA8
    elif p.component == "b10g11r11f":
        # A half float with its lowest bits cut off and no sign: shifting them back in is the whole conversion.
        word = data.view("<u4").reshape(h, w)
        halves = np.empty((h, w, 4), np.uint16)
        halves[..., 0] = (word & 0x7FF) << 4
        halves[..., 1] = (word >> 11 & 0x7FF) << 4
        halves[..., 2] = (word >> 22) << 5
        pixels = halves.view(np.float16)
        pixels[..., 3] = 1.0
        form = Format.RGBA16F
    else:
        pixels = data.view(_DTYPES[p.component]).reshape(h, w, len(p.channels))
        component = p.component
        if component == "u16":
            light = [at for at, channel in enumerate(p.channels) if channel != "a"] if linear else []
            whole, pixels = pixels, (pixels >> 8).astype(np.uint8)
            pixels[..., light] = _srgb8_of_linear16()[whole[..., light]]
            component = "u8"
        direct = _DIRECT.get((p.channels, component))
        if direct is None and component == "u8" and p.channels == "a":
            direct = Format.R8
        if direct is None:
            pixels = _as_rgba(pixels, p.channels)
            direct = _DIRECT["rgba", component]
        form = direct
    space = ColourSpace.LINEAR if linear and pixels.dtype != np.uint8 else ColourSpace.SRGB
    return TakenPicture(pixels, form, Origin.BOTTOM_LEFT, space)


def _as_rgba(pixels: Array, channels: str) -> Array:
    """Pixels with fewer channels as red, green, blue, alpha: a missing alpha is opaque, other missing ones are 0."""
    opaque = 255 if pixels.dtype == np.uint8 else 1.0
    out = np.zeros((*pixels.shape[:2], 4), pixels.dtype)
    if channels == "rg":
        out[..., :2] = pixels
    else:
        out[..., :3] = pixels[..., :1]
    out[..., 3] = pixels[..., channels.index("a")] if channels == "ra" else opaque
    return out


SENT_AS = {Format.RGBA8: 37, Format.BGRA8: 44, Format.RGB8: 37, Format.RGBA16F: 97, Format.RGBA32F: 109, Format.R8: 9}
"""TouchDesigner's number for formats of a ring's colour plane; it has none without alpha, so RGB8 grows one."""


def sendable(pixels: Array, form: Format, space: ColourSpace) -> tuple[Array, int]:
    """A ring's colour plane as `fill` takes it, and TouchDesigner's number of that format. What it has no format for
    becomes 8-bit red, green, blue, alpha."""
    if form in SENT_AS:
        return pixels, SENT_AS[form]
    rows = pixels[..., None] if pixels.ndim == 2 else pixels
    return in_order(srgb8(rows, form, space), CHANNELS[form]), SENT_AS[Format.RGBA8]


def fill(target: Array, pixels: Array, origin: Origin) -> None:
    """Write a ring's colour plane into `target`, the uint8 bytes for its pixels, bottom row first."""
    if origin is Origin.TOP_LEFT:
        pixels = pixels[::-1]
    rows = pixels[..., None] if pixels.ndim == 2 else pixels
    if rows.shape[2] == 3:
        out = target.reshape(*rows.shape[:2], 4)
        copy_rgb(out, rows)
        out[..., 3] = 255
    else:
        target.view(rows.dtype).reshape(rows.shape)[...] = rows

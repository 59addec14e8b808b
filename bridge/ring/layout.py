"""The bytes of a ring, version 1: the only definition.

Declarative tables (name, offset, type) of the rendezvous record, the segment header, a reader entry, a slot header and
a plane entry, with their enumerations and limits. Code for other languages is generated from these tables and
PROTOCOL.md is tested against them. This module knows nothing about files, locks, clocks or processes.
All integers are little-endian; 64-bit fields lie on multiples of 8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

VERSION_MAJOR = 1
VERSION_MINOR = 1
VERSION = VERSION_MAJOR << 16 | VERSION_MINOR

MAGIC = b"FLRING\r\n"
"""First eight bytes of a segment. The line end shows a file that went through a text conversion."""
RECORD_MAGIC = b"FLPOINT\n"
"""First eight bytes of a rendezvous record."""

PAGE = 4096
PLANE_ALIGNMENT = 64
MIN_SLOTS = 4
MAX_SLOTS = 64
MAX_PLANES = 8
READER_ENTRIES = 16
LOSSLESS_ENTRY = 0
"""Entry 0 of the reader table belongs to the one lossless reader; it never pins."""
WRITER_LOCK_OFFSET = 0
"""The byte of the segment file that its writer holds while it lives, where locks are bytes of that file."""
MAX_SIDE = 1 << 24
MAX_CHANNEL_BYTES = 48
MAX_SEGMENT_BYTES = 1 << 40


class Kind(IntEnum):
    """What a plane shows."""

    # Frames are dicts by kind; the hash of an enumeration is interpreted code, this one is not.
    __hash__ = int.__hash__

    COLOUR = 1
    DEPTH = 2
    """Metres along the optical axis."""
    MOTION = 3
    """Pixels from this frame back to the previous one, x to the right, y in the direction of increasing rows."""
    MASK = 4
    NORMAL = 5
    POINTS = 6
    """One point per pixel: x, y, z in metres and intensity."""


class Format(IntEnum):
    """How one pixel of a plane is stored, channels in the order of the name."""

    __hash__ = int.__hash__

    RGBA8 = 1
    BGRA8 = 2
    RGB8 = 3
    RGBA16F = 4
    RGBA32F = 5
    R16F = 6
    R32F = 7
    RG16F = 8
    R8 = 9
    XYZI32F = 10


class Origin(IntEnum):
    """Where row 0 of every plane of the slot is."""

    TOP_LEFT = 0
    BOTTOM_LEFT = 1


class ColourSpace(IntEnum):
    """Transfer curve of the colour plane; primaries are those of sRGB."""

    SRGB = 0
    LINEAR = 1


class Policy(IntEnum):
    """What the writer does when readers are slow."""

    NEWEST = 0
    LOSSLESS = 1


class SegmentState(IntEnum):
    """The `state` word of the header."""

    NEW = 0
    LIVE = 1
    SUPERSEDED = 2
    """A next generation exists: read the rendezvous record again."""
    CLOSED = 3


class ReaderKind(IntEnum):
    """The `kind` word of a reader entry."""

    FREE = 0
    NEWEST = 1
    LOSSLESS = 2


class SlotFlag(IntFlag):
    """Bits of the `flags` word of a slot. Bits 16 to 31 are the application's own."""

    NONE = 0
    POSE = 1
    INTRINSICS = 2


@dataclass(frozen=True)
class PixelFormat:
    """What one pixel of a `Format` is. order: its channels, a letter each. component: "u8", "f16" or "f32". kinds: the
    planes that may have it."""

    order: str
    component: str
    kinds: tuple[Kind, ...]
    channels: int = field(init=False)
    bytes_per_pixel: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", len(self.order))
        object.__setattr__(self, "bytes_per_pixel", len(self.order) * _COMPONENT_BYTES[self.component])


_COMPONENT_BYTES = {"u8": 1, "f16": 2, "f32": 4}

PIXEL_FORMATS: dict[Format, PixelFormat] = {
    Format.RGBA8: PixelFormat("rgba", "u8", (Kind.COLOUR, Kind.NORMAL)),
    Format.BGRA8: PixelFormat("bgra", "u8", (Kind.COLOUR,)),
    Format.RGB8: PixelFormat("rgb", "u8", (Kind.COLOUR, Kind.NORMAL)),
    Format.RGBA16F: PixelFormat("rgba", "f16", (Kind.COLOUR, Kind.NORMAL)),
    Format.RGBA32F: PixelFormat("rgba", "f32", (Kind.COLOUR, Kind.NORMAL)),
    Format.R32F: PixelFormat("r", "f32", (Kind.DEPTH,)),
    Format.R16F: PixelFormat("r", "f16", (Kind.DEPTH,)),
    Format.RG16F: PixelFormat("rg", "f16", (Kind.MOTION,)),
    Format.R8: PixelFormat("r", "u8", (Kind.COLOUR, Kind.MASK)),
    Format.XYZI32F: PixelFormat("xyzi", "f32", (Kind.POINTS,)),
}
"""Every format. Where pixels fit several of a kind equally well, the first of them is taken."""

ALLOWED_FORMATS: dict[Kind, tuple[Format, ...]] = {
    kind: tuple(f for f, pixel in PIXEL_FORMATS.items() if kind in pixel.kinds) for kind in Kind
}

_TYPE_SIZES = {"u32": 4, "u64": 8, "f32": 4, "char": 1}
_STRUCT_CODES = {"u32": "I", "u64": "Q", "f32": "f"}


@dataclass(frozen=True)
class Field:
    """One field: byte offset in its table, type ("u32", "u64", "f32", "char"), number of elements, meaning."""

    name: str
    offset: int
    type: str
    help: str
    count: int = 1

    @property
    def size(self) -> int:
        return _TYPE_SIZES[self.type] * self.count


class Table:
    """A fixed block of `size` bytes with named fields at fixed offsets; bytes between fields are zero."""

    def __init__(self, name: str, size: int, *fields: Field) -> None:
        self.name = name
        self.size = size
        self.fields = fields
        self._by_name = {f.name: f for f in fields}

    def __getitem__(self, name: str) -> Field:
        return self._by_name[name]

    def offset(self, name: str) -> int:
        """Byte offset of a field from the start of the table."""
        return self._by_name[name].offset

    def codec(self, first: str, last: str) -> struct.Struct:
        """A struct over the fields from `first` to `last`, gaps as padding; it starts at `first`'s offset."""
        at = start = self._by_name[first].offset
        code = "<"
        for f in self.fields[self.fields.index(self._by_name[first]) : self.fields.index(self._by_name[last]) + 1]:
            code += f"{f.offset - at}x" if f.offset > at else ""
            code += f"{f.count}s" if f.type == "char" else f"{f.count}{_STRUCT_CODES[f.type]}"
            at = f.offset + f.size
        packed = struct.Struct(code)
        assert packed.size == at - start
        return packed

    def pack(self, **values: int | float | bytes | tuple[float, ...]) -> bytes:
        """The table's bytes with the named fields set and everything else zero."""
        out = bytearray(self.size)
        for name, value in values.items():
            f = self._by_name[name]
            if isinstance(value, bytes):
                struct.pack_into(f"{f.count}s", out, f.offset, value)
            else:
                items = value if isinstance(value, tuple) else (value,)
                struct.pack_into(f"<{f.count}{_STRUCT_CODES[f.type]}", out, f.offset, *items)
        return bytes(out)

    def unpack(self, data: bytes | bytearray | memoryview) -> dict[str, int]:
        """The single-element integer fields of `data` (at least as long as the last of them ends) by name."""
        return {
            f.name: struct.unpack_from("<" + _STRUCT_CODES[f.type], data, f.offset)[0]
            for f in self.fields
            if f.count == 1 and f.type in ("u32", "u64")
        }


RECORD = Table(
    "record",
    64,
    Field("magic", 0, "char", "the bytes 46 4c 50 4f 49 4e 54 0a: FLPOINT and a line feed", 8),
    Field("version", 8, "u32", "major << 16 | minor of the segment that it points to"),
    Field("record_size", 12, "u32", "64; a later minor version may be longer"),
    Field("generation", 16, "u64", "random and not zero; names the segment"),
    Field("segment_size", 24, "u64", "bytes to map"),
    Field("writer_pid", 32, "u64", "process id of the writer, for messages only"),
    Field("created_ns", 40, "u64", "clock time at creation, for display"),
)

HEADER = Table(
    "header",
    PAGE,
    # Written once, before the version.
    Field("magic", 0, "char", "the bytes 46 4c 52 49 4e 47 0d 0a: FLRING, carriage return, line feed", 8),
    Field("version", 8, "u32", "major << 16 | minor; written last, 0 until then"),
    Field("header_size", 12, "u32", "bytes before slot 0: a multiple of 4096"),
    Field("segment_size", 16, "u64", "header_size + slot_count * slot_stride"),
    Field("generation", 24, "u64", "random and not zero; equal to the record's"),
    Field("slot_count", 32, "u32", "4 to 64"),
    Field("slot_header_size", 36, "u32", "bytes before the first plane of a slot: a multiple of 4096"),
    Field("slot_stride", 40, "u64", "bytes from slot to slot: a multiple of 4096"),
    Field("writer_pid", 48, "u64", "process id of the writer, for messages only"),
    Field("writer_start_ns", 56, "u64", "clock time at creation, for display"),
    Field("policy", 64, "u32", "Policy"),
    Field("reader_table_offset", 68, "u32", "first reader entry, from the start of the segment: a multiple of 64"),
    Field("reader_entries", 72, "u32", "16"),
    Field("reader_stride", 76, "u32", "64"),
    Field("waiting_offset", 80, "u32", "first element of `waiting`: a multiple of 64"),
    Field("gpu_table_offset", 84, "u32", "0: no GPU slots are announced (reserved for a later minor version)"),
    Field("first_sequence", 88, "u64", "sequence of the first frame of this generation"),
    Field("channel", 128, "char", "channel name, UTF-8, padded with zeros", 64),
    # Written by the writer, per frame.
    Field("newest", 256, "u64", "newest published sequence << 8 | its slot; 0: nothing published yet"),
    Field("state", 264, "u32", "SegmentState"),
    Field("writer_waiting", 268, "u32", "1 while a lossless writer sleeps on `progress` of entry 0"),
    Field("heartbeat_ns", 272, "u64", "clock time of the newest sign of life, for display only"),
    # The futex word has a line of its own: sleeping readers make the kernel read it.
    Field("wake", 384, "u32", "changes with every publication and every change of `state`"),
    # Written by readers, each its own element.
    Field("waiting", 448, "u32", "element i is 1 while the owner of entry i sleeps on `wake`", READER_ENTRIES),
)

READER = Table(
    "reader entry",
    64,
    Field("kind", 0, "u32", "ReaderKind"),
    Field("pin", 4, "u32", "slot index + 1 that the writer must not touch; 0: none"),
    Field("taken", 8, "u64", "lossless: newest sequence that the reader has finished with"),
    Field("progress", 16, "u32", "lossless: changes whenever `taken` does; the writer may sleep on it"),
    Field("pid", 24, "u64", "process id of the newest owner; lossless: 0 as long as no reader ever came"),
)

SLOT = Table(
    "slot header",
    PAGE,
    Field("sequence", 0, "u64", "2 s: frame s is whole; 2 s - 1: frame s is being written; 0: empty"),
    Field("frame_id", 8, "u64", "the writer's own number of this frame"),
    Field("source_frame_id", 16, "u64", "the client's number of the picture; a result repeats its input's; 0: none"),
    Field("capture_ns", 24, "u64", "clock time of the capture of the source"),
    Field("publish_ns", 32, "u64", "clock time of publication"),
    Field("param_revision", 40, "u64", "revision of the parameters that made this frame"),
    Field("flags", 48, "u32", "bits of SlotFlag; bits 16 to 31 are the application's own, the others 0"),
    Field("origin", 52, "u32", "Origin"),
    Field("colour_space", 56, "u32", "ColourSpace"),
    Field("plane_count", 60, "u32", "1 to 8"),
    Field("data_size", 64, "u64", "bytes from the start of the first plane to the end of the last"),
    Field("T_world_camera", 128, "f32", "camera to world, row-major 4x4, metres; with flag POSE", 16),
    Field("intrinsics", 192, "f32", "fx, fy, cx, cy in pixels; with flag INTRINSICS", 4),
)

PLANE_TABLE_OFFSET = 256
"""Plane entries follow one another from here, from the start of the slot."""

PLANE = Table(
    "plane entry",
    48,
    Field("kind", 0, "u32", "Kind; each at most once in a slot"),
    Field("format", 4, "u32", "Format"),
    Field("width", 8, "u32", "pixels per row, 1 to 2^24"),
    Field("height", 12, "u32", "rows, 1 to 2^24"),
    Field(
        "row_stride",
        16,
        "u64",
        "bytes from row to row; at least width * bytes per pixel, a multiple of 4 or equal to it",
    ),
    Field("offset", 24, "u64", "first byte from the start of the slot: a multiple of 64, at least slot_header_size"),
    Field("size", 32, "u64", "row_stride * height"),
)

TABLES = (RECORD, HEADER, READER, SLOT, PLANE)

READER_TABLE_OFFSET = 2048


def align(value: int, to: int) -> int:
    """The smallest multiple of `to` that is not below `value`."""
    return (value + to - 1) // to * to


def segment_bytes(capacity_bytes: int, slots: int) -> tuple[int, int]:
    """Slot stride and segment size in bytes of a ring whose slots hold `capacity_bytes` of planes each."""
    stride = SLOT.size + align(capacity_bytes, PAGE)
    return stride, HEADER.size + slots * stride

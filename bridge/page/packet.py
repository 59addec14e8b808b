"""The header before every frame on the gateway's WebSocket: the only definition.

The JavaScript of clients/web/app.js and the table of clients/web/README.md are generated from here
(`frameloom generate`) and compared in a test. Little-endian; 64-bit fields lie on multiples of
8. Knows nothing of sockets or pictures. Standard library only.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from bridge.ring.layout import Field, Table

MAGIC = b"FLWS"
VERSION = 1


class Encoding(IntEnum):
    """How the payload stores the pixels: row 0 at the top, sRGB."""

    JPEG = 1
    RGBA8 = 2
    RGB8 = 3


class PacketFlag(IntFlag):
    """Bits of the `flags` word."""

    NONE = 0
    CONVERTED = 1
    """The ring held something else than 8-bit sRGB; values were clipped to 0..1 and rounded."""


PACKET = Table(
    "packet header",
    88,
    Field("magic", 0, "char", 'ASCII "FLWS"', 4),
    Field("version", 4, "u32", "1; a reader refuses others"),
    Field("header_size", 8, "u32", "bytes before the payload: 88; a later version may be longer"),
    Field("payload_size", 12, "u32", "bytes of the payload, up to the end of the message"),
    Field("sequence", 16, "u64", "sequence of the frame in its ring"),
    Field("source_frame_id", 24, "u64", "the client's number of the picture; a result repeats its input's; 0: none"),
    Field("capture_ns", 32, "u64", "clock time of the capture of the source; 0: unknown"),
    Field("publish_ns", 40, "u64", "clock time of publication in the ring"),
    Field("sent_ns", 48, "u64", "clock time when the gateway had this packet ready"),
    Field("param_revision", 56, "u64", "revision of the parameters that made this frame"),
    Field("generation", 64, "u64", "generation of the ring; sequences of two generations do not compare"),
    Field("width", 72, "u32", "pixels"),
    Field("height", 76, "u32", "pixels"),
    Field("codec", 80, "u32", "Encoding"),
    Field("flags", 84, "u32", "PacketFlag"),
)

_CODEC = PACKET.codec("magic", "flags")


class PacketHeader(NamedTuple):
    """One packet header; times are nanoseconds of the host's monotonic clock."""

    payload_size: int
    sequence: int
    source_frame_id: int
    capture_ns: int
    publish_ns: int
    sent_ns: int
    param_revision: int
    generation: int
    width: int
    height: int
    codec: Encoding
    flags: PacketFlag

    def pack(self) -> bytes:
        """The header's 88 bytes."""
        return _CODEC.pack(MAGIC, VERSION, PACKET.size, *self)


class PacketError(ValueError):
    """A message is not a frame packet of this version."""


def unpack(message: bytes) -> tuple[PacketHeader, memoryview]:
    """PacketHeader and payload of one binary message. Raises `PacketError` when they do not fit each other."""
    if len(message) < PACKET.size:
        raise PacketError(f"a packet of {len(message)} bytes is shorter than its header of {PACKET.size}")
    magic, version, header_size, *rest = _CODEC.unpack_from(message)
    if magic != MAGIC or version != VERSION:
        raise PacketError(f"magic {magic!r} version {version}; this reader takes {MAGIC!r} version {VERSION}")
    payload_size, *middle, codec, flags = rest
    if header_size < PACKET.size or header_size + payload_size != len(message):
        raise PacketError(f"header of {header_size} and payload of {payload_size} bytes in a message of {len(message)}")
    if codec not in list(Encoding):
        raise PacketError(f"codec {codec} is unknown; use one of {', '.join(c.name for c in Encoding)}")
    header = PacketHeader._make((payload_size, *middle, Encoding(codec), PacketFlag(flags)))
    return header, memoryview(message)[header_size:]


def javascript() -> str:
    """The definition as JavaScript, for clients/web/ring_layout.js (see bridge/commands/generate/)."""
    lines = [
        "const PACKET = Object.freeze({",
        f'  magic: "{MAGIC.decode()}",',
        f"  version: {VERSION},",
        f"  headerSize: {PACKET.size},",
        "  offset: Object.freeze({",
        *(f"    {f.name}: {f.offset}, // {f.type}" for f in PACKET.fields),
        "  }),",
        *(
            f"  {name}: Object.freeze({{ " + ", ".join(f"{m.name}: {int(m)}" for m in members) + " }),"
            for name, members in (("codec", Encoding), ("flag", [f for f in PacketFlag if f]))
        ),
        "});",
    ]
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The definition as a table, for clients/web/README.md."""
    lines = ["| offset | type | field | meaning |", "| ---: | --- | --- | --- |"]
    for f in PACKET.fields:
        kind = f"{f.type}[{f.count}]" if f.count > 1 else f.type
        lines.append(f"| {f.offset} | {kind} | `{f.name}` | {f.help} |")
    lines.append("")
    lines.append("Codecs: " + ", ".join(f"{int(c)} {c.name}" for c in Encoding) + ".")
    lines.append("Flags: " + ", ".join(f"{int(f)} {f.name}" for f in PacketFlag if f) + ".")
    return "\n".join(lines) + "\n"

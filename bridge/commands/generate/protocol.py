"""The generated blocks of bridge/PROTOCOL.md, from bridge/ring/layout.py: byte tables, enumerations, test vectors."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from bridge.ring import layout
from bridge.ring.layout import HEADER, PLANE, PLANE_TABLE_OFFSET, RECORD, SLOT, Format, Kind, Table
from bridge.ring.slot import PlaneSpec, lay_out

GENERATION = 0x0123456789ABCDEF
CHANNEL = "demo.in"
CAPACITY = 64


def byte_table(table: Table) -> str:
    lines = ["| offset | size | type | name | meaning |", "| ---: | ---: | --- | --- | --- |"]
    for f in table.fields:
        kind = f.type if f.count == 1 else f"{f.type}[{f.count}]"
        lines.append(f"| {f.offset} | {f.size} | {kind} | `{f.name}` | {f.help.replace('|', '&#124;')} |")
    lines.append(f"| {table.size} | | | | end; bytes between fields are zero |")
    return "\n".join(lines)


def enumerations() -> str:
    kinds: tuple[type[IntEnum] | type[IntFlag], ...] = (
        layout.SegmentState,
        layout.Policy,
        layout.ReaderKind,
        layout.Origin,
        layout.ColourSpace,
        layout.SlotFlag,
    )
    lines = []
    for kind in kinds:
        members = ", ".join(f"{int(m)} {m.name}" for m in kind.__members__.values())
        lines.append(f"* `{kind.__name__}`: {members}")
    return "\n".join(lines)


def formats() -> str:
    lines = [
        "| value | format | component | channels | bytes per pixel | kinds |",
        "| ---: | --- | --- | ---: | ---: | --- |",
    ]
    for f in Format:
        pixel = layout.PIXEL_FORMATS[f]
        kinds = ", ".join(f"{int(k)} {k.name}" for k in Kind if f in layout.ALLOWED_FORMATS[k])
        lines.append(
            f"| {int(f)} | {f.name} | {pixel.component} | {pixel.channels} | {pixel.bytes_per_pixel} | {kinds} |"
        )
    return "\n".join(lines)


def dump(data: bytes, base: int = 0) -> str:
    """A hex dump, rows of zeros left out."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        if any(row):
            lines.append(f"{base + at:08x}  {row.hex(' ')}")
    return "```\n" + "\n".join(lines) + "\n```"


def sizes() -> tuple[int, int]:
    return layout.segment_bytes(CAPACITY, layout.MIN_SLOTS)


def record_vector() -> bytes:
    return RECORD.pack(
        magic=layout.RECORD_MAGIC,
        version=layout.VERSION,
        record_size=RECORD.size,
        generation=GENERATION,
        segment_size=sizes()[1],
        writer_pid=4242,
        created_ns=1_000_000_000,
    )


def header_vector() -> bytes:
    """The header after frame 7 was published in slot 2."""
    stride, size = sizes()
    return HEADER.pack(
        magic=layout.MAGIC,
        version=layout.VERSION,
        header_size=HEADER.size,
        segment_size=size,
        generation=GENERATION,
        slot_count=layout.MIN_SLOTS,
        slot_header_size=SLOT.size,
        slot_stride=stride,
        writer_pid=4242,
        writer_start_ns=1_000_000_000,
        policy=layout.Policy.NEWEST,
        reader_table_offset=layout.READER_TABLE_OFFSET,
        reader_entries=layout.READER_ENTRIES,
        reader_stride=layout.READER.size,
        waiting_offset=HEADER.offset("waiting"),
        first_sequence=1,
        channel=CHANNEL.encode(),
        newest=7 << 8 | 2,
        state=layout.SegmentState.LIVE,
        heartbeat_ns=1_500_000_000,
        wake=7,
    )


def slot_vector() -> bytes:
    """Slot 2 with frame 7: a 2 x 2 RGBA8 colour plane of bytes 0 to 15, then a 2 x 2 R32F depth plane of 1.0."""
    plan = lay_out([PlaneSpec(Kind.COLOUR, Format.RGBA8, 2, 2), PlaneSpec(Kind.DEPTH, Format.R32F, 2, 2)])
    head = SLOT.pack(
        sequence=14,
        frame_id=7,
        source_frame_id=3,
        capture_ns=1_400_000_000,
        publish_ns=1_500_000_000,
        param_revision=5,
        flags=layout.SlotFlag.INTRINSICS,
        origin=layout.Origin.TOP_LEFT,
        colour_space=layout.ColourSpace.SRGB,
        plane_count=2,
        data_size=plan.data_size,
        intrinsics=(1.0, 1.0, 0.5, 0.5),
    )
    out = bytearray(sizes()[0])
    out[: SLOT.size] = head
    out[PLANE_TABLE_OFFSET : PLANE_TABLE_OFFSET + 2 * PLANE.size] = plan.table
    out[SLOT.size : SLOT.size + 16] = bytes(range(16))
    out[SLOT.size + 64 : SLOT.size + 80] = b"\x00\x00\x80\x3f" * 4
    return bytes(out)


def blocks() -> dict[str, str]:
    stride = sizes()[0]
    return {
        "record": byte_table(RECORD),
        "header": byte_table(HEADER),
        "reader": byte_table(layout.READER),
        "slot": byte_table(SLOT),
        "plane": byte_table(PLANE),
        "enumerations": enumerations(),
        "formats": formats(),
        "record vector": dump(record_vector()),
        "header vector": dump(header_vector()),
        "slot vector": dump(slot_vector(), HEADER.size + 2 * stride),
    }

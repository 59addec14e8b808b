"""The segment header as writer and reader use it: word numbers, a checked geometry, the clock, a frame.

A reader decides everything from a `Geometry` that was checked on private bytes; it never reads those fields again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from bridge.ring.errors import MalformedHeader, NotARing, TruncatedSegment, VersionMismatch
from bridge.ring.layout import (
    HEADER,
    MAGIC,
    MAX_SEGMENT_BYTES,
    MAX_SLOTS,
    MIN_SLOTS,
    PAGE,
    READER,
    READER_ENTRIES,
    SLOT,
    ColourSpace,
    Format,
    Kind,
    Origin,
    SegmentState,
)
from bridge.ring.segment import Placement, Pointer, check_version

VERSION_32 = HEADER.offset("version") // 4
NEWEST_64 = HEADER.offset("newest") // 8
STATE_32 = HEADER.offset("state") // 4
WRITER_WAITING_32 = HEADER.offset("writer_waiting") // 4
HEARTBEAT_64 = HEADER.offset("heartbeat_ns") // 8
WAKE_32 = HEADER.offset("wake") // 4
_FIXED_END = HEADER.offset("waiting")
"""End of the words that always lie in the same place; the rest of the header is where its offsets say."""

KIND_32 = READER.offset("kind") // 4
PIN_32 = READER.offset("pin") // 4
TAKEN_64 = READER.offset("taken") // 8
PROGRESS_32 = READER.offset("progress") // 4
PID_64 = READER.offset("pid") // 8


class State(Enum):
    """What a reader knows of the writer."""

    NO_WRITER = "no writer"
    LIVE = "live"
    WRITER_GONE = "writer gone"


@dataclass(slots=True)
class Frame:
    """One frame as a reader gets it. Times in nanoseconds of the ring's clock; sizes in pixels.

    `planes` maps each kind to an array of shape (height, width, channels), or (height, width) for one channel. Width
    and height are those of the colour plane, or of the first plane where there is none. `T_world_camera` (4x4, camera
    to world, metres) and `intrinsics` (fx, fy, cx, cy in pixels) are None when the writer gave none. `formats` says how
    each plane is stored (RGBA8 and BGRA8 look alike as arrays). `valid` turns False when a zero-copy view was
    overwritten while it was held.
    """

    planes: dict[Kind, np.ndarray[Any, np.dtype[Any]]]
    sequence: int
    frame_id: int
    source_frame_id: int
    capture_ns: int
    publish_ns: int
    param_revision: int
    flags: int
    origin: Origin
    colour_space: ColourSpace
    width: int
    height: int
    generation: int
    T_world_camera: np.ndarray[Any, np.dtype[np.float32]] | None = None
    intrinsics: tuple[float, ...] | None = None
    formats: dict[Kind, Format] = field(default_factory=dict)
    valid: bool = field(default=True, compare=False)


class Geometry(NamedTuple):
    """The checked, immutable part of a segment header, in bytes and counts."""

    generation: int
    header_size: int
    segment_size: int
    slot_count: int
    slot_header_size: int
    slot_stride: int
    policy: int
    reader_table_offset: int
    reader_entries: int
    waiting_offset: int
    first_sequence: int

    @property
    def pin_entries(self) -> range:
        """Reader entries whose owners may pin: always two slots fewer than there are, so the writer is never stuck."""
        return range(1, min(self.slot_count - 1, self.reader_entries))

    def entry_32(self, index: int) -> int:
        """First 32-bit word of a reader entry."""
        return (self.reader_table_offset + index * READER.size) // 4

    def slot_start(self, slot: int) -> int:
        return self.header_size + slot * self.slot_stride


def check_header(data: bytes, pointer: Pointer, true_size: int, placement: Placement) -> Geometry:
    """Check untrusted header bytes against the record and the segment's true size.

    Raises NotARing, VersionMismatch, TruncatedSegment or MalformedHeader; each says what to do.
    """
    what = placement.segment_name(pointer.generation)
    fix = "start the writer again"
    if data[: len(MAGIC)] != MAGIC:
        raise NotARing(f"{what} is not a ring; remove it and {fix}")
    if len(data) < HEADER.size:
        raise TruncatedSegment(f"{what} has {len(data)} of {HEADER.size} header bytes; {fix}")
    h = HEADER.unpack(data)
    if h["version"] == 0:
        raise VersionMismatch(f"{what} was never finished by its writer; {fix}")
    check_version(what, h["version"])
    geometry = Geometry(
        generation=h["generation"],
        header_size=h["header_size"],
        segment_size=h["segment_size"],
        slot_count=h["slot_count"],
        slot_header_size=h["slot_header_size"],
        slot_stride=h["slot_stride"],
        policy=h["policy"],
        reader_table_offset=h["reader_table_offset"],
        reader_entries=h["reader_entries"],
        waiting_offset=h["waiting_offset"],
        first_sequence=h["first_sequence"],
    )
    g = geometry
    table, table_end = g.reader_table_offset, g.reader_table_offset + READER_ENTRIES * READER.size
    waiting, waiting_end = g.waiting_offset, g.waiting_offset + HEADER["waiting"].size
    problems = (
        (g.generation != pointer.generation, f"generation {g.generation:016x} under another name"),
        (g.header_size < HEADER.size or g.header_size % PAGE, f"header size {g.header_size}"),
        (not MIN_SLOTS <= g.slot_count <= MAX_SLOTS, f"{g.slot_count} slots"),
        (g.slot_header_size < SLOT.size or g.slot_header_size % PAGE, f"slot header size {g.slot_header_size}"),
        (g.slot_stride <= g.slot_header_size or g.slot_stride % PAGE, f"slot stride {g.slot_stride}"),
        (g.segment_size > MAX_SEGMENT_BYTES, f"segment size {g.segment_size}"),
        (g.segment_size != g.header_size + g.slot_count * g.slot_stride, "sizes that do not add up"),
        (g.policy > 1, f"policy {g.policy}"),
        (g.reader_entries != READER_ENTRIES or h["reader_stride"] != READER.size, "an unknown reader table"),
        (table % READER.size or table < _FIXED_END or table_end > g.header_size, f"reader table at {table}"),
        (waiting % 64 or waiting < _FIXED_END or waiting_end > g.header_size, f"its waiting words at {waiting}"),
        (table < waiting_end and waiting < table_end, "a reader table over its waiting words"),
        (h["first_sequence"] == 0 or h["first_sequence"] >> 56, f"first sequence {h['first_sequence']}"),
    )
    for wrong, text in problems:
        if wrong:
            raise MalformedHeader(f"{what} has {text}; {fix}")
    if true_size < g.segment_size:
        raise TruncatedSegment(f"{what} has {true_size} bytes of memory, its header says {g.segment_size}; {fix}")
    return geometry


def is_closed(data: bytes) -> bool:
    """Whether the writer had left in order when these header bytes were copied: such a ring has no news."""
    at = STATE_32 * 4
    return int.from_bytes(data[at : at + 4], "little") == SegmentState.CLOSED

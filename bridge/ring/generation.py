"""One generation of a ring as its writer holds it: the segment, where its words are, and all that ends with it."""

from __future__ import annotations

import os

from bridge.ring import segment
from bridge.ring.clock import now_ns
from bridge.ring.header import PIN_32, WAKE_32, Geometry
from bridge.ring.layout import (
    HEADER,
    LOSSLESS_ENTRY,
    MAGIC,
    READER,
    READER_ENTRIES,
    READER_TABLE_OFFSET,
    SLOT,
    Kind,
    Policy,
    SegmentState,
    segment_bytes,
)
from bridge.ring.lock import Lock
from bridge.ring.slot import Array, SlotPlan
from bridge.ring.wake import Wake, wake_for


class Generation:
    """The segment that a writer writes to.

    lock: of this generation, held while it lives. slot: the one being written, newest_slot: the one published last.
    plans: how frames of a kind lie in a slot, with the views on each. tables: the plane table in each slot.
    oldest_first: for every newest slot, the others, least recently published first, as (slot, word of its sequence,
    pin value). events, progress: to wake readers one by one, and for a lossless writer to be woken; made when needed.
    """

    def __init__(self, mapping: segment.Mapping, geometry: Geometry, wake: Wake | None, lock: Lock | None) -> None:
        slots = geometry.slot_count
        self.mapping = mapping
        self.geometry = geometry
        self.wake = wake
        self.lock = lock
        self.u32 = mapping.u32
        self.u64 = mapping.u64
        self.slot_starts = [geometry.slot_start(k) for k in range(slots)]
        self.slot_words = [start // 8 for start in self.slot_starts]
        self.pin_words = [geometry.entry_32(i) + PIN_32 for i in geometry.pin_entries]
        others = [[(n + step) % slots for step in range(1, slots)] for n in range(slots)]
        self.oldest_first = [[(k, self.slot_words[k], k + 1) for k in order] for order in others]
        self.reader_32 = geometry.entry_32(LOSSLESS_ENTRY)
        self.newest_slot = slots - 1
        self.slot = 0
        self.tables = [b""] * slots
        self.plans: dict[object, tuple[SlotPlan, dict[int, dict[Kind, Array]]]] = {}
        self.events: dict[int, Wake] = {}
        self.progress: Wake | None = None

    @property
    def capacity_bytes(self) -> int:
        """Plane bytes that a slot holds."""
        return self.geometry.slot_stride - SLOT.size

    def forget(self) -> None:
        """Let go of the memory, also of an object that is kept; views that somebody holds stay mapped."""
        self.plans.clear()
        self.events.clear()
        self.wake = self.progress = None
        self.mapping = segment.nothing()
        self.u32, self.u64 = self.mapping.u32, self.mapping.u64


def none_yet(policy: Policy) -> Generation:
    """What a writer holds before its first generation: no slots, no memory."""
    return Generation(segment.nothing(), _geometry(0, 0, SLOT.size, HEADER.size, policy, 1), None, None)


def create(
    placement: segment.Placement, channel: str, capacity_bytes: int, slots: int, policy: Policy, first_sequence: int
) -> tuple[segment.Mapping, Geometry]:
    """A new segment that no record points to yet, its header whole but for the version. Raises NoSpace and the like."""
    stride, size = segment_bytes(capacity_bytes, slots)
    geometry = _geometry(segment.new_generation(), slots, stride, size, policy, first_sequence)
    mapping = segment.create(placement, geometry.generation, size)
    mapping.bytes[: HEADER.size] = HEADER.pack(
        magic=MAGIC,
        writer_pid=os.getpid(),
        writer_start_ns=now_ns(),
        reader_stride=READER.size,
        channel=channel.encode(),
        state=SegmentState.LIVE,
        heartbeat_ns=now_ns(),
        **geometry._asdict(),
    )
    return mapping, geometry


def _geometry(generation: int, slots: int, stride: int, size: int, policy: Policy, first_sequence: int) -> Geometry:
    return Geometry(
        generation=generation,
        header_size=HEADER.size,
        segment_size=size,
        slot_count=slots,
        slot_header_size=SLOT.size,
        slot_stride=stride,
        policy=policy,
        reader_table_offset=READER_TABLE_OFFSET,
        reader_entries=READER_ENTRIES,
        waiting_offset=HEADER.offset("waiting"),
        first_sequence=first_sequence,
    )


def wake_of(placement: segment.Placement, generation: int, mapping: segment.Mapping) -> Wake | None:
    """What wakes all readers at once, where one word does."""
    return wake_for(mapping, WAKE_32, None) if placement.event_name(generation, "") is None else None

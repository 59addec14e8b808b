"""One generation of a ring as a reader has it: the mapping, the reader's entries and their locks, how it sleeps.

The counterpart of `bridge.ring.generation`, which is the writer's.
"""

from __future__ import annotations

import os

from bridge.ring import segment
from bridge.ring.header import KIND_32, PID_64, PIN_32, WAKE_32, Geometry
from bridge.ring.layout import Kind, ReaderKind
from bridge.ring.lock import Lock, acquire_patiently
from bridge.ring.slot import Array, PlaneAt
from bridge.ring.wake import Naps, Wake, wake_for


class KnownSlot:
    """A description that was checked in one slot: its bytes, read-only views, size of the main plane in pixels."""

    __slots__ = ("end", "formats", "height", "meta", "table", "views", "width")

    def __init__(self, planes: tuple[PlaneAt, ...], meta: tuple[int, ...], table: bytes, end: int) -> None:
        self.meta = meta
        self.table = table
        self.end = end
        self.views: dict[Kind, Array] = {}
        self.formats = {plane.kind: plane.format for plane in planes}
        main = next((plane for plane in planes if plane.kind == Kind.COLOUR), planes[0])
        self.width, self.height = main.width, main.height


class Attachment:
    """One mapped generation and this reader's entries in it; what is known of a slot stays with it."""

    def __init__(
        self, placement: segment.Placement, mapping: segment.Mapping, geometry: Geometry, writer_lock: Lock
    ) -> None:
        self.writer_lock = writer_lock
        self.placement = placement
        self.mapping = mapping
        self.geometry = geometry
        self.u32 = mapping.u32
        self.u64 = mapping.u64
        self.memory = mapping.memory
        self.size = mapping.size
        self.slot_starts = [geometry.slot_start(k) for k in range(geometry.slot_count)]
        self.last = 0
        self.known: list[KnownSlot | None] = [None] * geometry.slot_count
        self._held: dict[int, Lock] = {}
        self._wait_index: int | None = None
        self._wake: Wake | None = None
        self._unwoken = 0
        self._wakes = False
        self._pin_word: int | None = None
        self._pin_sought = False

    def claim(self, index: int, kind: ReaderKind, *, patiently: bool = False) -> bool | None:
        """Own reader entry `index`: its lock is the ownership. False when another has it, None without its file."""
        g = self.geometry
        try:
            lock = self.placement.reader_lock(g.generation, index, g.entry_32(index) * 4)
        except FileNotFoundError:
            return None
        if not (acquire_patiently(lock) if patiently else lock.acquire()):
            return False
        self._held[index] = lock
        at = g.entry_32(index)
        self.u32[at + PIN_32] = 0
        self.u32[g.waiting_offset // 4 + index] = 0
        self.u64[at // 2 + PID_64] = os.getpid()
        self.u32[at + KIND_32] = kind
        return True

    def waiter(self) -> tuple[Wake, int | None]:
        """How to sleep on the wake word, and our word in `waiting` (None: no entry was free, so we nap)."""
        if self._wake is None:
            g = self.geometry
            for index in range(g.reader_entries - 1, 0, -1):
                if index in self._held or self.claim(index, ReaderKind.NEWEST):
                    event = self.placement.event_name(g.generation, f"r{index}")
                    self._wake = wake_for(self.mapping, WAKE_32, event)
                    self._wait_index = g.waiting_offset // 4 + index
                    break
            else:
                self._wake = Naps(self.mapping, WAKE_32)
        return self._wake, self._wait_index

    def slept(self, woken: bool | None, changed: bool) -> None:
        """Judge one sleep: by two in a row to whose end a frame came without a wake-up we nap from then on.

        The writer cannot wake us then; one alone may have ended just as the frame came. One that woke us once can.
        """
        self._wakes = self._wakes or woken is True
        self._unwoken = self._unwoken + 1 if woken is False and changed else 0
        if self._unwoken == 2 and not self._wakes:
            self._wake = Naps(self.mapping, WAKE_32)

    def pin_word(self) -> int | None:
        """Our pin word, or None when all entries that may pin are owned by others."""
        if not self._pin_sought:
            for index in self.geometry.pin_entries:
                if index in self._held or self.claim(index, ReaderKind.NEWEST):
                    self._pin_word = self.geometry.entry_32(index) + PIN_32
                    break
            self._pin_sought = True
        return self._pin_word

    def detach(self) -> None:
        """Give the entries back. The memory stays mapped while views of it live."""
        whole = self.mapping.whole()
        for index, lock in self._held.items():
            # A forked child holds none of its parent's locks.
            if whole and lock.held:
                at = self.geometry.entry_32(index)
                self.u32[at + PIN_32] = 0
                self.u32[self.geometry.waiting_offset // 4 + index] = 0
                self.u32[at + KIND_32] = ReaderKind.FREE
            lock.release()
        self._held.clear()
        self.mapping.close()

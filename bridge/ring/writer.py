"""The writing end of a ring: one live writer per channel, no lock and no allocation by the system in the frame path.

The publication order is PROTOCOL.md section "Publishing"; `SYNC POINT W1` to `W5` below are its names and each meets
the reader's point of the same number.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from bridge.ring import segment
from bridge.ring.clock import now_ns
from bridge.ring.errors import (
    FrameTooLarge,
    InvalidFrame,
    NoSpace,
    ReaderTimeout,
    RingClosed,
    RingError,
    TruncatedSegment,
    WriterExists,
)
from bridge.ring.generation import Generation, create, none_yet, wake_of
from bridge.ring.header import (
    HEARTBEAT_64,
    KIND_32,
    NEWEST_64,
    PID_64,
    PROGRESS_32,
    STATE_32,
    TAKEN_64,
    VERSION_32,
    WAKE_32,
    WRITER_WAITING_32,
    Geometry,
    check_header,
)
from bridge.ring.layout import (
    HEADER,
    LOSSLESS_ENTRY,
    MAX_SEGMENT_BYTES,
    MAX_SLOTS,
    MIN_SLOTS,
    PLANE_TABLE_OFFSET,
    READER,
    READER_ENTRIES,
    READER_TABLE_OFFSET,
    VERSION,
    ColourSpace,
    Format,
    Kind,
    Origin,
    Policy,
    ReaderKind,
    SegmentState,
    SlotFlag,
    segment_bytes,
)
from bridge.ring.lock import RETRY_S, Lock, acquire_patiently
from bridge.ring.slot import (
    INTRINSICS_AT,
    INTRINSICS_CODEC,
    POSE_AT,
    POSE_CODEC,
    SLOT_BODY,
    Array,
    PlaneSpec,
    SlotPlan,
    lay_out,
    specs_of,
    view,
)
from bridge.ring.wake import STRONG, fence, wake_for

DEFAULT_CAPACITY_BYTES = 512 * 512 * 4
"""The first larger frame makes a ring of its size; a container's shared memory may have room for few others."""
DEFAULT_MAX_CAPACITY_BYTES = 1 << 30
_NOBODY = bytes(4 * READER_ENTRIES)
_WAITING = HEADER.offset("waiting")
_WAITING_END = _WAITING + len(_NOBODY)
_POSE, _INTRINSICS = int(SlotFlag.POSE), int(SlotFlag.INTRINSICS)
_EVERYTHING = 1 << 63
_NAP_S = 0.05
_LOOK_NS = 500_000_000
"""How often a writer looks whether its files are still there."""


@dataclass(slots=True)
class SlotInHand:
    """A slot being written without a copy: fill `planes`, set the fields, leave the `with` block to publish.

    `planes` maps kinds to writable arrays of shape (height, width, channels) or (height, width) on the ring's own
    memory; do not touch them after the block. Times in nanoseconds of the ring's clock; a `capture_ns` of None means
    now, a `frame_id` of None the sequence.
    """

    planes: dict[Kind, Array]
    frame_id: int | None = None
    source_frame_id: int = 0
    capture_ns: int | None = None
    param_revision: int = 0
    flags: int = 0
    origin: Origin = Origin.TOP_LEFT
    colour_space: ColourSpace = ColourSpace.SRGB
    T_world_camera: Array | None = None
    intrinsics: Sequence[float] | None = None


class RingWriter:
    """The one writer of a channel.

    channel: its name, such as "stage.in". capacity_bytes: plane bytes that a slot holds at first; a larger frame makes
    the next generation, up to max_capacity_bytes (give the same number to forbid growth). slots: 4 to 64; slots - 2
    readers may hold zero-copy views at once. directory: an existing folder for a file-backed ring instead of the
    system's usual place. timeout_s: how long a lossless writer waits for its reader.

    Raises InvalidChannel, WriterExists while another live writer holds the channel, NoSpace, AccessDenied,
    OutOfResources. A stale ring of a dead writer is taken over. Files that somebody removes by hand are put back within
    a second. One object serves one thread at a time.
    """

    def __init__(
        self,
        channel: str,
        capacity_bytes: int = DEFAULT_CAPACITY_BYTES,
        slots: int = MIN_SLOTS,
        policy: Policy = Policy.NEWEST,
        *,
        directory: str | os.PathLike[str] | None = None,
        max_capacity_bytes: int = DEFAULT_MAX_CAPACITY_BYTES,
        timeout_s: float = 10.0,
    ) -> None:
        if not MIN_SLOTS <= slots <= MAX_SLOTS:
            raise ValueError(f"slots: got {slots}; give {MIN_SLOTS} to {MAX_SLOTS}")
        if (
            not 1 <= capacity_bytes
            or segment_bytes(max(capacity_bytes, max_capacity_bytes), slots)[1] > MAX_SEGMENT_BYTES
        ):
            raise ValueError(
                f"capacity_bytes: got {capacity_bytes}; give 1 up to {MAX_SEGMENT_BYTES // slots} in {slots} slots"
            )
        self.channel = channel
        self.slots = slots
        self.policy = Policy(policy)
        self._lossless = self.policy is Policy.LOSSLESS
        self.timeout_s = timeout_s
        self._max_capacity = max(capacity_bytes, max_capacity_bytes)
        self._placement = segment.place(channel, directory)
        self._release, self._acquire = fence()
        self._sequence = 0
        self._in_hand = False
        self._reader_locks: list[Lock] = []
        self._let_go = False
        self._record: segment.FileIdentity = None
        self._segment_lost = False
        self._look_at_ns = 0
        self._current = none_yet(self.policy)
        self._lock = self._placement.writer_lock()
        if not acquire_patiently(self._lock):
            raise WriterExists(self._who_writes())
        try:
            self._open_first(capacity_bytes)
        except BaseException:
            self._lock.remove()
            raise

    def _open_first(self, capacity_bytes: int) -> None:
        stale = self._map_stale()
        segment.remove_leftovers(self._placement)
        with contextlib.suppress(NoSpace):
            self._open_generation(capacity_bytes, stale)
            return
        if stale is not None:
            # Its memory is ours to give back: a killed writer must not need room for two rings to start again.
            self._retire(*stale, SegmentState.CLOSED)
            stale = None
        # Readers give the memory of a ring that is closed or dead back within moments.
        deadline = time.monotonic() + RETRY_S
        while True:
            try:
                self._open_generation(capacity_bytes, None)
                return
            except NoSpace:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _who_writes(self) -> str:
        pid: object = "unknown"
        with contextlib.suppress(RingError):
            pointer = segment.read_pointer(self._placement)
            pid = pointer.writer_pid if pointer else pid
        return f"channel {self.channel} already has a live writer (process {pid}); stop it or use another channel"

    def _map_stale(self) -> tuple[segment.Mapping, Geometry] | None:
        """The segment that a dead writer left, if it is a sound one: its readers must be told where to go."""
        try:
            pointer = segment.read_pointer(self._placement)
            # Readers of version 1.0 go by the lock of the channel, which is held again: they would take the last
            # picture of the dead writer for news.
            segment.remove_pointer(self._placement)
            found = segment.peek(self._placement, pointer, HEADER.size) if pointer else None
            if pointer is None or found is None:
                return None
            data, size, fd = found
            try:
                geometry = check_header(data, pointer, size, self._placement)
            except RingError:
                if fd >= 0:
                    os.close(fd)
                return None
            return segment.attach(self._placement, pointer, geometry.segment_size, fd), geometry
        except RingError:
            return None

    def _open_generation(self, capacity_bytes: int, previous: tuple[segment.Mapping, Geometry] | None) -> None:
        mapping, geometry = create(
            self._placement, self.channel, capacity_bytes, self.slots, self.policy, self._sequence + 1
        )
        generation = geometry.generation
        self._order()
        mapping.u32[VERSION_32] = VERSION
        # Everything that may fail comes before the record: from there on this is the ring.
        lock: Lock | None = None
        try:
            lock = self._placement.generation_lock(generation)
            if not acquire_patiently(lock):
                raise WriterExists(self._who_writes())
            # The newest of the lossless reader's locks tells whether it lives, the older whether it may still follow.
            reader_lock = self._placement.reader_lock(
                generation, LOSSLESS_ENTRY, READER_TABLE_OFFSET + LOSSLESS_ENTRY * READER.size
            )
            self._record = segment.swing_pointer(self._placement, generation, geometry.segment_size, now_ns())
        except BaseException:
            mapping.close()
            if lock is not None:
                lock.release()
            segment.remove_generation(self._placement, generation)
            raise
        followed = self._locks_to_follow() if self._lossless and self.generation else []
        wake = wake_of(self._placement, generation, mapping)
        left, self._current = self._current, Generation(mapping, geometry, wake, lock)
        # Views on the memory that is left would keep it mapped.
        left.plans.clear()
        if previous is not None:
            self._retire(*previous, SegmentState.SUPERSEDED)
        if left.lock is not None:
            left.lock.release()
        segment.remove_leftovers(self._placement, keep=generation)
        left.events.clear()
        if self._lossless:
            self._reader_locks = [*followed, reader_lock]

    def _retire(self, mapping: segment.Mapping, geometry: Geometry, state: SegmentState) -> None:
        """Tell the readers of a segment that nothing more will come in it."""
        if not mapping.whole():
            return
        mapping.u32[STATE_32] = state
        self._order()
        mapping.u32[WAKE_32] = (mapping.u32[WAKE_32] + 1) & 0xFFFFFFFF
        for index in range(geometry.reader_entries):
            event = self._placement.event_name(geometry.generation, f"r{index}")
            wake_for(mapping, WAKE_32, event).wake()
            if event is None:
                break
        mapping.close()

    def _order(self) -> None:
        self._release()
        self._acquire()

    @property
    def sequence(self) -> int:
        """Sequence of the newest published frame; 0 before the first."""
        return self._sequence

    @property
    def generation(self) -> int:
        """The number that names the current segment."""
        return self._current.geometry.generation

    @property
    def capacity_bytes(self) -> int:
        """Plane bytes that a slot holds without growing."""
        return self._current.capacity_bytes

    @property
    def segment_size(self) -> int:
        """Bytes of the current generation."""
        return self._current.geometry.segment_size

    @property
    def segment_path(self) -> str | None:
        """The file of the current generation; None on Windows, where it is a named section."""
        return None if self._placement.named_section else self._placement.segment_path(self.generation)

    def write(
        self,
        planes: Mapping[Kind, Array],
        *,
        frame_id: int | None = None,
        source_frame_id: int = 0,
        capture_ns: int | None = None,
        param_revision: int = 0,
        flags: int = 0,
        origin: Origin = Origin.TOP_LEFT,
        colour_space: ColourSpace = ColourSpace.SRGB,
        formats: Mapping[Kind, Format] | None = None,
        T_world_camera: Array | None = None,
        intrinsics: Sequence[float] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Publish one frame with one copy; returns its sequence.

        planes: arrays of shape (height, width, channels) or (height, width), any strides; the format follows from type
        and channels unless `formats` names it. capture_ns: ring clock, now when None. frame_id: the sequence when None.
        T_world_camera: 4x4. intrinsics: fx, fy, cx, cy. timeout_s: for a lossless writer, instead of the object's own.

        Raises InvalidFrame, FrameTooLarge, NoSpace, OutOfResources, ReaderTimeout (lossless), TruncatedSegment,
        RingClosed; RuntimeError inside a `slot` block.
        """
        key: object = None
        try:
            for kind, array in planes.items():
                key = (kind, array.shape, array.dtype, key)
        except AttributeError:
            raise InvalidFrame("planes: give a dict of numpy arrays by Kind") from None
        if formats:
            key = (key, *formats.items())
        planned = self._current.plans.get(key) or self._plan(key, planes, formats, timeout_s)
        plan, views = planned
        slot = self._begin(timeout_s)
        targets = views.get(slot)
        if targets is None:
            memory, start = self._current.mapping.memory, self._current.geometry.slot_start(slot)
            targets = views[slot] = {plane.kind: view(memory, start, plane) for plane in plan.planes}
        try:
            for kind, array in planes.items():
                target = targets[kind]
                target[...] = array if array.ndim == target.ndim else array[..., 0]
        except BaseException:
            self._abandon()
            raise
        hand = SlotInHand(
            targets,
            frame_id,
            source_frame_id,
            capture_ns,
            param_revision,
            flags,
            origin,
            colour_space,
            T_world_camera,
            intrinsics,
        )
        return self._commit(plan, hand)

    def _plan(
        self,
        key: object,
        planes: Mapping[Kind, Array],
        formats: Mapping[Kind, Format] | None,
        timeout_s: float | None,
    ) -> tuple[SlotPlan, dict[int, dict[Kind, Array]]]:
        if len(self._current.plans) >= 64:
            self._current.plans.clear()
        plan = lay_out(specs_of(planes, formats))
        # Growth drops every plan with its views, so it must happen before this one is kept.
        self._make_room(plan.data_size, timeout_s)
        planned: tuple[SlotPlan, dict[int, dict[Kind, Array]]] = (plan, {})
        self._current.plans[key] = planned
        return planned

    @contextlib.contextmanager
    def slot(self, specs: Sequence[PlaneSpec], *, timeout_s: float | None = None) -> Iterator[SlotInHand]:
        """Write without a copy: a context manager giving a `SlotInHand`; an exception inside abandons the slot.

        Raises what `write` raises.
        """
        plan = lay_out(specs)
        self._make_room(plan.data_size, timeout_s)
        slot = self._begin(timeout_s)
        memory, start = self._current.mapping.memory, self._current.geometry.slot_start(slot)
        hand = SlotInHand({plane.kind: view(memory, start, plane) for plane in plan.planes})
        try:
            yield hand
        except BaseException:
            # Not in a forked child: the slot is its parent's.
            if self._lock.held:
                self._abandon()
            raise
        self._check_open()
        self._commit(plan, hand)

    def _make_room(self, data_size: int, timeout_s: float | None) -> None:
        self._check_open()
        self._check_free()
        if data_size <= self.capacity_bytes and not self._segment_lost:
            return
        if data_size > self._max_capacity:
            raise FrameTooLarge(
                f"a frame of {data_size} bytes is beyond the capacity of {self._max_capacity}; "
                "write a smaller frame or give the writer a larger max_capacity_bytes"
            )
        if self._lossless:
            self._await_registration(self.timeout_s if timeout_s is None else timeout_s)
        self._look_after_files()
        self._check_open()
        self._open_generation(max(data_size, self.capacity_bytes), (self._current.mapping, self._current.geometry))
        self._segment_lost = False

    def _look_after_files(self) -> None:
        """Put back what somebody removed by hand, or leave when another writer has come in the meantime."""
        if not self._lock.current():
            again = self._placement.writer_lock()
            if not acquire_patiently(again):
                self.close()
                return
            self._lock.release()
            self._lock = again
        path = self.segment_path
        if path is not None and not os.path.exists(path):
            # The next frame makes the next generation.
            self._segment_lost = True
            self._current.plans.clear()
        elif segment.identity_of(self._placement.record_path) != self._record:
            self._record = segment.swing_pointer(self._placement, self.generation, self.segment_size, now_ns())

    def _check_open(self) -> None:
        if not self._lock.held:
            raise RingClosed(
                f"channel {self.channel}: this writer is closed, or another took the channel after its files had been "
                "removed, or it belongs to a parent process; make a new one"
            )

    def _check_free(self) -> None:
        if self._in_hand:
            raise RuntimeError(f"channel {self.channel}: leave the previous slot() block first")

    def _check_whole(self) -> None:
        if not self._current.mapping.whole():
            raise TruncatedSegment(f"channel {self.channel}: its segment was cut by somebody; make a new writer")

    def _begin(self, timeout_s: float | None) -> int:
        """Choose a slot that is neither the newest nor pinned and mark it as being written."""
        if not self._lock.held:
            self._check_open()
        if self._in_hand:
            self._check_free()
        self._check_whole()
        current = self._current
        u64, u32, pins = current.u64, current.u32, current.pin_words
        mark = 2 * self._sequence + 1
        while True:
            taken = self._taken() if self._lossless else _EVERYTHING
            for slot, word, pin in current.oldest_first[current.newest_slot]:
                before = u64[word]
                if before >> 1 > taken:
                    continue
                for entry in pins:
                    if u32[entry] == pin:
                        break
                else:
                    u64[word] = mark
                    # SYNC POINT W1: the odd sequence is visible before pins are looked at again and before any pixel
                    # changes. Meets R1: either the reader's check sees it, or we see the pin.
                    self._release()
                    self._acquire()
                    for entry in pins:
                        if u32[entry] == pin:
                            u64[word] = before
                            break
                    else:
                        current.slot = slot
                        self._in_hand = True
                        return slot
            if self._lossless:
                self._await_reader(taken, self.timeout_s if timeout_s is None else timeout_s)
            # Otherwise a reader moved its pin between our two looks: there are fewer pins than slots, look again.

    def _abandon(self) -> None:
        self._in_hand = False
        self._current.u64[self._current.slot_words[self._current.slot]] = 0

    def _commit(self, plan: SlotPlan, hand: SlotInHand) -> int:
        sequence = self._sequence + 1
        current = self._current
        slot = current.slot
        start = current.slot_starts[slot]
        now = now_ns()
        memory = current.mapping.memory
        flags = hand.flags
        try:
            if hand.T_world_camera is not None:
                POSE_CODEC.pack_into(memory, start + POSE_AT, *np.asarray(hand.T_world_camera, np.float32).reshape(16))
                flags |= _POSE
            if hand.intrinsics is not None:
                fx, fy, cx, cy = hand.intrinsics
                INTRINSICS_CODEC.pack_into(memory, start + INTRINSICS_AT, fx, fy, cx, cy)
                flags |= _INTRINSICS
            SLOT_BODY.pack_into(
                memory,
                start + 8,
                sequence if hand.frame_id is None else hand.frame_id,
                hand.source_frame_id,
                now if hand.capture_ns is None else hand.capture_ns,
                now,
                hand.param_revision,
                flags,
                hand.origin,
                hand.colour_space,
                len(plan.planes),
                plan.data_size,
            )
        except (struct.error, TypeError, ValueError) as error:
            self._abandon()
            raise InvalidFrame(
                f"{error}; ids and times are unsigned 64-bit integers, flags 32-bit, T_world_camera has 4 x 4 numbers "
                "and intrinsics are fx, fy, cx, cy"
            ) from error
        if current.tables[slot] is not plan.table:
            table = start + PLANE_TABLE_OFFSET
            memory[table : table + len(plan.table)] = plan.table
            current.tables[slot] = plan.table
        u64, u32 = current.u64, current.u32
        u64[HEARTBEAT_64] = now
        # SYNC POINT W2: pixels and description are visible before the even sequence. Meets R2. (On x86 stores keep
        # their order, and a copy that bypasses the caches ends with a fence of its own.)
        if not STRONG:
            self._order()
        u64[current.slot_words[slot]] = 2 * sequence
        # SYNC POINT W3: the even sequence before `newest`. Meets R3; a reader that sees them otherwise retries.
        if not STRONG:
            self._order()
        u64[NEWEST_64] = sequence << 8 | slot
        self._sequence = sequence
        current.newest_slot = slot
        self._in_hand = False
        # SYNC POINT W4: `newest` before the wake word. Meets R4.
        if not STRONG:
            self._order()
        u32[WAKE_32] = sequence & 0xFFFFFFFF
        # SYNC POINT W5: the wake word before `waiting` is read. Meets R5: either we see a sleeper, or it sees the word.
        self._release()
        self._acquire()
        if not STRONG or memory[_WAITING:_WAITING_END] != _NOBODY:
            self._wake_readers()
        if now >= self._look_at_ns:
            self._look_soon(now)
        return sequence

    def _look_soon(self, now: int) -> None:
        self._look_at_ns = now + _LOOK_NS
        # The frame is published; what cannot be put back now is tried again at the next look.
        with contextlib.suppress(RingError):
            self._look_after_files()

    def _wake_readers(self) -> None:
        if self._current.wake is not None:
            self._current.wake.wake()
            return
        for index in range(READER_ENTRIES):
            if self._current.u32[_WAITING // 4 + index]:
                wake = self._current.events.get(index)
                if wake is None:
                    event = self._placement.event_name(self.generation, f"r{index}")
                    wake = self._current.events[index] = wake_for(self._current.mapping, WAKE_32, event)
                wake.wake()

    def _taken(self) -> int:
        """Newest sequence that may be overwritten under the lossless policy."""
        if self._current.u32[self._current.reader_32 + KIND_32] == ReaderKind.LOSSLESS:
            return self._current.u64[self._current.reader_32 // 2 + TAKEN_64]
        return _EVERYTHING if self._let_go else self._current.geometry.first_sequence - 1

    def _reader_came(self) -> bool:
        return self._current.u64[self._current.reader_32 // 2 + PID_64] != 0

    def _locks_to_follow(self) -> list[Lock]:
        """Before a resize: the lock that the lossless reader holds until it has followed; none if none ever came."""
        if self._current.u32[self._current.reader_32 + KIND_32] == ReaderKind.LOSSLESS:
            self._let_go = False
        return self._reader_locks[-1:] if self._reader_came() else self._reader_locks[:-1]

    def _await_registration(self, timeout_s: float) -> None:
        """A reader goes straight to the newest generation, so one with frames must have been entered before the next
        is made; frames that are untaken in it are taken before the reader goes on."""
        entry = self._current.reader_32 + KIND_32
        first = self._current.geometry.first_sequence
        while self._sequence >= first and not self._let_go and self._current.u32[entry] != ReaderKind.LOSSLESS:
            self._await_reader(first - 1, timeout_s)

    def _await_reader(self, before: int, timeout_s: float) -> None:
        """Sleep until the lossless reader moves on, leaves or dies; ReaderTimeout when it does nothing of that.

        before: what it had taken when no slot was free; what it took since then counts as moving on.
        """
        u32 = self._current.u32
        progress = self._current.reader_32 + PROGRESS_32
        if self._current.progress is None:
            event = self._placement.event_name(self.generation, "writer")
            self._current.progress = wake_for(self._current.mapping, progress, event)
        deadline = time.monotonic() + timeout_s
        while True:
            seen = u32[progress]
            u32[WRITER_WAITING_32] = 1
            self._order()
            if self._taken() != before:
                break
            # One that is just registering takes its lock before it writes its pid, so the pid is read first.
            known = len(self._reader_locks) > 1 or self._reader_came()
            # A reader that follows takes its new lock before it gives back the old one, so the old one is asked first.
            alive = any([lock.taken_elsewhere() for lock in self._reader_locks])
            if known and not alive and self._reader_locks[-1].acquire():
                # It died or left: let it go and write on; another may register later. Under its lock, lest that other
                # one registers just now and is taken for the dead one.
                u32[self._current.reader_32 + KIND_32] = ReaderKind.FREE
                self._reader_locks[-1].release()
                self._reader_locks = self._reader_locks[-1:]
                self._let_go = True
                break
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                u32[WRITER_WAITING_32] = 0
                raise ReaderTimeout(
                    f"channel {self.channel}: its lossless reader took nothing for {timeout_s:g} s; "
                    "start or speed up that reader, or use the newest-wins policy"
                )
            self._current.progress.wait(seen, min(_NAP_S, left_s))
            self._check_whole()
            now = now_ns()
            if now >= self._look_at_ns:
                self._look_soon(now)
                self._check_open()
        u32[WRITER_WAITING_32] = 0

    def beat(self) -> None:
        """Refresh the heartbeat, for display, while there is nothing to write."""
        if not self._lock.held or not self._current.mapping.whole():
            return
        now = self._current.u64[HEARTBEAT_64] = now_ns()
        if now >= self._look_at_ns:
            self._look_soon(now)

    def close(self) -> None:
        """Leave the channel: readers see the writer gone, the files are removed. Harmless when closed already.

        Only this writer's own files: after somebody removed them by hand another may write here.
        """
        if not self._lock.held:
            return
        try:
            ours = self._lock.current()
            self._retire(self._current.mapping, self._current.geometry, SegmentState.CLOSED)
            if segment.identity_of(self._placement.record_path) == self._record:
                segment.remove_pointer(self._placement)
            segment.remove_generation(self._placement, self.generation)
            if ours:
                segment.remove_leftovers(self._placement)
        finally:
            for lock in (*self._reader_locks, self._current.lock):
                if lock is not None:
                    lock.release()
            self._lock.remove()
            self._current.forget()

    def __enter__(self) -> RingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

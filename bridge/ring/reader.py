"""The reading end of a ring: any number per channel, none but the lossless one able to hold the writer up.

The reading order is PROTOCOL.md section "Reading"; `SYNC POINT R1` to `R5` below are its names and each meets the
writer's point of the same number. Nothing in a segment is trusted: headers and plane tables are checked on private
copies.
"""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Any

import numpy as np

from bridge.ring import segment
from bridge.ring.attachment import Attachment, KnownSlot
from bridge.ring.errors import (
    BufferMismatch,
    MalformedHeader,
    MalformedSlot,
    OutOfResources,
    ReaderExists,
    RingClosed,
    TruncatedSegment,
)
from bridge.ring.header import (
    KIND_32,
    NEWEST_64,
    PROGRESS_32,
    STATE_32,
    TAKEN_64,
    WAKE_32,
    WRITER_WAITING_32,
    Frame,
    State,
    check_header,
    is_closed,
)
from bridge.ring.layout import (
    HEADER,
    LOSSLESS_ENTRY,
    MAX_PLANES,
    PLANE,
    PLANE_TABLE_OFFSET,
    Kind,
    ReaderKind,
    SegmentState,
    SlotFlag,
)
from bridge.ring.lock import Lock
from bridge.ring.scheduling import is_urgent, let_others_run
from bridge.ring.slot import (
    COLOUR_SPACES,
    INTRINSICS_AT,
    INTRINSICS_CODEC,
    ORIGINS,
    POSE_AT,
    POSE_CODEC,
    SLOT_HEAD,
    Array,
    parse_table,
    view,
)
from bridge.ring.wake import STRONG, fence, wake_for

SHORT_S = 0.001
"""After a wait that gave a frame within so long, the next one looks for so long before it sleeps: frames that come back
to back are not held up by a core that has to wake up first. At the frame rates of a show every wait is longer, and
nobody looks."""
LOOK_S = 0.1
"""How often an idle reader looks at the rendezvous record by itself; wake-ups usually tell it sooner."""
_TABLE = PLANE_TABLE_OFFSET
_POSE, _INTRINSICS = int(SlotFlag.POSE), int(SlotFlag.INTRINSICS)
_LIVE = int(SegmentState.LIVE)
# Looking up a member of an enumeration runs interpreted code.
_COLOUR = Kind.COLOUR

NAP_S = 0.001

ATTEMPTS = 200
"""How often one call retries a frame that is overwritten while it is looked at, before it reports nothing new."""


class RingReader:
    """One reader of a channel; it need not wait for the writer to exist and follows it over restarts and resizes.

    lossless: register as the one lossless reader, which gets every frame in order; else every call gives the newest.
    directory: that of the writer. One object serves one thread at a time. Everything is found lazily: the methods raise
    NotARing, VersionMismatch, TruncatedSegment, MalformedHeader, MalformedSlot, AccessDenied, NoSpace, OutOfResources,
    ReaderExists (lossless) and RingClosed; after each of them the next call looks afresh.
    """

    def __init__(
        self, channel: str, *, lossless: bool = False, directory: str | os.PathLike[str] | None = None
    ) -> None:
        self.channel = channel
        self.lossless = lossless
        self._placement = segment.place(channel, directory)
        self._release, self._acquire = fence()
        self._at: Attachment | None = None
        self._generation = 0
        self._left = 0
        self._waited_s = LOOK_S
        self._pid = os.getpid()
        self._look_at = 0.0
        self._held: tuple[Frame, Attachment, int | None, int, int] | None = None

    # Attaching and following

    @property
    def generation(self) -> int:
        """Generation that was mapped last; 0 before the first."""
        return self._generation

    @property
    def state(self) -> State:
        """What is known of the writer now. A slow or stopped writer is LIVE; a killed one is gone at once."""
        at = self._attached()
        if at is None:
            return State.WRITER_GONE if self._generation else State.NO_WRITER
        return State.WRITER_GONE if self._gone(at, at.u32[STATE_32]) else State.LIVE

    def _gone(self, at: Attachment, state: int) -> bool:
        """Whether the writer that made `at`, whose `state` it had, writes no more."""
        if state == SegmentState.CLOSED:
            return True
        if state != SegmentState.SUPERSEDED:
            return not at.writer_lock.taken_elsewhere()
        # It has gone on to what the record points to.
        pointer = segment.read_pointer(self._placement)
        return pointer is None or self._lock_of_live_writer(pointer) is None

    def _lock_of_live_writer(self, pointer: segment.Pointer) -> Lock | None:
        """The lock that the writer of what the record points to holds; None when it is dead."""
        try:
            lock = self._placement.lock_of_writer(pointer)
        except FileNotFoundError:
            return None
        return lock if lock.taken_elsewhere() else None

    def _attached(self) -> Attachment | None:
        """The attachment to read from now, following the writer to a newer generation where there is one."""
        if os.getpid() != self._pid:
            # Closed, or inherited by a forked child, whose parent owns the reader entries.
            raise RingClosed(f"channel {self.channel}: this reader is closed or a parent process's; make a new one")
        at = self._at
        if at is None:
            return self._attach(None)
        if not at.mapping.whole():
            self._detach()
            raise TruncatedSegment(f"channel {self.channel}: its segment was cut by somebody; start the writer again")
        if at.u64[NEWEST_64] >> 8 > at.last:
            return at
        now = time.monotonic()
        state = at.u32[STATE_32]
        if state == _LIVE and now < self._look_at:
            return at
        self._look_at = now + LOOK_S
        gone = self._gone(at, state)
        # What was published before it left must not be lost by leaving, too.
        if at.u64[NEWEST_64] >> 8 > at.last:
            return at
        new = self._attach(at)
        if new is at and gone:
            # Its memory is given back: the next writer may need it, and nothing more comes in it.
            self._left = at.geometry.generation
            self._detach()
            return None
        return new

    def _attach(self, at: Attachment | None) -> Attachment | None:
        """An attachment to what the record points to, instead of `at`; `at` itself where there is nothing newer."""
        pointer = segment.read_pointer(self._placement)
        # What was left is not news, whoever holds the lock of the channel by now (all that version 1.0 has).
        known = self._left if at is None else at.geometry.generation
        if pointer is None or pointer.generation == known:
            return at
        # A dead writer's last picture is not news: nobody attaches to it.
        lock = self._lock_of_live_writer(pointer)
        found = segment.peek(self._placement, pointer, HEADER.size) if lock is not None else None
        if lock is None or found is None:
            return at
        # Frames published between our look at `newest` and the retirement must not be lost by following.
        if at is not None and at.u64[NEWEST_64] >> 8 > at.last:
            _close(found[2])
            return at
        data, size, fd = found
        try:
            geometry = check_header(data, pointer, size, self._placement)
        except BaseException:
            _close(fd)
            raise
        if is_closed(data):
            # Its writer is just leaving; we may have had all that is in it.
            _close(fd)
            return at
        mapping = segment.attach(self._placement, pointer, geometry.segment_size, fd)
        new = Attachment(self._placement, mapping, geometry, lock)
        # Before the old entry is given back: the writer takes a moment without either for our death.
        if self.lossless and not self._register(new):
            return at
        self._detach()
        self._at = new
        self._generation = geometry.generation
        self._look_at = time.monotonic() + LOOK_S
        return new

    def _register(self, at: Attachment) -> bool:
        """Become the one lossless reader; False when the writer has left this generation meanwhile."""
        entry = at.geometry.entry_32(LOSSLESS_ENTRY)
        # Patiently: under Wine a writer tests a lock by taking it for a moment.
        claimed = at.claim(LOSSLESS_ENTRY, ReaderKind.FREE, patiently=True)
        state = at.u32[STATE_32]
        # One that follows the writer gives this entry back while we ask for it; its frames here are taken.
        # Without a file it is left, too, or was removed by hand.
        if state == SegmentState.SUPERSEDED or claimed is None or not (claimed or state == _LIVE):
            at.detach()
            return False
        if not claimed:
            at.detach()
            raise ReaderExists(f"channel {self.channel} already has a lossless reader; stop it or read newest-wins")
        stored = [at.u64[start // 8] for start in at.slot_starts]
        oldest = min((word >> 1 for word in stored if word and not word & 1), default=at.geometry.first_sequence)
        at.last = oldest - 1
        at.u64[entry // 2 + TAKEN_64] = at.last
        self._order()
        at.u32[entry + KIND_32] = ReaderKind.LOSSLESS
        return True

    def _detach(self) -> None:
        if self._at is not None:
            self._at.detach()
            self._at = None

    # Waiting

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a frame newer than the last one taken is there; False after `timeout_s` seconds without one."""
        return self._ready() is not None or self._sleep(timeout_s) is not None

    def _ready(self) -> Attachment | None:
        """Where a newer frame can be read now, or None."""
        at = self._at
        if at is None or not at.mapping.whole() or at.u64[NEWEST_64] >> 8 <= at.last or os.getpid() != self._pid:
            at = self._attached()
            if at is None or at.u64[NEWEST_64] >> 8 <= at.last:
                return None
        return at

    def _sleep(self, timeout_s: float) -> Attachment | None:
        """Where a newer frame can be read, as soon as there is one; None after `timeout_s` seconds."""
        started = time.monotonic()
        looks = self._waited_s <= SHORT_S and not is_urgent()
        ready = self._look(min(SHORT_S, timeout_s)) if looks else None
        if ready is None:
            ready = self._sleep_until(started + timeout_s)
        self._waited_s = LOOK_S if ready is None else time.monotonic() - started
        return ready

    def _look(self, for_s: float) -> Attachment | None:
        """Like `_sleep`, without sleeping."""
        at = self._at
        if at is None:
            return None
        u64, last = at.u64, at.last
        until = time.monotonic() + for_s
        while u64[NEWEST_64] >> 8 <= last:
            if time.monotonic() >= until:
                return None
            let_others_run()
        return self._ready()

    def _sleep_until(self, deadline: float) -> Attachment | None:
        left_s = deadline - time.monotonic()
        nap_s = NAP_S
        while left_s > 0:
            if self._at is None or self._at.u32[STATE_32] != _LIVE:
                time.sleep(min(nap_s, left_s))
                nap_s = min(0.01, nap_s * 1.5)
            else:
                self._sleep_on(self._at, left_s)
            ready = self._ready()
            if ready is not None:
                return ready
            left_s = deadline - time.monotonic()
        return None

    def _sleep_on(self, at: Attachment, left_s: float) -> None:
        """One sleep, at most `LOOK_S` long. (A call of its own: between sleeps nothing may keep the memory mapped.)"""
        wake, word = at.waiter()
        u32 = at.u32
        # SYNC POINT R4: the wake word is read before `newest`, so that a publication in between makes the sleep
        # return at once. Meets W4.
        seen = u32[WAKE_32]
        if word is not None:
            u32[word] = 1
        # SYNC POINT R5: `waiting` is visible before the last look. Meets W5.
        self._release()
        self._acquire()
        if at.u64[NEWEST_64] >> 8 <= at.last and u32[STATE_32] == _LIVE:
            woken = wake.wait(seen, min(left_s, LOOK_S))
            # Cut while we slept, the ring has no words left to touch.
            if not at.mapping.whole():
                return
            if left_s >= LOOK_S:
                at.slept(woken, changed=u32[WAKE_32] != seen)
        if word is not None:
            u32[word] = 0

    # Finding a frame

    def _next(self, at: Attachment) -> tuple[int, int] | None:
        """Sequence and slot of the frame to deliver next, or None."""
        newest = at.u64[NEWEST_64]
        sequence, slot = newest >> 8, newest & 0xFF
        if sequence <= at.last:
            return None
        if slot >= at.geometry.slot_count:
            self._detach()
            raise MalformedHeader(f"channel {self.channel}: newest frame in slot {slot}; start the writer again")
        if self.lossless:
            stored = [(at.u64[start // 8], k) for k, start in enumerate(at.slot_starts)]
            waiting = [(word >> 1, k) for word, k in stored if not word & 1 and word >> 1 > at.last]
            return min(waiting, default=(sequence, slot))
        return sequence, slot

    def _find(self, at: Attachment, sequence: int, slot: int) -> tuple[tuple[int, ...], KnownSlot] | None:
        """The frame's header and its checked description, or None when it is being overwritten."""
        start = at.slot_starts[slot]
        # SYNC POINT R3: `newest` was read before the slot's sequence; if they disagree, look again. Meets W3.
        if not STRONG:
            self._order()
        head = SLOT_HEAD.unpack_from(at.memory, start)
        if head[0] != 2 * sequence:
            return None
        # SYNC POINT R2: the even sequence is seen before anything it covers is read. Meets W2.
        if not STRONG:
            self._order()
            head = SLOT_HEAD.unpack_from(at.memory, start)
        known = at.known[slot]
        if known is None or known.meta != head[7:10] or at.memory[start + _TABLE : known.end] != known.table:
            try:
                known = self._check(at, slot, head)
            except MalformedSlot:
                if not self._intact(at, start // 8, sequence):
                    return None
                self._take(at, sequence)
                raise
        return head, known

    def _check(self, at: Attachment, slot: int, head: tuple[int, ...]) -> KnownSlot:
        origin, colour_space, count = meta = head[7:10]
        if count > MAX_PLANES or origin not in ORIGINS or colour_space not in COLOUR_SPACES:
            raise MalformedSlot(
                f"malformed slot: {count} planes, origin {origin}, colour space {colour_space}; "
                "the writer breaks PROTOCOL.md, update or restart it"
            )
        start = at.slot_starts[slot]
        end = start + _TABLE + count * PLANE.size
        table = at.memory[start + _TABLE : end]
        planes = parse_table(table, at.geometry.slot_header_size, at.geometry.slot_stride)
        known = KnownSlot(planes, meta, table, end)
        for plane in planes:
            shown = known.views[plane.kind] = view(at.memory, start, plane)
            shown.flags.writeable = False
        at.known[slot] = known
        return known

    def _frame(
        self, at: Attachment, start: int, head: tuple[int, ...], known: KnownSlot, arrays: dict[Kind, Array]
    ) -> Frame:
        twice, frame_id, source, capture_ns, publish_ns, revision, flags, origin, colour_space, _, _ = head
        pose = lens = None
        if flags & _POSE:
            pose = np.array(POSE_CODEC.unpack_from(at.memory, start + POSE_AT), np.float32).reshape(4, 4)
        if flags & _INTRINSICS:
            lens = INTRINSICS_CODEC.unpack_from(at.memory, start + INTRINSICS_AT)
        return Frame(
            arrays,
            twice >> 1,
            frame_id,
            source,
            capture_ns,
            publish_ns,
            revision,
            flags,
            ORIGINS[origin],
            COLOUR_SPACES[colour_space],
            known.width,
            known.height,
            at.geometry.generation,
            pose,
            lens,
            known.formats,
        )

    def _order(self) -> None:
        self._release()
        self._acquire()

    def _intact(self, at: Attachment, word: int, sequence: int) -> bool:
        # SYNC POINT R2, second half: what the sequence covers was read before the sequence is looked at again.
        if not STRONG:
            self._order()
        return at.u64[word] == 2 * sequence

    def _take(self, at: Attachment, sequence: int) -> None:
        at.last = sequence
        if self.lossless:
            self._report(at)

    def _report(self, at: Attachment) -> None:
        """Tell a lossless writer how far we are."""
        entry = at.geometry.entry_32(LOSSLESS_ENTRY)
        self._order()
        at.u64[entry // 2 + TAKEN_64] = at.last
        at.u32[entry + PROGRESS_32] = (at.u32[entry + PROGRESS_32] + 1) & 0xFFFFFFFF
        self._order()
        if at.u32[WRITER_WAITING_32]:
            event = self._placement.event_name(at.geometry.generation, "writer")
            wake_for(at.mapping, entry + PROGRESS_32, event).wake()

    # Reading

    def read(self, timeout_s: float = 0.0) -> Frame | None:
        """A copy of the next frame, newer than the last one taken, or None when there is none within `timeout_s`."""
        return self._copy(timeout_s, None)

    def read_into(self, buffer: Any, timeout_s: float = 0.0) -> Frame | None:
        """Copy the next frame's colour plane into `buffer`; the Frame's one plane is an array on that buffer.

        buffer: an array of the plane's own shape and type, or any writable contiguous buffer of at least its bytes.
        Raises BufferMismatch, without consuming the frame, when it does not fit or the frame has no colour plane.
        """
        return self._copy(timeout_s, buffer)

    def _copy(self, timeout_s: float, buffer: Any) -> Frame | None:
        at = self._ready() or (self._sleep(timeout_s) if timeout_s > 0 else None)
        if at is None:
            return None
        for _ in range(ATTEMPTS):
            place = self._next(at)
            if place is None:
                return None
            found = self._find(at, *place)
            if found is None:
                continue
            head, known = found
            start = at.slot_starts[place[1]]
            if buffer is None:
                try:
                    arrays = {kind: shown.copy() for kind, shown in known.views.items()}
                except MemoryError as error:
                    raise OutOfResources(
                        f"channel {self.channel}: no memory for a copy of {known.width} x {known.height} pixels; "
                        "close other programs, or use latest()"
                    ) from error
            else:
                source = known.views.get(_COLOUR)
                try:
                    target = _fit(buffer, source)
                except BufferMismatch:
                    if self._intact(at, start // 8, place[0]):
                        raise
                    continue
                target[...] = source
                arrays = {_COLOUR: target}
            frame = self._frame(at, start, head, known, arrays)
            if self._intact(at, start // 8, place[0]):
                self._take(at, place[0])
                return frame
        # A damaged ring may promise a frame that never comes; whoever asks in a loop must not spin.
        time.sleep(NAP_S)
        return None

    def latest(self, timeout_s: float = 0.0) -> _Latest:
        """`with reader.latest() as frame:` gives the next frame without a copy, or None.

        Its planes are read-only views of the ring itself, pinned: the writer leaves the slot alone until the block
        ends. On leaving, `frame.valid` says whether the views were whole to the end (they are, unless a writer breaks
        the protocol). When slots - 2 other readers own the entries that may pin, the planes are copies. Do not keep
        views after the block.
        """
        return _Latest(self, timeout_s)

    def _pin(self, timeout_s: float) -> Frame | None:
        if self._held is not None:
            raise RuntimeError(f"channel {self.channel}: leave the previous latest() block first")
        at = self._ready() or (self._sleep(timeout_s) if timeout_s > 0 else None)
        if at is None:
            return None
        word = None if self.lossless else at.pin_word()
        if word is None and not self.lossless:
            return self._copy(0.0, None)
        for _ in range(ATTEMPTS):
            place = self._next(at)
            if place is None:
                break
            sequence, slot = place
            if word is not None:
                at.u32[word] = slot + 1
                # SYNC POINT R1: the pin is visible before the sequence is checked. Meets W1.
                self._release()
                self._acquire()
            try:
                found = self._find(at, sequence, slot)
            except BaseException:
                if word is not None:
                    at.u32[word] = 0
                raise
            if found is not None:
                start = at.slot_starts[slot]
                frame = self._frame(at, start, *found, found[1].views.copy())
                self._held = (frame, at, word, start // 8, sequence)
                if word is not None:
                    at.last = sequence
                return frame
        else:
            time.sleep(NAP_S)
        if word is not None:
            at.u32[word] = 0
        return None

    def _unpin(self) -> None:
        if self._held is None:
            return
        frame, at, word, sequence_word, sequence = self._held
        self._held = None
        if not at.mapping.whole():
            frame.valid = False
            return
        frame.valid = self._intact(at, sequence_word, sequence)
        # Once detached the entry may be another reader's, and in a forked child it is its parent's.
        if at is not self._at or os.getpid() != self._pid:
            return
        if word is not None:
            at.u32[word] = 0
        else:
            self._take(at, sequence)

    def close(self) -> None:
        """Let go of the ring. Views that are still held stay mapped. Harmless when closed already."""
        self._detach()
        self._pid = 0

    def __enter__(self) -> RingReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


class _Latest:
    """The block of `RingReader.latest`."""

    __slots__ = ("_reader", "_timeout_s")

    def __init__(self, reader: RingReader, timeout_s: float) -> None:
        self._reader = reader
        self._timeout_s = timeout_s

    def __enter__(self) -> Frame | None:
        return self._reader._pin(self._timeout_s)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader._unpin()


def _fit(buffer: Any, source: Array | None) -> Array:
    """The caller's buffer as an array of the colour plane's shape and type."""
    if source is None:
        raise BufferMismatch("this frame has no colour plane; use read() or latest()")
    if isinstance(buffer, np.ndarray) and buffer.shape == source.shape and buffer.dtype == source.dtype:
        return buffer
    wanted = (
        f"the colour plane needs an array of shape {source.shape} and type {source.dtype}, "
        f"or a writable contiguous buffer of {source.nbytes} bytes"
    )
    try:
        raw = memoryview(buffer)
        raw = raw.cast("B") if raw.ndim == 1 else raw
    except TypeError as error:
        raise BufferMismatch(wanted) from error
    if raw.ndim != 1 or raw.readonly or raw.nbytes < source.nbytes:
        raise BufferMismatch(wanted)
    return np.frombuffer(raw[: source.nbytes], source.dtype).reshape(source.shape)

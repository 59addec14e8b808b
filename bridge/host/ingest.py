"""The way in: the newest frame of NAME.in, encoded; and the last one again where there is something to bring out."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

from bridge.control.statistics import Statistics
from bridge.host.config import HostConfig
from bridge.host.planner import RECOVERABLE, Planner, Work
from bridge.ring import Frame, Kind, RingError, RingReader
from bridge.ring.clock import now_ns
from core.lanes import Lanes, Mark

WAIT_S = 0.1
"""Longest wait for a frame before the loop looks at stop requests and changed parameters again."""
FLUSH_S = 0.15
"""After so long without a new frame the frames in flight are brought out by repeating the last one."""


@dataclass(frozen=True)
class FrameTag:
    """What the output has to say about the frame it was made from. `number`: how many were encoded up to it. `again`: a
    repeat that only flushes the batch."""

    source_frame_id: int
    capture_ns: int
    revision: int
    number: int
    again: bool = False


@dataclass(frozen=True)
class Encoded:
    """A frame on its way into the stream, and what it is run with. entering: of `Stream.encode`, done. buffer: its name
    to the lanes."""

    work: Work
    entering: Mark
    buffer: Hashable
    tag: FrameTag


class Ingest:
    """Gives the frames to run, one after the other. For one thread.

    idle: called when there is no new frame. pause(seconds): waits, or returns at once when the host ends. lost(where,
    error): a frame was lost. encode_s: what a frame takes until it is encoded.
    """

    def __init__(
        self,
        config: HostConfig,
        reader: RingReader,
        planner: Planner,
        statistics: Statistics,
        lanes: Lanes,
        *,
        idle: Callable[[], None],
        pause: Callable[[float], object],
        complain: Callable[[str, str], None],
        lost: Callable[[str, Exception], None],
    ) -> None:
        from bridge.host import frame_input

        self.encode_s = 0.0
        self._reads = frame_input
        self._config = config
        self._reader = reader
        self._planner = planner
        self._statistics = statistics
        self._lanes = lanes
        self._idle = idle
        self._pause = pause
        self._complain = complain
        self._lost = lost
        self._name = f"{config.channel}.in"
        self._seen = (0, 0)
        self._number = 0
        self._encodes = 0
        self._last: Encoded | None = None
        self._last_frame_s = 0.0
        self._repeats = 0
        self._unseen: Any = None
        """The newest frame, where the similarity filter skipped it."""
        self._in_old_size: Any = None
        """The newest frame, where it was run in the old size while the new one was not ready."""

    def next(self) -> Encoded | None:
        """The newest frame, encoded; None when there is none to run now."""
        wait_s = FLUSH_S if self._repeats_due() else WAIT_S
        try:
            with self._reader.latest(timeout_s=wait_s) as frame:
                if frame is None:
                    self._idle()
                    return self._repeat()
                encoded = self._take(frame, now_ns())
        except RingError as error:
            self._complain("ring", f"{self._name}: {error}")
            self._pause(WAIT_S)
            return None
        except RECOVERABLE as error:
            self._statistics.count("dropped")
            self._lost("encoding", error)
            return None
        self._last_frame_s = time.monotonic()
        if encoded is None or not frame.valid:
            return None
        self._last, self._repeats = encoded, 0
        return encoded

    def _take(self, frame: Frame, started_ns: int) -> Encoded | None:
        generation, sequence = self._seen
        if generation == frame.generation:
            self._statistics.count("dropped", max(0, frame.sequence - sequence - 1))
        self._seen = (frame.generation, frame.sequence)
        self._statistics.count("frames_in")
        if Kind.COLOUR not in frame.planes:
            self._complain("plane", f"{self._name}: a frame without a colour plane; write Kind.COLOUR")
            return None
        work = self._planner.follow_source(frame.width, frame.height)
        given = self._reads.input_of(frame)
        if not work.stream.admit(given, work.plan):
            self._statistics.count("skipped")
            self._unseen = self._reads.kept(frame, work.stream.reads(work.plan))
            return None
        self._unseen = None
        if work.plan.params.temporal == "engine" and Kind.MOTION not in frame.planes:
            self._complain(
                "motion",
                f"{self._name}: a frame without a motion plane, so that temporal engine does nothing; write"
                " Kind.MOTION, or set temporal to flow, which estimates it",
            )
        pixels = given.colour
        ingest_ns = now_ns() - started_ns
        entering = self._encode(work, given, pixels)
        if self._planner.outdated(work):
            self._in_old_size = self._reads.kept(frame, work.stream.reads(work.plan))
        self._statistics.record("ingest", ingest_ns)
        self._statistics.record("encode", entering.took_ns)
        self.encode_s = smooth(self.encode_s, (ingest_ns + entering.took_ns) / 1e9)
        self._number += 1
        return Encoded(work, entering, self._buffer, self._tag(given, work))

    def _encode(self, work: Work, given: Any, pixels: Any) -> Mark:
        """Done when this returns, as the slot that it reads is held no longer; raises what it raised."""
        planes = self._reads.batched(given.read(work.stream.reads(work.plan)))
        number = given.source_frame_id or given.sequence
        self._encodes += 1
        mark = self._lanes.run(
            "encode",
            lambda: work.stream.encode(pixels[None], planes, work.plan, (number,)),
            reads=("slot",),
            writes=(self._buffer,),
        )
        mark.result()
        return mark

    @property
    def _buffer(self) -> Hashable:
        """What the newest encoded frame lies in."""
        return "entering", self._encodes

    def _tag(self, given: Any, work: Work, *, again: bool = False) -> FrameTag:
        return FrameTag(given.source_frame_id, given.capture_ns, work.revision, self._number, again)

    def _repeats_due(self) -> bool:
        """Whether something has to run although no frame came: the last one was skipped, frames are in flight behind
        it, or the parameters changed since."""
        last, work = self._last, self._planner.work
        if work is None or self._config.lossless or work.plan.params.paused:
            return False
        if self._unseen is not None:
            return True
        if last is None:
            return False
        if work.stream is not last.work.stream:
            # The last picture came before the new size was ready, and may have been the only one of it.
            self._unseen, self._in_old_size = self._in_old_size, None
            return self._unseen is not None
        if work.plan is not last.work.plan:
            self._repeats = 0
            return True
        return self._repeats < work.plan.depth

    def _repeat(self) -> Encoded | None:
        if not self._repeats_due() or time.monotonic() - self._last_frame_s < FLUSH_S:
            return None
        last, work, given = self._last, self._planner.work, self._unseen
        assert work is not None
        if given is not None:
            self._unseen, self._repeats = None, 0
            entering = self._encode(work, given, given.colour)
            self._last = Encoded(work, entering, self._buffer, self._tag(given, work, again=True))
            return self._last
        assert last is not None
        if work.plan is last.work.plan:
            self._repeats += 1
        self._last = replace(last, work=work, tag=replace(last.tag, revision=work.revision, again=True))
        return self._last


def smooth(old: float, new: float) -> float:
    """A running mean of times."""
    return new if old == 0.0 else 0.8 * old + 0.2 * new

"""What frames are run with, and its change: parameters and sizes become a finished plan off the frame path."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bridge.control.live import LiveParams
from bridge.host.config import HostConfig, HostError
from core.faults import GONE, for_good
from core.params import Params

SETTLE_S = 0.3
"""A source whose pictures change their size is followed once they have kept the new one for so long. Until then they
are brought to the old size: whoever drags the edge of a window sees the picture move on."""
RECOVERABLE = (RuntimeError, ValueError, MemoryError, OSError)
"""What one frame or one change of parameters may meet (no memory, a device error) and the next may not."""


@dataclass(frozen=True)
class Work:
    """What a frame is run with: replaced as a whole, between two frames."""

    stream: Any
    plan: Any
    revision: int


class Planner:
    """Keeps `work` up to date with the parameters and with the size of the source.

    model: of `bridge.host.loading.Loaded`. complain(kind, message): for the user. `run` is to have a thread of its own;
    the others are called by the thread that takes frames.
    """

    def __init__(self, config: HostConfig, live: LiveParams, model: Any, complain: Callable[[str, str], None]) -> None:
        self.work: Work | None = None
        self._config = config
        self._live = live
        self._model = model
        self._complain = complain
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._planning = threading.Lock()
        self._source_size: tuple[int, int] | None = None
        self._settled_at_s: float | None = None
        self._resizing = False
        if config.size is not None:
            self._use_size(*model.fit(*config.size, config.size[0] * config.size[1]))

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()
        self._changed.set()

    def follow_source(self, width: int, height: int) -> Work:
        """What to run a frame of this size with now; a stream for its own size may follow later."""
        size = (width, height)
        if self._config.size is None and size != self._source_size:
            self._source_size = size
            if self.work is None or self._config.lossless:
                self._use_size(*self._model.fit(*size))
            else:
                self._settled_at_s = time.monotonic() + SETTLE_S
                self._changed.set()
        assert self.work is not None
        return self.work

    def outdated(self, work: Work) -> bool:
        """Whether a stream of another size is on its way, or there since."""
        # In this order: `run` sets the second before it clears the first, and swaps before it clears the second.
        return self._settled_at_s is not None or self._resizing or self.work is not work

    def run(self) -> None:
        """Until `stop`."""
        unsubscribe = self._live.subscribe(lambda params, revision: self._changed.set())
        try:
            while not self._stop.is_set():
                settled_at_s = self._settled_at_s
                self._changed.wait(None if settled_at_s is None else max(0.0, settled_at_s - time.monotonic()))
                self._changed.clear()
                self._catch_up(settled_at_s)
        finally:
            unsubscribe()

    def _catch_up(self, settled_at_s: float | None) -> None:
        try:
            if settled_at_s is not None and self._settled_at_s == settled_at_s and settled_at_s <= time.monotonic():
                self._resizing = True
                self._settled_at_s = None
                assert self._source_size is not None
                self._use_size(*self._model.fit(*self._source_size))
            self._plan_anew()
        except RECOVERABLE as error:
            if for_good(error):
                raise HostError(GONE.format(error=" ".join(str(error).split())[:200])) from error
            self._complain("plan", f"the changed parameters or size could not be used, the old ones stay: {error}")
        finally:
            self._resizing = False

    def _use_size(self, width: int, height: int) -> None:
        """Build the stream for a size and swap it in; frames in flight in the old one leave no trace."""
        from core.stream import StreamConfig

        work = self.work
        if work is not None and (work.stream.config.width, work.stream.config.height) == (width, height):
            return
        with self._planning:
            stream = self._model.stream(StreamConfig(width, height))
            params, revision = wanted(self._live, self._config)
            plan = stream.plan(params)
            # One turn on nothing, so that compilers, allocators and caches are warm before the first frame.
            self._model.stream(StreamConfig(width, height)).warm_up(plan)
            self.work = Work(stream, plan, revision)

    def _plan_anew(self) -> None:
        with self._planning:
            work = self.work
            params, revision = wanted(self._live, self._config)
            if work is not None and work.revision != revision:
                self.work = Work(work.stream, work.stream.plan(params), revision)


def wanted(live: LiveParams, config: HostConfig) -> tuple[Params, int]:
    """The parameters to run with. Lossless means that nothing is skipped and nothing left in flight at the end."""
    params, revision = live.latest()
    return (params.with_values(mode="latency", similarity_filter=False) if config.lossless else params), revision

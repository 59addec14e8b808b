"""Lanes on threads: how the stages of a frame overlap on a CPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bridge.ring.clock import now_ns
from core.lanes import Buffers, Done, Mark


class Closed(Exception):
    """The lanes ended before this work began."""


class _Pending:
    """The mark of work that a thread will do."""

    def __init__(self, work: Callable[[], Any], after: tuple[Mark, ...]) -> None:
        self.took_ns = 0
        self._work: Callable[[], Any] | None = work
        self._after = after
        self._done = threading.Event()
        self._value: Any = None
        self._error: Exception | None = None

    def do(self) -> None:
        for mark in self._after:
            mark.wait()
        assert self._work is not None
        started_ns = now_ns()
        try:
            self._value = self._work()
        except Exception as error:
            self._error = error
        self.took_ns = now_ns() - started_ns
        self._end()

    def give_up(self) -> None:
        if not self._done.is_set():
            self._error = Closed("the host has ended")
            self._end()

    def _end(self) -> None:
        # Whoever keeps a mark keeps its result, and not all that led to it.
        self._work, self._after = None, ()
        self._done.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        return self._done.wait(timeout_s)

    def result(self) -> Any:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value


class ThreadLanes:
    """Lanes on threads of their own; a lane that has none runs on the thread that asks for it.

    threads: by lane, the name of its thread; lanes with one name share one thread, in the order in which work came.
    """

    def __init__(self, threads: Mapping[str, str]) -> None:
        self._closed = threading.Event()
        queues = {name: queue.SimpleQueue[_Pending | None]() for name in threads.values()}
        self._queues = {lane: queues[name] for lane, name in threads.items()}
        self._threads = [
            threading.Thread(target=self._work, args=(waiting,), name=f"frameloom-{name}", daemon=True)
            for name, waiting in queues.items()
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self, lane: str, work: Callable[[], Any], *, after: Iterable[Mark] = (), reads: Buffers, writes: Buffers
    ) -> Mark:
        """See `core.lanes.Lanes.run`."""
        after = tuple(after)
        waiting = self._queues.get(lane)
        if waiting is None:
            for mark in after:
                mark.wait()
            return Done(work)
        pending = _Pending(work, after)
        waiting.put(pending)
        if self._closed.is_set():
            # It may have come behind the end of the queue.
            pending.give_up()
        return pending

    def _work(self, waiting: queue.SimpleQueue[_Pending | None]) -> None:
        while (pending := waiting.get()) is not None:
            if self._closed.is_set():
                pending.give_up()
            else:
                pending.do()
        while not waiting.empty():
            if (left := waiting.get()) is not None:
                left.give_up()

    def close(self) -> None:
        """See `core.lanes.Lanes.close`. Waits for the work that has begun, unless that is what calls this."""
        self._closed.set()
        for waiting in self._queues.values():
            waiting.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

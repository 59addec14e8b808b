"""Lanes on threads: how the stages of a frame overlap on a CPU."""

from __future__ import annotations

import queue
import threading
from collections import deque
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
        self._done = False
        # Held until it is done. An Event would do; three of them in a frame cost ten times as much.
        self._undone = threading.Lock()
        self._undone.acquire()
        self._ending = threading.Lock()
        self._told: list[Callable[[], None]] = []
        self._value: Any = None
        self._error: Exception | None = None

    def tell(self, told: Callable[[], None]) -> None:
        """Call it when the work is done: once at least, from whatever thread."""
        self._told.append(told)
        if self._done:
            told()

    def may_begin(self) -> bool:
        """Whether no thread has to do any of what it comes after. For all else it waits when it begins."""
        return all(mark._done for mark in self._after if isinstance(mark, _Pending))

    def do(self) -> None:
        work, after = self._work, self._after
        if work is None:
            return
        for mark in after:
            mark.wait()
        value, error = None, None
        started_ns = now_ns()
        try:
            value = work()
        except Exception as caught:
            error = caught
        self.took_ns = now_ns() - started_ns
        self._end(value, error)

    def give_up(self) -> None:
        self._end(None, Closed("the host has ended"))

    def _end(self, value: Any, error: Exception | None) -> None:
        if not self._ending.acquire(blocking=False):
            return
        self._value, self._error = value, error
        # Whoever keeps a mark keeps its result, and not all that led to it.
        self._work, self._after = None, ()
        self._done = True
        self._undone.release()
        for told in self._told:
            told()

    def wait(self, timeout_s: float | None = None) -> bool:
        if not self._done:
            if not self._undone.acquire(timeout=-1 if timeout_s is None else timeout_s):
                return False
            self._undone.release()
        return True

    def result(self) -> Any:
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value


class _Thread:
    """Does work in the order in which it came. It is woken when there is something that it can do, and not before: a
    thread that woke only to wait on would take Python's lock from the one that it waits for."""

    def __init__(self, name: str) -> None:
        self._order = threading.Lock()
        self._held: deque[_Pending] = deque()
        self._ready = queue.SimpleQueue[_Pending | None]()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def add(self, pending: _Pending, after: tuple[Mark, ...]) -> None:
        with self._order:
            self._held.append(pending)
        for mark in after:
            if isinstance(mark, _Pending):
                mark.tell(self._release)
        self._release()
        if self._closed.is_set():
            # It may have come behind the end of the queue.
            pending.give_up()

    def _release(self) -> None:
        with self._order:
            while self._held and self._held[0].may_begin():
                self._ready.put(self._held.popleft())

    def _work(self) -> None:
        while (pending := self._ready.get()) is not None:
            if self._closed.is_set():
                pending.give_up()
            else:
                pending.do()
        while not self._ready.empty():
            if (left := self._ready.get()) is not None:
                left.give_up()

    def stop(self) -> None:
        """Begin nothing any more, and give up what has not begun."""
        self._closed.set()
        with self._order:
            held = [*self._held]
            self._held.clear()
        for pending in held:
            pending.give_up()
        self._ready.put(None)

    def join(self) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join()


class ThreadLanes:
    """Lanes on threads of their own; a lane that has none runs on the thread that asks for it.

    threads: by lane, the name of its thread; lanes with one name share one thread, in the order in which work came.
    """

    def __init__(self, threads: Mapping[str, str]) -> None:
        self._threads = {name: _Thread(f"frameloom-{name}") for name in dict.fromkeys(threads.values())}
        self._by_lane = {lane: self._threads[name] for lane, name in threads.items()}

    def run(
        self, lane: str, work: Callable[[], Any], *, after: Iterable[Mark] = (), reads: Buffers, writes: Buffers
    ) -> Mark:
        """See `core.lanes.Lanes.run`."""
        after = tuple(after)
        thread = self._by_lane.get(lane)
        if thread is None:
            for mark in after:
                mark.wait()
            return Done(work)
        pending = _Pending(work, after)
        thread.add(pending, after)
        return pending

    def close(self) -> None:
        """See `core.lanes.Lanes.close`. Waits for the work that has begun, unless that is what calls this."""
        for thread in self._threads.values():
            thread.stop()
        for thread in self._threads.values():
            thread.join()

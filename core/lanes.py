"""Lanes: work in order on each, side by side on different ones.

A stage of the frame path is handed to a lane together with the marks of the work that it has to come after. What a lane
is, is somebody else's business: a thread, a stream of a card, or, here, nothing but the caller itself. Work says which
buffers it reads and writes, so that a missing mark can be found on any machine (`VirtualLanes`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, Protocol, TypeVar

Value = TypeVar("Value")
Buffers = Iterable[Hashable]


class Mark(Protocol):
    """Stands for work on a lane, done or not. took_ns: how long the work itself took; 0 while it is not done."""

    took_ns: int

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is done; False when that takes longer."""

    def result(self) -> Any:
        """What the work returned, once it is done; raises what it raised."""


class Lanes(Protocol):
    """Where work runs."""

    def run(
        self, lane: str, work: Callable[[], Any], *, after: Iterable[Mark] = (), reads: Buffers, writes: Buffers
    ) -> Mark:
        """Do `work` on `lane`, behind whatever was given to that lane before, once all of `after` are done, well or
        badly. reads, writes: names of the buffers. Returns at once, or when it is done."""

    def close(self) -> None:
        """End; work that has not begun is not done. Harmless when it has ended."""


class Done(Generic[Value]):
    """The mark of work that was done by the one who asked for it."""

    def __init__(self, work: Callable[[], Value]) -> None:
        self._error: Exception | None = None
        started_ns = time.perf_counter()
        try:
            self._value = work()
        except Exception as error:
            self._error = error
        self.took_ns = round((time.perf_counter() - started_ns) * 1e9)

    def wait(self, timeout_s: float | None = None) -> bool:
        return True

    def result(self) -> Value:
        if self._error is not None:
            raise self._error
        return self._value


class SerialLanes:
    """One after the other, at once: the plain twin of all others."""

    def run(
        self, lane: str, work: Callable[[], Any], *, after: Iterable[Mark] = (), reads: Buffers, writes: Buffers
    ) -> Mark:
        return Done(work)

    def close(self) -> None:
        pass


class Race(AssertionError):
    """Two pieces of work, of which at least one writes, may meet in one buffer."""


class _Stamped(Done[Any]):
    """clock: by lane, how much of it is surely done when this is."""

    def __init__(self, work: Callable[[], Any], clock: dict[str, int]) -> None:
        super().__init__(work)
        self.clock = clock


class VirtualLanes:
    """Serial lanes that find out what would go wrong if every lane ran as slowly or as fast as it liked.

    Each lane has a vector clock. Work is surely behind other work on its own lane, and behind the marks that it was
    given, and whatever those were behind; behind nothing else, whatever the order in which it was handed over. Raises
    `Race` from `run` where two pieces of work that are not in order touch one buffer and one of them writes.
    """

    def __init__(self) -> None:
        self._clocks: dict[str, dict[str, int]] = {}
        self._written: dict[Hashable, tuple[str, int]] = {}
        self._read: dict[Hashable, dict[str, int]] = {}

    def run(
        self, lane: str, work: Callable[[], Any], *, after: Iterable[Mark] = (), reads: Buffers, writes: Buffers
    ) -> Mark:
        clock = dict(self._clocks.get(lane, {}))
        for mark in after:
            assert isinstance(mark, _Stamped)
            for other, count in mark.clock.items():
                clock[other] = max(clock.get(other, 0), count)

        def surely_behind(other: str, count: int, buffer: Hashable, does: str, did: str) -> None:
            if clock.get(other, 0) < count:
                raise Race(f"{lane} {does} {buffer!r}, which {other} may still {did}: a mark is missing")

        clock[lane] = clock.get(lane, 0) + 1
        for buffer in reads:
            if buffer in self._written:
                surely_behind(*self._written[buffer], buffer, "reads", "write")
            self._read.setdefault(buffer, {})[lane] = clock[lane]
        for buffer in writes:
            if buffer in self._written:
                surely_behind(*self._written[buffer], buffer, "writes", "write")
            for other, count in self._read.pop(buffer, {}).items():
                if other != lane:
                    surely_behind(other, count, buffer, "writes", "read")
            self._written[buffer] = (lane, clock[lane])
        self._clocks[lane] = clock
        return _Stamped(work, clock)

    def close(self) -> None:
        pass

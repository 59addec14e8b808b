"""The bounded queue between two stages of the host: one producer thread, one consumer thread.

Knows nothing of frames. Standard library only.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Closed(Exception):
    """The other side has stopped; the thread that sees this ends its loop."""


class Handoff(Generic[Item]):
    """Holds at most `bound` items. When full, `newest_wins` drops the oldest one; otherwise the producer waits.

    dropped: items that were dropped so far.
    """

    def __init__(self, bound: int = 1, *, newest_wins: bool = False) -> None:
        if bound < 1:
            raise ValueError(f"bound: got {bound}; give at least 1")
        self._items: deque[Item] = deque()
        self._bound = bound
        self._newest_wins = newest_wins
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def put(self, item: Item) -> int:
        """Hand one item over; returns how many were dropped for it. Raises `Closed`."""
        with self._changed:
            dropped = 0
            while len(self._items) >= self._bound and not self._closed:
                if self._newest_wins:
                    self._items.popleft()
                    dropped += 1
                else:
                    self._changed.wait()
            if self._closed:
                raise Closed
            self._items.append(item)
            self.dropped += dropped
            self._changed.notify_all()
            return dropped

    def get(self) -> Item:
        """The oldest item, as soon as there is one. What was put before `close` still comes out; then `Closed`."""
        with self._changed:
            while not self._items:
                if self._closed:
                    raise Closed
                self._changed.wait()
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def wait_taken(self, timeout_s: float) -> bool:
        """Wait until no item is waiting; False when `timeout_s` is over first. Raises `Closed`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._items and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            if self._closed:
                raise Closed
            return True

    def close(self) -> None:
        """Wake both sides; the producer may put no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

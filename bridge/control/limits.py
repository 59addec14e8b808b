"""How often something may happen."""

from __future__ import annotations

import time
from collections.abc import Hashable

KEYS_KEPT = 64


class OncePer:
    """Lets the same thing happen once in so many seconds. For one thread, or for several that may say it twice."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: dict[Hashable, float] = {}

    def may(self, key: Hashable) -> bool:
        """Whether `key` may happen now; if so, it counts as done."""
        now = time.monotonic()
        if now - self._last.get(key, -self._seconds) < self._seconds:
            return False
        # Keys with numbers in them must not make this grow for ever.
        if len(self._last) >= KEYS_KEPT:
            self._last.clear()
        self._last[key] = now
        return True


class TokenBucket:
    """`rate` per second, at most `burst` saved up; `saved` at the start (default: all)."""

    __slots__ = ("rate", "burst", "left", "at")

    def __init__(self, rate: float, burst: float, saved: float | None = None) -> None:
        self.rate, self.burst, self.at = rate, burst, time.monotonic()
        self.left = burst if saved is None else saved

    def take(self, n: float) -> float:
        """Take `n`, into debt if need be; returns the seconds until the debt is paid, 0 when there is none."""
        now = time.monotonic()
        self.left = min(self.burst, self.left + (now - self.at) * self.rate) - n
        self.at = now
        return max(0.0, -self.left / self.rate)

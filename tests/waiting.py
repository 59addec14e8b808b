"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
PAUSE_S = 0.005


def until(look: Callable[[], Found], what: str = "it", patience_s: float = 60.0) -> Found:
    """The first true answer of `look`; an error that names `what` when there is none in time."""
    deadline_s = time.monotonic() + patience_s
    while not (found := look()):
        assert time.monotonic() < deadline_s, f"{what}: not within {patience_s:.0f} s"
        time.sleep(PAUSE_S)
    return found

"""Runs the parts of one U-Net call at once: the calling thread takes the first, threads kept for it the others.

Knows nothing of tensors. The plain twin is a call that is not split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Spread:
    """Call it with functions; it returns their results in order. `close` ends its threads."""

    def __init__(self, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="frameloom rows")

    def __call__(self, parts: Sequence[Callable[[], Result]]) -> list[Result]:
        """The results of `parts`; the first part's error, if any, is raised after all have ended."""
        others = [self._pool.submit(part) for part in parts[1:]]
        try:
            first = parts[0]()
        finally:
            for other in others:
                other.exception()  # waits: no part may still read what the caller is about to reuse
        return [first, *(other.result() for other in others)]

    def close(self) -> None:
        """End the threads once their work is done."""
        self._pool.shutdown()

"""Streams of a CUDA card: what lets the stages of neighbouring frames run at the same time on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Streams:
    """A stream for each lane. Work counts as done when the card has done it: then times are true, queues hold work and
    not promises, and whoever comes after needs no further event.

    The memory of a tensor goes back to the stream that it was made on as soon as nobody holds it. Work holds what it
    was given until it is done, so no other stream can still be reading then.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lanes: dict[str, tuple[torch.cuda.Stream, torch.cuda.Event]] = {}

    def run(self, lane: str, work: Callable[[], Any]) -> Any:
        """Do it on the lane's stream, and wait. Each lane is used by one thread at a time."""
        with torch.cuda.device(self._device):
            if lane not in self._lanes:
                # An event that is waited for asleep: the other threads need the processor.
                self._lanes[lane] = (torch.cuda.Stream(self._device), torch.cuda.Event(blocking=True))
            stream, event = self._lanes[lane]
            try:
                with torch.cuda.stream(stream):
                    return work()
            finally:
                event.record(stream)
                event.synchronize()

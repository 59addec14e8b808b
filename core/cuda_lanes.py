"""Lanes whose work runs on a card, each on a CUDA stream of its own.

Work is done when the card has done it: whoever runs it waits for that, asleep, before its mark is done. So marks,
times, bounds and newest-wins mean work and not its being asked for, an error belongs to the stage that made it, and
what one lane hands to another needs no event beside the mark.

Nor does its memory need one. torch gives a block that is freed to the next work of the stream that it was made on,
which would be too early while another stream still reads it; but the work that reads it holds it, by what it closes
over, until the card is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from core.lanes import Buffers, Lanes, Mark

Place = Callable[[], AbstractContextManager[None]]
"""Opens where a lane's work runs; closing it waits until the work is done there."""


class DeviceLanes:
    """Other lanes, with the work of some of them somewhere else.

    lanes: say which thread asks for the work, and in which order. places: by lane; of the others the work is the
    thread's own.
    """

    def __init__(self, lanes: Lanes, places: dict[str, Place]) -> None:
        self._lanes = lanes
        self._places = places

    def run(
        self, lane: str, work: Callable[[], Any], *, after: Iterable[Mark] = (), reads: Buffers, writes: Buffers
    ) -> Mark:
        """See `core.lanes.Lanes.run`."""
        place = self._places.get(lane)
        if place is None:
            return self._lanes.run(lane, work, after=after, reads=reads, writes=writes)

        def there() -> Any:
            with place():
                return work()

        return self._lanes.run(lane, there, after=after, reads=reads, writes=writes)

    def close(self) -> None:
        """See `core.lanes.Lanes.close`."""
        self._lanes.close()


def cuda_lanes(lanes: Lanes, device: torch.device, stages: Iterable[str]) -> Lanes:
    """These lanes, with the work of the stages on CUDA streams of their own."""
    return DeviceLanes(lanes, {stage: cuda_place(device) for stage in stages})


def cuda_place(device: torch.device) -> Place:
    """A new CUDA stream. For one piece of work at a time."""
    stream = torch.cuda.Stream(device)
    end = torch.cuda.Event(blocking=True)

    @contextlib.contextmanager
    def place() -> Iterator[None]:
        with torch.cuda.stream(stream):
            try:
                yield
            finally:
                # After an error, too: what was given to the card before it still reads its inputs.
                end.record(stream)
                end.synchronize()

    return place

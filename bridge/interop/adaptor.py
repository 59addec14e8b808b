"""What an adaptor is: two small objects that read and write pictures where another program keeps them.

Formats of other programs carry no frame number, so whether a picture is new can only be seen by looking at it
(`Novelty`). Knows nothing of rings' files, of threads or of any one format. Standard library and numpy only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bridge.control.limits import OncePer
from bridge.ring.header import Frame
from bridge.ring.layout import ColourSpace, Format, Origin

Array = np.ndarray[Any, np.dtype[Any]]

TELL_AGAIN_S = 30.0
"""The same sentence is told at most once in so many seconds."""
FULL_LOOK_S = 0.03
FULL_LOOK_SHARE = 0.05
"""A change that the sample misses is seen after so many seconds, or later where looking would take more than this share
of the time."""
SAMPLES = 2048


class AdaptorError(Exception):
    """An adaptor cannot be set up. The message says how to fix it."""


@dataclass(frozen=True)
class TakenPicture:
    """One picture of another program. pixels: (height, width, channels) or (height, width), valid until the next
    poll."""

    pixels: Array
    format: Format
    origin: Origin = Origin.TOP_LEFT
    colour_space: ColourSpace = ColourSpace.SRGB


class InputEndpoint(Protocol):
    """Where pictures come from."""

    def poll(self, again: bool = False) -> TakenPicture | None:
        """The picture there is now if it is a new one (with `again` in any case); None otherwise. Never waits longer
        than a few milliseconds, whatever the other side does."""

    def blank(self) -> TakenPicture | None:
        """A picture of the size that is wanted, where none is there and none is needed; None where no size is known."""

    def switch(self, name: str) -> None:
        """Take the pictures of the memory called `name`, checked before, from now on."""

    def close(self) -> None:
        """Let go; harmless when closed already."""


class OutputEndpoint(Protocol):
    """Where results go. name: of the memory that holds the last one."""

    name: str

    def put(self, frame: Frame) -> bool:
        """Hand over the colour plane of `frame`; False when that had to be skipped. Never waits longer than a few
        milliseconds."""

    def close(self) -> None:
        """Tell the other side that nothing more will come; harmless when closed already."""


class Notices:
    """Tells the user each thing once, and again when it lasts."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._once = OncePer(TELL_AGAIN_S)

    def tell(self, text: str) -> None:
        """Say `text` unless it was said in the last `TELL_AGAIN_S` seconds."""
        if self._once.may(text):
            self._say(text)


class Novelty:
    """Whether bytes that somebody else keeps writing have changed since they were last kept.

    Most looks compare `SAMPLES` bytes spread over the picture; every `FULL_LOOK_S` seconds or so one compares all.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._kept = np.empty(0, np.uint8)
        self._full_at = 0.0

    def changed(self, key: object, now: Array) -> bool:
        """key: size and format, any hashable. now: the bytes as they are now, uint8, one dimension."""
        if key != self._key or now.size != self._kept.size:
            return True
        # An odd stride visits every column of pictures whose rows are powers of two.
        stride = (now.size // SAMPLES) | 1
        if not np.array_equal(now[::stride], self._kept[::stride]):
            return True
        at = time.monotonic()
        if at < self._full_at:
            return False
        words = now.size // 8 * 8
        same = np.array_equal(now[:words].view(np.uint64), self._kept[:words].view(np.uint64)) and np.array_equal(
            now[words:], self._kept[words:]
        )
        done = time.monotonic()
        self._full_at = done + max(FULL_LOOK_S, (done - at) / FULL_LOOK_SHARE)
        return not same

    def keep(self, key: object, now: Array) -> Array:
        """Copy the bytes, which then count as known. Returns the copy, valid until the next call."""
        if now.size != self._kept.size:
            self._kept = np.empty(now.size, np.uint8)
        self._key = key
        self._kept[:] = now
        return self._kept


def copy_rgb(target: Array, rows: Array) -> None:
    """Copy red, green and blue of `rows` into `target`, (height, width, 3 or more channels) both."""
    # Channel by channel: numpy copies groups of three bytes six times slower.
    for channel in range(3):
        target[..., channel] = rows[..., channel]

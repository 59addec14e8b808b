"""Adaptor `sdtd`: the frames of StreamDiffusionTD projects, raw RGB bytes in shared memory without any header.

    --input sdtd:NAME:WIDTHxHEIGHT      the project's input memory
    --output sdtd:NAME[:WIDTHxHEIGHT]   the project's output memory

Rows from the top, three bytes a pixel, no number, no lock. So size and name are given here, whether a picture is new
is seen by looking at it, and a picture is copied until two readings agree, which makes a torn one rare and not
impossible. The memory is attached to by a plain mapping: Python's `multiprocessing.shared_memory` would delete what it
does not own.
Knows nothing of OSC (`streamdiffusiontd_osc`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import numpy as np

from bridge.interop.adaptor import AdaptorError, Notices, Novelty, TakenPicture, copy_rgb
from bridge.interop.named_memory import AlreadyThere, NamedMemory, check_name, create_memory, open_memory
from bridge.ring.header import Frame
from bridge.ring.layout import Format, Kind, Origin

LOOK_S = 0.25
"""How often memory that is not there is looked for."""
REST_S = 2.0
"""After so long without a new picture the memory is let go between looks: while it is open here, a project that was
started anew could not make its own (Windows)."""
SPARE_BYTES = 65536
"""Memory may be longer than the picture by the system's rounding; beyond this the size given is probably wrong."""
READINGS = 3
"""How often a picture that changes while it is copied is copied anew."""
MAX_SIDE_PX = 8192
GREY = 128
MAX_NAMES = 1000
"""So many names NAME_1, NAME_2 are tried for an output before it is given up."""
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


class SdtdInput:
    """Reads raw RGB of `width` x `height` pixels in the memory called `name`."""

    def __init__(self, name: str, width: int, height: int, say: Callable[[str], None]) -> None:
        self.name = check_name(name)
        self._shape = (height, width, 3)
        self._bytes = width * height * 3
        self._notices = Notices(say)
        self._novelty = Novelty()
        self._memory: NamedMemory | None = None
        self._look_at = 0.0
        self._news_at = 0.0

    def poll(self, again: bool = False) -> TakenPicture | None:
        """See `bridge.interop.adaptor.InputEndpoint`."""
        memory = self._memory
        if memory is not None and not memory.current():
            # Made anew by a restarted project: the old mapping would show its last picture for ever.
            self.close()
            memory = None
        if memory is None:
            memory = self._attach()
            if memory is None:
                return None
        now = memory.bytes[: self._bytes]
        if not again and not self._novelty.changed(None, now):
            if time.monotonic() - self._news_at > REST_S:
                self.close()
            return None
        self._news_at = time.monotonic()
        kept = self._novelty.keep(None, now)
        for _ in range(READINGS - 1):
            if np.array_equal(kept, now):
                break
            kept = self._novelty.keep(None, now)
        return TakenPicture(kept.reshape(self._shape), Format.RGB8)

    def blank(self) -> TakenPicture:
        """See `bridge.interop.adaptor.InputEndpoint`."""
        return TakenPicture(np.full(self._shape, GREY, np.uint8), Format.RGB8)

    def switch(self, name: str) -> None:
        """See `bridge.interop.adaptor.InputEndpoint`."""
        self.close()
        self.name, self._look_at = name, 0.0
        self._novelty = Novelty()

    def _attach(self) -> NamedMemory | None:
        at = time.monotonic()
        if at < self._look_at:
            return None
        self._look_at = at + LOOK_S
        try:
            memory = open_memory(self.name)
        except AdaptorError as error:
            self._notices.tell(f"sdtd: {error}")
            return None
        if memory is None:
            self._notices.tell(f"waiting for shared memory {self.name} (the project's input memory name)")
            return None
        if memory.bytes.size < self._bytes:
            height, width, _ = self._shape
            self._notices.tell(
                f"shared memory {self.name} has {memory.bytes.size} bytes, too few for {width}x{height} RGB; "
                f"give the project's size: sdtd:{self.name}:WIDTHxHEIGHT"
            )
            memory.close()
            return None
        if memory.bytes.size >= self._bytes + SPARE_BYTES:
            self._notices.tell(
                f"shared memory {self.name} has {memory.bytes.size} bytes, {memory.bytes.size - self._bytes} more than "
                "the size given needs; if the picture is skewed, give the project's own size"
            )
        self._memory = memory
        return memory

    def close(self) -> None:
        """See `bridge.interop.adaptor.InputEndpoint`."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None


class SdtdOutput:
    """Writes raw RGB into the memory called `name`, made here unless the project has made it.

    Where that is too small, as after results have grown, the next free one of NAME_1, NAME_2, ... is made and `name`
    changes: who has the old memory open would go on to read it, and on Windows keeps it from being made anew.

    size: (width, height) that the project expects; None takes the size of the results.
    """

    def __init__(self, name: str, size: tuple[int, int] | None, say: Callable[[str], None]) -> None:
        self.name = self._asked_for = check_name(name)
        self._size = size
        self._say = say
        self._notices = Notices(say)
        self._memory: NamedMemory | None = None
        self._made = False

    def put(self, frame: Frame) -> bool:
        """See `bridge.interop.adaptor.OutputEndpoint`."""
        pixels = frame.planes.get(Kind.COLOUR)
        if pixels is None or frame.formats[Kind.COLOUR] not in (Format.RGBA8, Format.RGB8):
            self._notices.tell(f"sdtd:{self.name}: only 8-bit RGB results can be sent there")
            return False
        height, width = pixels.shape[:2]
        if self._size is not None and (width, height) != self._size:
            wanted = f"{self._size[0]}x{self._size[1]}"
            self._notices.tell(
                f"sdtd:{self.name}: results are {width}x{height}, the project expects {wanted}; "
                f"start the host with --size {wanted}"
            )
            return False
        try:
            memory = self._room(width * height * 3)
        except AdaptorError as error:
            self._notices.tell(f"sdtd:{self.name}: {error}")
            return False
        rows = pixels[::-1] if frame.origin is Origin.BOTTOM_LEFT else pixels
        copy_rgb(memory.bytes[: height * width * 3].reshape(height, width, 3), rows)
        return True

    def _room(self, size: int) -> NamedMemory:
        memory = self._memory
        if memory is not None and memory.current() and memory.bytes.size >= size:
            return memory
        grown = memory is not None and memory.current()
        # The number of the memory that was too small, where it has one: names are not used twice.
        first = int(self.name[len(self._asked_for) + 1 :] or 0) + grown
        self.close()
        for number in range(first, first + MAX_NAMES):
            name = f"{self._asked_for}_{number}" if number else self._asked_for
            found, made = _make_or_open(check_name(name), size)
            if found is None:
                raise AdaptorError(f"memory {name} went away while it was opened; trying again")
            if found.bytes.size < size:
                found.close()
                continue
            if name != self.name:
                self._say(f"sdtd: results are in shared memory {name} now; {self.name} is too small for them")
            self.name, self._memory, self._made = name, found, made
            return found
        raise AdaptorError(f"{MAX_NAMES} memories of that name are there, all too small; give another name")

    def close(self) -> None:
        """See `bridge.interop.adaptor.OutputEndpoint`."""
        if self._memory is not None:
            if self._made:
                self._memory.remove()
            else:
                self._memory.close()
            self._memory = None


def _make_or_open(name: str, size: int) -> tuple[NamedMemory | None, bool]:
    """The memory of that name and whether it was made here; None where it vanished meanwhile. Raises AdaptorError."""
    try:
        return create_memory(name, size), True
    except AlreadyThere:
        return open_memory(name), False


def _size_of(rest: str, text: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(text)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(1 <= side <= MAX_SIDE_PX for side in size):
        raise AdaptorError(f"sdtd:{rest}: write sdtd:NAME:WIDTHxHEIGHT, such as sdtd:input_stream:512x512")
    return size


def open_input(rest: str, say: Callable[[str], None]) -> SdtdInput:
    """From what stands after `sdtd:`. Raises AdaptorError."""
    name, _, size = rest.rpartition(":")
    return SdtdInput(name, *_size_of(rest, size), say)


def open_output(rest: str, say: Callable[[str], None]) -> SdtdOutput:
    """From what stands after `sdtd:`. Raises AdaptorError."""
    name, separator, size = rest.partition(":")
    return SdtdOutput(name, _size_of(rest, size) if separator else None, say)

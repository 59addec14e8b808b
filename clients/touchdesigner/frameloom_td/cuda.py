"""The input's picture from the graphics card into a slot without passing through floats. Not tried on hardware.

TouchDesigner copies the texture into CUDA memory; the driver copies that into the ring's slot, which it was told to
treat as pinned memory; a frame later, when the driver says that the copy is done, the slot is published. The driver is
the one that TouchDesigner's process has loaded already; no CUDA runtime of our own is brought in.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from bridge.ring import Format, Kind, PlaneSpec, SlotInHand
from frameloom_td.frames import Array, GivenUp, Sender, describe

_NOT_READY = 600
_NON_BLOCKING = 1
_NO_TIMING = 2


class CudaRefused(RuntimeError):
    """The CUDA path cannot work here; the message says why."""


class Driver:
    """The few calls of the CUDA driver that are needed, on a stream of its own in the calling thread's context."""

    def __init__(self) -> None:
        name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError:
            raise CudaRefused(f"CUDA Input: no NVIDIA driver on this machine ({name})") from None
        context = ctypes.c_void_p()
        if self._library.cuCtxGetCurrent(ctypes.byref(context)) != 0 or not context.value:
            raise CudaRefused("CUDA Input: TouchDesigner has no CUDA context on its main thread")
        stream, event = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        self._call("cuEventCreate", ctypes.byref(event), _NO_TIMING)
        self._event = event
        self._stream = stream
        self.stream = int(stream.value or 0)
        """The handle that TouchDesigner's cudaMemory takes."""

    def _call(self, name: str, *words: Any) -> None:
        status = self._library[name](*words)
        if status != 0:
            raise CudaRefused(f"CUDA Input: {name} answers {status}")

    def register(self, pixels: Array) -> None:
        """Pin the memory of an array."""
        self._call("cuMemHostRegister_v2", ctypes.c_void_p(pixels.ctypes.data), ctypes.c_size_t(pixels.nbytes), 0)

    def unregister(self, pixels: Array) -> None:
        """Undo `register`."""
        self._call("cuMemHostUnregister", ctypes.c_void_p(pixels.ctypes.data))

    def start_copy(self, pixels: Array, source: int) -> None:
        """Begin to fill a pinned array from device memory."""
        target, count = ctypes.c_void_p(pixels.ctypes.data), ctypes.c_size_t(pixels.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(source), count, self._stream)
        self._call("cuEventRecord", self._event, self._stream)

    def done(self) -> bool:
        """Whether the copy is complete; does not wait."""
        status = self._library.cuEventQuery(self._event)
        if status not in (0, _NOT_READY):
            raise CudaRefused(f"CUDA Input: the copy failed ({status})")
        return bool(status == 0)

    def finish(self) -> None:
        """Wait for the copy under way; on leaving only."""
        self._call("cuStreamSynchronize", self._stream)


class Capture:
    """Fills slots of a `Sender` by CUDA. Raises CudaRefused where that cannot work."""

    def __init__(self, sender: Sender, driver: Any = None) -> None:
        self._sender = sender
        self._driver = Driver() if driver is None else driver
        self._pinned: dict[int, Array] = {}
        self._holding = ExitStack()
        self._memory: Any = None

    def frame_end(self, top: Any, capture_ns: int, source_frame_id: int) -> None:
        """Publish the slot that is full; if none is being filled, begin to fill one with the TOP's present picture."""
        if self._memory is not None:
            if not self._driver.done():
                return
            self._memory = None
            self._holding.close()
            self._sender.sent += 1
        spec = PlaneSpec(Kind.COLOUR, Format.BGRA8, top.width, top.height)
        if not self._sender.ready(spec):
            return
        memory = top.cudaMemory(stream=self._driver.stream)
        shape = memory.shape
        if np.dtype(shape.dataType) != np.uint8 or shape.numComps != 4 or shape.depth > 1:
            raise CudaRefused(
                f"CUDA Input: the input has {shape.numComps} channels of {shape.dataType}, not 4 of uint8"
            )
        spec = PlaneSpec(Kind.COLOUR, Format.BGRA8, shape.width, shape.height)
        if not self._sender.ready(spec):
            return
        hand: SlotInHand = self._holding.enter_context(self._sender.slot(spec))
        describe(hand, capture_ns, source_frame_id, linear=False)
        pixels = hand.planes[Kind.COLOUR]
        if memory.size != pixels.nbytes:
            raise CudaRefused(f"CUDA Input: {memory.size} bytes arrive where {pixels.nbytes} were expected")
        self._pin(pixels)
        self._driver.start_copy(pixels, memory.ptr)
        self._memory = memory

    def _pin(self, pixels: Array) -> None:
        """Pin a slot's memory once. The views are kept, and with them the mapping, until `close`."""
        known = self._pinned.get(pixels.ctypes.data)
        if known is not None and known.nbytes >= pixels.nbytes:
            return
        if known is not None:
            self._driver.unregister(known)
        self._driver.register(pixels)
        self._pinned[pixels.ctypes.data] = pixels

    def close(self) -> None:
        """Give up the slot in hand and unpin everything. A driver that fails here was reported before."""
        with suppress(CudaRefused):
            if self._memory is not None:
                self._driver.finish()
        self._memory = None
        # Whatever is in the slot, nobody has said that it is whole.
        with suppress(GivenUp), self._holding:
            raise GivenUp
        for pixels in self._pinned.values():
            with suppress(CudaRefused):
                self._driver.unregister(pixels)
        self._pinned.clear()

"""The input's picture from the graphics card into a slot without passing through floats. Not tried on hardware.

TouchDesigner copies the texture into CUDA memory; the driver copies that into the ring's slot, which it was told to
treat as pinned memory; a frame later, when the driver says that the copy is done, the slot is published. The driver is
the one that TouchDesigner's process has loaded already; no CUDA runtime of our own is brought in.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from bridge.ring import Format, Kind, PlaneSpec, SlotInHand
from frameloom_td.frames import Array, GivenUp, Sender, describe

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NOT_READY = 600
_NON_BLOCKING = 1
_NO_TIMING = 2
_POINTER_DEVICE_ORDINAL = 9


class CudaRefused(RuntimeError):
    """The CUDA path cannot work here; the message says why."""


class Driver:
    """The few calls of the CUDA driver that are needed, on a stream of its own.

    TouchDesigner's main thread has no current context outside TouchDesigner's own calls. So `attach` retains the
    primary context of the card, in which TouchDesigner's CUDA memory lies, and every call makes it current for itself
    alone. Raises CudaRefused.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError:
            raise CudaRefused(f"CUDA Input: no NVIDIA driver on this machine ({library})") from None
        self._device = ctypes.c_int()
        self._context = ctypes.c_void_p()
        self._stream = ctypes.c_void_p()
        self._event = ctypes.c_void_p()
        self._call("cuInit", 0)

    @property
    def stream(self) -> int:
        """The handle that TouchDesigner's cudaMemory takes; 0 before `attach`."""
        return int(self._stream.value or 0)

    def _status(self, name: str, *words: Any) -> int:
        return int(getattr(self._library, name)(*words))

    def _call(self, name: str, *words: Any) -> None:
        status = self._status(name, *words)
        if status != 0:
            raise CudaRefused(f"CUDA Input: {name} answers {status}")

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Our context, in place of the thread's own for the length of the block."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def attach(self, pointer: int) -> None:
        """Use the card that this device memory of TouchDesigner's lies on."""
        ordinal = ctypes.c_int()
        address = ctypes.c_uint64(pointer)
        self._call("cuPointerGetAttribute", ctypes.byref(ordinal), _POINTER_DEVICE_ORDINAL, address)
        self._call("cuDeviceGet", ctypes.byref(self._device), ordinal)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        with self._current():
            self._call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
            self._call("cuEventCreate", ctypes.byref(self._event), _NO_TIMING)

    def register(self, pixels: Array) -> None:
        """Pin the memory of an array."""
        with self._current():
            self._call("cuMemHostRegister_v2", ctypes.c_void_p(pixels.ctypes.data), ctypes.c_size_t(pixels.nbytes), 0)

    def unregister(self, pixels: Array) -> None:
        """Undo `register`."""
        with self._current():
            self._call("cuMemHostUnregister", ctypes.c_void_p(pixels.ctypes.data))

    def start_copy(self, pixels: Array, source: int) -> None:
        """Begin to fill a pinned array from device memory."""
        target, count = ctypes.c_void_p(pixels.ctypes.data), ctypes.c_size_t(pixels.nbytes)
        with self._current():
            self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(source), count, self._stream)
            self._call("cuEventRecord", self._event, self._stream)

    def done(self) -> bool:
        """Whether the copy is complete; does not wait."""
        with self._current():
            status = self._status("cuEventQuery", self._event)
        if status not in (0, _NOT_READY):
            raise CudaRefused(f"CUDA Input: the copy failed ({status})")
        return status == 0

    def finish(self) -> None:
        """Wait for the copy under way; on leaving only."""
        with self._current():
            self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give everything back, in the order against that in which it was had. Harmless before `attach`, and twice."""
        if not self._context.value:
            return
        with suppress(CudaRefused), self._current():
            for name, handle in (("cuEventDestroy_v2", self._event), ("cuStreamDestroy_v2", self._stream)):
                if handle.value:
                    self._status(name, handle)
        self._status("cuDevicePrimaryCtxRelease_v2", self._device)
        self._context, self._stream, self._event = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()


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
        if not self._driver.stream:
            # This picture only tells on which card TouchDesigner's pictures lie.
            self._driver.attach(top.cudaMemory().ptr)
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
        self._driver.close()

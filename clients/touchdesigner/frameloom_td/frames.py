"""Pixels between TouchDesigner's arrays and the rings, one pass over the pixels each way.

TouchDesigner gives float32 RGBA, bottom row first, and takes uint8 or float32, bottom row first. Nothing here waits:
what takes longer than a copy (making or enlarging a ring, waiting for its lock) runs on the thread that is handed in.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from concurrent.futures import Executor, Future
from statistics import median
from typing import Any

import numpy as np

from bridge.ring import (
    ColourSpace,
    Format,
    Frame,
    Kind,
    Origin,
    PlaneSpec,
    RingError,
    RingReader,
    RingWriter,
    SlotInHand,
    State,
    now_ns,
)
from bridge.ring.colour import CHANNELS

Array = np.ndarray[Any, np.dtype[Any]]

MAX_PIXELS = 8192 * 8192
RETRY_S = 2.0
"""After a ring could not be opened the next try comes so much later."""
_SAMPLES = 32
"""A picture is looked at in so many rows and columns for what would surprise its sender."""
_BINS = np.float32(255.999)
"""Truncating v * 255.999 gives k for every float32 k / 255, so 8-bit pictures pass exactly, in a single pass."""
_RATE_S = 2.0


class GivenUp(Exception):
    """Raised to leave a slot unpublished."""


def to_bytes(pixels: Array, out: Array) -> None:
    """float 0..1 to uint8 0..255, in one pass without a buffer of the picture's size.

    `pixels` must lie in 0..1: the In TOP's 8-bit format sees to that on the GPU. Anything else goes to `clip_to_bytes`.
    """
    np.multiply(pixels, _BINS, out=out, casting="unsafe", dtype=np.float32)


def clip_to_bytes(pixels: Array, out: Array) -> None:
    """The same for any floats: values beyond 0..1 are clamped, NaN is 0. Row by row, so that the rows stay in cache."""
    row = np.empty(pixels.shape[1:], np.float32)
    for source, target in zip(pixels, out, strict=True):
        # In this order: fmax turns NaN into its other operand.
        np.fmax(source, np.float32(0), out=row)
        np.fmin(row, np.float32(1), out=row)
        to_bytes(row, target)


def complaint(pixels: Array) -> str:
    """What is odd about float RGBA pixels, from a look at some of them; empty when nothing is."""
    step_y, step_x = (max(1, side // _SAMPLES) for side in pixels.shape[:2])
    some = pixels[::step_y, ::step_x]
    if not np.isfinite(some).all():
        return "input has NaN or infinite pixels, sent as 0 or 1; look for a division by zero before the component"
    if not some[..., 3].any():
        return "input is transparent (alpha 0): only its colours are sent; put it over a background if they are black"
    return ""


class Sender:
    """Writes CHANNEL.in. `send` is called once per frame, from one thread.

    errands: a single thread for what would hold up the caller. directory: for file-backed rings.
    """

    def __init__(self, channel: str, errands: Executor, directory: str | None = None) -> None:
        self.channel = channel
        self.sent = 0
        self.error = ""
        self._directory = directory
        self._errands = errands
        self._writer: RingWriter | None = None
        self._errand: Future[RingWriter] | None = None
        self._retry_s = 0.0

    def ready(self, spec: PlaneSpec) -> bool:
        """Whether a frame of this kind can be written now; if not, what is missing is being seen to meanwhile."""
        if self._errand is not None:
            if not self._errand.done():
                return False
            errand, self._errand = self._errand, None
            try:
                self._writer = errand.result()
                self.error = ""
            except (RingError, OSError) as error:
                self.fail(error)
        if self._writer is None:
            if time.monotonic() >= self._retry_s:
                self._errand = self._errands.submit(self._open, spec)
        elif _bytes_of(spec) > self._writer.capacity_bytes:
            self._errand = self._errands.submit(_enlarge, self._writer, spec)
            self._writer = None
        return self._writer is not None

    def _open(self, spec: PlaneSpec) -> RingWriter:
        most = MAX_PIXELS * 16
        return RingWriter(self.channel, _bytes_of(spec), directory=self._directory, max_capacity_bytes=most)

    def slot(self, spec: PlaneSpec) -> contextlib.AbstractContextManager[SlotInHand]:
        """A slot of `CHANNEL.in` to fill; only when `ready`. Raises RingError."""
        assert self._writer is not None
        return self._writer.slot([spec])

    def send(self, pixels: Array, capture_ns: int, source_frame_id: int, *, linear: bool, odd: bool) -> bool:
        """Publish float32 RGBA pixels (height, width, 4), bottom row first. False when this frame was left out.

        linear: send the floats as they are, as linear light; else as 8-bit display-referred colours. odd: the values
        may lie beyond 0..1.
        """
        height, width = pixels.shape[:2]
        spec = PlaneSpec(Kind.COLOUR, Format.RGBA32F if linear else Format.RGBA8, width, height)
        if not self.ready(spec):
            return False
        try:
            with self.slot(spec) as hand:
                target = hand.planes[Kind.COLOUR]
                if linear:
                    np.copyto(target, pixels)
                else:
                    (clip_to_bytes if odd else to_bytes)(pixels, target)
                describe(hand, capture_ns, source_frame_id, linear=linear)
        except RingError as error:
            self.fail(error)
            return False
        self.sent += 1
        return True

    def fail(self, error: Exception) -> None:
        """Remember what went wrong, let the ring go and try again in a while."""
        self.error = str(error)
        self._retry_s = time.monotonic() + RETRY_S
        if self._writer is not None:
            self._errands.submit(self._writer.close)
            self._writer = None

    def close(self) -> None:
        """Leave the channel; an errand under way is seen to its end by its own thread."""
        if self._errand is not None:
            self._errand.add_done_callback(_close_result)
        if self._writer is not None:
            self._writer.close()
        self._errand = self._writer = None


def describe(hand: SlotInHand, capture_ns: int, source_frame_id: int, *, linear: bool) -> None:
    """How a slot describes a picture of TouchDesigner's: rows are not turned over, the origin says which is first."""
    hand.origin = Origin.BOTTOM_LEFT
    hand.colour_space = ColourSpace.LINEAR if linear else ColourSpace.SRGB
    hand.capture_ns, hand.source_frame_id = capture_ns, source_frame_id


def _bytes_of(spec: PlaneSpec) -> int:
    return spec.width * spec.height * (16 if spec.format == Format.RGBA32F else 4)


def _enlarge(writer: RingWriter, spec: PlaneSpec) -> RingWriter:
    try:
        with contextlib.suppress(GivenUp), writer.slot([spec]):
            raise GivenUp
    except BaseException:
        writer.close()
        raise
    return writer


def _close_result(errand: Future[RingWriter]) -> None:
    if not errand.cancelled() and errand.exception() is None:
        errand.result().close()


class Receiver:
    """Reads CHANNEL.out: the newest picture, turned to TouchDesigner's order of rows, in `picture`.

    A reader takes its copy from a pinned slot, so one pass over the pixels is all. Only when more readers than the ring
    has pins for hold pictures does the ring make a copy of its own first.
    """

    def __init__(self, channel: str, directory: str | None = None) -> None:
        self.picture: Array | None = None
        """uint8 or float32 (height, width, 1, 3 or 4), bottom row first; None before the first."""
        self.frame: Frame | None = None
        """What the ring says of `picture`; its planes are not to be touched."""
        self.received = 0
        self.latency_ms = 0.0
        """From the capture of its source to the moment it was taken; `usual_latency_ms` is the median of the last."""
        self.error = ""
        self.taken_s = 0.0
        self._reader = RingReader(channel, directory=directory)
        self._times: deque[float] = deque(maxlen=512)
        self._latencies_ms: deque[float] = deque(maxlen=31)

    def take(self) -> bool:
        """Take the newest picture if there is a new one."""
        try:
            with self._reader.latest(timeout_s=0.0) as frame:
                if frame is None:
                    return False
                plane = frame.planes.get(Kind.COLOUR)
                if plane is None:
                    self.error = f"{self._reader.channel} sends frames without a colour plane"
                    return False
                self._copy(frame, plane)
        except (RingError, OSError) as error:
            self.error = str(error)
            return False
        if not frame.valid:
            return False
        self.error = ""
        frame.planes.clear()
        self.frame = frame
        self.received += 1
        self.taken_s = time.monotonic()
        self._times.append(self.taken_s)
        self.latency_ms = max(0, now_ns() - frame.capture_ns) / 1e6
        self._latencies_ms.append(self.latency_ms)
        return True

    def _copy(self, frame: Frame, plane: Array) -> None:
        rows = plane if frame.origin == Origin.BOTTOM_LEFT else plane[::-1]
        if rows.ndim == 2:
            rows = rows[:, :, None]
        kind = np.uint8 if rows.dtype == np.uint8 else np.float32
        out = self.picture
        if out is None or out.shape != rows.shape or out.dtype != kind:
            out = self.picture = np.empty(rows.shape, kind)
        order = CHANNELS[frame.formats[Kind.COLOUR]]
        if rows.shape[2] < 3 or order[:3] == (0, 1, 2):
            np.copyto(out, rows)
            return
        for place, channel in enumerate(order[: rows.shape[2]]):
            np.copyto(out[..., place], rows[..., channel])

    @property
    def state(self) -> State:
        """What is known of the host that writes the channel. Raises RingError, OSError."""
        return self._reader.state

    @property
    def generation(self) -> int:
        """Another number means another life of the host; 0 before the first."""
        return self._reader.generation

    @property
    def fps(self) -> float:
        """New pictures per second, lately."""
        now = time.monotonic()
        while self._times and now - self._times[0] > _RATE_S:
            self._times.popleft()
        span = now - self._times[0] if len(self._times) > 1 else 0.0
        return (len(self._times) - 1) / span if span > 0 else 0.0

    @property
    def usual_latency_ms(self) -> float:
        """The median latency of the last pictures."""
        return median(self._latencies_ms) if self._latencies_ms else 0.0

    def close(self) -> None:
        """Let go of the channel."""
        self._reader.close()

"""What the calibration commands have in common: a ring's frames as pictures and clouds, and recording two channels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridge.ring import Frame, Kind, Origin, RingError, RingReader
from bridge.ring.colour import rgb8
from bridge.terminal import say, status, status_every_s

Array = np.ndarray[Any, np.dtype[Any]]

FIRST_FRAME_S = 60.0
"""How long to wait for both channels to begin."""
SILENT_S = 5.0
"""A channel that has begun and gives nothing for so long has ended."""
READ_S = 0.1
REPORT_S = 5.0


def upright(frame: Frame, kind: Kind) -> Array | None:
    """One plane with row 0 on top; motion then points down in rows that were turned over."""
    plane = frame.planes.get(kind)
    if plane is None or frame.origin != Origin.BOTTOM_LEFT:
        return plane
    turned = plane[::-1]
    return turned * np.array([1, -1], turned.dtype) if kind == Kind.MOTION else turned


def picture_of(frame: Frame) -> Array | None:
    """uint8 RGB (H,W,3), row 0 on top; None where the frame has no colour plane."""
    if Kind.COLOUR not in frame.planes:
        return None
    return rgb8(frame.planes[Kind.COLOUR], frame.formats[Kind.COLOUR], frame.origin, frame.colour_space)


def points_of(frame: Frame) -> Array | None:
    """float32 (n,4): x, y, z, intensity, in the order of the plane's rows."""
    plane = frame.planes.get(Kind.POINTS)
    return None if plane is None else np.asarray(plane, np.float32).reshape(-1, 4)


def follow(channel: str, take: Callable[[Frame], None], stop: threading.Event) -> None:
    """Gives every frame of NAME.in that this thread is fast enough for to `take`, until `stop`. Raises RingError."""
    with RingReader(f"{channel}.in") as reader:
        while not stop.is_set():
            frame = reader.read(READ_S)
            if frame is not None:
                take(frame)


class RingFollower:
    """`follow` on a thread of its own; what it raises is kept in `error`."""

    def __init__(self, channel: str, take: Callable[[Frame], None], stop: threading.Event) -> None:
        self.error: Exception | None = None
        self._stop = stop
        self._thread = threading.Thread(target=self._run, args=(channel, take), name=f"read {channel}", daemon=True)
        self._thread.start()

    def _run(self, channel: str, take: Callable[[Frame], None]) -> None:
        try:
            follow(channel, take, self._stop)
        except Exception as error:  # the thread's outermost line: told by whoever joins it
            self.error = error
            self._stop.set()

    def join(self) -> None:
        """Ends it and raises what it raised."""
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error


@dataclass
class _Seen:
    """What has come of one channel: how many frames, span of their own stamps, and when the newest one came."""

    count: int = 0
    first_ns: int = 0
    last_ns: int = 0
    came_s: float = 0.0

    def add(self, stamp_ns: int) -> None:
        if not self.count:
            self.first_ns = stamp_ns
        self.last_ns = stamp_ns
        self.count += 1
        self.came_s = time.monotonic()


def record(camera: str, points: str, seconds: float, folder: Path, stop: threading.Event) -> None:
    """Write what comes through two channels into a folder that `RecordedFootage` reads.

    Ends when the pictures' own stamps span so many seconds, when a channel falls silent, or by `stop`. Raises
    FootageError, and RingError, also when a channel does not begin.
    """
    from core.calibration.footage import FootageWriter

    recorder = FootageWriter(folder)
    pictures, clouds = _Seen(), _Seen()

    def take_picture(frame: Frame) -> None:
        rgb = picture_of(frame)
        if rgb is None:
            return
        recorder.picture(
            rgb,
            frame.sequence,
            frame.capture_ns,
            frame.publish_ns,
            upright(frame, Kind.MASK),
            upright(frame, Kind.MOTION),
            frame.T_world_camera,
            frame.intrinsics,
        )
        pictures.add(frame.capture_ns)

    def take_cloud(frame: Frame) -> None:
        cloud = points_of(frame)
        if cloud is None:
            return
        recorder.cloud(cloud, frame.sequence, frame.capture_ns, frame.publish_ns)
        clouds.add(frame.capture_ns)

    ended = threading.Event()
    readers = [RingFollower(camera, take_picture, ended), RingFollower(points, take_cloud, ended)]
    try:
        _watch(camera, points, seconds, pictures, clouds, stop, ended)
    finally:
        # Both threads have to end before the tables are closed.
        ended.set()
        try:
            for reader in readers:
                reader.join()
        finally:
            recorder.close()
    say(f"calibrate: recorded {pictures.count} pictures and {clouds.count} clouds in {folder}")


def _watch(
    camera: str,
    points: str,
    seconds: float,
    pictures: _Seen,
    clouds: _Seen,
    stop: threading.Event,
    ended: threading.Event,
) -> None:
    started = reported = time.monotonic()
    while not stop.wait(READ_S) and not ended.is_set():
        now = time.monotonic()
        missing = [f"{name}.in" for name, seen in ((camera, pictures), (points, clouds)) if not seen.count]
        if missing and now - started > FIRST_FRAME_S:
            raise RingError(f"nothing comes through {' and '.join(missing)}; start what writes it, or check the name")
        if not missing:
            if (pictures.last_ns - pictures.first_ns) * 1e-9 >= seconds:
                return
            if now - min(pictures.came_s, clouds.came_s) > SILENT_S:
                say("calibrate: a channel has fallen silent; going on with what came")
                return
        if now - reported >= status_every_s(REPORT_S):
            reported = now
            waiting = f", waiting for {' and '.join(missing)}" if missing else ""
            status(f"calibrate: {pictures.count} pictures and {clouds.count} clouds so far{waiting}")

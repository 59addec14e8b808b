"""Sources that OpenCV opens: cameras, videos, pictures. It is imported here alone, and only when it is needed.

Colour is RGB, rows top to bottom.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridge.ring.clock import now_ns
from bridge.ring.layout import Kind
from bridge.sources.source import Array, SourceError
from bridge.terminal import say

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_FPS = 1000.0
"""A video that says to be faster is not believed."""
CAMERA_PATIENCE = 30
"""Reads in a row that a camera may fail before it counts as gone."""


def _opencv() -> Any:
    """OpenCV, loaded on first use; its own chatter is off because every failure here has a sentence of its own."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    cv2.setNumThreads(1)
    return cv2


def fit(picture_bgr: Array, size: tuple[int, int]) -> Array:
    """Centre crop to the shape of `size` (width, height), resize, and turn BGR, BGRA or grey uint8 into RGB."""
    cv2 = _opencv()
    width, height = size
    rows, columns = picture_bgr.shape[:2]
    keep_w = min(columns, max(1, round(rows * width / height)))
    keep_h = min(rows, max(1, round(columns * height / width)))
    x, y = (columns - keep_w) // 2, (rows - keep_h) // 2
    part = picture_bgr[y : y + keep_h, x : x + keep_w]
    if (keep_w, keep_h) != (width, height):
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if keep_w > width else cv2.INTER_LINEAR)
    if part.ndim == 2:
        return cv2.cvtColor(part, cv2.COLOR_GRAY2RGB)  # type: ignore[no-any-return]
    return cv2.cvtColor(part, cv2.COLOR_BGRA2RGB if part.shape[2] == 4 else cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]


class CameraSource:
    """A camera by its number, at its own rate; frames that nobody fetched in time are the driver's to drop."""

    def __init__(self, number: int, size: tuple[int, int], fps: float) -> None:
        cv2 = _opencv()
        self._number = number
        self._size = size
        self._camera = cv2.VideoCapture(number)
        if not self._camera.isOpened():
            raise SourceError(
                f"no camera {number}; plug one in, close the program that uses it, or name another one as camera:N"
            )
        self._camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self._camera.set(cv2.CAP_PROP_FPS, fps)

    def read(self, time_s: float) -> tuple[dict[Kind, Array], int]:
        del time_s
        for _ in range(CAMERA_PATIENCE):
            good, picture = self._camera.read()
            if good:
                captured_ns = now_ns()
                return {Kind.COLOUR: fit(picture, self._size)}, captured_ns
            time.sleep(0.03)
        raise SourceError(f"camera {self._number} gives no more frames; plug it in again and restart this source")

    def pose(self, time_s: float) -> None:
        return None

    def close(self) -> None:
        self._camera.release()


class VideoSource:
    """A video file in its own speed, for ever."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        cv2 = _opencv()
        self._path = path
        self._size = size
        try:
            str(path).encode()
        except UnicodeEncodeError:
            # OpenCV does not refuse such a name: it ends the process.
            raise SourceError(f"{str(path)!r}: this name cannot be read as text; rename the file") from None
        self._video = cv2.VideoCapture(str(path))
        if not self._video.isOpened():
            raise SourceError(f"{path} cannot be read as a video or a picture; convert it to mp4 (H.264) or png")
        rate = self._video.get(cv2.CAP_PROP_FPS)
        self._rate = rate if 1.0 <= rate <= MAX_FPS else 30.0
        self._at = -1
        self._first = 0
        self._shown: Array | None = None

    def read(self, time_s: float) -> tuple[dict[Kind, Array], int]:
        wanted = int(time_s * self._rate + 1e-6)
        while self._at < wanted or self._shown is None:
            if self._video.grab():
                self._at += 1
                if self._at >= wanted:
                    self._take()
                continue
            if self._at < self._first:
                raise SourceError(f"{self._path} holds no frame that can be read; convert it to mp4 (H.264)")
            # The end: from the beginning again, which from now on is frame number at + 1.
            self._first = self._at + 1
            self._reopen()
        return {Kind.COLOUR: self._shown}, now_ns()

    def _take(self) -> None:
        good, picture = self._video.retrieve()
        if good:
            self._shown = fit(picture, self._size)

    def _reopen(self) -> None:
        # Seeking to 0 is not exact in every container; opening anew is.
        self._video.release()
        self._video = _opencv().VideoCapture(str(self._path))

    def pose(self, time_s: float) -> None:
        return None

    def close(self) -> None:
        self._video.release()


class PictureSource:
    """Pictures in the order of their names (numbers by value), each held for `hold_s`, for ever.

    An unreadable picture is left out with a note; one that vanishes later is, too.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], hold_s: float) -> None:
        self._paths = list(paths)
        self._size = size
        self._hold_s = hold_s
        self._shown_index = -1
        self._shown: Array | None = None

    def _load(self, path: Path) -> Array | None:
        cv2 = _opencv()
        try:
            raw = np.fromfile(path, np.uint8)
        except OSError as error:
            say(f"source: {path} left out: {error.strerror}")
            return None
        picture = None
        if raw.size:
            try:
                picture = cv2.imdecode(raw, cv2.IMREAD_COLOR)
            except cv2.error:
                picture = None
        if picture is None:
            say(f"source: {path} left out: it cannot be read as a picture")
            return None
        return fit(picture, self._size)

    def read(self, time_s: float) -> tuple[dict[Kind, Array], int]:
        index = int(time_s / self._hold_s + 1e-6) if self._hold_s > 0 else self._shown_index + 1
        while self._shown is None or index != self._shown_index:
            at = index % len(self._paths)
            picture = self._load(self._paths[at])
            if picture is not None:
                self._shown, self._shown_index = picture, index
                break
            del self._paths[at]
            if not self._paths:
                raise SourceError("none of the pictures can be read; put png or jpg files there")
        return {Kind.COLOUR: self._shown}, now_ns()

    def pose(self, time_s: float) -> None:
        return None

    def close(self) -> None:
        pass


def by_number(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 comes before frame10."""
    pieces = re.split(r"(\d+)", path.name.lower())
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in pieces]

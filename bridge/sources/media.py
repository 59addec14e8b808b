"""Sources that OpenCV opens: cameras, videos, pictures; it is loaded only when it is needed.

Colour is RGB, rows top to bottom.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridge.ring.clock import now_ns
from bridge.ring.layout import Kind
from bridge.sources.source import Array, SourceError
from bridge.terminal import say
from core.opencv import opencv

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".hdr", ".apng")
MOVING = (".webp", ".gif", ".png", ".apng", ".avif")
"""Pictures that may be films, too."""
MAX_FPS = 1000.0
"""A video that says to be faster is not believed."""
CATCH_UP_S = 0.1
"""How long one picture may be looked for in a film that is decoded too slowly; what is missed then is dropped."""
DECODED_BYTES = 256 << 20
"""Of an animated picture, decoded at one time."""
KEPT_BYTES = 1 << 30
"""Of an animated picture, in memory in the size that is sent."""
STILL_FPS = 10.0
"""Of moving pictures that state no time for a picture."""
GROUND = 0
"""What transparent pictures are laid over: black."""
LONGEST_FRAME_S = 60.0
STREAM_WAIT_S = 0.25
STREAMS = re.compile(r"(https?|rtsps?|rtmps?|rtp|udp|tcp|srt)://", re.IGNORECASE)
OPEN_TIMEOUT_MS = 5000
STREAM_TIMEOUT_MS = 3000
RETRY_S = 1.0
CAMERA_PATIENCE = 30
"""Reads in a row that a camera may fail before it counts as gone."""


def fit(picture_bgr: Array, size: tuple[int, int]) -> Array:
    """Centre crop to the shape of `size` (width, height), resize, and turn BGR, BGRA or grey uint8 into RGB."""
    cv2 = opencv()
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
    return cv2.cvtColor(part, cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]


def opaque(picture: Array) -> Array:
    """A picture as it was read, of any depth and number of channels, as uint8 BGR or grey: what is transparent is laid
    over an even ground (what a cut-out hides under it stays hidden), linear light (float) is encoded as sRGB."""
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    elif picture.dtype != np.uint8:
        light = np.nan_to_num(picture.astype(np.float32)).clip(0.0, 1.0)
        encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
        picture = (encoded * 255.0 + 0.5).astype(np.uint8)
    if picture.ndim == 2 or picture.shape[2] == 3:
        return picture
    colour, alpha = picture[..., :-1], picture[..., -1:].astype(np.uint16)
    laid = (colour * alpha + GROUND * (255 - alpha) + 127) // 255
    return np.ascontiguousarray(laid.astype(np.uint8)[..., 0] if laid.shape[2] == 1 else laid.astype(np.uint8))


class CameraSource:
    """A camera by its number, at its own rate; frames that nobody fetched in time are the driver's to drop."""

    def __init__(self, number: int, size: tuple[int, int], fps: float) -> None:
        cv2 = opencv()
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
                return {Kind.COLOUR: fit(opaque(picture), self._size)}, captured_ns
            time.sleep(0.03)
        raise SourceError(f"camera {self._number} gives no more frames; plug it in again and restart this source")

    def pose(self, time_s: float) -> None:
        return None

    def close(self) -> None:
        self._camera.release()


class VideoSource:
    """A video in its own speed, for ever: every picture at its own time stamp. path: a file, or the address of one.

    Where decoding is too slow for that, film time is dropped: pictures keep coming, and none takes long to come.
    """

    def __init__(self, path: Path | str, size: tuple[int, int]) -> None:
        cv2 = opencv()
        self._path = path
        self._name = without_password(str(path))
        self._size = size
        try:
            str(path).encode()
        except UnicodeEncodeError:
            # OpenCV does not refuse such a name: it ends the process.
            raise SourceError(f"{str(path)!r}: this name cannot be read as text; rename the file") from None
        self._video = cv2.VideoCapture(str(path))
        if not self._video.isOpened():
            raise SourceError(f"{self._name} cannot be read as a video or a picture; convert it to mp4 (H.264) or png")
        rate = self._video.get(cv2.CAP_PROP_FPS)
        self._frame_s = 1.0 / (rate if 1.0 <= rate < MAX_FPS else 30.0)
        # In the time of the film, which goes on over its rounds: when this round began, the time stamp of the picture
        # that was read from the file last, and what was dropped because decoding was too slow.
        self._began_s = 0.0
        self._read_s = -1.0
        self._lost_s = 0.0
        self._shown: Array | None = None
        self._read_next()

    def read(self, time_s: float) -> tuple[dict[Kind, Array], int]:
        film_s = time_s - self._lost_s
        give_up_s = time.monotonic() + CATCH_UP_S
        while self._read_s <= film_s + 1e-6 or self._shown is None:
            late = time.monotonic() > give_up_s
            # Pictures whose successor is due already are read, but not converted.
            if late or self._shown is None or self._read_s + self._frame_s > film_s:
                self._take()
            if late:
                self._lost_s += max(0.0, film_s - self._read_s)
            self._read_next()
            if late:
                break
        if self._shown is None:
            raise SourceError(f"{self._name} holds no picture that can be read; convert it to mp4 (H.264)")
        return {Kind.COLOUR: self._shown}, now_ns()

    def _take(self) -> None:
        good, picture = self._video.retrieve()
        if good:
            self._shown = fit(opaque(picture), self._size)

    def _read_next(self) -> None:
        """Read the file's next picture, at its end the first one again."""
        empty = False
        while not self._video.grab():
            if empty or self._read_s < 0:
                raise SourceError(f"{self._name} holds no picture that can be read; convert it to mp4 (H.264)")
            # Seeking to 0 is not exact in every container; opening anew is.
            self._video.release()
            self._video = opencv().VideoCapture(str(self._path))
            self._began_s, empty = self._read_s + self._frame_s, True
        stamp_s = self._began_s + self._video.get(opencv().CAP_PROP_POS_MSEC) / 1000.0
        if empty or self._read_s < 0:
            self._read_s = self._began_s
        elif stamp_s > self._read_s:
            self._frame_s, self._read_s = min(stamp_s - self._read_s, LONGEST_FRAME_S), stamp_s
        else:
            self._read_s += self._frame_s  # a file that states no times

    def pose(self, time_s: float) -> None:
        return None

    def close(self) -> None:
        self._video.release()


def without_password(address: str) -> str:
    """An address as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", address)


def _opened(address: str) -> Any:
    """What OpenCV has opened; None where nothing is there."""
    cv2 = opencv()
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, STREAM_TIMEOUT_MS]
    video = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    return video if video.isOpened() else None


def open_stream(address: str, size: tuple[int, int]) -> StreamSource | VideoSource:
    """A stream by its address; what has an end is a film, and keeps its own speed however fast it comes. Raises
    `SourceError`."""
    video = _opened(address)
    if video is None:
        raise SourceError(
            f"{without_password(address)} gives no video; check that it plays in a browser or in VLC on this machine"
        )
    if video.get(opencv().CAP_PROP_FRAME_COUNT) > 0:
        video.release()
        return VideoSource(address, size)
    return StreamSource(address, size, video)


class StreamSource:
    """A network camera or another stream without an end: always the newest picture, and none twice. Where the stream
    ends or stalls, it is opened again until it is back. video: what is open at its address."""

    def __init__(self, address: str, size: tuple[int, int], video: Any) -> None:
        self._address = address
        self._name = without_password(address)
        self._size = size
        self._stopping = threading.Event()
        self._came = threading.Condition()
        self._newest: tuple[Array, int] | None = None
        self._thread = threading.Thread(target=self._follow, args=(video,), name="stream", daemon=True)
        self._thread.start()

    def _follow(self, video: Any) -> None:
        while not self._stopping.is_set():
            picture = video.read()[1] if video is not None else None
            if picture is not None:
                with self._came:
                    self._newest = opaque(picture), now_ns()
                    self._came.notify()
                continue
            if video is not None:
                video.release()
                say(f"source: {self._name} gives no more pictures; trying again until it does")
            if self._stopping.wait(RETRY_S):
                return
            video = _opened(self._address)
            if video is not None:
                say(f"source: {self._name} is back")
        if video is not None:
            video.release()

    def read(self, time_s: float) -> tuple[dict[Kind, Array], int] | None:
        del time_s
        with self._came:
            if self._newest is None:
                self._came.wait(STREAM_WAIT_S)
            newest, self._newest = self._newest, None
        return None if newest is None else ({Kind.COLOUR: fit(newest[0], self._size)}, newest[1])

    def pose(self, time_s: float) -> None:
        return None

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(2.0 * STREAM_TIMEOUT_MS / 1000.0)


class MovingPictureSource:
    """An animated picture (GIF, WebP, APNG, AVIF) in its own speed, for ever."""

    def __init__(self, frames: Sequence[Array], durations_s: Sequence[float]) -> None:
        self._frames = list(frames)
        self._ends_s = np.cumsum(durations_s)

    def read(self, time_s: float) -> tuple[dict[Kind, Array], int]:
        at = int(np.searchsorted(self._ends_s, time_s % self._ends_s[-1], side="right"))
        return {Kind.COLOUR: self._frames[min(at, len(self._frames) - 1)]}, now_ns()

    def pose(self, time_s: float) -> None:
        return None

    def close(self) -> None:
        pass


def moving_picture(path: Path, size: tuple[int, int]) -> MovingPictureSource | None:
    """The animation in a picture file; None for a still one. Of one that would not fit into memory even at `size`, the
    beginning, with a note."""
    cv2 = opencv()
    frames: list[Array] = []
    durations_s: list[float] = []
    most = max(2, KEPT_BYTES // (3 * size[0] * size[1]))
    try:
        raw = np.fromfile(path, np.uint8)
        # Two of them tell how large they are: at their own size all together may be many gigabytes.
        count = 2
        while len(frames) < most:
            found, part = cv2.imdecodeanimation(raw, start=len(frames), count=min(count, most - len(frames)))
            if not found or not part.frames:
                break
            count = max(2, DECODED_BYTES // part.frames[0].nbytes)
            frames += [fit(opaque(frame), size) for frame in part.frames]
            durations_s += [d / 1000.0 if d > 0 else 1.0 / STILL_FPS for d in np.ravel(part.durations).tolist()]
    except (cv2.error, OSError):
        return None
    if len(frames) < 2:
        return None
    if len(frames) == most:
        say(f"source: {path}: its first {most} pictures are shown; make a video of it for all of them")
    return MovingPictureSource(frames, durations_s[: len(frames)])


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
        cv2 = opencv()
        try:
            raw = np.fromfile(path, np.uint8)
        except OSError as error:
            say(f"source: {path} left out: {error.strerror}")
            return None
        picture = None
        if raw.size:
            try:
                # JPEG has no transparency, but a camera's note of how it was held, which "unchanged" would ignore.
                jpeg = raw[:2].tobytes() == b"\xff\xd8"
                picture = cv2.imdecode(raw, cv2.IMREAD_COLOR if jpeg else cv2.IMREAD_UNCHANGED)
            except cv2.error:
                picture = None
        if picture is None:
            say(f"source: {path} left out: it cannot be read as a picture")
            return None
        return fit(opaque(picture), self._size)

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

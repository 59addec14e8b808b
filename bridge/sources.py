"""Clients that feed a channel: the procedural world, a camera, a video file, a folder of pictures.

    python -m bridge.sources world --channel NAME --fps 30 --size 128
    python -m bridge.sources camera:0 --channel NAME        python -m bridge.sources clip.mp4 --channel NAME

A client is a process of its own and knows nothing of the host: it writes NAME.in and nobody waits for it. OpenCV is
imported here alone, and only for sources that need it. Colour is RGB, rows top to bottom.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np

from bridge.control.statistics import peak_memory_mb
from bridge.ring.header import now_ns
from bridge.ring.layout import Kind

Array = np.ndarray[Any, np.dtype[Any]]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
PLANES = ("depth", "motion", "normal", "mask")
MAX_FPS = 1000.0
MIN_SIDE_PX, MAX_SIDE_PX = 8, 8192
REPORT_EVERY_S = 10.0
CAMERA_PATIENCE = 30
"""Reads in a row that a camera may fail before it counts as gone."""


class SourceError(Exception):
    """A source cannot give frames. The message names the mend."""


def say(text: str) -> None:
    """Progress goes to standard error, a line at once; standard output keeps results only.

    A terminal or a log that has gone away ends nobody's work.
    """
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class Source(Protocol):
    """Gives the frame that belongs to a moment of the source's own time."""

    def read(self, time_s: float) -> tuple[dict[Kind, Array], int]:
        """Planes of the frame at `time_s` (seconds, at least 0, not falling) and its capture time in nanoseconds.

        The colour plane is uint8 (height, width, 3) RGB of the size that the source was made for. Blocks as long as
        a camera does. Raises `SourceError` when no more frames can be had.
        """

    def pose(self, time_s: float) -> tuple[Array, Array] | None:
        """Camera pose float32 (4, 4), world from camera, and fx, fy, cx, cy in pixels; None where nobody knows."""

    def close(self) -> None: ...


# ---- the world -----------------------------------------------------------------------------------------------------


class WorldSource:
    """The procedural world in its flat grey look, as a game would send it; on request with what a game also knows."""

    def __init__(
        self, size: tuple[int, int], fps: float, seed: int = 0, planes: Sequence[str] = (), style: str = ""
    ) -> None:
        # One thread: the client shares the machine with the host, whose model needs the other cores. Read by torch at
        # its import, and a user's own setting stays in force.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        from core.world import STYLES, World

        if style and style not in STYLES:
            raise SourceError(f"no style {style!r} in the world; known are {', '.join(STYLES)}")
        self._world = World(seed=seed)
        self._style = style or STYLES[0]
        self._size = size
        self._dt_s = 1.0 / fps
        self._extra = tuple(planes)
        self._rendered = ("colour", *("class" if p == "mask" else p for p in planes))

    def read(self, time_s: float) -> tuple[dict[Kind, Array], int]:
        width, height = self._size
        out = self._world.render(
            time_s=time_s, width=width, height=height, style=self._style, planes=self._rendered, motion_dt_s=self._dt_s
        )
        planes: dict[Kind, Array] = {Kind.COLOUR: out["colour"].numpy()}
        if "depth" in self._extra:
            planes[Kind.DEPTH] = out["depth"].numpy()
        if "motion" in self._extra:
            # The world says how far the surface has come, the ring how far back it was.
            planes[Kind.MOTION] = -out["motion"].numpy()
        if "normal" in self._extra:
            normal = np.zeros((height, width, 4), np.float16)
            normal[..., :3] = out["normal"].numpy()
            planes[Kind.NORMAL] = normal
        if "mask" in self._extra:
            planes[Kind.MASK] = out["class"].numpy()
        return planes, now_ns()

    def pose(self, time_s: float) -> tuple[Array, Array] | None:
        if not self._extra:
            return None
        k = self._world.intrinsics(*self._size).numpy()
        return self._world.T_world_cam(time_s).numpy(), np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]], np.float32)

    def close(self) -> None:
        pass


# ---- what OpenCV opens ---------------------------------------------------------------------------------------------


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


def _by_number(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 comes before frame10."""
    pieces = re.split(r"(\d+)", path.name.lower())
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in pieces]


def open_source(
    what: str,
    size: tuple[int, int],
    fps: float,
    *,
    seed: int = 0,
    planes: Sequence[str] = (),
    style: str = "",
    hold_s: float = 2.0,
) -> Source:
    """The source that the word `what` names: world, camera, camera:N, a file or a folder. Raises `SourceError`."""
    if what == "world":
        return WorldSource(size, fps, seed, planes, style)
    if planes:
        raise SourceError(f"only the world knows {', '.join(planes)}; leave --planes out for {what}")
    head, _, number = what.partition(":")
    if head == "camera" and re.fullmatch("[0-9]{0,4}", number):
        return CameraSource(int(number or 0), size, fps)
    try:
        return _open_path(what, Path(what).expanduser(), size, hold_s)
    except (OSError, RuntimeError) as error:
        # A folder that may not be read, a name of 5,000 characters, the home of a user that is not there.
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{what[:200]}: {reason}; give a file or folder that you may read") from None


def _open_path(what: str, path: Path, size: tuple[int, int], hold_s: float) -> Source:
    if path.is_dir():
        pictures = sorted((p for p in path.iterdir() if p.suffix.lower() in PICTURES), key=_by_number)
        if not pictures:
            raise SourceError(f"no pictures in the folder {path}; put {', '.join(PICTURES)} files there")
        return PictureSource(pictures, size, hold_s)
    if not path.exists():
        raise SourceError(
            f"no source {what!r}: it is not world, not camera or camera:N, and no such file or folder is there"
        )
    if path.suffix.lower() in PICTURES:
        return PictureSource([path], size, hold_s)
    return VideoSource(path, size)


# ---- the client process --------------------------------------------------------------------------------------------


def parse_size(text: str) -> tuple[int, int]:
    """`128` or `640x360` to (width, height) in pixels. Raises `argparse.ArgumentTypeError`."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in size):
        raise argparse.ArgumentTypeError(f"{text!r}: use 128 or 640x360, each side from {MIN_SIDE_PX} to {MAX_SIDE_PX}")
    return size


def parse_fps(text: str) -> float:
    """Frames per second above 0. Raises `argparse.ArgumentTypeError`."""
    try:
        fps = float(text)
    except ValueError:
        fps = 0.0
    if not 0.01 <= fps <= MAX_FPS:
        raise argparse.ArgumentTypeError(f"{text!r}: use a number from 0.01 to {MAX_FPS:g}")
    return fps


def parse_count(text: str) -> int:
    """A number of frames, at least 1. Raises `argparse.ArgumentTypeError`."""
    if not re.fullmatch(r"\d{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: use a whole number from 1 to 999999999")
    return int(text)


def parse_seed(text: str) -> int:
    """The number of a world, at least 0. Raises `argparse.ArgumentTypeError`."""
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: use a whole number from 0 to 999999999")
    return int(text)


def _planes(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in PLANES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no plane {unknown[0]!r}; known are {', '.join(PLANES)}")
    return names


def ending_signals() -> list[signal.Signals]:
    """What asks a program to end: Ctrl-C, a kind kill, a closed terminal unless `nohup` says to ignore that."""
    ending = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    return ending


def set_by_signal(event: threading.Event) -> Callable[[], None]:
    """A call by which a signal handler sets `event`, soon, on another thread.

    `event.set` itself takes a lock. The thread that the handler interrupted may hold it, inside `event.wait` or inside
    the handler of a signal just before (a closed terminal sends two), and would wait for itself for ever.
    """
    asked: queue.SimpleQueue[None] = queue.SimpleQueue()

    def wait() -> None:
        asked.get()
        event.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return lambda: asked.put(None)


class Stop:
    """Set by one of `ending_signals`, or the end of standard input when a parent holds it."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._ask = set_by_signal(self.event)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._ask()

    def watch(self, fd: int) -> None:
        def wait_for_end() -> None:
            # Unbuffered: a thread that still waits inside a buffered stream aborts the interpreter at its exit.
            while os.read(fd, 4096):
                pass
            self.event.set()

        threading.Thread(target=wait_for_end, name="parent", daemon=True).start()


def feed(
    source: Source,
    writer: Any,
    fps: float,
    size: tuple[int, int],
    frames: int | None,
    alpha: bool,
    stop: threading.Event,
) -> int:
    """Write frames to `writer` (a `RingWriter`) at `fps` until `stop` or until `frames` are written. Returns how many.

    The frame of moment k / fps has the frame id k + 1, its own source (0 means none in the ring). A source that is
    too slow leaves numbers out and so keeps its speed of motion.
    """
    started = time.monotonic()
    written = 0
    index = 0
    reported = started
    while frames is None or written < frames:
        late_s = time.monotonic() - started - index / fps
        if late_s < 0 and stop.wait(-late_s):
            break
        if stop.is_set():
            break
        if late_s > 1.0 / fps:
            index += int(late_s * fps)
        planes, captured_ns = source.read(index / fps)
        if alpha:
            planes = {**planes, Kind.COLOUR: _with_alpha(planes[Kind.COLOUR])}
        T_world_camera, intrinsics = source.pose(index / fps) or (None, None)
        writer.write(
            planes,
            frame_id=index + 1,
            source_frame_id=index + 1,
            capture_ns=captured_ns,
            T_world_camera=T_world_camera,
            intrinsics=intrinsics,
        )
        written += 1
        index += 1
        now = time.monotonic()
        if now - reported >= REPORT_EVERY_S:
            reported = now
            say(f"source: {written} frames, {written / (now - started):.1f} per second at {size[0]}x{size[1]}")
    return written


def _with_alpha(rgb: Array) -> Array:
    rgba = np.full((*rgb.shape[:2], 4), 255, np.uint8)
    rgba[..., :3] = rgb
    return rgba


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="frameloom source", description="Write frames into NAME.in: world, camera[:N], a video file or a folder."
    )
    parser.add_argument("what", help="world, camera, camera:N, a video file, a picture or a folder of pictures")
    parser.add_argument("--channel", required=True, help="the channel NAME; frames go to NAME.in")
    parser.add_argument("--fps", type=parse_fps, default=30.0, help="frames per second (default 30)")
    parser.add_argument("--size", type=parse_size, default=(128, 128), help="128 or 640x360, pixels (default 128)")
    parser.add_argument("--frames", type=parse_count, default=None, help="stop after so many frames")
    parser.add_argument("--seed", type=parse_seed, default=0, help="which world (default 0)")
    parser.add_argument("--style", default="", help="the world's own look (default grey)")
    parser.add_argument("--planes", type=_planes, default=(), help="of the world, a comma list: " + ",".join(PLANES))
    parser.add_argument(
        "--hold", type=float, default=2.0, metavar="S", help="seconds per picture of a folder; 0: one frame each"
    )
    parser.add_argument("--alpha", action="store_true", help="write RGBA8 instead of RGB8")
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input ends")
    return parser.parse_args(words)


def main(argv: list[str] | None = None) -> int:
    """Feed one channel until stopped; the last line of standard output is JSON: frames, seconds, peak_memory_mb."""
    args = _arguments(sys.argv[1:] if argv is None else argv)
    # Loaded after the arguments are understood, so that --help and mistakes answer at once.
    from bridge.ring import RingError, RingWriter

    stop = Stop()
    for number in ending_signals():
        signal.signal(number, stop.on_signal)
    if args.with_parent:
        stop.watch(sys.stdin.fileno())
    started = time.monotonic()
    try:
        source = open_source(
            args.what,
            args.size,
            args.fps,
            seed=args.seed,
            planes=args.planes,
            style=args.style,
            hold_s=args.hold,
        )
        try:
            # 4 bytes a pixel for colour, 8 for normals, 4 each for depth and motion, 1 for the mask.
            room = args.size[0] * args.size[1] * (4 + 17 * bool(args.planes)) + 65536
            with RingWriter(f"{args.channel}.in", capacity_bytes=room) as writer:
                frames = feed(source, writer, args.fps, args.size, args.frames, args.alpha, stop.event)
        finally:
            source.close()
    except (SourceError, RingError) as error:
        say(f"source: {error}")
        if args.with_parent:
            print(json.dumps({"failure": str(error)}), flush=True)
        return 1
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({"frames": frames, "seconds": seconds, "peak_memory_mb": peak_memory_mb()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

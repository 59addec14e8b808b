"""A recording as a film, made by ffmpeg where it is installed. Knows nothing of rings."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from pathlib import Path

from bridge.page.picture import picture_of
from bridge.recording.file import RecordingError, RecordingReader, unpacked
from bridge.recording.replay import in_order
from bridge.ring import Kind
from bridge.ring.colour import CHANNELS
from bridge.ring.colour import in_order as channels_in_order

FILM_FPS = 30
_CODECS = {
    ".mp4": ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart"],
    ".webm": ["-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p"],
}
_LACKING = (
    "there is no ffmpeg here; install it (Debian: apt install ffmpeg, macOS: brew install ffmpeg) and export again"
)


def export(recording: RecordingReader, side: str, film: Path, stop: threading.Event) -> int:
    """Write one side as a film of 30 pictures a second, each shown as long as it was; returns the number of pictures.

    All have the size of the first. Raises `RecordingError`.
    """
    if film.suffix not in _CODECS:
        raise RecordingError(f"{film}: a film's name ends in {' or '.join(_CODECS)}")
    if film.exists():
        raise RecordingError(f"{film} is there already; give another name")
    program = shutil.which("ffmpeg")
    if program is None:
        raise RecordingError(_LACKING)
    ffmpeg: subprocess.Popen[bytes] | None = None
    written, began_ns, last = 0, 0, b""
    size = (0, 0)
    try:
        for entry in in_order(iter(recording)):
            if entry.topic != side or stop.is_set():
                continue
            try:
                frame = unpacked(entry.data)
            except RecordingError:
                continue
            if Kind.COLOUR not in frame.planes:
                raise RecordingError(f"{recording.path} holds no colours of {side}")
            picture = picture_of(frame)
            if ffmpeg is None:
                # Most films want even sides.
                size = tuple(side_px - side_px % 2 for side_px in picture.pixels.shape[:2])  # type: ignore[assignment]
                if 0 in size:
                    raise RecordingError(f"pictures of {frame.width} x {frame.height} are too small for a film")
                ffmpeg = _start(program, size, film)
                began_ns = entry.at_ns
            assert ffmpeg.stdin is not None
            # What was shown until now stays until this one's time.
            while last and written < (entry.at_ns - began_ns) * FILM_FPS // 1_000_000_000:
                ffmpeg.stdin.write(last)
                written += 1
            if picture.pixels.shape[0] >= size[0] and picture.pixels.shape[1] >= size[1]:
                rgb = channels_in_order(picture.pixels, CHANNELS[picture.layout][:3])
                last = rgb[: size[0], : size[1]].tobytes()
        if ffmpeg is None:
            raise RecordingError(f"{recording.path} holds no picture of {side}")
        assert ffmpeg.stdin is not None
        ffmpeg.stdin.write(last)
        ffmpeg.stdin.close()
        said = ffmpeg.stderr.read() if ffmpeg.stderr is not None else b""
        if ffmpeg.wait() != 0:
            raise RecordingError(f"ffmpeg could not write {film}: {said.decode('utf-8', 'replace').strip()[-200:]}")
    except BrokenPipeError:
        said = ffmpeg.stderr.read() if ffmpeg is not None and ffmpeg.stderr is not None else b""
        raise RecordingError(f"ffmpeg gave up on {film}: {said.decode('utf-8', 'replace').strip()[-200:]}") from None
    finally:
        if ffmpeg is not None:
            ffmpeg.kill()
            with contextlib.suppress(BrokenPipeError), ffmpeg:
                pass  # closes the pipes and waits
    return written + 1


def _start(program: str, size: tuple[int, int], film: Path) -> subprocess.Popen[bytes]:
    height, width = size
    command = [program, "-hide_banner", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(FILM_FPS), "-i", "-", *_CODECS[film.suffix], str(film)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)

"""What feeds a channel: the procedural world, a camera, a stream, a video file, a folder of pictures."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bridge.sources.media import (
    MOVING,
    PICTURES,
    STREAMS,
    CameraSource,
    PictureSource,
    StreamSource,
    VideoSource,
    by_number,
    fit,
    moving_picture,
    open_stream,
)
from bridge.sources.source import Array, Source, SourceError
from bridge.sources.world import PLANES, WorldSource

__all__ = [
    "PICTURES",
    "PLANES",
    "Array",
    "CameraSource",
    "PictureSource",
    "Source",
    "SourceError",
    "StreamSource",
    "VideoSource",
    "WorldSource",
    "fit",
    "look_for",
    "open_source",
]


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
    """The source that the word `what` names: world, camera, camera:N, the address of a stream, a file or a folder.
    Raises `SourceError`."""
    path = look_for(what, planes)
    if what == "world":
        return WorldSource(size, fps, seed, planes, style)
    if path is not None:
        with _readable(what):
            return _open_path(path, size, hold_s)
    if STREAMS.match(what):
        return open_stream(what, size)
    return CameraSource(int(what.partition(":")[2] or 0), size, fps)


def look_for(what: str, planes: Sequence[str] = ()) -> Path | None:
    """The file or folder that the word `what` names; None for all others. Nothing is opened but a file, for a moment.

    Raises `SourceError` for what is not there, or holds no pictures; what only shows when it is opened, such as a
    camera that somebody else uses, is for `open_source` to find.
    """
    if what == "world":
        return None
    if planes:
        raise SourceError(f"only the world knows {', '.join(planes)}; leave --planes out for {what}")
    if re.fullmatch("camera(:[0-9]{0,4})?", what) or STREAMS.match(what):
        return None
    with _readable(what):
        path = Path(what).expanduser()
        if path.is_dir():
            if not _pictures(path):
                raise SourceError(f"no pictures in the folder {path}; put {', '.join(PICTURES)} files there")
        elif path.is_file():
            path.open("rb").close()
        elif not path.exists():
            raise SourceError(
                f"no source {what!r}: it is not world, not camera or camera:N, no address of a stream, and no such file"
                " or folder is there"
            )
        return path


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # A folder that may not be read, a name of 5,000 characters, the home of a user that is not there.
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{what[:200]}: {reason}; give a file or folder that you may read") from None


def _pictures(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in PICTURES), key=by_number)


def _open_path(path: Path, size: tuple[int, int], hold_s: float) -> Source:
    if path.is_dir():
        return PictureSource(_pictures(path), size, hold_s)
    if path.suffix.lower() in MOVING:
        moving = moving_picture(path, size)
        if moving is not None:
            return moving
    if path.suffix.lower() in PICTURES:
        return PictureSource([path], size, hold_s)
    return VideoSource(path, size)

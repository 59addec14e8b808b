"""What feeds a channel: the procedural world, a camera, a stream, a video file, a folder of pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    if what == "world":
        return WorldSource(size, fps, seed, planes, style)
    if planes:
        raise SourceError(f"only the world knows {', '.join(planes)}; leave --planes out for {what}")
    head, _, number = what.partition(":")
    if head == "camera" and re.fullmatch("[0-9]{0,4}", number):
        return CameraSource(int(number or 0), size, fps)
    if STREAMS.match(what):
        return StreamSource(what, size)
    try:
        return _open_path(what, Path(what).expanduser(), size, hold_s)
    except (OSError, RuntimeError) as error:
        # A folder that may not be read, a name of 5,000 characters, the home of a user that is not there.
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{what[:200]}: {reason}; give a file or folder that you may read") from None


def _open_path(what: str, path: Path, size: tuple[int, int], hold_s: float) -> Source:
    if path.is_dir():
        pictures = sorted((p for p in path.iterdir() if p.suffix.lower() in PICTURES), key=by_number)
        if not pictures:
            raise SourceError(f"no pictures in the folder {path}; put {', '.join(PICTURES)} files there")
        return PictureSource(pictures, size, hold_s)
    if not path.exists():
        raise SourceError(
            f"no source {what!r}: it is not world, not camera or camera:N, no address of a stream, and no such file or "
            "folder is there"
        )
    if path.suffix.lower() in MOVING:
        moving = moving_picture(path, size)
        if moving is not None:
            return moving
    if path.suffix.lower() in PICTURES:
        return PictureSource([path], size, hold_s)
    return VideoSource(path, size)

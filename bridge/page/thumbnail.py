"""A picture of what a ring shows now, small or as it is. Knows nothing of what it is for."""

from __future__ import annotations

from bridge.page.picture import CannotShow, ShownPicture, jpeg, take, thumbnail
from bridge.ring import RingError, RingReader

SIDE_PX = 160
WAIT_S = 0.2


def thumbnail_of(channel: str, directory: str | None = None) -> bytes:
    """A JPEG of the newest picture in channel.out; nothing where there is none, as before a host's first."""
    picture = _newest(f"{channel}.out", directory)
    return b"" if picture is None else thumbnail(picture, SIDE_PX)


def still_of(ring: str, directory: str | None = None) -> bytes:
    """A JPEG of the newest picture in a ring; nothing where there is none."""
    picture = _newest(ring, directory)
    try:
        return b"" if picture is None else jpeg(picture)
    except CannotShow:
        return b""


def _newest(ring: str, directory: str | None) -> ShownPicture | None:
    try:
        with RingReader(ring, directory=directory) as reader:
            return take(reader, WAIT_S)
    except RingError:  # CannotShow is one
        return None

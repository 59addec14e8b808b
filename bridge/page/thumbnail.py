"""A small picture of what a channel shows now. Knows nothing of what it is for."""

from __future__ import annotations

from bridge.page.picture import CannotShow, take, thumbnail
from bridge.ring import RingError, RingReader

SIDE_PX = 160
WAIT_S = 0.2


def thumbnail_of(channel: str, directory: str | None = None) -> bytes:
    """A JPEG of the newest picture in channel.out; nothing where there is none, as before a host's first."""
    try:
        with RingReader(f"{channel}.out", directory=directory) as reader:
            picture = take(reader, WAIT_S)
    except (RingError, CannotShow):
        return b""
    return b"" if picture is None else thumbnail(picture, SIDE_PX)

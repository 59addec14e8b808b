"""An optional extra: let Python programs that use SharedArray look at a ring as one array of bytes.

SharedArray (GPL, POSIX only, `pip install SharedArray`) is imported here only and only when asked for. Our own readers
never attach through it: it believes whatever a segment's trailer says. The trailer that makes a segment attachable is
not written from knowledge of its layout but taken from an empty array that the installed SharedArray itself makes, and
appended behind the ring, where PROTOCOL.md has nothing.
"""

from __future__ import annotations

import os

from bridge.ring.errors import NoSpace, RingError
from bridge.ring.writer import RingWriter


def offer(writer: RingWriter) -> str:
    """Make the writer's current generation attachable; returns the address for `SharedArray.attach`.

    The attached array has type uint8 and `segment_size` elements: header, slots and planes at the offsets of
    PROTOCOL.md, whose sequence checks are the other program's to make. Call again after the ring has grown. Raises
    RingError where the ring has no file (Windows), NoSpace, and ImportError without SharedArray.
    """
    import SharedArray

    path = writer.segment_path
    if path is None:
        raise RingError("SharedArray needs a POSIX system; use RingReader here")
    empty = f"{path}.sharedarray"
    size = writer.segment_size
    # A sparse file: nothing of its size is really taken.
    SharedArray.create(f"file://{empty}", size, dtype="uint8")
    try:
        with open(empty, "rb") as made:
            trailer = made.seek(0, os.SEEK_END) - size
            made.seek(size)
            content = made.read(trailer)
    finally:
        SharedArray.delete(f"file://{empty}")
    try:
        with open(path, "r+b") as segment:
            segment.seek(size)
            segment.write(content)
    except OSError as error:
        raise NoSpace(f"{path}: {error.strerror}; free {trailer} bytes there") from error
    return f"file://{path}"

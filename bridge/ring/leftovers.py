"""Removes what killed writers left in shared memory, for rings whose names are used once.

A ring under a lasting name needs none of this: its next writer takes over. Knows names and locks, not frames.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from bridge.ring import RingError, RingWriter, WriterExists
from bridge.ring.segment import place


def clear(ring: str) -> bool:
    """Remove everything of a ring that nobody writes; False when it has a live writer, and then nothing is touched.

    Raises what `RingWriter` raises for a name, a folder or a file that cannot be used.
    """
    try:
        RingWriter(ring, capacity_bytes=1).close()
    except WriterExists:
        return False
    return True


def sweep(prefix: str) -> list[str]:
    """Clear every ring whose name begins with `prefix` and whose writer is dead; returns the names of those cleared.

    What cannot be cleared is left, such as a file that another user planted under such a name.
    """
    example = place(f"{prefix}x")
    head = example.prefix.removesuffix("x")
    found = Path(example.folder).glob(f"{head}*.lock")
    names = sorted(prefix + path.name.removeprefix(head).removesuffix(".lock") for path in found)
    cleared = []
    for name in names:
        with contextlib.suppress(RingError):
            if clear(name):
                cleared.append(name)
    return cleared

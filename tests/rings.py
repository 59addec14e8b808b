"""Channels for tests that need the system's usual place for rings: a name of their own, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import uuid

from bridge.ring import segment


def fresh_channel() -> str:
    """A channel name that nobody else uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


def sweep(channel: str) -> None:
    """Delete what killed writers and locks of both rings of `channel` left; nobody may be using them any more."""
    for side in ("in", "out"):
        place = segment.place(f"{channel}.{side}")
        for entry in list(os.scandir(place.folder)):
            if entry.name.startswith(place.prefix):
                # Windows keeps a file that is still mapped somewhere.
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)

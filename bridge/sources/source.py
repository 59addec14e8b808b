"""What every source is: pictures by the time of the source."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from bridge.ring.layout import Kind

Array = np.ndarray[Any, np.dtype[Any]]


class SourceError(Exception):
    """A source cannot give frames. The message says how to fix it."""


class Source(Protocol):
    """Gives the frame that belongs to a moment of the source's own time."""

    def read(self, time_s: float) -> tuple[dict[Kind, Array], int] | None:
        """Planes of the frame at `time_s` (seconds, at least 0, not falling) and its capture time in nanoseconds.

        The colour plane is uint8 (height, width, 3) RGB of the size that the source was made for. Blocks as long as
        a camera does; None where there is no new picture yet. Raises `SourceError` when no more frames can be had.
        """

    def pose(self, time_s: float) -> tuple[Array, Array] | None:
        """Camera pose float32 (4, 4), world from camera, and fx, fy, cx, cy in pixels; None where nobody knows."""

    def close(self) -> None: ...

"""OpenCV, loaded on first use; the only file that imports it."""

from __future__ import annotations

import functools
import os
from typing import Any


@functools.cache
def opencv() -> Any:
    """The module, on one thread of its own; its chatter is off because every failure here has its own sentence."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    cv2.setNumThreads(1)
    return cv2

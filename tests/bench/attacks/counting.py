"""Frames that say their number, processes that end with their work, and the count of what must not happen."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bridge.ring import Kind

HANG_S = 20.0
LIFE = 1 << 40
"""Frame numbers of a life of the writer: its number times this, plus the frame's own, from 1."""
SIDE = 64
ROOT = Path(__file__).resolve().parents[3]


def picture(number: int) -> dict[Kind, np.ndarray]:
    return {Kind.COLOUR: np.full((SIDE, SIDE // 2), number, np.uint64).view(np.uint8).reshape(SIDE, SIDE, 4)}


class Count:
    """What must be nought, and what was seen."""

    def __init__(self) -> None:
        self.torn = self.backward = self.dead = self.hangs = self.lost = 0
        self.frames = self.kills = 0
        self.attach_ms: list[float] = []

    def take(self, pixels: np.ndarray, number: int, last: int, seen: int = (1 << 64) - 1) -> int:
        """Look at a frame. seen: the bits of the number that arrive."""
        said = np.ascontiguousarray(pixels).reshape(-1).view(np.uint64)
        self.frames += 1
        self.torn += not bool((said & np.uint64(seen) == np.uint64(number & seen)).all())
        self.backward += number <= last
        return number

    def row(self, name: str) -> tuple[Any, ...]:
        return name, self.kills, self.frames, self.torn, self.backward, self.dead, self.lost, self.hangs

    @property
    def forbidden(self) -> int:
        return self.torn + self.backward + self.dead + self.hangs + self.lost


def forked(run: Callable[[], object]) -> int:
    """Run in a child of its own, which ends with it."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        run()
        status = 0
    except KeyboardInterrupt:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        # Nothing of the parent's may run here a second time.
        os._exit(status)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Shared:
    """Words that all processes of a run see."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 4096)).cast("Q")

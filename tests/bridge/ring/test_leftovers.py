"""Leftovers go, rings in use stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bridge.ring import InvalidChannel, Kind, RingReader, RingWriter
from bridge.ring.leftovers import clear, sweep
from bridge.ring.segment import place

ROOT = Path(__file__).resolve().parents[3]


def files(ring: str) -> list[str]:
    placement = place(ring)
    return sorted(path.name for path in Path(placement.folder).glob(f"{placement.prefix}*"))


def leave(ring: str) -> None:
    """Die as a writer."""
    script = (
        "import os, sys\nfrom bridge.ring import RingWriter\n"
        "RingWriter(sys.argv[1], capacity_bytes=4096)\nos._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, ring], cwd=ROOT, timeout=240)
    assert done.returncode == 9


def test_what_dead_writers_left_is_swept_and_live_ones_are_not() -> None:
    prefix = f"test-left-{os.getpid()}-"
    leave(f"{prefix}dead.out")
    assert len(files(f"{prefix}dead.out")) >= 3
    with RingWriter(f"{prefix}live.out", capacity_bytes=4096) as writer, RingReader(f"{prefix}live.out") as reader:
        assert sweep(prefix) == [f"{prefix}dead.out"]
        assert not files(f"{prefix}dead.out")
        assert not clear(f"{prefix}live.out")
        writer.write({Kind.COLOUR: np.zeros((4, 4, 3), np.uint8)})
        assert reader.read(timeout_s=10) is not None
    sweep(prefix)
    assert not files(f"{prefix}live.out")
    assert sweep(prefix) == []


def test_a_ring_that_never_was_leaves_nothing() -> None:
    name = f"test-left-{os.getpid()}-never"
    assert clear(name)
    assert not files(name)


def test_names_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidChannel):
        clear("a/b")

"""A ring seen through SharedArray, where it is installed."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from bridge.ring import Kind, RingReader, RingWriter
from bridge.ring.layout import HEADER, MAGIC
from bridge.ring.sharedarray import offer
from tests.bridge.ring.ring_peer import picture

SharedArray = pytest.importorskip(
    "SharedArray", reason="SharedArray is not installed (an optional GPL package that needs a C compiler)"
)


def test_a_ring_is_attached_as_bytes_and_goes_on_as_a_ring(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        seen = SharedArray.attach(offer(writer))
        assert seen.dtype == np.uint8 and seen.shape == (writer.segment_size,)
        assert seen[:8].tobytes() == MAGIC
        for number in range(1, 8):
            writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
            frame = reader.read()
            assert frame is not None and frame.source_frame_id == number
            newest = int(seen[256:264].view(np.uint64)[0])
            assert newest >> 8 == number
            stride = int(seen[40:48].view(np.uint64)[0])
            start = HEADER.size + (newest & 255) * stride + 4096
            assert np.array_equal(seen[start : start + 64 * 48 * 4].reshape(48, 64, 4), picture(number))
        writer.write({Kind.COLOUR: picture(9, 640)}, source_frame_id=9)
        assert SharedArray.attach(offer(writer)).shape == (writer.segment_size,)
    assert not list(tmp_path.iterdir())


def test_offering_twice_is_harmless(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 4096, directory=tmp_path) as writer:
        assert offer(writer) == offer(writer)
        assert SharedArray.attach(offer(writer))[8:12].view(np.uint32)[0] == 1 << 16

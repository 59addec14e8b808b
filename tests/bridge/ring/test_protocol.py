"""PROTOCOL.md agrees with layout.py, with our bytes, and with the names of the sync points in every language."""

from __future__ import annotations

import pathlib
from itertools import pairwise

import numpy as np
import pytest

from bridge.commands.generate import protocol as protocol_text
from bridge.ring import PlaneSpec, RingReader, RingWriter, layout, segment
from bridge.ring.header import check_header
from bridge.ring.layout import HEADER, Kind
from bridge.ring.slot import Format

ROOT = pathlib.Path(__file__).resolve().parents[3]
UNITY = "clients/unity/Packages/org.frameloom.unity/Runtime/Ring"


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("bridge/ring/writer.py", "bridge/ring/reader.py"),
        ("clients/native/frameloom_ring.h", "clients/native/frameloom_ring.h"),
        (f"{UNITY}/RingWriter.cs", f"{UNITY}/RingReader.cs"),
    ],
    ids=("python", "c", "c#"),
)
def test_every_sync_point_is_named_in_the_text_and_at_its_end(writer: str, reader: str) -> None:
    text = (ROOT / "bridge" / "PROTOCOL.md").read_text(encoding="utf-8")
    for side, file in (("W", writer), ("R", reader)):
        source = (ROOT / file).read_text(encoding="utf-8")
        for number in range(1, 6):
            assert f"SYNC POINT {side}{number}" in text and f"SYNC POINT {side}{number}" in source


@pytest.mark.parametrize("table", layout.TABLES, ids=lambda t: t.name)
def test_fields_are_aligned_apart_and_inside(table: layout.Table) -> None:
    for f in table.fields:
        assert f.offset % (1 if f.type == "char" else min(8, f.size // f.count)) == 0
    for before, after in pairwise(table.fields):
        assert before.offset + before.size <= after.offset
    assert table.fields[-1].offset + table.fields[-1].size <= table.size


def test_words_of_different_writers_are_on_different_cache_lines() -> None:
    lines = {name: HEADER.offset(name) // 64 for name in ("first_sequence", "newest", "wake", "waiting")}
    assert len(set(lines.values())) == len(lines)
    assert HEADER.offset("waiting") % 64 == 0 and layout.READER.size == 64
    assert HEADER.offset("waiting") + HEADER["waiting"].size <= layout.READER_TABLE_OFFSET


def test_the_vectors_are_read_as_the_text_says(tmp_path: pathlib.Path) -> None:
    stride, size = protocol_text.sizes()
    place = segment.place(protocol_text.CHANNEL, tmp_path)
    pathlib.Path(place.record_path).write_bytes(protocol_text.record_vector())
    content = bytearray(size)
    content[: HEADER.size] = protocol_text.header_vector()
    content[HEADER.size + 2 * stride : HEADER.size + 3 * stride] = protocol_text.slot_vector()
    pathlib.Path(place.segment_path(protocol_text.GENERATION)).write_bytes(content)
    pointer = segment.read_pointer(place)
    assert pointer == segment.Pointer(protocol_text.GENERATION, size, 4242, layout.VERSION_MINOR)
    assert check_header(bytes(content[: HEADER.size]), pointer, size, place).slot_stride == stride
    lock = place.generation_lock(protocol_text.GENERATION)
    assert lock.acquire()
    with RingReader(protocol_text.CHANNEL, directory=tmp_path) as reader:
        frame = reader.read()
        assert frame is not None
        assert (frame.sequence, frame.frame_id, frame.source_frame_id, frame.param_revision) == (7, 7, 3, 5)
        assert frame.intrinsics == (1.0, 1.0, 0.5, 0.5) and frame.T_world_camera is None
        assert frame.planes[Kind.COLOUR].tobytes() == bytes(range(16))
        assert np.array_equal(frame.planes[Kind.DEPTH], np.ones((2, 2), np.float32))
    lock.release()


def test_a_writer_makes_the_bytes_of_the_vectors(tmp_path: pathlib.Path) -> None:
    with RingWriter(protocol_text.CHANNEL, protocol_text.CAPACITY, directory=tmp_path) as writer:
        path = pathlib.Path(segment.place(protocol_text.CHANNEL, tmp_path).segment_path(writer.generation))
        colour = np.arange(16, dtype=np.uint8).reshape(2, 2, 4)
        for _ in range(7):
            with writer.slot(
                [PlaneSpec(Kind.COLOUR, Format.RGBA8, 2, 2), PlaneSpec(Kind.DEPTH, Format.R32F, 2, 2)]
            ) as slot:
                slot.planes[Kind.COLOUR][:] = colour
                slot.planes[Kind.DEPTH][:] = 1
                slot.source_frame_id, slot.param_revision, slot.capture_ns = 3, 5, 1_400_000_000
                slot.intrinsics = (1.0, 1.0, 0.5, 0.5)
        made = path.read_bytes()
    expected = protocol_text.header_vector()
    varying = {"generation", "writer_pid", "writer_start_ns", "heartbeat_ns"}
    for f in HEADER.fields:
        if f.name not in varying:
            assert made[f.offset : f.offset + f.size] == expected[f.offset : f.offset + f.size], f.name
    stride = protocol_text.sizes()[0]
    start = HEADER.size + 2 * stride
    slot_made, slot_expected = bytearray(made[start : start + stride]), protocol_text.slot_vector()
    published = layout.SLOT["publish_ns"]
    slot_made[published.offset : published.offset + 8] = slot_expected[published.offset : published.offset + 8]
    assert bytes(slot_made) == slot_expected

"""PROTOCOL.md agrees with layout.py, and is enough: a C reader and writer made from it talk to ours."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest

from bridge import layout, segment
from bridge.layout import HEADER, Kind
from bridge.ring import PlaneSpec, RingReader, RingWriter, State
from bridge.ring_header import check_header
from bridge.slot import Format
from tests.bridge import protocol_text
from tests.bridge.ring_peer import check, picture

COMPILER = shutil.which("gcc") or shutil.which("cc")
PATIENCE_S = 60


def test_the_generated_blocks_are_current() -> None:
    text = protocol_text.PROTOCOL.read_text(encoding="utf-8")
    assert protocol_text.filled(text) == text, "run python -m tests.bridge.protocol_text"


def test_every_sync_point_is_named_in_the_text_and_at_its_end() -> None:
    text = protocol_text.PROTOCOL.read_text(encoding="utf-8")
    peer_c = pathlib.Path(__file__).with_name("protocol_peer.c").read_text(encoding="utf-8")
    for side, module in (("W", "ring_writer.py"), ("R", "ring_reader.py")):
        source = protocol_text.PROTOCOL.with_name(module).read_text(encoding="utf-8")
        for number in range(1, 6):
            name = f"{side}{number}"
            assert f"SYNC POINT {name}" in text and f"SYNC POINT {name}" in source
            assert f"SYNC POINT {name}" in peer_c or name == "R3"
    assert "SYNC POINT R3, R2" in peer_c


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
    assert pointer == segment.Pointer(protocol_text.GENERATION, size, 4242)
    assert check_header(bytes(content[: HEADER.size]), pointer, size, place).slot_stride == stride
    lock = place.writer_lock()
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


@pytest.fixture(scope="module")
def peer_c(tmp_path_factory: pytest.TempPathFactory) -> str:
    if sys.platform != "linux" or COMPILER is None:
        pytest.skip("the C peer needs Linux and a C compiler (gcc or cc)")
    binary = tmp_path_factory.mktemp("peer") / "peer"
    source = pathlib.Path(__file__).with_name("protocol_peer.c")
    subprocess.run([COMPILER, "-std=gnu11", "-O2", "-Wall", "-Werror", str(source), "-o", str(binary)], check=True)
    return str(binary)


def test_a_reader_in_c_reads_our_frames_across_resize_and_restart(tmp_path: pathlib.Path, peer_c: str) -> None:
    with subprocess.Popen([peer_c, "read", str(tmp_path), "a", "450"], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "READY\n"
        number = 0
        for _ in range(3):
            with RingWriter("a", 1 << 14, directory=tmp_path) as writer:
                for step in range(150):
                    number += 1
                    if step == 75:
                        writer._make_room(writer.capacity_bytes + 1)
                    writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
                    if step % 3:
                        time.sleep(0.003)
                if number == 450:
                    reader.wait(PATIENCE_S)
        said = reader.stdout.read()
        assert said.startswith("TOOK ") and said.endswith(" LAST 450\n"), said
        assert int(said.split()[1]) > 10


def test_we_read_the_frames_of_a_writer_in_c(tmp_path: pathlib.Path, peer_c: str) -> None:
    with RingReader("a", directory=tmp_path) as one, RingReader("a", directory=tmp_path) as two:
        for first, last in ((1, 300), (301, 600)):
            with subprocess.Popen(
                [peer_c, "write", str(tmp_path), "a", str(first), str(last)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as writer:
                assert writer.stdout is not None and writer.stdin is not None
                assert writer.stdout.readline() == "READY\n"
                number = seen = first - 1
                while number < last:
                    frame = one.read(PATIENCE_S)
                    assert frame is not None and number < check(frame)
                    number = check(frame)
                    with two.latest(0.0) as view:
                        if view is not None:
                            assert seen < check(view)
                            seen = check(view)
                    assert view is None or view.valid
                assert one.state is State.LIVE
                if first == 1:
                    writer.kill()
                else:
                    writer.stdin.close()
                writer.wait()
                assert one.state is State.WRITER_GONE

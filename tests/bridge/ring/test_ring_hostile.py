"""Damaged, foreign and hostile bytes: a typed error that says how to fix it, never a crash, never a wrong frame."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.ring import (
    AccessDenied,
    Kind,
    MalformedHeader,
    MalformedSlot,
    NoSpace,
    NotARing,
    RingError,
    RingReader,
    RingWriter,
    State,
    TruncatedSegment,
    VersionMismatch,
    layout,
    segment,
    slot,
)
from bridge.ring.header import check_header
from bridge.ring.layout import HEADER, PLANE, RECORD, SLOT
from tests.bridge.ring.ring_peer import number_of, picture

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextlib.contextmanager
def ring(directory: pathlib.Path) -> Iterator[tuple[RingWriter, pathlib.Path]]:
    with RingWriter("a", 1 << 14, directory=directory) as writer:
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        yield writer, pathlib.Path(segment.place("a", directory).segment_path(writer.generation))


def poke(path: pathlib.Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def header_field(name: str, value: int) -> tuple[int, bytes]:
    field = HEADER[name]
    return field.offset, value.to_bytes(field.size, "little")


BAD_HEADERS = [
    ("magic", 0x0102030405060708, NotARing),
    ("version", 0, VersionMismatch),
    ("version", 2 << 16, VersionMismatch),
    ("header_size", 0, MalformedHeader),
    ("header_size", 4097, MalformedHeader),
    ("header_size", 1 << 31, MalformedHeader),
    ("segment_size", 0, MalformedHeader),
    ("segment_size", (1 << 64) - 1, MalformedHeader),
    ("generation", 5, MalformedHeader),
    ("slot_count", 0, MalformedHeader),
    ("slot_count", 3, MalformedHeader),
    ("slot_count", 1 << 20, MalformedHeader),
    ("slot_header_size", 0, MalformedHeader),
    ("slot_header_size", 100, MalformedHeader),
    ("slot_stride", 0, MalformedHeader),
    ("slot_stride", 4096, MalformedHeader),
    ("slot_stride", (1 << 64) - 4096, MalformedHeader),
    ("policy", 7, MalformedHeader),
    ("reader_table_offset", 4096, MalformedHeader),
    ("reader_table_offset", (1 << 32) - 64, MalformedHeader),
    ("reader_entries", 1 << 30, MalformedHeader),
    ("reader_stride", 0, MalformedHeader),
    ("reader_table_offset", 0, MalformedHeader),
    ("reader_table_offset", 384, MalformedHeader),
    ("reader_table_offset", 448, MalformedHeader),
    ("waiting_offset", 4092, MalformedHeader),
    ("waiting_offset", 0, MalformedHeader),
    ("waiting_offset", 256, MalformedHeader),
    ("waiting_offset", 384, MalformedHeader),
    ("waiting_offset", 2048, MalformedHeader),
    ("waiting_offset", 2048 + 15 * 64, MalformedHeader),
    ("first_sequence", 0, MalformedHeader),
]


@pytest.mark.parametrize(("name", "value", "error"), BAD_HEADERS)
def test_bad_header_fields_are_refused_by_type(
    tmp_path: pathlib.Path, name: str, value: int, error: type[RingError]
) -> None:
    with ring(tmp_path) as (_, path):
        good = path.read_bytes()[: HEADER.size]
        offset, data = (0, struct.pack("<Q", value)) if name == "magic" else header_field(name, value)
        poke(path, offset, data)
        with RingReader("a", directory=tmp_path) as reader:
            with pytest.raises(error, match="start the writer again|same major version"):
                reader.read()
            # Mended, the same reader goes on.
            poke(path, 0, good)
            assert reader.read() is not None


@FUZZ
@given(data=st.binary(min_size=0, max_size=HEADER.size), keep=st.integers(0, 128), size=st.integers(0, 1 << 41))
def test_any_header_bytes_give_a_sound_geometry_or_a_ring_error(data: bytes, keep: int, size: int) -> None:
    stride, whole = layout.segment_bytes(4096, 4)
    good = HEADER.pack(
        magic=layout.MAGIC,
        version=layout.VERSION,
        header_size=HEADER.size,
        segment_size=whole,
        generation=9,
        slot_count=4,
        slot_header_size=SLOT.size,
        slot_stride=stride,
        reader_table_offset=layout.READER_TABLE_OFFSET,
        reader_entries=16,
        reader_stride=64,
        waiting_offset=HEADER.offset("waiting"),
        first_sequence=1,
    )
    assert check_header(good, segment.Pointer(9, whole, 0, 1), whole, segment.place("a", "/")).slot_count == 4
    mixed = good[:keep] + data
    try:
        g = check_header(mixed, segment.Pointer(9, whole, 0, 1), size, segment.place("a", "/"))
    except RingError:
        return
    assert g.header_size + g.slot_count * g.slot_stride == g.segment_size <= size
    assert g.slot_header_size < g.slot_stride


@FUZZ
@given(at=st.integers(0, 100), data=st.binary(min_size=1, max_size=16))
def test_a_header_with_some_bytes_changed_never_breaks_a_reader(tmp_path: pathlib.Path, at: int, data: bytes) -> None:
    with ring(tmp_path) as (_, path), RingReader("a", directory=tmp_path) as reader:
        poke(path, at, data)
        try:
            frame = reader.read()
        except RingError as error:
            assert str(error)
        else:
            assert frame is None or number_of(frame.planes[Kind.COLOUR]) >= -1


plane_bytes = st.builds(
    lambda k, f, w, h, stride, offset, size: struct.pack("<IIIIQQQ8x", k, f, w, h, stride, offset, size),
    st.integers(0, 8),
    st.integers(0, 12),
    st.integers(0, 1 << 26),
    st.integers(0, 1 << 26),
    st.integers(0, 1 << 64).map(lambda v: v % (1 << 64)),
    st.one_of(st.just(4096), st.integers(0, 40000)),
    st.integers(0, (1 << 64) - 1),
)


@FUZZ
@given(
    table=st.one_of(
        st.lists(plane_bytes, max_size=8).map(b"".join), st.binary(max_size=384).map(lambda b: b[: len(b) // 48 * 48])
    )
)
def test_any_plane_table_gives_planes_inside_the_slot_or_malformed_slot(table: bytes) -> None:
    memory = bytearray(32768)
    try:
        planes = slot.parse_table(table, 4096, 32768)
    except MalformedSlot as error:
        assert "restart" in str(error)
        return
    for plane in planes:
        shown = slot.view(memory, 0, plane)
        assert shown.size > 0
        shown.tobytes()


@FUZZ
@given(
    patches=st.lists(
        st.tuples(st.integers(8, layout.PLANE_TABLE_OFFSET + 2 * PLANE.size), st.binary(min_size=1, max_size=12)),
        min_size=1,
        max_size=4,
    )
)
def test_a_slot_with_any_bytes_changed_is_delivered_or_refused(
    tmp_path: pathlib.Path, patches: list[tuple[int, bytes]]
) -> None:
    with ring(tmp_path) as (writer, path), RingReader("a", directory=tmp_path) as reader:
        start = writer._current.geometry.slot_start(writer._current.newest_slot)
        for offset, data in patches:
            poke(path, start + offset, data)
        try:
            frame = reader.read()
        except MalformedSlot:
            assert reader.read() is None, "a refused frame is not offered again"
        else:
            assert frame is not None and all(a.size for a in frame.planes.values())
        # Nothing sticks: the next good frame is delivered.
        writer._current.tables = [b""] * writer.slots
        writer.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
        with reader.latest() as frame:
            assert frame is not None and number_of(frame.planes[Kind.COLOUR]) == 2


def entry(kind: int = 1, f: int = 1, w: int = 4, h: int = 4, stride: int = 16, at: int = 4096, size: int = 64) -> bytes:
    return struct.pack("<IIIIQQQ8x", kind, f, w, h, stride, at, size)


BAD_TABLES = [
    b"",
    entry(kind=0),
    entry(kind=99),
    entry(f=0),
    entry(f=99),
    entry(kind=Kind.MASK),
    entry(w=0, stride=16),
    entry(h=0, size=0),
    entry(w=1 << 31),
    entry(stride=15, size=60),
    entry(stride=17, size=68),
    entry(size=63),
    entry(at=4095),
    entry(at=0),
    entry(at=8192 - 32),
    entry(at=(1 << 64) - 64),
    entry(h=1 << 24, stride=1 << 40, size=1 << 63),
    entry() + entry(),
    entry() + entry(kind=Kind.MASK, f=layout.Format.R8, stride=4, size=16, at=4096 + 0),
]


@pytest.mark.parametrize("table", BAD_TABLES)
def test_bad_plane_tables(table: bytes) -> None:
    with pytest.raises(MalformedSlot):
        slot.parse_table(table, 4096, 8192)


def test_good_plane_tables_with_padded_rows_and_neighbours() -> None:
    planes = slot.parse_table(
        entry(stride=32, size=128) + entry(kind=5, f=3, w=5, stride=15, size=60, at=4096 + 128), 4096, 8192
    )
    assert [p.kind for p in planes] == [Kind.COLOUR, Kind.NORMAL]


def test_newest_pointing_outside_is_a_malformed_header(tmp_path: pathlib.Path) -> None:
    with ring(tmp_path) as (_, path), RingReader("a", directory=tmp_path) as reader:
        poke(path, *header_field("newest", 5 << 8 | 200))
        with pytest.raises(MalformedHeader, match="slot 200"):
            reader.read()


def test_newest_pointing_to_a_slot_that_says_otherwise_gives_nothing(tmp_path: pathlib.Path) -> None:
    with ring(tmp_path) as (_, path), RingReader("a", directory=tmp_path) as reader:
        poke(path, *header_field("newest", 5 << 8 | 1))
        assert reader.read() is None
        with reader.latest() as frame:
            assert frame is None


def test_a_segment_cut_under_a_mapping_is_an_error_at_both_ends(tmp_path: pathlib.Path) -> None:
    with RingReader("a", directory=tmp_path) as reader:
        writer = RingWriter("a", 1 << 14, directory=tmp_path)
        writer.write({Kind.COLOUR: picture(1)})
        path = pathlib.Path(segment.place("a", tmp_path).segment_path(writer.generation))
        assert reader.state is State.LIVE
        os.truncate(path, 8192)
        with pytest.raises(TruncatedSegment, match="writer"):
            reader.read()
        with pytest.raises(TruncatedSegment, match="writer"):
            writer.write({Kind.COLOUR: picture(2)})
        with pytest.raises(TruncatedSegment, match="start the writer again"):
            RingReader("a", directory=tmp_path).read()
        os.truncate(path, 0)
        writer.beat()
        writer.close()
        with RingWriter("a", 1 << 14, directory=tmp_path) as writer:
            writer.write({Kind.COLOUR: picture(3)}, source_frame_id=3)
            frame = reader.read()
            assert frame is not None and frame.source_frame_id == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cuts no file that is mapped")
def test_a_segment_cut_between_check_and_mapping(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attach = segment.attach

    def cut(place: segment.Placement, pointer: segment.Pointer, size: int, fd: int) -> segment.Mapping:
        os.truncate(place.segment_path(pointer.generation), 8192)
        return attach(place, pointer, size, fd)

    with ring(tmp_path), RingReader("a", directory=tmp_path) as reader:
        monkeypatch.setattr(segment, "attach", cut)
        with pytest.raises(TruncatedSegment, match="start the writer again"):
            reader.read()


@pytest.mark.parametrize("length", [0, 1, 100, 4095])
def test_a_segment_shorter_than_a_header(tmp_path: pathlib.Path, length: int) -> None:
    with ring(tmp_path) as (_, path):
        os.truncate(path, length)
        with pytest.raises((TruncatedSegment, NotARing), match="writer"):
            RingReader("a", directory=tmp_path).read()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", NotARing),
        (b"hello world, I am no ring record at all", NotARing),
        (layout.RECORD_MAGIC + bytes(10), TruncatedSegment),
        (RECORD.pack(magic=layout.RECORD_MAGIC, version=2 << 16, generation=4), VersionMismatch),
        (RECORD.pack(magic=layout.RECORD_MAGIC, version=layout.VERSION, generation=0), MalformedHeader),
        (RECORD.pack(magic=layout.RECORD_MAGIC, version=layout.VERSION, generation=4, record_size=63), MalformedHeader),
    ],
)
def test_a_damaged_record_is_refused_by_readers_and_replaced_by_the_next_writer(
    tmp_path: pathlib.Path, content: bytes, error: type[RingError]
) -> None:
    place = segment.place("a", tmp_path)
    pathlib.Path(place.record_path).write_bytes(content)
    with RingReader("a", directory=tmp_path) as reader:
        with pytest.raises(error):
            reader.read()
        with ring(tmp_path):
            assert reader.read() is not None


@FUZZ
@given(content=st.binary(max_size=80), keep=st.integers(0, 24))
def test_any_record_bytes(tmp_path: pathlib.Path, content: bytes, keep: int) -> None:
    place = segment.place("a", tmp_path)
    good = RECORD.pack(magic=layout.RECORD_MAGIC, version=layout.VERSION, generation=4, segment_size=1 << 50)
    pathlib.Path(place.record_path).write_bytes(good[:keep] + content)
    with RingReader("a", directory=tmp_path) as reader, contextlib.suppress(RingError):
        assert reader.read() is None


def test_a_record_that_points_nowhere_is_waited_on(tmp_path: pathlib.Path) -> None:
    with ring(tmp_path) as (_, path):
        path.unlink()
        with RingReader("a", directory=tmp_path) as reader:
            assert reader.read() is None


def test_leftovers_of_dead_writers_are_removed(tmp_path: pathlib.Path) -> None:
    place = segment.place("a", tmp_path)
    stale = [place.segment_path(7), place.segment_path(8) + ".r15", place.record_path + ".0000000000000007.tmp"]
    other = [
        segment.place("b", tmp_path).segment_path(7),
        segment.place("a-0000000000000007", tmp_path).segment_path(7),
    ]
    for path in stale + other:
        pathlib.Path(path).write_bytes(b"old")
    with ring(tmp_path):
        assert not any(os.path.exists(p) for p in stale)
        assert all(os.path.exists(p) for p in other)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's shared memory")
def test_more_than_there_is_room_for_is_no_space_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises((NoSpace, ValueError), match="room|give"):
        RingWriter("a", shutil.disk_usage(tmp_path).free + (1 << 30), directory=tmp_path)
    assert not list(tmp_path.glob("*.seg"))
    RingWriter("a", 4096, directory=tmp_path).close()


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_file_size_limit_is_no_space_and_the_ring_in_use_goes_on(tmp_path: pathlib.Path) -> None:
    script = """
import resource, sys
import numpy as np
from bridge.ring import Kind, NoSpace, RingReader, RingWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
where = sys.argv[1]
try:
    RingWriter("b", 1 << 20, directory=where)
except NoSpace as error:
    print(error)
with RingWriter("a", 1 << 14, directory=where) as writer, RingReader("a", directory=where) as reader:
    writer.write({Kind.MASK: np.ones((4, 4), np.uint8)})
    try:
        writer.write({Kind.MASK: np.ones((2048, 2048), np.uint8)})
    except NoSpace as error:
        print("grow")
    writer.write({Kind.MASK: np.full((4, 4), 7, np.uint8)})
    print(reader.read().planes[Kind.MASK][0, 0], reader.state.name)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert "ulimit -f" in first and second == "grow" and third == "7 LIVE"
    assert not list(tmp_path.glob("*.seg"))


def test_a_missing_folder_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AccessDenied, match="folder"):
        RingWriter("a", 4096, directory=tmp_path / "none")
    assert RingReader("a", directory=tmp_path / "none").read() is None


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_planted_links_and_folders_are_not_followed(tmp_path: pathlib.Path) -> None:
    place = segment.place("a", tmp_path)
    target = tmp_path / "precious"
    target.write_bytes(b"keep me")
    os.symlink(target, place.record_path.replace(".ring", ".lock"))
    with pytest.raises(AccessDenied, match="another channel"):
        RingWriter("a", 4096, directory=tmp_path)
    os.unlink(place.record_path.replace(".ring", ".lock"))
    with ring(tmp_path) as (_, path):
        path.unlink()
        os.symlink(target, path)
        with pytest.raises(AccessDenied, match="another channel"):
            RingReader("a", directory=tmp_path).read()
    assert target.read_bytes() == b"keep me"


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes and symbolic links in folders")
@pytest.mark.parametrize("planted", ["pipe", "folder", "link"])
def test_a_record_that_is_no_file_neither_holds_anybody_up_nor_is_followed(
    tmp_path: pathlib.Path, planted: str
) -> None:
    record = pathlib.Path(segment.place("a", tmp_path).record_path)
    if planted == "pipe":
        os.mkfifo(record)
    elif planted == "folder":
        record.mkdir()
    else:
        with ring(tmp_path):
            shutil.copy(record, tmp_path / "elsewhere")
        record.symlink_to(tmp_path / "elsewhere")
    with RingReader("a", directory=tmp_path) as reader:
        with pytest.raises(RingError, match="remove it"):
            reader.read()
        if planted == "folder":
            with pytest.raises(RingError, match="remove it"):
                RingWriter("a", 4096, directory=tmp_path)
            assert sorted(path.name for path in tmp_path.iterdir()) == [record.name]
            return
        with ring(tmp_path):
            assert reader.read() is not None


def test_unknown_minor_versions_are_read(tmp_path: pathlib.Path) -> None:
    """A later minor version may add fields to gaps; it may not move anything."""
    with ring(tmp_path) as (_, path):
        poke(path, *header_field("version", layout.VERSION_MAJOR << 16 | 7))
        with RingReader("a", directory=tmp_path) as reader:
            frame = reader.read()
            assert frame is not None and np.array_equal(frame.planes[Kind.COLOUR], picture(1))

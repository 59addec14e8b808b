"""The ring in C: every compiler, hostile bytes under sanitizers, the shared library, what a reader sees of a writer."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bridge.ring import Kind, Policy, RingReader, RingWriter, State, WriterExists, layout, segment
from bridge.ring.layout import HEADER, PLANE_TABLE_OFFSET, RECORD, SLOT
from tests.bridge.ring.test_ring_hostile import BAD_HEADERS, BAD_TABLES, entry, header_field, poke
from tests.conformance import runs
from tests.conformance.peers import NATIVE, STRICT, Peer, build, c_peer, find_tool, stage
from tests.rings import fresh_channel, sweep

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="builds the C programs for POSIX")


def compiler(name: str) -> str:
    found = find_tool(name)
    if found is None:
        pytest.skip(f"needs the compiler {name}")
    return found


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """The ordinary build."""
    found = c_peer(tmp_path_factory.mktemp("peer"))
    if found.missing:
        pytest.skip(found.missing)
    return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """A build that ends with status 99 at the first access outside its memory and the first undefined operation."""
    out = tmp_path_factory.mktemp("watched") / "peer"
    flags = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-D_GNU_SOURCE")
    build([compiler("gcc"), "-std=c11", *flags, str(NATIVE / "peer.c"), "-o", str(out)])
    options = {"ASAN_OPTIONS": "exitcode=99:detect_leaks=0", "UBSAN_OPTIONS": "exitcode=99"}
    # Older sanitizers do not start under kernels that randomise addresses by 32 bits, and not always at that.
    starts = {subprocess.run([out], env=os.environ | options, capture_output=True).returncode for _ in range(20)}
    if starts != {2}:
        pytest.skip("programs built with gcc's address sanitizer do not start here (vm.mmap_rnd_bits?)")
    return Peer("c, watched", (str(out),), options)


@pytest.mark.parametrize(
    ("name", "language", "source"),
    [
        ("gcc", ("-std=c11",), "frameloom_c.c"),
        ("clang", ("-std=c11",), "peer.c"),
        ("clang++", ("-std=c++17", "-x", "c++"), "peer.c"),
        ("x86_64-w64-mingw32-gcc", ("-std=c11",), "frameloom_c.c"),
        ("x86_64-w64-mingw32-g++", ("-std=c++17", "-x", "c++"), "peer.c"),
    ],
)
def test_no_compiler_has_a_complaint(tmp_path: Path, name: str, language: tuple[str, ...], source: str) -> None:
    """Beside gcc, g++ and MinGW, whose programs the other tests and the conformance matrix build as strictly."""
    build([compiler(name), *language, *STRICT, "-c", str(NATIVE / source), "-o", str(tmp_path / "out.o")])


def test_built_as_cpp_it_is_the_same_ring(tmp_path: Path, peer: Peer) -> None:
    out = tmp_path / "peer++"
    build([compiler("g++"), "-std=c++17", "-x", "c++", *STRICT, str(NATIVE / "peer.c"), "-o", str(out)])
    as_cpp = Peer("c++", (str(out),))
    runs.everything(as_cpp, peer, tmp_path, 2000)
    runs.everything(peer, as_cpp, tmp_path, 2000)


def test_the_branch_for_other_posix_systems_among_itself(tmp_path: Path) -> None:
    """flock, files of their own for the locks of entries, polling: what macOS gets, built and run here."""
    out = tmp_path / "peer-posix"
    flags = ("-U__linux__", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2")
    build([compiler("gcc"), "-std=c11", *flags, str(NATIVE / "peer.c"), "-o", str(out)])
    other = Peer("c, posix", (str(out),))
    runs.everything(other, other, tmp_path, 2000)
    runs.lossless(other, other, tmp_path, 60)


def refusal(peer: Peer, directory: Path, **words: object) -> dict[str, str]:
    """The typed error with which a reader ends."""
    with stage(directory) as at:
        result = at.start(peer, "read", until=1, **words).result()
    assert result["status"] == 1 and result["error"], result
    return result["error"]


def ring_file(directory: Path, writer: RingWriter) -> Path:
    return Path(segment.place("a", directory).segment_path(writer.generation))


def newest_slot(path: Path) -> int:
    """Where the newest frame's slot begins in a ring of slots of one page."""
    newest = path.read_bytes()[HEADER.offset("newest")]
    return HEADER.size + newest * (SLOT.size + 4096)


@pytest.mark.parametrize(("name", "value", "error"), BAD_HEADERS)
def test_bad_header_fields_are_refused_by_type(
    tmp_path: Path, watched: Peer, name: str, value: int, error: type[Exception]
) -> None:
    with RingWriter("a", 4096, directory=tmp_path) as writer:
        offset, data = (0, struct.pack("<Q", value)) if name == "magic" else header_field(name, value)
        poke(ring_file(tmp_path, writer), offset, data)
        said = refusal(watched, tmp_path)
    assert said["type"] == error.__name__, said
    assert "start the writer again" in said["message"] or "same major version" in said["message"], said


@pytest.mark.parametrize("table", BAD_TABLES)
def test_bad_plane_tables_are_refused_and_the_next_frame_is_read(tmp_path: Path, watched: Peer, table: bytes) -> None:
    with RingWriter("a", 4096, directory=tmp_path) as writer:
        writer.write({Kind.COLOUR: np.zeros((4, 4, 4), np.uint8)})
        slot = newest_slot(ring_file(tmp_path, writer))
        poke(ring_file(tmp_path, writer), slot + SLOT.offset("plane_count"), struct.pack("<I", len(table) // 48))
        poke(ring_file(tmp_path, writer), slot + PLANE_TABLE_OFFSET, table)
        said = refusal(watched, tmp_path)
        assert said["type"] == "MalformedSlot" and "restart" in said["message"], said


def test_padded_rows_are_read(tmp_path: Path, watched: Peer) -> None:
    with RingWriter("a", 4096, directory=tmp_path) as writer:
        writer.write({Kind.COLOUR: np.zeros((4, 4, 4), np.uint8)}, frame_id=1)
        slot = newest_slot(ring_file(tmp_path, writer))
        poke(ring_file(tmp_path, writer), slot + PLANE_TABLE_OFFSET, entry(stride=32, size=128))
        with stage(tmp_path) as at:
            # Zeros are not the pattern: the frame is delivered and judged.
            result = at.start(watched, "read", until=1).result()
        assert result["taken"] == 1 and result["torn"] == 1 and result["error"] is None, result


def test_changed_bytes_never_break_a_reader(tmp_path: Path, watched: Peer) -> None:
    """Random patches of header and slot: a frame or a typed error, nothing that a sanitizer objects to."""
    dice = random.Random(7)
    for _ in range(50):
        with RingWriter("a", 4096, directory=tmp_path) as writer, stage(tmp_path) as at:
            writer.write({Kind.COLOUR: np.zeros((4, 4, 4), np.uint8), Kind.MASK: np.zeros((4, 4), np.uint8)})
            slot = newest_slot(ring_file(tmp_path, writer))
            for _ in range(dice.randint(1, 3)):
                where = dice.choice(
                    (dice.randrange(12, 96), slot + dice.randrange(48, 72), slot + 256 + dice.randrange(96))
                )
                poke(ring_file(tmp_path, writer), where, dice.randbytes(dice.randint(1, 8)))
            result = at.start(watched, "read", until=1, how=dice.choice(("read", "latest")), seconds=1).result()
        assert result["status"] in (1, 3, 4), result
        assert (
            result["error"] is None or "again" in result["error"]["message"] or "restart" in result["error"]["message"]
        )


def test_newest_pointing_outside_is_a_malformed_header(tmp_path: Path, watched: Peer) -> None:
    for how in ("read", "latest", "lossless"):
        with RingWriter("a", 4096, directory=tmp_path) as writer:
            poke(ring_file(tmp_path, writer), *header_field("newest", 5 << 8 | 200))
            said = refusal(watched, tmp_path, how=how)
            assert said["type"] == "MalformedHeader" and "slot 200" in said["message"], said


@pytest.mark.parametrize("length", [0, 1, 100, 4095])
def test_a_segment_shorter_than_a_header(tmp_path: Path, watched: Peer, length: int) -> None:
    with RingWriter("a", 4096, directory=tmp_path) as writer:
        path = ring_file(tmp_path, writer)
        os.truncate(path, length)
        said = refusal(watched, tmp_path)
        assert said["type"] in ("TruncatedSegment", "NotARing") and "writer" in said["message"], said


def test_a_segment_cut_under_a_reader(tmp_path: Path, watched: Peer) -> None:
    with RingWriter("a", 4096, directory=tmp_path) as writer, stage(tmp_path) as at:
        reading = at.start(watched, "read", until=10**9)
        reading.await_line("READY")
        writer.write({Kind.COLOUR: np.zeros((4, 4, 4), np.uint8)}, frame_id=1)
        path = ring_file(tmp_path, writer)
        deadline = time.monotonic() + 60
        # The reader has an entry of its own as soon as it sleeps.
        while not any(path.read_bytes()[layout.READER_TABLE_OFFSET : HEADER.size : layout.READER.size]):
            assert time.monotonic() < deadline
        os.truncate(path, 8192)
        result = reading.result()
    assert result["error"]["type"] == "TruncatedSegment" and "writer" in result["error"]["message"], result


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "NotARing"),
        (b"hello world, I am no ring record at all", "NotARing"),
        (layout.RECORD_MAGIC + bytes(10), "TruncatedSegment"),
        (RECORD.pack(magic=layout.RECORD_MAGIC, version=2 << 16, generation=4), "VersionMismatch"),
        (RECORD.pack(magic=layout.RECORD_MAGIC, version=layout.VERSION, generation=0), "MalformedHeader"),
    ],
)
def test_a_damaged_record_is_refused_and_replaced_by_the_next_writer(
    tmp_path: Path, watched: Peer, content: bytes, error: str
) -> None:
    record = Path(segment.place("a", tmp_path).record_path)
    record.write_bytes(content)
    assert refusal(watched, tmp_path)["type"] == error
    with stage(tmp_path) as at:
        writing = at.start(watched, "write", frames=5)
        writing.await_line("DONE")
        assert at.start(watched, "read", until=5).result()["status"] == 0
        assert writing.leave()["status"] == 0
    assert not list(tmp_path.glob("*.seg")) and not record.exists()


def test_pipes_links_and_missing_folders(tmp_path: Path, watched: Peer) -> None:
    place = segment.place("a", tmp_path)
    os.mkfifo(place.record_path)
    assert refusal(watched, tmp_path)["type"] == "NotARing"
    os.unlink(place.record_path)
    target = tmp_path / "precious"
    target.write_bytes(b"keep me")
    os.symlink(target, place.lock_path)
    with stage(tmp_path) as at:
        result = at.start(watched, "write", frames=1).result()
    assert result["error"]["type"] == "AccessDenied" and "another channel" in result["error"]["message"], result
    os.unlink(place.lock_path)
    with stage(tmp_path / "none") as at:
        result = at.start(watched, "write", frames=1).result()
        assert result["error"]["type"] == "AccessDenied" and "folder" in result["error"]["message"], result
        assert at.start(watched, "read", until=1, seconds=1).result()["timeout"]
    assert target.read_bytes() == b"keep me"


@pytest.mark.parametrize(
    ("words", "error", "fix"),
    [
        ({"width": 0}, "InvalidFrame", "each side must be 1 to"),
        ({"width": 20000, "height": 20000}, "FrameTooLarge", "max_capacity_bytes"),
        ({"slots": 3}, "Misuse", "give 4 to 64 slots"),
        ({"channel": "../up"}, "InvalidChannel", "letters, digits"),
    ],
)
def test_a_writer_refuses_what_cannot_be(
    tmp_path: Path, watched: Peer, words: dict[str, object], error: str, fix: str
) -> None:
    with stage(tmp_path) as at:
        result = at.start(watched, "write", **({"frames": 1, "capacity": 4096} | words)).result()
    assert result["error"]["type"] == error and fix in result["error"]["message"], result
    assert not list(tmp_path.glob("*.seg"))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm, which knows its size")
def test_more_than_there_is_room_for_is_no_space_and_leaves_nothing(watched: Peer) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, stage(Path(folder)) as at:
        capacity = shutil.disk_usage(folder).total // 4 + (1 << 30)
        result = at.start(watched, "write", frames=1, capacity=capacity).result()
        assert result["error"]["type"] == "NoSpace" and "smaller frames" in result["error"]["message"], result
        assert not os.listdir(folder)


def test_a_second_lossless_reader_is_refused(tmp_path: Path, watched: Peer) -> None:
    with RingWriter("a", 4096, directory=tmp_path) as writer, RingReader("a", lossless=True, directory=tmp_path) as one:
        writer.write({Kind.COLOUR: np.zeros((4, 4, 4), np.uint8)})
        assert one.read() is not None
        said = refusal(watched, tmp_path, how="lossless")
        assert said["type"] == "ReaderExists" and "newest-wins" in said["message"], said


def test_a_lossless_writer_lets_a_dead_reader_go_and_tells_of_a_slow_one(tmp_path: Path, watched: Peer) -> None:
    with stage(tmp_path) as at:
        reading = at.start(watched, "read", until=100, how="lossless", die=20)
        reading.await_line("READY")
        writing = at.start(watched, "write", frames=100, policy="lossless", timeout_ms=60000)
        reading.died()
        writing.await_line("DONE")
        assert writing.leave()["written"] == 100
    with RingReader("a", lossless=True, directory=tmp_path) as stuck, stage(tmp_path) as at:
        writing = at.start(watched, "write", frames=100, policy="lossless", timeout_ms=3000)
        assert stuck.read(60) is not None
        result = writing.result()
    assert result["error"]["type"] == "ReaderTimeout" and "newest-wins" in result["error"]["message"], result


def test_what_a_reader_knows_of_a_writer_in_c(tmp_path: Path, peer: Peer) -> None:
    with RingReader("a", directory=tmp_path) as reader:
        for end in ("killed", "left"):
            with stage(tmp_path) as at:
                writing = at.start(peer, "write", frames=3)
                writing.await_line("DONE")
                frame = reader.read(60)
                assert frame is not None and frame.frame_id == 3 and reader.state is State.LIVE
                if end == "killed":
                    writing.end()
                else:
                    writing.leave()
                assert reader.state is State.WRITER_GONE and reader.read() is None


class _Error(ctypes.Structure):
    _fields_ = (("status", ctypes.c_int), ("message", ctypes.c_char * 512))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    out = tmp_path_factory.mktemp("library") / "libframeloom_c.so"
    flags = ("-std=c11", *STRICT, "-fPIC", "-shared", "-fvisibility=hidden")
    build([compiler("gcc"), *flags, str(NATIVE / "frameloom_c.c"), "-o", str(out)])
    loaded = ctypes.CDLL(str(out))
    loaded.frameloom_reader_open.restype = loaded.frameloom_writer_open.restype = ctypes.c_void_p
    loaded.frameloom_status_name.restype = ctypes.c_char_p
    return loaded


def opened(function: Callable[..., int | None], *words: object) -> tuple[ctypes.c_void_p, _Error]:
    error = _Error()
    return ctypes.c_void_p(function(*words, ctypes.byref(error))), error


def test_an_engine_reads_through_the_shared_library(tmp_path: Path, library: ctypes.CDLL) -> None:
    none, error = opened(library.frameloom_reader_open, b"no/such", None, 0)
    assert not none and library.frameloom_status_name(error.status) == b"InvalidChannel" and b"letters" in error.message
    reader, error = opened(library.frameloom_reader_open, b"a", str(tmp_path).encode(), 0)
    frame, pixels = ctypes.create_string_buffer(4096), ctypes.create_string_buffer(64)
    picture = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)

    def take(room: int, timeout_ms: int) -> bytes:
        status = library.frameloom_read(reader, pixels, ctypes.c_size_t(room), frame, timeout_ms, ctypes.byref(error))
        return bytes(library.frameloom_status_name(status))

    with RingWriter("a", 4096, directory=tmp_path) as writer:
        writer.write({Kind.COLOUR: picture}, frame_id=5, source_frame_id=9)
        assert take(63, 1000) == b"BufferMismatch" and b"needs 64 bytes" in error.message
        assert take(64, 1000) == b"Ok" and pixels.raw == picture.tobytes()
        assert struct.unpack_from("<QQQQ", frame) == (1, writer.generation, 5, 9)
        assert take(64, 0) == b"NothingNew"
    library.frameloom_reader_close(reader)


def test_an_engine_writes_through_the_shared_library(tmp_path: Path, library: ctypes.CDLL) -> None:
    folder = ctypes.create_string_buffer(str(tmp_path).encode())
    options = struct.pack("<QQQIIIxxxx", ctypes.addressof(folder), 4096, 0, 0, 0, 0)
    writer, error = opened(library.frameloom_writer_open, b"a", options)
    assert writer, error.message
    plane = struct.pack("<IIIIQQQ", Kind.COLOUR, layout.Format.RGBA8, 4, 4, 0, 0, 0)
    frame = ctypes.create_string_buffer(4096)
    name = library.frameloom_status_name

    def begin() -> bytes:
        return bytes(name(library.frameloom_begin(writer, plane, 1, frame, ctypes.byref(error))))

    with RingReader("a", directory=tmp_path) as reader:
        assert begin() == b"Ok" and begin() == b"Misuse" and b"commit or abandon" in error.message
        assert name(library.frameloom_commit(writer, frame, ctypes.byref(error))) == b"Ok"
        assert name(library.frameloom_commit(writer, frame, ctypes.byref(error))) == b"Misuse"
        taken = reader.read()
        assert taken is not None and taken.frame_id == 1 and taken.planes[Kind.COLOUR].shape == (4, 4, 4)
        assert begin() == b"Ok"
        library.frameloom_abandon(writer)
        assert begin() == b"Ok" and reader.read() is None
        assert name(library.frameloom_commit(writer, frame, ctypes.byref(error))) == b"Ok"
        assert reader.read() is not None
        os.truncate(segment.place("a", tmp_path).segment_path(reader.generation), 8192)
        assert begin() == b"TruncatedSegment" and b"open a new writer" in error.message
    library.frameloom_writer_close(writer)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_child_forked_while_its_parent_holds_a_view_or_a_slot_touches_neither(
    tmp_path: Path, library: ctypes.CDLL
) -> None:
    folder = ctypes.create_string_buffer(str(tmp_path).encode())
    options = struct.pack("<QQQIIIxxxx", ctypes.addressof(folder), 4096, 0, 0, 0, 0)
    writer, error = opened(library.frameloom_writer_open, b"a", options)
    reader, _ = opened(library.frameloom_reader_open, b"a", folder, 0)
    plane = struct.pack("<IIIIQQQ", Kind.COLOUR, layout.Format.RGBA8, 4, 4, 0, 0, 0)
    frame, held = ctypes.create_string_buffer(4096), ctypes.create_string_buffer(4096)
    pid = os.getpid()

    def publish(forked: bool = False) -> None:
        assert library.frameloom_begin(writer, plane, 1, frame, ctypes.byref(error)) == 0
        if forked and os.fork() == 0:
            refused = library.frameloom_commit(writer, frame, ctypes.byref(error))
            library.frameloom_abandon(writer)
            os._exit(0 if library.frameloom_status_name(refused) == b"RingClosed" else 1)
        if forked:
            assert os.wait()[1] == 0
        assert library.frameloom_commit(writer, frame, ctypes.byref(error)) == 0

    publish(forked=True)
    assert library.frameloom_latest(reader, held, 1000, ctypes.byref(error)) == 0
    if os.fork() == 0:
        library.frameloom_release(reader, frame)
        os._exit(0)
    os.wait()
    for _ in range(8):
        publish()
    assert library.frameloom_release(reader, held) == 1 and os.getpid() == pid
    library.frameloom_reader_close(reader)
    library.frameloom_writer_close(writer)


def test_a_damaged_ring_makes_nobody_spin(tmp_path: Path, library: ctypes.CDLL) -> None:
    """`newest` promises a frame that no slot holds: nothing new, and no sooner than a millisecond later."""
    reader, error = opened(library.frameloom_reader_open, b"a", str(tmp_path).encode(), 0)
    frame = ctypes.create_string_buffer(4096)
    with RingWriter("a", 4096, directory=tmp_path) as writer:
        poke(ring_file(tmp_path, writer), *header_field("newest", 5 << 8 | 1))
        for take in (
            lambda: library.frameloom_read(reader, None, ctypes.c_size_t(0), frame, 1000, ctypes.byref(error)),
            lambda: library.frameloom_latest(reader, frame, 1000, ctypes.byref(error)),
        ):
            began = time.monotonic()
            assert {take() for _ in range(20)} == {1}
            assert time.monotonic() - began >= 0.02
    library.frameloom_reader_close(reader)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody sleeps by the word")
def test_a_short_wait_that_ends_just_as_a_frame_comes_does_not_end_sleeping(
    tmp_path: Path, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, error = opened(library.frameloom_reader_open, b"a", str(tmp_path).encode(), 0)
    frame = ctypes.create_string_buffer(4096)
    picture = {Kind.COLOUR: np.zeros((4, 4, 4), np.uint8)}

    def take(timeout_ms: int) -> int:
        return int(library.frameloom_latest(reader, frame, timeout_ms, ctypes.byref(error)))

    with RingWriter("a", 4096, directory=tmp_path) as writer, ThreadPoolExecutor() as thread:
        waiting = slice(HEADER.offset("waiting"), HEADER.offset("waiting") + 4 * layout.READER_ENTRIES)
        asleep = bytes(waiting.stop - waiting.start)

        def write_into_sleep(timeout_ms: int) -> bool:
            """Whether the reader slept on its word before a frame came."""
            taking = thread.submit(take, timeout_ms)
            while not (slept := writer._current.mapping.memory[waiting] != asleep) and not taking.done():
                pass
            writer.write(picture)
            taken = taking.result()
            while taken == 1:
                taken = take(1000)
            library.frameloom_release(reader, frame)
            return slept

        with monkeypatch.context() as silent:
            # Frames that wake nobody, found at the end of a sleep of 50 ms.
            silent.setattr(RingWriter, "_wake_readers", lambda self: None)
            for _ in range(4):
                write_into_sleep(50)
        assert write_into_sleep(60_000)
    library.frameloom_reader_close(reader)


def test_a_record_that_cannot_be_written_is_no_space_and_leaves_nothing(tmp_path: Path, peer: Peer) -> None:
    source = tmp_path / "full.c"
    source.write_text(
        """
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
ssize_t write(int fd, const void *data, size_t count) {
    if (count == 64 && memcmp(data, "FLPOINT", 7) == 0) return errno = ENOSPC, -1;
    return syscall(SYS_write, fd, data, count);
}
"""
    )
    full, ring = tmp_path / "full.so", tmp_path / "ring"
    build([compiler("gcc"), "-D_GNU_SOURCE", "-shared", "-fPIC", str(source), "-o", str(full)])
    ring.mkdir()
    with stage(ring) as at:
        result = at.start(replace(peer, environment={"LD_PRELOAD": str(full)}), "write", frames=1).result()
    assert result["error"]["type"] == "NoSpace" and "free some room" in result["error"]["message"], result
    assert not os.listdir(ring)


def test_the_makefile_builds_what_it_says(tmp_path: Path) -> None:
    compiler("make"), compiler("cc")
    build(["make", "-s", "-C", str(NATIVE), f"OUT={tmp_path}", "all"])
    assert (tmp_path / "peer").exists() and (tmp_path / "libframeloom_c.so").exists()


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    """Its lines, those of every frame in a loop; Python plays the host and sends each picture back."""
    text = (NATIVE / "README.md").read_text(encoding="utf-8")
    example = text.split("```c\n", 1)[1].split("```", 1)[0]
    includes, rest = example.split("\n\n", 1)
    once, each = rest.split("frameloom_frame in", 1)
    channel, pixels = fresh_channel(), 512 * 512 * 4
    source = f"""
{includes.replace("stage", channel)}
#include <stdio.h>
#include <time.h>
static unsigned char pixels[{pixels}];
static int seen;
static void upload(const unsigned char *at, unsigned long long stride) {{ seen = at[stride - 1]; }}
int main(void) {{
{once.replace("stage", channel)}
if (!to_host || !from_host) return 2;
for (int i = 1; i <= 3000 && !seen; i++) {{
pixels[2047] = 7;
frameloom_frame in{each}
struct timespec nap = {{0, 10000000}};
nanosleep(&nap, 0);
}}
frameloom_reader_close(from_host);
frameloom_writer_close(to_host);
return seen == 7 ? 0 : 1;
}}
"""
    (tmp_path / "example.c").write_text(source)
    flags = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", f"-I{NATIVE}")
    build([compiler("gcc"), *flags, str(tmp_path / "example.c"), "-o", str(tmp_path / "example")])
    try:
        with subprocess.Popen([tmp_path / "example"], stdout=subprocess.PIPE, text=True) as running:
            with RingReader(f"{channel}.in") as source_ring, RingWriter(f"{channel}.out", pixels) as result_ring:
                while running.poll() is None:
                    frame = source_ring.read(0.2)
                    if frame is not None:
                        result_ring.write(frame.planes, source_frame_id=frame.source_frame_id)
            assert running.wait() == 0
    finally:
        sweep(channel)


FORK = """
#define _GNU_SOURCE
#include "frameloom.h"
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
int main(int count, char **words) {
    frameloom_error error;
    frameloom_writer_options options = {.directory = words[1]};
    frameloom_writer *writer = frameloom_writer_open("a", &options, &error);
    frameloom_reader *reader = frameloom_reader_open("a", words[1], 1, &error);
    if (!writer || !reader || frameloom_wait(reader, 0, &error) != FRAMELOOM_NOTHING_NEW) return 1;
    int own[2];
    if (pipe(own)) return 2;
    if (fork() == 0) {
        frameloom_frame frame;
        frameloom_plane plane = {.kind = 1, .format = 1, .width = 4, .height = 4};
        int ours[16], good = 1;
        close(own[1]);
        /* They get the numbers of the descriptors that were closed at the fork. */
        for (int i = 0; i < 16; i++) ours[i] = dup(own[0]);
        int refused = frameloom_begin(writer, &plane, 1, &frame, &error) == FRAMELOOM_RING_CLOSED;
        if (count > 2) {
            frameloom_writer_close(writer);
            frameloom_reader_close(reader);
        }
        for (int i = 0; i < 16; i++) good = good && fcntl(ours[i], F_GETFD) >= 0;
        printf("%s %s\\n", refused ? "refused" : "allowed", good ? "good" : "closed by another");
        fflush(stdout);
        int ended = (int)read(own[0], &refused, 1);
        printf("%d\\n", ended);
        fflush(stdout);
        for (;;) pause();
    }
    close(own[0]);
    for (;;) pause();
}
"""


@pytest.mark.parametrize("words", [[], ["close"]], ids=["keeps", "closes"])
def test_a_forked_child_keeps_no_lock_of_its_dead_parent(tmp_path: Path, words: list[str]) -> None:
    source, out = tmp_path / "fork.c", tmp_path / "fork"
    source.write_text(FORK)
    build([compiler("gcc"), "-std=c11", *STRICT, f"-I{NATIVE}", str(source), "-o", str(out)])
    where = tmp_path / "ring"
    where.mkdir()
    parent = subprocess.Popen([out, where, *words], stdout=subprocess.PIPE, text=True, start_new_session=True)
    with parent:
        assert parent.stdout is not None
        try:
            assert parent.stdout.readline() == "refused good\n"
            with pytest.raises(WriterExists):
                RingWriter("a", 4096, directory=where)
            with RingReader("a", directory=where) as reader:
                assert reader.state is State.LIVE
                parent.kill()
                parent.wait()
                assert parent.stdout.readline() == "0\n"
                assert reader.state is State.WRITER_GONE
            with RingWriter("a", 4096, policy=Policy.LOSSLESS, directory=where):
                pass
        finally:
            os.killpg(parent.pid, signal.SIGKILL)

"""What a ring once did wrong, each as it was found: pictures of the dead, planted names, memory and files kept."""

from __future__ import annotations

import errno
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest

from bridge.ring import (
    AccessDenied,
    Kind,
    NoSpace,
    NotARing,
    PlaneSpec,
    Policy,
    RingClosed,
    RingError,
    RingReader,
    RingWriter,
    State,
    TruncatedSegment,
    WriterExists,
    layout,
    segment,
)
from bridge.ring import writer as ring_writer
from bridge.ring.layout import Format
from bridge.ring.leftovers import sweep
from tests.bridge.ring.ring_peer import number_of, picture
from tests.bridge.ring.test_ring_hostile import header_field, poke

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at what Linux tells of a process")
root = pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="needs root to act for two users")
ROOT = pathlib.Path(__file__).resolve().parents[3]
SOMEBODY = 65534


def killed(directory: pathlib.Path, number: int = 1, capacity: int = 1 << 14, channel: str = "a") -> int:
    """Write one frame and die; the generation that is left."""
    script = (
        "import os, sys\nfrom bridge.ring import Kind, RingWriter\n"
        "from tests.bridge.ring.ring_peer import picture\n"
        "writer = RingWriter(sys.argv[1], int(sys.argv[4]), directory=sys.argv[2])\n"
        "writer.write({Kind.COLOUR: picture(int(sys.argv[3]))}, source_frame_id=int(sys.argv[3]))\n"
        "print(writer.generation, flush=True)\nos._exit(9)\n"
    )
    words = [sys.executable, "-c", script, channel, str(directory), str(number), str(capacity)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 9, done.stderr
    return int(done.stdout)


def run_script(script: str, *words: object) -> list[str]:
    """The lines that a script of its own process says."""
    line = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def mapped(generation: int) -> bool:
    return f"{generation:016x}.seg" in pathlib.Path("/proc/self/maps").read_text()


# ---- the picture of a dead writer ------------------------------------------------------------------------------------


@posix
def test_a_dead_picture_is_no_news_while_the_next_writer_takes_over(tmp_path: pathlib.Path) -> None:
    """The next writer holds the lock of the channel and has not come to delete the record."""
    killed(tmp_path)
    place = segment.place("a", tmp_path)
    lock = place.writer_lock()
    assert lock.acquire()
    with RingReader("a", directory=tmp_path) as reader:
        assert reader.read() is None and reader.state is State.NO_WRITER
        with reader.latest() as frame:
            assert frame is None
        lock.release()
        with RingWriter("a", 1 << 14, directory=tmp_path) as writer:
            writer.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
            frame = reader.read()
            assert frame is not None and frame.source_frame_id == 2


def of_version_1_0(directory: pathlib.Path, writer: RingWriter | None = None) -> None:
    """Make the ring that is there one of a writer that knew nothing of the lock of its generation."""
    place = segment.place("a", directory)
    pointer = segment.read_pointer(place)
    assert pointer is not None
    poke(pathlib.Path(place.record_path), layout.RECORD.offset("version"), (1 << 16).to_bytes(4, "little"))
    poke(pathlib.Path(place.segment_path(pointer.generation)), *header_field("version", 1 << 16))
    if writer is not None:
        assert writer._current.lock is not None
        writer._current.lock.release()
        writer._record = segment.identity_of(place.record_path)


def test_writers_of_version_1_0_are_believed_by_the_lock_of_the_channel(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        of_version_1_0(tmp_path, writer)
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        frame = reader.read()
        assert frame is not None and frame.source_frame_id == 1 and reader.state is State.LIVE


@posix
def test_a_dead_writer_of_version_1_0_is_known_by_the_lock_of_the_channel(tmp_path: pathlib.Path) -> None:
    killed(tmp_path)
    of_version_1_0(tmp_path)
    with RingReader("a", directory=tmp_path) as reader:
        assert reader.read() is None and reader.state is State.NO_WRITER


def test_a_dead_ring_of_version_1_0_that_was_left_is_not_read_again(tmp_path: pathlib.Path) -> None:
    """Its next writer, of that version, too, holds the lock of the channel and has not come to delete the record."""
    writer = RingWriter("a", 1 << 14, directory=tmp_path)
    of_version_1_0(tmp_path, writer)
    writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
    with RingReader("a", directory=tmp_path) as reader:
        assert reader.read() is not None
        writer._lock.release()  # as by its death
        reader._look_at = 0.0
        assert reader.read() is None and reader.state is State.WRITER_GONE
        lock = segment.place("a", tmp_path).writer_lock()
        assert lock.acquire()
        assert reader.read() is None and reader.state is State.WRITER_GONE
        lock.release()


def test_a_reader_of_version_1_0_finds_a_live_writer_by_the_lock_of_the_channel(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path):
        assert segment.place("a", tmp_path).writer_lock().taken_elsewhere()


def test_each_generation_has_its_own_lock(tmp_path: pathlib.Path) -> None:
    place = segment.place("a", tmp_path)
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer:
        first = place.generation_lock(writer.generation)
        assert first.taken_elsewhere()
        writer.write({Kind.COLOUR: picture(1, 256)})
        second = place.generation_lock(writer.generation)
        assert second.taken_elsewhere() and not first.taken_elsewhere()
    assert not second.taken_elsewhere()


# ---- what others plant -----------------------------------------------------------------------------------------------


def plant(path: str, what: str) -> None:
    if what == "folder":
        os.mkdir(path)
    elif what == "link":
        os.symlink("/etc/hostname", path)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        # A name may be longer than a socket's address may be.
        here = os.open(os.path.dirname(path), os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as planted:
            planted.bind(f"/proc/self/fd/{here}/{os.path.basename(path)}")
        os.close(here)
    else:
        pathlib.Path(path).write_bytes(b"")
        os.chmod(path, 0o666)
        os.chown(path, SOMEBODY, SOMEBODY)


PLANTED = ["folder", "link", "pipe", pytest.param("socket", marks=linux), pytest.param("file", marks=root)]


@posix
@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_lock_is_refused_and_left(tmp_path: pathlib.Path, what: str) -> None:
    path = segment.place("a", tmp_path).lock_path
    plant(path, what)
    with pytest.raises(AccessDenied, match="remov"):
        RingWriter("a", 1 << 14, directory=tmp_path)
    assert os.path.lexists(path) and len(os.listdir(tmp_path)) == 1


@posix
@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_record_is_refused_by_readers(tmp_path: pathlib.Path, what: str) -> None:
    plant(segment.place("a", tmp_path).record_path, what)
    with RingReader("a", directory=tmp_path) as reader, pytest.raises((AccessDenied, NotARing), match="remov"):
        reader.read()


@posix
@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_segment_is_refused_by_readers(tmp_path: pathlib.Path, what: str) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        assert writer.segment_path is not None
        os.unlink(writer.segment_path)
        plant(writer.segment_path, what)
        with pytest.raises((AccessDenied, NotARing), match="remov"):
            reader.read()


@root
def test_a_planted_lock_deceives_no_reader(tmp_path: pathlib.Path) -> None:
    """Somebody else's lock, held over a dead ring."""
    killed(tmp_path)
    place = segment.place("a", tmp_path)
    os.unlink(place.lock_path)
    lock = place.writer_lock()
    assert lock.acquire()
    os.chown(place.lock_path, SOMEBODY, SOMEBODY)
    with RingReader("a", directory=tmp_path) as reader:
        assert reader.read() is None and reader.state is State.NO_WRITER
    with pytest.raises(AccessDenied, match=f"user id {SOMEBODY}"):
        RingWriter("a", 1 << 14, directory=tmp_path)


@posix
def test_closing_gives_the_lock_back_whatever_became_of_its_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    writer = RingWriter("a", 1 << 14, directory=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", denied)
        writer.close()
    RingWriter("a", 1 << 14, directory=tmp_path).close()
    assert not os.listdir(tmp_path)


@posix
@pytest.mark.parametrize("what", PLANTED)
def test_a_sweep_leaves_what_it_cannot_clear(what: str) -> None:
    prefix = f"test-plant-{os.getpid()}-"
    odd, planted = (segment.place(f"{prefix}{name}").lock_path for name in ("0-odd", "1-planted"))
    odd = odd.replace("odd", "o d")
    try:
        pathlib.Path(odd).write_bytes(b"")
        plant(planted, what)
        home = segment.place(f"{prefix}2-dead")
        script = "import os, sys\nfrom bridge.ring import RingWriter\nRingWriter(sys.argv[1], 4096)\nos._exit(9)\n"
        subprocess.run([sys.executable, "-c", script, f"{prefix}2-dead"], cwd=ROOT, timeout=240)
        assert os.path.exists(home.record_path)
        assert sweep(prefix) == [f"{prefix}2-dead"]
        assert not os.path.exists(home.record_path) and os.path.lexists(planted)
    finally:
        os.unlink(odd)
        os.rmdir(planted) if what == "folder" else os.unlink(planted)


# ---- one writer object, used twice -----------------------------------------------------------------------------------

SPEC = [PlaneSpec(Kind.COLOUR, Format.RGBA8, 64, 48)]


@pytest.mark.parametrize("width", [64, 512], ids=["write", "growth"])
def test_writing_inside_a_slot_is_refused_and_the_slot_goes_on(tmp_path: pathlib.Path, width: int) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        for _ in range(2):
            writer.write({Kind.COLOUR: picture(7)})  # known by its shape from here on
        reader.read()
        with writer.slot(SPEC) as slot:
            slot.planes[Kind.COLOUR][:] = picture(1)
            with pytest.raises(RuntimeError, match="slot"):
                writer.write({Kind.COLOUR: picture(2, width)})
            with pytest.raises(RuntimeError, match="slot"), writer.slot(SPEC):
                pass
            assert reader.read() is None
        frame = reader.read()
        assert frame is not None and number_of(frame.planes[Kind.COLOUR]) == 1 and frame.sequence == 3
        with pytest.raises(ZeroDivisionError), writer.slot(SPEC):
            raise ZeroDivisionError
        writer.write({Kind.COLOUR: picture(3)})
        frame = reader.read()
        assert frame is not None and number_of(frame.planes[Kind.COLOUR]) == 3 and frame.sequence == 4


def test_closing_inside_a_slot_publishes_nothing(tmp_path: pathlib.Path) -> None:
    with (
        RingWriter("a", 1 << 14, directory=tmp_path) as writer,
        RingReader("a", directory=tmp_path) as reader,
    ):
        assert reader.state is State.LIVE
        with pytest.raises(RingClosed), writer.slot(SPEC):
            writer.close()
        assert reader.read() is None and reader.state is State.WRITER_GONE


# ---- memory that is given back ---------------------------------------------------------------------------------------


@linux
def test_readers_give_the_memory_of_a_ring_without_a_writer_back(tmp_path: pathlib.Path) -> None:
    dead = killed(tmp_path)
    with RingReader("a", directory=tmp_path) as reader:
        assert reader.read() is None and reader.generation == 0
        with RingWriter("a", 1 << 14, directory=tmp_path) as writer:
            closed = writer.generation
            writer.write({Kind.COLOUR: picture(1)})
            assert reader.read() is not None and mapped(closed)
            writer.write({Kind.COLOUR: picture(2)})
        # The writer's own mapping is gone, though its object is there; ours stays for what we have not taken.
        assert mapped(closed)
        frame = reader.read()
        assert frame is not None and number_of(frame.planes[Kind.COLOUR]) == 2
        assert reader.read() is None and not mapped(closed)
        assert reader.state is State.WRITER_GONE and reader.generation == closed
    assert not mapped(dead)


@linux
def test_a_reader_of_a_killed_writer_gives_its_memory_back(tmp_path: pathlib.Path) -> None:
    writer = RingWriter("a", 1 << 14, directory=tmp_path)
    generation = writer.generation
    with RingReader("a", directory=tmp_path) as reader:
        writer.write({Kind.COLOUR: picture(1)})
        with reader.latest() as frame:
            assert frame is not None
            for lock in (writer._lock, writer._current.lock):
                assert lock is not None
                lock.abandon()  # type: ignore[attr-defined]  # as by its death
            del writer
            assert reader.state is State.WRITER_GONE
            reader._look_at = 0.0  # a tenth of a second later
            assert reader.read() is None
            # A view that is held keeps its memory.
            assert number_of(frame.planes[Kind.COLOUR]) == 1
            del frame
        assert not mapped(generation)


def test_a_ring_that_its_writer_is_leaving_is_not_read_again(tmp_path: pathlib.Path) -> None:
    """Closed, and neither the record nor the lock is gone."""
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        writer.write({Kind.COLOUR: picture(1)})
        assert reader.read() is not None
        writer._current.u32[layout.HEADER.offset("state") // 4] = layout.SegmentState.CLOSED
        for _ in range(3):
            assert reader.read() is None and reader.state is State.WRITER_GONE
        with RingReader("a", directory=tmp_path) as late:
            assert late.read() is None and late.state is State.NO_WRITER


@linux
@pytest.mark.parametrize("left", ["dead", "closed"])
def test_a_ring_is_taken_over_where_readers_still_hold_the_room(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    first = RingWriter("a", 1 << 14, directory=tmp_path)
    generation = first.generation
    first.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
    reader = RingReader("a", directory=tmp_path)
    assert reader.read() is not None
    if left == "closed":
        first.close()
    else:
        for lock in (first._lock, first._current.lock):
            assert lock is not None
            lock.abandon()  # type: ignore[attr-defined]  # as by its death
    del first
    create = segment.create
    frames = []
    reading = threading.Thread(target=lambda: frames.append(reader.read(60.0)))
    tries = []

    def full(place: segment.Placement, number: int, size: int) -> segment.Mapping:
        tries.append(number)
        if mapped(generation):
            # From the second try on: until then our own mapping is a reason, too.
            if len(tries) == 2:
                reading.start()
            raise NoSpace("no room beside the other one")
        return create(place, number, size)

    monkeypatch.setattr(segment, "create", full)
    monkeypatch.setattr(ring_writer, "RETRY_S", 60.0)
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, reader:
        writer.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
        reading.join()
        assert frames[0].source_frame_id == 2


def test_a_ring_is_as_large_as_what_it_carries(tmp_path: pathlib.Path) -> None:
    """A container gives 64 MiB of shared memory unless told otherwise."""
    with RingWriter("a", directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        assert writer.segment_size < 5 << 20
        writer.write({Kind.COLOUR: picture(1, 1920, 1080)})
        assert writer.segment_size < 34 << 20
        assert reader.read() is not None


# ---- errors by type --------------------------------------------------------------------------------------------------


@linux
def test_without_a_descriptor_every_call_says_so_and_goes_on_with_one(tmp_path: pathlib.Path) -> None:
    script = """
import os, resource, sys
import numpy as np
from bridge.ring import Kind, OutOfResources, Policy, RingReader, RingWriter
where, policy = sys.argv[1], Policy[sys.argv[2]]
frame = lambda side: {Kind.MASK: np.ones((side, side), np.uint8)}
def said(call):
    try:
        return call()
    except OutOfResources as error:
        assert "ulimit -n" in str(error), error
        return "OutOfResources"
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
writer = RingWriter("a", 4096, policy=policy, directory=where)
reader = RingReader("a", lossless=policy is Policy.LOSSLESS, directory=where)
assert reader.read() is None
writer.write(frame(8))
assert reader.read() is not None
fresh = RingReader("a", directory=where)
hog = []
try:
    while True:
        hog.append(os.open("/dev/null", 0))
except OSError:
    pass
generation = writer.generation
print(said(lambda: fresh.read()), said(lambda: fresh.state), said(lambda: reader.wait(0.3)))
print(said(lambda: writer.write(frame(512))), writer.generation == generation)
print(said(lambda: RingWriter("b", 4096, directory=where)))
print(writer.write(frame(8)), reader.read().sequence)
for left in range(1, 12):
    os.close(hog.pop())
    now = said(lambda: writer.write(frame(128 * left)))
    assert now == "OutOfResources" or writer.write(frame(128 * left)) == now + 1
    if now != "OutOfResources":
        break
said(lambda: reader.read(5.0))
hog_again = []
try:
    while True:
        hog_again.append(os.open("/dev/null", 0))
except OSError:
    pass
writer.close()
for fd in hog + hog_again:
    os.close(fd)
RingWriter("a", 4096, directory=where).close()
print(sorted(os.listdir(where)))
"""
    for policy in Policy:
        folder = tmp_path / policy.name
        folder.mkdir()
        reads, grows, opens, goes_on, left = run_script(script, folder, policy.name)
        assert reads == "OutOfResources OutOfResources OutOfResources"
        assert grows == "OutOfResources True"
        assert opens == "OutOfResources" and goes_on == "2 2" and left == "[]"


@linux
def test_without_memory_for_a_copy_the_frame_is_kept(tmp_path: pathlib.Path) -> None:
    script = """
import resource, sys
import numpy as np
from bridge.ring import Kind, OutOfResources, RingReader, RingWriter
with RingWriter("a", 1 << 26, directory=sys.argv[1]) as writer, RingReader("a", directory=sys.argv[1]) as reader:
    writer.write({Kind.MASK: np.ones((8192, 8192), np.uint8)})
    assert reader.wait(0)
    size = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20), resource.RLIM_INFINITY))
    for _ in range(2):
        try:
            reader.read()
        except OutOfResources as error:
            print("latest()" in str(error))
    with reader.latest() as frame:
        print(frame.sequence)
"""
    assert run_script(script, tmp_path) == ["True", "True", "1"]


# ---- files removed by hand -------------------------------------------------------------------------------------------


def remove_all(directory: pathlib.Path) -> None:
    for path in directory.iterdir():
        path.unlink()


@posix
def test_a_writer_whose_files_were_removed_leaves_its_successor_alone(tmp_path: pathlib.Path) -> None:
    first = RingWriter("a", 1 << 14, directory=tmp_path)
    first.write({Kind.COLOUR: picture(1)})
    remove_all(tmp_path)
    with RingWriter("a", 1 << 14, directory=tmp_path) as second, RingReader("a", directory=tmp_path) as reader:
        first.close()
        assert len(os.listdir(tmp_path)) == 3
        with pytest.raises(WriterExists):
            RingWriter("a", 1 << 14, directory=tmp_path)
        second.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
        frame = reader.read()
        assert frame is not None and frame.source_frame_id == 2
    assert not os.listdir(tmp_path)


@posix
@pytest.mark.parametrize("how", ["write", "growth", "beat"])
def test_a_writer_whose_channel_went_to_another_notices(tmp_path: pathlib.Path, how: str) -> None:
    first = RingWriter("a", 1 << 14, directory=tmp_path)
    with RingReader("a", directory=tmp_path) as reader:
        assert reader.state is State.LIVE
        remove_all(tmp_path)
        with RingWriter("a", 1 << 14, directory=tmp_path) as second:
            first._look_at_ns = 0  # a second later
            if how == "write":
                first.write({Kind.COLOUR: picture(1)})
            elif how == "beat":
                first.beat()
            with pytest.raises(RingClosed, match="another took the channel"):
                first.write({Kind.COLOUR: picture(1, 256)})
            second.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
            frame = reader.read(60.0)
            while frame is not None and frame.source_frame_id != 2:
                frame = reader.read(60.0)
            assert frame is not None


@posix
@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("gone", ["record", "lock", "segment", "all"])
def test_files_that_somebody_removed_come_back(tmp_path: pathlib.Path, gone: str, policy: Policy) -> None:
    place = segment.place("a", tmp_path)
    lossless = policy is Policy.LOSSLESS
    with (
        RingWriter("a", 1 << 14, policy=policy, directory=tmp_path) as writer,
        RingReader("a", directory=tmp_path, lossless=lossless) as reader,
    ):
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        assert reader.read() is not None
        assert writer.segment_path is not None
        names = {"record": place.record_path, "lock": place.lock_path, "segment": writer.segment_path}
        for name, path in names.items():
            if gone in (name, "all"):
                os.unlink(path)
        for number in (2, 3):
            writer._look_at_ns = 0  # a second later
            writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
        # In the newest-wins case the generation without a name may have one frame and the next the other.
        numbers = [0]
        while numbers[-1] != 3:
            frame = reader.read(60.0)
            assert frame is not None
            numbers.append(frame.source_frame_id)
        assert numbers[1:] in ([[2, 3]] if lossless else [[2, 3], [3]])
        with pytest.raises(WriterExists):
            RingWriter("a", 1 << 14, directory=tmp_path)
        with RingReader("a", directory=tmp_path) as late:
            writer.write({Kind.COLOUR: picture(4)}, source_frame_id=4)
            frame = late.read()
            assert frame is not None and frame.source_frame_id == 4
    assert not os.listdir(tmp_path)


# ---- memory that is not there ----------------------------------------------------------------------------------------


@linux
def test_a_segment_with_holes_is_refused(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 22, directory=tmp_path) as writer:
        assert writer.segment_path is not None
        path = pathlib.Path(writer.segment_path)
        start, size = path.read_bytes()[: layout.HEADER.size], writer.segment_size
        os.truncate(path, 0)
        os.truncate(path, size)
        poke(path, 0, start)
        with RingReader("a", directory=tmp_path) as reader, pytest.raises(TruncatedSegment, match="of memory"):
            reader.read()


@linux
def test_a_folder_that_reserves_nothing_is_refused_by_the_writer(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "_reserve", os.ftruncate)
    monkeypatch.setattr(ring_writer, "RETRY_S", 0.0)
    with pytest.raises(NoSpace, match="another folder"):
        RingWriter("a", 1 << 14, directory=tmp_path)
    assert not os.listdir(tmp_path)


def test_every_error_of_a_file_is_a_ring_error() -> None:
    from bridge.ring.files import access_error

    for number in errno.errorcode:
        error = access_error("/somewhere/a.ring", OSError(number, os.strerror(number)))
        assert isinstance(error, RingError) and "/somewhere/a.ring" in str(error) and ";" in str(error)

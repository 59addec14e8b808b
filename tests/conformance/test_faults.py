"""What a ring once did wrong, in the other languages (for Python see tests/bridge/ring/test_ring_faults.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bridge.ring import Kind, RingReader, RingWriter, State, WriterExists, segment
from bridge.ring.layout import HEADER, READER_TABLE_OFFSET, ReaderKind
from tests.bridge.ring.ring_peer import picture
from tests.bridge.ring.test_ring_faults import PLANTED, killed, linux, of_version_1_0, plant, posix, remove_all
from tests.bridge.ring.test_ring_hostile import BAD_HEADERS, header_field, poke
from tests.conformance.peers import PATIENCE_S, Peer, Running, stage
from tests.conformance.test_conformance import peer
from tests.waiting import until

if sys.platform != "win32":
    import resource

pytestmark = posix
languages = pytest.mark.parametrize("name", ["c", "c#"])


def maps_a_ring(running: Running) -> bool:
    return ".seg" in Path(f"/proc/{running.process.pid}/maps").read_text()


@languages
@pytest.mark.parametrize("how", ["read", "latest", "lossless"])
def test_a_dead_picture_is_no_news_while_the_next_writer_takes_over(
    built: dict[str, Peer], tmp_path: Path, name: str, how: str
) -> None:
    killed(tmp_path)
    lock = segment.place("a", tmp_path).writer_lock()
    assert lock.acquire()
    with stage(tmp_path) as at:
        result = at.start(peer(built, name), "read", until=1, how=how, seconds=1).result()
    assert result["timeout"] and result["taken"] == 0 and result["error"] is None, result
    lock.release()


@languages
def test_writers_of_version_1_0_are_believed_by_the_lock_of_the_channel(
    built: dict[str, Peer], tmp_path: Path, name: str
) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, stage(tmp_path) as at:
        of_version_1_0(tmp_path, writer)
        writer.write({Kind.COLOUR: picture(1)}, frame_id=1)
        result = at.start(peer(built, name), "read", until=1).result()
        assert result["taken"] == 1, result


@languages
def test_its_writer_holds_the_lock_of_its_generation(built: dict[str, Peer], tmp_path: Path, name: str) -> None:
    place = segment.place("a", tmp_path)
    with stage(tmp_path) as at, RingReader("a", directory=tmp_path) as reader:
        writing = at.start(peer(built, name), "write", frames=40, grow=20, capacity=64 * 48 * 4)
        writing.await_line("DONE")
        pointer = segment.read_pointer(place)
        assert pointer is not None and pointer.minor >= 1
        lock = place.generation_lock(pointer.generation)
        assert lock.taken_elsewhere() and reader.read() is not None and reader.state is State.LIVE
        assert writing.leave()["generations"] > 1
        assert not lock.taken_elsewhere() and reader.state is State.WRITER_GONE
    assert not os.listdir(tmp_path)


@languages
@pytest.mark.parametrize("what", PLANTED)
def test_what_others_plant_is_refused_and_left(built: dict[str, Peer], tmp_path: Path, name: str, what: str) -> None:
    place = segment.place("a", tmp_path)
    with stage(tmp_path) as at:
        plant(place.lock_path, what)
        result = at.start(peer(built, name), "write", frames=1).result()
        assert result["error"]["type"] == "AccessDenied" and "remov" in result["error"]["message"], result
        assert os.listdir(tmp_path) == [os.path.basename(place.lock_path)]
        os.rmdir(place.lock_path) if what == "folder" else os.unlink(place.lock_path)
        with RingWriter("a", 1 << 14, directory=tmp_path) as writer:
            assert writer.segment_path is not None
            for path in (writer.segment_path, place.record_path):
                os.unlink(path)
                plant(path, what)
                result = at.start(peer(built, name), "read", until=1).result()
                assert result["error"]["type"] in ("AccessDenied", "NotARing"), result
                assert "remov" in result["error"]["message"], result
                os.rmdir(path) if what == "folder" else os.unlink(path)


@linux
@languages
@pytest.mark.parametrize("left", ["dead", "closed"])
def test_readers_give_the_memory_of_a_ring_without_a_writer_back(
    built: dict[str, Peer], tmp_path: Path, name: str, left: str
) -> None:
    with stage(tmp_path) as at:
        first = at.start(peer(built, "python"), "write", frames=2)
        reading = at.start(peer(built, name), "read", until=100)
        until(lambda: maps_a_ring(reading))
        if left == "dead":
            first.process.kill()
        else:
            first.leave()
        until(lambda: not maps_a_ring(reading))
        with RingWriter("a", 1 << 14, directory=tmp_path) as writer:
            writer.write({Kind.COLOUR: picture(100)}, frame_id=100)
            assert reading.result()["last"] == 100


@languages
def test_a_writer_whose_files_were_removed_leaves_its_successor_alone(
    built: dict[str, Peer], tmp_path: Path, name: str
) -> None:
    with stage(tmp_path) as at:
        first = at.start(peer(built, name), "write", frames=2)
        first.await_line("DONE")
        remove_all(tmp_path)
        with RingWriter("a", 1 << 14, directory=tmp_path) as second, RingReader("a", directory=tmp_path) as reader:
            assert first.leave()["error"] is None
            assert len(os.listdir(tmp_path)) == 3
            second.write({Kind.COLOUR: picture(9)}, frame_id=9)
            frame = reader.read()
            assert frame is not None and frame.frame_id == 9


@linux
@languages
@pytest.mark.parametrize("policy", ["newest", "lossless"])
def test_files_that_somebody_removed_come_back(built: dict[str, Peer], tmp_path: Path, name: str, policy: str) -> None:
    how = "read" if policy == "newest" else "lossless"
    with stage(tmp_path) as at:
        reading = at.start(peer(built, name), "read", until=250, how=how)
        writing = at.start(peer(built, name), "write", frames=250, pause_us=10000, policy=policy)
        until(lambda: maps_a_ring(reading))
        if how == "lossless":
            (path,) = tmp_path.glob("*.seg")
            until(lambda: path.read_bytes()[READER_TABLE_OFFSET] == ReaderKind.LOSSLESS)
        remove_all(tmp_path)
        until(lambda: len(os.listdir(tmp_path)) == 3)
        with pytest.raises(WriterExists):
            RingWriter("a", 1 << 14, directory=tmp_path)
        with RingReader("a", directory=tmp_path) as late:
            assert late.read(PATIENCE_S) is not None
        result = reading.result()
        assert result["status"] == 0 and result["last"] == 250 and result["missed"] == 0, result
        assert result["taken"] == 250 or policy == "newest"
        writing.leave()
    assert not os.listdir(tmp_path)


@languages
def test_a_writer_whose_channel_went_to_another_notices(built: dict[str, Peer], tmp_path: Path, name: str) -> None:
    with stage(tmp_path) as at:
        first = at.start(peer(built, name), "write", frames=100000, pause_us=10000)
        first.await_line("READY")
        remove_all(tmp_path)
        with RingWriter("a", 1 << 14, directory=tmp_path) as second:
            result = first.result()
            assert result["error"]["type"] == "RingClosed" and "another took" in result["error"]["message"], result
            second.write({Kind.COLOUR: picture(9)}, frame_id=9)
            assert len(os.listdir(tmp_path)) == 3


@linux
@languages
def test_a_segment_with_holes_is_refused(built: dict[str, Peer], tmp_path: Path, name: str) -> None:
    with RingWriter("a", 1 << 22, directory=tmp_path) as writer, stage(tmp_path) as at:
        assert writer.segment_path is not None
        path = Path(writer.segment_path)
        start, size = path.read_bytes()[: HEADER.size], writer.segment_size
        os.truncate(path, 0)
        os.truncate(path, size)
        poke(path, 0, start)
        result = at.start(peer(built, name), "read", until=1).result()
        assert result["error"]["type"] == "TruncatedSegment" and "of memory" in result["error"]["message"], result


@linux
def test_without_a_descriptor_a_reader_says_so(built: dict[str, Peer], tmp_path: Path) -> None:
    """In C (for C# see tests/clients/test_csharp_ring.py)."""
    with stage(tmp_path) as at:
        reading = at.start(peer(built, "c"), "read", until=1)
        reading.await_line("READY")
        used = len(os.listdir(f"/proc/{reading.process.pid}/fd"))
        resource.prlimit(reading.process.pid, resource.RLIMIT_NOFILE, (used, used))
        with RingWriter("a", 1 << 14, directory=tmp_path):
            result = reading.result()
        assert result["error"]["type"] == "OutOfResources" and "ulimit -n" in result["error"]["message"], result


@pytest.mark.parametrize(("field", "value", "error"), [bad for bad in BAD_HEADERS if "offset" in bad[0]])
def test_words_over_one_another_are_refused(
    built: dict[str, Peer], tmp_path: Path, field: str, value: int, error: type[Exception]
) -> None:
    """In C# (test_native.py tries all bad headers in C)."""
    with RingWriter("a", 4096, directory=tmp_path) as writer, stage(tmp_path) as at:
        assert writer.segment_path is not None
        poke(Path(writer.segment_path), *header_field(field, value))
        result = at.start(peer(built, "c#"), "read", until=1).result()
        assert result["error"]["type"] == error.__name__, result

"""The doctor on a channel: every trouble in words with its fix, and nothing of the ring touched by asking."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bridge.commands import channel_doctor, doctor
from bridge.commands.channel_doctor import check_channel
from bridge.commands.report import LEVELS, Check
from bridge.ring import Kind, RingReader, RingWriter, now_ns, segment
from bridge.ring.layout import HEADER, RECORD, SLOT
from bridge.terminal import PROGRAM
from tests.rings import fresh_channel, sweep

ROOT = Path(__file__).resolve().parents[3]
PICTURE = np.zeros((64, 96, 3), np.uint8)

posix = pytest.mark.skipif(os.name != "posix", reason="damages files, which POSIX systems have rings in")


Meanwhile = Callable[[Callable[[], object]], None]


@pytest.fixture(autouse=True)
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """What happens between the two looks, in the place of the time that passes; nothing unless a test says so."""

    def between(act: Callable[[], object]) -> None:
        monkeypatch.setattr(channel_doctor, "sleep", lambda seconds: act())

    monkeypatch.setattr(channel_doctor, "STALE_S", 1000.0)
    between(lambda: None)
    return between


@pytest.fixture
def channel() -> Iterator[str]:
    name = fresh_channel()
    yield name
    sweep(name)


@pytest.fixture
def writer(channel: str) -> Iterator[RingWriter]:
    with RingWriter(f"{channel}.in", capacity_bytes=65536) as writer:
        yield writer


def asked(channel: str) -> list[Check]:
    """The checks, each of them well formed."""
    found = list(check_channel(channel))
    assert found
    for each in found:
        assert each.level in LEVELS
        assert bool(each.fix) == (each.level != "ok"), each
        assert each.name in (f"{channel}.in", f"{channel}.out")
        assert "NAME" not in each.fix
    return found


def about(channel: str, side: str = "in") -> Check:
    """What is said first of one side."""
    return next(found for found in asked(channel) if found.name == f"{channel}.{side}")


def test_nobody_is_there(channel: str) -> None:
    into, out = asked(channel)
    assert (into.level, out.level) == ("bad", "bad")
    assert into.said.startswith(f"no writer: there is no ring {channel}.in")
    assert out.said.startswith(f"no writer: there is no ring {channel}.out")
    assert f"--channel {channel}" in into.fix
    assert out.fix.endswith(f"start the host: {PROGRAM} host --channel {channel}")


def test_a_name_that_was_nearly_right(channel: str) -> None:
    with RingWriter(f"{channel}.in", capacity_bytes=4096):
        for wrong in (channel + "2", channel.upper(), channel[:-1]):
            found = about(wrong)
            assert found.said.startswith(f"no writer: there is no ring {wrong}.in; there ")
            assert f"{channel}.in" in found.said
            assert f"did you mean {channel}?" in found.fix
        # The side that is missing of a channel that exists is no question of names.
        assert about(channel, "out").said == f"no writer: there is no ring {channel}.out"


@posix
def test_somebody_elses_ring_of_that_name(channel: str) -> None:
    own = segment.place(f"{channel}.in")
    foreign = Path(own.folder) / f"frameloom-4711-{channel}.in.ring"
    foreign.write_bytes(b"")
    try:
        found = about(channel)
    finally:
        foreign.unlink()
    assert found.said.endswith("of yours, but user id 4711 has one")
    assert found.fix == "run both sides as the same user"


def test_a_writer_that_never_wrote(channel: str, writer: RingWriter) -> None:
    found = about(channel)
    assert found.level == "bad"
    assert f"its writer (process {os.getpid()}) is there and no frame came" in found.said


def test_frames_that_come_are_described(channel: str, writer: RingWriter, meanwhile: Meanwhile) -> None:
    meanwhile(lambda: [writer.write({Kind.COLOUR: PICTURE}) for _ in range(3)])
    found = asked(channel)
    into = found[0]
    assert into.level == "ok"
    assert into.said.startswith("96x64 colour, frame 3, ") and f"generation {writer.generation:016x}" in into.said
    assert "3 frames per second" in into.said
    assert "nobody reads it: the host is not running" in found[2].said
    assert found[2].fix == f"start the host: {PROGRAM} host --channel {channel}"


def test_a_writer_that_is_stuck(
    channel: str, writer: RingWriter, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_doctor, "STALE_S", 0.05)
    writer.write({Kind.COLOUR: PICTURE})
    meanwhile(lambda: time.sleep(0.1))
    found = about(channel)
    assert found.level == "warn"
    assert "frame 1," in found.said and "stuck at this frame" in found.said and "its heartbeat is " in found.said
    assert "paused, waiting or hung" in found.fix


def test_a_writer_with_nothing_new(channel: str, writer: RingWriter, meanwhile: Meanwhile) -> None:
    writer.write({Kind.COLOUR: PICTURE})
    meanwhile(writer.beat)
    found = about(channel)
    assert found.level == "warn"
    assert "no new frame in 1 s" in found.said and "its heartbeat is fresh" in found.said


def test_a_client_with_another_clock(channel: str, writer: RingWriter, meanwhile: Meanwhile) -> None:
    meanwhile(lambda: writer.write({Kind.COLOUR: PICTURE}, capture_ns=now_ns() + 10**12))
    found = about(channel)
    assert found.level == "warn"
    assert "captured after it was published" in found.said


def test_a_channel_without_pictures(channel: str, writer: RingWriter) -> None:
    writer.write({Kind.DEPTH: np.zeros((64, 64), np.float32)})
    found = about(channel)
    assert found.level == "bad"
    assert found.said.startswith("64x64 depth, ") and found.said.endswith(": no colour plane")


@pytest.mark.parametrize("shape", [(8, 8), (40, 5000)])
def test_a_size_that_cannot_be_meant(channel: str, shape: tuple[int, int]) -> None:
    with RingWriter(f"{channel}.in", capacity_bytes=shape[0] * shape[1]) as writer:
        writer.write({Kind.COLOUR: np.zeros(shape, np.uint8)})
        found = about(channel)
    assert found.level == "warn"
    assert found.said.endswith("a size that no model works at")
    assert found.fix == "send 32 to 4096 pixels each way"


def test_readers_are_named(channel: str, writer: RingWriter) -> None:
    writer.write({Kind.COLOUR: PICTURE})
    with RingReader(f"{channel}.in") as reader, reader.latest(timeout_s=60) as frame:
        assert frame is not None
        found = asked(channel)
        assert found[-1] == Check("ok", f"{channel}.in", f"read by process {os.getpid()}")


def test_a_host_that_takes_frames_and_gives_none(channel: str, writer: RingWriter, meanwhile: Meanwhile) -> None:
    with RingWriter(f"{channel}.out", capacity_bytes=65536) as out:
        out.write({Kind.COLOUR: PICTURE})
        writer.write({Kind.COLOUR: PICTURE})
        meanwhile(lambda: writer.write({Kind.COLOUR: PICTURE}))
        found = asked(channel)
    assert found[-1].level == "warn"
    assert found[-1].said.endswith("1 frames went in and none came out")
    assert "/paused 0" in found[-1].fix
    assert [f.said for f in found[2:4]] == ["nobody waits for its frames"] * 2


def test_a_killed_writer(channel: str) -> None:
    script = (
        "import numpy as np, os; from bridge.ring import *; "
        f"w = RingWriter({channel + '.in'!r}, capacity_bytes=4096); "
        "w.write({Kind.COLOUR: np.zeros((8, 8, 3), np.uint8)}); os._exit(0)"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as child:
        assert child.wait(60) == 0
    found = about(channel)
    assert found.level == "bad"
    assert found.said.startswith(f"its writer (process {child.pid}) is gone; it left generation ")
    assert f"--channel {channel}" in found.fix


def record_of(writer: RingWriter) -> Path:
    return Path(segment.place(writer.channel).record_path)


def patch(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def segment_of(writer: RingWriter) -> Path:
    assert writer.segment_path is not None
    return Path(writer.segment_path)


@posix
@pytest.mark.parametrize(
    ("at", "data", "said"),
    [
        (HEADER.offset("version"), struct.pack("<I", 0), "was never finished by its writer"),
        (HEADER.offset("version"), struct.pack("<I", 7 << 16), "speaks ring version 7.0, this program 1"),
        (HEADER.offset("generation"), struct.pack("<Q", 0xABCD), "generation 000000000000abcd under another name"),
        (HEADER.offset("magic"), b"\0" * 8, "is not a ring"),
        (HEADER.offset("slot_count"), struct.pack("<I", 2**31), "2147483648 slots"),
        (HEADER.offset("segment_size"), struct.pack("<Q", 1 << 39), "sizes that do not add up"),
        (HEADER.offset("reader_table_offset"), struct.pack("<I", 2**31), "reader table at 2147483648"),
        (HEADER.offset("newest"), struct.pack("<Q", 1 << 8 | 200), "newest frame in slot 200"),
        (HEADER.offset("state"), struct.pack("<I", 2), "not there or was replaced by another that nobody announced"),
    ],
)
def test_a_hostile_header(channel: str, writer: RingWriter, at: int, data: bytes, said: str) -> None:
    writer.write({Kind.COLOUR: PICTURE})
    path = segment_of(writer)
    before = path.read_bytes()[at : at + len(data)]
    patch(path, at, data)
    try:
        found = about(channel)
    finally:
        patch(path, at, before)
    assert found.level == "bad"
    assert said in found.said


@posix
@pytest.mark.parametrize(
    ("at", "data", "said"),
    [
        (SLOT.offset("plane_count"), struct.pack("<I", 9), "9 planes"),
        (SLOT.offset("plane_count"), struct.pack("<I", 2**31), "planes, origin"),
        (SLOT.offset("plane_count"), struct.pack("<I", 0), "it has no planes"),
        (SLOT.offset("origin"), struct.pack("<I", 5), "origin 5"),
        (256 + 8, struct.pack("<II", 0, 0), "COLOUR is 0 x 0 pixels"),
        (256 + 8, struct.pack("<II", 20000, 20000), "COLOUR has row stride"),
        (256 + 4, struct.pack("<I", 99), "format 99 is unknown"),
        (256 + 24, struct.pack("<Q", 1 << 40), "COLOUR lies at"),
    ],
)
def test_a_hostile_slot(channel: str, writer: RingWriter, at: int, data: bytes, said: str) -> None:
    writer.write({Kind.COLOUR: PICTURE})
    path = segment_of(writer)
    slot = path.read_bytes()[HEADER.offset("newest")]
    patch(path, HEADER.size + slot * ((path.stat().st_size - HEADER.size) // 4) + at, data)
    found = about(channel)
    assert found.level == "bad"
    assert found.said.startswith("damaged: ") and said in found.said


@posix
def test_a_frame_that_is_never_finished(channel: str, writer: RingWriter) -> None:
    writer.write({Kind.COLOUR: PICTURE})
    path = segment_of(writer)
    slot = path.read_bytes()[HEADER.offset("newest")]
    patch(path, HEADER.size + slot * ((path.stat().st_size - HEADER.size) // 4), struct.pack("<Q", 1))
    assert about(channel).said == "damaged: its newest frame, 1, is half written"


@posix
def test_a_segment_that_is_too_short_or_gone(channel: str, writer: RingWriter) -> None:
    path = segment_of(writer)
    size = path.stat().st_size
    os.truncate(path, 8192)
    assert f"has 8192 bytes of memory, its header says {size}" in about(channel).said
    os.truncate(path, 100)
    assert "has 100 of 4096 header bytes" in about(channel).said
    path.unlink()
    assert "is not there or was replaced" in about(channel).said


@posix
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"not a ring" * 10, "is not a ring record"),
        (b"FLPOINT\n", "has 8 of 64 bytes"),
        (b"", "is not a ring record"),
    ],
)
def test_a_damaged_record(channel: str, data: bytes, said: str) -> None:
    Path(segment.place(f"{channel}.in").record_path).write_bytes(data)
    found = about(channel)
    assert found.level == "bad"
    assert said in found.said


@posix
def test_another_major_version(channel: str, writer: RingWriter) -> None:
    patch(record_of(writer), RECORD.offset("version"), struct.pack("<I", 2 << 16 | 3))
    found = about(channel)
    assert "speaks ring version 2.3, this program 1" in found.said
    assert found.fix.startswith("run the same version of frameloom")


@posix
def test_files_that_may_not_be_opened(channel: str, writer: RingWriter) -> None:
    path = segment_of(writer)
    away = path.rename(path.with_name(path.name + ".away"))
    path.symlink_to(away)
    found = about(channel)
    assert found.said.startswith("no permission: ")
    assert found.fix == "run both sides as the same user"


def test_a_name_that_cannot_be_one(channel: str) -> None:
    into, out = check_channel("a/b")
    assert into.level == out.level == "bad"
    assert "use 1 to 48 letters" in into.said


@posix
def test_asking_changes_nothing(channel: str, writer: RingWriter) -> None:
    writer.write({Kind.COLOUR: PICTURE})
    place = segment.place(f"{channel}.in")
    mine = sorted(path for path in Path(place.folder).iterdir() if path.name.startswith(place.prefix))
    before = {path: path.read_bytes() for path in mine}
    asked(channel)
    after = sorted(path for path in Path(place.folder).iterdir() if path.name.startswith(place.prefix))
    assert after == mine
    assert {path: path.read_bytes() for path in after} == before
    # And on a channel of nobody, nothing comes to be.
    nobody = fresh_channel()
    asked(nobody)
    assert not list(Path(place.folder).glob(f"*{nobody}*"))


def test_a_generation_that_changes_between_the_looks(channel: str, writer: RingWriter, meanwhile: Meanwhile) -> None:
    writer.write({Kind.COLOUR: PICTURE})
    meanwhile(lambda: writer.write({Kind.COLOUR: np.zeros((512, 512, 4), np.uint8)}))
    found = about(channel)
    assert found.level == "ok"
    assert found.said.startswith(f"512x512 colour, frame 2, generation {writer.generation:016x}")


def test_the_exit_status_of_the_command(
    channel: str,
    writer: RingWriter,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for check in [name for name in vars(doctor) if name.startswith("check_") and name != "check_channel"]:
        monkeypatch.setattr(doctor, check, lambda *about: iter(()))
    assert doctor.main(["--channel", channel]) == 1
    assert f"{channel}.out" in capsys.readouterr().out
    with RingWriter(f"{channel}.out", capacity_bytes=65536) as out:
        meanwhile(lambda: [ring.write({Kind.COLOUR: PICTURE}) for ring in (writer, out)])
        with RingReader(f"{channel}.in") as into, RingReader(f"{channel}.out") as result:
            writer.write({Kind.COLOUR: PICTURE})
            out.write({Kind.COLOUR: PICTURE})
            with into.latest() as one, result.latest() as other:
                assert one is not None and other is not None
                assert doctor.main(["--channel", channel]) == 0
    assert capsys.readouterr().out.endswith("all is well\n")

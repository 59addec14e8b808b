"""The crash rules, with real processes that are really killed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator

import numpy as np
import pytest

from bridge.ring import Format, Kind, PlaneSpec, Policy, RingReader, RingWriter, State, WriterExists
from tests.bridge.ring.ring_peer import check, number_of, picture

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills its peers by POSIX signals")

PATIENCE_S = 60


@contextlib.contextmanager
def peer(role: str, directory: pathlib.Path, channel: str = "a", **options: object) -> Iterator[subprocess.Popen[str]]:
    words = [f"{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bridge.ring.ring_peer", role, str(directory), channel, *words],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def newest(reader: RingReader, at_least: int) -> int:
    """Read checked frames until one with a number of `at_least` arrives."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        frame = reader.read(0.2)
        if frame is not None and check(frame) >= at_least:
            return check(frame)
    raise AssertionError(f"no frame {at_least} within {PATIENCE_S} s")


def dies_at_line(directory: pathlib.Path, moment: str, line_number: int) -> int:
    """Fork a writer that kills itself before the n-th line of `bridge` it runs in `moment`; returns its process id.

    It exits with status 0 when that moment has fewer lines.
    """
    child = os.fork()
    if child:
        return child
    left = line_number

    def trace(frame: types.FrameType, event: str, _: object) -> object:
        nonlocal left
        if f"{os.sep}bridge{os.sep}" not in frame.f_code.co_filename or "tests" in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    writer = None
    try:
        for number in range(8):
            if number == {"set-up": 0, "leaving": None}.get(moment, 7):
                sys.settrace(trace)
            if number == 0:
                writer = RingWriter("a", 1 << 14, directory=directory)
            elif number == 7 and moment == "growth":
                writer.write({Kind.COLOUR: picture(7, 256)}, source_frame_id=7)
            elif moment == "zero copy":
                with writer.slot([PlaneSpec(Kind.COLOUR, Format.RGBA8, 64, 48)]) as slot:
                    slot.planes[Kind.COLOUR][:] = picture(number)
                    slot.source_frame_id = number
            else:
                writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
            sys.settrace(None)
        if moment == "leaving":
            sys.settrace(trace)
            writer.close()
            sys.settrace(None)
    finally:
        os._exit(0)


@pytest.mark.parametrize("moment", ["set-up", "write", "zero copy", "growth", "leaving"])
def test_a_writer_killed_at_any_line_leaves_whole_frames_and_a_successor(tmp_path: pathlib.Path, moment: str) -> None:
    stride = 1 if moment in ("write", "zero copy") else 4
    for line_number in range(1, 2000, stride):
        with RingReader("a", directory=tmp_path) as reader:
            child = dies_at_line(tmp_path, moment, line_number)
            last, ended = 0, 0
            while not ended:
                frame = reader.read(0.002)
                last = check(frame) if frame is not None else last
                ended, status = os.waitpid(child, os.WNOHANG)
            assert reader.state is not State.LIVE
            for frame in iter(reader.read, None):
                assert check(frame) >= last
                last = check(frame)
            assert reader.state is not State.LIVE
            assert last <= (0 if moment == "set-up" and os.WIFSIGNALED(status) else 7)
            # What it left neither stops nor outlives its successor.
            with RingWriter("a", 1 << 14, directory=tmp_path) as successor:
                successor.write({Kind.COLOUR: picture(100)}, source_frame_id=100)
                assert newest(reader, 100) == 100
                assert reader.state is State.LIVE
                assert sorted(p.suffix for p in tmp_path.iterdir()) == [".lock", ".ring", ".seg"]
        if not os.WIFSIGNALED(status):
            break
    assert line_number > (20 if moment == "write" else 5)


def test_a_writer_killed_at_random_moments_never_tears_a_frame(tmp_path: pathlib.Path) -> None:
    chance = random.Random(7)
    first = 1
    with RingReader("a", directory=tmp_path) as reader:
        for _ in range(12):
            with peer("write", tmp_path, first=first, width=256, height=256, resize=1) as writer:
                assert line(writer).startswith("READY")
                newest(reader, first)
                deadline = time.monotonic() + chance.random() * 0.1
                last = first
                while time.monotonic() < deadline:
                    frame = reader.read(0.01)
                    last = check(frame) if frame is not None else last
                writer.kill()
                writer.wait()
                assert reader.state is State.WRITER_GONE
                for frame in iter(reader.read, None):
                    assert check(frame) >= last
                    last = check(frame)
                first = last + 1000


@pytest.mark.parametrize("how", ["read", "into", "latest"])
def test_a_flat_out_writer_tears_nothing(tmp_path: pathlib.Path, how: str) -> None:
    hold = 0.02 if how == "latest" else 0
    with peer("write", tmp_path, width=256, height=256) as writer:
        assert line(writer).startswith("READY")
        with (
            peer("read", tmp_path, how=how, seconds=3, hold=hold) as one,
            peer("read", tmp_path, how=how, seconds=3, hold=hold * 2) as two,
        ):
            for reader in (one, two):
                assert line(reader) == "READY"
                found = re.fullmatch(r"TOOK (\d+) LAST (\d+)", line(reader))
                assert found and int(found[1]) > 5
                assert reader.wait(PATIENCE_S) == 0


def test_a_size_that_changes_all_the_time_tears_nothing(tmp_path: pathlib.Path) -> None:
    with peer("write", tmp_path, resize=1, frames=1500, pause=0.001, linger=60) as writer:
        assert line(writer).startswith("READY")
        with peer("read", tmp_path, how="latest", until=1500) as one, peer("read", tmp_path, until=1500) as two:
            for reader in (one, two):
                assert line(reader) == "READY"
                assert line(reader).endswith("LAST 1500")
                assert reader.wait(PATIENCE_S) == 0


def test_readers_killed_while_they_hold_pins_cost_the_writer_nothing(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer:
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                # One more than may pin: whoever comes last holds a copy.
                readers = [stack.enter_context(peer("read", tmp_path, how="latest", forever=1)) for _ in range(3)]
                for number, reader in enumerate(readers, 1):
                    assert line(reader) == "READY"
                    said = ""
                    deadline = time.monotonic() + PATIENCE_S
                    writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
                    while not said and time.monotonic() < deadline:
                        said = line(reader)
                    assert said == "HOLDING"
                for reader in readers:
                    reader.kill()
                    reader.wait()
            for number in range(200):
                writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
        # Their entries are free again.
        with RingReader("a", directory=tmp_path) as one, RingReader("a", directory=tmp_path) as two:
            for reader in (one, two):
                with reader.latest() as frame:
                    assert frame is not None and not frame.planes[Kind.COLOUR].flags.owndata


def test_readers_killed_at_random_moments_cost_the_writer_nothing(tmp_path: pathlib.Path) -> None:
    chance = random.Random(3)
    with RingWriter("a", 1 << 18, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as survivor:
        number = 0
        for how in ("read", "latest", "into") * 2:
            with peer("read", tmp_path, how=how) as victim:
                assert line(victim) == "READY"
                deadline = time.monotonic() + 0.05 + chance.random() * 0.2
                while time.monotonic() < deadline:
                    number += 1
                    writer.write({Kind.COLOUR: picture(number, 256, 256)}, source_frame_id=number)
                victim.kill()
                victim.wait()
            number += 1
            writer.write({Kind.COLOUR: picture(number, 256, 256)}, source_frame_id=number)
            assert newest(survivor, number) == number


def test_a_stopped_writer_is_slow_and_not_dead(tmp_path: pathlib.Path) -> None:
    with (
        peer("write", tmp_path, pause=0.005) as writer,
        RingReader("a", directory=tmp_path) as reader,
    ):
        assert line(writer).startswith("READY")
        newest(reader, 3)
        writer.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        while reader.read() is not None:
            pass
        assert reader.state is State.LIVE
        with pytest.raises(WriterExists, match=str(writer.pid)):
            RingWriter("a", 4096, directory=tmp_path)
        writer.send_signal(signal.SIGCONT)
        assert reader.read(PATIENCE_S) is not None


def test_of_many_writers_that_race_exactly_one_wins(tmp_path: pathlib.Path) -> None:
    for round_ in range(3):
        with contextlib.ExitStack() as stack:
            racers = [
                stack.enter_context(peer("write", tmp_path, f"race{round_}", frames=1, linger=60)) for _ in range(4)
            ]
            deadline = time.monotonic() + PATIENCE_S
            while sum(r.poll() is not None for r in racers) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            alive = [r for r in racers if r.poll() is None]
            assert len(alive) == 1
            assert line(alive[0]).startswith("READY")
            with RingReader(f"race{round_}", directory=tmp_path) as reader:
                assert newest(reader, 1) == 1


def test_a_lossless_reader_gets_every_frame_across_resizes(tmp_path: pathlib.Path) -> None:
    with peer("write", tmp_path, policy="LOSSLESS", frames=300, resize=1, linger=60) as writer:
        assert line(writer).startswith("READY")
        with peer("read", tmp_path, lossless=1, until=300, list=1) as reader:
            assert line(reader) == "READY"
            assert line(reader) == "SEEN " + ",".join(map(str, range(1, 301)))


def test_a_lossless_reader_that_dies_is_let_go(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, policy=Policy.LOSSLESS, directory=tmp_path, timeout_s=PATIENCE_S) as writer:
        for how in ("read", "latest"):
            with peer("read", tmp_path, lossless=1, how=how, slow=0.2) as reader:
                assert line(reader) == "READY"
                for number in range(1, 7):
                    writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
                reader.kill()
                reader.wait()
            started = time.monotonic()
            for number in range(7, 100):
                writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
            assert time.monotonic() - started < PATIENCE_S / 2


def test_words_of_64_bits_are_never_seen_half_written(tmp_path: pathlib.Path) -> None:
    """The protocol rests on it: one memoryview store is one machine store."""
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer:
        word = writer._current.geometry.slot_start(0) // 8 + 256
        watcher = (
            "import sys, time\n"
            "from bridge.ring import RingReader\n"
            f"r = RingReader('a', directory={str(tmp_path)!r})\n"
            "r.state\n"
            "print('READY', flush=True)\n"
            "end = time.monotonic() + 1.5\n"
            "seen = set()\n"
            "while time.monotonic() < end:\n"
            f"    seen.update([r._at.u64[{word}] for _ in range(1000)])\n"
            "print(sorted(seen), flush=True)\n"
        )
        with subprocess.Popen([sys.executable, "-c", watcher], stdout=subprocess.PIPE, text=True) as process:
            assert line(process) == "READY"
            u64 = writer._current.u64
            ones = (1 << 64) - 1
            while process.poll() is None:
                for _ in range(1000):
                    u64[word] = ones
                    u64[word] = 0
            assert process.stdout is not None
            assert line(process) in ("[0, 18446744073709551615]", "[0]", "[18446744073709551615]")


def test_frames_pass_while_a_reader_holds_its_view_for_long(tmp_path: pathlib.Path) -> None:
    """Held 40 ms at 60 Hz, an unchecked three-slot ring tore 46 % of its frames."""
    with peer("write", tmp_path, pause=0.004, width=128, height=128) as writer:
        assert line(writer).startswith("READY")
        with RingReader("a", directory=tmp_path) as reader:
            for _ in range(15):
                with reader.latest(PATIENCE_S) as frame:
                    assert frame is not None
                    before = np.array(frame.planes[Kind.COLOUR])
                    time.sleep(0.04)
                    assert number_of(frame.planes[Kind.COLOUR]) == frame.source_frame_id
                    assert np.array_equal(before, frame.planes[Kind.COLOUR])
                assert frame.valid

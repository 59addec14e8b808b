"""The ring in C# where the conformance matrix does not look: planted files, damaged words, writers that do not wake."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bridge.ring import Kind, RingWriter, layout, segment
from bridge.ring.layout import HEADER
from tests.bridge.ring.test_ring_hostile import header_field, poke
from tests.conformance.peers import UNITY_RING, build, find_tool

if sys.platform != "win32":
    import resource

PICTURE = {Kind.COLOUR: np.zeros((4, 4, 4), np.uint8)}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    compiler, runtime = find_tool("mcs"), find_tool("mono")
    if compiler is None or runtime is None:
        pytest.skip("needs Mono (mono-devel and mono-mcs)")
    out = tmp_path_factory.mktemp("c-sharp") / "RingByHand.exe"
    sources = [str(Path(__file__).with_name("RingByHand.cs")), *sorted(map(str, UNITY_RING.glob("*.cs")))]
    build([compiler, "-langversion:7.2", "-unsafe", "-optimize", f"-out:{out}", *sources])
    return runtime, str(out)


class Reader:
    def __init__(self, program: tuple[str, str], directory: Path) -> None:
        self.process = subprocess.Popen(
            [*program, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Mono keeps a file in shared memory, which a killed one would leave behind.
            env=os.environ | {"MONO_DISABLE_SHARED_AREA": "1"},
        )

    def tell(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.answer()


@pytest.fixture
def reader(program: tuple[str, str], tmp_path: Path) -> Iterator[Reader]:
    one = Reader(program, tmp_path)
    yield one
    with one.process as process:
        process.communicate(timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_a_planted_pipe_holds_nobody_up(tmp_path: Path, reader: Reader) -> None:
    record = segment.place("a", tmp_path).record_path
    os.mkfifo(record)
    assert reader.ask("read 0") == "NotARingException"
    os.unlink(record)
    with RingWriter("a", 4096, directory=tmp_path) as writer:
        writer.write(PICTURE)
        assert reader.ask("read 1000").startswith("1 ")


def test_a_damaged_ring_makes_nobody_spin(tmp_path: Path, reader: Reader) -> None:
    """`newest` promises a frame that no slot holds: nothing new, and not at once."""
    with RingWriter("a", 4096, directory=tmp_path) as writer:
        assert writer.segment_path
        poke(Path(writer.segment_path), *header_field("newest", 5 << 8 | 1))
        for how in ("read", "view"):
            answers = [reader.ask(f"{how} 1000").split() for _ in range(20)]
            assert {sequence for sequence, _ in answers} == {"0"}
            assert sum(int(microseconds) for _, microseconds in answers) > 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limits of another process")
def test_without_a_descriptor_a_reader_says_so(tmp_path: Path, reader: Reader) -> None:
    assert reader.ask("read 10").startswith("0 ")
    open_files = len(os.listdir(f"/proc/{reader.process.pid}/fd"))
    hard = resource.prlimit(reader.process.pid, resource.RLIMIT_NOFILE)[1]
    with RingWriter("a", 4096, directory=tmp_path) as writer:
        writer.write(PICTURE)
        resource.prlimit(reader.process.pid, resource.RLIMIT_NOFILE, (open_files, hard))
        assert reader.ask("read 0") == "OutOfResourcesException"
        resource.prlimit(reader.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert reader.ask("read 0").startswith("1 ")


def test_a_writer_that_never_wakes_is_looked_for_and_one_that_woke_once_is_slept_for(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = slice(HEADER.offset("waiting"), HEADER.offset("waiting") + 4 * layout.READER_ENTRIES)
    awake = bytes(waiting.stop - waiting.start)

    def microseconds_into_sleep(writer: RingWriter, *, wakes: bool) -> int:
        """How long a reader slept that was asleep already when a frame came."""
        reader.tell("read 60000")
        while writer._current.mapping.memory[waiting] == awake:
            assert reader.process.poll() is None
            time.sleep(0.001)
        time.sleep(0.005)
        with monkeypatch.context() as silent:
            if not wakes:
                silent.setattr(RingWriter, "_wake_readers", lambda self: None)
            writer.write(PICTURE)
        return int(reader.answer().split()[1])

    with RingWriter("a", 4096, directory=tmp_path) as writer:
        for _ in range(10):  # a wake-up that comes before the sleep begins says nothing
            microseconds_into_sleep(writer, wakes=True)
        # They end with their 100 ms, each just as a frame may come, and still it sleeps.
        assert min(microseconds_into_sleep(writer, wakes=False) for _ in range(8)) > 50_000
    with RingWriter("a", 4096, directory=tmp_path) as writer:
        for _ in range(3):
            microseconds_into_sleep(writer, wakes=False)
        assert min(microseconds_into_sleep(writer, wakes=False) for _ in range(8)) < 50_000

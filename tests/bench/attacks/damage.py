"""Rings with random bytes changed in record, header and slot, read in Python, C (under sanitizers, and without) and C#.

All readers look at the same damaged ring at once, each from a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bridge.ring import RingError, RingWriter, segment
from bridge.ring.layout import HEADER, RECORD, SLOT
from tests.bench.attacks.counting import HANG_S, ROOT, SIDE, picture
from tests.conformance.peers import NATIVE, UNITY_RING, find_tool


class Damage:
    """A live ring whose bytes are changed at random; every case starts from the sound one."""

    def __init__(self, directory: str, chance: random.Random) -> None:
        self._chance = chance
        self.writer = RingWriter("a", SIDE * SIDE * 4, directory=directory)
        self.writer.write(picture(1), frame_id=1)
        self._record = Path(segment.place("a", directory).record_path)
        assert self.writer.segment_path is not None
        self._segment = open(self.writer.segment_path, "r+b", buffering=0)
        self._sound = self._segment.read(), self._record.read_bytes()
        self._slot = HEADER.size + (self._sound[0][HEADER.offset("newest")]) * self._stride()

    def _stride(self) -> int:
        at = HEADER["slot_stride"]
        return int.from_bytes(self._sound[0][at.offset : at.offset + 8], "little")

    def _value(self, size: int, before: bytes) -> bytes:
        """A number near an edge, near the sound one, or any."""
        top = 1 << 8 * size
        number = int.from_bytes(before, "little")
        edges = (0, 1, 2, 63, 64, 448, 4095, 4096, 8192, 1 << 31, (1 << 32) - 1, 1 << 40, top - 1, top - 64)
        pick = self._chance.randrange(4)
        number = (
            self._chance.choice(edges)
            if pick == 0
            else number + self._chance.randint(-4, 4)
            if pick == 1
            else number ^ 1 << self._chance.randrange(8 * size)
            if pick == 2
            else self._chance.randrange(top)
        )
        return (number % top).to_bytes(size, "little")

    def next(self) -> None:
        """Put one damaged ring in the place of the last."""
        content, record = bytearray(self._sound[0][: self._slot + 8192]), bytearray(self._sound[1])
        for _ in range(self._chance.choice((1, 1, 1, 2, 5))):
            where = self._chance.randrange(8)
            target, base, fields = (
                (record, 0, RECORD.fields)
                if where == 0
                else (content, 0, HEADER.fields)
                if where < 4
                else (content, self._slot, SLOT.fields)
            )
            if where >= 6:  # the plane table, word by word
                at, size = self._slot + 256 + 4 * self._chance.randrange(24), self._chance.choice((4, 8))
            else:
                field = self._chance.choice(fields)
                at, size = base + field.offset, min(8, field.size)
            target[at : at + size] = self._value(size, bytes(target[at : at + size]))
        self._segment.seek(0)
        self._segment.write(content)
        self._record.write_bytes(record)

    def close(self) -> None:
        self._segment.close()
        self.writer.close()


PYTHON_PEER = """
import sys, resource
from bridge.ring import RingError, RingReader
for line in sys.stdin:
    try:
        with RingReader("a", directory=sys.argv[1]) as reader:
            frame = reader.read(0.0)
            said = "0" if frame is None else str(sum(int(p.view("u1").sum()) for p in frame.planes.values()) >= 0)
        with RingReader("a", directory=sys.argv[1]) as reader, reader.latest(0.0) as frame:
            pass
    except RingError as error:
        said = type(error).__name__
    print(said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""

C_PEER = """
#include "frameloom.h"
#include <sys/resource.h>
int main(int count, char **words) {
    char line[64];
    (void)count;
    while (fgets(line, sizeof line, stdin)) {
        frameloom_error error;
        frameloom_frame frame;
        unsigned long long sum = 0;
        frameloom_reader *reader = frameloom_reader_open("a", words[1], 0, &error);
        frameloom_status status = frameloom_read(reader, NULL, 0, &frame, 0, &error);
        for (uint32_t i = 0; status == FRAMELOOM_OK && i < frame.plane_count; i++)
            for (uint64_t at = 0; at < frame.planes[i].size; at++) sum += frame.planes[i].pixels[at];
        frameloom_reader_close(reader);
        reader = frameloom_reader_open("a", words[1], 0, &error);
        if (frameloom_latest(reader, &frame, 0, &error) == FRAMELOOM_OK) frameloom_release(reader, &frame);
        frameloom_reader_close(reader);
        struct rusage used;
        getrusage(RUSAGE_SELF, &used);
        printf("%s-%llu %ld\\n", frameloom_status_name(status), sum, used.ru_maxrss);
        fflush(stdout);
    }
}
"""


SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SLOW_MS = 250.0
"""An answer that took longer is asked for once more."""
SHADOW = 0x7FFF8000, 0x10007FFF8000
"""Where AddressSanitizer keeps its shadow of all memory on x86-64; what is resident there is not the reader's."""


@contextlib.contextmanager
def damaged_readers(directory: str, folder: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process per language that reads the ring afresh for every line it gets and answers with one."""
    commands: dict[str, list[str]] = {"python": [sys.executable, "-c", PYTHON_PEER, directory]}
    environment = os.environ | {
        "ASAN_OPTIONS": "exitcode=99:detect_leaks=0:quarantine_size_mb=1",
        "MONO_DISABLE_SHARED_AREA": "1",
    }
    if compiler := find_tool("gcc"):
        (folder / "peer.c").write_text(C_PEER, encoding="utf-8")
        for name, flags in (("c, sanitized", SANITIZED), ("c", ("-O2",))):
            out = folder / name.replace(", ", "-")
            line = [compiler, "-std=c11", *flags, f"-I{NATIVE}", str(folder / "peer.c"), "-o", str(out)]
            built = subprocess.run(line, capture_output=True)
            # Older sanitizers cannot bear where newer kernels put things, now and then.
            if not built.returncode and all(
                subprocess.run([out, directory], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
                for _ in range(10)
            ):
                commands[name] = [str(out), directory]
    compiler, runtime = find_tool("mcs"), find_tool("mono")
    if compiler and runtime:
        sources = [str(ROOT / "tests" / "clients" / "RingByHand.cs"), *map(str, UNITY_RING.glob("*.cs"))]
        out = folder / "ring.exe"
        subprocess.run([compiler, "-langversion:7.2", "-unsafe", "-optimize", f"-out:{out}", *sources], check=True)
        commands["c#"] = [runtime, str(out), directory]
    running = {
        name: subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        for name, line in commands.items()
    }
    try:
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


def peak_kb(pid: int) -> int:
    """The most memory that the process ever had resident, in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def resident_kb(pid: int) -> int:
    """Memory that the process has resident now, in kB, without the sanitizer's shadow."""
    total, counted = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            counted = not SHADOW[0] <= int(first.split("-")[0], 16) < SHADOW[1]
        elif first == "Rss:" and counted:
            total += int(rest[0])
    return total


def damage(directory: str, cases: int, chance: random.Random) -> dict[str, dict[str, Any]]:
    """Per language: cases, readers that died or hung, the slowest answer, growth of memory, answers by kind.

    Growth is of the peak from the first answer on; in the sanitized reader, whose peak is the sanitizer's, of what is
    resident outside the shadow, looked at every 1,000 cases.
    """
    found: dict[str, dict[str, Any]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        damaged_readers(directory, Path(folder)) as running,
        selectors.DefaultSelector() as selector,
    ):
        ring = Damage(directory, chance)
        asked: dict[str, float] = {}

        def memory(name: str) -> int:
            return (resident_kb if "sanitized" in name else peak_kb)(running[name].pid)

        def ask(name: str) -> None:
            pipe = running[name].stdin
            assert pipe is not None
            asked[name] = time.perf_counter()
            with contextlib.suppress(BrokenPipeError):
                pipe.write("fresh 0\n")
                pipe.flush()

        def answers() -> Iterator[tuple[str, str]]:
            """What was asked, as it comes; an empty line of who has ended or says nothing for too long."""
            while asked:
                left = HANG_S - (time.perf_counter() - min(asked.values()))
                ready = [key.data for key, _ in selector.select(left)] if left > 0 else []
                for name in ready or list(asked):
                    if name in asked:
                        pipe = running[name].stdout
                        assert pipe is not None
                        yield name, pipe.readline() if ready else ""
                        del asked[name]

        for name, process in running.items():
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, name)
            ask(name)
        for name, _ in answers():
            found[name] = {
                "cases": 0,
                "failed": 0,
                "slowest_ms": 0.0,
                "asked_again": 0,
                "kb": memory(name),
                "peak_kb": 0,
                "kinds": {},
            }
        for case in range(1, cases + 1):
            ring.next()
            for name in found:
                if not found[name]["failed"]:
                    ask(name)
            took_ms: dict[str, float] = {}
            for name, said in answers():
                seen = found[name]
                seen["cases"] += 1
                took_ms[name] = (time.perf_counter() - asked[name]) * 1e3
                if not said:
                    seen["failed"] += 1
                    selector.unregister(running[name].stdout)
                    print(f"FORBIDDEN  {name} reader ended or hangs in case {case}", flush=True)
                    continue
                kind = said.split()[0].split("-")[0]
                seen["kinds"][kind] = seen["kinds"].get(kind, 0) + 1
            # What is slow is slow again; where the machine was busy elsewhere, it is not.
            slow = [name for name in took_ms if took_ms[name] > SLOW_MS and not found[name]["failed"]]
            for name in slow:
                ask(name)
            for name, said in answers():
                if said:
                    took_ms[name] = min(took_ms[name], (time.perf_counter() - asked[name]) * 1e3)
            for name, took in took_ms.items():
                found[name]["slowest_ms"] = max(found[name]["slowest_ms"], took)
                found[name]["asked_again"] += name in slow
            if case % 1000 == 0 or case == cases:
                for name, seen in found.items():
                    if not seen["failed"]:
                        seen["peak_kb"] = max(seen["peak_kb"], memory(name))
        for seen in found.values():
            grown = seen.pop("peak_kb") - seen.pop("kb")
            seen["grown_mb"] = None if seen["failed"] else round(max(0, grown) / 1024, 1)
            seen["slowest_ms"] = round(seen["slowest_ms"], 1)
        with contextlib.suppress(RingError):
            ring.close()
    return found

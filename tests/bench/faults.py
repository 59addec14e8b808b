"""The ring against kills, damage and want: what must never happen, counted, and how soon a reader is back.

Kills: `kill -9` at a random moment of a writer under a reader that lives on and of ordinary readers that come just
then; of copying, viewing and lossless readers under a writer that lives on; of a writer under the lossless reader; of
the whole host between a writer and a reader. Suspends (SIGSTOP) of either side. Damage: rings with random bytes
changed in record, header and slot, given to readers in Python, C (under sanitizers where they start) and C#. Hostile
datagrams to the host's OSC port while frames pass. Want: a ring taken over on a full file system while a reader maps
the dead one (as root).

Every frame says its number in every pixel: torn is one that says two, backward one that is not above the last, dead
one of a writer that was killed before the reader came. A hang is no answer within `HANG_S`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bridge.commands.words import Parser
from bridge.ring import Kind, Policy, RingError, RingReader, RingWriter, now_ns, segment
from bridge.ring.layout import HEADER, RECORD, SLOT
from tests.bench import report
from tests.conformance.peers import NATIVE, UNITY_RING, find_tool
from tests.rings import fresh_channel, sweep

HANG_S = 20.0
LIFE = 1 << 40
"""Frame numbers of a life of the writer: its number times this, plus the frame's own, from 1."""
SIDE = 64
ROOT = Path(__file__).resolve().parents[2]


def picture(number: int) -> dict[Kind, np.ndarray]:
    return {Kind.COLOUR: np.full((SIDE, SIDE // 2), number, np.uint64).view(np.uint8).reshape(SIDE, SIDE, 4)}


class Count:
    """What must be nought, and what was seen."""

    def __init__(self) -> None:
        self.torn = self.backward = self.dead = self.hangs = self.lost = 0
        self.frames = self.kills = 0
        self.attach_ms: list[float] = []

    def take(self, pixels: np.ndarray, number: int, last: int) -> int:
        said = np.ascontiguousarray(pixels).reshape(-1).view(np.uint64)
        self.frames += 1
        self.torn += not bool((said == number).all())
        self.backward += number <= last
        return number

    def row(self, name: str) -> tuple[Any, ...]:
        return name, self.kills, self.frames, self.torn, self.backward, self.dead, self.lost, self.hangs

    @property
    def forbidden(self) -> int:
        return self.torn + self.backward + self.dead + self.hangs + self.lost


def forked(run: Callable[[], object]) -> int:
    """Run in a child of its own, which ends with it."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    with contextlib.suppress(KeyboardInterrupt):
        run()
        status = 0
    os._exit(status)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Shared:
    """Words that all processes of a run see."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 4096)).cast("Q")


def writing(directory: str, life: int, shared: Shared, policy: Policy = Policy.NEWEST, pause_s: float = 0.0) -> None:
    """Write for ever; words: 0 the newest number that was published whole, 1 when the ring of this life was ready."""
    writer = RingWriter("a", SIDE * SIDE * 4, policy=policy, directory=directory, timeout_s=HANG_S)
    ready_ns = shared.words[1] = now_ns()
    for own in range(1, LIFE):
        number = life * LIFE + own
        writer.write(picture(number), frame_id=number, capture_ns=ready_ns, param_revision=life)
        shared.words[0] = number
        if pause_s:
            time.sleep(pause_s)


def killed_writers(directory: str, kills: int, chance: random.Random, lossless: bool) -> Count:
    """Lives of a writer, one after the other, under one reader; newest-wins: and a fresh reader in each gap."""
    count, shared, last, life = Count(), Shared(), 0, 0
    policy = Policy.LOSSLESS if lossless else Policy.NEWEST
    with RingReader("a", directory=directory, lossless=lossless) as reader:
        while count.kills < kills:
            life += 1
            shared.words[0] = 0
            pid = forked(lambda life=life: writing(directory, life, shared, policy))
            late, answer = 0, Shared()
            until = time.monotonic() + HANG_S
            came = False
            end = float("inf")
            while time.monotonic() < min(end, until):
                frame = reader.read(0.05)
                if frame is None:
                    continue
                number = count.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                if lossless and number != last + 1 and number % LIFE != 1:
                    count.lost += 1
                last = number
                if not came and number // LIFE == life:
                    came = True
                    count.attach_ms.append((now_ns() - frame.capture_ns) / 1e6)
                    end = time.monotonic() + chance.uniform(0, 0.01)
            count.hangs += not came
            kill(pid)
            count.kills += 1
            if not lossless:

                def comes(answer: Shared = answer) -> None:
                    with RingReader("a", directory=directory) as fresh:
                        frame = fresh.read(HANG_S)
                        answer.words[0] = frame.param_revision if frame is not None else 1 << 60

                # It comes after the death and waits over the start of the next writer.
                late = forked(comes)
                next_life = life + 1
                pid = forked(lambda life=next_life: writing(directory, life, shared))
                until = time.monotonic() + HANG_S
                while answer.words[0] == 0 and time.monotonic() < until:
                    frame = reader.read(0.001)
                    if frame is not None:
                        last = count.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                count.hangs += answer.words[0] in (0, 1 << 60)
                count.dead += 0 < answer.words[0] < next_life
                kill(pid)
                kill(late)
                count.kills += 1
                life = next_life
            # What was published whole before the death is there for the lossless reader.
            while (frame := reader.read(0.0)) is not None:
                last = count.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
            if lossless:
                count.lost += last < shared.words[0]
    return count


def killed_readers(directory: str, kills: int, chance: random.Random, how: str) -> Count:
    """Readers, two at a time, under one writer; another reader sees that the writer goes on and all is whole."""
    count, shared = Count(), Shared()
    lossless = how == "lossless"
    policy = Policy.LOSSLESS if lossless else Policy.NEWEST
    writer = forked(lambda: writing(directory, 1, shared, policy))

    def reading(words: Shared) -> None:
        """Words: 0 frames, 1 torn, 2 backward, 3 gaps."""
        mine, last = Count(), 0
        with RingReader("a", directory=directory, lossless=lossless) as reader:
            while True:
                if how == "view":
                    with reader.latest(0.2) as frame:
                        if frame is None:
                            continue
                        number = mine.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                        time.sleep(0.001)
                        mine.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                else:
                    frame = reader.read(0.2)
                    if frame is None:
                        continue
                    number = mine.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                words.words[3] += lossless and last > 0 and number != last + 1
                last = number
                words.words[0], words.words[1], words.words[2] = mine.frames, mine.torn, mine.backward

    try:
        while count.kills < kills:
            group = 1 if lossless else 2
            words = [Shared() for _ in range(group)]
            pids = [forked(lambda w=w: reading(w)) for w in words]
            before, until = shared.words[0], time.monotonic() + HANG_S
            while time.monotonic() < until and not (shared.words[0] > before and all(w.words[0] > 2 for w in words)):
                time.sleep(0.0005)
            count.hangs += not (shared.words[0] > before and all(w.words[0] > 2 for w in words))
            time.sleep(chance.uniform(0, 0.004))
            for pid in pids:
                kill(pid)
            count.kills += group
            for w in words:
                count.frames += w.words[0]
                count.torn += w.words[1]
                count.backward += w.words[2]
                count.lost += w.words[3]
        before, until = shared.words[0], time.monotonic() + HANG_S
        while shared.words[0] == before and time.monotonic() < until:
            time.sleep(0.001)
        count.hangs += shared.words[0] == before
    finally:
        kill(writer)
    return count


def suspended(directory: str, times: int, chance: random.Random) -> Count:
    """Either side stopped for up to 20 ms, again and again."""
    count, shared, last = Count(), Shared(), 0
    writer = forked(lambda: writing(directory, 1, shared))

    def stopper() -> None:
        while True:
            os.kill(writer, signal.SIGSTOP)
            time.sleep(chance.uniform(0, 0.02))
            os.kill(writer, signal.SIGCONT)
            time.sleep(chance.uniform(0, 0.004))
            shared.words[5] += 1

    stops = forked(stopper)
    try:
        with RingReader("a", directory=directory) as reader:
            until = time.monotonic() + HANG_S + times * 0.05
            while shared.words[5] < times and time.monotonic() < until:
                with reader.latest(0.2) as frame:
                    if frame is not None:
                        number = count.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                        time.sleep(chance.uniform(0, 0.002))
                        count.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                        last = number
                if frame is not None:
                    count.torn += not frame.valid
            count.hangs += shared.words[5] < times
            count.kills = int(shared.words[5])
    finally:
        kill(stops)
        kill(writer)
    return count


# ---- damage ----------------------------------------------------------------------------------------------------------


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
        for name, flags in (("c, sanitized", ("-g", "-O1", "-fsanitize=address,undefined")), ("c", ("-O2",))):
            out = folder / name.replace(", ", "-")
            line = [compiler, "-std=c11", *flags, "-fno-sanitize-recover=all", f"-I{NATIVE}", str(folder / "peer.c")]
            built = subprocess.run([*line, "-o", str(out)], capture_output=True)
            starts = not built.returncode and all(
                subprocess.run([out, directory], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
                for _ in range(10)
            )
            if starts:
                commands[name] = [str(out), directory]
                break
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


def memory_kb(process: subprocess.Popen[str]) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def damage(directory: str, cases: int, chance: random.Random) -> dict[str, dict[str, Any]]:
    """Per language: cases, readers that died or hung, the slowest answer, growth of memory, answers by kind."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, damaged_readers(directory, Path(folder)) as running:
        ring = Damage(directory, chance)
        for name, process in running.items():
            assert process.stdin and process.stdout
            process.stdin.write("fresh 0\n")
            process.stdin.flush()
            process.stdout.readline()
            found[name] = {"cases": 0, "failed": 0, "slowest_ms": 0.0, "kb": memory_kb(process), "kinds": {}}
        for _ in range(cases):
            ring.next()
            for name, process in running.items():
                seen = found[name]
                if seen["failed"]:
                    continue
                assert process.stdin and process.stdout
                began = time.perf_counter()
                alarm = signal.alarm(int(HANG_S))
                try:
                    process.stdin.write("fresh 0\n")
                    process.stdin.flush()
                    said = process.stdout.readline()
                except (TimeoutError, BrokenPipeError):
                    said = ""
                finally:
                    signal.alarm(alarm)
                seen["cases"] += 1
                seen["slowest_ms"] = max(seen["slowest_ms"], (time.perf_counter() - began) * 1e3)
                if not said:
                    seen["failed"] += 1
                    print(f"FORBIDDEN  {name} reader ended or hangs in case {seen['cases']}", flush=True)
                    continue
                kind = said.split()[0].split("-")[0]
                seen["kinds"][kind] = seen["kinds"].get(kind, 0) + 1
        for name, process in running.items():
            seen = found[name]
            seen["grown_mb"] = round((memory_kb(process) - seen.pop("kb")) / 1024, 1) if not seen["failed"] else None
        with contextlib.suppress(RingError):
            ring.close()
    return found


# ---- the host --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def host(channel: str, osc_port: int) -> Iterator[subprocess.Popen[bytes]]:
    line = [sys.executable, "-m", "bridge", "host", "--channel", channel, "--model", "passthrough", "--no-page"]
    process = subprocess.Popen(
        [*line, "--osc-port", str(osc_port)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def hostile_datagram(chance: random.Random) -> bytes:
    """Anything from noise to a message with one thing wrong."""
    pick = chance.randrange(6)
    if pick == 0:
        return chance.randbytes(chance.randrange(0, 1400))
    address = chance.choice(
        (b"/prompt", b"/strength", b"/seed", b"/guidance", b"/" + b"a" * chance.randrange(600), b"/x[*")
    )
    tags = bytes(chance.choice(b"ifsbhtdSrmTFNI[]") for _ in range(chance.randrange(12)))
    body = chance.randbytes(chance.randrange(64))
    message = address + b"\0" * (4 - len(address) % 4) + b"," + tags + b"\0" * (4 - (len(tags) + 1) % 4) + body
    if pick == 1:
        return (
            b"#bundle\0" + chance.randbytes(8) + struct.pack(">i", chance.choice((-1, len(message), 1 << 30))) + message
        )
    if pick == 2:
        nested = message
        for _ in range(chance.randrange(1, 60)):
            nested = b"#bundle\0" + bytes(8) + struct.pack(">i", len(nested)) + nested
        return nested[:60000]
    if pick == 3:
        value = struct.pack(">f", chance.choice((float("nan"), float("inf"), -1e38, 1e38)))
        return b"/strength\0\0\0,f\0\0" + value
    return message


def killed_hosts(kills: int, datagrams: int, chance: random.Random) -> tuple[Count, dict[str, Any]]:
    """The host killed between a writer and a reader that live on; in the last life hostile datagrams at full rate."""
    count, shared, last = Count(), Shared(), 0
    channel, port = fresh_channel(), free_port()

    def feed() -> None:
        with RingWriter(f"{channel}.in", SIDE * SIDE * 4) as writer:
            for number in range(1, LIFE):
                writer.write(picture(number), frame_id=number, source_frame_id=number)
                shared.words[0] = number
                time.sleep(1 / 60)

    feeder = forked(feed)
    osc: dict[str, Any] = {}
    try:
        with RingReader(f"{channel}.out") as reader:
            for life in range(kills + 1):
                with host(channel, port) as process:
                    came, until, end = 0, time.monotonic() + 6 * HANG_S, float("inf")
                    while time.monotonic() < min(until, end):
                        frame = reader.read(0.2)
                        if frame is None:
                            continue
                        count.frames += 1
                        count.backward += frame.source_frame_id <= last
                        last = frame.source_frame_id
                        if not came:
                            end = time.monotonic() + chance.uniform(0, 0.2)
                        came += 1
                    count.hangs += not came
                    if life == kills:
                        osc = bombarded(reader, port, datagrams, chance)
                        osc["host_died"] = process.poll() is not None
                        last = 0
                count.kills += life < kills
    finally:
        kill(feeder)
        sweep(channel)
    return count, osc


def bombarded(reader: RingReader, port: int, datagrams: int, chance: random.Random) -> dict[str, Any]:
    """Frames per second before and while hostile datagrams come as fast as they can be sent."""

    def rate(seconds: float, send: Callable[[], int]) -> tuple[float, int]:
        frames, sent, began = 0, 0, time.monotonic()
        while time.monotonic() - began < seconds:
            sent += send()
            frames += reader.read(0.0) is not None
        return frames / (time.monotonic() - began), sent

    def rest() -> int:
        time.sleep(0.002)
        return 0

    stock = [hostile_datagram(chance) for _ in range(2000)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:

        def shoot() -> int:
            for message in chance.sample(stock, 20):
                with contextlib.suppress(OSError):
                    out.sendto(message, ("127.0.0.1", port))
            return 20

        before, _ = rate(3.0, rest)
        frames, sent, began = 0.0, 0, time.monotonic()
        while sent < datagrams:
            more, burst = rate(1.0, shoot)
            frames, sent = frames + more, sent + burst
        seconds = time.monotonic() - began
        time.sleep(0.5)
        after, _ = rate(2.0, rest)
    return {
        "datagrams": sent,
        "per_second": round(sent / seconds),
        "frames_per_second": {
            "before": round(before, 1),
            "while": round(frames / seconds, 1),
            "after": round(after, 1),
        },
    }


# ---- want ------------------------------------------------------------------------------------------------------------


def full_disk(times: int) -> int | None:
    """Take-overs that failed on a full file system of 8 MB while a reader maps the dead ring; None: not root."""
    if sys.platform != "linux" or os.getuid() != 0:
        return None
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", folder], capture_output=True).returncode:
            return None
        failed, shared, reader = 0, Shared(), 0
        try:

            def reading() -> None:
                with RingReader("a", directory=folder) as ring:
                    while True:
                        if (frame := ring.read(0.1)) is not None:
                            shared.words[0] = frame.frame_id

            def dying(life: int) -> None:
                writer = RingWriter("a", 500 * 500 * 4, directory=folder)
                writer.write({Kind.COLOUR: np.zeros((500, 500, 4), np.uint8)}, frame_id=life)
                until = time.monotonic() + HANG_S
                while shared.words[0] != life and time.monotonic() < until:
                    time.sleep(0.005)
                os._exit(0 if shared.words[0] == life else 3)

            reader = forked(reading)
            for life in range(1, times + 2):
                status = os.waitpid(forked(lambda life=life: dying(life)), 0)[1]
                failed += status != 0
                if life == 1:
                    room = os.statvfs(folder)
                    with open(os.path.join(folder, "filler"), "wb") as filler:
                        os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_bsize)
        finally:
            if reader:
                kill(reader)
            subprocess.run(["umount", folder], check=True)
        return failed


def main(words: list[str] | None = None) -> int:
    parser = Parser("bench faults", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="minutes instead of hours")
    parser.add_argument("--kills", type=int, help="of each kind [1000; quick: 300]")
    parser.add_argument("--hosts", type=int, help="kills of the host [200; quick: 3]")
    parser.add_argument("--cases", type=int, help="damaged rings [1,000,000; quick: 4000]")
    parser.add_argument("--datagrams", type=int, help="hostile ones [1,000,000; quick: 20,000]")
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args(words)
    if not hasattr(os, "fork"):
        print("kills by POSIX signals; not for Windows")
        return 1
    kills, hosts, cases, datagrams = (
        given if given is not None else quick if o.quick else full
        for given, quick, full in (
            (o.kills, 300, 1000),
            (o.hosts, 3, 200),
            (o.cases, 4000, 1_000_000),
            (o.datagrams, 20_000, 1_000_000),
        )
    )

    def hang(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, hang)
    chance = random.Random(o.seed)
    home = "/dev/shm" if Path("/dev/shm").is_dir() else None
    counts: dict[str, Count] = {}
    left = 0
    with tempfile.TemporaryDirectory(prefix="frameloom-faults-", dir=home) as directory:
        for name, run in {
            "writer killed under a reader": lambda: killed_writers(directory, kills, chance, lossless=False),
            "writer killed under the lossless reader": lambda: killed_writers(directory, kills, chance, lossless=True),
            "copying readers killed": lambda: killed_readers(directory, kills, chance, "copy"),
            "viewing readers killed": lambda: killed_readers(directory, kills, chance, "view"),
            "lossless reader killed": lambda: killed_readers(directory, kills, chance, "lossless"),
            "writer suspended": lambda: suspended(directory, kills, chance),
        }.items():
            counts[name] = run()
            print(*counts[name].row(name), flush=True)
            # What the last one left goes with the next writer.
            RingWriter("a", 4096, directory=directory).close()
            left += len(os.listdir(directory))
        damaged = damage(directory, cases, chance)
    counts["host killed between writer and reader"], osc = killed_hosts(hosts, datagrams, chance)
    failed_take_overs = full_disk(6)
    attach_ms = counts["writer killed under a reader"].attach_ms
    p50, p99 = report.percentile(attach_ms, 50), report.percentile(attach_ms, 99)
    print()
    header = ("what", "times", "frames", "torn", "backward", "dead pictures", "lost", "hangs")
    report.table(header, [count.row(name) for name, count in counts.items()])
    print()
    report.table(
        ("damaged rings", "cases", "died or hung", "slowest, ms", "grown, MB"),
        [(n, d["cases"], d["failed"], d["slowest_ms"], d["grown_mb"]) for n, d in damaged.items()],
    )
    rates = osc["frames_per_second"]
    bars = [
        *(report.bar(f"{name}: forbidden outcomes", c.forbidden, 0, at_most=True) for name, c in counts.items()),
        *(report.bar(f"{name}: times", c.kills, 200 if "host" in name else 1000) for name, c in counts.items()),
        report.bar("files left", left, 0, at_most=True),
        report.bar("re-attach p50, ms", p50, 10, at_most=True),
        report.bar("re-attach p99, ms", p99, 100, at_most=True),
        *(report.bar(f"damaged rings, {n}: died or hung", d["failed"], 0, at_most=True) for n, d in damaged.items()),
        *(report.bar(f"damaged rings, {n}: cases", d["cases"], 1_000_000) for n, d in damaged.items()),
        *(
            report.bar(f"damaged rings, {n}: slowest, ms", d["slowest_ms"], 1000, at_most=True)
            for n, d in damaged.items()
        ),
        *(report.bar(f"damaged rings, {n}: grown, MB", d["grown_mb"], 64, at_most=True) for n, d in damaged.items()),
        report.bar("hostile datagrams", osc["datagrams"], 1_000_000),
        report.bar("host dead after hostile datagrams", float(osc["host_died"]), 0, at_most=True),
        report.bar("frame rate among hostile datagrams, of the one before", rates["while"] / rates["before"], 0.95),
        report.bar("take-overs failed on a full disk", failed_take_overs, 0, at_most=True),
    ]
    results = {
        "seed": o.seed,
        "runs": {name: vars(c) | {"attach_ms": None} for name, c in counts.items()},
        "attach_ms": {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(max(attach_ms), 2)},
        "damaged": damaged,
        "osc": osc,
        "take_overs_failed": failed_take_overs,
    }
    report.emit("faults", results, bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

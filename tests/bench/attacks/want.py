"""Rings where something has run out, be it room, inodes, descriptors or address space, and clocks that are apart."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bridge.ring import Kind, RingError, RingReader, RingWriter
from tests.bench.attacks.counting import HANG_S, SIDE, Shared, forked, kill, picture

T = TypeVar("T")
CLONE_NEWTIME = 0x80
DAY_S = 86_400
DONE = os.WEXITED | os.WNOHANG | os.WNOWAIT


@contextlib.contextmanager
def small_disk(*options: str) -> Iterator[str | None]:
    """A memory file system of its own; None where we may not mount one."""
    with tempfile.TemporaryDirectory() as folder:
        line = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder]
        root = sys.platform == "linux" and os.getuid() == 0
        if not root or subprocess.run(line, capture_output=True).returncode:
            yield None
            return
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)


def large(number: int, side: int = 500) -> dict[Kind, np.ndarray]:
    return {Kind.COLOUR: np.full((side, side, 4), number & 255, np.uint8)}


def full_disk(times: int) -> int | None:
    """Take-overs that failed on a full file system of 8 MB while a reader maps the dead ring; None: not root."""
    with small_disk("size=8M") as folder:
        if folder is None:
            return None
        failed, shared, reader = 0, Shared(), 0

        def reading() -> None:
            with RingReader("a", directory=folder) as ring:
                while True:
                    if (frame := ring.read(0.1)) is not None:
                        shared.words[0] = frame.frame_id

        def dying(life: int) -> None:
            writer = RingWriter("a", 500 * 500 * 4, directory=folder)
            writer.write(large(0), frame_id=life)
            until = time.monotonic() + HANG_S
            while shared.words[0] != life and time.monotonic() < until:
                time.sleep(0.005)
            os._exit(0 if shared.words[0] == life else 3)

        try:
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
        return failed


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return memoryview(one).cast("B") == memoryview(other).cast("B")


class Tally:
    """Calls that may fail, in words of ours only. Words: 0 calls, 1 refused, 2 other errors or wrong pictures."""

    def __init__(self, shared: Shared) -> None:
        self._words = shared.words

    def call(self, what: Callable[..., T], *given: Any, **named: Any) -> T | None:
        self._words[0] += 1
        try:
            return what(*given, **named)
        except RingError:
            self._words[1] += 1
        except Exception as error:
            self._words[2] += 1
            print(f"FORBIDDEN  {type(error).__name__}: {error}", flush=True)
        return None

    def hold(self, true: bool) -> None:
        self._words[2] += not true


def at_work(tally: Tally, directory: str, times: int, chance: random.Random, starve: Callable[[], None]) -> None:
    """Writers and readers that open, write, grow, read and close with what `starve` leaves them, each time anew."""
    # Made before, and compared without a copy: nothing of ours may be what fails.
    small, grown = picture(1), large(2)
    for number in range(1, times + 1):
        starve()
        writer = tally.call(RingWriter, "a", SIDE * SIDE * 4, directory=directory)
        readers = [RingReader("a", directory=directory) for _ in range(2)]
        for step in range(chance.randrange(1, 6)):
            frames = grown if step == 3 else small
            wrote = writer is not None and tally.call(writer.write, frames, frame_id=number) is not None
            for reader in readers:
                frame = tally.call(reader.read, 0.0)
                if frame is not None:
                    # Who could not write leaves the last one.
                    tally.hold(not wrote or same(frame.planes[Kind.COLOUR], frames[Kind.COLOUR]))
                tally.call(reader.wait, 0.0)
                tally.call(getattr, reader, "state")
        for end in (*readers, writer):
            if end is not None:
                tally.call(end.close)


def starved(directory: str, times: int, chance: random.Random, limit: Callable[[], Callable[[], None]]) -> list[int]:
    """Calls, refusals and forbidden outcomes under a limit, in a process of its own."""
    shared = Shared()

    def run() -> None:
        at_work(Tally(shared), directory, times, chance, limit())
        shared.words[3] = 1

    pid = forked(run)
    until = time.monotonic() + HANG_S + times
    while shared.words[3] == 0 and time.monotonic() < until and os.waitid(os.P_PID, pid, DONE) is None:
        time.sleep(0.01)
    kill(pid)
    return [int(shared.words[0]), int(shared.words[1]), int(shared.words[2]) + (not shared.words[3])]


def descriptors(chance: random.Random) -> Callable[[], None]:
    """Each time so many more descriptors are free, from none to a dozen, then again."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken: list[int] = []

    def starve() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(chance.randrange(13)):
            os.close(taken.pop())

    return starve


def address_space(chance: random.Random) -> Callable[[], None]:
    """Each time so much more memory may be mapped, from 1 to 6 MB: the interpreter lives, rings and copies may not."""
    import resource

    def starve() -> None:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = mapped + chance.randrange(1 << 20, 6 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

    return starve


def no_inodes(times: int, chance: random.Random) -> list[int] | None:
    """A file system of five inodes, one the folder's and up to four taken. None: not root."""
    with small_disk("size=64M", "nr_inodes=5") as folder:
        if folder is None:
            return None

        def limit() -> Callable[[], None]:
            def starve() -> None:
                for name in os.listdir(folder):
                    if name.startswith("taken"):
                        os.unlink(os.path.join(folder, name))
                for number in range(chance.randrange(5)):
                    with contextlib.suppress(OSError), open(os.path.join(folder, f"taken{number}"), "x"):
                        pass

            return starve

        return starved(folder, times, chance, limit)


def clocks_apart(directory: str, frames: int) -> list[int] | None:
    """A writer whose clock is a day ahead of the reader's, then the reverse: frames, and those that did not come.

    None where time namespaces are not available.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux" or os.getuid() != 0 or not Path("/proc/self/timens_offsets").exists():
        return None

    def ahead(run: Callable[[], None]) -> Callable[[], None]:
        def inner() -> None:
            if libc.unshare(CLONE_NEWTIME):
                raise OSError(ctypes.get_errno(), "no time namespace")
            Path("/proc/self/timens_offsets").write_text(f"monotonic {DAY_S} 0\nboottime {DAY_S} 0\n")
            # The namespace begins with the children.
            if os.waitpid(forked(run), 0)[1]:
                raise RuntimeError("the process in the namespace failed")

        return inner

    missing = 0
    for who in ("writer", "reader"):
        shared = Shared()

        def write(shared: Shared = shared) -> None:
            with RingWriter("a", SIDE * SIDE * 4, directory=directory) as writer:
                shared.words[2] = time.monotonic_ns()
                for number in range(1, frames + 1):
                    writer.write(picture(number), frame_id=number)
                    until = time.monotonic() + 1.0
                    while shared.words[0] < number and time.monotonic() < until:
                        time.sleep(0.0005)
                    shared.words[1] = number

        def read(shared: Shared = shared) -> None:
            with RingReader("a", directory=directory) as reader:
                shared.words[3] = time.monotonic_ns()
                while shared.words[0] < frames:
                    frame = reader.read(0.5)
                    if frame is not None:
                        right = (frame.planes[Kind.COLOUR] == picture(frame.frame_id)[Kind.COLOUR]).all()
                        shared.words[0] = frame.frame_id
                        shared.words[4] += right

        pids = [forked(ahead(write) if who == "writer" else write), forked(ahead(read) if who == "reader" else read)]
        until = time.monotonic() + HANG_S + frames * 0.01
        while shared.words[1] < frames and time.monotonic() < until:
            time.sleep(0.01)
        apart_s = abs(int(shared.words[2]) - int(shared.words[3])) / 1e9
        if apart_s < DAY_S / 2:
            print(f"clocks are {apart_s:.0f} s apart only", flush=True)
            missing += frames
        for pid in pids:
            kill_tree(pid)
        missing += frames - int(shared.words[4])
    return [2 * frames, missing]


def kill_tree(pid: int) -> None:
    """End a child of ours and its children."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), 9)
    kill(pid)

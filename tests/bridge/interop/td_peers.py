"""The C program that plays TouchDesigner: built for this system and for Windows, started, read line by line."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.peers import find_tool

SOURCE = Path(__file__).with_name("td_peer.c")
FOLDER = Path("/dev/shm")
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Peer:
    """A built peer: the words that start it and what it needs in the environment."""

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *words: object, **more: str) -> Playing:
        return Playing([*self.command, *map(str, words)], os.environ | self.environment | more)


class Playing:
    """A running peer. A thread reads its lines, so that no wait is without end."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def line(self, beginning: str = "") -> str:
        """The next line that begins so; others are passed over."""
        end = time.monotonic() + PATIENCE_S
        while True:
            line = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            if line is None:
                self._child.wait(PATIENCE_S)
                assert self._child.stderr is not None
                raise AssertionError(f"no line {beginning!r} before the end: {self._child.stderr.read()}")
            if line.startswith(beginning):
                return line

    def go(self) -> None:
        """Send the line that a peer told to resize or to hold its mutex waits for."""
        assert self._child.stdin is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()

    def stop(self) -> None:
        self._child.kill()
        self._child.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            assert pipe is not None
            pipe.close()


def _build(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def native_peer(folder: Path) -> Peer | str:
    """The peer for this system, or why there is none."""
    compiler = find_tool("gcc", "cc")
    if not FOLDER.is_dir() or compiler is None:
        return "needs /dev/shm and a C compiler (gcc)"
    out = folder / "td_peer"
    _build(compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", SOURCE, "-o", out)
    return Peer((str(out),))


def wine_peer(folder: Path) -> Iterator[Peer | str]:
    """The peer for Windows under Wine, or why there is none; afterwards its server is ended."""
    compiler, wine = find_tool("x86_64-w64-mingw32-gcc"), find_tool("wine64", "wine")
    server = find_tool("wineserver", "wineserver64")
    if compiler is None or wine is None or server is None:
        yield "needs Wine (wine64) and a compiler for Windows (gcc-mingw-w64-x86-64)"
        return
    out = folder / "td_peer.exe"
    _build(compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", SOURCE, "-o", out)
    environment = {
        "WINEPREFIX": str(folder / "prefix"),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",
        "DISPLAY": "",
    }
    everything = os.environ | environment
    # The first program makes the prefix, which takes seconds.
    made = subprocess.run([wine, out], env=everything, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    if made.returncode != 2:
        yield f"Wine does not start a program here ({made.stderr.strip()[-200:]})"
    else:
        yield Peer((wine, str(out)), environment)
    for option in ("-k", "-w"):
        subprocess.run([server, option], env=everything, timeout=PATIENCE_S, check=False)


def fresh_name() -> str:
    """A name that nobody else uses."""
    return f"fl{uuid.uuid4().hex[:10]}"


def sweep(name: str) -> None:
    """Delete what killed peers left in /dev/shm under a name."""
    if FOLDER.is_dir():
        for path in FOLDER.glob(f"*TouchSHM{name}*"):
            path.unlink(missing_ok=True)

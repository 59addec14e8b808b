"""The peers of every language on this machine: how each is built and started, and one run of a writer and readers.

`available(folder)` builds what can be built; a language whose tools are missing comes with the reason. Peers keep the
contract of tests/conformance/peer.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent.parent
NATIVE = ROOT / "clients" / "native"
UNITY_RING = ROOT / "clients" / "unity" / "Packages" / "org.frameloom.unity" / "Runtime" / "Ring"
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-O2")
PATIENCE_S = 120
"""After this long without an answer a peer hangs; the slowest machine needs a few seconds."""


def find_tool(*names: str) -> str | None:
    """The first of these programs that is there; Debian keeps wine64 beside the path."""
    for name in names:
        found = shutil.which(name) or shutil.which(name, path="/usr/lib/wine")
        if found:
            return found
    return None


@dataclass(frozen=True)
class Peer:
    """One language: the command that starts its program, or why there is none."""

    name: str
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    wine: bool = False

    def directory(self, path: Path) -> str:
        """The folder as this program names it."""
        return "Z:" + str(path).replace("/", "\\") if self.wine else str(path)


def build(command: Sequence[str]) -> None:
    """Run a compiler; its complaints are the error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def python_peer() -> Peer:
    return Peer("python", (sys.executable, "-m", "tests.conformance.peer"))


def c_peer(folder: Path) -> Peer:
    compiler = find_tool("gcc", "cc")
    if sys.platform == "win32" or compiler is None:
        return Peer("c", missing="needs a C compiler (gcc)")
    out = folder / "peer-c"
    build([compiler, "-std=c11", *STRICT, str(NATIVE / "peer.c"), "-o", str(out)])
    return Peer("c", (str(out),))


def c_sharp_peer(folder: Path) -> Peer:
    source = Path(__file__).with_name("Peer.cs")
    compiler, runtime = find_tool("mcs"), find_tool("mono")
    if not source.exists():
        return Peer("c#", missing="tests/conformance/Peer.cs is not there")
    if compiler is None or runtime is None:
        return Peer("c#", missing="needs Mono (mono-devel and mono-mcs)")
    out = folder / "Peer.exe"
    sources = sorted(str(path) for path in UNITY_RING.glob("*.cs"))
    build([compiler, "-langversion:7.2", "-unsafe", "-optimize", f"-out:{out}", str(source), *sources])
    # Mono keeps a file in shared memory, which a killed one would leave behind.
    return Peer("c#", (runtime, str(out)), {"MONO_DISABLE_SHARED_AREA": "1"})


def windows_peer(folder: Path) -> Peer:
    compiler, wine = find_tool("x86_64-w64-mingw32-gcc"), find_tool("wine64", "wine")
    if compiler is None or wine is None:
        lacks = "Wine (wine64)" if compiler else "a compiler for Windows (gcc-mingw-w64-x86-64)"
        return Peer("c on wine", missing=f"needs {lacks}")
    out = folder / "peer.exe"
    build([compiler, "-std=c11", *STRICT, str(NATIVE / "peer.c"), "-o", str(out)])
    environment = {
        "WINEPREFIX": str(folder / "prefix"),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",
        "DISPLAY": "",
    }
    peer = Peer("c on wine", (wine, str(out)), environment, wine=True)
    # Without words a peer says how it is used. The first program makes the prefix, which takes seconds, and starts the
    # services, which keep its output open as long as they live; so it gets none, and the server stays until `end_wine`.
    server = find_tool("wineserver", "wineserver64")
    (folder / "prefix").mkdir(exist_ok=True)
    if server:
        subprocess.run([server, "-p"], env=os.environ | environment, timeout=PATIENCE_S, check=False)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    trial = subprocess.Popen(peer.command, env=os.environ | environment, **quiet)
    with contextlib.suppress(subprocess.TimeoutExpired):
        if trial.wait(5 * PATIENCE_S) == 2:
            return peer
    trial.kill()
    trial.wait()
    end_wine({peer.name: peer})
    return Peer("c on wine", missing="Wine does not start programs here; try: wine64 winecfg")


def available(folder: Path) -> dict[str, Peer]:
    """Every language by name, built into `folder`."""
    peers = (python_peer(), c_peer(folder), c_sharp_peer(folder), windows_peer(folder))
    return {peer.name: peer for peer in peers}


def end_wine(peers: dict[str, Peer]) -> None:
    """Stop the Wine server of these peers, which else lingers and keeps its prefix busy."""
    server = find_tool("wineserver", "wineserver64")
    for peer in peers.values():
        if peer.wine and server:
            for order in ("-k", "-w"):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    subprocess.run([server, order], env=os.environ | peer.environment, timeout=PATIENCE_S, check=False)


class Running:
    """One started peer. Its output is read by a thread, so that no wait is without end."""

    def __init__(self, peer: Peer, role: str, words: dict[str, object], directory: Path | None) -> None:
        if directory is not None:
            words = words | {"directory": peer.directory(directory)}
        line = [*peer.command, role, *(f"{name}={value}" for name, value in words.items())]
        self.what = f"{peer.name} {role}"
        self.process = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | peer.environment,
            text=True,
        )
        self._lines: list[str] = []
        self._errors: list[str] = []
        self._news = threading.Condition()
        self._ended = 0
        self._threads = [
            threading.Thread(target=self._collect, args=(pipe, lines), daemon=True)
            for pipe, lines in ((self.process.stdout, self._lines), (self.process.stderr, self._errors))
        ]
        for thread in self._threads:
            thread.start()

    def _collect(self, pipe: IO[str], lines: list[str]) -> None:
        for line in pipe:
            with self._news:
                lines.append(line.strip())
                self._news.notify_all()
        with self._news:
            self._ended += 1
            self._news.notify_all()

    def await_line(self, wanted: str) -> None:
        """Until the peer has said this line."""
        with self._news:
            told = self._news.wait_for(lambda: wanted in self._lines or self._ended == 2, PATIENCE_S)
            assert told, f"{self.what}: hangs before {wanted}"
            assert wanted in self._lines, f"{self.what}: ended before {wanted}: {self._lines} {self._errors}"

    def result(self) -> dict[str, Any]:
        """The result of a peer that ends by itself, its exit status as "status"."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.what}: hangs; it said {self._lines[-3:]} {self._errors[-3:]}") from None
        with self._news:
            self._news.wait_for(lambda: self._ended == 2 or self._said() is not None, PATIENCE_S)
        said = self._said()
        assert said is not None, f"{self.what}: no result, status {status}: {self._lines} {self._errors}"
        return json.loads(said) | {"status": status}

    def _said(self) -> str | None:
        """The line with the result, if it is there."""
        return next((line for line in self._lines if line.startswith("{")), None)

    def leave(self) -> dict[str, Any]:
        """Let a writer that is done leave in order; its result."""
        self.await_line("DONE")
        self.process.stdin.close()
        return self.result()

    def died(self) -> None:
        """Until a peer that kills itself is dead."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.what}: did not die") from None
        assert status != 0 and self._said() is None, f"{self.what}: {self._lines}"

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        for thread, pipe in zip(self._threads, (self.process.stdout, self.process.stderr), strict=True):
            thread.join(PATIENCE_S)
            pipe.close()


class Stage:
    """Peers on one channel of one folder; whatever runs still is ended at the end."""

    def __init__(self, directory: Path | None, channel: str = "a") -> None:
        self.directory = directory
        self.channel = channel
        self._running: list[Running] = []

    def start(self, peer: Peer, role: str, **words: object) -> Running:
        if role == "read":
            words = {"seconds": PATIENCE_S - 20} | words
        started = Running(peer, role, {"channel": self.channel} | words, self.directory)
        self._running.append(started)
        return started

    def end(self) -> None:
        for running in self._running:
            running.end()


@contextlib.contextmanager
def stage(directory: Path | None, channel: str = "a") -> Iterator[Stage]:
    held = Stage(directory, channel)
    try:
        yield held
    finally:
        held.end()

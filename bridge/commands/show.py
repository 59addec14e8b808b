"""What every command that shows something has: a client process, a status line, what was measured, a browser."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bridge.commands.host import PROGRESS_S, StartError
from bridge.commands.signals import StopRequest
from bridge.ring import RingError
from bridge.ring.leftovers import sweep
from bridge.sources import SourceError
from bridge.terminal import child_command, child_environment, say, say_warnings, status
from core.params import ParamError

PAIRS = 8
"""Prompts that are offered, and pictures of a contact sheet."""
STATUS_S = 5.0
MAX_RESTARTS = 5
RESTART_PAUSE_S = 1.0
CLIENT_END_S = 15.0
STUCK_S = 120.0
"""Without any output for so long, although the model is loaded and frames come in, a demo with an end gives up."""


Shown = TypeVar("Shown")


def run(command: str, channel: str | None, show: Callable[[str, threading.Event], Shown]) -> Shown | None:
    """What `show` returns for a channel, or the first of several, and the event of a request to stop. None where it
    failed, which was told in one line.

    channel: None for one of the command's own; what those of killed processes left is deleted first.
    """
    say_warnings()
    stop = StopRequest()
    try:
        if channel is None:
            sweep(f"{command}-")
        return show(f"{command}-{os.getpid()}" if channel is None else channel, stop.event)
    except (StartError, ParamError, SourceError, RingError) as error:
        say(f"{command}: {error}")
        return None
    finally:
        stop.restore()


class Heartbeat:
    """Says how far the start is, every few seconds, until `stop`; from a thread, because imports block this one."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(PROGRESS_S):
            status(self._text())

    def stop(self) -> None:
        """Nothing is said after this returns. Harmless when stopped already."""
        self._stop.set()
        self._thread.join()


class Client:
    """The process that feeds NAME.in. It ends when its standard input does, so it cannot outlive this process."""

    def __init__(self, channel: str, arguments: list[str]) -> None:
        self._command = child_command("source", *arguments, "--channel", channel, "--with-parent")
        self._child: subprocess.Popen[str] | None = None
        self._due = 0.0
        self.restarts = 0
        self.killed = False
        self.peak_memory_mb: float | None = None
        self.failure: str | None = None

    def start(self) -> None:
        # Out of the terminal's reach: Ctrl-C is for this process, which then ends the client by closing its input.
        alone: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            alone = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment(), **alone
        )

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    def keep_alive(self, has_fed: bool) -> None:
        """Start the client again when it died; sets `failure` when that is hopeless.

        has_fed: whether a frame of it ever arrived. A client that says itself why it cannot begin (status 1 before any
        frame) is not tried again.
        """
        if self._child is None:
            if time.monotonic() >= self._due:
                self.start()
            return
        ended = self._child.poll()
        if ended is None or self.failure is not None:
            return
        why = self._finish(self._child)
        self._child = None
        if ended == 1 and not has_fed:
            self.failure = why
        elif self.restarts >= MAX_RESTARTS:
            self.failure = f"the client ended {self.restarts + 1} times (last status {ended}): {why}"
        else:
            self.restarts += 1
            self._due = time.monotonic() + RESTART_PAUSE_S
            say(f"the client ended (status {ended}): {why}; starting it again")

    def stop(self) -> None:
        """End the client and wait for it."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        child.stdin.close()
        try:
            child.wait(CLIENT_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self._finish(child)

    def _finish(self, child: subprocess.Popen[str]) -> str:
        """Read what an ended client has left behind; returns why it ended."""
        self.killed = self.killed or child.returncode != 0
        assert child.stdin is not None and child.stdout is not None
        lines = child.stdout.read().splitlines()
        child.stdin.close()
        child.stdout.close()
        told = json.loads(lines[-1]) if child.returncode in (0, 1) and lines else {}
        self.peak_memory_mb = told.get("peak_memory_mb", self.peak_memory_mb)
        return str(told.get("failure", "it did not say why"))


# ---- what to show --------------------------------------------------------------------------------------------------


def captions(source: str, seed: int, count: int) -> list[str]:
    """Prompts for a demo whose user gave none: one per style, naming the objects where they are known."""
    from core.world import STYLES, World

    styles = STYLES[1 : 1 + count]
    if source == "world":
        world = World(seed=seed)
        return [world.caption(style=style) for style in styles]
    return [f"{style} style" for style in styles]


@dataclass
class Measured:
    """Times of the run, in seconds from its start."""

    started_s: float = field(default_factory=time.monotonic)
    first_output_s: float | None = None
    first_count: int = 0
    last_output_s: float = 0.0
    last_count: int = 0

    def since_start_s(self) -> float:
        return time.monotonic() - self.started_s

    def note_output(self, frames_out: int) -> None:
        now = self.since_start_s()
        if self.first_output_s is None:
            self.first_output_s, self.first_count = now, frames_out
        self.last_output_s, self.last_count = now, frames_out

    def fps(self) -> float:
        """Outputs per second from the first one on; from the start, where all had come at the first look."""
        if self.first_output_s is None:
            return 0.0
        if self.last_count == self.first_count:
            return round(self.last_count / self.first_output_s, 2)
        return round((self.last_count - self.first_count) / (self.last_output_s - self.first_output_s), 2)


def open_page(args: argparse.Namespace, url: str) -> None:
    """Open `url` in a browser, or say that it is there; nothing with --no-browser."""
    if args.no_browser:
        return
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # Without a desktop the system's choice may be a browser that takes over this terminal.
        say(f"no desktop here; open {url} yourself")
    elif not webbrowser.open(url):
        say(f"no browser was found; open {url} yourself")

"""How a command learns that it is to end."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from bridge.terminal import say_from_signal

SAME_REQUEST_S = 0.5
"""A signal that follows the first one so soon is its copy: `timeout`, shells and supervisors send it to the process and
to its group."""


def ending_signals() -> list[signal.Signals]:
    """What asks a program to end: Ctrl-C, a kind kill, a closed terminal unless `nohup` says to ignore that."""
    ending = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    return ending


def let_ctrl_c_in() -> None:
    """What `run.py` held back until somebody can answer it; a Ctrl-C that came meanwhile raises `KeyboardInterrupt`."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def set_by_signal(event: threading.Event) -> Callable[[], None]:
    """A call by which a signal handler sets `event`, soon, on another thread.

    `event.set` itself takes a lock. The thread that the handler interrupted may hold it, inside `event.wait` or inside
    the handler of a signal just before (a closed terminal sends two), and would wait for itself for ever.
    """
    asked: queue.SimpleQueue[None] = queue.SimpleQueue()

    def wait() -> None:
        asked.get()
        event.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return lambda: asked.put(None)


class Stop:
    """Set by one of `ending_signals`, or the end of standard input when a parent holds it. A second Ctrl-C or SIGTERM
    ends the process at once, which may be waiting for a camera that never answers.

    What is left in shared memory then, the next start takes over or clears.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._ask = set_by_signal(self.event)
        self._first_s: float | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        hangup = sys.platform != "win32" and number == signal.SIGHUP
        if self._first_s is None:
            self._first_s = time.monotonic()
            self._ask()
            if not hangup:
                self._told()
        elif not hangup and time.monotonic() - self._first_s >= SAME_REQUEST_S:
            # Not by an exception: a thread that is loading a model would be waited for all the same.
            os._exit(128 + number)

    def _told(self) -> None:
        """The first request has come from a person."""

    def watch(self, fd: int) -> None:
        def wait_for_end() -> None:
            # Unbuffered: a thread that still waits inside a buffered stream aborts the interpreter at its exit.
            while os.read(fd, 4096):
                pass
            self.event.set()

        threading.Thread(target=wait_for_end, name="parent", daemon=True).start()


class StopRequest(Stop):
    """The same, from now on until `restore`; says how to end it at once."""

    def __init__(self) -> None:
        super().__init__()
        self._before = {number: signal.signal(number, self.on_signal) for number in ending_signals()}

    def _told(self) -> None:
        say_from_signal("stopping; once more ends it at once")

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

"""What a StreamDiffusionTD project asks of its frames besides their contents: to stop, to come one by one, to come from
other memory. Knows nothing of OSC or of memory.
"""

from __future__ import annotations

import threading
import time

ACK_S = 5.0
"""For so long the next single frame waits for the project to say that it has taken the last one."""
RESULT_S = 30.0
"""After so long a single frame's result is given up: it was lost, or the host stands still."""


class Gate:
    """Lets the pictures of an input pass, or holds them and lets single ones pass on request. Any thread may ask.

    While it is closed, one picture passes for each `step`, of all results only the one of that picture is shown
    (`shows`), and the next one passes when that result was acknowledged, or after `ACK_S` seconds.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self._steps = 0
        self._awaited: int | None = None
        self._busy_until = 0.0
        self._watched = False
        self._name: str | None = None

    @property
    def is_open(self) -> bool:
        return self._open

    def open(self) -> None:
        """Let all pass; what was asked for and has not passed yet is forgotten."""
        with self._changed:
            self._open, self._steps = True, 0
            self._forget()

    def close(self) -> None:
        """Let none pass but those that are asked for from now on."""
        with self._changed:
            if self._open:
                self._open, self._steps = False, 0
                self._forget()

    def _forget(self) -> None:
        self._awaited, self._busy_until = None, 0.0
        self._changed.notify_all()

    def step(self) -> None:
        """Let one picture pass while the gate is closed, a new one or not."""
        with self._changed:
            self._steps += 1
            self._changed.notify_all()

    def take_step(self, timeout_s: float) -> bool:
        """Whether a picture may pass now; waits so long for one that was asked for, and for the end of the last."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                now = time.monotonic()
                if self._steps and now >= self._busy_until:
                    self._steps -= 1
                    self._awaited = None
                    return True
                if now >= end:
                    return False
                self._changed.wait(min(end, self._busy_until if self._steps else end) - now)

    def watch(self) -> None:
        """Somebody shows results and will tell of them; else no picture waits for its result."""
        self._watched = True

    def passes(self, number: int) -> None:
        """The picture with that number, which was stepped to, is handed to the host next."""
        with self._changed:
            if self._watched and not self._open:
                self._awaited, self._busy_until = number, time.monotonic() + RESULT_S

    def shows(self, number: int) -> bool:
        """Whether the result of that picture is to be shown."""
        with self._changed:
            return self._open or number == self._awaited

    def shown(self, number: int) -> None:
        """It is about to be announced: acknowledgements count from now on."""
        with self._changed:
            if number == self._awaited:
                self._awaited, self._busy_until = None, time.monotonic() + ACK_S

    def acknowledge(self) -> None:
        """The project has taken the result that was announced to it."""
        with self._changed:
            if self._awaited is None:
                self._busy_until = 0.0
                self._changed.notify_all()

    def rename(self, name: str) -> None:
        """Ask for the pictures of other memory."""
        with self._changed:
            self._name = name

    def take_name(self) -> str | None:
        """The name that was asked for since the last call."""
        with self._changed:
            name, self._name = self._name, None
            return name

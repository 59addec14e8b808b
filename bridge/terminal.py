"""What the commands tell their user while they run, and how one is started. Standard library only.

Progress goes to standard error, results to standard output. A terminal or a log that has gone away ends nobody's work.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

PROGRAM = "py run.py" if sys.platform == "win32" else "python3 run.py"
"""How a command is typed, in the checkout's folder: hints are to be copied."""

USUAL_COLUMNS = 80
WATCHED_S = 1.0
"""The status line is written anew so often."""

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

_writing = threading.Lock()


def child_command(*words: str) -> list[str]:
    """How a process of this program starts one of its commands. -P keeps the current folder off the module path: a file
    there named like a module must not be loaded."""
    return [sys.executable, "-P", "-m", "bridge", *words]


def child_environment(**more: str) -> dict[str, str]:
    """The environment for that. The checkout first on the path: a child must be of this version whatever else is
    installed."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **more}


def on_terminal() -> bool:
    """Whether somebody watches: standard error is a terminal that can go back to the beginning of a line."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return False


def _blank() -> str:
    """What wipes the line that the cursor is in. The last column stays free: some terminals go on to the next line."""
    return f"\r{' ' * (_columns() - 1)}\r"


def _columns() -> int:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or USUAL_COLUMNS
    return USUAL_COLUMNS


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError), _writing:
        sys.stderr.write(text)
        sys.stderr.flush()


def say(text: str) -> None:
    """A line that stays. On a terminal it takes the place of the status line, whichever process wrote that."""
    _write(f"{_blank()}{text}\n" if on_terminal() else f"{text}\n")


def status(text: str) -> None:
    """How it goes just now: on a terminal always in the same line, elsewhere a line like any other."""
    if on_terminal():
        _write(f"{_blank()}{text[: _columns() - 1]}")
    else:
        say(text)


def status_every_s(logged_s: float) -> float:
    """How often to call `status`; logged_s: where every one is a line more."""
    return WATCHED_S if on_terminal() else logged_s


def say_from_signal(text: str) -> None:
    """`say` for a signal handler, whose thread may be writing just now."""
    with contextlib.suppress(OSError):
        os.write(2, f"{_blank() if on_terminal() else ''}{text}\n".encode())


def print_result(values: dict[str, Any], wanted: bool = False) -> None:
    """One line of JSON for programs: where standard output is none's terminal, or where it is `wanted`."""
    with contextlib.suppress(AttributeError, ValueError):
        if sys.stdout.isatty() and not wanted:
            return
    print(json.dumps(values), flush=True)


class _Said(logging.Handler):
    """Warnings of the program's parts, said as everything else is."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def say_warnings() -> None:
    """From now on what the parts of the program log is said, above the status line. Harmless when called again."""
    root = logging.getLogger()
    if not any(isinstance(handler, _Said) for handler in root.handlers):
        root.addHandler(_Said(logging.WARNING))

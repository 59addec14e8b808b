"""What the commands tell their user while they run. Standard library only."""

from __future__ import annotations

import contextlib
import sys


def say(text: str) -> None:
    """Progress goes to standard error, a line at once; standard output keeps results only.

    A terminal or a log that has gone away ends nobody's work.
    """
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

"""Runs a command for as long as its own standard input stays open, then ends it with everything it started.

Started by TouchDesigner with a pipe that nobody else holds: when TouchDesigner lets go of it, quits or crashes, the
system closes it and the host ends. Standard library only; runs in any Python 3.7 or newer, never in TouchDesigner's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

PATIENCE_S = 20.0
"""A host that is loading a model hears a request to end only when it has done so."""


def end(child: subprocess.Popen) -> None:  # type: ignore[type-arg]
    """Ask the child and its children to end, then make them."""
    if os.name == "nt":
        subprocess.call(
            ["taskkill", "/T", "/F", "/PID", str(child.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(PATIENCE_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def main(command: list) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=os.name != "nt")

    def watch() -> None:
        # Not sys.stdin: its lock, held by a thread that waits, breaks the interpreter's exit.
        while os.read(0, 1):
            pass
        end(child)

    threading.Thread(target=watch, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

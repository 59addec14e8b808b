"""Networks converted in a process of their own, beside a host that paints.

Recording a network and turning it into another library's form keeps Python's lock for hundreds of milliseconds at a
time; a process has a lock of its own, and can be given less of the processor than whoever paints. What is to be
converted goes there as a file in the store, and the result is found in the store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from bridge.terminal import child_environment

log = logging.getLogger("frameloom.converting")

IDLE_S = 10.0
"""The process ends when it has had nothing to do for so long: it has torch in memory."""
NICE = 5
"""Enough to leave the frames alone, and not so much that a busy machine never comes to it."""


class Converter:
    """See `core.backend.Execution.elsewhere`; any thread, one at a time.

    busy: set while somebody is painting. Before that it is faster to convert without another process, and nobody is
    held up.
    """

    def __init__(self) -> None:
        self.busy = threading.Event()
        self.converted = 0
        """Networks so far."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, network: Any, example: Any, folder: Path) -> bool:
        if not self.busy.is_set():
            return False
        import torch

        with self._lock, contextlib.ExitStack() as files:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                draft = files.enter_context(tempfile.TemporaryDirectory(prefix="draft-", dir=folder.parent))
                torch.save((network, example), Path(draft) / "network.pt")
                said = self._ask(f"{Path(draft) / 'network.pt'}\t{folder}")
            except Exception as error:  # whatever a network is that cannot be written to a file
                said = f"{type(error).__name__}: {error}"
            if said == "done":
                self.converted += 1
                return True
            log.warning("a network is converted beside the frames, which may hold them up: %s", said)
            return False

    def close(self) -> None:
        """Let the process end, after what it is at; another one is started when there is something to do."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is None:
            return
        # With what it reads closed it ends by itself.
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()
        self._process = None

    def _ask(self, line: str) -> str:
        # It may have just ended; then another one is asked.
        for fresh in (False, True):
            if self._process is None or self._process.poll() is not None or fresh:
                self._end()
                self._process = _started()
            given, told = self._process.stdin, self._process.stdout
            assert given is not None and told is not None
            with contextlib.suppress(OSError):
                given.write(f"{line}\n")
                given.flush()
                if answer := told.readline().strip():
                    return answer
        return "its process ended"


def _started() -> subprocess.Popen[str]:
    # Ctrl-C in the host's terminal is for the host.
    quiet: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        quiet = {"creationflags": subprocess.BELOW_NORMAL_PRIORITY_CLASS | subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "bridge.host.converting"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env=child_environment(PYTHONIOENCODING="utf-8", OMP_NUM_THREADS="1"),
        **quiet,
    )


def main() -> None:
    """Convert what the lines of standard input say: a file of a network and its example, and where the result goes."""
    if sys.platform != "win32":
        os.nice(NICE)
    lines = queue.SimpleQueue[str]()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(queue.Empty):
        while line := lines.get(timeout=IDLE_S).strip():
            print(_converted(*line.split("\t")), flush=True)


def _converted(file: str, folder: str) -> str:
    import torch

    from core.backends.openvino import convert_into

    try:
        # Of this program itself, from a moment ago, in a folder that nobody else may write to.
        network, example = torch.load(file, weights_only=False)
        convert_into(network, example, Path(folder))
    except Exception as error:  # told to the host, which then converts it itself
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return "done"


if __name__ == "__main__":
    main()

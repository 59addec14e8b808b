"""The host as a process of its own, outside TouchDesigner's Python. Starting and stopping return at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path

_KEEPER = Path(__file__).with_name("keeper.py")
_NO_WINDOW = 0x08000000
LEAVING_S = 25.0
"""The next host is started at the latest so long after the last one was told to end."""
_FOREIGN = ("PYTHON", "VIRTUAL_ENV", "CONDA_", "__PYVENV", "DYLD_", "LD_LIBRARY_PATH")


def clean_environment(inherited: Mapping[str, str], own_folder: str) -> dict[str, str]:
    """The environment without what points a Python at somebody else's modules or libraries.

    own_folder: where the program that we run in lives; it leaves PATH, because TouchDesigner brings a Python.
    """
    kept = {name: value for name, value in inherited.items() if not name.upper().startswith(_FOREIGN)}
    own = Path(own_folder).resolve()
    for name in kept:
        if name.upper() == "PATH":
            folders = kept[name].split(os.pathsep)
            kept[name] = os.pathsep.join(f for f in folders if f and not Path(f).resolve().is_relative_to(own))
    return kept


def find_python(checkout: Path, path: str) -> list[str]:
    """The words that start a Python for run.py: the checkout's own, else one on `path`; empty when there is none."""
    own = checkout / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if own.exists():
        return [str(own)]
    for words in (["py", "-3"], ["python3"], ["python"]) if os.name == "nt" else (["python3"], ["python"]):
        found = shutil.which(words[0], path=path)
        if found is not None:
            return [found, *words[1:]]
    return []


class HostProcess:
    """`run.py host` of a checkout. What it prints goes to a file, whose last line is `last_line`."""

    def __init__(self, errands: Executor) -> None:
        self.started_s = 0.0
        self._errands = errands
        self._starting: Future[subprocess.Popen[bytes]] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._leaving: subprocess.Popen[bytes] | None = None
        self._log = ""
        self._failure = ""

    def start(self, checkout: Path, python: str, words: Sequence[str], own_folder: str) -> None:
        """Begin to start it; does nothing while one is running. A failure shows in `ending`.

        python: a program, or empty to look for one. words: after `run.py host`. own_folder: see `clean_environment`.
        """
        if self.running:
            return
        self.stop()
        handle, self._log = tempfile.mkstemp(prefix="frameloom-host-", suffix=".log")
        self.started_s = time.monotonic()
        self._starting = self._errands.submit(
            _start, python, checkout, list(words), own_folder, handle, after=self._leaving
        )

    @property
    def running(self) -> bool:
        """Whether it runs or is about to."""
        self._collect()
        return self._starting is not None or (self._keeper is not None and self._keeper.poll() is None)

    def _collect(self) -> None:
        if self._starting is not None and self._starting.done():
            error = self._starting.exception()
            if error is None:
                self._keeper = self._starting.result()
            else:
                self._failure = f"host could not be started: {error}"
            self._starting = None

    @property
    def leaving(self) -> bool:
        """Whether one that was told to end still runs."""
        return self._leaving is not None and self._leaving.poll() is None

    @property
    def ending(self) -> str:
        """Why it is not running: empty when it runs, was never started or was stopped by us."""
        if self.running or self._keeper is None:
            return self._failure
        return f"host ended: {self.last_line or f'status {self._keeper.returncode}'} (all it said: {self._log})"

    @property
    def last_line(self) -> str:
        """The last thing that it printed."""
        try:
            with open(self._log, "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 1000))
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def stop(self) -> None:
        """Let it end; its keeper sees to that. Harmless when it does not run."""
        self._collect()
        if self._starting is not None:
            self._starting.add_done_callback(partial(_let_go_of_result, log=self._log))
        elif self._keeper is not None:
            _let_go(self._keeper, self._log)
            self._leaving = self._keeper
        elif self._log:
            _remove(self._log)
        self._starting, self._keeper, self._failure, self._log = None, None, "", ""


def _start(
    python: str, checkout: Path, words: list[str], own_folder: str, log: int, after: subprocess.Popen[bytes] | None
) -> subprocess.Popen[bytes]:
    try:
        if after is not None:
            # It may still hold the channel and the OSC port.
            with contextlib.suppress(subprocess.TimeoutExpired):
                after.wait(LEAVING_S)
        environment = clean_environment(os.environ, own_folder)
        starter = [python] if python else find_python(checkout, environment.get("PATH", ""))
        if not starter:
            raise FileNotFoundError("no Python found; install Python 3.11 from python.org or name one in Python")
        return subprocess.Popen(
            [*starter, str(_KEEPER), *starter, str(checkout / "run.py"), "host", *words],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            creationflags=_NO_WINDOW if os.name == "nt" else 0,
        )
    finally:
        os.close(log)


def _let_go(keeper: subprocess.Popen[bytes], log: str) -> None:
    """Close the keeper's pipe; its end, which takes as long as the host takes, is waited for elsewhere."""
    assert keeper.stdin is not None
    keeper.stdin.close()

    def wait() -> None:
        keeper.wait()
        _remove(log)

    threading.Thread(target=wait, name="frameloom-leaving", daemon=True).start()


def _remove(log: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(log)


def _let_go_of_result(starting: Future[subprocess.Popen[bytes]], log: str) -> None:
    if starting.cancelled() or starting.exception() is not None:
        _remove(log)
    else:
        _let_go(starting.result(), log)

"""`frameloom record` as a process beside a host, begun and ended from its page: it cannot hold up the host."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.page.errors import RecordingRefused
from bridge.terminal import child_command, child_environment

END_S = 20.0
"""A recorder has so long to write what is on its way; the file of one that is killed is readable all the same."""
PAGE_VARIABLE = "FRAMELOOM_PAGE"
"""Where the address of the page may stand instead of --page: it may hold a token, which others must not read."""


class RecordingProcess:
    """One recording at a time of a channel into `folder`. page: gives the address of the host's page. Any thread."""

    def __init__(self, channel: str, folder: Path, page: Callable[[], str]) -> None:
        self._channel = channel
        self._folder = folder
        self._page = page
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._following: threading.Thread | None = None
        self._file = Path()
        self._began_s = 0.0
        self._message = ""

    def state(self) -> dict[str, Any]:
        """Whether it records, into which file, for how long, and how the last recording ended; JSON-able."""
        process = self._process
        active = process is not None and process.poll() is None
        return {
            "active": active,
            "file": str(self._file) if self._began_s else "",
            "seconds": round(time.monotonic() - self._began_s, 1) if active else 0.0,
            "message": "" if active else self._message,
        }

    def start(self) -> None:
        """Begin a recording in a new file. Raises `RecordingRefused`."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                raise RecordingRefused(f"it is being recorded already, into {self._file}")
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RecordingRefused(
                    f"{self._folder} cannot be made ({error.strerror}); start the host with --recordings FOLDER"
                ) from None
            stamp = time.strftime("%Y-%m-%d %H-%M-%S")
            self._file = self._folder / f"{self._channel} {stamp}.mcap"
            for number in range(2, 100):
                if not self._file.exists():
                    break
                self._file = self._folder / f"{self._channel} {stamp} {number}.mcap"
            self._message = ""
            self._began_s = time.monotonic()
            self._process = subprocess.Popen(
                child_command("record", self._channel, str(self._file), "--with-parent"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=child_environment(**{PAGE_VARIABLE: self._page(), "PYTHONIOENCODING": "utf-8"}),
                # Ctrl-C in the host's terminal is for the host, which ends this one.
                start_new_session=sys.platform != "win32",
            )
            self._following = threading.Thread(target=self._follow, args=(self._process, self._file), daemon=True)
            self._following.start()

    def stop(self) -> None:
        """End the recording, if there is one, and wait for its file."""
        with self._lock:
            process, following = self._process, self._following
            if process is None or following is None:
                return
            if process.poll() is None and process.stdin is not None:
                process.stdin.close()
            following.join(END_S)
            if following.is_alive():
                process.kill()
                following.join()

    def _follow(self, process: subprocess.Popen[str], file: Path) -> None:
        """Read what it says, to its end."""
        assert process.stdout is not None and process.stderr is not None and process.stdin is not None
        said: list[str] = []
        telling = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
        telling.start()
        lines = [line for line in process.stdout if line.strip()]
        process.wait()
        telling.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._message = _ending(lines, said, file)


def _ending(lines: list[str], said: list[str], file: Path) -> str:
    try:
        about = json.loads(lines[-1])
        frames = ", ".join(f"{count} {side}" for side, count in about["frames"].items())
        lost = sum(about["lost"].values())
        text = f"recorded into {file}: {frames}" + (f", {lost} left out" if lost else "")
        return f"{text}; {about['ending']}" if about["ending"] else text
    except (IndexError, ValueError, KeyError, AttributeError, TypeError):
        last = said[-1].strip() if said else "the recorder said nothing"
        return f"the recording ended: {last}"

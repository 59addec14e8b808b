"""What is said while a command runs, on a real terminal and in a log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import logging
from bridge.terminal import print_result, say, say_from_signal, say_warnings, status
say_warnings()
say_warnings()
say("begun")
for number in range(5):
    status(f"{number} " + "x" * 200)
logging.getLogger("frameloom.part").warning("a part warns")
status("going")
say_from_signal("stopping")
status("gone")
say("ended")
print_result({"frames": 5})
print_result({"asked": True}, wanted=True)
"""


def run(*, terminal: bool, **variables: str) -> str:
    command = [sys.executable, "-c", PROGRAM]
    environment = {**os.environ, "TERM": "xterm", **variables}
    if not terminal:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=-1, stderr=-2, text=True, timeout=60, check=True
        )
        return done.stdout
    ours, theirs = os.openpty()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs):
        os.close(theirs)
        said = bytearray()
        try:
            while more := os.read(ours, 4096):
                said += more
        except OSError:  # how Linux tells the end
            pass
        os.close(ours)
    return said.decode().replace("\r\n", "\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
def test_on_a_terminal_the_status_has_one_line_and_what_is_said_stays_above_it() -> None:
    written = run(terminal=True)
    for line in written.split("\n"):
        # Nothing is wider than the terminal: what is wrapped could not be written over.
        assert all(len(piece) < 80 for piece in line.split("\r"))
    shown = [line.split("\r")[-1] for line in written.split("\n")]
    assert shown == ["begun", "a part warns", "stopping", "ended", '{"asked": true}', ""]
    assert written.count("x" * 70) == 5


def test_in_a_log_every_status_is_a_line_and_the_result_comes_unasked() -> None:
    lines = run(terminal=False).splitlines()
    assert [line for line in lines if line.startswith("{")] == ['{"frames": 5}', '{"asked": true}']
    said = [line for line in lines if not line.startswith("{")]
    assert said == [
        "begun",
        *(f"{number} {'x' * 200}" for number in range(5)),
        "a part warns",
        "going",
        "stopping",
        "gone",
        "ended",
    ]


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
def test_a_terminal_that_cannot_go_back_gets_lines() -> None:
    assert "\r" not in run(terminal=True, TERM="dumb")

"""Short slices are a request: harmless wherever it is made."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bridge import slices


def test_asking_changes_neither_policy_nor_niceness() -> None:
    script = (
        "import os\n"
        "from bridge import slices\n"
        "before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)\n"
        "print(slices.ask(), slices.ask(0), before == (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)))\n"
    )
    if sys.platform != "linux":
        assert slices.ask() is False
        return
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split()[2] == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux scheduling classes")
def test_another_scheduling_class_is_left_alone() -> None:
    script = (
        "import os\n"
        "from bridge import slices\n"
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n"
        "print(slices.ask(), os.sched_getscheduler(0) == os.SCHED_BATCH)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "True"]

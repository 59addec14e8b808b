"""What is asked of the scheduler is harmless wherever it is asked, and taken back in time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from bridge.ring.scheduling import MODEST, TURN_S, let_others_run, modest, short_slices, short_turns, urgent

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux scheduling classes")

PRELUDE = """
import os, threading
from bridge.ring.scheduling import is_urgent, short_slices, urgent
def policy():
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
"""


def said(script: str) -> list[str]:
    """What `script` prints in a process of its own, whose scheduling it may change."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


def may_be_urgent() -> bool:
    return said("with urgent() as granted:\n    print(granted)") == ["True"]


def test_asking_for_slices_changes_neither_policy_nor_niceness() -> None:
    if sys.platform != "linux":
        assert short_slices() is False
        return
    same = said(
        "before = policy(), os.getpriority(os.PRIO_PROCESS, 0)\n"
        "short_slices(), short_slices(0)\n"
        "print(before == (policy(), os.getpriority(os.PRIO_PROCESS, 0)))"
    )
    assert same == ["True"]


@linux
def test_another_scheduling_class_is_left_alone() -> None:
    script = """
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
print(short_slices(), policy() == os.SCHED_BATCH)
with urgent() as granted:
    print(granted, policy() == os.SCHED_BATCH)
print(policy() == os.SCHED_BATCH)
"""
    assert said(script) == ["False", "True", "False", "True", "True"]


@linux
def test_an_urgent_block_ends_as_an_ordinary_thread_also_after_an_error() -> None:
    if not may_be_urgent():
        pytest.skip("this user may not use the real-time class")
    script = """
print(short_slices())
try:
    with urgent():
        print(policy() == os.SCHED_RR and is_urgent(), os.sched_getparam(0).sched_priority)
        raise KeyError
except KeyError:
    print(policy() == os.SCHED_OTHER and not is_urgent())
with urgent() as outer, urgent() as inner:
    print(outer, not inner, policy() == os.SCHED_RR)
print(policy() == os.SCHED_OTHER, short_slices())
with urgent():
    print(policy() == os.SCHED_RR)
"""
    assert said(script) == ["True", "True", "1", *["True"] * 7]


@linux
def test_threads_and_processes_that_an_urgent_block_starts_are_ordinary() -> None:
    if not may_be_urgent():
        pytest.skip("this user may not use the real-time class")
    script = """
import subprocess, sys
seen = []
with urgent():
    thread = threading.Thread(target=lambda: seen.append(policy() == os.SCHED_OTHER))
    thread.start()
    thread.join()
    print(seen, policy() == os.SCHED_RR, flush=True)
    subprocess.run([sys.executable, "-c", "import os; print(os.sched_getscheduler(0) == os.SCHED_OTHER)"])
"""
    assert said(script) == ["[True]", "True", "True"]


@linux
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give up being root")
def test_an_ordinary_user_runs_the_block_all_the_same() -> None:
    script = """
import resource
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
os.setuid(65534)
with urgent() as granted:
    print(granted, policy() == os.SCHED_OTHER)
"""
    assert said(script) == ["False", "True"]


def test_only_the_thread_that_asks_is_urgent() -> None:
    inside, leave = threading.Event(), threading.Event()

    def granted() -> None:
        with urgent():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=granted)
    thread.start()
    assert inside.wait(10)
    if sys.platform == "linux":
        assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
    leave.set()
    thread.join(10)
    assert not thread.is_alive()


def test_letting_others_run_gives_them_the_interpreter() -> None:
    ran = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody gets it by waiting
    try:
        other = threading.Thread(target=ran.set)
        other.start()
        for _ in range(1_000_000):
            if ran.is_set():
                break
            let_others_run()
        assert ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        other.join()


def test_letting_others_run_returns_at_once_where_nobody_waits() -> None:
    """It would sleep, that is give up its core of its own accord, at every call if it waited for a timer."""
    script = """
import resource
from bridge.ring.scheduling import let_others_run
before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
for _ in range(2000):
    let_others_run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before < 200)
"""
    if sys.platform == "linux":
        assert said(script) == ["True"]


@linux
def test_a_modest_thread_leaves_the_others_as_they_are():
    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before, seen = niceness(), []

    def work():
        modest()
        seen.append(niceness())
        inner = threading.Thread(target=lambda: seen.append(niceness()))
        inner.start()
        inner.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [min(19, before + MODEST)] * 2
    assert niceness() == before


def test_the_interpreter_changes_hands_sooner():
    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1.0)
        short_turns()
        assert sys.getswitchinterval() == pytest.approx(TURN_S)
    finally:
        sys.setswitchinterval(interval)

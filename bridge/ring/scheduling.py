"""What a frame handler asks of the scheduler, so that it runs at once on a machine that is busy.

Two requests are for Linux; Windows and macOS favour a thread that was woken by themselves. `short_slices` needs no
privilege: Linux 6.12 and newer let a task of ordinary priority ask for slices shorter than the default, and on waking
it then runs before tasks with longer ones, unless their slice ends sooner. It waits for up to a tick of the clock then.
`urgent` closes that gap where the system allows it: waiting for a frame and copying it run in the real-time class,
before all ordinary work. `short_turns` is a request of Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

SLICE_NS = 500_000
"""About the processor time that one 512 x 512 frame needs at a time; longer work is merely shared fairly."""

TURN_S = 0.0005
MODEST = 5

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "loongarch64": 274}

# struct sched_attr, version 0: size, policy, flags, nice, priority, runtime, deadline, period.
_ATTRIBUTES = struct.Struct("<IIQiIQQQ")


def _letting() -> Callable[[], object]:
    """A call that gives other threads of this process the interpreter and other processes the core, and returns at once
    where nobody wants them.

    Not `time.sleep(0)` where there is `sched_yield`: up to Python 3.13 it waits for a timer of the kernel there, 57 us
    on Linux, with the core gone to sleep. Not `os.sched_yield` either, which may keep the interpreter.
    """
    if os.name == "posix":
        with contextlib.suppress(OSError, AttributeError):
            letting: Callable[[], object] = ctypes.CDLL(None).sched_yield
            return letting
    return lambda: time.sleep(0)


let_others_run = _letting()


def short_slices(slice_ns: int = SLICE_NS) -> bool:
    """Ask for slices of `slice_ns` (100 000 to 100 000 000; 0 for the default) for the calling thread and those that it
    starts later. False where the system has no such request or refuses it; nothing depends on it being granted."""
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, niceness, 0, slice_ns, 0, 0)
    if not _ordinary():
        return False
    return ctypes.CDLL(None).syscall(number, 0, ctypes.c_char_p(attributes), 0) == 0


def modest(nice: int = MODEST) -> None:
    """Let the calling thread, for the rest of its life, and those that it starts have less of a busy processor than
    others (Linux, where each thread has a niceness of its own). Not far less: it may hold what they wait for."""
    if sys.platform == "linux":
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, own + nice))


def short_turns(turn_s: float = TURN_S) -> None:
    """Let no thread of this process keep the interpreter for longer while another one wants it. A frame asks for it
    some hundred times, and beside one thread that computes in Python it would wait for 5 ms each time."""
    sys.setswitchinterval(turn_s)


def _ordinary() -> bool:
    return sys.platform == "linux" and os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER


def is_urgent() -> bool:
    """Whether the calling thread runs before all ordinary work. It must not wait by looking then: what it waits for may
    need the very core that it keeps."""
    return sys.platform == "linux" and os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK in (
        os.SCHED_RR,
        os.SCHED_FIFO,
    )


@contextlib.contextmanager
def urgent() -> Iterator[bool]:
    """Run the block in the real-time class, at its lowest priority, if the user may (root, or a real-time limit as
    audio programs have it: `ulimit -r` of 1 or more); gives whether it does. Threads that it starts are ordinary ones.

    For waiting and copying only: whoever computes in it keeps everybody else from that core. Where it is not granted,
    or the thread already belongs to another class than the ordinary one, the block runs as it is.
    """
    granted = False
    if sys.platform == "linux" and _ordinary():
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
            granted = True
    try:
        yield granted
    finally:
        if granted and sys.platform == "linux":
            # Only the privileged may clear the flag; on an ordinary thread it changes nothing.
            os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))

"""Ask the scheduler for short time slices, so that a woken frame handler runs at once on a machine that is busy.

Linux 6.12 and newer let a task of ordinary priority ask for slices shorter than the default; on waking it then runs
before tasks with longer ones instead of waiting for theirs to end. It costs throughput only where many tasks compete,
needs no privilege and is not a priority. Older kernels take the request and ignore it; other systems have none.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

SLICE_NS = 500_000
"""About the processor time that one 512 x 512 frame needs at a time; longer work is merely shared fairly."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "loongarch64": 274}

# struct sched_attr, version 0: size, policy, flags, nice, priority, runtime, deadline, period.
_ATTRIBUTES = struct.Struct("<IIQiIQQQ")


def ask(slice_ns: int = SLICE_NS) -> bool:
    """Ask for slices of `slice_ns` (100 000 to 100 000 000; 0 for the default) for the calling thread and those that it
    starts later. False where the system has no such request or refuses it; nothing depends on it being granted."""
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, niceness, 0, slice_ns, 0, 0)
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    return ctypes.CDLL(None).syscall(number, 0, ctypes.c_char_p(attributes), 0) == 0

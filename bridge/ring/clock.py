"""The clock of every stamp: nanoseconds that only rise, the same in all processes of one machine.

CLOCK_MONOTONIC on Linux, mach_absolute_time on macOS, QueryPerformanceCounter on Windows (where Python 3.11's monotonic
clock ticks every 15.6 ms only).
"""

from __future__ import annotations

import sys
import time

now_ns = time.perf_counter_ns if sys.platform == "win32" else time.monotonic_ns

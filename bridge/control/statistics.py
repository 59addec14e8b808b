"""What a host measures about itself: times per stage, frame counters, rates, peak memory.

Recording is O(1) and bounded in memory; percentiles are computed only when somebody asks. Knows nothing of
frames, rings or sockets. Standard library only.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from array import array
from typing import Any

from bridge.ring.clock import now_ns

STAGES = ("capture_to_publish", "ingest", "encode", "unet", "decode", "publish")
"""The stages of a frame, in nanoseconds each; the first is the end-to-end latency, capture stamp to publish stamp."""

COUNTERS = ("frames_in", "frames_out", "dropped", "skipped")
"""frames_in: taken from the input ring; frames_out: published; dropped: overtaken by newer ones, torn,
lost to an error, or given up in flight when steps, mode or size changed; skipped: left out by the similarity filter."""

PERCENTILES = (50, 95, 99)

LONGEST_NS = 3_600_000_000_000
"""Times outside 0 .. one hour are not times: a client stamped its frames with another clock."""

RATE_WINDOW_S = 3.0
"""Frame rates look this far back, so that they settle within a few seconds of a change."""


class _Window:
    """The newest `capacity` values with the time of each, in two preallocated rings. Not thread safe by itself."""

    __slots__ = ("values", "times_ns", "count")

    def __init__(self, capacity: int) -> None:
        self.values = array("q", bytes(8 * capacity))
        self.times_ns = array("q", bytes(8 * capacity))
        self.count = 0

    def add(self, value: int, at_ns: int) -> None:
        at = self.count % len(self.values)
        self.values[at] = value
        self.times_ns[at] = at_ns
        self.count += 1

    def since(self, oldest_ns: int) -> tuple[list[int], list[int]]:
        """Values and times not older than `oldest_ns`, oldest first."""
        capacity = len(self.values)
        at = self.count % capacity if self.count > capacity else 0
        end = min(self.count, capacity)
        times = [*self.times_ns[at:end], *self.times_ns[:at]]
        values = [*self.values[at:end], *self.values[:at]]
        first = next((i for i, t in enumerate(times) if t >= oldest_ns), len(times))
        return values[first:], times[first:]


def _percentiles_ms(values_ns: list[int]) -> dict[str, float | None]:
    if not values_ns:
        return {f"p{q}_ms": None for q in PERCENTILES}
    ordered = sorted(values_ns)
    last = len(ordered) - 1
    out: dict[str, float | None] = {}
    for q in PERCENTILES:
        at = last * q / 100.0
        low = int(at)
        high = min(low + 1, last)
        out[f"p{q}_ms"] = round((ordered[low] + (ordered[high] - ordered[low]) * (at - low)) / 1e6, 4)
    return out


class Statistics:
    """Times and counters of one host. Thread safe; one short lock, never held while percentiles are computed.

    window: how many newest values per stage are kept (at least 1).
    """

    def __init__(self, window: int = 1024) -> None:
        if window < 1:
            raise ValueError(f"window: got {window}; send at least 1")
        self._lock = threading.Lock()
        self._stages = {stage: _Window(window) for stage in STAGES}
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._arrivals = {name: _Window(window) for name in ("frames_in", "frames_out")}
        self._started_ns = now_ns()
        self._refusals, self._refusal = 0, ""

    def refuse(self, line: str) -> None:
        """Note what a sender of parameters was refused, in one line for whoever looks at this host."""
        with self._lock:
            self._refusals, self._refusal = self._refusals + 1, line

    def record(self, stage: str, ns: int) -> None:
        """Note that `stage` (one of `STAGES`) took `ns` nanoseconds. O(1), allocates nothing that grows.

        A time below 0 or above `LONGEST_NS` is left out: capture stamps are made by strangers.
        Raises `ValueError` for an unknown stage.
        """
        window = self._stages.get(stage)
        if window is None:
            raise ValueError(f"stage: got {stage!r}; send one of {', '.join(STAGES)}")
        if not 0 <= ns <= LONGEST_NS:
            return
        at_ns = now_ns()
        with self._lock:
            window.add(ns, at_ns)

    def count(self, counter: str, n: int = 1) -> None:
        """Add `n` to `counter` (one of `COUNTERS`); frames_in and frames_out feed the frame rates too. O(1).

        Raises `ValueError` for an unknown counter.
        """
        if counter not in self._counters:
            raise ValueError(f"counter: got {counter!r}; send one of {', '.join(COUNTERS)}")
        arrivals = self._arrivals.get(counter)
        at_ns = now_ns()
        with self._lock:
            self._counters[counter] += n
            if arrivals is not None:
                for _ in range(n):
                    arrivals.add(1, at_ns)

    def counter(self, name: str) -> int:
        """The present value of one of `COUNTERS`."""
        return self._counters[name]

    def snapshot(self, last_s: float | None = None) -> dict[str, Any]:
        """Everything at this moment, as plain JSON-able values.

        last_s: only times recorded in the last so many seconds count for the percentiles; None: the whole window.

        Keys: `fps` and `fps_in` (frames per second out and in over the last `RATE_WINDOW_S` seconds), `p50_ms`,
        `p95_ms`, `p99_ms` (capture to publish; None before the first frame), `frames_in`, `frames_out`, `dropped`,
        `skipped`, `refused` and `last_refused` (lines about refused OSC messages: how many, and the newest),
        `uptime_s`, `peak_memory_mb` (MiB, None where the system does not say) and `stages`, one
        {"count", "p50_ms", "p95_ms", "p99_ms"} per stage, where count is the number of times recorded since the start.
        """
        at_ns = now_ns()
        oldest_ns = -1 if last_s is None else at_ns - round(last_s * 1e9)
        rate_from_ns = at_ns - round(RATE_WINDOW_S * 1e9)
        with self._lock:
            stages = {name: (w.count, w.since(oldest_ns)[0]) for name, w in self._stages.items()}
            counters = dict(self._counters)
            arrivals = {name: w.since(rate_from_ns)[1] for name, w in self._arrivals.items()}
            refused = {"refused": self._refusals, "last_refused": self._refusal}
        tables = {name: {"count": count, **_percentiles_ms(values)} for name, (count, values) in stages.items()}
        latency = tables["capture_to_publish"]
        return {
            "fps": _rate_hz(arrivals["frames_out"], at_ns),
            "fps_in": _rate_hz(arrivals["frames_in"], at_ns),
            **{f"p{q}_ms": latency[f"p{q}_ms"] for q in PERCENTILES},
            **counters,
            **refused,
            "uptime_s": round((at_ns - self._started_ns) / 1e9, 3),
            "peak_memory_mb": peak_memory_mb(),
            "stages": tables,
        }


def _rate_hz(times_ns: list[int], at_ns: int) -> float:
    # Up to now and not up to the last arrival, so that the rate falls as soon as frames stop coming.
    if len(times_ns) < 2 or at_ns <= times_ns[0]:
        return 0.0
    return round((len(times_ns) - 1) * 1e9 / (at_ns - times_ns[0]), 2)


def peak_memory_mb() -> float | None:
    """The largest resident size this process ever had, in MiB; None where the system does not say."""
    if sys.platform == "linux":
        # VmHWM starts afresh at exec; getrusage's figure would inherit the size of the process that started us.
        try:
            with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
                for line in status:
                    if line.startswith("VmHWM:"):
                        return round(int(line.split()[1]) / 1024.0, 1)
        except OSError:
            return None
        return None
    if sys.platform == "win32":
        return _peak_memory_mb_windows()
    import resource

    # macOS counts bytes, the BSDs kibibytes.
    unit = 1024.0 * 1024.0 if sys.platform == "darwin" else 1024.0
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


class _ProcessMemoryCounters(ctypes.Structure):
    # PROCESS_MEMORY_COUNTERS of psapi.h
    _fields_ = [
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("QuotaPeakPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPeakNonPagedPoolUsage", ctypes.c_size_t),
        ("QuotaNonPagedPoolUsage", ctypes.c_size_t),
        ("PagefileUsage", ctypes.c_size_t),
        ("PeakPagefileUsage", ctypes.c_size_t),
    ]


def _peak_memory_mb_windows() -> float | None:
    if sys.platform != "win32":
        return None
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    kernel32.K32GetProcessMemoryInfo.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(_ProcessMemoryCounters),
        ctypes.c_uint32,
    ]
    counters = _ProcessMemoryCounters()
    counters.cb = ctypes.sizeof(counters)
    if not kernel32.K32GetProcessMemoryInfo(kernel32.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
        return None
    return round(counters.PeakWorkingSetSize / (1024.0 * 1024.0), 1)

"""Memory fences and sleeping until a word changes: futex on Linux, named events on Windows, bounded naps elsewhere.

A wake-up is a hint. Every wait has a timeout and nothing here spins. The Windows branch uses documented interfaces only
and is not run by this project's tests.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from bridge.ring.files import access_error
from bridge.ring.segment import Mapping

_FUTEX_WAIT = 0
_FUTEX_WAKE = 1
_WAIT_TIMEOUT = 258
_FUTEX_NUMBERS = {
    "x86_64": 202,
    "aarch64": 98,
    "riscv64": 98,
    "loongarch64": 98,
    "ppc64le": 221,
}
"""Number of the futex call per 64-bit little-endian Linux architecture."""

STRONG = platform.machine().lower() in ("x86_64", "amd64")
"""Whether the processor keeps the order of loads among each other and of stores among each other (x86). Only a store
followed by a load needs a fence there, and `fence` is a full one."""


def fence() -> tuple[Callable[[], object], Callable[[], object]]:
    """Two calls that, made in this order, order what lies before them before what lies after them.

    CPython offers no fence, so a lock that nobody else knows is released and taken again. On x86 both are locked
    instructions, that is full fences. On aarch64 they are a store-release followed by a load-acquire, which that
    architecture keeps in order with each other. Loads and stores of
    aligned words by memoryview are single instructions on both. Two bare calls instead of one function, because a
    Python call costs more than both. For one thread at a time.
    """
    lock = threading.Lock()
    lock.acquire()
    return lock.release, lock.acquire


class Wake(Protocol):
    """Sleep on one 32-bit word of a segment, and wake those who do."""

    def wait(self, expected: int, timeout_s: float) -> bool | None:
        """Sleep until the word may differ from `expected`, at most `timeout_s` seconds. May return early.

        True: somebody woke us; False: nobody did until the end; None: neither is known.
        """

    def wake(self) -> None:
        """Wake every sleeper."""


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_int64), ("tv_nsec", ctypes.c_int64))


if sys.platform == "linux":

    @functools.cache
    def _syscalls() -> tuple[ctypes._NamedFuncPointer, ctypes._NamedFuncPointer]:
        """libc's `syscall`, releasing the interpreter lock (to sleep) and keeping it (to wake, which is short)."""
        # The remaining arguments of the call are not looked at for these two operations.
        sleeping = ctypes.CDLL(None, use_errno=True).syscall
        sleeping.restype = ctypes.c_long
        sleeping.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)
        waking = ctypes.PyDLL(None).syscall
        waking.restype = ctypes.c_long
        waking.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
        return sleeping, waking

    class Futex:
        """The word itself is the wait queue; works between processes because the mapping is shared."""

        def __init__(self, mapping: Mapping, word: int) -> None:
            self._word = ctypes.c_uint32.from_buffer(mapping.memory, word * 4)
            self._address = ctypes.addressof(self._word)
            self._number = _FUTEX_NUMBERS[platform.machine()]
            self._sleep, self._wake = _syscalls()
            self._timeout = _Timespec()
            self._timeout_at = ctypes.addressof(self._timeout)

        def wait(self, expected: int, timeout_s: float) -> bool | None:
            ns = int(timeout_s * 1e9)
            self._timeout.tv_sec, self._timeout.tv_nsec = divmod(ns, 1_000_000_000)
            # The kernel compares the word after a full barrier, so a change between the caller's last look and here
            # returns at once. Interrupted, changed and timed out all mean: look again.
            if self._sleep(self._number, self._address, _FUTEX_WAIT, expected, self._timeout_at) == 0:
                return True
            return False if ctypes.get_errno() == errno.ETIMEDOUT else None

        def wake(self) -> None:
            self._wake(self._number, self._address, _FUTEX_WAKE, 0x7FFFFFFF)


class Naps:
    """Bounded polling: look at the word after 1 ms, then ever later, at most every 10 ms."""

    def __init__(self, mapping: Mapping, word: int) -> None:
        self._mapping = mapping
        self._word = word

    def wait(self, expected: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        nap_s = 0.001
        while self._mapping.whole() and self._mapping.u32[self._word] == expected:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(nap_s, left_s))
            nap_s = min(0.01, nap_s * 1.5)

    def wake(self) -> None:
        """Nothing to do: sleepers look by themselves."""


if sys.platform == "win32":

    @functools.cache
    def _kernel32() -> ctypes.WinDLL:
        dll = ctypes.WinDLL("kernel32", use_last_error=True)
        dll.CreateEventW.restype = ctypes.c_void_p
        dll.CreateEventW.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_wchar_p)
        dll.WaitForSingleObject.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        dll.SetEvent.argtypes = (ctypes.c_void_p,)
        dll.CloseHandle.argtypes = (ctypes.c_void_p,)
        return dll

    class NamedEvent:
        """One auto-reset event per sleeper. It stays set until somebody sleeps, so a wake-up is never lost."""

        def __init__(self, name: str) -> None:
            self._handle = _kernel32().CreateEventW(None, 0, 0, name)
            if not self._handle:
                raise access_error(name, ctypes.WinError(ctypes.get_last_error()))

        def wait(self, expected: int, timeout_s: float) -> bool | None:
            return {0: True, _WAIT_TIMEOUT: False}.get(
                _kernel32().WaitForSingleObject(self._handle, max(1, int(timeout_s * 1000)))
            )

        def wake(self) -> None:
            _kernel32().SetEvent(self._handle)

        def __del__(self) -> None:
            if self._handle:
                _kernel32().CloseHandle(self._handle)


def wake_for(mapping: Mapping, word: int, event_name: str | None) -> Wake:
    """The best way to sleep on 32-bit word number `word` on this system.

    `event_name` names the sleeper's own event on Windows; without one (file-backed rings) the sleeper naps there.
    """
    if sys.platform == "linux" and platform.machine() in _FUTEX_NUMBERS:
        return Futex(mapping, word)
    if sys.platform == "win32" and event_name is not None:
        return NamedEvent(event_name)
    return Naps(mapping, word)

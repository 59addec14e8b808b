"""Liveness: locks that the operating system takes back when a process dies, and that others test without blocking.

Linux uses open-file-description byte locks (one file holds many, and a test takes nothing); other POSIX systems
`flock` on one file per lock; Windows the existence of a named mutex, or a byte lock where the ring is file-backed.
Only the Linux and the `flock` branches are run by this project's tests. Knows nothing about rings.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import struct
import sys
import time
import weakref
from typing import Protocol

from bridge.ring.errors import AccessDenied, NotARing
from bridge.ring.files import access_error, open_file

if sys.platform != "win32":
    import fcntl

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = struct.Struct("@hhqqi4x")

RETRY_S = 0.25
"""A tester without a non-taking test holds the lock for a moment, so a refusal counts only after this long."""


class Lock(Protocol):
    """One lock. A lock held by a dead process is free.

    The methods raise AccessDenied for a file that is another user's or no file, and OutOfResources.
    """

    held: bool

    def acquire(self) -> bool:
        """Take the lock; False when somebody else holds it."""

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""

    def remove(self) -> None:
        """Give the lock back and leave nothing of it behind; harmless when it is not held."""

    def current(self) -> bool:
        """Whether others still meet this lock: False once somebody else removed or replaced its file."""

    def taken_elsewhere(self) -> bool:
        """Whether another holder is alive. Never blocks, never keeps the lock."""


def acquire_patiently(lock: Lock) -> bool:
    """Take the lock, looking again for `RETRY_S` so that a passing test does not count as an owner."""
    deadline = time.monotonic() + RETRY_S
    while not lock.acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


if sys.platform != "win32":
    _held_fds: weakref.WeakSet[_FileLock] = weakref.WeakSet()

    def _let_go_in_child() -> None:
        # Both kinds of lock belong to the open file, which a forked child shares: without this the child would
        # keep its dead parent's lock alive.
        for lock in list(_held_fds):
            lock.abandon()

    @functools.cache
    def _watch_forks() -> None:
        os.register_at_fork(after_in_child=_let_go_in_child)

    class _FileLock:
        """A descriptor of its own, never handed to a mapping: `mmap` duplicates descriptors and so shares locks.

        The owner of a lock may delete its file in leaving, so a lock counts only while its file is the one of that
        name: whoever gets a lock, or finds one free, looks whether the name still leads there, and else starts over.
        """

        def __init__(self, path: str, offset: int = 0, create: bool = True) -> None:
            self.path = path
            self.held = False
            self._offset = offset
            self._create = create
            self._fd = -1
            if not create:
                self._open(False)

        def _open(self, create: bool) -> bool:
            """Open the file of that name; False when there is none and none is to be made."""
            self.abandon()
            try:
                self._fd = open_file(self.path, os.O_RDWR | (os.O_CREAT if create else 0))
            except FileNotFoundError:
                if not self._create:
                    raise
                return False
            except NotARing as error:
                raise AccessDenied(str(error)) from error
            return True

        def current(self) -> bool:
            if not self._create:
                return True
            try:
                return os.path.samestat(os.fstat(self._fd), os.stat(self.path))
            except OSError:
                return False

        def _try(self) -> bool:
            raise NotImplementedError

        def _give(self) -> None:
            raise NotImplementedError

        def _tested(self) -> bool:
            """Whether another open file holds the lock."""
            raise NotImplementedError

        def acquire(self) -> bool:
            _watch_forks()
            while True:
                if self._fd < 0:
                    self._open(self._create)
                if not self._try():
                    return False
                if self.current():
                    self.held = True
                    _held_fds.add(self)
                    return True
                self._open(self._create)

        def release(self) -> None:
            if self.held:
                self._give()
                self.held = False

        def remove(self) -> None:
            """Give the lock back and delete its file, so that nothing is left of an orderly end."""
            if self.held:
                # Somebody who cleaned up by hand may have made room for another holder, whose file stays.
                if self.current():
                    with contextlib.suppress(OSError):
                        os.unlink(self.path)
                self.release()

        def taken_elsewhere(self) -> bool:
            if self.held:
                return False
            if self._fd >= 0 and self._tested():
                return True
            # Free, or a file that is no longer the one of this name.
            if self._fd < 0 or not self.current():
                return self._open(False) and self._tested()
            return False

        def abandon(self) -> None:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            self.held = False

        def __del__(self) -> None:
            self.abandon()

    class ByteLock(_FileLock):
        """Linux: one byte of a file, by open-file-description lock."""

        def _request(self, command: int, kind: int) -> int:
            """The kind of lock that the kernel answers with."""
            request = _FLOCK.pack(kind, os.SEEK_SET, self._offset, 1, 0)
            return int(_FLOCK.unpack(fcntl.fcntl(self._fd, command, request))[0])

        def _try(self) -> bool:
            try:
                self._request(fcntl.F_OFD_SETLK, fcntl.F_WRLCK)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    return False
                raise access_error(self.path, error) from error
            return True

        def _give(self) -> None:
            self._request(fcntl.F_OFD_SETLK, fcntl.F_UNLCK)

        def _tested(self) -> bool:
            return self._request(fcntl.F_OFD_GETLK, fcntl.F_WRLCK) != fcntl.F_UNLCK

    class WholeFileLock(_FileLock):
        """Other POSIX systems: `flock` on a file of its own."""

        def _try(self) -> bool:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        def _give(self) -> None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

        def _tested(self) -> bool:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            return False

else:
    import ctypes
    import msvcrt

    _ERROR_ALREADY_EXISTS = 183
    _SYNCHRONIZE = 0x00100000

    @functools.cache
    def _kernel32() -> ctypes.WinDLL:
        dll = ctypes.WinDLL("kernel32", use_last_error=True)
        dll.CreateMutexW.restype = ctypes.c_void_p
        dll.CreateMutexW.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_wchar_p)
        dll.OpenMutexW.restype = ctypes.c_void_p
        dll.OpenMutexW.argtypes = (ctypes.c_uint32, ctypes.c_int, ctypes.c_wchar_p)
        dll.CloseHandle.argtypes = (ctypes.c_void_p,)
        return dll

    class NamedMutex:
        """Windows: alive while the mutex of this name exists.

        Ownership of a mutex belongs to a thread, its existence to the process: the handle is the lock.
        """

        def __init__(self, name: str) -> None:
            self._name = name
            self._handle: int | None = None
            self.held = False

        def acquire(self) -> bool:
            handle = _kernel32().CreateMutexW(None, 0, self._name)
            if not handle:
                raise access_error(self._name, ctypes.WinError(ctypes.get_last_error()))
            if ctypes.get_last_error() == _ERROR_ALREADY_EXISTS:
                _kernel32().CloseHandle(handle)
                return False
            self._handle = handle
            self.held = True
            return True

        def release(self) -> None:
            if self._handle is not None:
                _kernel32().CloseHandle(self._handle)
                self._handle = None
                self.held = False

        def remove(self) -> None:
            self.release()

        def current(self) -> bool:
            return True

        def taken_elsewhere(self) -> bool:
            if self.held:
                return False
            handle = _kernel32().OpenMutexW(_SYNCHRONIZE, 0, self._name)
            if not handle:
                return False
            _kernel32().CloseHandle(handle)
            return True

        def __del__(self) -> None:
            self.release()

    class LockedByte:
        """Windows, file-backed rings: byte 0 of a file of its own."""

        def __init__(self, path: str) -> None:
            self._fd = -1
            self._fd = open_file(path, os.O_RDWR | os.O_CREAT)
            self.held = False

        def acquire(self) -> bool:
            os.lseek(self._fd, 0, os.SEEK_SET)
            try:
                msvcrt.locking(self._fd, msvcrt.LK_NBLCK, 1)
            except OSError:
                return False
            self.held = True
            return True

        def release(self) -> None:
            if self.held:
                os.lseek(self._fd, 0, os.SEEK_SET)
                msvcrt.locking(self._fd, msvcrt.LK_UNLCK, 1)
                self.held = False

        def remove(self) -> None:
            # An open file cannot be deleted here; it is empty and stays.
            self.release()

        def current(self) -> bool:
            return True

        def taken_elsewhere(self) -> bool:
            if self.held:
                return False
            if not self.acquire():
                return True
            self.release()
            return False

        def __del__(self) -> None:
            if self._fd >= 0:
                os.close(self._fd)

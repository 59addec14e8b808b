"""Shared memory and mutexes of other programs, by the names that those programs give them.

Windows: named sections and mutexes. Linux: files in /dev/shm, where POSIX shared memory has them, and a byte lock on a
file there in the place of a mutex. macOS: neither can be reached by name from Python, so these adaptors refuse there.
The Windows branch uses documented interfaces only and is not run by this project's tests.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
import time
from typing import Protocol

import numpy as np

from bridge.interop.adaptor import AdaptorError, Array

MAX_NAME_CHARS = 200
_NAP_S = 0.0005


class AlreadyThere(AdaptorError):
    """Shared memory of this name exists and is somebody's."""


class NamedMemory(Protocol):
    """One mapped piece of memory: `bytes` is a uint8 array on it, of one dimension. Keep no views of it."""

    bytes: Array

    def current(self) -> bool:
        """False when touching it could kill us or when the name leads to another one by now."""

    def close(self) -> None:
        """Unmap it. Nothing may refer to `bytes` any more."""

    def remove(self) -> None:
        """Unmap it and take the name away, where names outlive their users."""


class NamedLock(Protocol):
    """A mutex between processes. Take and give it in one thread."""

    def take(self, timeout_s: float) -> bool:
        """False when somebody held it all the time. A dead holder's mutex is taken."""

    def give(self) -> None: ...

    def close(self) -> None: ...

    def remove(self) -> None: ...


def check_name(name: str) -> str:
    """The name, if it can be one on this system. Raises AdaptorError."""
    if sys.platform not in ("linux", "win32"):
        raise AdaptorError(
            "shared memory of other programs cannot be reached by name on this system; "
            "use the TouchDesigner component, which writes rings"
        )
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable() or set(name) & set("/\\\0") or name[0] == ".":
        raise AdaptorError(
            f"shared memory {name[:60]!r}: use a name of 1 to {MAX_NAME_CHARS} characters without slashes"
        )
    return name


if sys.platform == "win32":
    import ctypes

    _ALL_ACCESS = 0x000F001F
    _PAGE_READWRITE = 4
    _INVALID_HANDLE = ctypes.c_void_p(-1)
    _ERROR_ALREADY_EXISTS = 183
    _WAIT_GOT = (0x00, 0x80)
    """WAIT_OBJECT_0, and WAIT_ABANDONED: the holder died, the mutex is ours."""

    class _MemoryBasicInformation(ctypes.Structure):
        # MEMORY_BASIC_INFORMATION of winnt.h
        _fields_ = [
            ("BaseAddress", ctypes.c_void_p),
            ("AllocationBase", ctypes.c_void_p),
            ("AllocationProtect", ctypes.c_uint32),
            ("PartitionId", ctypes.c_uint16),
            ("RegionSize", ctypes.c_size_t),
            ("State", ctypes.c_uint32),
            ("Protect", ctypes.c_uint32),
            ("Type", ctypes.c_uint32),
        ]

    def _library() -> ctypes.WinDLL:
        dll = ctypes.WinDLL("kernel32", use_last_error=True)
        dll.CreateFileMappingW.restype = ctypes.c_void_p
        dll.CreateFileMappingW.argtypes = (
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_uint32,
            ctypes.c_uint32,
            ctypes.c_wchar_p,
        )
        dll.OpenFileMappingW.restype = ctypes.c_void_p
        dll.OpenFileMappingW.argtypes = (ctypes.c_uint32, ctypes.c_int, ctypes.c_wchar_p)
        dll.MapViewOfFile.restype = ctypes.c_void_p
        dll.MapViewOfFile.argtypes = (
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_uint32,
            ctypes.c_uint32,
            ctypes.c_size_t,
        )
        dll.UnmapViewOfFile.argtypes = (ctypes.c_void_p,)
        dll.VirtualQuery.restype = ctypes.c_size_t
        dll.VirtualQuery.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        dll.CreateMutexW.restype = ctypes.c_void_p
        dll.CreateMutexW.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_wchar_p)
        dll.WaitForSingleObject.restype = ctypes.c_uint32
        dll.WaitForSingleObject.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        dll.ReleaseMutex.argtypes = (ctypes.c_void_p,)
        dll.CloseHandle.argtypes = (ctypes.c_void_p,)
        return dll

    _kernel32 = _library()

    class _Section:
        """A named section. It lives as long as anybody has it open, so its name never leads elsewhere meanwhile."""

        def __init__(self, handle: int, name: str) -> None:
            self._handle = handle
            address = _kernel32.MapViewOfFile(handle, _ALL_ACCESS, 0, 0, 0)
            if not address:
                error = ctypes.WinError(ctypes.get_last_error())
                _kernel32.CloseHandle(handle)
                raise AdaptorError(f"shared memory {name} cannot be mapped: {error}")
            self._address = address
            about = _MemoryBasicInformation()
            _kernel32.VirtualQuery(address, ctypes.byref(about), ctypes.sizeof(about))
            self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * about.RegionSize).from_address(address))

        def current(self) -> bool:
            return self._address != 0

        def close(self) -> None:
            if self._address:
                self.bytes = np.empty(0, np.uint8)
                _kernel32.UnmapViewOfFile(self._address)
                _kernel32.CloseHandle(self._handle)
                self._address = 0

        def remove(self) -> None:
            self.close()

    class _Mutex:
        def __init__(self, name: str) -> None:
            self._handle = _kernel32.CreateMutexW(None, 0, name)
            if not self._handle:
                raise AdaptorError(f"mutex {name} cannot be opened: {ctypes.WinError(ctypes.get_last_error())}")

        def take(self, timeout_s: float) -> bool:
            return _kernel32.WaitForSingleObject(self._handle, round(timeout_s * 1000)) in _WAIT_GOT

        def give(self) -> None:
            _kernel32.ReleaseMutex(self._handle)

        def close(self) -> None:
            if self._handle:
                _kernel32.CloseHandle(self._handle)
                self._handle = None

        def remove(self) -> None:
            self.close()

    def open_memory(name: str) -> NamedMemory | None:
        """Memory that somebody made, or None when there is none of that name. Raises AdaptorError."""
        handle = _kernel32.OpenFileMappingW(_ALL_ACCESS, 0, check_name(name))
        return _Section(handle, name) if handle else None

    def create_memory(name: str, size: int) -> NamedMemory:
        """New memory of at least `size` zero bytes. Raises AlreadyThere, AdaptorError."""
        ctypes.set_last_error(0)
        handle = _kernel32.CreateFileMappingW(
            _INVALID_HANDLE, None, _PAGE_READWRITE, size >> 32, size & 0xFFFFFFFF, check_name(name)
        )
        if not handle:
            raise AdaptorError(f"no shared memory {name} of {size} bytes: {ctypes.WinError(ctypes.get_last_error())}")
        if ctypes.get_last_error() == _ERROR_ALREADY_EXISTS:
            _kernel32.CloseHandle(handle)
            raise AlreadyThere(f"shared memory {name} is somebody's; use another name or end that program")
        return _Section(handle, name)

    def open_lock(name: str) -> NamedLock:
        """The mutex of that name, made when there is none. Raises AdaptorError."""
        return _Mutex(check_name(name))

else:
    from bridge.ring.lock import ByteLock, Lock

    FOLDER = "/dev/shm"

    def _path(name: str) -> str:
        return os.path.join(FOLDER, check_name(name))

    class _File:
        """A file in /dev/shm."""

        def __init__(self, path: str, fd: int, size: int) -> None:
            self.path = path
            self._size = size
            # Unmapped with the last array on it.
            self.bytes = np.frombuffer(mmap.mmap(fd, size), np.uint8)
            self._fd = fd

        def current(self) -> bool:
            if self._fd < 0:
                return False
            ours = os.fstat(self._fd)
            # A name taken away leads nowhere; cut off, the file would answer a touch with SIGBUS.
            return ours.st_nlink > 0 and ours.st_size >= self._size

        def close(self) -> None:
            if self._fd >= 0:
                self.bytes = np.empty(0, np.uint8)
                os.close(self._fd)
                self._fd = -1

        def remove(self) -> None:
            if self.current():
                os.unlink(self.path)
            self.close()

    class _LockFile:
        def __init__(self, path: str) -> None:
            self._path = path
            self._lock: Lock = ByteLock(path)

        def take(self, timeout_s: float) -> bool:
            deadline = time.monotonic() + timeout_s
            try:
                while not self._lock.acquire():
                    if time.monotonic() >= deadline:
                        return False
                    time.sleep(_NAP_S)
            except OSError as error:
                raise AdaptorError(f"{self._path}: {error.strerror}; run both programs as the same user") from error
            return True

        def give(self) -> None:
            self._lock.release()

        def close(self) -> None:
            self._lock.release()

        def remove(self) -> None:
            if self.take(0.0):
                self._lock.remove()

    def open_memory(name: str) -> NamedMemory | None:
        """Memory that somebody made, or None when there is none of that name. Raises AdaptorError."""
        path = _path(name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AdaptorError(f"{path}: {error.strerror}; run both programs as the same user") from error
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_size == 0:
            # Of no size yet: its maker has not come further.
            os.close(fd)
            return None
        try:
            return _File(path, fd, about.st_size)
        except (OSError, ValueError) as error:
            os.close(fd)
            raise AdaptorError(f"{path} cannot be mapped: {error}") from error

    def create_memory(name: str, size: int) -> NamedMemory:
        """New memory of `size` zero bytes. Raises AlreadyThere, AdaptorError."""
        path = _path(name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            raise AlreadyThere(f"{path} is somebody's; use another name or end that program") from None
        except OSError as error:
            raise AdaptorError(f"{path}: {error.strerror}; give another name") from error
        try:
            os.posix_fallocate(fd, 0, size)
            return _File(path, fd, size)
        except (OSError, ValueError) as error:
            os.close(fd)
            os.unlink(path)
            raise AdaptorError(f"no room for {size / 2**20:.1f} MiB in {FOLDER} ({error}); free some") from error

    def open_lock(name: str) -> NamedLock:
        """The lock of that name, made when there is none. Taking it raises AdaptorError where that is not allowed."""
        return _LockFile(_path(name))

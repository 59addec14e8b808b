"""Where a ring's bytes live on each system: names, rendezvous record, creation and mapping of segments.

Linux: files in /dev/shm. macOS: files in the user's temporary directory. Windows: named sections. With an explicit
directory: files there, on every system. The Windows and macOS branches use documented interfaces only and are not run
by this project's tests. Knows the rendezvous record, but nothing of what a segment holds.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import secrets
import sys
import time
from dataclasses import dataclass

from bridge.ring import lock
from bridge.ring.errors import (
    InvalidChannel,
    MalformedHeader,
    NoSpace,
    NotARing,
    TruncatedSegment,
    VersionMismatch,
)
from bridge.ring.files import access_error, open_file
from bridge.ring.layout import (
    MAX_CHANNEL_BYTES,
    PAGE,
    READER_ENTRIES,
    RECORD,
    RECORD_MAGIC,
    VERSION,
    VERSION_MAJOR,
    WRITER_LOCK_OFFSET,
)

_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

if sys.platform == "win32":
    import ctypes

    _FILE_MAP_ALL_ACCESS = 0x000F001F

    def _user() -> str:
        name = ctypes.create_unicode_buffer(257)
        length = ctypes.c_uint32(257)
        if not ctypes.WinDLL("advapi32").GetUserNameW(name, ctypes.byref(length)):
            raise ctypes.WinError()
        return re.sub(r"[^A-Za-z0-9]", "_", name.value)

    def _home() -> str:
        folder = os.path.join(os.environ["LOCALAPPDATA"], "frameloom")
        os.makedirs(folder, exist_ok=True)
        return folder

else:

    def _user() -> str:
        return str(os.getuid())

    def _home() -> str:
        return "/dev/shm" if sys.platform == "linux" else os.environ.get("TMPDIR") or "/tmp"


@dataclass(frozen=True)
class Placement:
    """The names of one channel: `folder`/`prefix` + suffix for files, `prefix` in the names of Windows objects."""

    folder: str
    prefix: str
    named_section: bool

    @property
    def record_path(self) -> str:
        return os.path.join(self.folder, self.prefix + ".ring")

    @property
    def lock_path(self) -> str:
        return os.path.join(self.folder, self.prefix + ".lock")

    def segment_name(self, generation: int) -> str:
        return f"{self.prefix}-{generation:016x}"

    def segment_path(self, generation: int) -> str:
        return os.path.join(self.folder, self.segment_name(generation) + ".seg")

    def event_name(self, generation: int, who: str) -> str | None:
        """Name of the Windows event on which `who` ("r0" to "r15" or "writer") sleeps; None where there are none."""
        return f"Local\\{self.segment_name(generation)}-{who}-wake" if self.named_section else None

    def writer_lock(self) -> lock.Lock:
        """The lock that the writer of this channel holds while it lives."""
        path = self.lock_path
        if sys.platform == "win32":
            return lock.NamedMutex(f"Local\\{self.prefix}-writer") if self.named_section else lock.LockedByte(path)
        return lock.ByteLock(path) if sys.platform == "linux" else lock.WholeFileLock(path)

    def generation_lock(self, generation: int) -> lock.Lock:
        """The lock that the writer of this generation holds while it lives.

        Raises FileNotFoundError on Linux when the generation's file is gone.
        """
        return self._lock_in(generation, "w", "writer", WRITER_LOCK_OFFSET)

    def reader_lock(self, generation: int, index: int, offset: int) -> lock.Lock:
        """The lock that the owner of reader entry `index` (at byte `offset` of the segment) holds.

        Raises FileNotFoundError on Linux when the generation's file is gone.
        """
        return self._lock_in(generation, f"r{index}", f"r{index}", offset)

    def _lock_in(self, generation: int, ending: str, name: str, offset: int) -> lock.Lock:
        if sys.platform == "win32" and self.named_section:
            return lock.NamedMutex(f"Local\\{self.segment_name(generation)}-{name}")
        path = self.segment_path(generation)
        if sys.platform == "linux":
            return lock.ByteLock(path, offset, create=False)
        path = f"{path}.{ending}"
        return lock.LockedByte(path) if sys.platform == "win32" else lock.WholeFileLock(path)

    def lock_of_writer(self, pointer: Pointer) -> lock.Lock:
        """The lock that tells whether the writer of what a record points to lives.

        Raises FileNotFoundError on Linux when the generation's file is gone.
        """
        # Version 1.0 knew the lock of the channel only, which the next writer of a dead ring holds, too.
        return self.generation_lock(pointer.generation) if pointer.minor >= 1 else self.writer_lock()


def check_name(channel: str) -> None:
    """Raises InvalidChannel for a name that is empty, longer than 48 bytes or with other characters than letters,
    digits, dot, dash and underscore."""
    if len(channel) > MAX_CHANNEL_BYTES or not _CHANNEL.fullmatch(channel):
        raise InvalidChannel(
            f"channel {channel[:60]!r}: use 1 to {MAX_CHANNEL_BYTES} letters, digits, dots, dashes or underscores, "
            "the first a letter or digit"
        )


def place(channel: str, directory: str | os.PathLike[str] | None = None) -> Placement:
    """The names of `channel`. An explicit `directory` makes a file-backed ring there, without a user id in its names.

    Raises InvalidChannel as `check_name` does.
    """
    check_name(channel)
    if sys.byteorder != "little":
        raise NotARing("rings are little-endian; this machine is not, use a network transport instead")
    if directory is not None:
        return Placement(os.fspath(directory), f"frameloom-{channel}", False)
    return Placement(_home(), f"frameloom-{_user()}-{channel}", sys.platform == "win32")


@dataclass(frozen=True)
class Pointer:
    """What the rendezvous record says; `minor` is the minor version of the segment."""

    generation: int
    segment_size: int
    writer_pid: int
    minor: int


def read_pointer(placement: Placement) -> Pointer | None:
    """The rendezvous record, or None when there is none.

    Raises NotARing, VersionMismatch, TruncatedSegment or MalformedHeader for a damaged record, AccessDenied for
    somebody else's, OutOfResources.
    """
    path = placement.record_path
    try:
        with open(open_file(path, os.O_RDONLY), "rb") as file:
            data = file.read(PAGE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise access_error(path, error) from error
    if data[: len(RECORD_MAGIC)] != RECORD_MAGIC:
        raise NotARing(f"{path} is not a ring record; remove it and start the writer again")
    if len(data) < RECORD.size:
        raise TruncatedSegment(f"{path} has {len(data)} of {RECORD.size} bytes; remove it and start the writer again")
    values = RECORD.unpack(data)
    check_version(path, values["version"])
    if values["generation"] == 0:
        raise MalformedHeader(f"{path} names generation 0; remove it and start the writer again")
    if values["record_size"] < RECORD.size:
        raise MalformedHeader(f"{path} says it has {values['record_size']} bytes; remove it and start the writer again")
    return Pointer(values["generation"], values["segment_size"], values["writer_pid"], values["version"] & 0xFFFF)


def check_version(what: str, version: int) -> None:
    """Raise VersionMismatch unless the major versions agree."""
    if version >> 16 != VERSION_MAJOR:
        raise VersionMismatch(
            f"{what} speaks ring version {version >> 16}.{version & 0xFFFF}, this program {VERSION_MAJOR}; "
            "run the same major version of frameloom on both sides"
        )


def swing_pointer(placement: Placement, generation: int, segment_size: int, now_ns: int) -> FileIdentity:
    """Point the well-known name at a generation, atomically; returns the identity of the new record."""
    record = RECORD.pack(
        magic=RECORD_MAGIC,
        version=VERSION,
        record_size=RECORD.size,
        generation=generation,
        segment_size=segment_size,
        writer_pid=os.getpid(),
        created_ns=now_ns,
    )
    temporary = f"{placement.record_path}.{generation:016x}.tmp"
    fd = open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(fd, "wb") as file:
            file.write(record)
        identity = identity_of(temporary)
    except OSError as error:
        os.unlink(temporary)
        raise access_error(temporary, error) from error
    for attempt in range(100):
        try:
            os.replace(temporary, placement.record_path)
            return identity
        except OSError as error:
            # Windows refuses to replace a file that a reader has open at this moment.
            if sys.platform != "win32" or attempt == 99:
                os.unlink(temporary)
                raise access_error(placement.record_path, error) from error
            time.sleep(0.005)
    raise AssertionError("the last attempt returns or raises")


FileIdentity = tuple[int, int, int] | None
"""What tells a file from others of its name: device, inode and time of its writing (inodes come again); None: gone."""


def identity_of(path: str) -> FileIdentity:
    """The identity of the file of that name now. Needs no descriptor."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def remove_leftovers(placement: Placement, keep: int = 0) -> int:
    """Delete files of generations other than `keep`; only the holder of the writer lock may. Returns their number."""
    pattern = re.compile(
        re.escape(placement.prefix)
        + r"(-(?P<generation>[0-9a-f]{16})\.seg(\.w|\.r\d+|\.sharedarray)?|\.ring\.[0-9a-f]{16}\.tmp)"
    )
    removed = 0
    # Without a descriptor for the folder they stay until the next start.
    with contextlib.suppress(OSError):
        for entry in os.scandir(placement.folder):
            found = pattern.fullmatch(entry.name)
            if found and (found["generation"] is None or int(found["generation"], 16) != keep):
                # A mapped file cannot be deleted on Windows; the next start gets it.
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
                    removed += 1
    return removed


def remove_generation(placement: Placement, generation: int) -> None:
    """Delete the files of one generation; its name is nobody else's. Needs no descriptor."""
    path = placement.segment_path(generation)
    for name in (path, path + ".w", path + ".sharedarray", *(f"{path}.r{i}" for i in range(READER_ENTRIES))):
        # A mapped file cannot be deleted on Windows; the next start gets it.
        with contextlib.suppress(OSError):
            os.unlink(name)


def remove_pointer(placement: Placement) -> None:
    """Delete the rendezvous record."""
    # Windows refuses while a reader has it open; without its segment the record says nothing, so it may stay.
    with contextlib.suppress(OSError):
        os.unlink(placement.record_path)


def new_generation() -> int:
    """A random 64-bit number, not zero."""
    return secrets.randbits(64) or 1


class Mapping:
    """A mapped segment: the whole as bytes and as 32- and 64-bit words.

    It is unmapped when the last array or memoryview on it is gone, never earlier: nobody pulls memory from under a
    running copy. `size` is the number of bytes mapped.
    """

    def __init__(self, memory: mmap.mmap, fd: int) -> None:
        self.memory = memory
        self.size = len(memory)
        self._fd = fd
        whole = memoryview(memory)
        self.bytes = whole
        words = whole[: self.size // 8 * 8]
        self.u32 = words.cast("I")
        self.u64 = words.cast("Q")

    def whole(self) -> bool:
        """False when somebody cut the file: touching the lost part would kill the process (SIGBUS)."""
        return self._fd < 0 or os.lseek(self._fd, 0, os.SEEK_END) >= self.size

    def close(self) -> None:
        """Close the descriptor. The memory stays mapped as long as something refers to it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


def nothing() -> Mapping:
    """Private memory in the place of a segment that was let go of."""
    return Mapping(mmap.mmap(-1, PAGE), -1)


def _reserve(fd: int, size: int) -> None:
    """Give the file `size` bytes that really exist, so that a full disk is an error here and not a SIGBUS later."""
    if sys.platform == "linux":
        os.posix_fallocate(fd, 0, size)
        return
    zeros = bytes(1 << 20)
    at = 0
    while at < size:
        at += os.write(fd, zeros[: size - at])


def create(placement: Placement, generation: int, size: int) -> Mapping:
    """A new segment of `size` zero bytes, owner only, prefaulted. Raises NoSpace when there is no room for it."""
    if sys.platform == "win32" and placement.named_section:
        try:
            return Mapping(mmap.mmap(-1, size, tagname="Local\\" + placement.segment_name(generation)), -1)
        except OSError as error:
            raise NoSpace(_no_space(placement, size, error)) from error
    path = placement.segment_path(generation)
    fd = open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        _reserve(fd, size)
        if true_size(fd) < size:
            raise OSError(errno.ENOSPC, "its file system reserves no room for files; give another folder")
        return Mapping(_map(fd, size), fd)
    except (OSError, OverflowError) as error:
        os.close(fd)
        os.unlink(path)
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise access_error(path, error) from error
        raise NoSpace(_no_space(placement, size, error)) from error


def _no_space(placement: Placement, size: int, error: Exception) -> str:
    where = "the page file" if placement.named_section else placement.folder
    fix = "free some room there, use fewer slots or smaller frames"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        fix = "raise the file size limit (ulimit -f), use fewer slots or smaller frames"
    return f"no room for a segment of {size / 2**20:.1f} MiB in {where} ({error}); {fix}"


def _map(fd: int, size: int) -> mmap.mmap:
    if sys.platform == "linux":
        # Only memory that exists already: populating a sparse file would allocate it.
        reserved = os.fstat(fd).st_blocks * 512 >= size
        return mmap.mmap(fd, size, mmap.MAP_SHARED | (mmap.MAP_POPULATE if reserved else 0))
    return mmap.mmap(fd, size)


def peek(placement: Placement, pointer: Pointer, count: int) -> tuple[bytes, int, int] | None:
    """The first `count` bytes of a segment, its true size and a descriptor (-1 for a section); None when it is gone.

    Private bytes: what is checked in them cannot change afterwards.
    """
    if sys.platform == "win32" and placement.named_section:
        return _peek_section(placement, pointer, count)
    path = placement.segment_path(pointer.generation)
    try:
        fd = open_file(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        data, size = os.read(fd, count), true_size(fd)
    except OSError as error:
        os.close(fd)
        raise access_error(path, error) from error
    return data, size, fd


def true_size(fd: int) -> int:
    """Bytes of a segment that have memory behind them, from its start.

    A hole does not count on Linux, where every writer reserves its segment: reading one would allocate it, up to the
    death of the process where there is no room.
    """
    status = os.fstat(fd)
    return min(status.st_size, status.st_blocks * 512) if sys.platform == "linux" else status.st_size


if sys.platform == "win32":

    def _peek_section(placement: Placement, pointer: Pointer, count: int) -> tuple[bytes, int, int] | None:
        kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel32.OpenFileMappingW.restype = ctypes.c_void_p
        kernel32.OpenFileMappingW.argtypes = (ctypes.c_uint32, ctypes.c_int, ctypes.c_wchar_p)
        kernel32.CloseHandle.argtypes = (ctypes.c_void_p,)
        name = "Local\\" + placement.segment_name(pointer.generation)
        # mmap with a tag name would create a missing section; holding a handle proves that it exists.
        handle = kernel32.OpenFileMappingW(_FILE_MAP_ALL_ACCESS, 0, name)
        if not handle:
            return None
        try:
            # The system refuses a view that is longer than the section, so this size is a true one.
            section = mmap.mmap(-1, pointer.segment_size, tagname=name)
        except (OSError, ValueError) as error:
            raise TruncatedSegment(f"{name} is shorter than its record says; start the writer again") from error
        finally:
            kernel32.CloseHandle(handle)
        with section:
            return section[:count], pointer.segment_size, -1

else:

    def _peek_section(placement: Placement, pointer: Pointer, count: int) -> tuple[bytes, int, int] | None:
        raise AssertionError("named sections exist on Windows only")


def attach(placement: Placement, pointer: Pointer, size: int, fd: int) -> Mapping:
    """Map `size` bytes (checked by the caller against the true size) of a segment that was peeked at; owns `fd`."""
    if sys.platform == "win32" and placement.named_section:
        return Mapping(mmap.mmap(-1, size, tagname="Local\\" + placement.segment_name(pointer.generation)), -1)
    try:
        return Mapping(_map(fd, size), fd)
    except (OSError, ValueError, OverflowError) as error:
        os.close(fd)
        what = placement.segment_path(pointer.generation)
        if isinstance(error, ValueError):
            raise TruncatedSegment(f"{what} was cut by somebody; start the writer again") from error
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise access_error(what, error) from error
        raise NoSpace(f"{what}: {size} bytes cannot be mapped ({error}); close other programs") from error

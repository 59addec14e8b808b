"""Opening a ring's files: never through links, never waiting, only plain files of this user or root, errors by type.

In a shared folder anybody may plant a name. What somebody else planted is refused, not used. Knows nothing about rings.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from bridge.ring.errors import AccessDenied, NoSpace, NotARing, OutOfResources, RingError

if sys.platform == "win32":
    _ALWAYS = os.O_BINARY | os.O_NOINHERIT
else:
    # A planted pipe would hold an open up for ever, a planted link would lead it elsewhere.
    _ALWAYS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_file(path: str, flags: int) -> int:
    """A descriptor of a plain file that belongs to this user or to root; files are created for their owner only.

    Raises FileNotFoundError (unless `flags` create it), and AccessDenied, NotARing, NoSpace or OutOfResources with what
    to do.
    """
    try:
        fd = os.open(path, flags | _ALWAYS, 0o600)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not flags & os.O_CREAT:
            raise
        raise access_error(path, error) from error
    try:
        check_file(path, os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_file(path: str, status: os.stat_result) -> None:
    """Raise NotARing for what is no plain file and AccessDenied for another user's."""
    if not stat.S_ISREG(status.st_mode):
        raise NotARing(f"{path} is not a file; remove it and start the writer again")
    if sys.platform != "win32" and status.st_uid not in (os.getuid(), 0):
        raise AccessDenied(f"{path}: belongs to user id {status.st_uid}; ask for its removal or use another channel")


def access_error(path: str, error: OSError) -> RingError:
    """The error to raise for a failed operation on a file, with what to do."""
    if isinstance(error, RingError):
        return error
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return AccessDenied(f"{path}: {error.strerror}; make the folder first or give an existing one")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path}: {error.strerror}; free some room in {os.path.dirname(path)}")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return OutOfResources(f"{path}: {error.strerror}; close some files or raise the limit (ulimit -n)")
    if error.errno == errno.ENXIO:
        # A socket; a pipe that nobody reads says so, too.
        return NotARing(f"{path} is not a file; remove it and start the writer again")
    return AccessDenied(f"{path}: {error.strerror}; run as the user who owns it, or remove it, or use another channel")

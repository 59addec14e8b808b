"""Everything that can go wrong with a ring, as types. Every message says how to fix it."""

from __future__ import annotations


class RingError(Exception):
    """Any failure of a ring."""


class InvalidChannel(RingError, ValueError):
    """The channel name cannot be part of a file name."""


class NotARing(RingError):
    """What lies under the ring's name is something else."""


class VersionMismatch(RingError):
    """Writer and reader speak different major versions."""


class TruncatedSegment(RingError):
    """The segment is shorter than its header says."""


class MalformedHeader(RingError):
    """A header field contradicts the mapped size or the protocol."""


class MalformedSlot(RingError):
    """A published slot describes planes that cannot be inside it."""


class WriterExists(RingError):
    """Another live process writes this channel."""


class ReaderExists(RingError):
    """The channel already has its one lossless reader."""


class NoSpace(RingError):
    """Shared memory is full, or a size limit of the process forbids the segment."""


class OutOfResources(RingError):
    """The process has no file descriptor or no memory left for this; nothing was lost, the next call tries again."""


class FrameTooLarge(RingError, ValueError):
    """The frame is beyond the largest capacity that this writer may grow to."""


class InvalidFrame(RingError, ValueError):
    """The planes given cannot be a frame: empty, of unknown type or shape."""


class BufferMismatch(RingError, ValueError):
    """The caller's buffer cannot take the colour plane; the frame is not consumed."""


class ReaderTimeout(RingError):
    """The lossless reader did not free a slot in time."""


class RingClosed(RingError):
    """The object was closed, or belongs to a parent process."""


class AccessDenied(RingError, PermissionError):
    """The ring's files belong to somebody else or cannot be opened."""

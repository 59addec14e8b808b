"""The ring: frames between processes through shared memory, newest first (PROTOCOL.md, version 1).

    with RingWriter("stage.in") as writer:
        writer.write({Kind.COLOUR: pixels})

    reader = RingReader("stage.in")
    frame = reader.read(timeout_s=1.0)

Standard library and numpy only.
"""

from bridge.ring.clock import now_ns
from bridge.ring.errors import (
    AccessDenied,
    BufferMismatch,
    FrameTooLarge,
    InvalidChannel,
    InvalidFrame,
    MalformedHeader,
    MalformedSlot,
    NoSpace,
    NotARing,
    OutOfResources,
    ReaderExists,
    ReaderTimeout,
    RingClosed,
    RingError,
    TruncatedSegment,
    VersionMismatch,
    WriterExists,
)
from bridge.ring.header import Frame, State
from bridge.ring.layout import ColourSpace, Format, Kind, Origin, Policy, SlotFlag
from bridge.ring.reader import RingReader
from bridge.ring.slot import PlaneSpec
from bridge.ring.writer import RingWriter, SlotInHand

__all__ = [
    "AccessDenied",
    "BufferMismatch",
    "ColourSpace",
    "Format",
    "Frame",
    "FrameTooLarge",
    "InvalidChannel",
    "InvalidFrame",
    "Kind",
    "MalformedHeader",
    "MalformedSlot",
    "NoSpace",
    "NotARing",
    "Origin",
    "OutOfResources",
    "PlaneSpec",
    "Policy",
    "ReaderExists",
    "ReaderTimeout",
    "RingClosed",
    "RingError",
    "RingReader",
    "RingWriter",
    "SlotFlag",
    "SlotInHand",
    "State",
    "TruncatedSegment",
    "VersionMismatch",
    "WriterExists",
    "now_ns",
]

"""OSC 1.0 datagrams: encoding and decoding. Knows nothing of sockets or of what the addresses mean."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

Message = tuple[str, list[Any]]
"""Address and arguments."""

_IMMEDIATELY = b"\0\0\0\0\0\0\0\1"
_NUMBERS = {"i": ">i", "f": ">f", "h": ">q", "d": ">d"}
_CONSTANTS: dict[str, Any] = {"T": True, "F": False, "N": None}


def _padded(text: str) -> bytes:
    data = text.encode() + b"\0"
    return data + bytes(-len(data) % 4)


def encode(address: str, *values: Any) -> bytes:
    """One message. Takes bool, int (64-bit), float (as double) and str; raises TypeError for anything else."""
    tags, data = ",", b""
    for value in values:
        if isinstance(value, bool):
            tags += "T" if value else "F"
        elif isinstance(value, int):
            tag = "i" if -(2**31) <= value < 2**31 else "h"
            tags += tag
            data += struct.pack(_NUMBERS[tag], value)
        elif isinstance(value, float):
            tags += "d"
            data += struct.pack(">d", value)
        elif isinstance(value, str):
            tags += "s"
            data += _padded(value.replace("\0", " "))
        else:
            raise TypeError(f"OSC: cannot send {type(value).__name__}; send a bool, number or text")
    return _padded(address) + _padded(tags) + data


def bundle(messages: Iterable[bytes]) -> bytes:
    """Messages that take effect together."""
    parts = [struct.pack(">i", len(message)) + message for message in messages]
    return b"#bundle\0" + _IMMEDIATELY + b"".join(parts)


def decode(datagram: bytes) -> list[Message]:
    """The messages of a datagram, those of bundles in order. Raises ValueError for anything that is not OSC."""
    found: list[Message] = []
    pending = [datagram]
    while pending:
        part = pending.pop()
        if part[:8] != b"#bundle\0":
            found.append(_message(part))
            continue
        inner, at = [], 16
        while at < len(part):
            (size,) = _unpack(">i", part, at)
            if size <= 0 or size % 4 or at + 4 + size > len(part):
                raise ValueError(f"bundle element of {size} bytes")
            inner.append(part[at + 4 : at + 4 + size])
            at += 4 + size
        pending.extend(reversed(inner))
    return found


def _unpack(form: str, data: bytes, at: int) -> tuple[Any, ...]:
    if at + struct.calcsize(form) > len(data):
        raise ValueError("the datagram ends early")
    return struct.unpack_from(form, data, at)


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.find(b"\0", at)
    if end < 0:
        raise ValueError("text without an end")
    return data[at:end].decode("utf-8", "replace"), end + 4 - end % 4


def _message(data: bytes) -> Message:
    if data[:1] != b"/":
        raise ValueError("neither a message nor a bundle")
    address, at = _text(data, 0)
    tags, at = _text(data, at)
    values: list[Any] = []
    for tag in tags[1:]:
        if tag in _NUMBERS:
            values.append(_unpack(_NUMBERS[tag], data, at)[0])
            at += struct.calcsize(_NUMBERS[tag])
        elif tag == "s":
            text, at = _text(data, at)
            values.append(text)
        elif tag in _CONSTANTS:
            values.append(_CONSTANTS[tag])
        else:
            raise ValueError(f"type tag {tag!r}")
    return address, values

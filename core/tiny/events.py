"""A TensorBoard log beside the curves of a training: a file in its work folder, nothing is sent anywhere.

The format is TensorFlow's: records of a length, the data and checksums of both (core/lib/io/record_writer.h), each an
`Event` of protocol buffers (core/util/event.proto, core/framework/summary.proto), of which numbers and pictures are a
few fields, written here by hand. Any TensorBoard reads it; none is needed to write it.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from core.opencv import opencv

_CASTAGNOLI = 0x82F63B78
RGB = 3


def _table() -> Iterator[int]:
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_CASTAGNOLI if byte & 1 else 0)
        yield byte


_TABLE = tuple(_table())


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _checked(data: bytes) -> bytes:
    """The data and its checksum, masked as TensorFlow does."""
    crc = crc32c(data)
    return data + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


class Events:
    """Numbers and pictures by step. path: of the file, or None to keep nothing."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """At once in the file: a training may be killed at any time. Raises `OSError`, as does `picture`."""
        entries = [(name, _varint(2 << 3 | 5) + struct.pack("<f", value)) for name, value in values.items()]
        self._summary(step, entries)

    def picture(self, step: int, name: str, picture_HWC: Tensor) -> None:
        """uint8, RGB."""
        if self._path is not None:
            _, png = opencv().imencode(".png", picture_HWC.flip(-1).contiguous().numpy())
            height, width = picture_HWC.shape[:2]
            image = _number(1, height) + _number(2, width) + _number(3, RGB) + _bytes(4, png.tobytes())
            self._summary(step, [(name, _bytes(4, image))])

    def _summary(self, step: int, entries: list[tuple[str, bytes]]) -> None:
        summary = b"".join(_bytes(1, _bytes(1, name.encode()) + value) for name, value in entries)
        self.event(_number(2, step) + _bytes(5, summary))

    def event(self, fields: bytes) -> None:
        """Append one, with the time."""
        if self._path is not None:
            data = _varint(1 << 3 | 1) + struct.pack("<d", time.time()) + fields
            with self._path.open("ab") as file:
                file.write(_checked(struct.pack("<Q", len(data))) + _checked(data))


def opened(folder: Path, step: int) -> Events:
    """A new file of the log in a folder, from a step on: what a killed run wrote of later ones is void."""
    folder.mkdir(parents=True, exist_ok=True)
    events = Events(folder / f"events.out.tfevents.{int(time.time() * 1e6)}")
    events.event(_bytes(3, b"brain.Event:2"))
    started = _number(1, 1)
    events.event(_number(2, step) + _bytes(7, started))
    return events

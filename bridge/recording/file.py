"""Recordings as MCAP files (https://mcap.dev): what is written, and what of a file can be read back.

Topics `in` and `out` carry frames, `params` the live parameters whenever they change, `lost` how many frames could not
be kept. A frame's message is a little-endian u32, so many bytes of JSON (see `packed`) and the planes. Messages are not
in chunks and reach the system at once: a recorder that is killed leaves all but its last message, and any MCAP reader
reads so far. The only user of mcap and lz4. Knows nothing of rings in use, of threads and of pacing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lz4.frame
import numpy as np
from mcap.exceptions import McapError
from mcap.records import Channel, Footer, Message, Metadata
from mcap.stream_reader import StreamReader
from mcap.writer import IndexType, Writer

from bridge.page.picture import decode, jpeg, picture_of
from bridge.ring import ColourSpace, Format, Frame, Kind, Origin
from bridge.ring.clock import now_ns

FORMAT = "1"
SIDES = ("in", "out")
_PROFILE = "frameloom"
_MAX_RECORD_BYTES = 1 << 30
_SCHEMA = (
    "A frame of a frameloom ring: u32 (little-endian) n, n bytes of JSON, then the planes in its order. In the JSON"
    " times are nanoseconds of the recording machine's monotonic clock; a plane's codec is raw, lz4 (an LZ4 frame) or"
    " jpeg."
)

Array = np.ndarray[Any, np.dtype[Any]]


class RecordingError(Exception):
    """A recording cannot be made or read. The message says what to do."""


# ---- planes


class PlaneCodec(NamedTuple):
    """pack(plane, C-contiguous) gives bytes; unpack(bytes, shape, dtype) gives the plane back."""

    pack: Callable[[Array], bytes]
    unpack: Callable[[memoryview, tuple[int, ...], np.dtype[Any]], Array]


def _from_bytes(data: bytes | memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.frombuffer(data, dtype).reshape(shape)


def _decompressed(data: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    # A few bytes can announce gigabytes: no more is taken out than there are pixels.
    wanted = math.prod(shape) * dtype.itemsize
    out: bytes = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=wanted + 1)
    return out


PLANE_CODECS: Mapping[str, PlaneCodec] = {
    "raw": PlaneCodec(lambda plane: plane.tobytes(), _from_bytes),
    "lz4": PlaneCodec(
        lambda plane: lz4.frame.compress(plane.data.cast("B"), compression_level=0, store_size=True),
        lambda data, shape, dtype: _from_bytes(_decompressed(data, shape, dtype), shape, dtype),
    ),
    "jpeg": PlaneCodec(lambda plane: b"", lambda data, shape, dtype: decode(data, (shape[0], shape[1]))),
}
"""How the bytes of a plane are kept. Packing of "jpeg" needs the whole frame: see `packed`."""

CODECS = {"lossless": "lz4", "jpeg": "jpeg", "raw": "raw"}
"""What a recording may be asked for, and what its colour planes are kept as; other planes are never lossy."""


def packed(frame: Frame, codec: str) -> bytes:
    """The message of a frame; codec: of `CODECS`. A JPEG is 8-bit sRGB, whatever the frame was."""
    planes: list[dict[str, Any]] = []
    parts: list[bytes] = []
    colour_space = frame.colour_space
    for kind, plane in frame.planes.items():
        layout, kept = frame.formats[kind], CODECS[codec]
        shape, dtype = plane.shape, plane.dtype.str
        if kept == "jpeg" and kind == Kind.COLOUR:
            colour_space, layout = ColourSpace.SRGB, Format.RGB8
            shape, dtype = (*shape[:2], 3), "|u1"
            data = _jpeg_of(frame)
        else:
            kept = "lz4" if kept == "jpeg" else kept
            data = PLANE_CODECS[kept].pack(np.ascontiguousarray(plane))
        about = {"kind": kind.name, "format": layout.name, "shape": shape, "dtype": dtype, "codec": kept}
        planes.append({**about, "bytes": len(data)})
        parts.append(data)
    pose = frame.T_world_camera
    header = {
        "frame_id": frame.frame_id,
        "source_frame_id": frame.source_frame_id,
        "sequence": frame.sequence,
        "generation": frame.generation,
        "capture_ns": frame.capture_ns,
        "publish_ns": frame.publish_ns,
        "param_revision": frame.param_revision,
        "flags": frame.flags,
        "origin": frame.origin.name,
        "colour_space": colour_space.name,
        "T_world_camera": None if pose is None else [float(value) for value in pose.ravel()],
        "intrinsics": None if frame.intrinsics is None else [float(value) for value in frame.intrinsics],
        "planes": planes,
    }
    head = json.dumps(header).encode()
    return b"".join((struct.pack("<I", len(head)), head, *parts))


def _jpeg_of(frame: Frame) -> bytes:
    picture = picture_of(frame)
    if frame.origin == Origin.BOTTOM_LEFT:
        # Its rows in the order of the other planes, for which the same origin holds.
        picture = dataclasses.replace(picture, pixels=np.ascontiguousarray(picture.pixels[::-1]))
    return jpeg(picture)


def unpacked(message: bytes) -> Frame:
    """The frame of a message. Raises `RecordingError` for one that is damaged, or cut off."""
    try:
        (size,) = struct.unpack_from("<I", message)
        about = json.loads(message[4 : 4 + size])
        planes, formats, at = {}, {}, 4 + size
        for plane in about["planes"]:
            data = memoryview(message)[at : at + plane["bytes"]]
            at += plane["bytes"]
            kind, shape, dtype = Kind[plane["kind"]], tuple(plane["shape"]), np.dtype(plane["dtype"])
            sides = len(shape) in (2, 3) and all(isinstance(side, int) and side > 0 for side in shape)
            if not sides or dtype.kind not in "uf" or math.prod(shape) * dtype.itemsize > _MAX_RECORD_BYTES:
                raise ValueError(f"a plane of shape {shape} and type {dtype}")
            planes[kind] = PLANE_CODECS[plane["codec"]].unpack(data, shape, dtype)
            formats[kind] = Format[plane["format"]]
        if at != len(message):
            raise ValueError("it is cut off")
        height, width = (planes.get(Kind.COLOUR, next(iter(planes.values())))).shape[:2]
        pose, intrinsics = about["T_world_camera"], about["intrinsics"]
        return Frame(
            planes,
            **{name: about[name] for name in _NUMBERS},
            origin=Origin[about["origin"]],
            colour_space=ColourSpace[about["colour_space"]],
            width=width,
            height=height,
            T_world_camera=None if pose is None else np.array(pose, np.float32).reshape(4, 4),
            intrinsics=None if intrinsics is None else tuple(intrinsics),
            formats=formats,
        )
    except (ValueError, TypeError, KeyError, StopIteration, struct.error, RuntimeError, EOFError) as error:
        raise RecordingError(f"a frame is damaged ({str(error)[:80]})") from error


_NUMBERS = (
    "sequence",
    "frame_id",
    "source_frame_id",
    "capture_ns",
    "publish_ns",
    "param_revision",
    "flags",
    "generation",
)


# ---- writing


class _Sink:
    """A file without a buffer of its own: what was written is the system's."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
        self._at = 0

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            done = os.write(self._file, left)
            left = left[done:]
            self._at += done
        return len(data)

    def tell(self) -> int:
        return self._at

    def cut_to(self, size: int) -> None:
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)
        self._at = size

    def close(self) -> None:
        os.close(self._file)


class RecordingWriter:
    """One new file, which must not be there yet. One thread at a time.

    Raises `RecordingError` when it cannot be made; `write` and `close` raise OSError of a full or broken disk, and what
    was written before stays readable.
    """

    def __init__(self, path: Path, channel: str, codec: str) -> None:
        try:
            self._sink = _Sink(path)
        except FileExistsError:
            raise RecordingError(f"{path} is there already; give another name") from None
        except OSError as error:
            raise RecordingError(f"{path} cannot be written: {error.strerror}; give another place") from None
        self.path = path
        self._began_ns = now_ns()
        # MCAP's times are those of the calendar; the ring's clock only rises.
        self._to_calendar_ns = int(time.time() * 1e9) - self._began_ns
        self._writer = Writer(
            self._sink,  # type: ignore[arg-type]
            use_chunking=False,
            index_types=IndexType.METADATA,
            enable_crcs=True,
        )
        self._whole = 0
        self._writer.start(profile=_PROFILE, library="frameloom")
        about = {
            "format": FORMAT,
            "channel": channel,
            "codec": codec,
            "clock_to_calendar_ns": str(self._to_calendar_ns),
        }
        self._writer.add_metadata("frameloom", about)
        frames = self._writer.register_schema("frameloom.Frame", "text/plain", _SCHEMA.encode())
        texts = self._writer.register_schema("frameloom.Text", "jsonschema", b'{"type": "object"}')
        self._topics = {
            **{side: self._writer.register_channel(side, "frameloom", frames) for side in SIDES},
            **{topic: self._writer.register_channel(topic, "json", texts) for topic in ("params", "lost")},
        }

    @property
    def size_bytes(self) -> int:
        """Size of the file so far."""
        return self._sink.tell()

    def write(self, topic: str, at_ns: int, data: bytes, sequence: int = 0) -> None:
        """Add one message; at_ns: of the ring's clock."""
        at = max(0, at_ns + self._to_calendar_ns)
        try:
            self._writer.add_message(self._topics[topic], at, data, at, sequence & 0xFFFFFFFF)
        except OSError:
            # What reached the file of this message ends in the middle of it.
            self._sink.cut_to(self._whole)
            raise
        self._whole = self._sink.tell()

    def close(self) -> None:
        """Write the summary at the end, without which the file can be read all the same."""
        try:
            self._writer.finish()
        finally:
            self._sink.close()


# ---- reading


@dataclass(frozen=True)
class Entry:
    """One message of a recording. at_ns: on the clock of the ring that was recorded."""

    topic: str
    at_ns: int
    data: bytes


class RecordingReader:
    """What is whole of a recording, in its order.

    `about` is what the recorder said of it. `ending` is empty while it is being read and when it has a proper end, and
    else says why it ends where it ends. Raises `RecordingError` for a file that is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ending = ""
        self.about: dict[str, str] = {}
        for record in self._records():
            if isinstance(record, Metadata) and record.name == "frameloom":
                self.about = dict(record.metadata)
            if self.about or isinstance(record, Message):
                break
        if not self.about:
            raise RecordingError(f"{path} is no recording of frameloom")
        version = self.about.get("format")
        if version != FORMAT:
            raise RecordingError(
                f"{path} has format {version}; this version reads {FORMAT}: update frameloom to play it"
            )

    def __iter__(self) -> Iterator[Entry]:
        self.ending = ""
        topics: dict[int, str] = {}
        to_calendar_ns = int(self.about.get("clock_to_calendar_ns", "0"))
        for record in self._records():
            if isinstance(record, Channel):
                topics[record.id] = record.topic
            elif isinstance(record, Message) and record.channel_id in topics:
                yield Entry(topics[record.channel_id], record.log_time - to_calendar_ns, record.data)

    def _records(self) -> Iterator[Any]:
        record = None
        try:
            with open(self.path, "rb") as file:
                for record in StreamReader(file, record_size_limit=_MAX_RECORD_BYTES).records:
                    yield record
        except OSError as error:
            raise RecordingError(f"{self.path} cannot be read: {error.strerror}") from None
        except (McapError, struct.error, UnicodeDecodeError, ValueError, TypeError) as error:
            if record is None:
                raise RecordingError(f"{self.path} is no MCAP file") from error
            if not isinstance(record, Footer):
                self.ending = "it was cut off there, as by a recorder that was killed, or is damaged from there on"

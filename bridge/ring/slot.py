"""Planes of a slot: from arrays to plane tables, and from untrusted plane tables to checked views.

Knows formats and bytes; nothing of sequences, processes or files. Arrays are H x W x C (H x W for one channel).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bridge.ring.errors import InvalidFrame, MalformedSlot
from bridge.ring.layout import (
    ALLOWED_FORMATS,
    MAX_PLANES,
    MAX_SIDE,
    PIXEL_FORMATS,
    PLANE,
    PLANE_ALIGNMENT,
    PLANE_TABLE_OFFSET,
    SLOT,
    ColourSpace,
    Format,
    Kind,
    Origin,
    align,
)

Array = np.ndarray[Any, np.dtype[Any]]

_DTYPES: dict[str, np.dtype[Any]] = {"u8": np.dtype("uint8"), "f16": np.dtype("<f2"), "f32": np.dtype("<f4")}

_PLANE_CODEC = PLANE.codec("kind", "size")
_PLANE_PADDING = bytes(PLANE.size - _PLANE_CODEC.size)
SLOT_HEAD = SLOT.codec("sequence", "data_size")
"""The fixed part of a slot header in the order of `SLOT`, without pose and intrinsics."""
SLOT_BODY = SLOT.codec("frame_id", "data_size")
"""The same without the sequence, which is written on its own, last."""
POSE_AT, POSE_CODEC = SLOT.offset("T_world_camera"), SLOT.codec("T_world_camera", "T_world_camera")
INTRINSICS_AT, INTRINSICS_CODEC = SLOT.offset("intrinsics"), SLOT.codec("intrinsics", "intrinsics")

ORIGINS = {int(o): o for o in Origin}
COLOUR_SPACES = {int(c): c for c in ColourSpace}
_KINDS = {int(k): k for k in Kind}
_FORMATS = {int(f): f for f in Format}


class PlaneSpec(NamedTuple):
    """One plane to write: what it shows, how it is stored, width and height in pixels (1 to 2^24)."""

    kind: Kind
    format: Format
    width: int
    height: int


class PlaneAt(NamedTuple):
    """One checked plane and where it lies, in bytes from the start of its slot."""

    kind: Kind
    format: Format
    width: int
    height: int
    row_stride: int
    offset: int


class SlotPlan(NamedTuple):
    """Where the planes of one frame go: positions, their table as bytes, and bytes of plane data in all."""

    planes: tuple[PlaneAt, ...]
    table: bytes
    data_size: int


def _takes(component: str, dtype: np.dtype[Any]) -> bool:
    """Whether pixels of `dtype` go into a component: the same type, any float into a float, bool into bytes."""
    wanted = _DTYPES[component]
    return dtype == wanted or (dtype.kind == "f" and wanted.kind == "f") or (dtype.kind == "b" and wanted.kind == "u")


def infer_format(kind: Kind, array: Array) -> Format:
    """The format of `kind` that holds this array, without loss where there is one (float32 motion becomes RG16F).

    Raises InvalidFrame when none does.
    """
    channels = array.shape[2] if array.ndim == 3 else 1
    best: Format | None = None
    for candidate in ALLOWED_FORMATS[kind]:
        pixel = PIXEL_FORMATS[candidate]
        if pixel.channels != channels or not _takes(pixel.component, array.dtype):
            continue
        if _DTYPES[pixel.component] == array.dtype:
            return candidate
        best = best or candidate
    if best is None:
        wanted = ", ".join(f.name for f in ALLOWED_FORMATS[kind])
        raise InvalidFrame(
            f"{kind.name}: no format for {array.dtype} with shape {array.shape}; convert to one of {wanted}"
        )
    return best


def specs_of(planes: Mapping[Kind, Array], formats: Mapping[Kind, Format] | None) -> list[PlaneSpec]:
    """What the given arrays are as planes. Raises InvalidFrame for a shape or type that no format takes."""
    specs = []
    for kind, array in planes.items():
        if not isinstance(array, np.ndarray) or array.ndim not in (2, 3):
            raise InvalidFrame(
                f"{Kind(kind).name}: give a numpy array of shape (height, width) or (height, width, channels)"
            )
        wanted = formats.get(kind) if formats else None
        if wanted is None:
            wanted = infer_format(kind, array)
        pixel = PIXEL_FORMATS[wanted]
        channels = array.shape[2] if array.ndim == 3 else 1
        if channels != pixel.channels or not _takes(pixel.component, array.dtype):
            raise InvalidFrame(
                f"{kind.name}: {wanted.name} takes {pixel.channels} channel(s) of {_DTYPES[pixel.component]}, "
                f"got {array.dtype} with shape {array.shape}"
            )
        specs.append(PlaneSpec(kind, wanted, array.shape[1], array.shape[0]))
    return specs


def lay_out(specs: Sequence[PlaneSpec]) -> SlotPlan:
    """Positions of the planes, rows tight, each plane on a multiple of 64 bytes, the first on a page.

    Raises InvalidFrame for no planes, too many, a kind given twice, a format that the kind does not allow, or a side
    that is zero or beyond 2^24.
    """
    if not 1 <= len(specs) <= MAX_PLANES:
        raise InvalidFrame(f"a frame has 1 to {MAX_PLANES} planes, got {len(specs)}")
    if len({spec.kind for spec in specs}) != len(specs):
        raise InvalidFrame("a frame has each kind of plane at most once; merge or drop the second one")
    at = SLOT.size
    planes = []
    table = b""
    for spec in specs:
        if spec.format not in ALLOWED_FORMATS[spec.kind]:
            wanted = ", ".join(f.name for f in ALLOWED_FORMATS[spec.kind])
            raise InvalidFrame(f"{spec.kind.name} planes are {wanted}, not {spec.format.name}")
        if not (1 <= spec.width <= MAX_SIDE and 1 <= spec.height <= MAX_SIDE):
            raise InvalidFrame(
                f"{spec.kind.name}: {spec.width} x {spec.height} pixels; each side must be 1 to {MAX_SIDE}"
            )
        at = align(at, PLANE_ALIGNMENT)
        stride = spec.width * PIXEL_FORMATS[spec.format].bytes_per_pixel
        planes.append(PlaneAt(*spec, stride, at))
        table += _PLANE_CODEC.pack(*spec, stride, at, stride * spec.height) + _PLANE_PADDING
        at += stride * spec.height
    return SlotPlan(tuple(planes), table, at - SLOT.size)


def parse_table(table: bytes, slot_header_size: int, slot_stride: int) -> tuple[PlaneAt, ...]:
    """Check an untrusted plane table (private bytes, a whole number of entries) against the slot that holds it.

    Every plane must be of a known kind, at most once, of a format that the kind allows, not empty, aligned, with rows
    that do not overlap, inside the slot and apart from every other plane. Raises MalformedSlot otherwise.
    """
    planes: list[PlaneAt] = []
    taken: list[tuple[int, int]] = []
    for entry in range(0, len(table), PLANE.size):
        raw_kind, raw_format, width, height, stride, offset, size = _PLANE_CODEC.unpack_from(table, entry)
        kind, pixel_format = _KINDS.get(raw_kind), _FORMATS.get(raw_format)
        if kind is None or pixel_format is None or pixel_format not in ALLOWED_FORMATS[kind]:
            raise _malformed(f"plane kind {raw_kind} with format {raw_format} is unknown")
        if any(p.kind == kind for p in planes):
            raise _malformed(f"two planes of kind {kind.name}")
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise _malformed(f"{kind.name} is {width} x {height} pixels")
        row = width * PIXEL_FORMATS[pixel_format].bytes_per_pixel
        if stride < row or (stride != row and stride % 4) or size != stride * height:
            raise _malformed(f"{kind.name} has row stride {stride} and size {size} for rows of {row} bytes")
        if offset % PLANE_ALIGNMENT or offset < slot_header_size or offset + size > slot_stride:
            raise _malformed(f"{kind.name} lies at {offset} to {offset + size} of a slot of {slot_stride} bytes")
        if any(offset < end and start < offset + size for start, end in taken):
            raise _malformed(f"{kind.name} overlaps another plane")
        taken.append((offset, offset + size))
        planes.append(PlaneAt(kind, pixel_format, width, height, stride, offset))
    if not planes:
        raise _malformed("it has no planes")
    return tuple(planes)


def _malformed(what: str) -> MalformedSlot:
    return MalformedSlot(f"malformed slot: {what}; the writer breaks PROTOCOL.md, update or restart it")


def view(memory: Any, slot_start: int, plane: PlaneAt) -> Array:
    """The plane's pixels as an array on `memory` (a buffer), H x W x C or H x W."""
    pixel = PIXEL_FORMATS[plane.format]
    dtype = _DTYPES[pixel.component]
    shape: tuple[int, ...] = (plane.height, plane.width)
    strides: tuple[int, ...] = (plane.row_stride, pixel.bytes_per_pixel)
    if pixel.channels > 1:
        shape += (pixel.channels,)
        strides += (dtype.itemsize,)
    return np.ndarray(shape, dtype, memory, slot_start + plane.offset, strides)


assert SLOT["intrinsics"].offset + SLOT["intrinsics"].size <= PLANE_TABLE_OFFSET

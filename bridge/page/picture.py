"""Frames as pictures that a browser shows: 8-bit sRGB from whatever the ring holds, then JPEG or raw packets; and back.

The only user of simplejpeg. Knows nothing of sockets.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import simplejpeg

from bridge.page.packet import Encoding, PacketFlag, PacketHeader
from bridge.ring import ColourSpace, Format, Frame, Kind, Origin, RingError, RingReader
from bridge.ring.clock import now_ns
from bridge.ring.colour import CHANNELS, Pixels, in_order, srgb8
from bridge.ring.layout import PIXEL_FORMATS

JPEG_QUALITY = 85
MAX_JPEG_SIDE = 65500

_JPEG_COLOURS = {
    form: "GRAY" if PIXEL_FORMATS[form].channels == 1 else PIXEL_FORMATS[form].order.upper()
    for form in CHANNELS
    if PIXEL_FORMATS[form].component == "u8"
}
_EIGHT_BITS = {PIXEL_FORMATS[form].order: form for form in _JPEG_COLOURS}


class CannotShow(RingError):
    """A frame that no viewer can be given: without a colour plane, or beyond the sides of a JPEG."""


@dataclasses.dataclass(frozen=True)
class ShownPicture:
    """A frame's colour plane as uint8 sRGB, H x W x C, row 0 at the top, C-contiguous, our own copy.

    layout: a format of 8 bits a channel, the order of the channels. frame: everything else of the frame; no planes.
    """

    pixels: Pixels
    layout: Format
    flags: PacketFlag
    frame: Frame


@dataclasses.dataclass(frozen=True)
class Packet:
    """One encoded frame, header first, shared by all its viewers. `key` is the frame's generation and sequence."""

    key: tuple[int, int]
    data: bytes


def take(reader: RingReader, timeout_s: float) -> ShownPicture | None:
    """The newest picture that was not taken yet, or None when there is none within `timeout_s`.

    Raises `CannotShow` for a frame without a colour plane, and what `RingReader.latest` raises.
    """
    with reader.latest(timeout_s) as frame:
        if frame is None:
            return None
        if Kind.COLOUR not in frame.planes:
            raise CannotShow(f"{reader.channel} carries no colour plane; the page shows colour only")
        picture = picture_of(frame)
    return picture if frame.valid else None


def picture_of(frame: Frame) -> ShownPicture:
    """The colour plane of `frame`, which has one, in the form that `ShownPicture` promises."""
    pixels = frame.planes[Kind.COLOUR]
    layout = frame.formats[Kind.COLOUR]
    linear = frame.colour_space == ColourSpace.LINEAR
    flags = PacketFlag.NONE
    if linear or layout not in _JPEG_COLOURS:
        flags = PacketFlag.CONVERTED
        pixels = srgb8(pixels, layout, frame.colour_space)
        order = PIXEL_FORMATS[layout].order
        if order not in _EIGHT_BITS:
            pixels = in_order(pixels, CHANNELS[layout])
        layout = _EIGHT_BITS.get(order, Format.RGBA8)
    if frame.origin == Origin.BOTTOM_LEFT:
        pixels = pixels[::-1]
    pixels = np.array(pixels if pixels.ndim == 3 else pixels[..., None], order="C")
    return ShownPicture(pixels, layout, flags, dataclasses.replace(frame, planes={}))


def encode(picture: ShownPicture, codec: Encoding) -> Packet:
    """PacketHeader and payload of `picture` in `codec`. Raises `CannotShow` when a JPEG cannot be so large."""
    pixels, frame = picture.pixels, picture.frame
    height, width = pixels.shape[:2]
    payload: bytes | memoryview
    if codec == Encoding.JPEG:
        payload = jpeg(picture)
    else:
        payload = _channels(pixels, picture.layout, codec).data
    header = PacketHeader(
        payload_size=payload.nbytes if isinstance(payload, memoryview) else len(payload),
        sequence=frame.sequence,
        source_frame_id=frame.source_frame_id,
        capture_ns=frame.capture_ns,
        publish_ns=frame.publish_ns,
        sent_ns=now_ns(),
        param_revision=frame.param_revision,
        generation=frame.generation,
        width=width,
        height=height,
        codec=codec,
        flags=picture.flags,
    )
    return Packet((frame.generation, frame.sequence), b"".join((header.pack(), payload)))


def jpeg(picture: ShownPicture) -> bytes:
    """`picture` as a JPEG. Raises `CannotShow` when none can be so large."""
    height, width = picture.pixels.shape[:2]
    if max(width, height) > MAX_JPEG_SIDE:
        raise CannotShow(f"a frame of {width} x {height} pixels; a JPEG has at most {MAX_JPEG_SIDE} a side")
    # Half-resolution chroma shows on small pictures and saves little there.
    subsampling = "Gray" if picture.layout == Format.R8 else "444" if max(width, height) <= 256 else "420"
    data: bytes = simplejpeg.encode_jpeg(picture.pixels, JPEG_QUALITY, _JPEG_COLOURS[picture.layout], subsampling)
    return data


def thumbnail(picture: ShownPicture, side_px: int) -> bytes:
    """A JPEG of `picture` whose longer side is at most `side_px`, each of its pixels the mean of a square of them."""
    pixels = picture.pixels
    step = -(-max(pixels.shape[:2]) // side_px)
    height, width = (max(1, side // step) for side in pixels.shape[:2])
    squares = pixels[: height * step, : width * step].astype(np.float32)
    small = squares.reshape(height, min(step, pixels.shape[0]), width, min(step, pixels.shape[1]), -1).mean((1, 3))
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(small.round().astype(np.uint8)), JPEG_QUALITY, _JPEG_COLOURS[picture.layout], "420"
    )
    return data


def decode(data: memoryview, size: tuple[int, int]) -> Pixels:
    """The RGB pixels of a JPEG, whose size must be `size` (height, width). Raises ValueError."""
    # The size is looked at before anything is decoded: a few bytes can announce gigabytes.
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    if (height, width) != size:
        raise ValueError(f"it is {width} x {height} pixels and its header says {size[1]} x {size[0]}")
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    return pixels


def _channels(pixels: Pixels, layout: Format, codec: Encoding) -> Pixels:
    """The channels in the order of `codec` (RGBA8 or RGB8), C-contiguous; a missing alpha is opaque."""
    wanted = 4 if codec == Encoding.RGBA8 else 3
    order = CHANNELS[layout][:wanted]
    return pixels if order == tuple(range(pixels.shape[2])) else in_order(pixels, order)

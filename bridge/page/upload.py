"""What a viewer sends: frame packets, checked, decoded and written into NAME.in. Knows nothing of sockets."""

from __future__ import annotations

import numpy as np

from bridge.page.packet import Encoding, PacketError, unpack
from bridge.page.picture import decode
from bridge.ring import Kind, RingWriter

MAX_SIDE = 2048
MAX_UPLOAD_BYTES = MAX_SIDE * MAX_SIDE * 4 + 4096
"""The largest raw picture and its header."""

_CHANNELS = {Encoding.RGBA8: 4, Encoding.RGB8: 3}


class BadPicture(ValueError):
    """A packet whose picture cannot be taken; the next one may be good. The message says how to fix it."""


class Upload:
    """The one writer of channel.in, on behalf of a viewer. One thread at a time.

    Raises what `RingWriter` raises: `WriterExists` while somebody else feeds the channel.
    """

    def __init__(self, channel: str) -> None:
        self.ring = f"{channel}.in"
        self.frames = 0
        self._writer = RingWriter(self.ring)

    def write(self, message: bytes) -> None:
        """Publish the picture of one packet: row 0 at the top, sRGB. Captured now: a viewer's clock is not ours.

        Raises `PacketError` for something else than a packet, `BadPicture`, and what `RingWriter.write` raises.
        """
        header, payload = unpack(message)
        if not (1 <= header.width <= MAX_SIDE and 1 <= header.height <= MAX_SIDE):
            raise BadPicture(
                f"a picture of {header.width} x {header.height} pixels; send at least 1 x 1 and at most "
                f"{MAX_SIDE} x {MAX_SIDE}"
            )
        shape = (header.height, header.width, _CHANNELS.get(header.codec, 3))
        if header.codec == Encoding.JPEG:
            try:
                pixels = decode(payload, shape[:2])
            except ValueError as error:
                raise BadPicture(f"the JPEG cannot be read: {error}") from None
        elif len(payload) != shape[0] * shape[1] * shape[2]:
            wanted = shape[0] * shape[1] * shape[2]
            raise BadPicture(f"{len(payload)} bytes of pixels; {header.width} x {header.height} needs {wanted}")
        else:
            pixels = np.frombuffer(payload, np.uint8).reshape(shape)
        self.frames += 1
        self._writer.write(
            {Kind.COLOUR: pixels}, frame_id=self.frames, source_frame_id=header.source_frame_id or self.frames
        )

    def close(self) -> None:
        self._writer.close()


__all__ = ["MAX_SIDE", "MAX_UPLOAD_BYTES", "BadPicture", "PacketError", "Upload"]

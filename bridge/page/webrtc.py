"""One channel's newest pictures to one far viewer by WebRTC. The only user of aiortc and of av, which the extra brings.

Sent is at most 30 pictures a second: aiortc's encoders are set up for no more, in H.264 as in VP8. What its public
interface does not let us set stays as it is in 1.16: H.264 begins at 1 Mb/s and stays within 0.5 and 3, VP8 begins at
0.5 and stays within 0.25 and 1.5, as the viewer's estimate of its line says. Chosen here: H.264 where the viewer takes
it, for its higher limit; pictures are sent only, nothing is received; no STUN server unless one is named (aiortc
alone would ask a public one of Google's).
"""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import numpy as np
from aiortc import (
    InvalidAccessError,
    InvalidStateError,
    MediaStreamError,
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.exceptions import OperationError
from av import VideoFrame
from av.video.reformatter import Colorspace

from bridge.page.packet import unpack
from bridge.page.picture import Packet

CONNECT_S = 30.0
"""A viewer that was answered and has not connected after so long is given up."""
REPEAT_S = 0.5
"""A still picture is sent again so often: what was lost on the way is fixed only by another picture."""

_PICTURES_PER_S = 30
_CLOCK_RATE = 90000
_TICK = _CLOCK_RATE // _PICTURES_PER_S

# What aiortc's parser raises for texts that are no offer, or one that it cannot meet.
_BAD_OFFER = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    InvalidAccessError,
    InvalidStateError,
    OperationError,
)

NextPacket = Callable[[float], Awaitable[Packet | None]]
"""The newest RGB8 packet that was not taken yet, or None when there is none within so many seconds."""


class PeerRefused(ValueError):
    """The offer cannot be answered. The message says how to fix it."""


class PictureTrack(MediaStreamTrack):
    """The newest picture whenever the encoder is ready for one; nothing is queued, so a slow encoder skips pictures.

    Sides are made even, which the encoders want, by repeating the last row or column.
    """

    kind = "video"

    def __init__(self, newest: NextPacket) -> None:
        super().__init__()
        self.matrix = Colorspace.ITU601
        """What the viewer takes the colours for: aiortc's streams do not say it."""
        self._newest = newest
        self._pixels: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        self._began: float | None = None
        self._tick = -1

    async def recv(self) -> VideoFrame:
        """The next picture: yuv420p, its time in steps of 1/30 s. Raises `MediaStreamError` once stopped."""
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time()
        # Two pictures in one step of the encoder's clock are refused by it.
        await asyncio.sleep(self._began + (self._tick + 1) / _PICTURES_PER_S - loop.time())
        while True:
            if self.readyState != "live":
                raise MediaStreamError
            packet = await self._newest(REPEAT_S)
            if packet is not None:
                self._pixels = _even(packet)
            if self._pixels is not None:
                break
        self._tick = max(self._tick + 1, int((loop.time() - self._began) * _PICTURES_PER_S))
        frame = VideoFrame.from_ndarray(self._pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=self.matrix)
        frame.pts = self._tick * _TICK
        frame.time_base = fractions.Fraction(1, _CLOCK_RATE)
        return frame


def _without_local_names(offer: str) -> str:
    """The offer without the addresses that a browser hides behind a multicast name.

    Looking one up takes a second each, or fails where there is no multicast; and a viewer that reaches one of our
    addresses is known by the address that it comes from. With none left, the list is open until it does.
    """
    hidden = re.compile(r"a=candidate:(\S+ ){4}\S+\.local |a=end-of-candidates")
    return "".join(line for line in offer.splitlines(keepends=True) if not hidden.match(line))


def _even(packet: Packet) -> np.ndarray[Any, np.dtype[np.uint8]]:
    header, payload = unpack(packet.data)
    pixels = np.frombuffer(payload, np.uint8).reshape(header.height, header.width, 3)
    if header.height % 2 or header.width % 2:
        pixels = np.pad(pixels, ((0, header.height % 2), (0, header.width % 2), (0, 0)), mode="edge")
    return pixels


class Peer:
    """One viewer's connection, from `answer()` to `close()`; of one asyncio loop.

    newest: where its pictures come from. ice_servers: addresses like "stun:stun.example.org:3478" that tell this
    machine how it is seen from outside; without any, viewers reach it by its own addresses only.
    """

    def __init__(self, newest: NextPacket, ice_servers: Iterable[str] = ()) -> None:
        servers = [RTCIceServer(urls=server) for server in ice_servers]
        self._connection = RTCPeerConnection(RTCConfiguration(servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._track = PictureTrack(newest)
        self._changed = asyncio.Event()
        self._connection.on("connectionstatechange", self._changed.set)
        # aiortc stops the track when its encoder fails.
        self._track.on("ended", self._changed.set)

    async def answer(self, offer: str) -> str:
        """The SDP that answers the viewer's. Raises `PeerRefused`; `close()` is the caller's in any case."""
        connection = self._connection
        sending = connection.addTransceiver(self._track, direction="sendonly")
        codecs = RTCRtpSender.getCapabilities("video").codecs
        sending.setCodecPreferences(sorted(codecs, key=lambda codec: codec.mimeType != "video/H264"))
        try:
            await connection.setRemoteDescription(RTCSessionDescription(_without_local_names(offer), "offer"))
            if sending.mid is None or len(connection.getTransceivers()) != 1 or connection.sctp is not None:
                raise PeerRefused("the offer must ask for one video and nothing else")
            await connection.setLocalDescription(await connection.createAnswer())
        except _BAD_OFFER as error:
            if isinstance(error, PeerRefused):
                raise
            raise PeerRefused("the offer is no SDP that can be answered; send one that asks for a video") from error
        if sending.currentDirection != "sendonly":
            raise PeerRefused("the offer's video must be recvonly: pictures are sent here and none are taken")
        answered: str = connection.localDescription.sdp
        if " H264/" in answered:
            # Seen in Chromium: H.264 that does not say is taken for BT.709, and VP8 for BT.601.
            self._track.matrix = Colorspace.ITU709
        return answered

    async def gone(self) -> None:
        """Return when the viewer has left, cannot be reached, or cannot be sent pictures."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S) as patience:
                while self._track.readyState == "live" and self._connection.connectionState in (
                    "new",
                    "connecting",
                    "connected",
                ):
                    if self._connection.connectionState == "connected":
                        patience.reschedule(None)
                    await self._changed.wait()
                    self._changed.clear()

    async def close(self) -> None:
        """End the connection; the viewer is told."""
        self._track.stop()
        await self._connection.close()

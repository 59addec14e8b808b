"""Pictures for whatever shows an <img>, and viewers by WebRTC."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING

from bridge.page import limits
from bridge.page.audience import Audience
from bridge.page.entrance import Entrance
from bridge.page.files import NOT_KEPT, SECURITY
from bridge.page.http import web
from bridge.page.lines import Viewer
from bridge.page.packet import PACKET, Encoding
from bridge.page.picture import Packet

if TYPE_CHECKING:
    from bridge.page.webrtc import Peer

_log = logging.getLogger(__name__)

_NO_WEBRTC = (
    "WebRTC is an extra that is not installed here; in the host's checkout run "
    '.venv/bin/python -m pip install -c constraints.txt -e ".[webrtc]" (.venv\\Scripts\\python on Windows)'
)
_OFFER_WANTED = 'send {"type": "offer", "sdp": "..."}, as RTCPeerConnection.localDescription gives it'
_BOUNDARY = "frame"


class Streams:
    """The handlers of /snapshot.jpg, /stream.mjpg and /webrtc. leaving: set when the gateway ends. ice_servers: see
    `bridge.page.webrtc.Peer`."""

    def __init__(
        self, entrance: Entrance, audience: Audience, leaving: asyncio.Event, ice_servers: tuple[str, ...]
    ) -> None:
        self._entrance = entrance
        self._audience = audience
        self._leaving = leaving
        self._ice_servers = ice_servers
        self._peers: set[asyncio.Task[None]] = set()

    async def end(self) -> None:
        """End all WebRTC connections; no request is left that could add one."""
        for peer in self._peers:
            peer.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)

    async def snapshot(self, request: web.Request) -> web.StreamResponse:
        """The newest picture as a JPEG."""
        viewer = Viewer(self._entrance.picture_view(request), Encoding.JPEG)
        with self._audience.watching(viewer):
            packet = await self._audience.picture_for(viewer, limits.SNAPSHOT_S)
        if packet is None:
            raise web.HTTPServiceUnavailable(text=viewer.view.message or f"no picture on {viewer.view.ring} yet")
        return web.Response(body=packet.data[PACKET.size :], content_type="image/jpeg", headers=NOT_KEPT)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Motion JPEG without end."""
        viewer = Viewer(self._entrance.picture_view(request), Encoding.JPEG)
        stream = web.StreamResponse(headers={**SECURITY, **NOT_KEPT})
        stream.content_type = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        with self._audience.watching(viewer):
            await stream.prepare(request)
            shown: Packet | None = None
            try:
                async with asyncio.timeout(None) as patience:
                    await stream.write(f"--{_BOUNDARY}\r\n".encode())
                    while not self._leaving.is_set():
                        patience.reschedule(None)
                        shown = await self._audience.picture_for(viewer, limits.STREAM_REPEAT_S) or shown
                        if shown is None:
                            continue
                        patience.reschedule(asyncio.get_running_loop().time() + limits.SEND_TIMEOUT_S)
                        await stream.write(_part(shown))
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
            except ConnectionError:
                # It has left: that is how a stream ends.
                pass
        return stream

    # ---- viewers by WebRTC

    async def webrtc(self, request: web.Request) -> web.StreamResponse:
        """Answer one viewer's offer; its pictures then go by a connection of their own."""
        self._entrance.check_origin(request)
        try:
            offer = json.loads(await request.text())
        except (ValueError, RecursionError):
            offer = None
        if not isinstance(offer, dict) or offer.get("type") != "offer" or not isinstance(offer.get("sdp"), str):
            raise web.HTTPBadRequest(text=_OFFER_WANTED)
        try:
            # It is large: nobody else waits while it is read.
            await asyncio.to_thread(_load_webrtc)
        except ImportError as error:
            _log.info("gateway: a viewer asked for WebRTC: %s", error)
            raise web.HTTPNotImplemented(text=_NO_WEBRTC) from error
        from bridge.page.webrtc import Peer, PeerRefused

        viewer = Viewer(self._entrance.view_of(request), Encoding.RGB8)
        with contextlib.ExitStack() as visit:
            visit.enter_context(self._audience.watching(viewer))
            peer = Peer(lambda timeout_s: self._audience.picture_for(viewer, timeout_s), self._ice_servers)
            try:
                answer = await peer.answer(offer["sdp"])
            except PeerRefused as error:
                await peer.close()
                raise web.HTTPBadRequest(text=str(error)) from error
            except asyncio.CancelledError:
                await peer.close()
                raise
            task = asyncio.create_task(self._accompany(peer, visit.pop_all()))
            self._peers.add(task)
            task.add_done_callback(self._peers.discard)
        return web.json_response({"type": "answer", "sdp": answer}, headers=NOT_KEPT)

    async def _accompany(self, peer: Peer, visit: contextlib.ExitStack) -> None:
        """Count a connection as a viewer until it ends."""
        with visit:
            try:
                await peer.gone()
            finally:
                await peer.close()


def _load_webrtc() -> None:
    """Raises ImportError where the extra is not installed."""
    import bridge.page.webrtc  # noqa: F401


def _part(packet: Packet) -> bytes:
    """One picture of a stream. The boundary follows at once: browsers show a picture when they have seen it."""
    jpeg = packet.data[PACKET.size :]
    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + f"\r\n--{_BOUNDARY}\r\n".encode()

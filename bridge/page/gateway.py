"""The pages and their WebSockets: readers of the rings of one or more channels that show them in browsers.

One thread per ring encodes the newest frame, once, when some viewer waits for one (`bridge/page/ring_view.py`); one
thread runs the asyncio loop that serves them all. What viewers send goes into NAME.in (`bridge/page/upload.py`). Knows
nothing of the stream: it reads and writes rings like any other process and sets `LiveParams`. The only user of aiohttp.
The messages are described in clients/web/README.md.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import re
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

from bridge.control.access import Access, host_name, is_loopback, is_name
from bridge.control.limits import TokenBucket
from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.page.packet import PACKET, Encoding
from bridge.page.picture import Packet
from bridge.page.ring_view import SIDES, RingView
from bridge.page.upload import MAX_UPLOAD_BYTES, BadPicture, PacketError, Upload
from bridge.ring import RingError, WriterExists
from bridge.ring.clock import now_ns
from core.params import SPECS, ParamError

if TYPE_CHECKING:
    from bridge.page.webrtc import Peer

WEB = Path(__file__).resolve().parents[2] / "clients" / "web"
_log = logging.getLogger(__name__)

MAX_VIEWERS = 64
"""WebSockets, streams, WebRTC connections and senders together."""
MAX_IN_FLIGHT = 2
MAX_MESSAGE_BYTES = 256 * 1024
"""Larger than any message with a meaning, so that a prompt of 100 kB is answered and not cut off."""
SEND_TIMEOUT_S = 5.0
"""A viewer whose connection takes no byte for so long is dropped."""
LINGER_S = 2.0
LINGER_BYTES = 64 << 20
"""How long, and how much, a viewer that was closed with a reason may still send before its connection is cut."""
HEARTBEAT_S = 20.0
STATS_EVERY_S = 0.5
STATS_LOOK_BACK_S = 5.0
MESSAGES_PER_S = 200
"""Messages that one viewer may send; two credits per frame at 60 Hz and a dragged slider stay below."""

SNAPSHOT_S = 3.0
"""How long a snapshot waits for a picture."""
STREAM_REPEAT_S = 5.0
"""A still picture is sent again on the MJPEG stream so often: it finds out who has left."""
MIN_TOKEN_CHARS = 8

_POLICY = (
    "default-src 'none'; script-src 'self'{}; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY = {
    "Content-Security-Policy": _POLICY.format(""),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_NOT_KEPT = {"Cache-Control": "no-store"}
_FOLDERS = ("", "examples", "scene", "vendor")
_NEEDED = ("index.html", "app.js", "style.css")
_WEBSOCKETS = ("/ws", "/send")
_TOKEN_MENDED = "the token is missing or wrong; open the whole address that the host printed at its start"
_NO_WEBRTC = (
    "WebRTC is an extra that is not installed here; in the host's checkout run "
    '.venv/bin/python -m pip install -c constraints.txt -e ".[webrtc]" (.venv\\Scripts\\python on Windows)'
)
_OFFER_WANTED = 'send {"type": "offer", "sdp": "..."}, as RTCPeerConnection.localDescription gives it'
_FULL = "{} viewers already; close one of them"
_CODECS = {"jpeg": Encoding.JPEG, "rgba": Encoding.RGBA8, "rgb": Encoding.RGB8}
_BOUNDARY = "frame"
# Close codes from 4000 are the application's own.
_CLOSE_BAD_REQUEST = 4400
_CLOSE_TOKEN = 4401
_CLOSE_UNKNOWN_CHANNEL = 4404
_CLOSE_TAKEN = 4409


class GatewayError(RuntimeError):
    """The gateway cannot start. The message says how to fix it."""


class GatewayPortInUse(GatewayError):
    """Another program holds the TCP port."""


@dataclasses.dataclass(frozen=True)
class Channel:
    """One channel that a gateway shows: the rings name.in and name.out, which need not exist yet.

    live, statistics: of its host, when that runs in this process; without them the pictures are shown and the
    parameters are not. examples: prompts that the page offers.
    """

    name: str
    live: LiveParams | None = None
    statistics: Statistics | None = None
    examples: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Room:
    """One channel while it is served."""

    about: Channel
    sides: dict[str, RingView]

    def params(self) -> dict[str, Any]:
        """The message with the values in force; without a host in this process there are none."""
        if self.about.live is None:
            return {"type": "params", "revision": 0, "values": {}}
        params, revision = self.about.live.latest()
        return {"type": "params", "revision": revision, "values": dataclasses.asdict(params)}


class _Line:
    """One WebSocket: how much may come over it, and how it ends."""

    def __init__(self, request: web.Request, ws: web.WebSocketResponse) -> None:
        self.socket = ws
        self._transport = request.transport
        self.closing = False
        """A close frame was sent: nothing may follow it."""
        self._messages = TokenBucket(MESSAGES_PER_S, 2.0 * MESSAGES_PER_S, saved=MESSAGES_PER_S)

    def abort(self) -> None:
        """Cut the connection: nothing more can be said over it."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self, code: int, reason: str) -> None:
        """Close with a reason; a viewer that does not take it within the time is cut off."""
        self.closing = True
        # A close frame holds at most 123 bytes of reason.
        words = reason.encode("utf-8")[:123].decode("utf-8", "ignore").encode("utf-8")
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self.socket.close(code=code, message=words)
        except TimeoutError:
            self.abort()

    async def within_limits(self, size: int, most: int) -> bool:
        """Count one message; closes, and returns False, when it is too large or one too many."""
        too_many = self._messages.take(1.0) > 0.0
        if size > most:
            await self.close(WSCloseCode.MESSAGE_TOO_BIG, f"a message of {size} characters; send at most {most}")
            return False
        if too_many:
            reason = f"too many messages; send at most {MESSAGES_PER_S} per second"
            await self.close(WSCloseCode.POLICY_VIOLATION, reason)
            return False
        return True


class _Viewer:
    """Somebody who looks at one side, owed one frame at most: the newest, when there is credit for it."""

    def __init__(self, side: RingView, codec: Encoding) -> None:
        self.side = side
        self.codec = codec
        self.credits = 0
        self.shown: tuple[int, int] | None = None
        self.offered: Packet | None = None
        self.state_told = ""
        self.wake = asyncio.Event()
        self.busy = False
        """A frame is on its way into a connection that does not take it yet: none is encoded for it meanwhile."""

    @property
    def waits(self) -> bool:
        """Whether a new frame would be sent at once."""
        return self.credits > 0 and not self.busy

    def tell(self, kind: str, text: str) -> None:
        """Owe the viewer `text`, where it can take any."""

    def take(self) -> Packet | None:
        """The frame that is owed, paid for with a credit."""
        packet, self.offered = self.offered, None
        if packet is None or self.credits == 0:
            return None
        self.credits -= 1
        self.shown = packet.key
        self.side.sent += 1
        return packet


class _Visitor(_Viewer):
    """A viewer on a WebSocket. Everything it is owed is bounded: one frame, one text per kind, a few answers."""

    def __init__(self, line: _Line, room: _Room, side: RingView, codec: Encoding) -> None:
        super().__init__(side, codec)
        self.line = line
        self.room = room
        self.texts: dict[str, str] = {}
        self.replies: deque[str] = deque(maxlen=32)

    def tell(self, kind: str, text: str) -> None:
        """Owe the viewer `text`; a newer text of the same kind replaces one not sent yet."""
        self.texts[kind] = text
        self.wake.set()

    def reply(self, kind: str, **about: Any) -> None:
        """Owe the viewer an answer to one of its messages."""
        self.replies.append(json.dumps({"type": kind, **about}))
        self.wake.set()


class Gateway:
    """Serves the pages of some channels between `start()` and `stop()`, from threads of its own.

    channels: at least one; the first is shown where a request names none. host, port: where to listen, loopback unless
    somebody asks for more; port 0 takes any free one and `port` then tells which. token: a word that everybody must
    bring, needed beyond loopback. allowed_origins: pages of other origins ("https://example.org") that may open the
    WebSocket. allowed_hosts: further names by which browsers may address this machine, when it listens beyond
    loopback. start_page: the path that `url` leads to. ice_servers: "stun:HOST:PORT" for WebRTC, see `Peer`.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        host: str = "127.0.0.1",
        port: int = 8790,
        *,
        token: str | None = None,
        allowed_origins: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
        start_page: str = "",
        ice_servers: Iterable[str] = (),
    ) -> None:
        names = [channel.name for channel in channels]
        if not names or len(set(names)) < len(names):
            raise GatewayError(f"channels {', '.join(names) or '(none)'}: give at least one, and each once")
        self.channel = names[0]
        self.host = host
        self.port = port
        self._channels = tuple(channels)
        self._token = token
        self._start_page = start_page
        self._ice_servers = tuple(ice_servers)
        for server in self._ice_servers:
            if not re.fullmatch(r"stun:[A-Za-z0-9.-]+(:\d{1,5})?", server):
                raise GatewayError(f"{server!r} names no server; give it as stun:HOST:PORT")
        self._access = Access(host, token, allowed_origins, allowed_hosts)
        self._rooms: dict[str, _Room] = {}
        self._files: dict[str, tuple[Path, dict[str, str]]] = {}
        self._viewers: set[_Viewer] = set()
        self._senders: set[_Line] = set()
        self._peers: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """The address to open in a browser on this machine, with the token."""
        return self._address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host))

    @property
    def far_url(self) -> str | None:
        """The address to open on another machine, with the token; None when only this machine is served."""
        if is_loopback(self.host):
            return None
        return self._address(_outward_address() if self.host in ("0.0.0.0", "::") else self.host)

    def _address(self, host: str) -> str:
        token = f"?token={self._token}" if self._token is not None else ""
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{self._start_page}{token}"

    def start(self) -> None:
        """Listen, and begin to serve; returns when the page can be opened.

        Raises `GatewayPortInUse` when another program holds the port, `GatewayError` when the address cannot be
        bound or the page's files are missing.
        """
        if self._thread is not None:
            raise GatewayError("the gateway is already running; stop() it first")
        if self._token is None and not is_loopback(self.host):
            raise GatewayError(
                f"{self.host} is reached from other machines, which takes a token: give one, or listen on 127.0.0.1"
            )
        if self._token is not None and not re.fullmatch(f"[A-Za-z0-9_-]{{{MIN_TOKEN_CHARS},128}}", self._token):
            raise GatewayError(f"the token must be {MIN_TOKEN_CHARS} to 128 characters of A-Z a-z 0-9 _ -")
        self._files = _files()
        listener = _listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._rooms = {
            channel.name: _Room(channel, {name: RingView(channel.name, name, self._publish) for name in SIDES})
            for channel in self._channels
        }
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="gateway", daemon=True)
        self._thread.start()
        ready.wait()
        for side in self._all_sides():
            side.start()

    def _all_sides(self) -> list[RingView]:
        return [side for room in self._rooms.values() for side in room.sides.values()]

    def stop(self) -> None:
        """Close every viewer with a reason and free the port; harmless when not running."""
        if self._thread is None:
            return
        for side in self._all_sides():
            side.stop()
        self._post(self._leave)
        self._thread.join()
        self._thread = self._loop = self._leaving = None

    def snapshot(self, channel: str | None = None) -> dict[str, Any]:
        """The statistics of the channel's host and what the gateway itself did, as plain JSON-able values."""
        room = self._rooms[channel or self.channel]
        statistics = room.about.statistics
        rings = {
            s.name: {"state": s.state, "message": s.message, "encoded": s.encoded, "sent": s.sent}
            for s in room.sides.values()
        }
        return {
            **(statistics.snapshot(STATS_LOOK_BACK_S) if statistics is not None else {}),
            "now_ns": now_ns(),
            "viewers": len(self._viewers),
            "senders": len(self._senders),
            "rings": rings,
        }

    # ---- the loop's thread from here on

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(listener, ready))
        except Exception:
            _log.exception("gateway: the server ended")
        finally:
            listener.close()
            ready.set()

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._leaving = asyncio.Event()
        application = web.Application(middlewares=[self._guard], client_max_size=MAX_MESSAGE_BYTES)
        for path in self._files:
            application.router.add_get(path, self._file)
        application.router.add_get("/favicon.ico", self._no_icon)
        application.router.add_get("/api/channels", self._api_channels)
        application.router.add_get("/api/params", self._api_params)
        application.router.add_get("/api/stats", self._api_stats)
        application.router.add_get("/snapshot.jpg", self._snapshot)
        application.router.add_get("/stream.mjpg", self._stream)
        application.router.add_post("/webrtc", self._webrtc)
        application.router.add_get("/ws", self._watch)
        application.router.add_get("/send", self._send)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await runner.setup()
        unsubscribe = [self._follow(room) for room in self._rooms.values()]
        try:
            await web.SockSite(runner, listener).start()
            ready.set()
            ticking = asyncio.create_task(self._tick())
            await self._leaving.wait()
            ticking.cancel()
            lines = [*self._senders, *(v.line for v in self._viewers if isinstance(v, _Visitor))]
            await asyncio.gather(*(line.close(WSCloseCode.GOING_AWAY, "the host is stopping") for line in lines))
        finally:
            for end in unsubscribe:
                end()
            await runner.cleanup()
            # No request is left that could add one.
            for peer in self._peers:
                peer.cancel()
            await asyncio.gather(*self._peers, return_exceptions=True)

    def _follow(self, room: _Room) -> Callable[[], None]:
        """Tell the viewers of a channel what anybody sets; returns what ends it."""
        if room.about.live is None:
            return lambda: None
        return room.about.live.subscribe(lambda params, revision: self._post(self._params_changed, room))

    def _leave(self) -> None:
        if self._leaving is not None:
            self._leaving.set()

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        """Run `call` on the loop's thread soon; nothing when the loop is not there any more."""
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            _log.debug("gateway: the loop has ended")

    def _publish(self, side: RingView, packets: dict[Encoding, Packet]) -> None:
        """Called by a side's reader thread: its frame or its state is new."""
        self._post(self._offer, side, packets, json.dumps(side.report()))

    def _offer(self, side: RingView, packets: dict[Encoding, Packet], state: str) -> None:
        if packets:
            side.packets = packets
        for viewer in self._viewers:
            if viewer.side is not side:
                continue
            if viewer.state_told != state:
                viewer.state_told = state
                viewer.tell("state", state)
            packet = side.packets.get(viewer.codec)
            if packet is not None and packet.key != viewer.shown and viewer.credits > 0:
                viewer.offered = packet
                viewer.wake.set()
        self._want(side)

    def _want(self, side: RingView) -> None:
        side.wanted = frozenset(v.codec for v in self._viewers if v.side is side and v.waits)
        if side.wanted:
            side.wake.set()

    def _params_changed(self, room: _Room) -> None:
        text = json.dumps(room.params())
        for viewer in self._viewers:
            if viewer.side.channel == room.about.name:
                viewer.tell("params", text)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(STATS_EVERY_S)
            for name in {viewer.side.channel for viewer in self._viewers}:
                text = json.dumps({"type": "stats", **self.snapshot(name)})
                for viewer in self._viewers:
                    if viewer.side.channel == name:
                        viewer.tell("stats", text)

    # ---- plain requests

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse what a hostile page could make a browser send: foreign names (DNS rebinding), foreign origins."""
        name = host_name(request.host)
        if not self._access.is_ours(name):
            raise web.HTTPForbidden(
                text=f"the name {name!r} is not this gateway's; open {self._plain_url}, or allow the name at the start"
            )
        origin = request.headers.get("Origin")
        readable = {}
        if origin is not None and self._access.is_allowed_origin(origin):
            readable = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        try:
            # The WebSockets say it in words that a page can read: a refused handshake tells it nothing.
            if request.path not in self._files and request.path not in _WEBSOCKETS:
                if not self._access.has_token(request.query.get("token")):
                    raise web.HTTPUnauthorized(text=_TOKEN_MENDED)
            response = await handler(request)
        except web.HTTPException as refusal:
            refusal.headers.update(readable)
            raise
        if not response.prepared:
            # What a file brings of its own stands: its content policy.
            response.headers.update({**_SECURITY, **response.headers, **readable})
        return response

    @property
    def _plain_url(self) -> str:
        return self.url.split("?", 1)[0]

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path, headers = self._files[request.path]
        return web.FileResponse(path, headers=headers)

    async def _no_icon(self, request: web.Request) -> web.StreamResponse:
        """Browsers ask by themselves beside what has no icon of its own, a snapshot or a script, and log a failure."""
        return web.Response(status=204)

    def _room_of(self, request: web.Request) -> _Room:
        """The channel that a plain request names."""
        name = request.query.get("channel", self.channel)
        if name not in self._rooms:
            raise web.HTTPNotFound(text=self._unknown(name))
        return self._rooms[name]

    def _unknown(self, name: str) -> str:
        known = ", ".join(map(repr, self._rooms))
        return f"unknown channel {name[:40]!r}; this gateway serves {known}"

    async def _api_channels(self, request: web.Request) -> web.StreamResponse:
        about = [
            {
                "name": name,
                "host": room.about.live is not None,
                "examples": room.about.examples,
                "sides": {side.name: {"state": side.state, "message": side.message} for side in room.sides.values()},
            }
            for name, room in self._rooms.items()
        ]
        return web.json_response({"channels": about})

    async def _api_params(self, request: web.Request) -> web.StreamResponse:
        room = self._room_of(request)
        return web.json_response(
            {
                **room.params(),
                "channel": room.about.name,
                "specs": [dataclasses.asdict(spec) for spec in SPECS.values()] if room.about.live is not None else [],
                "examples": room.about.examples,
            }
        )

    async def _api_stats(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.snapshot(self._room_of(request).about.name))

    # ---- pictures for whatever shows an <img>

    def _picture_side(self, request: web.Request) -> RingView:
        if not self._access.may_embed(request.headers.get("Sec-Fetch-Site")):
            raise web.HTTPForbidden(text="pages of other sites may show this picture only with a token")
        return self._side_of(request)

    def _side_of(self, request: web.Request) -> RingView:
        """The side that a plain request names, when there is room for one viewer more."""
        room, name = self._room_of(request), request.query.get("side", "out")
        if name not in room.sides:
            raise web.HTTPBadRequest(text=f"unknown side {name[:40]!r}; in or out")
        if self._full:
            raise web.HTTPServiceUnavailable(text=_FULL.format(MAX_VIEWERS))
        return room.sides[name]

    @property
    def _full(self) -> bool:
        return len(self._viewers) + len(self._senders) >= MAX_VIEWERS

    @contextlib.contextmanager
    def _watching(self, viewer: _Viewer) -> Iterator[None]:
        self._viewers.add(viewer)
        try:
            yield
        finally:
            self._viewers.discard(viewer)
            self._want(viewer.side)

    async def _picture_for(self, viewer: _Viewer, timeout_s: float) -> Packet | None:
        """The newest frame that the viewer has not had; None after `timeout_s` seconds without one."""
        viewer.credits = 1
        self._want(viewer.side)
        try:
            async with asyncio.timeout(timeout_s):
                while (packet := viewer.take()) is None:
                    viewer.wake.clear()
                    await viewer.wake.wait()
        except TimeoutError:
            return None
        return packet

    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        viewer = _Viewer(self._picture_side(request), Encoding.JPEG)
        with self._watching(viewer):
            packet = await self._picture_for(viewer, SNAPSHOT_S)
        if packet is None:
            raise web.HTTPServiceUnavailable(text=viewer.side.message or f"no picture on {viewer.side.ring} yet")
        return web.Response(body=packet.data[PACKET.size :], content_type="image/jpeg", headers=_NOT_KEPT)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Motion JPEG without end."""
        viewer = _Viewer(self._picture_side(request), Encoding.JPEG)
        stream = web.StreamResponse(headers={**_SECURITY, **_NOT_KEPT})
        stream.content_type = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        with self._watching(viewer):
            await stream.prepare(request)
            shown: Packet | None = None
            try:
                async with asyncio.timeout(None) as patience:
                    await stream.write(f"--{_BOUNDARY}\r\n".encode())
                    while self._leaving is not None and not self._leaving.is_set():
                        patience.reschedule(None)
                        shown = await self._picture_for(viewer, STREAM_REPEAT_S) or shown
                        if shown is None:
                            continue
                        patience.reschedule(asyncio.get_running_loop().time() + SEND_TIMEOUT_S)
                        await stream.write(_part(shown))
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
            except ConnectionError:
                # It has left: that is how a stream ends.
                pass
        return stream

    # ---- viewers by WebRTC

    async def _webrtc(self, request: web.Request) -> web.StreamResponse:
        """Answer one viewer's offer; its pictures then go by a connection of their own."""
        self._check_origin(request)
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

        viewer = _Viewer(self._side_of(request), Encoding.RGB8)
        with contextlib.ExitStack() as visit:
            visit.enter_context(self._watching(viewer))
            peer = Peer(lambda timeout_s: self._picture_for(viewer, timeout_s), self._ice_servers)
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
        return web.json_response({"type": "answer", "sdp": answer}, headers=_NOT_KEPT)

    async def _accompany(self, peer: Peer, visit: contextlib.ExitStack) -> None:
        """Count a connection as a viewer until it ends."""
        with visit:
            try:
                await peer.gone()
            finally:
                await peer.close()

    # ---- viewers by WebSocket

    def _check_origin(self, request: web.Request) -> None:
        if not self._access.may_connect(request.headers.get("Origin"), request.host):
            raise web.HTTPForbidden(text="pages of this origin may not connect; open the gateway's own page")

    async def _open(self, request: web.Request, max_bytes: int) -> web.WebSocketResponse:
        self._check_origin(request)
        # Pictures do not deflate.
        ws = web.WebSocketResponse(heartbeat=HEARTBEAT_S, compress=False, max_msg_size=max_bytes)
        await ws.prepare(request)
        return ws

    async def _enter(self, request: web.Request, line: _Line) -> _Room | None:
        """The channel that is asked for; None when the line was closed instead."""
        query = request.query
        channel = query.get("channel", self.channel)
        if not self._access.has_token(query.get("token")):
            await line.close(_CLOSE_TOKEN, _TOKEN_MENDED)
        elif channel not in self._rooms:
            await line.close(_CLOSE_UNKNOWN_CHANNEL, self._unknown(channel))
        elif self._full:
            await line.close(WSCloseCode.TRY_AGAIN_LATER, _FULL.format(MAX_VIEWERS))
        else:
            return self._rooms[channel]
        return None

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        # The limit is the hard one; the one with a reason is in _listen_to.
        ws = await self._open(request, 4 * MAX_MESSAGE_BYTES)
        async with _lingering(request):
            line = _Line(request, ws)
            room = await self._enter(request, line)
            name, codec = request.query.get("side", "out"), request.query.get("codec", "jpeg")
            if room is None:
                pass
            elif name not in room.sides:
                await line.close(_CLOSE_BAD_REQUEST, f"unknown side {name[:40]!r}; in or out")
            elif codec not in _CODECS:
                await line.close(_CLOSE_BAD_REQUEST, f"unknown codec {codec[:40]!r}; {', '.join(_CODECS)}")
            else:
                await self._attend(_Visitor(line, room, room.sides[name], _CODECS[codec]))
        return ws

    async def _attend(self, viewer: _Visitor) -> None:
        """Serve one viewer until it leaves."""
        side = viewer.side
        viewer.tell("hello", json.dumps({"type": "hello", "channel": side.channel, "side": side.name}))
        viewer.tell("params", json.dumps(viewer.room.params()))
        viewer.tell("state", json.dumps(side.report()))
        with self._watching(viewer):
            sending = asyncio.create_task(self._send_to(viewer))
            try:
                await self._listen_to(viewer)
            finally:
                sending.cancel()

    async def _send_to(self, viewer: _Visitor) -> None:
        ws = viewer.line.socket
        try:
            while True:
                await viewer.wake.wait()
                viewer.wake.clear()
                if viewer.line.closing:
                    return
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    while viewer.replies:
                        await ws.send_str(viewer.replies.popleft())
                    texts, viewer.texts = viewer.texts, {}
                    for text in texts.values():
                        await ws.send_str(text)
                    packet = viewer.take()
                    if packet is not None:
                        viewer.busy = True
                        await ws.send_bytes(packet.data)
                        viewer.busy = False
                        self._want(viewer.side)
        except TimeoutError:
            # It does not read: nothing more can be said to it.
            viewer.line.abort()
        except (ConnectionError, RuntimeError):
            # It left, or is being closed, while we were sending. The receiving side ends the visit; to abort here would
            # take the close frame away from a viewer that has not read it yet.
            return

    async def _listen_to(self, viewer: _Visitor) -> None:
        line = viewer.line
        async for message in line.socket:
            if message.type == WSMsgType.BINARY:
                reason = "binary messages are not taken here; send JSON objects, and pictures to /send"
                await line.close(WSCloseCode.UNSUPPORTED_DATA, reason)
            elif message.type == WSMsgType.TEXT:
                if await line.within_limits(len(message.data), MAX_MESSAGE_BYTES):
                    await self._hear(viewer, message.data)

    async def _hear(self, viewer: _Visitor, text: str) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            reason = 'not a JSON object; send {"type": "credit", "n": 1} and the like'
            await viewer.line.close(WSCloseCode.INVALID_TEXT, reason)
            return
        kind = message.get("type")
        if kind == "credit":
            n = message.get("n", 1)
            if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_IN_FLIGHT:
                viewer.reply("error", message=f"credit: send n from 1 to {MAX_IN_FLIGHT}")
                return
            viewer.credits = min(MAX_IN_FLIGHT, viewer.credits + n)
            self._want(viewer.side)
        elif kind == "set":
            name = message.get("name")
            self._set(viewer, message, {str(name): message.get("value")}, str(name))
        elif kind == "update" and isinstance(message.get("values"), dict):
            self._set(viewer, message, message["values"], None)
        elif kind == "get":
            viewer.tell("params", json.dumps(viewer.room.params()))
        elif kind == "clock":
            about = {"id": message["id"]} if isinstance(message.get("id"), int) else {}
            viewer.reply("clock", now_ns=now_ns(), **about)
        else:
            viewer.reply("error", message='unknown type; known are credit, set, update (with "values"), get and clock')

    def _set(self, viewer: _Visitor, message: dict[str, Any], values: dict[str, Any], name: str | None) -> None:
        about: dict[str, Any] = {} if name is None else {"name": name[:100]}
        if isinstance(message.get("id"), int):
            about["id"] = message["id"]
        live = viewer.room.about.live
        if live is None:
            reason = f"the host of {viewer.side.channel} is another program; set it by OSC or on that host's page"
            viewer.reply("error", message=reason, **about)
            return
        try:
            live.update(values)
        except ParamError as error:
            viewer.reply("error", message=_clip(str(error)), **about)
        else:
            viewer.reply("ok", revision=live.revision, **about)

    # ---- senders

    async def _send(self, request: web.Request) -> web.StreamResponse:
        """Take a viewer's pictures as the input of a channel; it is the one writer of the ring as long as it stays."""
        ws = await self._open(request, MAX_UPLOAD_BYTES + 1)
        async with _lingering(request):
            line = _Line(request, ws)
            room = await self._enter(request, line)
            if room is None:
                return ws
            # Counted before the ring is opened, so that the limit holds while many ask at once.
            self._senders.add(line)
            try:
                upload = await asyncio.to_thread(Upload, room.about.name)
            except WriterExists as error:
                await line.close(_CLOSE_TAKEN, f"taken: {error}")
            except RingError as error:
                await line.close(WSCloseCode.INTERNAL_ERROR, str(error))
            else:
                try:
                    await self._take_in(line, upload)
                finally:
                    await asyncio.to_thread(upload.close)
            finally:
                self._senders.discard(line)
        return ws

    async def _take_in(self, line: _Line, upload: Upload) -> None:
        async def say(**message: Any) -> None:
            # A sender that does not read would hold the channel for ever.
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await line.socket.send_json(message)

        try:
            await say(type="hello", ring=upload.ring)
            await say(type="credit", n=MAX_IN_FLIGHT)
            async for message in line.socket:
                if message.type == WSMsgType.TEXT:
                    reason = "only pictures are taken here; send packets, and JSON objects to /ws"
                    await line.close(WSCloseCode.UNSUPPORTED_DATA, reason)
                elif message.type == WSMsgType.BINARY and await line.within_limits(len(message.data), MAX_UPLOAD_BYTES):
                    try:
                        await asyncio.to_thread(upload.write, message.data)
                    except PacketError as error:
                        await line.close(WSCloseCode.INVALID_TEXT, f"not a frame packet: {error}")
                        continue
                    except (BadPicture, RingError) as error:
                        await say(type="error", message=_clip(str(error)))
                    await say(type="credit", n=1)
        except TimeoutError:
            line.abort()
        except (ConnectionError, RuntimeError):
            # It left while we were answering.
            return


def _load_webrtc() -> None:
    """Raises ImportError where the extra is not installed."""
    import bridge.page.webrtc  # noqa: F401


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise GatewayError(f"port {port}: send a port from 1 to 65535, or 0 for any free one")
    if not is_name(host):
        raise GatewayError(f"{host!r} is no address; use one of this machine (127.0.0.1, or 0.0.0.0 for all)")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES) and port >= 1024:
            raise GatewayPortInUse(
                f"port {port} on {host} is taken by another program; "
                f"choose another port (--port {port + 1 if port < 65535 else 8790}, or 0 for any) or end that program"
            ) from error
        raise GatewayError(
            f"the page cannot listen on {host} port {port}: {error.strerror or error}; "
            "use an address of this machine (127.0.0.1, or 0.0.0.0 for all) and a port above 1023"
        ) from error
    listener.setblocking(False)
    return listener


def _outward_address() -> str:
    """The address by which this machine speaks to others; asks the routing table and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address


def _files() -> dict[str, tuple[Path, dict[str, str]]]:
    """What is served as it is: request path, file and headers. Nothing else can be asked for.

    Raises `GatewayError` when the page is not there.
    """
    found: dict[str, tuple[Path, dict[str, str]]] = {}
    for folder in _FOLDERS:
        for path in sorted((WEB / folder).glob("*")):
            if path.suffix not in (".html", ".js", ".css"):
                continue
            headers = dict(_SECURITY)
            if path.suffix == ".html":
                headers["Content-Security-Policy"] = _POLICY.format(_import_map(path.read_text(encoding="utf-8")))
            name = path.relative_to(WEB).as_posix()
            found[f"/{name}"] = (path, headers)
            if path.name == "index.html":
                found["/" + name.removesuffix("index.html")] = (path, headers)
    missing = [name for name in _NEEDED if f"/{name}" not in found]
    if missing:
        raise GatewayError(f"clients/web lacks {', '.join(missing)}; restore it from the repository")
    return found


def _import_map(html: str) -> str:
    """The content policy's leave for the page's import map, the one script that browsers want inside the page."""
    found = re.search('<script type="importmap">(.*?)</script>', html, re.DOTALL)
    if found is None:
        return ""
    return f" 'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"


def _part(packet: Packet) -> bytes:
    """One picture of a stream. The boundary follows at once: browsers show a picture when they have seen it."""
    jpeg = packet.data[PACKET.size :]
    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + f"\r\n--{_BOUNDARY}\r\n".encode()


def _clip(text: str) -> str:
    return text if len(text) <= 500 else text[:497] + "..."


@contextlib.asynccontextmanager
async def _lingering(request: web.Request) -> AsyncIterator[None]:
    """Keep the connection until the viewer has seen why it was closed.

    A system that closes a socket with unread input resets the connection, and the close frame under way is lost with
    it. So the socket is held by a second descriptor, and after the server's own close what still comes is read and
    thrown away until the viewer has closed too, for `LINGER_S` and `LINGER_BYTES` at most.
    """
    transport = request.transport
    if transport is None:
        yield
        return
    own: socket.socket = transport.get_extra_info("socket")
    held = own.dup()
    try:
        yield
        if transport.is_closing():
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await _discard(own, held)
            transport.abort()
    finally:
        held.close()


async def _discard(own: socket.socket, held: socket.socket) -> None:
    """Read from `held` until its peer ends or has sent too much; end our direction once `own` has sent everything."""
    while own.fileno() != -1:
        await asyncio.sleep(0.01)
    held.shutdown(socket.SHUT_WR)
    loop = asyncio.get_running_loop()
    left = LINGER_BYTES
    while left > 0 and (data := await loop.sock_recv(held, 1 << 16)):
        left -= len(data)

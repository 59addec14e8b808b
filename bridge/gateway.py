"""The page and its WebSocket: a reader of both rings of a channel that shows them in browsers.

One thread per ring encodes the newest frame, once, when some viewer waits for one; one thread runs the asyncio loop
that serves them all. Knows nothing of the stream: it reads rings like any other process and sets `LiveParams`.
The only user of aiohttp. The messages are described in clients/web/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import ipaddress
import json
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, WSMsgType, web

from bridge.live import LiveParams
from bridge.packet import WEB, Codec
from bridge.picture import Packet, Picture, encode, take
from bridge.ring import RingError, RingReader, State
from bridge.statistics import Statistics
from core.params import SPECS, ParamError

_log = logging.getLogger(__name__)

SIDES = ("in", "out")
MAX_VIEWERS = 16
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

_POLL_S = 0.2
_RETRY_S = 0.5
_FILES = {"/": "index.html", "/index.html": "index.html", "/app.js": "app.js", "/style.css": "style.css"}
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_CODECS = {"jpeg": Codec.JPEG, "rgba": Codec.RGBA8, "rgb": Codec.RGB8}
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# Close codes from 4000 are the application's own.
_CLOSE_BAD_REQUEST = 4400
_CLOSE_UNKNOWN_CHANNEL = 4404


class GatewayError(RuntimeError):
    """The gateway cannot start. The message names the mend."""


class GatewayPortInUse(GatewayError):
    """Another program holds the TCP port."""


class _Side:
    """One ring of the channel: its reader thread, its newest frame in the encodings that viewers wait for."""

    def __init__(self, channel: str, name: str, publish: Callable[[_Side, dict[Codec, Packet]], None]) -> None:
        self.name = name
        self.ring = f"{channel}.{name}"
        # Set by the loop's thread, read by the reader thread; one reference each, replaced whole.
        self.wanted: frozenset[Codec] = frozenset()
        self.wake = threading.Event()
        # Set by the reader thread.
        self.state = "no-writer"
        self.message = ""
        self.encoded = 0
        # Touched by the loop's thread only.
        self.packets: dict[Codec, Packet] = {}
        self.sent = 0
        self._publish = publish
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"gateway {self.ring}", daemon=True)
        self._describe("no-writer", "")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self.wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with RingReader(self.ring) as reader:
                    self._read(reader)
            except RingError as error:
                self._describe("error", str(error))
                self._publish(self, {})
                self._stopping.wait(_RETRY_S)
            except Exception:
                _log.exception("gateway: reading %s failed; trying again", self.ring)
                self._describe("error", f"reading {self.ring} failed; the log of the host says why")
                self._publish(self, {})
                self._stopping.wait(_RETRY_S)

    def _read(self, reader: RingReader) -> None:
        picture: Picture | None = None
        packets: dict[Codec, Packet] = {}
        while not self._stopping.is_set():
            state = _STATES[reader.state]
            # The writer of an unreadable ring is alive too: only a picture taken says that it can be read again.
            if (state != "live" or self.state != "error") and self._describe(state, ""):
                self._publish(self, dict(packets))
            if not self.wanted:
                if state == "writer-gone" and (last := take(reader, 0.0)) is not None:
                    # Kept for viewers to come; and the reader follows a new writer only when nothing is left unread.
                    picture, packets = last, {}
                self.wake.wait(_POLL_S)
                self.wake.clear()
                continue
            newer = take(reader, 0.0)
            if newer is None:
                # A viewer that has just come, or asks again, gets the frame that the others have.
                if picture is not None:
                    self._encode(picture, packets)
                newer = take(reader, _POLL_S)
            if newer is not None:
                picture, packets = newer, {}
                self._describe("live", "")
                self._encode(picture, packets)

    def _encode(self, picture: Picture, packets: dict[Codec, Packet]) -> None:
        """Add what is wanted and not there yet, and hand everything to the viewers."""
        for codec in self.wanted:
            if codec not in packets:
                packets[codec] = encode(picture, codec)
                self.encoded += 1
        # Cleared before the hand-over: what the loop sets from here on is a new wish.
        self.wanted = frozenset()
        self._publish(self, dict(packets))

    def _describe(self, state: str, message: str) -> bool:
        """Note the ring's state for people; returns whether it changed."""
        if not message:
            message = _STATE_MESSAGES[state].format(ring=self.ring)
        changed = (state, message) != (self.state, self.message)
        self.message = message
        self.state = state
        return changed


_STATES = {State.NO_WRITER: "no-writer", State.LIVE: "live", State.WRITER_GONE: "writer-gone"}
_STATE_MESSAGES = {
    "no-writer": "no writer on {ring} yet",
    "live": "",
    "writer-gone": "the writer of {ring} is gone; the last frame stays",
    "error": "{ring} cannot be read",
}


class _Viewer:
    """One WebSocket. Everything it is owed is bounded: one frame, one text per kind, a few errors."""

    def __init__(self, socket: web.WebSocketResponse, side: _Side, codec: Codec, abort: Callable[[], None]) -> None:
        self.socket = socket
        self.side = side
        self.codec = codec
        self.abort = abort
        self.credits = 0
        self.shown: tuple[int, int] | None = None
        self.offered: Packet | None = None
        self.state_told = ""
        self.texts: dict[str, str] = {}
        self.replies: deque[str] = deque(maxlen=32)
        self.wake = asyncio.Event()
        self.closing = False
        """A close frame was sent: nothing may follow it."""
        self.messages_left = float(MESSAGES_PER_S)
        self.messages_at = time.monotonic()

    def tell(self, kind: str, text: str) -> None:
        """Owe the viewer `text`; a newer text of the same kind replaces one not sent yet."""
        self.texts[kind] = text
        self.wake.set()

    def reply(self, kind: str, **about: Any) -> None:
        """Owe the viewer an answer to one of its messages."""
        self.replies.append(json.dumps({"type": kind, **about}))
        self.wake.set()

    def over_limit(self) -> bool:
        """Count one message; True when the viewer sends too many."""
        now = time.monotonic()
        saved = self.messages_left + (now - self.messages_at) * MESSAGES_PER_S
        self.messages_left = min(2.0 * MESSAGES_PER_S, saved) - 1.0
        self.messages_at = now
        return self.messages_left < 0.0


class Gateway:
    """Serves the page of one channel between `start()` and `stop()`, from threads of its own.

    channel: reads the rings channel.in and channel.out, which need not exist yet. host, port: where to listen,
    loopback unless somebody asks for more; port 0 takes any free one and `port` then tells which. examples: prompts
    that the page offers. allowed_origins: pages of other origins ("https://example.org") that may open the WebSocket.
    allowed_hosts: further names by which browsers may address this machine, when it listens beyond loopback.
    """

    def __init__(
        self,
        channel: str,
        live: LiveParams,
        statistics: Statistics,
        host: str = "127.0.0.1",
        port: int = 8790,
        *,
        examples: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
    ) -> None:
        self.channel = channel
        self.host = host
        self.port = port
        self._live = live
        self._statistics = statistics
        self._examples = tuple(examples)
        self._allowed_origins = frozenset(origin.rstrip("/").lower() for origin in allowed_origins)
        self._allowed_hosts = _LOOPBACK_NAMES | {name.lower() for name in allowed_hosts}
        self._sides: dict[str, _Side] = {}
        self._viewers: set[_Viewer] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """The address to open in a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{self.port}/"

    def start(self) -> None:
        """Listen, and begin to serve; returns when the page can be opened.

        Raises `GatewayPortInUse` when another program holds the port, `GatewayError` when the address cannot be
        bound or the page's files are missing.
        """
        if self._thread is not None:
            raise GatewayError("the gateway is already running; stop() it first")
        missing = [name for name in set(_FILES.values()) if not (WEB / name).is_file()]
        if missing:
            raise GatewayError(f"clients/web lacks {', '.join(sorted(missing))}; restore it from the repository")
        listener = _listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._sides = {name: _Side(self.channel, name, self._publish) for name in SIDES}
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="gateway", daemon=True)
        self._thread.start()
        ready.wait()
        for side in self._sides.values():
            side.start()

    def stop(self) -> None:
        """Close every viewer with a reason and free the port; harmless when not running."""
        if self._thread is None:
            return
        for side in self._sides.values():
            side.stop()
        self._post(self._leave)
        self._thread.join()
        self._thread = self._loop = self._leaving = None

    def snapshot(self) -> dict[str, Any]:
        """The statistics of the host and what the gateway itself did, as plain JSON-able values."""
        rings = {
            s.name: {"state": s.state, "message": s.message, "encoded": s.encoded, "sent": s.sent}
            for s in self._sides.values()
        }
        return {
            **self._statistics.snapshot(STATS_LOOK_BACK_S),
            "now_ns": time.monotonic_ns(),
            "viewers": len(self._viewers),
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
        application = web.Application(middlewares=[self._guard])
        for path in _FILES:
            application.router.add_get(path, self._file)
        application.router.add_get("/api/params", self._api_params)
        application.router.add_get("/api/stats", self._api_stats)
        application.router.add_get("/ws", self._websocket)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await runner.setup()
        unsubscribe = self._live.subscribe(lambda params, revision: self._post(self._params_changed))
        try:
            await web.SockSite(runner, listener).start()
            ready.set()
            ticking = asyncio.create_task(self._tick())
            await self._leaving.wait()
            ticking.cancel()
            closing = [_close(v, WSCloseCode.GOING_AWAY, "the host is stopping") for v in self._viewers]
            await asyncio.gather(*closing)
        finally:
            unsubscribe()
            await runner.cleanup()

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

    def _publish(self, side: _Side, packets: dict[Codec, Packet]) -> None:
        """Called by a side's reader thread: its frame or its state is new."""
        self._post(self._offer, side, packets, json.dumps(_state_of(side)))

    def _offer(self, side: _Side, packets: dict[Codec, Packet], state: str) -> None:
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

    def _want(self, side: _Side) -> None:
        side.wanted = frozenset(v.codec for v in self._viewers if v.side is side and v.credits > 0)
        if side.wanted:
            side.wake.set()

    def _params_changed(self) -> None:
        text = json.dumps(self._params_message())
        for viewer in self._viewers:
            viewer.tell("params", text)

    def _params_message(self) -> dict[str, Any]:
        params, revision = self._live.latest()
        return {"type": "params", "revision": revision, "values": dataclasses.asdict(params)}

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(STATS_EVERY_S)
            if self._viewers:
                text = json.dumps({"type": "stats", **self.snapshot()})
                for viewer in self._viewers:
                    viewer.tell("stats", text)

    # ---- plain requests

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse what a hostile page could make a browser send: foreign names (DNS rebinding), foreign origins."""
        name = _host_name(request.host)
        if not self._is_ours(name):
            raise web.HTTPForbidden(
                text=f"the name {name!r} is not this gateway's; open {self.url}, or allow the name at the start"
            )
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_SECURITY)
        return response

    def _is_ours(self, name: str) -> bool:
        if name in self._allowed_hosts or name == self.host.lower():
            return True
        # Rebinding needs a name that an attacker's name server answers for; an address cannot be rebound.
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self.host not in _LOOPBACK_NAMES

    def _origin_is_ours(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            # Not a browser: browsers always name the page that opens a WebSocket.
            return True
        if origin.lower() in self._allowed_origins:
            return True
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == request.host.lower()

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(WEB / _FILES[request.path], headers=_SECURITY)

    async def _api_params(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                **self._params_message(),
                "channel": self.channel,
                "specs": [dataclasses.asdict(spec) for spec in SPECS.values()],
                "examples": self._examples,
            }
        )

    async def _api_stats(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.snapshot())

    # ---- viewers

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        if not self._origin_is_ours(request):
            raise web.HTTPForbidden(text="pages of this origin may not connect; open the gateway's own page")
        # Pictures do not deflate; the limit is the hard one, the one with a reason is in _listen_to.
        ws = web.WebSocketResponse(heartbeat=HEARTBEAT_S, compress=False, max_msg_size=4 * MAX_MESSAGE_BYTES)
        await ws.prepare(request)
        async with _lingering(request):
            await self._welcome(request, ws)
        return ws

    async def _welcome(self, request: web.Request, ws: web.WebSocketResponse) -> None:
        query = request.query
        channel, name, codec = query.get("channel", self.channel), query.get("side", "out"), query.get("codec", "jpeg")
        if channel != self.channel:
            reason = f"unknown channel {channel[:40]!r}; this gateway serves {self.channel!r}"
            await ws.close(code=_CLOSE_UNKNOWN_CHANNEL, message=_reason(reason))
        elif name not in self._sides:
            await ws.close(code=_CLOSE_BAD_REQUEST, message=_reason(f"unknown side {name[:40]!r}; in or out"))
        elif codec not in _CODECS:
            reason = f"unknown codec {codec[:40]!r}; {', '.join(_CODECS)}"
            await ws.close(code=_CLOSE_BAD_REQUEST, message=_reason(reason))
        elif len(self._viewers) >= MAX_VIEWERS:
            reason = f"{MAX_VIEWERS} viewers already; close one of them"
            await ws.close(code=WSCloseCode.TRY_AGAIN_LATER, message=_reason(reason))
        else:
            transport = request.transport
            viewer = _Viewer(
                ws,
                self._sides[name],
                _CODECS[codec],
                transport.abort if transport is not None else lambda: None,
            )
            await self._attend(viewer)

    async def _attend(self, viewer: _Viewer) -> None:
        """Serve one viewer until it leaves."""
        side = viewer.side
        viewer.tell("hello", json.dumps({"type": "hello", "channel": self.channel, "side": side.name}))
        viewer.tell("params", json.dumps(self._params_message()))
        viewer.tell("state", json.dumps(_state_of(side)))
        self._viewers.add(viewer)
        sending = asyncio.create_task(self._send_to(viewer))
        try:
            await self._listen_to(viewer)
        finally:
            self._viewers.discard(viewer)
            self._want(side)
            sending.cancel()

    async def _send_to(self, viewer: _Viewer) -> None:
        ws = viewer.socket
        try:
            while True:
                await viewer.wake.wait()
                viewer.wake.clear()
                if viewer.closing:
                    return
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    while viewer.replies:
                        await ws.send_str(viewer.replies.popleft())
                    texts, viewer.texts = viewer.texts, {}
                    for text in texts.values():
                        await ws.send_str(text)
                    packet, viewer.offered = viewer.offered, None
                    if packet is not None and viewer.credits > 0:
                        viewer.credits -= 1
                        viewer.shown = packet.key
                        viewer.side.sent += 1
                        await ws.send_bytes(packet.data)
        except TimeoutError:
            # It does not read: nothing more can be said to it.
            viewer.abort()
        except (ConnectionError, RuntimeError):
            # It left, or is being closed, while we were sending. The receiving side ends the visit; to abort here would
            # take the close frame away from a viewer that has not read it yet.
            return

    async def _listen_to(self, viewer: _Viewer) -> None:
        async for message in viewer.socket:
            if message.type == WSMsgType.BINARY:
                await _close(viewer, WSCloseCode.UNSUPPORTED_DATA, "binary messages are not taken; send JSON objects")
            elif message.type == WSMsgType.TEXT:
                if len(message.data) > MAX_MESSAGE_BYTES:
                    reason = f"a message of {len(message.data)} characters; send at most {MAX_MESSAGE_BYTES}"
                    await _close(viewer, WSCloseCode.MESSAGE_TOO_BIG, reason)
                elif viewer.over_limit():
                    reason = f"too many messages; send at most {MESSAGES_PER_S} per second"
                    await _close(viewer, WSCloseCode.POLICY_VIOLATION, reason)
                else:
                    await self._hear(viewer, message.data)

    async def _hear(self, viewer: _Viewer, text: str) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            reason = 'not a JSON object; send {"type": "credit", "n": 1} and the like'
            await _close(viewer, WSCloseCode.INVALID_TEXT, reason)
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
            viewer.tell("params", json.dumps(self._params_message()))
        else:
            viewer.reply("error", message='unknown type; known are credit, set, update (with "values") and get')

    def _set(self, viewer: _Viewer, message: dict[str, Any], values: dict[str, Any], name: str | None) -> None:
        about: dict[str, Any] = {} if name is None else {"name": name[:100]}
        if isinstance(message.get("id"), int):
            about["id"] = message["id"]
        try:
            self._live.update(values)
        except ParamError as error:
            viewer.reply("error", message=_clip(str(error)), **about)
        else:
            viewer.reply("ok", revision=self._live.revision, **about)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise GatewayError(f"port {port}: send a port from 1 to 65535, or 0 for any free one")
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


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    name = host.lower()
    if name.startswith("["):
        return name[1:].split("]", 1)[0]
    return name.rsplit(":", 1)[0] if name.count(":") == 1 else name


def _state_of(side: _Side) -> dict[str, str]:
    return {"type": "state", "side": side.name, "state": side.state, "message": side.message}


def _reason(text: str) -> bytes:
    # A close frame holds at most 123 bytes of reason.
    return text.encode("utf-8")[:123].decode("utf-8", "ignore").encode("utf-8")


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


async def _close(viewer: _Viewer, code: int, reason: str) -> None:
    """Close with a reason; a viewer that does not take it within the time is cut off."""
    viewer.closing = True
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await viewer.socket.close(code=code, message=_reason(reason))
    except TimeoutError:
        viewer.abort()

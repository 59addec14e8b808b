"""The pages and their WebSockets: readers of the rings of one or more channels that show them in browsers.

One thread per ring encodes the newest frame, once, when some viewer waits for one (`bridge/page/ring_view.py`); one
thread runs the asyncio loop that serves them all. What viewers send goes into NAME.in (`bridge/page/upload.py`). Knows
nothing of the stream: it reads and writes rings like any other process and sets `LiveParams`. The messages are
described in clients/web/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bridge.control.access import Access, host_name, is_loopback, is_name
from bridge.control.ports import PAGE_PORT
from bridge.page import limits
from bridge.page.audience import Audience
from bridge.page.code import code_of
from bridge.page.entrance import TOKEN_WANTED, Entrance
from bridge.page.errors import GatewayError, GatewayPortInUse
from bridge.page.files import FOLDERS_WITH_PAGES, NOT_KEPT, SECURITY, page_files
from bridge.page.http import WSCloseCode, web
from bridge.page.lines import Visitor
from bridge.page.packet import Encoding
from bridge.page.picture import Packet
from bridge.page.reference import ReferencePictures
from bridge.page.ring_view import SIDES, RingView
from bridge.page.room import Channel, Room
from bridge.page.senders import Senders
from bridge.page.streams import Streams
from bridge.page.visits import Visits

__all__ = ["Channel", "Gateway", "GatewayError", "GatewayPortInUse"]

_log = logging.getLogger(__name__)

MIN_TOKEN_CHARS = 8

_WEBSOCKETS = ("/ws", "/send")


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
        port: int = PAGE_PORT,
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
        self._files: dict[str, tuple[Path, dict[str, str]]] = {}
        self._audience = Audience({})
        self._entrance = Entrance(Access(host, token, allowed_origins, allowed_hosts), self._audience, self.channel)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """The address to open in a browser on this machine, with the token."""
        return self._address(self._near, self._start_page)

    @property
    def root(self) -> str:
        """The address on this machine below which everything is served, with the token."""
        return self._address(self._near)

    @property
    def _near(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def far_url(self) -> str | None:
        """The address to open on another machine, with the token; None when only this machine is served."""
        return None if is_loopback(self.host) else self._address(self._far, self._start_page)

    @property
    def _far(self) -> str:
        return _outward_address() if self.host in ("0.0.0.0", "::") else self.host

    def _far_page(self, room: Room) -> str | None:
        """The same, of a channel's page."""
        return None if is_loopback(self.host) else self._address(self._far, channel=room.about.name)

    def _address(self, host: str, path: str = "", **query: str) -> str:
        token = {} if self._token is None else {"token": self._token}
        asked = urlencode({**token, **query})
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{path}{asked and '?'}{asked}"

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
        self._files = page_files()
        listener = _listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._audience.rooms = {
            channel.name: Room(channel, {name: RingView(channel.name, name, self._publish) for name in SIDES})
            for channel in self._channels
        }
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="gateway", daemon=True)
        self._thread.start()
        ready.wait()
        for view in self._all_views():
            view.start()

    def snapshot(self, channel: str | None = None) -> dict[str, Any]:
        """The statistics of the channel's host and what the gateway itself did, as plain JSON-able values."""
        return self._audience.snapshot(channel)

    def _all_views(self) -> list[RingView]:
        return [view for room in self._audience.rooms.values() for view in room.views.values()]

    def stop(self) -> None:
        """Close every viewer with a reason and free the port; harmless when not running."""
        if self._thread is None:
            return
        for view in self._all_views():
            view.stop()
        self._post(self._leave)
        self._thread.join()
        self._thread = self._loop = self._leaving = None

    # ---- the loop's thread from here on

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve_pages(listener, ready))
        except Exception:
            _log.exception("gateway: the server ended")
        finally:
            listener.close()
            ready.set()

    async def _serve_pages(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._leaving = asyncio.Event()
        application = web.Application(middlewares=[self._guard], client_max_size=limits.MAX_MESSAGE_BYTES)
        for path in self._files:
            application.router.add_get(path, self._file)
        for folder in FOLDERS_WITH_PAGES:
            application.router.add_get(f"/{folder}", self._into_folder)
        application.router.add_get("/favicon.ico", self._no_icon)
        application.router.add_get("/api/channels", self._api_channels)
        application.router.add_get("/api/params", self._api_params)
        application.router.add_get("/api/presets", self._api_presets)
        application.router.add_get("/api/stats", self._api_stats)
        application.router.add_get("/code.svg", self._code)
        streams = Streams(self._entrance, self._audience, self._leaving, self._ice_servers)
        application.router.add_get("/snapshot.jpg", streams.snapshot)
        application.router.add_get("/stream.mjpg", streams.stream)
        application.router.add_post("/webrtc", streams.webrtc)
        application.router.add_post("/reference", ReferencePictures(self._entrance).post)
        application.router.add_get("/ws", Visits(self._entrance, self._audience).watch)
        application.router.add_get("/send", Senders(self._entrance, self._audience).send)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await runner.setup()
        unsubscribe = [self._follow(room) for room in self._audience.rooms.values()]
        try:
            await web.SockSite(runner, listener).start()
            ready.set()
            ticking = asyncio.create_task(self._audience.tick())
            await self._leaving.wait()
            ticking.cancel()
            lines = [*self._audience.senders, *(v.line for v in self._audience.viewers if isinstance(v, Visitor))]
            await asyncio.gather(*(line.close(WSCloseCode.GOING_AWAY, "the host is stopping") for line in lines))
        finally:
            for end in unsubscribe:
                end()
            await _accept_nobody_more(listener)
            await runner.cleanup()
            await streams.end()

    def _follow(self, room: Room) -> Callable[[], None]:
        """Tell the viewers of a channel what anybody sets and saves; returns what ends it."""
        if room.about.live is None:
            return lambda: None
        subscriptions = contextlib.ExitStack()
        subscriptions.callback(
            room.about.live.subscribe(lambda params, revision: self._post(self._audience.params_changed, room))
        )
        if room.about.presets is not None:
            subscriptions.callback(
                room.about.presets.shelf.subscribe(lambda: self._post(self._audience.presets_changed, room))
            )
        return subscriptions.close

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

    def _publish(self, view: RingView, packets: dict[Encoding, Packet]) -> None:
        """Called by a view's reader thread: its frame or its state is new."""
        self._post(self._audience.offer, view, packets, json.dumps(view.report()))

    # ---- plain requests

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse what a hostile page could make a browser send: foreign names (DNS rebinding), foreign origins."""
        name = host_name(request.host)
        if not self._entrance.access.is_ours(name):
            raise web.HTTPForbidden(
                text=f"the name {name!r} is not this gateway's; open {self._plain_url}, or start the host"
                f" with --allow-host {name[:200]}"
            )
        origin = request.headers.get("Origin")
        readable = {}
        if origin is not None and self._entrance.access.is_allowed_origin(origin):
            readable = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        try:
            # The WebSockets say it in words that a page can read: a refused handshake tells it nothing.
            open_to_all = request.path in self._files or request.path.strip("/") in FOLDERS_WITH_PAGES
            if not open_to_all and request.path not in _WEBSOCKETS:
                if not self._entrance.access.has_token(request.query.get("token")):
                    raise web.HTTPUnauthorized(text=TOKEN_WANTED)
            response = await handler(request)
        except web.HTTPException as refusal:
            if isinstance(refusal, web.HTTPNotFound) and refusal.text == "404: Not Found":
                refusal.text = f"nothing is called {request.path[:80]} here; open {self._plain_url}"
            refusal.headers.update(readable)
            raise
        except ConnectionError:
            return web.Response()  # it left before it was answered; nobody hears this
        if not response.prepared:
            # What a file brings of its own stands: its content policy.
            response.headers.update({**SECURITY, **response.headers, **readable})
        return response

    @property
    def _plain_url(self) -> str:
        return self.url.split("?", 1)[0]

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path, headers = self._files[request.path]
        return web.FileResponse(path, headers=headers)

    async def _into_folder(self, request: web.Request) -> web.StreamResponse:
        """A page's name without the slash at its end; relative, for a gateway below a path of a proxy."""
        query = f"?{request.query_string}" if request.query_string else ""
        raise web.HTTPFound(f"{request.path.rsplit('/', 1)[-1]}/{query}")

    async def _no_icon(self, request: web.Request) -> web.StreamResponse:
        """Browsers ask by themselves beside what has no icon of its own, a snapshot or a script, and log a failure."""
        return web.Response(status=204)

    async def _api_channels(self, request: web.Request) -> web.StreamResponse:
        about = [
            {
                "name": name,
                "host": room.about.live is not None,
                "examples": room.about.examples,
                "sides": {view.name: {"state": view.state, "message": view.message} for view in room.views.values()},
            }
            for name, room in self._audience.rooms.items()
        ]
        return web.json_response({"channels": about})

    async def _api_params(self, request: web.Request) -> web.StreamResponse:
        room = self._entrance.room_of(request)
        # A browser does not tell a page why its WebSocket was refused: the page asks here, in whose name it will.
        self._entrance.check_origin(request, request.query.get("page"))
        return web.json_response(
            {
                **room.params(),
                "channel": room.about.name,
                "specs": room.specs(),
                "examples": room.about.examples,
                "phase": room.phase,
                "session": room.session,
                "words": room.words(),
                "far_url": self._far_page(room),
            }
        )

    async def _api_presets(self, request: web.Request) -> web.StreamResponse:
        room = self._entrance.room_of(request)
        return web.json_response(await asyncio.to_thread(room.presets))

    async def _api_stats(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.snapshot(self._entrance.room_of(request).about.name))

    async def _code(self, request: web.Request) -> web.StreamResponse:
        """The address of a channel's page for other machines, for a phone's camera."""
        address = self._far_page(self._entrance.room_of(request))
        if address is None:
            raise web.HTTPNotFound(text="only this machine is let in; start the host with --listen 0.0.0.0 --token new")
        return web.Response(body=code_of(address), content_type="image/svg+xml", headers=NOT_KEPT)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise GatewayError(f"port {port}: send a port from 1 to 65535, or 0 for any free one")
    if not is_name(host):
        raise GatewayError(f"{host!r} is not an address; use one of this machine (127.0.0.1, or 0.0.0.0 for all)")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES) and port >= 1024:
            raise GatewayPortInUse(
                f"port {port} on {host} is taken by another program; "
                f"choose another port (--port {port + 1 if port < 65535 else PAGE_PORT}, or 0 for any) or end that"
                " program"
            ) from error
        raise GatewayError(
            f"the page cannot listen on {host} port {port}: {error.strerror or error}; "
            "use an address of this machine (127.0.0.1, or 0.0.0.0 for all) and a port above 1023"
        ) from error
    listener.setblocking(False)
    return listener


async def _accept_nobody_more(listener: socket.socket) -> None:
    """Ignore `listener` from now on, and let whoever was accepted come in, so that the server's end closes all of them.

    asyncio neither serves nor closes what it accepted just before its server is closed: a browser would wait for ever.
    """
    # Windows' own loop accepts in one step.
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().remove_reader(listener)
    for _ in range(3):  # the task that takes the connection, its start, what tells the server
        await asyncio.sleep(0)


def _outward_address() -> str:
    """The address by which this machine speaks to others; asks the routing table and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address

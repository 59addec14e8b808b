"""Who may come in, and to which channel and side."""

from __future__ import annotations

import asyncio

from bridge.control.access import Access
from bridge.control.limits import TokenBucket
from bridge.page import limits
from bridge.page.audience import Audience
from bridge.page.http import WSCloseCode, web
from bridge.page.lines import Line
from bridge.page.ring_view import RingView
from bridge.page.room import Room

TOKEN_WANTED = "the token is missing or wrong; open the whole address that the host printed at its start"
_FULL = "{} viewers already; close one of them"
_TOO_MANY = "too many viewers come at once; try again in a second"
# Close codes from 4000 are the application's own.
CLOSE_BAD_REQUEST = 4400
CLOSE_TOKEN = 4401
CLOSE_UNKNOWN_CHANNEL = 4404
CLOSE_TAKEN = 4409


class Entrance:
    """access: the rules. first: the channel where a request names none."""

    def __init__(self, access: Access, audience: Audience, first: str) -> None:
        self.access = access
        self.first = first
        self._audience = audience
        self._visits = TokenBucket(limits.VISITS_PER_S, limits.VISITS_BURST)

    def room_of(self, request: web.Request) -> Room:
        """The channel that a plain request names."""
        name = request.query.get("channel", self.first)
        if name not in self._audience.rooms:
            raise web.HTTPNotFound(text=self._unknown(name))
        return self._audience.rooms[name]

    def _unknown(self, name: str) -> str:
        known = ", ".join(map(repr, self._audience.rooms))
        return f"unknown channel {name[:40]!r}; this gateway serves {known}"

    def picture_view(self, request: web.Request) -> RingView:
        """The same for a picture that a page of another site might embed."""
        if not self.access.may_embed(request.headers.get("Sec-Fetch-Site")):
            raise web.HTTPForbidden(text="pages of other sites may show this picture only with a token")
        return self.view_of(request)

    def view_of(self, request: web.Request) -> RingView:
        """The view that a plain request names, when there is room for one viewer more."""
        room, name = self.room_of(request), request.query.get("side", "out")
        if name not in room.views:
            raise web.HTTPBadRequest(text=f"unknown side {name[:40]!r}; in or out")
        if self._audience.full:
            raise web.HTTPServiceUnavailable(text=_FULL.format(limits.MAX_VIEWERS))
        return room.views[name]

    def check_origin(self, request: web.Request, origin: str | None = None) -> None:
        """Refuse the pages of others. origin: what a page says of itself, where its browser does not."""
        origin = request.headers.get("Origin") if origin is None else origin
        if not self.access.may_connect(origin, request.host):
            # Behind a proxy that gives us another name than its own, our own page is one of them.
            raise web.HTTPForbidden(
                text=f"pages of the origin {str(origin)[:200]!r} may not connect to {request.host[:200]}; open the"
                " gateway's own page, or start the host with --allow-origin and that origin"
            )

    async def open(self, request: web.Request, max_bytes: int) -> web.WebSocketResponse:
        """A WebSocket whose messages have so many bytes at most."""
        self.check_origin(request)
        if self._visits.take(0.0) > limits.VISIT_WAIT_S:
            raise web.HTTPServiceUnavailable(text=_TOO_MANY)
        await asyncio.sleep(self._visits.take(1.0))
        # Pictures do not deflate.
        ws = web.WebSocketResponse(heartbeat=limits.HEARTBEAT_S, compress=False, max_msg_size=max_bytes)
        await ws.prepare(request)
        return ws

    async def enter(self, request: web.Request, line: Line) -> Room | None:
        """The channel that is asked for; None when the line was closed instead."""
        query = request.query
        channel = query.get("channel", self.first)
        if not self.access.has_token(query.get("token")):
            await line.close(CLOSE_TOKEN, TOKEN_WANTED)
        elif channel not in self._audience.rooms:
            await line.close(CLOSE_UNKNOWN_CHANNEL, self._unknown(channel))
        elif self._audience.full:
            await line.close(WSCloseCode.TRY_AGAIN_LATER, _FULL.format(limits.MAX_VIEWERS))
        else:
            return self._audience.rooms[channel]
        return None

"""Who looks at a picture, and the WebSocket by which most do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from bridge.control.limits import TokenBucket
from bridge.page import limits
from bridge.page.http import WSCloseCode, web
from bridge.page.packet import Encoding
from bridge.page.picture import Packet
from bridge.page.ring_view import RingView
from bridge.page.room import Room


class Line:
    """One WebSocket: how much may come over it, and how it ends."""

    def __init__(self, request: web.Request, ws: web.WebSocketResponse) -> None:
        self.socket = ws
        self._transport = request.transport
        self.closing = False
        """A close frame was sent: nothing may follow it."""
        self._messages = TokenBucket(limits.MESSAGES_PER_S, 2.0 * limits.MESSAGES_PER_S, saved=limits.MESSAGES_PER_S)

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
            async with asyncio.timeout(limits.SEND_TIMEOUT_S):
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
            reason = f"too many messages; send at most {limits.MESSAGES_PER_S} per second"
            await self.close(WSCloseCode.POLICY_VIOLATION, reason)
            return False
        return True


class Viewer:
    """Somebody who looks at one view, owed one frame at most: the newest, when there is credit for it."""

    def __init__(self, view: RingView, codec: Encoding) -> None:
        self.view = view
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
        self.view.sent += 1
        return packet


class Visitor(Viewer):
    """A viewer on a WebSocket. Everything it is owed is bounded: one frame, one text per kind, a few answers."""

    def __init__(self, line: Line, room: Room, view: RingView, codec: Encoding) -> None:
        super().__init__(view, codec)
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


def clip(text: str) -> str:
    return text if len(text) <= 500 else text[:497] + "..."


@contextlib.asynccontextmanager
async def lingering(request: web.Request) -> AsyncIterator[None]:
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
                async with asyncio.timeout(limits.LINGER_S):
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
    left = limits.LINGER_BYTES
    while left > 0 and (data := await loop.sock_recv(held, 1 << 16)):
        left -= len(data)

"""Viewers that send pictures: each is the one writer of its channel's input as long as it stays."""

from __future__ import annotations

import asyncio
from typing import Any

from bridge.page import limits
from bridge.page.audience import Audience
from bridge.page.entrance import CLOSE_TAKEN, Entrance
from bridge.page.http import WSCloseCode, WSMsgType, web
from bridge.page.lines import Line, clip, lingering
from bridge.page.upload import MAX_UPLOAD_BYTES, BadPicture, PacketError, Upload
from bridge.ring import RingError, WriterExists


class Senders:
    """The handler of /send."""

    def __init__(self, entrance: Entrance, audience: Audience) -> None:
        self._entrance = entrance
        self._audience = audience
        self._feeding: dict[str, Line] = {}
        """Who sends to a channel now, by its name."""

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Take a viewer's pictures as the input of a channel; it is the one writer of the ring as long as it stays."""
        ws = await self._entrance.open(request, MAX_UPLOAD_BYTES + 1)
        async with lingering(request):
            line = Line(request, ws)
            room = await self._entrance.enter(request, line)
            if room is None:
                return ws
            # Counted before the ring is opened, so that the limit holds while many ask at once.
            self._audience.senders.add(line)
            name = room.about.name
            try:
                upload = await asyncio.to_thread(Upload, name)
            except WriterExists:
                whom = await self._whom(name, request.query.get("ask"))
                said = whom or f"somebody else sends to {name}; it is free when they leave"
                await line.close(CLOSE_TAKEN, f"taken: {said}")
            except RingError as error:
                await line.close(WSCloseCode.INTERNAL_ERROR, str(error))
            else:
                self._feeding[name] = line
                try:
                    await self._take_in(line, upload)
                finally:
                    del self._feeding[name]
                    await asyncio.to_thread(upload.close)
            finally:
                self._audience.senders.discard(line)
        return ws

    async def _whom(self, channel: str, ask: str | None) -> str:
        """Who sends to a channel, where it is a viewer, too; with `ask` it is told that somebody else would like to."""
        line = self._feeding.get(channel)
        if line is None:
            return ""
        if not ask:
            return f"another page sends to {channel}; it can be asked"
        try:
            async with asyncio.timeout(limits.SEND_TIMEOUT_S):
                await line.socket.send_json({"type": "asked"})
        except (TimeoutError, ConnectionError, RuntimeError):
            line.abort()  # it is not there any more
        return f"another page sends to {channel} and was asked"

    async def _take_in(self, line: Line, upload: Upload) -> None:
        async def say(**message: Any) -> None:
            # A sender that does not read would hold the channel for ever.
            async with asyncio.timeout(limits.SEND_TIMEOUT_S):
                await line.socket.send_json(message)

        try:
            await say(type="hello", ring=upload.ring)
            await say(type="credit", n=limits.MAX_IN_FLIGHT)
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
                        await say(type="error", message=clip(str(error)))
                    await say(type="credit", n=1)
        except TimeoutError:
            line.abort()
        except (ConnectionError, RuntimeError):
            # It left while we were answering.
            return

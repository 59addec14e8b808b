"""Viewers by WebSocket: pictures, parameters, state and statistics to them, credit and changes from them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from bridge.control.presets import PresetError, from_fields
from bridge.page import limits
from bridge.page.audience import Audience
from bridge.page.entrance import CLOSE_BAD_REQUEST, Entrance
from bridge.page.errors import RecordingRefused
from bridge.page.http import WSCloseCode, WSMsgType, web
from bridge.page.lines import Line, Visitor, clip, lingering
from bridge.page.packet import Encoding
from bridge.ring.clock import now_ns
from bridge.terminal import PROGRAM
from core.params import ParamError

_CODECS = {"jpeg": Encoding.JPEG, "rgba": Encoding.RGBA8, "rgb": Encoding.RGB8}


class Visits:
    """The handler of /ws."""

    def __init__(self, entrance: Entrance, audience: Audience) -> None:
        self._entrance = entrance
        self._audience = audience

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """Serve one viewer, from its request to its end."""
        # The limit is the hard one; the one with a reason is in _listen_to.
        ws = await self._entrance.open(request, 4 * limits.MAX_MESSAGE_BYTES)
        async with lingering(request):
            line = Line(request, ws)
            room = await self._entrance.enter(request, line)
            name, codec = request.query.get("side", "out"), request.query.get("codec", "jpeg")
            if room is None:
                pass
            elif name not in room.views:
                await line.close(CLOSE_BAD_REQUEST, f"unknown side {name[:40]!r}; in or out")
            elif codec not in _CODECS:
                await line.close(CLOSE_BAD_REQUEST, f"unknown codec {codec[:40]!r}; {', '.join(_CODECS)}")
            else:
                await self._attend(Visitor(line, room, room.views[name], _CODECS[codec]))
        return ws

    async def _attend(self, viewer: Visitor) -> None:
        """Serve one viewer until it leaves."""
        view = viewer.view
        viewer.tell("hello", json.dumps({"type": "hello", "channel": view.channel, "side": view.name}))
        viewer.tell("params", json.dumps(viewer.room.params()))
        viewer.tell("state", json.dumps(view.report()))
        with self._audience.watching(viewer):
            sending = asyncio.create_task(self._send_to(viewer))
            try:
                await self._listen_to(viewer)
            finally:
                sending.cancel()

    async def _send_to(self, viewer: Visitor) -> None:
        ws = viewer.line.socket
        try:
            while True:
                await viewer.wake.wait()
                viewer.wake.clear()
                if viewer.line.closing:
                    return
                async with asyncio.timeout(limits.SEND_TIMEOUT_S):
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
                        self._audience.want(viewer.view)
        except TimeoutError:
            # It does not read: nothing more can be said to it.
            viewer.line.abort()
        except (ConnectionError, RuntimeError):
            # It left, or is being closed, while we were sending. The receiving side ends the visit; to abort here would
            # take the close frame away from a viewer that has not read it yet.
            return

    async def _listen_to(self, viewer: Visitor) -> None:
        line = viewer.line
        async for message in line.socket:
            if message.type == WSMsgType.BINARY:
                reason = "binary messages are not taken here; send JSON objects, and pictures to /send"
                await line.close(WSCloseCode.UNSUPPORTED_DATA, reason)
            elif message.type == WSMsgType.TEXT:
                if await line.within_limits(len(message.data), limits.MAX_MESSAGE_BYTES):
                    await self._hear(viewer, message.data)

    async def _hear(self, viewer: Visitor, text: str) -> None:
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
            if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= limits.MAX_IN_FLIGHT:
                viewer.reply("error", message=f"credit: send n from 1 to {limits.MAX_IN_FLIGHT}")
                return
            viewer.credits = min(limits.MAX_IN_FLIGHT, viewer.credits + n)
            self._audience.want(viewer.view)
        elif kind == "set":
            name = message.get("name")
            self._set(viewer, message, {str(name): message.get("value")}, str(name))
        elif kind == "update" and isinstance(message.get("values"), dict):
            self._set(viewer, message, message["values"], None)
        elif kind == "get":
            viewer.tell("params", json.dumps(viewer.room.params()))
        elif kind == "preset":
            await self._preset(viewer, message)
        elif kind == "record":
            await self._record(viewer, message)
        elif kind == "clock":
            about = {"id": message["id"]} if isinstance(message.get("id"), int) else {}
            viewer.reply("clock", now_ns=now_ns(), **about)
        else:
            known = 'credit, set, update (with "values"), preset, record, get and clock'
            viewer.reply("error", message=f"unknown type; use one of {known}")

    async def _preset(self, viewer: Visitor, message: dict[str, Any]) -> None:
        # Beside what every answer says, "do" tells the viewer that this is one about presets.
        about: dict[str, Any] = {"do": str(message.get("do"))[:20]}
        if isinstance(message.get("id"), int):
            about["id"] = message["id"]
        presets = viewer.room.about.presets
        if presets is None:
            reason = f"no presets are kept for {viewer.view.channel} here; use the page of its own host"
            viewer.reply("error", message=reason, **about)
            return
        try:
            # A slow disk must not hold up the pictures of everybody.
            note = await asyncio.to_thread(from_fields, presets, message.get("do"), message)
        except (PresetError, ParamError) as error:
            viewer.reply("error", message=clip(str(error)), **about)
        else:
            viewer.reply("ok", revision=presets.live.revision, note=clip(note), **about)

    async def _record(self, viewer: Visitor, message: dict[str, Any]) -> None:
        recordings, do = viewer.room.about.recordings, message.get("do")
        about = {"id": message["id"]} if isinstance(message.get("id"), int) else {}
        if recordings is None:
            reason = f"{viewer.view.channel} is not recorded from here; use: {PROGRAM} record"
            viewer.reply("error", message=reason, **about)
        elif do not in ("start", "stop"):
            viewer.reply("error", message='record: send "do": "start" or "stop"', **about)
        else:
            try:
                await asyncio.to_thread(recordings.start if do == "start" else recordings.stop)
            except (RecordingRefused, OSError) as error:
                viewer.reply("error", message=clip(str(error)), **about)
            else:
                viewer.reply("ok", revision=0, **about)

    def _set(self, viewer: Visitor, message: dict[str, Any], values: dict[str, Any], name: str | None) -> None:
        about: dict[str, Any] = {} if name is None else {"name": name[:100]}
        if isinstance(message.get("id"), int):
            about["id"] = message["id"]
        live = viewer.room.about.live
        if live is None:
            reason = f"the host of {viewer.view.channel} is another program; set it by OSC or on that host's page"
            viewer.reply("error", message=reason, **about)
            return
        try:
            live.update(values)
        except ParamError as error:
            viewer.reply("error", message=clip(str(error)), **about)
        else:
            viewer.reply("ok", revision=live.revision, **about)

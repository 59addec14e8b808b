"""Pictures for an IP-Adapter, from the page: a file that it sends, or what the channel shows now."""

from __future__ import annotations

import asyncio

from bridge.control.references import MAX_PICTURE_BYTES
from bridge.page import limits
from bridge.page.entrance import Entrance
from bridge.page.files import NOT_KEPT
from bridge.page.http import web
from bridge.page.lines import clip
from core.references import PictureError


class ReferencePictures:
    """The handler of /reference. One picture at a time, so that nobody fills the memory with many."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._one = asyncio.Lock()

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Keep what the request carries, or, with `take`, what a ring shows, and make it the channel's reference."""
        self._entrance.check_origin(request)
        room = self._entrance.room_of(request)
        references, take = room.about.references, request.query.get("take")
        if references is None:
            raise web.HTTPNotFound(text=f"the host of {room.about.name} is another program; use its own page")
        if self._one.locked():
            raise web.HTTPServiceUnavailable(text="another picture is on its way; send this one again after it")
        async with self._one:
            try:
                if take is not None:
                    name = await asyncio.to_thread(references.take, take)
                else:
                    data = await self._body(request)
                    name = await asyncio.to_thread(references.add, data, request.query.get("name", ""))
            except PictureError as error:
                raise web.HTTPBadRequest(text=clip(str(error))) from None
        return web.json_response({"reference": name}, headers=NOT_KEPT)

    async def _body(self, request: web.Request) -> bytes:
        data = bytearray()
        try:
            async with asyncio.timeout(limits.UPLOAD_S):
                async for piece in request.content.iter_any():
                    data += piece
                    if len(data) > MAX_PICTURE_BYTES:
                        break
        except TimeoutError:
            raise web.HTTPRequestTimeout(text=f"the picture took more than {limits.UPLOAD_S:.0f} seconds") from None
        return bytes(data)

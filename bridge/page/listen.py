"""The live parameters of a channel as its page tells them, for a program that is not its host."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from bridge.page.http import ClientError, ClientSession, ClientWebSocketResponse, WSMsgType

RETRY_S = 1.0


class ParamsListener:
    """Tells `heard(values, revision)` what is in force on `channel` and every change of it, between `start` and `stop`.

    page: the address that a host printed, with its token. `trouble` says why nothing is heard, and is empty while
    something is. A page that is not there, or goes, is looked for again.
    """

    def __init__(self, page: str, channel: str, heard: Callable[[dict[str, Any], int], None]) -> None:
        parts = urlsplit(page if "//" in page else f"http://{page}")
        query = urlencode({"channel": channel, **({"token": _token(parts.query)} if _token(parts.query) else {})})
        path = parts.path.rsplit("/", 1)[0] + "/ws"
        self._url = urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, path, query, ""))
        self._page = f"{parts.scheme}://{parts.netloc}/"
        self._heard = heard
        self.trouble = f"no page at {self._page} yet"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="params", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                async with ClientSession() as session, session.ws_connect(self._url) as ws:
                    await self._listen(ws)
            except (ClientError, OSError, ValueError, TimeoutError) as error:
                self.trouble = f"no page at {self._page}: {str(error)[:120]}"
            await asyncio.to_thread(self._stop.wait, RETRY_S)

    async def _listen(self, ws: ClientWebSocketResponse) -> None:
        while not self._stop.is_set():
            try:
                message = await ws.receive(timeout=0.2)
            except TimeoutError:
                continue
            if message.type != WSMsgType.TEXT:
                self.trouble = f"{self._page} says: {message.extra or 'gone'}"
                return
            said = json.loads(message.data)
            if said.get("type") == "params" and said["values"]:
                self.trouble = ""
                self._heard(said["values"], said["revision"])


def _token(query: str) -> str:
    return next((word[6:] for word in query.split("&") if word.startswith("token=")), "")

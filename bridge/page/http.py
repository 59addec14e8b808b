"""aiohttp: everybody else gets it from here."""

from aiohttp import ClientError, ClientSession, ClientWebSocketResponse, WSCloseCode, WSMsgType, web

__all__ = ["ClientError", "ClientSession", "ClientWebSocketResponse", "WSCloseCode", "WSMsgType", "web"]

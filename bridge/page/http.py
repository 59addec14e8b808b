"""aiohttp: everybody else gets it from here."""

from aiohttp import WSCloseCode, WSMsgType, web

__all__ = ["WSCloseCode", "WSMsgType", "web"]

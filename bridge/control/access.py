"""Who may speak to the gateway: names, origins and the token. Decides on header values; knows nothing of sockets."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
"""Which browsers leave out."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def new_token() -> str:
    """A random word of 22 characters that nobody guesses."""
    return secrets.token_urlsafe(16)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_name(host: str) -> bool:
    """Whether a text can be an address or a name at all; the system's functions raise several errors for others."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    name = host.lower()
    if name.startswith("["):
        return name[1:].split("]", 1)[0]
    return name.rsplit(":", 1)[0] if name.count(":") == 1 else name


def origin_of(text: str) -> str:
    """The origin of a page, as browsers name it, from its address, "https://example.org:443/page/"; "null", the origin
    of pages from a file, stays. Raises `ValueError` for what is not an address of a page."""
    if text == "null":
        return text
    parts = urlsplit(text)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or not is_name(parts.hostname):
        raise ValueError(f"{text!r} has no origin")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{name}{port}"


def name_of(text: str) -> str:
    """The name of a machine, from itself or from an address with it. Raises `ValueError` for what is none."""
    name = (urlsplit(text).hostname or "") if "//" in text else host_name(text)
    if not is_name(name) or not re.fullmatch(r"[\w.:-]+", name):
        raise ValueError(f"{text!r} is no name")
    return name


class Access:
    """The rules of one gateway.

    host: where it listens. token: the word that every request for pictures or parameters must carry; None asks for
    none. allowed_origins: other pages ("https://example.org") that may connect. allowed_hosts: further names of this
    machine.
    """

    def __init__(
        self, host: str, token: str | None, allowed_origins: Iterable[str] = (), allowed_hosts: Iterable[str] = ()
    ) -> None:
        self._host = host.lower()
        self._token = token
        self._origins = frozenset(origin.rstrip("/").lower() for origin in allowed_origins)
        self._hosts = LOOPBACK_NAMES | {name.lower() for name in allowed_hosts}

    def is_ours(self, name: str) -> bool:
        """Whether a name in a Host header is this machine's and not one that an attacker's name server answers for."""
        if name in self._hosts or name == self._host:
            return True
        # An address cannot be rebound.
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not is_loopback(self._host)

    def is_allowed_origin(self, origin: str | None) -> bool:
        """Whether this is a foreign page that was allowed at the start."""
        return origin is not None and origin.lower() in self._origins

    def may_connect(self, origin: str | None, host: str) -> bool:
        """Whether a page of `origin` may open a WebSocket to us, whom it calls `host` (with the port)."""
        # Not a browser: browsers always name the page that opens a WebSocket.
        if origin is None or self.is_allowed_origin(origin):
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()

    def may_embed(self, fetch_site: str | None) -> bool:
        """Whether pictures may go to the page that asks without an Origin, as an <img> does (Sec-Fetch-Site)."""
        # With a token the page has shown that it was let in.
        return self._token is not None or fetch_site in (None, "none", "same-origin")

    def has_token(self, given: str | None) -> bool:
        """Whether the right token came, or none is wanted."""
        return self._token is None or hmac.compare_digest(self._token.encode(), (given or "").encode())

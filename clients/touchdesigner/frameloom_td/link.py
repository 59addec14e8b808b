"""The line to a host's OSC port: live parameters out; errors and statistics back. Never waits for anything."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Any

from frameloom_td import osc

QUIET_S = 2.0
"""A host that was subscribed to and says nothing for so long is taken as gone (it sends twice a second)."""
ASK_S = 1.0
RENEW_S = 20.0
"""A subscription ends by itself after a minute."""
ERROR_SHOWN_S = 10.0
_AT_MOST = 64
"""Datagrams that one poll looks at."""


class HostLink:
    """One host on this machine. port: its OSC port. Everything is non-blocking; nothing raises for a missing host."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._host = (address, port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind((address, 0))
        self.stats: dict[str, float] = {}
        """The newest figures, as named by the host: fps, p50_ms, frames_in, dropped and more."""
        self._error = ""
        self._error_s = 0.0
        self._heard_s = -QUIET_S
        self._asked_s = -RENEW_S

    @property
    def up(self) -> bool:
        """Whether the host was heard of lately."""
        return time.monotonic() - self._heard_s < QUIET_S

    @property
    def error(self) -> str:
        """What the host refused lately; empty when there is nothing to say."""
        return self._error if time.monotonic() - self._error_s < ERROR_SHOWN_S else ""

    def set(self, values: Mapping[str, Any]) -> None:
        """Send parameters by name; they take effect between the same two frames."""
        if values:
            self._send(osc.bundle(osc.encode(f"/{name}", value) for name, value in values.items()))

    def ask(self, address: str, *values: Any) -> None:
        """Send one command, such as /preset/recall."""
        self._send(osc.encode(address, *values))

    def poll(self) -> bool:
        """Read what has arrived and keep the subscription alive. True when the host has just come up: it knows none of
        our parameters then."""
        now = time.monotonic()
        was_up = self.up
        came = False
        for _ in range(_AT_MOST):
            try:
                datagram, sender = self._socket.recvfrom(65536)
            except BlockingIOError:
                break
            except ConnectionResetError:
                # Windows says here that nobody listened to an earlier datagram.
                continue
            if sender != self._host:
                continue
            with contextlib.suppress(ValueError):
                for address, values in osc.decode(datagram):
                    came |= self._take(address, values, now, was_up)
        if not self.up:
            self.stats.clear()
        if now - self._asked_s >= (RENEW_S if self.up else ASK_S):
            self._asked_s = now
            self._send(osc.encode("/subscribe"))
        return came

    def _take(self, address: str, values: list[Any], now: float, was_up: bool) -> bool:
        self._heard_s = now
        if address == "/error" and len(values) == 2:
            self._error, self._error_s = f"{values[0]}: {values[1]}", now
        elif address.startswith("/stats/") and len(values) == 1 and isinstance(values[0], (int, float)):
            self.stats[address[7:]] = values[0]
        return address == "/subscribed" and not was_up

    def _send(self, datagram: bytes) -> None:
        # A full buffer or a network that is down loses the datagram; the next change or push replaces it.
        with contextlib.suppress(OSError):
            self._socket.sendto(datagram, self._host)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

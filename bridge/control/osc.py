"""OSC in and out: sets live parameters, answers questions, sends statistics to those who subscribed.

Addresses (every one of a parameter is derived from `core.params.SPECS`):

    /<field> <value>      set a parameter; /t_index and /size take several numbers or texts, or one
                          text "18,26"
    /get [field]          answered by /value <field> <value>, one message per field
    /ping                 answered by /pong
    /subscribe [port]     statistics as /stats/<name> <number> twice a second for a minute; send again to stay
    /unsubscribe [port]   ends it
    /preset/...           see `bridge.control.preset_osc`, where presets are kept
    /lora/NAME <weight>   see `bridge.control.lora_osc`
    /reference/take       see `bridge.control.references`
    anything refused      answered by /error <address> <message>

Time tags are ignored: a live parameter holds from the moment it arrives. The parameters in one bundle change
between the same two frames. Nothing here takes a lock that the frame path takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import logging
import selectors
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.control.access import is_loopback, is_name
from bridge.control.limits import OncePer, TokenBucket
from bridge.control.live import LiveParams
from bridge.control.osc_messages import (
    SHOWN_CHARS,
    OscRefused,
    datagram,
    messages_in,
    parse,
    shown,
    shown_address,
    value_of,
)
from bridge.control.ports import OSC_PORT
from bridge.control.statistics import PERCENTILES, Statistics
from core.params import SPECS, ParamError

_log = logging.getLogger(__name__)

STATS_EVERY_S = 0.5
SUBSCRIPTION_S = 60.0
MAX_SUBSCRIBERS = 16
STATS_LOOK_BACK_S = 5.0

MESSAGES_PER_S = 2000.0
"""Sustained messages the server takes from all senders together; a flood beyond it waits in the kernel, which
drops what does not fit. Twenty controls at 60 Hz are 1,200. An answer costs as much as a message."""
MESSAGES_BURST = 500.0
FLOOD_REST_S = 0.02
"""Who is flooded rests for so long at least: one wake-up for many messages, not one for each."""

ERRORS_PER_S = 5.0
"""Error answers to one sender; more are counted and named in the next answer."""
ERRORS_BURST = 10.0
TELL_AGAIN_S = 1.0
"""What is refused at one address is told here once in so many seconds."""
LINES_PER_S = 5.0
LINES_BURST = 20.0
"""Lines about refusals of all addresses together."""

_POLL_S = 0.1
_MAX_SENDERS = 64
# Who sends to "localhost" may mean either family, and UDP has no second try.
_OTHER_FAMILY = {"127.0.0.1": "::1", "localhost": "::1", "::1": "127.0.0.1", "0.0.0.0": "::", "::": "0.0.0.0"}
_COMMANDS = ("/get", "/ping", "/subscribe", "/unsubscribe")
# What servers like this one send. Answering it would let two of them talk to each other for ever.
_ANSWERS = ("/error", "/value", "/pong", "/subscribed", "/stats/", "/preset/done", "/preset/name", "/reference/taken")

Sender = tuple[Any, ...]
"""A socket address as recvfrom gives it: (host, port) or, for IPv6, (host, port, flow, scope)."""


class OscError(RuntimeError):
    """The OSC server cannot start. The message says how to fix it."""


class OscPortInUse(OscError):
    """Another program holds the UDP port."""


@dataclass(frozen=True)
class Answer:
    """What a message to an alias address does: parameters to set, messages (address, values...) to send back, and a
    text for /error where a part of it could not be done."""

    values: Mapping[str, Any] = field(default_factory=dict)
    replies: tuple[tuple[Any, ...], ...] = ()
    error: str = ""


Alias = Callable[[str, list[Any]], Answer]
"""Acts on a message to an address of another program's dialect: address and arguments. Raises `OscRefused` or
`core.params.ParamError`."""


class _Complaints:
    """How many errors one sender was told lately, and how many it was not."""

    __slots__ = ("allowance", "untold")

    def __init__(self) -> None:
        self.allowance = TokenBucket(ERRORS_PER_S, ERRORS_BURST)
        self.untold = 0


class OscServer:
    """Serves OSC over UDP from one thread of its own between `start()` and `stop()`.

    host: address to bind, loopback unless somebody asks for more; its counterpart of the other IP family is bound too
    where it can be. port: UDP port, 0 for any free one; the `port` attribute tells which. aliases: further addresses,
    which go before those of parameters; one that ends in "/" stands for all that begin with it. commands: further
    addresses that act by themselves, after whatever the same bundle sets before them. reply_port: port of the
    sender's machine for all answers; None answers to the port that was sent from. refused: is told, in a line, what was
    refused, for the user of this side; not more often than can be read. The statistics keep the newest.
    """

    def __init__(
        self,
        live: LiveParams,
        statistics: Statistics,
        host: str = "127.0.0.1",
        port: int = OSC_PORT,
        *,
        aliases: Mapping[str, Alias] | None = None,
        commands: Mapping[str, Alias] | None = None,
        reply_port: int | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._aliases = dict(aliases or {})
        self._own = dict(commands or {})
        self._prefixes = tuple(address for address in self._aliases if address.endswith("/"))
        self._reply_port = reply_port
        self._live = live
        self._statistics = statistics
        self._sockets: list[socket.socket] = []
        self._refused = refused
        self._told = OncePer(TELL_AGAIN_S)
        self._lines = TokenBucket(LINES_PER_S, LINES_BURST)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._subscribers: dict[Sender, float] = {}
        self._answer_to: dict[Sender, Sender] = {}
        self._complaints: OrderedDict[Sender, _Complaints] = OrderedDict()
        self._messages = TokenBucket(MESSAGES_PER_S, MESSAGES_BURST)
        self._answers = 0
        self._next_stats = 0.0
        known = [*(f"/{name}" for name in SPECS), *_COMMANDS, *self._own, *self._aliases]
        self._known = list(dict.fromkeys(known))

    def start(self) -> None:
        """Bind and begin to serve; returns at once.

        Raises `OscPortInUse` when another program holds the port, `OscError` when the address cannot be bound.
        """
        if self._thread is not None:
            raise OscError("the OSC server is already running; stop() it first")
        self._sockets = [_bind(self.host, self.port)]
        self.port = self._sockets[0].getsockname()[1]
        other = _OTHER_FAMILY.get(self.host)
        if other is not None:
            # Without IPv6, or with another program there, one family must do.
            with contextlib.suppress(OscError):
                self._sockets.append(_bind(other, self.port))
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="osc", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and free the port; harmless when not running."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join()
        for udp in self._sockets:
            udp.close()
        self._sockets.clear()
        self._thread = None
        self._subscribers.clear()
        self._answer_to.clear()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._answer_datagrams()
            except Exception:
                _log.exception("OSC: a datagram could not be handled; the server goes on")

    def _answer_datagrams(self) -> None:
        with selectors.DefaultSelector() as selector:
            for udp in self._sockets:
                selector.register(udp, selectors.EVENT_READ, udp)
            while not self._stopping.is_set():
                for key, _ in selector.select(self._send_statistics()):
                    self._receive(key.data)

    def _receive(self, udp: socket.socket) -> None:
        try:
            data, sender = udp.recvfrom(65536)
        except (BlockingIOError, ConnectionResetError):
            # A datagram with a bad checksum is gone; Windows reports that an answer found nobody listening.
            return
        overdrawn_s = self._messages.take(self._handle(data, sender))
        if overdrawn_s > 0.0:
            self._stopping.wait(max(FLOOD_REST_S, overdrawn_s))

    def _handle(self, data: bytes, sender: Sender) -> int:
        """Act on one datagram; returns the messages that were in it, at least 1, plus the answers that it got."""
        self._answers = 0
        try:
            parts = messages_in(data)
        except OscRefused as refused:
            self._refuse(sender, refused.address, str(refused))
            return 1 + self._answers
        values: dict[str, Any] = {}
        for part in parts:
            try:
                address, arguments = parse(part)
                alias = self._alias(address)
                if alias is None:
                    address = self._meant(address)
                name = address[1:]
                if alias is not None:
                    values.update(self._done(alias, address, arguments, sender))
                elif name in SPECS:
                    values[name] = SPECS[name].check(value_of(SPECS[name], arguments))
                elif not address.startswith(_ANSWERS):
                    self._set(values)
                    values = {}
                    self._command(address, arguments, sender)
            except OscRefused as refused:
                self._refuse(sender, refused.address, str(refused))
            except ParamError as refused:
                self._refuse(sender, address, str(refused))
        self._set(values)
        return max(1, len(parts)) + self._answers

    def _set(self, values: Mapping[str, Any]) -> None:
        if values:
            self._live.update(values)

    def _done(self, alias: Alias, address: str, arguments: list[Any], sender: Sender) -> dict[str, Any]:
        """Do what an alias does, and answer; returns the parameters that it sets, checked."""
        answer = alias(address, arguments)
        values = {key: SPECS[key].check(value) for key, value in answer.values.items()}
        for reply in answer.replies:
            self._send(sender, *reply)
        if answer.error:
            self._refuse(sender, address, answer.error)
        return values

    def _meant(self, address: str) -> str:
        """The address of ours that differs in nothing but capitals, blanks or a slash at the end; else as it is."""
        plain = address.strip().rstrip("/").lower()
        return plain if plain[1:] in SPECS or plain in _COMMANDS or plain in self._own else address

    def _alias(self, address: str) -> Alias | None:
        found = self._aliases.get(address)
        if found is None and address.startswith(self._prefixes):
            found = next(self._aliases[prefix] for prefix in self._prefixes if address.startswith(prefix))
        return found

    def _command(self, address: str, arguments: list[Any], sender: Sender) -> None:
        if address == "/ping":
            self._send(sender, "/pong")
        elif address == "/get":
            self._get(arguments, sender)
        elif address == "/subscribe":
            self._subscribe(_port_of(address, arguments, sender), sender)
        elif address == "/unsubscribe":
            destination = _port_of(address, arguments, sender)
            self._subscribers.pop(destination, None)
            self._answer_to.pop(sender, None)
        elif address in self._own:
            self._set(self._done(self._own[address], address, arguments, sender))
        else:
            near = difflib.get_close_matches(address[:SHOWN_CHARS], self._known, 1, 0.75)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(self._known)}"
            raise OscRefused(address, f"unknown address; {hint}")

    def _get(self, arguments: list[Any], sender: Sender) -> None:
        wanted: list[Any] = arguments or list(SPECS)
        values = dataclasses.asdict(self._live.current)
        for name in wanted[: len(SPECS)]:
            spec = SPECS.get(name) if isinstance(name, str) else None
            if spec is None:
                raise OscRefused("/get", f"no parameter {shown(name)}; use one of {', '.join(SPECS)}")
            value = values[spec.name]
            if spec.kind == "ints":
                value = ",".join(map(str, value))
            elif spec.kind == "bool":
                value = int(value)
            self._send(sender, "/value", spec.name, value)

    def _subscribe(self, destination: Sender, sender: Sender) -> None:
        if destination[1] == self.port and is_loopback(destination[0]):
            # Every answer would come back to us from now on, and the sender hear nothing more.
            raise OscRefused("/subscribe", f"port {self.port} is this server's own; send the port that you listen on")
        if destination not in self._subscribers and len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise OscRefused("/subscribe", f"{MAX_SUBSCRIBERS} subscribers already; /unsubscribe one or wait a minute")
        self._subscribers[destination] = time.monotonic() + SUBSCRIPTION_S
        self._answer_to[sender] = destination
        self._send(sender, "/subscribed", destination[1], SUBSCRIPTION_S)

    def _send_statistics(self) -> float:
        """Send to the subscribers when it is time; returns for how long one may wait for messages."""
        now = time.monotonic()
        if now >= self._next_stats:
            self._next_stats = now + STATS_EVERY_S
            self._subscribers = {d: until for d, until in self._subscribers.items() if until > now}
            self._answer_to = {s: d for s, d in self._answer_to.items() if d in self._subscribers}
            if self._subscribers:
                for name, value in _numbers(self._statistics.snapshot(STATS_LOOK_BACK_S)):
                    message = datagram(f"/stats/{name}", value)
                    for destination in self._subscribers:
                        self._send_raw(message, destination)
        until_next = self._next_stats - now if self._subscribers else _POLL_S
        return min(_POLL_S, max(0.001, until_next))

    def _refuse(self, sender: Sender, address: str, message: str) -> None:
        self._tell(sender, address, message)
        complaints = self._complaints.get(sender)
        if complaints is None:
            complaints = self._complaints[sender] = _Complaints()
            if len(self._complaints) > _MAX_SENDERS:
                self._complaints.popitem(last=False)
        self._complaints.move_to_end(sender)
        if complaints.allowance.take(0.0) > 0.0:
            complaints.untold += 1
            return
        complaints.allowance.take(1.0)
        if complaints.untold:
            message += f" (and {complaints.untold} more errors before this one)"
            complaints.untold = 0
        self._send(sender, "/error", shown_address(address), message)

    def _tell(self, sender: Sender, address: str, message: str) -> None:
        """A refusal, for those who look at this side: few senders listen for /error."""
        if self._lines.take(0.0) > 0.0 or not self._told.may(address):
            return
        self._lines.take(1.0)
        line = f"OSC from {sender[0]}: {shown_address(address)}: {message}"
        self._statistics.refuse(line)
        if self._refused is not None:
            self._refused(line)

    def _send(self, sender: Sender, address: str, *values: Any) -> None:
        self._answers += 1
        # A sender that subscribed with a port listens there, and not on the port it happens to send from.
        default = sender if self._reply_port is None else (sender[0], self._reply_port, *sender[2:])
        self._send_raw(datagram(address, *values), self._answer_to.get(sender, default))

    def _send_raw(self, message: bytes, destination: Sender) -> None:
        family = socket.AF_INET6 if ":" in destination[0] else socket.AF_INET
        try:
            next(udp for udp in self._sockets if udp.family == family).sendto(message, destination)
        except (OSError, StopIteration) as error:
            _log.debug("OSC: no answer to %s: %s", destination, error)


def _bind(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise OscError(f"OSC port {port}: send a port from 1 to 65535, or 0 for any free one")
    if not is_name(host):
        raise OscError(f"{host!r} is not an address; use one of this machine (127.0.0.1, or 0.0.0.0 for all)")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        udp = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        raise OscError(f"OSC cannot listen on {host}: {error.strerror or error}; use 127.0.0.1") from error
    udp.setblocking(False)
    if family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if sys.platform == "win32":
        # Without it Windows lets a second program take over a bound port.
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    try:
        udp.bind((host, port))
    except OSError as error:
        udp.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES) and port >= 1024:
            raise OscPortInUse(
                f"OSC port {port} on {host} is taken by another program; "
                f"choose another port (--osc-port {port + 1 if port < 65535 else OSC_PORT}) or end that program"
            ) from error
        raise OscError(
            f"OSC cannot listen on {host} port {port}: {error.strerror or error}; "
            "use an address of this machine (127.0.0.1, or 0.0.0.0 for all) and a port above 1023"
        ) from error
    return udp


def _port_of(address: str, arguments: list[Any], sender: Sender) -> Sender:
    if not arguments:
        return sender
    port = arguments[0]
    number = isinstance(port, (int, float)) and not isinstance(port, bool)
    if len(arguments) > 1 or not number or not 1 <= port <= 65535 or port != int(port):
        raise OscRefused(address, f"got {shown(arguments)}; send nothing or one port from 1 to 65535")
    return (sender[0], int(port), *sender[2:])


def _numbers(snapshot: dict[str, Any]) -> Iterator[tuple[str, int | float]]:
    """The figures of a statistics snapshot as flat name, number pairs; figures not known yet are left out."""
    for name, value in snapshot.items():
        if isinstance(value, (int, float)):
            yield name, value
    for stage, table in snapshot["stages"].items():
        for q in PERCENTILES:
            value = table[f"p{q}_ms"]
            if value is not None:
                yield f"{stage}_p{q}_ms", value

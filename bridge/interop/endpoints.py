"""What `frameloom host --input ... --output ...` opens beside the host: pumps, and the OSC dialect that goes with
them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from bridge.control.live import LiveParams
from bridge.control.osc import OscError
from bridge.control.statistics import Statistics
from bridge.interop.adaptor import AdaptorError
from bridge.interop.adaptors import ADAPTORS, Pump, open_pumps
from bridge.interop.gate import Gate
from bridge.interop.streamdiffusiontd_osc import OSC_PORT, REPLY_PORT, Reported, StreamDiffusionTd

_PORTS = re.compile(r"([0-9]{1,5})(?::([0-9]{1,5}))?")


def parse_ports(text: str) -> tuple[int, int]:
    """ "8247:8248" or "8247" as the port to listen on (0: any) and the port of the replies."""
    found = _PORTS.fullmatch(text)
    ports = (int(found[1]), int(found[2] or REPLY_PORT)) if found else (-1, -1)
    if not 0 <= ports[0] <= 65535 or not 1 <= ports[1] <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: write PORT:REPLY_PORT, such as {OSC_PORT}:{REPLY_PORT}")
    return ports


def add_endpoint_options(parser: argparse.ArgumentParser) -> None:
    """The options of `frameloom host` that are about other programs' memory."""
    usages = " or ".join(adaptor.usage for adaptor in ADAPTORS.values())
    parser.add_argument("--input", metavar="ENDPOINT", help=f"take frames from another program's memory: {usages}")
    parser.add_argument(
        "--output", metavar="ENDPOINT", help="put results into another program's memory: td:NAME[:v1] or sdtd:NAME"
    )
    parser.add_argument(
        "--sdtd-osc",
        type=parse_ports,
        nargs="?",
        const=(OSC_PORT, REPLY_PORT),
        metavar="PORT:REPLY",
        help="understand StreamDiffusionTD's OSC on PORT and report to REPLY "
        f"(default {OSC_PORT}:{REPLY_PORT}; on by itself with sdtd: endpoints)",
    )


class Endpoints:
    """All of them together, from `start` to `stop`."""

    def __init__(self, pumps: list[Pump], dialect: StreamDiffusionTd | None, say: Callable[[str], None]) -> None:
        self._pumps = pumps
        self._dialect = dialect
        self._say = say

    def start(self) -> None:
        """Raises AdaptorError when the dialect's port cannot be had."""
        if self._dialect is not None:
            try:
                self._dialect.start()
            except OscError:
                raise AdaptorError(
                    f"UDP port {self._dialect.server.port} for StreamDiffusionTD's OSC is taken: end its own server, "
                    f"or give --sdtd-osc PORT:{REPLY_PORT} and set the project to that port"
                ) from None
            self._say(
                f"StreamDiffusionTD's OSC: port {self._dialect.server.port}, reports to {self._dialect.reply_port}"
            )
        for pump in self._pumps:
            pump.start()

    def stop(self) -> None:
        """Waits for the end; harmless when they never started or have ended."""
        for pump in reversed(self._pumps):
            pump.stop()
        if self._dialect is not None:
            self._dialect.stop()


def open_endpoints(
    args: argparse.Namespace,
    channel: str,
    live: LiveParams,
    statistics: Statistics,
    say: Callable[[str], None],
    reported: Reported | None = None,
) -> Endpoints:
    """What the options ask for, not started yet; `reported` is the channel's host. Raises AdaptorError, RingError."""
    wanted = [end for end in (args.input, args.output) if end is not None]
    ports = args.sdtd_osc
    if ports is None and any(end.startswith("sdtd:") for end in wanted):
        ports = (OSC_PORT, REPLY_PORT)
    gate = Gate()
    dialect = None
    if ports is not None:
        name = args.output.split(":")[1] if args.output is not None and args.output.startswith("sdtd:") else ""
        dialect = StreamDiffusionTd(
            live,
            statistics,
            host=args.osc_host,
            port=ports[0],
            reply_port=ports[1],
            gate=gate if args.input is not None else None,
            output_name=name,
            refused=say,
            reported=reported,
        )
    on_frame = None if dialect is None else dialect.frame_sent
    try:
        pumps = open_pumps(
            args.input, args.output, channel, say, gate, on_frame, free=lambda: live.current.task == "txt2img"
        )
        return Endpoints(pumps, dialect, say)
    except BaseException:
        if dialect is not None:
            dialect.stop()
        raise

"""`frameloom replay FILE`: a recording into the rings of a channel, with its own times; or into a film."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser, add_json_option, parse_channel, parse_file, parse_port
from bridge.commands.ports import OSC_PORT
from bridge.commands.signals import StopRequest
from bridge.terminal import print_result, say, say_warnings


def main(argv: list[str] | None = None) -> int:
    """Play to the end, or until stopped; the last line of standard output is JSON."""
    parser = Parser(
        "replay",
        description="Play a recording into NAME.in (and NAME.out), with its own times; or export it as a film.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a recording made by record")
    parser.add_argument(
        "--channel",
        type=parse_channel,
        metavar="NAME",
        default=None,
        help="channel to play into (default: the recorded one)",
    )
    parser.add_argument("--sides", default="in", help="rings to play: in (default: a host repaints it), out, or in,out")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="1 (default) as recorded, 2 twice as fast, 0 without waiting"
    )
    parser.add_argument("--loop", action="store_true", help="repeat until Ctrl-C")
    parser.add_argument("--lossless", action="store_true", help="wait for a host started with --lossless")
    parser.add_argument("--no-params", action="store_true", help="leave the host's parameters as they are")
    parser.add_argument(
        "--osc-port", type=parse_port, default=OSC_PORT, help=f"OSC port of the host (default {OSC_PORT})"
    )
    parser.add_argument(
        "--export", type=parse_file, metavar="FILM", help="write a film (.mp4, .webm) by ffmpeg instead"
    )
    add_json_option(parser)
    args = parser.parse_args(argv)
    say_warnings()
    from bridge.recording.export import export
    from bridge.recording.file import SIDES, RecordingError, RecordingReader
    from bridge.recording.replay import Played, replay
    from bridge.ring import Policy, RingError, RingWriter

    sides = tuple(dict.fromkeys(args.sides.split(",")))
    if not set(sides) <= set(SIDES):
        parser.error(f"--sides {args.sides}: use in, out, or in,out")
    if not 0.0 <= args.speed <= 1000.0:
        parser.error(f"--speed {args.speed:g}: use 0 (as fast as can be) to 1000")
    stop = StopRequest()
    played = Played()
    try:
        recording = RecordingReader(args.file)
        channel = args.channel or recording.about.get("channel", "")
        if args.export is not None:
            frames = export(recording, sides[0] if "out" not in sides else "out", args.export, stop.event)
            say(f"{args.export}: {frames} frames")
            print_result({"film": str(args.export), "frames": frames, "ending": recording.ending}, args.json)
            return 0
        with contextlib.ExitStack() as opened:
            policy = Policy.LOSSLESS if args.lossless else Policy.NEWEST
            writers = {side: opened.enter_context(RingWriter(f"{channel}.{side}", policy=policy)) for side in sides}
            tell = None if args.no_params or "in" not in sides else opened.enter_context(_Osc(args.osc_port))
            say(f"playing {args.file} into {', '.join(writer.channel for writer in writers.values())}")
            while True:
                played = replay(recording, writers, stop.event, speed=args.speed, on_params=tell)
                if not args.loop or stop.event.is_set() or not any(played.frames.values()):
                    break
            # A writer that goes takes its ring along: the last picture stays until it was looked at.
            _linger(stop.event)
    except (RecordingError, RingError) as error:
        say(f"replay: {error}")
        return 1
    finally:
        stop.restore()
    if recording.ending:
        say(f"replay: the recording ends early: {recording.ending}")
    if played.damaged:
        say(f"replay: {played.damaged} messages were damaged and left out")
    say(f"played {', '.join(f'{count} {side}' for side, count in played.frames.items())}")
    print_result({**dataclasses.asdict(played), "ending": recording.ending}, args.json)
    return 0


def _linger(stop: threading.Event) -> None:
    stop.wait(0.5)


class _Osc:
    """Sets a host's parameters: those that differ from what was sent last. What this version cannot take, as in a
    recording of another one, is told once and keeps back nothing else."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._sent: dict[str, Any] = {}
        self._told: set[str] = set()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> _Osc:
        return self

    def __exit__(self, *about: object) -> None:
        self._udp.close()

    def __call__(self, values: dict[str, Any]) -> None:
        from bridge.control.osc_messages import bundle, datagram
        from core.params import SPECS, ParamError

        known: dict[str, Any] = {}
        for name, value in values.items():
            try:
                if name not in SPECS:
                    self._tell(name, f"unknown parameter {name[:40]!r}")
                elif value != self._sent.get(name):
                    known[name] = SPECS[name].check(value)
                    self._sent[name] = value
            except ParamError as error:
                self._tell(name, str(error))
        if known:
            messages = [
                datagram(f"/{name}", ",".join(map(str, value)) if isinstance(value, tuple) else value)
                for name, value in known.items()
            ]
            # Nobody may listen there: a replay goes on without.
            with contextlib.suppress(OSError):
                self._udp.sendto(bundle(messages), self._to)

    def _tell(self, name: str, what: str) -> None:
        if name not in self._told:
            self._told.add(name)
            say(f"replay: {what}; left out")


if __name__ == "__main__":
    sys.exit(main())

"""`frameloom scene`: a room with screens in the browser, each a live texture of a channel, from one word.

Every painted world is a client process and a host of its own; one more host waits for what visitors draw or film. One
gateway shows them all; each listens for OSC on a port of its own. With `--frames N` it ends by itself and prints what
it measured as one line of JSON, the last line of its output.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bridge.commands.arguments import (
    Parser,
    add_json_option,
    parse_channel,
    parse_count,
    parse_fps,
    parse_seed,
    parse_size,
)
from bridge.commands.host import (
    ChannelHost,
    add_host_options,
    host_options,
    nth_channel,
    params_from,
    set_library_habits,
)
from bridge.commands.show import PAIRS, STATUS_S, STUCK_S, Client, Heartbeat, Measured, captions, open_page, run
from bridge.control.statistics import peak_memory_mb
from bridge.ring.leftovers import clear
from bridge.terminal import print_result, say, status, status_every_s
from core.params import params_for

GUEST = "guest"
MAX_HOSTS = 8
POLL_S = 0.1


@dataclass
class PaintedChannel:
    """One channel of the room: its host and, for a world, the client process that feeds it."""

    running: ChannelHost
    client: Client | None
    measured: Measured = field(default_factory=Measured)
    failure: str | None = None

    @property
    def channel(self) -> str:
        return self.running.channel

    def follow(self) -> None:
        """Keep the client alive, note what came out, and note what went wrong."""
        statistics = self.running.statistics
        frames_out = statistics.counter("frames_out")
        if frames_out > self.measured.last_count:
            self.measured.note_output(frames_out)
        if self.client is not None:
            self.client.keep_alive(statistics.counter("frames_in") > 0)
            self.failure = self.failure or self.client.failure
        self.failure = self.failure or self.running.failure

    def summary(self) -> dict[str, Any]:
        statistics, first_s = self.running.statistics.snapshot(), self.measured.first_output_s
        return {
            "channel": self.channel,
            "prompt": self.running.live.current.prompt,
            "fps": self.measured.fps(),
            "first_output_s": None if first_s is None else round(first_s, 2),
            **{name: statistics[name] for name in ("p50_ms", "frames_in", "frames_out", "dropped")},
        }


class Room:
    """All painters and their gateway, from `start` to `stop`. Raises `StartError` with one plain sentence.

    options: see `bridge.commands.host.host_options`.
    """

    def __init__(self, args: argparse.Namespace, options: Mapping[str, Any], base: str) -> None:
        self.painters: list[PaintedChannel] = []
        self._stop = threading.Event()
        self._starter = threading.Thread(target=self._start_hosts, name="scene hosts", daemon=True)
        try:
            self._add_painters(args, options, base)
        except BaseException:
            self.stop()
            raise

    def _add_painters(self, args: argparse.Namespace, options: Mapping[str, Any], base: str) -> None:
        from bridge.host.loading import Models

        set_library_habits()
        size = f"{args.size[0]}x{args.size[1]}"
        # The stages of all hosts share the cores; what each of them would take alone is not the question here.
        threads = max(1, (os.cpu_count() or 2) // (2 * args.hosts)) if args.device in (None, "auto", "cpu") else None
        models = Models(args.hosts + 1)
        params = params_from(args.settings, params_for(args.model))
        set_for_all = any(setting.startswith("prompt=") for setting in args.settings)
        for number in range(args.hosts + 1):
            guest = number == args.hosts
            seed = args.seed + number
            channel = f"{base}-{GUEST if guest else f'world-{number + 1}'}"
            examples = captions("guest" if guest else "world", seed, PAIRS)
            prompt = params.prompt if set_for_all else examples[(number + 1) % len(examples)]
            prompt = args.prompt[number] if number < len(args.prompt) else prompt
            running = ChannelHost(
                channel,
                params.with_values(prompt=prompt),
                examples=examples,
                any_port=True,
                models=models,
                size=args.size,
                threads=threads,
                **nth_channel(options, number),
            )
            client = None
            if not guest:
                client = Client(channel, ["world", "--fps", str(args.fps), "--size", size, "--seed", str(seed)])
            self.painters.append(PaintedChannel(running, client))

    def start(self) -> None:
        """Start the gateway, the clients, and the hosts one after the other."""
        first, *others = (painter.running for painter in self.painters)
        first.listen(others, start_page="scene/")
        for painter in self.painters:
            if painter.client is not None:
                painter.client.start()
        self._starter.start()

    def _start_hosts(self) -> None:
        # One model at a time, so that the first picture comes early on a small machine.
        for painter in self.painters:
            if self._stop.is_set():
                return
            painter.running.start()
            host = painter.running.host
            while not (host.ready.wait(POLL_S) or host.failure or self._stop.is_set()):
                pass

    @property
    def url(self) -> str:
        return self.painters[0].running.url

    @property
    def worlds(self) -> list[PaintedChannel]:
        return [painter for painter in self.painters if painter.client is not None]

    @property
    def failure(self) -> str | None:
        return next((f"{p.channel}: {p.failure}" for p in self.painters if p.failure), None)

    def stop(self) -> None:
        """End everything and wait for it."""
        self._stop.set()
        if self._starter.is_alive():
            self._starter.join()
        for painter in self.painters:
            painter.running.host.stop()
        for painter in self.painters:
            if painter.client is not None:
                painter.client.stop()
        for painter in self.painters:
            painter.running.stop()
            if painter.client is not None and painter.client.killed:
                clear(f"{painter.channel}.in")


def show(
    args: argparse.Namespace, options: Mapping[str, Any], base: str, stop: threading.Event
) -> tuple[int, dict[str, Any]]:
    """Run the room to its end; returns the exit status and what was measured."""
    started = time.monotonic()
    say(f"starting {args.hosts} world{'s' if args.hosts > 1 else ''}, their hosts and the scene")
    room = Room(args, options, base)
    heartbeat = Heartbeat(lambda: _progress(room))
    try:
        room.start()
        failure = _follow(args, room, heartbeat, stop)
        heartbeat.stop()
        if failure is not None:
            say(f"scene: {failure}")
    finally:
        heartbeat.stop()
        room.stop()
    worlds = [painter.summary() for painter in room.worlds]
    firsts = [world["first_output_s"] for world in worlds]
    return (1 if failure is not None else 0), {
        "url": room.url,
        "channels": [painter.channel for painter in room.painters],
        "worlds": worlds,
        "all_screens_s": None if None in firsts else max(firsts),
        "model": str(args.model),
        "size": list(args.size),
        "peak_memory_mb": peak_memory_mb(),
        "seconds": round(time.monotonic() - started, 2),
        "failure": failure,
    }


def _follow(args: argparse.Namespace, room: Room, heartbeat: Heartbeat, stop: threading.Event) -> str | None:
    """Watch the painters until the end; returns what went wrong, or None."""
    told = alive = time.monotonic()
    outputs, opened = 0, False
    while not stop.wait(POLL_S):
        for painter in room.painters:
            painter.follow()
        if room.failure is not None:
            return room.failure
        now = time.monotonic()
        counts = [painter.measured.last_count for painter in room.worlds]
        if sum(counts) > outputs:
            outputs, alive = sum(counts), now
        if not opened and outputs:
            opened = True
            say(f"first picture after {room.worlds[0].measured.since_start_s():.1f} s")
            open_page(args, room.url)
        if all(counts):
            heartbeat.stop()
        if args.frames is not None and min(counts) >= args.frames:
            return None
        if not all(painter.running.host.ready.is_set() for painter in room.worlds):
            alive = now
        elif args.frames is not None and now - alive > STUCK_S:
            return f"no picture came out for {STUCK_S:.0f} s"
        if all(counts) and now - told >= status_every_s(STATUS_S):
            told = now
            rates = ", ".join(f"{p.channel} {p.running.statistics.snapshot(STATUS_S)['fps']:.1f}" for p in room.worlds)
            status(f"frames per second: {rates}")
    return None


def _progress(room: Room) -> str:
    """What the start is waiting for."""
    loading = [painter.channel for painter in room.worlds if not painter.running.host.ready.is_set()]
    if loading:
        return f"loading the model for {', '.join(loading)}"
    return "waiting for the first pictures"


def _hosts(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_HOSTS:
        raise argparse.ArgumentTypeError(f"{text}: give 1 to {MAX_HOSTS}")
    return int(text)


def _base(text: str) -> str:
    parse_channel(f"{text}-world-{MAX_HOSTS}")
    return text


def _arguments(argv: list[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = Parser("scene", description="A room with live screens in the browser; visitors draw and set prompts.")
    parser.add_argument("--hosts", type=_hosts, default=2, help="painted worlds, each with a host (default 2)")
    parser.add_argument(
        "--prompt", action="append", default=[], help="a prompt; repeat for one per world, then the visitors'"
    )
    parser.add_argument("--size", type=parse_size, default=(128, 128), help="size in pixels: 128 (default) or 256x144")
    parser.add_argument("--fps", type=parse_fps, default=15.0, help="frames per second of each world (default 15)")
    parser.add_argument("--frames", type=parse_count, default=None, help="stop after so many pictures of every world")
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of the first world's scene (default 0)")
    parser.add_argument(
        "--channel", type=_base, default=None, help="first part of the channels' names (default: one of its own)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    add_json_option(parser)
    add_host_options(parser)
    args = parser.parse_args(argv)
    return args, host_options(parser, args)


def main(argv: list[str] | None = None) -> int:
    """Run the scene; 1 when something kept it from its end. What was measured is the last line of standard output, as
    JSON; nothing where it failed before the first picture."""
    args, options = _arguments(argv)
    finished = run("scene", args.channel, partial(show, args, options))
    if finished is None:
        return 1
    exit_status, summary = finished
    rates = [world for world in summary["worlds"] if world["first_output_s"] is not None]
    if rates:
        shown = ", ".join(f"{world['channel']} {world['fps']:.1f}" for world in rates)
        say(f"{summary['seconds']:.0f} s; frames per second: {shown}")
    if summary["failure"] is None or rates or args.json:
        print_result(summary, args.json)
    return exit_status


if __name__ == "__main__":
    sys.exit(main())

"""`frameloom demo`: a client process, a host and the page, from one word.

The client is a process of its own, as a game would be, and is started again when it dies. With `--frames N` the demo
ends by itself, leaves a contact sheet, and prints what it measured as one line of JSON, the last line of its output.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bridge.commands.arguments import (
    Parser,
    add_json_option,
    parse_channel,
    parse_count,
    parse_file,
    parse_fps,
    parse_seed,
    parse_size,
)
from bridge.commands.beside import ROWS, beside
from bridge.commands.contact_sheet import FORMATS, Pair, write_sheet
from bridge.commands.host import (
    ChannelHost,
    add_host_options,
    host_options,
    params_from,
    set_library_habits,
    status_line,
)
from bridge.commands.show import PAIRS, STATUS_S, STUCK_S, Client, Heartbeat, Measured, captions, open_page, run
from bridge.ring import Frame, Kind, RingError, RingReader
from bridge.ring.leftovers import clear
from bridge.sources import look_for
from bridge.terminal import PROGRAM, print_result, say, status, status_every_s
from core.params import TEMPORAL, Params, params_for

Array = np.ndarray[Any, np.dtype[Any]]

SETTLED = 0.85
"""How far into its share of the frames a pair is taken, so that the new prompt has reached every stage."""
STYLE_S = 6.0
"""How long a style stays when the demo has no end."""
SOURCE_S = 3.0
"""The longest that the model waits for the source: files open in less, cameras that take longer are none's mistake."""
KEPT_INPUTS = 128
KEPT_INPUT_BYTES = 64 << 20
"""Inputs waiting for their outputs, for the contact sheet: whichever bound is reached first."""


def _prompts(args: argparse.Namespace, params: Params) -> list[str]:
    """The prompts of a demo without --prompt; one given by --set is the only one."""
    if any(setting.startswith("prompt=") for setting in args.settings):
        return [params.prompt]
    return captions(args.source, args.seed, PAIRS)


class StyleWalk:
    """Walks through prompts, by frames when there is an end and by time when there is none.

    As soon as somebody else sets a prompt, by OSC or on the page, the walk is over.
    """

    def __init__(self, running: ChannelHost, prompts: list[str], frames: int | None) -> None:
        self._running = running
        self._prompts = prompts
        self._frames = frames
        self._at = 0
        self._over = len(prompts) < 2
        self.prompt_of_revision = {running.live.revision: running.live.current.prompt}

    def step(self, frames_out: int, since_first_s: float) -> None:
        """Set the prompt that is due."""
        live = self._running.live
        params, revision = live.latest()
        self.prompt_of_revision[revision] = params.prompt
        if len(self.prompt_of_revision) > 64:
            del self.prompt_of_revision[next(iter(self.prompt_of_revision))]
        if self._over:
            return
        if params.prompt != self._prompts[self._at]:
            self._over = True
            return
        if self._frames is not None:
            due = min(frames_out * len(self._prompts) // self._frames, len(self._prompts) - 1)
        else:
            due = int(since_first_s / STYLE_S) % len(self._prompts)
        if due != self._at:
            self._at = due
            live.set("prompt", self._prompts[due])
            params, revision = live.latest()
            self.prompt_of_revision[revision] = params.prompt


class Pairing:
    """Keeps the newest inputs until their outputs come; picks the pairs of the contact sheet on the way."""

    def __init__(self, channel: str, due: list[int]) -> None:
        self.pairs: list[Pair] = []
        self.before: list[Pair] = []
        """Of each pair the one of the output before it."""
        self._last: Pair | None = None
        self.fed = threading.Event()
        """Set when the first input came."""
        self._due = due
        self._inputs: OrderedDict[int, Array] = OrderedDict()
        self._guard = threading.Lock()
        self._reader = RingReader(f"{channel}.in")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inputs", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                frame = self._reader.read(timeout_s=0.25)
            except RingError as error:
                say(f"{self._reader.channel}: {error}")
                self._stop.wait(1.0)
                continue
            if frame is None:
                continue
            self.fed.set()
            if len(self.pairs) < len(self._due):
                self._keep(frame)

    def _keep(self, frame: Frame) -> None:
        picture = frame.planes[Kind.COLOUR]
        room = max(1, min(KEPT_INPUTS, KEPT_INPUT_BYTES // picture.nbytes))
        with self._guard:
            self._inputs[frame.source_frame_id] = picture
            while len(self._inputs) > room:
                self._inputs.popitem(last=False)

    def offer(self, frame: Frame, frames_out: int, prompt: str) -> None:
        """Take this output for the sheet when a pair is due and its input is still here."""
        if len(self.pairs) == len(self._due):
            return
        with self._guard:
            picture = self._inputs.get(frame.source_frame_id)
        if picture is None:
            return
        pair, last = Pair(picture, frame.planes[Kind.COLOUR], prompt), self._last
        self._last = pair
        if frames_out >= self._due[len(self.pairs)]:
            self.pairs.append(pair)
            self.before.append(last or pair)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._reader.close()


# ---- the run -------------------------------------------------------------------------------------------------------


def show(
    args: argparse.Namespace, options: Mapping[str, Any], channel: str, stop: threading.Event
) -> tuple[int, dict[str, Any]]:
    """Run the demo to its end; returns the exit status and what was measured. options: see `host_options`."""
    measured = Measured()
    frames: int | None = args.frames
    set_library_habits()
    look_for(args.source)
    # Every one is checked now, and not when its turn comes.
    first = params_for(args.model)
    prompted = [first.with_values(prompt=prompt) for prompt in args.prompt]
    first = prompted[0] if prompted else first
    params = params_from(args.settings, first.with_values(temporal=args.temporal) if args.temporal else first)
    arguments = [args.source, "--fps", str(args.fps), "--seed", str(args.seed)]
    arguments += ["--size", f"{args.size[0]}x{args.size[1]}"]
    if args.source == "world":
        # Live parameters may ask for them at any time.
        arguments += ["--planes", "motion,depth"]
    running = ChannelHost(channel, params, any_port=True, size=args.size, **options)
    say("starting the client, the model and the page")
    prompts = args.prompt or _prompts(args, params)
    running.live.set("prompt", prompts[0])
    running.examples = tuple(prompts)
    running.listen()
    client = Client(channel, arguments)
    pairing = Pairing(
        channel, [int((k + SETTLED) * frames / PAIRS) for k in range(PAIRS)] if frames is not None else []
    )
    heartbeat = Heartbeat(lambda: _progress(running, pairing, measured))
    try:
        client.start()
        _await_source(args.source, client, pairing, stop)
        if client.failure is None:
            running.start()
        walk = StyleWalk(running, prompts, frames)
        failure = _follow(args, running, client, walk, pairing, measured, heartbeat, stop)
        heartbeat.stop()
        if failure is not None:
            # Now, and not when all has ended: a model that is being loaded has to be waited for.
            say(f"demo: {failure}")
        statistics = running.statistics.snapshot()
    finally:
        heartbeat.stop()
        # Asked first and waited for last: the model must not compete with the client's end.
        running.host.stop()
        client.stop()
        running.stop()
        pairing.stop()
    loaded, shown = running.host.loaded, running.live.current
    pairs, rows = pairing.pairs, "Above: input. Below: output."
    if shown.temporal != "off" and loaded is not None and pairs:
        pairs, rows = beside(loaded.model, shown, pairs, pairing.before), ROWS.format(temporal=shown.temporal)
    sheet = _sheet(args, pairs, measured, rows)
    summary = {
        "fps": measured.fps(),
        "first_output_s": None if measured.first_output_s is None else round(measured.first_output_s, 2),
        **{name: statistics[name] for name in ("p50_ms", "p95_ms", "p99_ms")},
        **{name: statistics[name] for name in ("frames_in", "frames_out", "dropped", "skipped")},
        "peak_memory_mb": statistics["peak_memory_mb"],
        "client_memory_mb": client.peak_memory_mb,
        "client_restarts": client.restarts,
        "device": "" if loaded is None else loaded.device_name,
        "dtype": "" if loaded is None else loaded.dtype_name,
        "backend": "" if loaded is None else loaded.backend_name,
        "model": str(args.model),
        "source": args.source,
        "size": list(args.size),
        "steps": running.live.current.steps,
        "guidance": running.live.current.guidance,
        "mode": running.live.current.mode,
        "temporal": running.live.current.temporal,
        "seconds": round(measured.since_start_s(), 2),
        "sheet": sheet,
        "failure": failure,
    }
    if client.killed:
        clear(f"{channel}.in")
    return (1 if failure is not None else 0), summary


def _await_source(source: str, client: Client, pairing: Pairing, stop: threading.Event) -> None:
    """A moment in which the client may find that its source cannot be opened, before a model is loaded for it. The
    world always can."""
    until_s = time.monotonic() + SOURCE_S
    while source != "world" and client.failure is None and not stop.is_set() and time.monotonic() < until_s:
        if pairing.fed.wait(0.05):
            return
        client.keep_alive(False)


def _follow(
    args: argparse.Namespace,
    running: ChannelHost,
    client: Client,
    walk: StyleWalk,
    pairing: Pairing,
    measured: Measured,
    heartbeat: Heartbeat,
    stop: threading.Event,
) -> str | None:
    """Watch the output until the end; returns what went wrong, or None."""
    told_s = alive_s = measured.since_start_s()
    outputs = RingReader(f"{running.channel}.out")
    try:
        while not stop.is_set():
            if running.ended.is_set():
                return running.failure
            client.keep_alive(pairing.fed.is_set())
            if client.failure is not None:
                return client.failure
            frame = outputs.read(timeout_s=0.25)
            frames_out = running.statistics.counter("frames_out")
            now_s = measured.since_start_s()
            if frame is not None:
                alive_s = now_s
                if measured.first_output_s is None:
                    heartbeat.stop()
                    say(f"first picture after {now_s:.1f} s on {running.runs_on}")
                    open_page(args, running.url)
                    told_s = now_s
                measured.note_output(frames_out)
                pairing.offer(frame, frames_out, walk.prompt_of_revision.get(frame.param_revision, ""))
                walk.step(frames_out, now_s - (measured.first_output_s or 0.0))
                if args.frames is not None and frames_out >= args.frames:
                    return None
            elif not (running.host.ready.is_set() and pairing.fed.is_set()):
                alive_s = now_s
            elif args.frames is not None and now_s - alive_s > STUCK_S:
                look = f"{PROGRAM} doctor --channel {running.channel}"
                return f"no picture came out for {STUCK_S:.0f} s; while a demo runs, {look} looks closer"
            if measured.first_output_s is not None and now_s - told_s >= status_every_s(STATUS_S):
                told_s = now_s
                status(f"{status_line(running)}; {running.live.current.prompt}")
    except RingError as error:
        return str(error)
    finally:
        outputs.close()
    return None


def _progress(running: ChannelHost, pairing: Pairing, measured: Measured) -> str:
    """What the start is waiting for."""
    now_s = measured.since_start_s()
    if not running.host.ready.is_set():
        return f"loading the model ({now_s:.0f} s)"
    if not pairing.fed.is_set():
        return f"waiting for the client's first frame ({now_s:.0f} s)"
    return f"waiting for the first picture ({now_s:.0f} s)"


def _sheet(args: argparse.Namespace, pairs: list[Pair], measured: Measured, rows: str) -> str | None:
    """Write the contact sheet; its path, or None with a note when that cannot be."""
    if not pairs:
        if measured.first_output_s is not None:
            say("no contact sheet: no picture came back whose input was still at hand; raise --frames")
        return None
    size = f"{args.size[0]}x{args.size[1]}"
    title = f"frameloom demo: {args.source} at {size}, {measured.fps():.1f} frames per second. {rows}"
    try:
        write_sheet(args.sheet, pairs, title)
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        say(f"the contact sheet {args.sheet} cannot be written ({why}); give another path with --sheet")
        return None
    say(f"contact sheet: {args.sheet}")
    return str(args.sheet)


# ---- the command line ----------------------------------------------------------------------------------------------


def _sheet_path(text: str) -> Path:
    path = parse_file(text)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r}: a sheet is one of {', '.join(filter(None, FORMATS))}")
    return path


def _arguments(argv: list[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = Parser("demo", description="A moving scene, repainted live, in the browser.")
    parser.add_argument("--source", default="world", help="world (default), camera, camera:N, a video, a folder")
    parser.add_argument("--size", type=parse_size, default=(192, 192), help="size in pixels: 192 (default) or 256x144")
    parser.add_argument("--fps", type=parse_fps, default=30.0, help="frames per second of the source (default 30)")
    parser.add_argument(
        "--frames", type=parse_count, default=None, help="stop after so many pictures and write the sheet"
    )
    parser.add_argument(
        "--temporal",
        choices=TEMPORAL,
        default=None,
        help="steady pictures: off (default), bank, engine (the world's own motion), flow (estimated motion); the sheet"
        " shows single frames beside them",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--prompt", action="append", default=[], help="a prompt; repeat for several that take turns")
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of the scene (default 0)")
    parser.add_argument(
        "--channel", type=parse_channel, default=None, help="name of the channel (default: one of its own)"
    )
    parser.add_argument(
        "--sheet",
        type=_sheet_path,
        default=Path("out/demo.png"),
        help="file of the contact sheet (default out/demo.png)",
    )
    add_json_option(parser)
    add_host_options(parser)
    args = parser.parse_args(argv)
    return args, host_options(parser, args)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; 1 when something kept it from its end. What was measured is the last line of standard output, as
    JSON; nothing where it failed before the first picture."""
    args, options = _arguments(argv)
    finished = run("demo", args.channel, partial(show, args, options))
    if finished is None:
        return 1
    exit_status, summary = finished
    if summary["first_output_s"] is not None:
        say(f"{summary['frames_out']} pictures in {summary['seconds']:.0f} s, {summary['fps']:.1f} per second")
    if summary["failure"] is None or summary["first_output_s"] is not None or args.json:
        print_result(summary, args.json)
    return exit_status


if __name__ == "__main__":
    sys.exit(main())

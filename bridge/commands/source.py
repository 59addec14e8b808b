"""`frameloom source`: a client that feeds a channel.

    frameloom source world --channel NAME --fps 30 --size 128
    frameloom source camera:0 --channel NAME        frameloom source clip.mp4 --channel NAME

A client is a process of its own and knows nothing of the host: it writes NAME.in and nobody waits for it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np

from bridge.commands.arguments import (
    Parser,
    add_json_option,
    parse_channel,
    parse_count,
    parse_fps,
    parse_seconds,
    parse_seed,
    parse_size,
)
from bridge.commands.signals import Stop, ending_signals
from bridge.control.statistics import peak_memory_mb
from bridge.ring.layout import Kind
from bridge.sources import PLANES, Array, Source, SourceError, open_source
from bridge.terminal import print_result, say, say_warnings, status, status_every_s

REPORT_EVERY_S = 10.0


def _planes(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in PLANES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no plane {unknown[0]!r}; use one of {', '.join(PLANES)}")
    return names


def feed(
    source: Source,
    writer: Any,
    fps: float,
    size: tuple[int, int],
    frames: int | None,
    alpha: bool,
    stop: threading.Event,
    report: bool = True,
) -> int:
    """Write frames to `writer` (a `RingWriter`) at `fps` until `stop` or until `frames` are written. Returns how many.
    report: tell from time to time how many there were.

    The frame of moment k / fps has the frame id k + 1, its own source (0 means none in the ring). A source that is
    too slow leaves numbers out and so keeps its speed of motion.
    """
    started = time.monotonic()
    written = 0
    index = 0
    reported = started
    while frames is None or written < frames:
        late_s = time.monotonic() - started - index / fps
        if late_s < 0 and stop.wait(-late_s):
            break
        if stop.is_set():
            break
        if late_s > 1.0 / fps:
            index += int(late_s * fps)
        came = source.read(index / fps)
        if came is None:
            continue
        planes, captured_ns = came
        if alpha:
            planes = {**planes, Kind.COLOUR: _with_alpha(planes[Kind.COLOUR])}
        T_world_camera, intrinsics = source.pose(index / fps) or (None, None)
        writer.write(
            planes,
            frame_id=index + 1,
            source_frame_id=index + 1,
            capture_ns=captured_ns,
            T_world_camera=T_world_camera,
            intrinsics=intrinsics,
        )
        written += 1
        index += 1
        now = time.monotonic()
        if report and now - reported >= status_every_s(REPORT_EVERY_S):
            reported = now
            status(f"source: {written} frames, {written / (now - started):.1f} per second at {size[0]}x{size[1]}")
    return written


def _with_alpha(rgb: Array) -> Array:
    rgba = np.full((*rgb.shape[:2], 4), 255, np.uint8)
    rgba[..., :3] = rgb
    return rgba


def _arguments(arguments: list[str], what: str | None) -> argparse.Namespace:
    parser = Parser(
        f"{'source' if what is None else what}",
        description="Write frames into NAME.in: world, camera[:N], a video file or a folder."
        if what is None
        else f"Write frames of the {what} into NAME.in.",
    )
    if what is None:
        parser.add_argument(
            "what",
            help="world, camera, camera:N, http:// or rtsp:// of a network camera, a video, a picture or a folder of"
            " them",
        )
    else:
        parser.set_defaults(what=what)
    parser.add_argument("--channel", type=parse_channel, required=True, help="the channel NAME; frames go to NAME.in")
    parser.add_argument("--fps", type=parse_fps, default=30.0, help="frames per second (default 30)")
    parser.add_argument("--size", type=parse_size, default=(128, 128), help="size in pixels: 128 (default) or 640x360")
    parser.add_argument("--frames", type=parse_count, default=None, help="stop after so many frames")
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of the world (default 0)")
    parser.add_argument("--style", default="", help="the world's own look (default grey)")
    parser.add_argument(
        "--planes", type=_planes, default=(), help="planes of the world, separated by commas: " + ",".join(PLANES)
    )
    parser.add_argument(
        "--hold",
        type=parse_seconds,
        default=2.0,
        metavar="S",
        help="seconds per picture of a folder; 0: one frame each",
    )
    parser.add_argument("--alpha", action="store_true", help="write RGBA8 instead of RGB8")
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input ends")
    add_json_option(parser)
    return parser.parse_args(arguments)


def main(argv: list[str] | None = None, what: str | None = None) -> int:
    """Feed one channel until stopped; the last line of standard output is JSON: frames, seconds, peak_memory_mb.

    what: the source, where the arguments name none. With a parent, that one is told by JSON alone, at the end, and
    tells its user.
    """
    args = _arguments(sys.argv[1:] if argv is None else argv, what)
    say_warnings()
    # Loaded after the arguments are understood, so that --help and mistakes answer at once.
    from bridge.ring import RingError, RingWriter

    stop = Stop()
    for number in ending_signals():
        signal.signal(number, stop.on_signal)
    if args.with_parent:
        stop.watch(sys.stdin.fileno())
    started = time.monotonic()
    try:
        source = open_source(
            args.what,
            args.size,
            args.fps,
            seed=args.seed,
            planes=args.planes,
            style=args.style,
            hold_s=args.hold,
        )
        try:
            # 4 bytes a pixel for colour, 8 for normals, 4 each for depth and motion, 1 for the mask.
            room = args.size[0] * args.size[1] * (4 + 17 * bool(args.planes)) + 65536
            with RingWriter(f"{args.channel}.in", capacity_bytes=room) as writer:
                report = not args.with_parent
                frames = feed(source, writer, args.fps, args.size, args.frames, args.alpha, stop.event, report)
        finally:
            source.close()
    except (SourceError, RingError) as error:
        if args.with_parent:
            _tell_parent({"failure": str(error)})
        else:
            say(f"source: {error}")
        return 1
    seconds = round(time.monotonic() - started, 3)
    result = {"frames": frames, "seconds": seconds, "peak_memory_mb": peak_memory_mb()}
    if args.with_parent:
        _tell_parent(result)
    else:
        say(f"source: {frames} frames in {seconds:.0f} s")
        print_result(result, args.json)
    return 0


def _tell_parent(result: dict[str, Any]) -> None:
    """A parent that was ended at once reads no more; the rest of this process's life is then nobody's."""
    try:
        print_result(result, wanted=True)
    except OSError:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

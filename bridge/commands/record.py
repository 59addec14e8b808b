"""`frameloom record NAME FILE`: rings, parameters and times of a channel into an MCAP file, beside its host."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

from bridge.commands.arguments import Parser, add_json_option, parse_channel, parse_seconds
from bridge.commands.ports import PAGE_PORT
from bridge.commands.signals import StopRequest
from bridge.terminal import print_result, say, say_warnings, status, status_every_s

STATUS_S = 10.0


def main(argv: list[str] | None = None) -> int:
    """Record until stopped; the last line of standard output is JSON."""
    parser = Parser(
        "record",
        description="Record NAME.in, NAME.out, the parameters and all times into an MCAP file, until Ctrl-C.",
    )
    parser.add_argument("channel", type=parse_channel, metavar="NAME", help="name of the channel")
    parser.add_argument("file", metavar="FILE", type=Path, help="a new file, such as show.mcap")
    parser.add_argument("--codec", default="jpeg", help="codec of colour planes: jpeg (default), lossless (LZ4), raw")
    parser.add_argument("--sides", default="in,out", help="rings to record: in,out (default), in, or out")
    parser.add_argument("--seconds", type=parse_seconds, default=None, help="stop after so many seconds")
    parser.add_argument(
        "--page",
        default=os.environ.get("FRAMELOOM_PAGE", f"http://127.0.0.1:{PAGE_PORT}/"),
        help=f"address of the host's page, which tells the parameters (default http://127.0.0.1:{PAGE_PORT}/)",
    )
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    add_json_option(parser)
    args = parser.parse_args(argv)
    say_warnings()
    sides = tuple(dict.fromkeys(args.sides.split(",")))
    # Loaded after the arguments are understood, so that --help and mistakes answer at once.
    from bridge.page.listen import ParamsListener
    from bridge.recording.file import CODECS, SIDES, RecordingError
    from bridge.recording.recorder import Recorder
    from bridge.ring import RingError

    if args.codec not in CODECS:
        parser.error(f"--codec {args.codec}: use one of {', '.join(CODECS)}")
    if not set(sides) <= set(SIDES):
        parser.error(f"--sides {args.sides}: use in, out, or in,out")
    stop = StopRequest()
    if args.with_parent:
        threading.Thread(target=_follow_parent, args=(stop.event,), daemon=True).start()
    try:
        recorder = Recorder(args.channel, args.file, codec=args.codec, sides=sides, ended=stop.event.set)
    except (RecordingError, RingError) as error:
        say(f"record: {error}")
        stop.restore()
        return 1
    _step_back()
    listener = ParamsListener(args.page, args.channel, recorder.params)
    started = told = time.monotonic()
    try:
        recorder.start()
        listener.start()
        say(f"recording {args.channel} into {args.file}; Ctrl-C ends it")
        while not stop.event.wait(0.1) and (args.seconds is None or time.monotonic() - started < args.seconds):
            if time.monotonic() - told >= status_every_s(STATUS_S):
                told = time.monotonic()
                status(_status(recorder.recorded, recorder.lost, recorder.size_bytes, listener.trouble))
    finally:
        listener.stop()
        recorder.stop()
        stop.restore()
    if "params" not in recorder.recorded:
        say(f"record: no parameters were recorded ({listener.trouble}); name the host's page with --page")
    if recorder.ending:
        say(f"record: {recorder.ending}")
    summary = {
        "file": str(args.file),
        "frames": {side: recorder.recorded[side] for side in sides},
        "lost": recorder.lost,
        "params": recorder.recorded.get("params", 0),
        "bytes": recorder.size_bytes,
        "seconds": round(time.monotonic() - started, 2),
        "ending": recorder.ending,
    }
    say(f"{args.file}: {_status(recorder.recorded, recorder.lost, recorder.size_bytes, '')}")
    print_result(summary, args.json)
    return 1 if recorder.ending else 0


def _status(recorded: dict[str, int], lost: dict[str, int], size: int, trouble: str) -> str:
    frames = ", ".join(f"{recorded[side]} {side} ({count} lost)" for side, count in lost.items())
    return f"{frames}, {size / 1e6:.0f} MB" + (f"; no parameters: {trouble}" if trouble else "")


def _step_back() -> None:
    """Take only the time that host and client leave."""
    if sys.platform == "win32":
        import ctypes

        below_normal = 0x4000
        kernel32 = ctypes.windll.kernel32
        kernel32.SetPriorityClass(kernel32.GetCurrentProcess(), below_normal)
    else:
        with contextlib.suppress(OSError):
            os.nice(15)


def _follow_parent(stop: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())

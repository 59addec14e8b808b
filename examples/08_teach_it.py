"""Teach the embedded model a look: record pictures of a channel, name the look, tune for minutes, start a host with it.

    python3 run.py world --channel garden --style neon      # or whatever writes the look into garden.in
    .venv/bin/python examples/08_teach_it.py --channel garden --caption "moss style"

Pictures of the look are best as different as can be: let the scene move while it records. The new model gets a host
and a channel of its own; or a host that runs already takes it, between two pictures:

    python3 run.py host --channel stage --models out/teach
    .venv/bin/python examples/08_teach_it.py --channel garden --caption "moss style" --tell 9000
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pythonosc.udp_client import SimpleUDPClient  # noqa: E402

from bridge.commands.cli import main as frameloom  # noqa: E402
from bridge.ring import Kind, RingReader  # noqa: E402
from bridge.ring.colour import rgb8  # noqa: E402
from core.training.curves import save_picture  # noqa: E402


def record(ring: str, folder: Path, count: int, every_s: float, patience_s: float) -> int:
    """Write so many pictures of a ring into a folder, one every `every_s` seconds; how many there were in time."""
    folder.mkdir(parents=True, exist_ok=True)
    written, until = 0, time.monotonic() + patience_s
    with RingReader(ring) as reader:
        while written < count and time.monotonic() < until:
            frame = reader.read(timeout_s=min(1.0, patience_s))
            if frame is None:
                continue
            picture = rgb8(frame.planes[Kind.COLOUR], frame.formats[Kind.COLOUR], frame.origin, frame.colour_space)
            save_picture(folder / f"{written:04d}.png", picture[..., :3])
            written, until = written + 1, time.monotonic() + patience_s
            time.sleep(every_s)
    return written


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channel", default="garden", help="whose incoming pictures have the look")
    parser.add_argument("--caption", default="moss style", help="what the look is called from now on")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--every", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--patience", type=float, default=30.0, metavar="SECONDS", help="to wait for a picture")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=Path("out/teach"), help="pictures, checkpoints and the model")
    parser.add_argument("--no-host", action="store_true", help="end when the model is written")
    parser.add_argument("--tell", type=int, default=0, metavar="PORT", help="of OSC: a host with --models out/teach")
    args = parser.parse_args(argv)

    # Another name for every look: a host that runs one of them can then tell them apart.
    pictures, model = args.folder / "pictures", args.folder / args.caption.replace(" ", "-")
    count = record(f"{args.channel}.in", pictures, args.pictures, args.every, args.patience)
    if count == 0:
        print(f"nothing came on {args.channel}.in; start what writes there first", file=sys.stderr)
        return 1
    print(f"{count} pictures of {args.channel}.in in {pictures}")
    words = [str(pictures), "--caption", args.caption, "--out", str(model), "--work", str(args.folder / "work")]
    status = frameloom(["train", "look", *words, "--minutes", str(args.minutes), "--steps", str(args.steps)])
    if status or args.no_host:
        return status
    if args.tell:
        with SimpleUDPClient("127.0.0.1", args.tell) as host:
            host.send_message("/model", model.name)
            host.send_message("/prompt", args.caption)
        print(f"the host that listens on port {args.tell} was told to take {model.name}")
        return 0
    words = ["--channel", f"{args.channel}-taught", "--model", str(model), "--set", f"prompt={args.caption}"]
    return frameloom(["host", *words])


if __name__ == "__main__":
    sys.exit(main())

"""Teach the embedded model a look: record pictures of a channel, name the look, tune for minutes, start a host with it.

    python3 run.py world --channel garden --style neon      # or whatever writes the look into garden.in
    .venv/bin/python examples/08_teach_it.py --channel garden --caption "moss style"

Pictures of the look are best as different as can be: let the scene move while it records. A host takes a model when it
starts, so the new one runs beside the old one, on a channel of its own, until you stop either.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

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
    args = parser.parse_args(argv)

    pictures, model = args.folder / "pictures", args.folder / "model"
    count = record(f"{args.channel}.in", pictures, args.pictures, args.every, args.patience)
    if count == 0:
        print(f"nothing came on {args.channel}.in; start what writes there first", file=sys.stderr)
        return 1
    print(f"{count} pictures of {args.channel}.in in {pictures}")
    words = [str(pictures), "--caption", args.caption, "--out", str(model), "--work", str(args.folder / "work")]
    status = frameloom(["train", "look", *words, "--minutes", str(args.minutes), "--steps", str(args.steps)])
    if status or args.no_host:
        return status
    words = ["--channel", f"{args.channel}-taught", "--model", str(model), "--set", f"prompt={args.caption}"]
    return frameloom(["host", *words])


if __name__ == "__main__":
    sys.exit(main())

"""`frameloom train tiny`: runs the recipe of the embedded model, with progress, from where it was interrupted."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import fields, replace
from pathlib import Path


def main(argv: list[str]) -> int:
    """Train; the exit status is 0 when the model folder was written."""
    parser = argparse.ArgumentParser(
        prog="frameloom train tiny", description="Train the embedded model from the procedural world."
    )
    parser.add_argument("--work", type=Path, default=Path(".cache/tiny"), help="checkpoints (default .cache/tiny)")
    parser.add_argument("--out", type=Path, default=Path("out/tiny"), help="the model folder (default out/tiny)")
    parser.add_argument("--device", default=None, help="auto (default), cpu or cuda")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the recipe; may be repeated",
    )
    args = parser.parse_args(argv)

    from core.device import DeviceError, pick_device
    from core.tiny.train import Settings, train

    settings = Settings()
    known = {f.name: type(getattr(settings, f.name)) for f in fields(Settings)}
    for item in args.set:
        name, _, value = item.partition("=")
        if name not in known:
            print(f"--set {item}: no such setting; known are {', '.join(known)}", file=sys.stderr)
            return 2
        try:
            settings = replace(settings, **{name: known[name](value)})
        except ValueError:
            print(f"--set {item}: give a number ({known[name].__name__})", file=sys.stderr)
            return 2
    try:
        device = pick_device(args.device)
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 2
    started = time.monotonic()
    print(f"training on {device}; interrupt at any time, the same command goes on from the last checkpoint", flush=True)

    def log(message: str) -> None:
        print(f"{time.monotonic() - started:7.0f} s  {message}", flush=True)

    try:
        train(settings, args.work, args.out, device, log)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"cannot write: {error}; free some room or choose another --work or --out", file=sys.stderr)
        return 1
    return 0

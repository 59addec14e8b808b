"""What the commands that train have in common: where they run, what they say, and how they end."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from core.tiny.together import Alone

Log = Callable[[str], None]
Run = Callable[["torch.device", Log, "Alone"], None]
"""Trains on a device, with a log, together with other processes."""


def check_settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with the parser's error where --minutes, --rank or --lr cannot be."""
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g}: give a number above 0")
    if not 0 <= args.rank <= 256:
        parser.error(f"--rank {args.rank}: give 0 to 256")
    if args.lr is not None and not 0.0 < args.lr < 1.0:
        parser.error(f"--lr {args.lr:g}: give a number above 0 and below 1")


def trained(asked: str | None, run: Run) -> int:
    """The exit status of a training. asked: the device, as it was given. The first of several processes alone speaks,
    but for errors."""
    from core.device import DeviceError, pick_device
    from core.tiny.stage import Diverged
    from core.tiny.together import found
    from core.training.datasets import DataError

    started = time.monotonic()
    try:
        device = pick_device(asked)
        together = found(device.type == "cpu")
        device = together.device or device

        def log(message: str) -> None:
            if together.rank == 0:
                print(f"{time.monotonic() - started:7.0f} s  {message}", flush=True)

        among = f", {together.count} processes" if together.count > 1 else ""
        log(f"training on {device}{among}; interrupt at any time, the same command goes on from the last checkpoint")
        run(device, log, together)
    except (DataError, DeviceError) as error:
        print(error, file=sys.stderr)
        return 2
    except Diverged as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"cannot write: {error}; free some room or choose another --work or --out", file=sys.stderr)
        return 1
    return 0

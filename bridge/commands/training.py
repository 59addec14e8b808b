"""What the commands that train have in common: where they run, what they say, and how they end."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bridge.commands.host import set_library_habits

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


def log_from_now() -> Log:
    """Prints messages with the seconds since this call."""
    started = time.monotonic()

    def log(message: str) -> None:
        print(f"{time.monotonic() - started:7.0f} s  {message}", flush=True)

    return log


def trained(asked: str | None, run: Run) -> int:
    """The exit status of a training. asked: the device, as it was given. The first of several processes alone speaks,
    but for errors."""
    from core.device import pick_device
    from core.tiny.together import found

    said = log_from_now()

    def train() -> None:
        device = pick_device(asked)
        together = found(device.type == "cpu")
        device = together.device or device

        def log(message: str) -> None:
            if together.rank == 0:
                said(message)

        among = f", {together.count} processes" if together.count > 1 else ""
        log(f"training on {device}{among}; interrupt at any time, the same command goes on from the last checkpoint")
        run(device, log, together)

    return ended(train)


def ended(train: Callable[[], None]) -> int:
    """The exit status of what trains; how it ended is said."""
    set_library_habits()
    from core.device import DeviceError
    from core.folder import ModelError
    from core.tiny.stage import CheckpointError, Diverged
    from core.training.datasets import DataError

    try:
        train()
    except (DataError, DeviceError, ModelError) as error:
        print(error, file=sys.stderr)
        return 2
    except (CheckpointError, Diverged) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"cannot write: {error}; free some room or choose another --work or --out", file=sys.stderr)
        return 1
    return 0

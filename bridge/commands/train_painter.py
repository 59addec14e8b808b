"""`frameloom train painter`: the embedded model's painter."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.commands.arguments import Parser, parse_count, parse_folder, parse_seed
from bridge.commands.training import Log, trained

if TYPE_CHECKING:
    import torch

    from core.tiny.together import Alone


def main(argv: list[str]) -> int:
    """Train; the exit status is 0 when the model folder was written."""
    parser = Parser(
        "train painter",
        description="Train the embedded model's painter from synthetic pictures and the procedural world.",
    )
    parser.add_argument(
        "--work", type=parse_folder, default=Path(".cache/painter"), help="folder for checkpoints and training data"
    )
    parser.add_argument(
        "--out", type=parse_folder, default=Path("out/painter"), help="the model folder (default out/painter)"
    )
    parser.add_argument("--autoencoder", type=Path, default=None, help="a folder of weights (default: the trained one)")
    parser.add_argument("--start", type=Path, default=None, metavar="FOLDER", help="model folder to continue from")
    parser.add_argument(
        "--keep", action="store_true", help="repaint as the model of --start does, and learn text-to-image alone"
    )
    parser.add_argument("--steps", type=parse_count, default=None, help="optimizer steps at most")
    parser.add_argument("--minutes", type=float, default=180.0, help="minutes of training at most (default 180)")
    parser.add_argument("--seed", type=parse_seed, default=0)
    parser.add_argument("--device", default=None, help="auto (default), cpu or cuda")
    parser.add_argument(
        "--makers",
        type=parse_count,
        default=None,
        help="processes that make training data (default: 1; on a card one less than the cores)",
    )
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g}: give a number above 0")
    if args.keep and args.start is None:
        parser.error("--keep: what is to be kept is that of --start FOLDER")

    return trained(args.device, partial(_train, args))


def _train(args: argparse.Namespace, device: torch.device, log: Log, together: Alone) -> None:
    """See `bridge.commands.training.Run`."""
    from core.tiny import AUTOENCODER
    from core.tiny.train_painter import load_autoencoder, produce, settings_for, train
    from core.training.datasets import DataError

    if together.count > 1:
        raise DataError("the painter is trained by one process; start it without accelerate")
    autoencoder = args.autoencoder or AUTOENCODER
    # Each of the processes below would say what is wrong with it.
    load_autoencoder(autoencoder, device)
    settings = settings_for(device, args.keep)
    settings = replace(settings, seed=args.seed, steps=args.steps or settings.steps, minutes=args.minutes)
    makers = args.makers or (1 if device.type == "cpu" else max(1, (os.cpu_count() or 2) - 1))
    # Data is made beside the training, which would wait for it every few minutes; by processors, as a card that many
    # processes share spends its time on changing between them.
    context = multiprocessing.get_context("spawn")
    running = [
        context.Process(
            target=produce,
            args=(autoencoder, args.work, settings, "cpu", number, makers, 5 if makers > 1 else 0),
            daemon=True,
        )
        for number in range(makers)
    ]
    try:
        args.work.mkdir(parents=True, exist_ok=True)
        for maker in running:
            maker.start()
        train(settings, autoencoder, args.work, args.out, device, log, produced=True, start=args.start)
    finally:
        for maker in running:
            if maker.is_alive():
                maker.terminate()

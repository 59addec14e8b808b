"""`frameloom train autoencoder`: the autoencoder of the embedded model."""

from __future__ import annotations

from pathlib import Path

from bridge.commands.arguments import Parser, parse_count, parse_folder, parse_seed
from bridge.commands.training import ended, log_from_now


def main(argv: list[str]) -> int:
    """Train; the exit status is 0 when the folder was written."""
    parser = Parser("train autoencoder", description="Train the patch autoencoder from synthetic pictures alone.")
    parser.add_argument("--work", type=parse_folder, default=Path(".cache/autoencoder"), help="folder for checkpoints")
    parser.add_argument(
        "--out",
        type=parse_folder,
        default=Path("out/autoencoder"),
        help="folder of the weights (default out/autoencoder)",
    )
    parser.add_argument("--steps", type=parse_count, default=60_000, help="optimizer steps at most (default 60000)")
    parser.add_argument("--minutes", type=float, default=80.0, help="minutes of training at most (default 80)")
    parser.add_argument("--start", type=Path, default=None, help="folder of weights to start from")
    parser.add_argument("--seed", type=parse_seed, default=0)
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g}: give a number above 0")

    def run() -> None:
        import torch

        from core.tiny.train_autoencoder import train

        log = log_from_now()
        log("interrupt at any time, the same command goes on from the last checkpoint")
        model = train(args.work, args.steps, args.minutes, args.seed, log, args.start)
        torch.nn.Module.to(model, torch.float16).save_pretrained(args.out)
        log(f"written to {args.out}")

    return ended(run)

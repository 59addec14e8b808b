"""`frameloom train model`: a small model of one's own from captioned pictures, or one tuned further."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser, parse_count, parse_folder, parse_seed
from bridge.commands.training import check_settings, trained
from bridge.terminal import PROGRAM

OBJECTIVES = ("diffusion", "flow", "few-step")
RATES = {"diffusion": 1e-3, "flow": 1e-3, "few-step": 3e-4}
LOW_RANK_FACTOR = 10.0
CARD_ROWS = 256


def main(argv: list[str]) -> int:
    """Train; the exit status is 0 when the model folder was written."""
    parser = Parser(
        "train model",
        description="Train a model of the embedded one's size from captioned pictures: diffusion or flow from nothing,"
        " then few-step from that. Started by accelerate launch or torchrun, several processes share the work.",
    )
    parser.add_argument(
        "pictures",
        type=Path,
        help="a folder of pictures, each with a .txt file of its caption; CIFAR-10's; a recording",
    )
    parser.add_argument(
        "--caption", default=None, help="caption of pictures without a .txt file; {name}: the file's name"
    )
    parser.add_argument("--ring", choices=("in", "out"), default="in", help="ring of a recording: in (default) or out")
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default="flow", help="what the network is trained for (default flow)"
    )
    parser.add_argument(
        "--pairing", default="none", help="which noise goes with which picture (core/pairing.py; default none)"
    )
    parser.add_argument("--start", type=Path, default=None, help="a model that this made, to tune further")
    parser.add_argument(
        "--guidance",
        type=float,
        default=0.0,
        help="guidance of the model of --start to bake in (default 0; 1 is usual)",
    )
    parser.add_argument("--rank", type=int, default=0, help="LoRA of this rank; 0 (default) trains all weights")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (default 128)")
    parser.add_argument("--rows", type=parse_count, default=None, help="rows of a batch (default 64, on a card 256)")
    parser.add_argument("--autoencoder", type=Path, default=None, help="folder of weights (default: the trained one)")
    parser.add_argument(
        "--work", type=parse_folder, default=Path(".cache/model"), help="folder for checkpoints, samples, curves"
    )
    parser.add_argument(
        "--out", type=parse_folder, default=Path("out/model"), help="the model folder (default out/model)"
    )
    parser.add_argument("--steps", type=parse_count, default=20_000, help="optimizer steps at most (default 20000)")
    parser.add_argument("--minutes", type=float, default=60.0, help="minutes of training at most (default 60)")
    parser.add_argument("--lr", type=float, default=None, help="learning rate (default 1e-3, few-step 3e-4)")
    parser.add_argument("--seed", type=parse_seed, default=0)
    parser.add_argument("--device", default=None, help="auto (default), cpu or cuda")
    args = parser.parse_args(argv)
    check_settings(parser, args)
    if not 0.0 <= args.guidance <= 20.0:
        parser.error(f"--guidance {args.guidance:g}: give 0 to 20")
    if args.size % 16 or not 32 <= args.size <= 512:
        parser.error(f"--size {args.size}: give a multiple of 16 from 32 to 512")
    if args.start is None and (args.guidance or args.rank):
        parser.error("--guidance and --rank need the trained model to --start from")

    from bridge.commands.pictures import cifar, is_cifar, pictures_of
    from core.pairing import PAIRINGS
    from core.tiny import AUTOENCODER
    from core.training.model import ModelSettings, train_model

    if args.pairing not in PAIRINGS:
        parser.error(f"--pairing {args.pairing}: use one of {', '.join(PAIRINGS)}")
    lr = args.lr or RATES[args.objective] * (LOW_RANK_FACTOR if args.rank else 1.0)
    names = ("objective", "pairing", "seed", "steps", "minutes", "size", "guidance", "rank")
    settings = ModelSettings(lr=lr, **{name: getattr(args, name) for name in names})

    def run(device: Any, log: Any, together: Any) -> None:
        rows = args.rows or (CARD_ROWS if device.type == "cuda" else settings.rows)
        if is_cifar(args.pictures):
            given = cifar(args.pictures)
        else:
            given = pictures_of(args.pictures, args.size, args.caption, args.ring)
        train_model(
            *(replace(settings, rows=rows), given, args.autoencoder or AUTOENCODER, args.work, args.out),
            *(device, log, args.start, together),
        )

    status = trained(args.device, run)
    if status == 0:
        print(f"see {args.work / 'samples.png'}; use it: {PROGRAM} demo --model {args.out}")
    return status

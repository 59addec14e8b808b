"""`frameloom train look`: the embedded model learns a look from a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser, parse_count, parse_folder, parse_seed
from bridge.commands.training import check_settings, trained
from bridge.terminal import PROGRAM


def main(argv: list[str]) -> int:
    """Train; the exit status is 0 when the model folder was written."""
    parser = Parser(
        "train look",
        description="Teach the embedded model a look from a folder of pictures that have it.",
    )
    parser.add_argument(
        "folder", type=Path, help="pictures of the look, each with a .txt file of its caption, or a recording"
    )
    parser.add_argument(
        "--caption", default=None, help='caption of all pictures, such as "moss style"; {name}: the file\'s name'
    )
    parser.add_argument("--ring", choices=("in", "out"), default="in", help="ring of a recording: in (default) or out")
    parser.add_argument(
        "--sources",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="folder of what each picture looked like before, by the same names",
    )
    parser.add_argument(
        "--work", type=parse_folder, default=Path(".cache/look"), help="folder for checkpoints, samples, curves"
    )
    parser.add_argument(
        "--out", type=parse_folder, default=Path("out/look"), help="the model folder (default out/look)"
    )
    parser.add_argument("--start", type=Path, default=None, help="painter to start from (default: the embedded one)")
    parser.add_argument("--steps", type=parse_count, default=None, help="optimizer steps at most (default 600)")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of training at most (default 10)")
    parser.add_argument("--rank", type=int, default=0, help="LoRA of this rank; 0 (default) tunes all weights")
    parser.add_argument("--lr", type=float, default=None, help="learning rate (default 4e-4)")
    parser.add_argument("--seed", type=parse_seed, default=0)
    parser.add_argument("--device", default=None, help="auto (default), cpu or cuda")
    args = parser.parse_args(argv)
    check_settings(parser, args)

    from bridge.commands.pictures import pictures_of
    from core.tiny import WEIGHTS
    from core.training.folder import read_folder
    from core.training.look import PICTURE_PX, LookSettings, teach

    plain = LookSettings()
    settings = LookSettings(
        seed=args.seed,
        steps=args.steps or plain.steps,
        minutes=args.minutes,
        rank=args.rank,
        lr=args.lr or (10.0 * plain.lr if args.rank else plain.lr),
    )

    def run(device: Any, log: Any, together: Any) -> None:
        given = pictures_of(args.folder, PICTURE_PX, args.caption, args.ring)
        sources = None if args.sources is None else read_folder(args.sources, PICTURE_PX, "")
        teach(settings, given, args.start or WEIGHTS, args.work, args.out, device, log, sources, together)

    status = trained(args.device, run)
    if status == 0:
        print(f"see {args.work / 'samples.png'}; use it: {PROGRAM} demo --model {args.out}")
    return status

"""frameloom bench tiny: does the embedded model obey its prompt and keep the picture's structure?

Flat grey renders of scenes that were never trained on go in; the prompt names one of the styles and the objects.
Style is judged by a classifier trained on true renders here and now, structure by edge F1, colours by the nearest
true colour.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.bench.report import bar, emit, table


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = argparse.ArgumentParser(prog="frameloom bench tiny", description=__doc__)
    parser.add_argument("--scenes", type=int, default=64, help="held-out scenes (default 64)")
    parser.add_argument("--model", default="embedded", help="a model folder instead of the embedded one")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--sheet", type=Path, default=None, help="write a PNG: grey input, outputs, truth per style")
    args = parser.parse_args(argv)

    import torch

    from core.device import dtype_called, dtype_name, pick_device
    from core.model import load_model
    from core.params import Params
    from core.tiny import WEIGHTS
    from core.tiny.evaluate import ColourJudge, HeldOut, StyleJudge, evaluate, painter
    from core.tiny.vocabulary import STYLES

    device = pick_device(args.device)
    folder = WEIGHTS if args.model == "embedded" else Path(args.model)
    model = load_model(folder, device, dtype_called(args.dtype))
    dtype = dtype_name(model.execution.dtype)
    print("training the style judge on true renders ...", flush=True)
    judge, judge_share = StyleJudge.trained()
    held_out = HeldOut(args.scenes)
    colours = ColourJudge(held_out)
    results, sheets = {"judge_on_truth": judge_share, "scenes": args.scenes, "dtype": dtype}, {}
    rows = []
    for steps in (1, 2, 4):
        started = time.monotonic()
        score, pictures = evaluate(held_out, painter(model, Params(steps=steps)), judge, colours)
        sheets[steps] = pictures
        results[f"{steps}"] = asdict(score)
        rows.append([steps, score.style, score.edges, score.edges_truth, score.colours, time.monotonic() - started])
        print(f"{steps} steps done", flush=True)
    table(["steps", "style", "edge F1", "edge F1 of truth", "colours", "seconds"], rows)
    table(
        ["style", *(f"{s} steps" for s in (1, 2, 4))],
        [[name, *(results[f"{s}"]["style_by"][name] for s in (1, 2, 4))] for name in STYLES],
    )
    if args.sheet is not None:
        from PIL import Image

        per_style = len(held_out.scenes)
        cases = list(held_out.cases())
        lines = []
        for style in range(len(STYLES)):
            at = style * per_style
            tiles = []
            for scene in range(min(2, per_style)):
                case = cases[at + scene]
                tiles += [case.source, *(sheets[s][at + scene] for s in (1, 2, 4)), case.truth]
            lines.append(torch.cat(tiles, dim=1))
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(torch.cat(lines, dim=0).numpy()).save(args.sheet)
    emit(
        "tiny",
        results,
        [
            bar("share of outputs in the prompted style, 4 steps", results["4"]["style"], 0.80),
            bar("share of outputs in the prompted style, 1 step", results["1"]["style"], 0.60),
            bar("edge F1 with the input at the demo's strength, 2 steps", results["2"]["edges"], 0.60),
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

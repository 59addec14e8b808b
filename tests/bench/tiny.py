"""frameloom bench tiny: does the embedded model obey its prompt and keep the picture's structure?

Scenes: flat grey renders of scenes that were never trained on go in; the prompt names one of the styles and the
objects. Structure is judged by edge F1, colours by the nearest true colour. Photographs: those that scikit-image and
scikit-learn bring go in at 256 px, the prompt names a style; the truth is the style's filter on the same photograph.
Styles are judged by one classifier for both, trained here and now on true renders and filtered synthetic pictures.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser
from tests.bench.report import bar, emit, table

STEPS = (1, 2, 4)
JUDGE_SCENES, JUDGE_PICTURES = 128, 160


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = Parser("bench tiny", description=__doc__)
    parser.add_argument("--scenes", type=int, default=24, help="held-out scenes (default 24)")
    parser.add_argument("--model", default="embedded", help="a model folder instead of the embedded one")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--strength", type=float, default=None, help="instead of the default one")
    parser.add_argument("--judge-steps", type=int, default=3000, help="training of the judge (default 3000)")
    parser.add_argument("--sheet", type=Path, default=None, help="write a PNG: grey input, outputs, truth per style")
    parser.add_argument("--photo-sheet", type=Path, default=None, help="write a PNG: photographs, outputs per style")
    args = parser.parse_args(argv)

    import torch

    from core.device import dtype_called, dtype_name, pick_device
    from core.model import load_model
    from core.params import params_for
    from core.tiny import WEIGHTS
    from core.tiny.evaluate import JUDGE_SEED, ColourJudge, HeldOut, evaluate, labelled, painter
    from core.tiny.judge import filtered_pictures, trained_judge
    from core.world import STYLES

    device = pick_device(args.device)
    folder = WEIGHTS if args.model == "embedded" else Path(args.model)
    model = load_model(folder, device, dtype_called(args.dtype))
    params = params_for("embedded")
    if args.strength is not None:
        params = params.with_values(strength=args.strength)
    print("training the style judge ...", flush=True)
    synthetic = filtered_pictures(JUDGE_PICTURES, torch.Generator().manual_seed(0))
    judge = trained_judge([synthetic, labelled(HeldOut(JUDGE_SCENES, JUDGE_SEED))], args.judge_steps)
    renders, wanted = labelled(HeldOut(32, JUDGE_SEED + 100_000))
    judge_share = float((judge.styles(renders) == wanted).float().mean())
    held_out = HeldOut(args.scenes)
    colours = ColourJudge(held_out)
    results: dict[str, Any] = {
        "judge_on_renders": judge_share,
        "scenes": args.scenes,
        "dtype": dtype_name(model.execution.dtype),
        "strength": params.strength,
        "gflop_128": gflop(model),
    }
    sheets, rows = {}, []
    for steps in STEPS:
        started = time.monotonic()
        score, sheets[steps] = evaluate(held_out, painter(model, params.with_values(steps=steps)), judge, colours)
        results[f"{steps}"] = asdict(score)
        rows.append([steps, score.style, score.edges, score.edges_truth, score.colours, time.monotonic() - started])
        print(f"{steps} steps done", flush=True)
    table(["steps", "style", "edge F1", "edge F1 of truth", "colours", "seconds"], rows)
    table(
        ["style", *(f"{s} steps" for s in STEPS)],
        [[name, *(results[f"{s}"]["style_by"][name] for s in STEPS)] for name in STYLES],
    )
    if args.sheet is not None:
        _write_scenes(args.sheet, held_out, sheets)
    results["photographs"] = photographs = _photographs(model, params, judge, args.photo_sheet)
    one, four = results["1"], results["4"]
    emit(
        "tiny",
        results,
        [
            bar("style judge, share of true renders", judge_share, 0.99),
            bar("scenes in the prompted style, 1 step", one["style"], 0.97),
            bar("scenes in the prompted style, 4 steps", four["style"], 0.97),
            bar("objects in their prompted colour, 1 step", one["colours"], 0.92),
            bar("edge F1 with the grey input, 1 step", one["edges"], 0.82),
            bar("photographs through the autoencoder, dB", photographs and photographs["autoencoder_db"], 25.0),
            bar("photographs in the prompted style", photographs and photographs["style"], 0.90),
            bar("photographs, edge F1 with the filter's own", photographs and photographs["edges"], 0.70),
            bar(
                "photographs, feature distance to the filter's own over that between photographs",
                photographs and photographs["feature_ratio"],
                0.5,
                at_most=True,
            ),
            bar("GFLOP of one step at 128 px", results["gflop_128"], 1.5, at_most=True),
        ],
    )
    return 0


def gflop(model: Any) -> float:
    """Multiplications and additions of one frame of 128 px in one step, in units of 1e9: encode, U-Net, decode."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from core.model import load_model
    from core.params import Params
    from core.stream import StreamConfig

    plain = load_model(model.folder, torch.device("cpu"), torch.float32, "eager")
    stream = plain.stream(StreamConfig(128, 128))
    plan = stream.plan(Params(prompt="neon style", steps=1))
    picture = torch.zeros((1, 128, 128, 3), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        stream.step(picture, 0, plan)
    return counter.get_total_flops() / 1e9


def _photographs(model: Any, params: Any, judge: Any, sheet: Path | None) -> dict[str, Any] | None:
    """The score on photographs at the defaults; None where there are none."""
    import torch

    from core.stream import StreamConfig
    from core.tiny.photographs import evaluate_photographs, there_and_back
    from core.world import STYLES
    from tests.bench.photographs import PHOTOGRAPH_PX, photographs

    try:
        pictures, names = photographs()
    except ImportError as error:
        print(f"photographs left out: {error}")
        return None
    stream = model.stream(StreamConfig(PHOTOGRAPH_PX, PHOTOGRAPH_PX))
    alone = params.with_values(mode="latency")

    def paint(picture: Any, prompt: str) -> Any:
        plan = stream.plan(alone.with_values(prompt=prompt))
        return stream.step(picture[None], 0, plan).frame_FHWC[0, ..., :3].cpu()

    score, outputs = evaluate_photographs(pictures, there_and_back(model.vae, pictures), paint, judge)
    rows = [[s, score.style_by[s], score.style_truth_by[s], score.edges_by[s]] for s in STYLES]
    table(["photographs", "style", "style of the filter's", "edge F1"], rows)
    if sheet is not None:
        chosen = sorted({names.index(name) for name in names})[:8]
        inputs = (pictures[chosen] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        lines = [torch.cat(list(inputs), 1)]
        lines += [torch.cat(list(outputs[style][chosen]), 1) for style in STYLES]
        _save(sheet, torch.cat(lines, 0))
    return {**asdict(score), "pictures": len(names), "px": PHOTOGRAPH_PX, "steps": len(params.stages())}


def _write_scenes(path: Path, held_out: Any, sheets: dict[int, Any]) -> None:
    """Two scenes in every style: grey input, outputs, truth."""
    import torch

    from core.world import STYLES

    cases, per_style = list(held_out.cases()), len(held_out.scenes)
    lines = []
    for style in range(len(STYLES)):
        tiles = []
        for at in range(style * per_style, style * per_style + min(2, per_style)):
            tiles += [cases[at].source, *(sheets[s][at] for s in STEPS), cases[at].truth]
        lines.append(torch.cat(tiles, dim=1))
    _save(path, torch.cat(lines, dim=0))


def _save(path: Path, picture_HWC: Any) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture_HWC.numpy()).save(path)


if __name__ == "__main__":
    sys.exit(main())

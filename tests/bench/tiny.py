"""frameloom bench tiny: does the embedded model obey its prompt and keep the picture's structure?

Sections, each alone by --only:
* scenes: flat grey renders of scenes that were never trained on go in; the prompt names one of the styles and the
  objects. Structure is judged by edge F1, colours by the nearest true colour.
* photographs: those that scikit-image and scikit-learn bring go in at 256 px, the prompt names a style; the truth is
  the style's filter on the same photograph.
* objects: text-to-image; a classifier that was trained here and now on true renders of other scenes says which kinds
  of object a picture shows, in which colours. How often it is right on unseen true renders stands beside.
* speed: frames per second on two cores, held to AVX2 where the processor has more.
* teach: a look that the model never met is taught for minutes by `frameloom train look`; that and the old styles are
  judged by a classifier trained on filtered pictures.
Styles are judged by one classifier for scenes and photographs, trained on true renders and filtered synthetic pictures.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from bridge.commands.arguments import Parser, parse_count
from tests.bench import tiny_speed, tiny_teach
from tests.bench.report import bar, emit, table

STEPS = (1, 2, 4)
TEXT_STEPS = (1, 4)
JUDGE_SCENES, JUDGE_PICTURES = 128, 160
OBJECT_SCENES, UNSEEN_SCENES = 1200, 24
RELIABLE = 0.97
"""Of true renders, for the judge of objects to be believed."""


class Subject:
    """What is measured, and what the sections share."""

    def __init__(self, args: Any) -> None:
        from core.device import dtype_called, pick_device
        from core.params import params_for
        from core.tiny import WEIGHTS

        self.args = args
        self._device, self._dtype = pick_device(args.device), dtype_called(args.dtype)
        self.model = self.loaded(WEIGHTS if args.model == "embedded" else Path(args.model))
        self.params = params_for("embedded")
        if args.strength is not None:
            self.params = self.params.with_values(strength=args.strength)

    def loaded(self, folder: Path) -> Any:
        """A model, to be run as the others."""
        from core.model import load_model

        return load_model(folder, self._device, self._dtype)

    @cached_property
    def judge(self) -> Any:
        """Of styles."""
        import torch

        from core.tiny.evaluate import JUDGE_SEED, HeldOut, labelled
        from core.tiny.judge import filtered_pictures, trained_judge

        print("training the style judge ...", flush=True)
        synthetic = filtered_pictures(JUDGE_PICTURES, torch.Generator().manual_seed(0))
        renders = labelled(HeldOut(self.args.judge_scenes, JUDGE_SEED))
        return trained_judge([synthetic, renders], self.args.judge_steps)


def scenes(subject: Subject) -> dict[str, Any]:
    """The score at each number of steps."""
    from core.tiny.evaluate import JUDGE_SEED, ColourJudge, HeldOut, evaluate, labelled, painter
    from core.world import STYLES

    args, judge = subject.args, subject.judge
    renders, wanted = labelled(HeldOut(32, JUDGE_SEED + 100_000))
    held_out = HeldOut(args.scenes)
    colours = ColourJudge(held_out)
    results: dict[str, Any] = {"judge_on_renders": float((judge.styles(renders) == wanted).float().mean())}
    sheets, rows = {}, []
    for steps in STEPS:
        started = time.monotonic()
        paint = painter(subject.model, subject.params.with_values(steps=steps))
        score, sheets[steps] = evaluate(held_out, paint, judge, colours)
        results[f"{steps}"] = asdict(score)
        rows.append([steps, score.style, score.edges, score.edges_truth, score.colours, time.monotonic() - started])
        print(f"{steps} steps done", flush=True)
    table(["steps", "style", "edge F1", "edge F1 of truth", "colours", "seconds"], rows)
    first = results[f"{STEPS[0]}"]
    table(
        ["style", *(f"{s} steps" for s in STEPS), "edge F1", "edge F1 of truth"],
        [
            [s, *(results[f"{n}"]["style_by"][s] for n in STEPS), first["edges_by"][s], first["edges_truth_by"][s]]
            for s in STYLES
        ],
    )
    if args.sheet is not None:
        _write_scenes(args.sheet, held_out, sheets)
    return {**results, "scenes": args.scenes, "gflop_128": gflop(subject.model)}


def objects(subject: Subject) -> dict[str, Any]:
    """What the judge finds of the named things, at each number of steps."""
    import torch

    from core.tiny.evaluate import JUDGE_SEED, HeldOut
    from core.tiny.objects import evaluate_text, examples, reliability, shown, trained_object_judge
    from core.world import COLOURED_STYLES

    args = subject.args
    print("training the judge of objects ...", flush=True)
    judge = trained_object_judge(examples(args.object_scenes), args.object_steps)
    there, absent = reliability(judge, shown(HeldOut(UNSEEN_SCENES, JUDGE_SEED + 100_000), seed=1))
    results: dict[str, Any] = {"judge_finds": there, "judge_finds_absent": absent, "reliable": min(there, absent)}
    held_out, pictures = HeldOut(args.scenes), {}
    for steps in TEXT_STEPS:
        score, pictures[steps] = evaluate_text(subject.model, subject.params.with_values(steps=steps), held_out, judge)
        results[f"{steps}"] = asdict(score)
    table(
        ["named things in text-to-image", *(f"{s} steps" for s in TEXT_STEPS)],
        [
            *([f"{name} style", *(results[f"{s}"]["named_by"][name] for s in TEXT_STEPS)] for name in COLOURED_STYLES),
            *([what, *(results[f"{s}"][what] for s in TEXT_STEPS)] for what in ("named", "kinds", "by_chance")),
        ],
    )
    if results["reliable"] < RELIABLE:
        print(f"the judge of objects is right on {there:.3f} (there) and {absent:.3f} (absent) of true renders alone:")
        print("its figures are unreliable", flush=True)
    if args.text_sheet is not None:
        rows = [torch.cat(list(made[style][:6]), 1) for made in pictures.values() for style in COLOURED_STYLES]
        _save(args.text_sheet, torch.cat(rows, 0))
    return results


def speed(subject: Subject) -> dict[str, Any]:
    """Frames per second by size and way."""
    found = tiny_speed.measure(subject.model.folder, subject.args.frames)
    sizes = [str(side) for side in tiny_speed.SIZES_PX]
    table(
        ["frames per second", *(f"{s} px" for s in sizes)],
        [[way, *(found[s][way]["fps"] for s in sizes)] for way in found[sizes[0]]],
    )
    return found


def teach(subject: Subject) -> dict[str, Any]:
    """The new look and the old ones, before and after."""
    args = subject.args
    found = tiny_teach.measure(
        subject.model, subject.params, args.minutes, args.teach_pictures, args.judge_steps, subject.loaded
    )
    rows = [["the new look", found["look_before"], found["look"]], ["old styles", found["old_before"], found["old"]]]
    table(["taught", "before", "after"], rows)
    return found


def photographs(subject: Subject) -> dict[str, Any]:
    """The score on photographs at the defaults. Raises `ImportError` where there are none."""
    import torch

    from core.stream import StreamConfig
    from core.tiny.photographs import evaluate_photographs, there_and_back
    from core.world import STYLES
    from tests.bench import photographs as given

    pictures, names = given.photographs()
    model, params, sheet = subject.model, subject.params, subject.args.photo_sheet
    stream = model.stream(StreamConfig(given.PHOTOGRAPH_PX, given.PHOTOGRAPH_PX))
    alone = params.with_values(mode="latency")

    def paint(picture: Any, prompt: str) -> Any:
        plan = stream.plan(alone.with_values(prompt=prompt))
        return stream.step(picture[None], 0, plan).frame_FHWC[0, ..., :3].cpu()

    score, outputs = evaluate_photographs(pictures, there_and_back(model.vae, pictures), paint, subject.judge)
    rows = [[s, score.style_by[s], score.style_truth_by[s], score.edges_by[s]] for s in STYLES]
    table(["photographs", "style", "style of the filter's", "edge F1"], rows)
    if sheet is not None:
        chosen = sorted({names.index(name) for name in names})[:8]
        inputs = (pictures[chosen] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        lines = [torch.cat(list(inputs), 1)]
        lines += [torch.cat(list(outputs[style][chosen]), 1) for style in STYLES]
        _save(sheet, torch.cat(lines, 0))
    return {**asdict(score), "pictures": len(names), "px": given.PHOTOGRAPH_PX, "steps": len(params.stages())}


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


SECTIONS: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "scenes": scenes,
    "photographs": photographs,
    "objects": objects,
    "speed": speed,
    "teach": teach,
}


def _shaded_edges(scored: dict[str, Any]) -> float:
    """Of the styles that the world shades, where true renders reach 0.87. What is drawn has lines of its own."""
    from core.world.shade import DRAWN_STYLES

    shaded = [f1 for style, f1 in scored["1"]["edges_by"].items() if style not in DRAWN_STYLES]
    return sum(shaded) / len(shaded)


class Asked(NamedTuple):
    """One figure that is asked for, read from the results of its section."""

    section: str
    name: str
    limit: float
    read: Callable[[Any], float]
    at_most: bool = False


ASKED = (
    Asked("scenes", "style judge, share of true renders", 0.99, lambda r: r["judge_on_renders"]),
    Asked("scenes", "scenes in the prompted style, 1 step", 0.97, lambda r: r["1"]["style"]),
    Asked("scenes", "scenes in the prompted style, 4 steps", 0.97, lambda r: r["4"]["style"]),
    Asked("scenes", "objects in their prompted colour, 1 step", 0.92, lambda r: r["1"]["colours"]),
    Asked("scenes", "edge F1 with the grey input, 1 step", 0.82, lambda r: r["1"]["edges"]),
    Asked("scenes", "edge F1 with the grey input, 1 step, shaded styles alone", 0.82, _shaded_edges),
    Asked("scenes", "GFLOP of one step at 128 px", 1.5, lambda r: r["gflop_128"], True),
    Asked("photographs", "photographs through the autoencoder, dB", 25.0, lambda r: r["autoencoder_db"]),
    Asked("photographs", "photographs in the prompted style", 0.90, lambda r: r["style"]),
    Asked("photographs", "photographs, edge F1 with the filter's own", 0.70, lambda r: r["edges"]),
    Asked(
        *("photographs", "photographs, feature distance to the filter's own over that between photographs", 0.5),
        *(lambda r: r["feature_ratio"], True),
    ),
    Asked("objects", "judge of objects, share of true renders", RELIABLE, lambda r: r["reliable"]),
    Asked("objects", "text-to-image, named objects appear, 1 step", 0.80, lambda r: r["1"]["named"]),
    Asked("objects", "text-to-image, named objects appear, 4 steps", 0.80, lambda r: r["4"]["named"]),
    Asked("speed", "frames per second at 128 px, AVX2", 25.0, lambda r: tiny_speed.slowest(r, 128)),
    Asked("speed", "frames per second at 256 px, AVX2", 10.0, lambda r: tiny_speed.slowest(r, 256)),
    Asked("teach", "teach judge, share of unseen filtered pictures", 0.97, lambda r: r["judge_on_filtered"]),
    Asked("teach", "teach, pictures in the taught look", 0.80, lambda r: r["look"]),
    Asked("teach", "teach, minutes", 10.0, lambda r: r["minutes"], True),
    Asked("teach", "teach, old styles lost", 0.05, lambda r: r["old_before"] - r["old"], True),
)


def bars_of(results: dict[str, Any], without: dict[str, str]) -> list[dict[str, Any]]:
    """All that is asked for. without: why a section was left out."""
    return [
        bar(
            a.name,
            a.read(results[a.section]) if a.section in results else None,
            a.limit,
            at_most=a.at_most,
            why=without.get(a.section, ""),
        )
        for a in ASKED
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = Parser("bench tiny", description=(__doc__ or "").split("\n\n")[0])
    names = ",".join(SECTIONS)
    parser.add_argument("--only", default=names, help=f"sections to run, some of {names}")
    parser.add_argument("--without", default="", help="sections to leave out")
    parser.add_argument("--scenes", type=parse_count, default=24, help="held-out scenes (default 24)")
    parser.add_argument("--model", default="embedded", help="a model folder instead of the embedded one")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--strength", type=float, default=None, help="instead of the default one")
    parser.add_argument(
        "--judge-steps", type=parse_count, default=3000, help="training steps of the style judges (default 3000)"
    )
    parser.add_argument(
        "--judge-scenes", type=parse_count, default=JUDGE_SCENES, help=f"scenes it learns from (default {JUDGE_SCENES})"
    )
    parser.add_argument(
        "--object-steps", type=parse_count, default=1500, help="training steps of the judge of objects (default 1500)"
    )
    parser.add_argument(
        "--object-scenes",
        type=parse_count,
        default=OBJECT_SCENES,
        help=f"scenes it learns from (default {OBJECT_SCENES})",
    )
    parser.add_argument("--frames", type=parse_count, default=60, help="frames of one turn of speed (default 60)")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of teaching (default 10)")
    parser.add_argument(
        "--teach-pictures", type=parse_count, default=12, help="pictures repainted in each style (default 12)"
    )
    parser.add_argument("--sheet", type=Path, default=None, help="write a PNG: grey input, outputs, truth per style")
    parser.add_argument("--photo-sheet", type=Path, default=None, help="write a PNG: photographs, outputs per style")
    parser.add_argument("--text-sheet", type=Path, default=None, help="write a PNG: text-to-image, 1 and 4 steps")
    args = parser.parse_args(argv)
    only, without = ({name for name in words.split(",") if name} for words in (args.only, args.without))
    if unknown := (only | without) - set(SECTIONS):
        parser.error(f"{','.join(sorted(unknown))}: use some of {names}")
    left_out = {name: f"left out by --only {args.only}" for name in SECTIONS if name not in only}
    left_out |= {name: f"left out by --without {args.without}" for name in without}

    from core.device import dtype_name

    subject = Subject(args)
    results: dict[str, Any] = {
        "dtype": dtype_name(subject.model.execution.dtype),
        "strength": subject.params.strength,
    }
    for name, section in SECTIONS.items():
        if name in left_out:
            continue
        print(f"-- {name}", file=sys.stderr, flush=True)
        try:
            results[name] = section(subject)
        except ImportError as error:
            left_out[name] = f"left out: {error}"
            print(left_out[name], flush=True)
    emit("tiny", results, bars_of(results, left_out))
    return 0


if __name__ == "__main__":
    sys.exit(main())

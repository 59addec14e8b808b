"""frameloom bench temporal: how steady the pictures are, next to what a frozen or blurred picture would win by.

Clips of the procedural world at 30 frames per second, of scenes that nothing was trained on, with the world's own
motion, depth and mask (`tests/bench/temporal_clips.py`): orbit, pan, a fast actor, one thing that moves before a still
camera, a still picture with a camera's noise, a cut to another scene; and films of yours, with estimated motion. The
model paints them in each mode with the real stream, one turn after the other. Per mode:

* warp error: mean absolute difference, in levels of 0..255 as floats, between an output and the one before it, moved
  along the true motion, over pixels that were in view then (the same instance there). That of the input itself says
  what the resampling of the measurement alone comes to.
* disoccluded: over the pixels that were not in view, how far outputs are from the per-frame output, and from the input.
* flicker: mean absolute difference of neighbouring outputs of the still clips.
* sharpness: mean gradient magnitude; detail: deviation of what a blur over three pixels takes away, of the whole
  deviation; edit: mean absolute difference of output and input; style: share of outputs that a classifier trained on
  true renders puts in the prompted style.
* recovery: outputs after a cut until what was before shows no more: until the difference to the same mode begun at the
  cut stays at most 4 levels on average.
* cost: milliseconds per frame as the host runs them here (stages overlapped or not, threads as `bridge.host.tuning`
  measures them), in blocks of frames of the moving clips, modes in turn: median of the blocks over those of per-frame
  output beside them. And turns with one stage after the other: milliseconds, 10th, 50th and 99th percentile, and
  processor time (median).
* reuse: the same clips of a still camera with and without it: mean milliseconds per turn, how far outputs are from
  those of computing everything, and what part of the networks' work was done.
* long: late turns of a long run beside the early ones of a stream that began shortly before, frame by frame.

Warp error rewards blur and standstill, so read it beside sharpness, edit and style. Films and a sheet of the first
scene, and a plot of the error from frame to frame, go to out/temporal.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.commands.arguments import Parser
from tests.bench.report import bar, emit, percentile, table

if TYPE_CHECKING:
    from tests.bench.temporal_clips import Clip

RECOVERED_LEVELS = 4.0
JUDGE_SCENES = 48
FIRST = 4
"""Outputs of a clip that are not judged: there is nothing before them to be steady with."""
COSTS = {"bank": 1.25, "engine": 1.15}
"""Frame time at most, of that of per-frame output."""
MODES: dict[str, dict[str, Any]] = {
    "off": {},
    "bank": {"temporal": "bank"},
    "bank, features alone": {"temporal": "bank", "bank_match": 0.0},
    "bank, original": {
        "temporal": "bank",
        "bank_match": 0.0,
        "bank_sink": False,
        "bank_sizes": False,
        "bank_reset": "never",
    },
    "bank, original queue": {
        "temporal": "bank",
        "bank_match": 0.0,
        "bank": "fifo",
        "bank_frames": 4,
        "bank_interval": 1,
        "bank_sink": False,
        "bank_reset": "never",
    },
    "engine": {"temporal": "engine"},
    "engine, noise moves": {"temporal": "engine", "motion_noise": True},
    "noise moves alone": {"temporal": "engine", "motion_noise": True, "motion_share": 0.0, "motion_latent": 0.0},
    "flow": {"temporal": "flow"},
}


def painted(
    stream: Any, plan: Any, clip: Clip, times: dict[str, list[float]] | None = None, first: int = 0
) -> dict[int, Any]:
    """Outputs (H, W, 3) by the number of their frame. times: gets "turn_ms" and "processor_ms" of each judged turn.
    first: the frame to begin with."""
    from core.motion import planes_of

    out = {}
    of_use = planes_of(plan.params)
    for number in range(first, len(clip.colour)):
        planes = {name: plane for name, plane in clip.planes(number).items() if name in of_use}
        started, busy = time.perf_counter(), time.process_time()
        picture = stream.step(clip.colour[number][None], number, plan, planes, (number + 1,))
        if times is not None and number >= FIRST:
            times["turn_ms"].append((time.perf_counter() - started) * 1e3)
            times["processor_ms"].append((time.process_time() - busy) * 1e3)
        if picture is not None:
            out[picture.tag] = picture.frame_FHWC[0, ..., :3].float()
    return out


def compared(clip: Clip, out: dict[int, Any], off: dict[int, Any], judge: Any) -> dict[str, list[float]]:
    """The figures of one clip's outputs, a value per output."""
    import torch
    import torch.nn.functional as nnf

    from core.motion import identity_grid, moved
    from core.tiny.vocabulary import STYLES as KNOWN
    from tests.bench.temporal_clips import SIZE_PX

    here = identity_grid(SIZE_PX, SIZE_PX, torch.device("cpu"))
    found: dict[str, list[float]] = defaultdict(list)
    numbers = sorted(out)
    for number in numbers:
        now, source = out[number], clip.colour[number].float()
        if clip.cut is not None:
            continue
        if number < FIRST or number - 1 not in out:
            continue
        if clip.kind == "still":
            found["flicker"].append(float((now - out[number - 1]).abs().mean()))
            continue
        known = clip.motion[number].isfinite().all(-1)
        grid = here + clip.motion[number].nan_to_num()[None] * (2.0 / SIZE_PX)
        then = moved(out[number - 1].permute(2, 0, 1)[None], grid)[0].permute(1, 2, 0)
        label = moved(clip.instance[number - 1][None, None].float(), grid, "nearest")[0, 0]
        seen = (label == clip.instance[number].float()) & (grid[0].abs() <= 1.0).all(-1) & known
        was = moved(clip.colour[number - 1].permute(2, 0, 1)[None].float(), grid)[0].permute(1, 2, 0)
        found["warp of the input"].append(float((source - was).abs().mean(-1)[seen].mean()))
        found["warp"].append(float((now - then).abs().mean(-1)[seen].mean()))
        if int((~seen).sum()) >= 8:
            found["disoccluded"].append(float((now - off[number]).abs().mean(-1)[~seen].mean()))
            found["disoccluded, to input"].append(float((now - source).abs().mean(-1)[~seen].mean()))
        luma = now.mean(-1)
        found["sharpness"].append(float(luma.diff(dim=0)[:, 1:].hypot(luma.diff(dim=1)[1:]).mean()))
        blurred = nnf.avg_pool2d(luma[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
        found["detail"].append(float((luma - blurred).std() / luma.std().clamp_min(1e-3)))
        found["edit"].append(float((now - source).abs().mean()))
        if clip.style in KNOWN:
            hit = int(judge.styles(now.to(torch.uint8)[None])) == KNOWN.index(clip.style)
            found["style"].append(float(hit))
    return found


def recovered(out: dict[int, Any], begun: dict[int, Any]) -> int:
    """Outputs after a cut until all are near those of the same mode begun there."""
    differences = [float((out[number] - begun[number]).abs().mean()) for number in sorted(begun)]
    return next((i for i in range(len(differences)) if max(differences[i:]) <= RECOVERED_LEVELS), len(differences))


def reuse_of(model: Any, base: Any, clips: list[Clip]) -> dict[str, dict[str, Any]]:
    """By kind of clip: what reuse saves and costs. Both ways take turns, clip by clip."""
    from core.stream import StreamConfig
    from tests.bench.temporal_clips import SIZE_PX

    by: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(clip.kind for clip in clips):
        turns: dict[bool, dict[str, list[float]]] = {False: defaultdict(list), True: defaultdict(list)}
        apart: list[float] = []
        work: dict[str, dict[str, int]] = {}
        for clip in (c for c in clips if c.kind == kind):
            outs = {}
            for reuse in (False, True):
                stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
                plan = stream.plan(base.with_values(prompt=clip.prompt, reuse=reuse))
                outs[reuse] = painted(stream, plan, clip, turns[reuse])
            apart += [float((outs[True][n] - outs[False][n]).abs().mean()) for n in outs[True]]
            for part, done in stream.reused.items():
                into = work.setdefault(part, {})
                for how, count in done.items():
                    into[how] = into.get(how, 0) + count
        mean = {reuse: sum(took["turn_ms"]) / len(took["turn_ms"]) for reuse, took in turns.items()}
        busy = {reuse: sum(took["processor_ms"]) for reuse, took in turns.items()}
        by[kind] = {
            "mean_ms": mean[True],
            "faster": mean[False] / mean[True],
            "less_processor_time": busy[False] / busy[True],
            "levels_apart": sum(apart) / len(apart),
            "most_levels_apart": max(apart),
            "work": work,
        }
    return by


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = Parser("bench temporal", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two scenes of 16 frames each")
    parser.add_argument("--scenes", type=int, default=None, help="scenes of each kind (default 12)")
    parser.add_argument("--frames", type=int, default=None, help="frames per clip (default 60)")
    parser.add_argument("--steps", type=int, default=2, help="denoising steps (default 2)")
    parser.add_argument("--judge-steps", type=int, default=800, help="training of the judge (default 800)")
    parser.add_argument("--device", default=None)
    parser.add_argument("--backend", default=None)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="parameters of all modes")
    parser.add_argument("--modes", default="", help="a list by semicolons of those to run beside off (default all)")
    parser.add_argument("--film", type=Path, action="append", default=[], help="a film or a folder of pictures, too")
    parser.add_argument(
        "--out", type=Path, default=Path("out/temporal"), help="films and sheets (default out/temporal)"
    )
    args = parser.parse_args(argv)
    scenes = args.scenes or (2 if args.quick else 12)
    frames = args.frames or (16 if args.quick else 60)

    import torch

    from bridge.commands.host import params_from
    from bridge.host import tuning
    from core.bank import bytes_of
    from core.device import dtype_name, pick_device
    from core.model import load_model
    from core.params import Params
    from core.stream import StreamConfig
    from core.tiny import WEIGHTS
    from core.tiny.evaluate import JUDGE_SEED, HeldOut, labelled
    from core.tiny.judge import trained_judge
    from tests.bench import temporal_cost, temporal_pictures
    from tests.bench.temporal_clips import KINDS, MOVING, RESTING, SIZE_PX, STYLES, film
    from tests.bench.temporal_clips import clip as made

    model = load_model(Path(WEIGHTS), pick_device(args.device), torch.float32, args.backend)
    print("training the style judge on true renders ...", flush=True)
    judge = trained_judge([labelled(HeldOut(JUDGE_SCENES, JUDGE_SEED))], args.judge_steps)
    renders, wanted = labelled(HeldOut(JUDGE_SCENES // 4, JUDGE_SEED + 100_000))
    # As the host does: a second thread of torch would spin on a core that an engine needs.
    torch.set_num_threads(model.execution.torch_threads(tuning.default_threads()))
    judge_share = float((judge.styles(renders) == wanted).float().mean())
    base = params_from(args.set, Params(steps=args.steps))
    picked = [m.strip() for m in args.modes.split(";") if m.strip()]
    modes = {n: v for n, v in MODES.items() if not picked or n == "off" or n in picked}
    figures: dict[str, dict[str, list[float]]] = {mode: defaultdict(list) for mode in modes}
    by_kind: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    cuts: dict[str, list[int]] = defaultdict(list)
    pictures: list[str] = []
    films = [film(path, STYLES[i % len(STYLES)], frames) for i, path in enumerate(args.film)]
    resting: list[Clip] = []
    for kind in (*KINDS, "film"):
        for clip in films if kind == "film" else [made(kind, scene, frames) for scene in range(scenes)]:
            if kind in RESTING:
                resting.append(clip)
            if kind == "watch":
                continue
            outputs: dict[str, dict[int, Any]] = {}
            for mode, values in modes.items():
                stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
                plan = stream.plan(base.with_values(prompt=clip.prompt, **values))
                out = outputs[mode] = painted(stream, plan, clip, figures[mode] if kind in MOVING else None)
                found = compared(clip, out, outputs["off"], judge)
                for name, series in found.items():
                    # A film's motion is an estimate: it stands by itself.
                    if kind != "film":
                        figures[mode][name] += series
                    if name == "warp":
                        by_kind[kind][mode] += series
                if clip.cut is not None:
                    fresh = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
                    cuts[mode].append(recovered(out, painted(fresh, fresh.plan(plan.params), clip, first=clip.cut)))
            if kind in (*MOVING, "film") and len(pictures) < 2 * (len(modes) + 1):
                pictures += temporal_pictures.write(args.out, clip, outputs)
        print(f"{kind} clips done", flush=True)
    results: dict[str, Any] = {
        "judge_on_truth": judge_share,
        "scenes": scenes,
        "frames": frames,
        "steps": args.steps,
        "backend": model.execution.backend,
        "dtype": dtype_name(model.execution.dtype),
        "set": args.set,
    }
    names = ("warp", "flicker", "sharpness", "detail", "edit", "style", "disoccluded", "disoccluded, to input")
    by: dict[str, dict[str, float]] = {}
    for mode, series in figures.items():
        by[mode] = {name: sum(series[name]) / len(series[name]) for name in names if series[name]}
        by[mode] |= {f"turn_p{q}_ms": percentile(series["turn_ms"], q) for q in (10, 50, 99)}
        by[mode]["processor_ms"] = percentile(series["processor_ms"], 50)
        by[mode]["recovery_frames"] = max(cuts[mode])
    results["modes"] = by
    warps = {kind: {mode: sum(w) / len(w) for mode, w in of.items()} for kind, of in by_kind.items()}
    results["warp_by_clip"] = warps
    own = figures["off"]["warp of the input"]
    results["warp_of_the_input"] = sum(own) / len(own)
    print(f"warp error of the input itself: {results['warp_of_the_input']:.3f}")
    header = [*names, "turn_p10_ms", "turn_p50_ms", "turn_p99_ms", "processor_ms", "recovery_frames"]
    table(["mode", *header], [[mode, *(by[mode].get(name, float("nan")) for name in header)] for mode in by])
    table(
        ["warp error by clip", *by],
        [[kind, *(of[mode] for mode in by)] for kind, of in warps.items()],
    )
    costly, overlap = temporal_cost.host_way(model, base)
    in_blocks = temporal_cost.frame_ms(
        costly,
        overlap,
        {mode: base.with_values(**modes[mode]) for mode in ("off", *COSTS, "flow") if mode in modes},
        [made(kind, 0, frames) for kind in MOVING],
    )
    ratios = {
        mode: percentile([own / off for own, off in zip(blocks, in_blocks["off"], strict=True)], 50)
        for mode, blocks in in_blocks.items()
    }
    results["cost"] = {
        "overlap": overlap,
        "threads": costly.execution.threads,
        "frame_ms": {mode: percentile(blocks, 50) for mode, blocks in in_blocks.items()},
        "against_off": ratios,
        "processor_against_off": {mode: by[mode]["processor_ms"] / by["off"]["processor_ms"] for mode in by},
    }
    table(
        ["frame_ms", *in_blocks],
        [
            ["as the host runs it", *(percentile(blocks, 50) for blocks in in_blocks.values())],
            ["against per-frame output", *ratios.values()],
        ],
    )
    bars = _bars(by, ratios)
    results["reuse"] = reuse_of(model, base, resting)
    shown = ("mean_ms", "faster", "less_processor_time", "levels_apart", "most_levels_apart")
    table(["reuse", *shown], [[kind, *(of[name] for name in shown)] for kind, of in results["reuse"].items()])
    for kind, of in results["reuse"].items():
        bars.append(bar(f"reuse: {kind} clips, times as fast", of["faster"], 1.5))
        bars.append(
            bar(f"reuse: {kind} clips, levels from computing everything", of["levels_apart"], 2.0, at_most=True)
        )
    if "engine" in by:
        engine = base.with_values(temporal="engine")
        growth = results["long"] = temporal_cost.long_run(
            model, engine, made("orbit", 0, 60), 200 if args.quick else 1000
        )
        bars.append(bar("engine: growth of memory over a long run, MB", growth["growth_mb"], 8.0, at_most=True))
        bars.append(bar("engine: late turns against early ones", growth["ratio"], 1.1, at_most=True))
    results["bank_bytes_sd15_512px_4_rows_fp16"] = sd15_bank_bytes(bytes_of)
    million = results["bank_bytes_sd15_512px_4_rows_fp16"] / 1e6
    bars.append(bar("merged bank of an SD 1.5-shaped U-Net, 512 px, 4 rows, fp16, MB", million, 280.0, at_most=True))
    errors = {kind: of for kind, of in by_kind.items() if kind != "film"}
    temporal_pictures.plot(args.out / "error.png", errors, scenes)
    print("to look at: " + ", ".join([*pictures, str(args.out / "error.png")]))
    emit("temporal", results, bars)
    return 0


def sd15_bank_bytes(bytes_of: Any) -> int:
    """Of the default merged bank, from tensors on the meta device in the shape of that U-Net's self-attention."""
    import torch

    from core.bank import Form, Layer
    from core.params import Params

    def layers(block: str, count: int, side: int, channels: int) -> list[Layer]:
        return [Layer(f"{block}.attentions.{i}.attn1", side * side, channels) for i in range(count)]

    all_layers = [
        *layers("down_blocks.0", 2, 64, 320),
        *layers("down_blocks.1", 2, 32, 640),
        *layers("down_blocks.2", 2, 16, 1280),
        *layers("mid_block", 1, 8, 1280),
        *layers("up_blocks.1", 3, 16, 1280),
        *layers("up_blocks.2", 3, 32, 640),
        *layers("up_blocks.3", 3, 64, 320),
    ]
    form = Form.of(Params(temporal="bank"))
    assert form is not None
    return int(bytes_of(form.empty(all_layers, 4, torch.device("meta"), torch.float16)))


def _bars(by: dict[str, dict[str, float]], ratios: dict[str, float]) -> list[dict[str, Any]]:
    off = by["off"]
    bars = []
    for mode, warp in {"bank": 0.75, "engine": 0.45, "flow": 0.45}.items():
        if mode not in by:
            continue
        now = by[mode]
        bars.append(bar(f"{mode}: warp error against per-frame output", now["warp"] / off["warp"], warp, at_most=True))
        for name in ("sharpness", "edit"):
            apart = abs(now[name] / off[name] - 1.0)
            bars.append(bar(f"{mode}: {name}, apart from per-frame output by", apart, 0.05, at_most=True))
        lost = (off["style"] - now["style"]) * 100.0
        bars.append(bar(f"{mode}: points of prompted style lost", lost, 2.0, at_most=True))
        if mode in COSTS:
            name = f"{mode}: time per frame against per-frame output"
            bars.append(bar(name, ratios[mode], COSTS[mode], at_most=True))
        if mode == "engine":
            bars.append(bar("engine: frames to recover from a cut", now["recovery_frames"], 3.0, at_most=True))
            there = now["disoccluded, to input"] / off["disoccluded, to input"]
            bars.append(bar("engine: disoccluded pixels, distance to the input against", there, 1.0, at_most=True))
    return bars


if __name__ == "__main__":
    sys.exit(main())

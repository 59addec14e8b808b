"""frameloom bench temporal: how steady the pictures are, next to what a frozen or blurred picture would win by.

Clips of the procedural world at 30 frames per second, of scenes that nothing was trained on, with the world's own
motion and depth: as they move, standing still with a camera's noise, and with a cut to another scene. The embedded
model paints them in each mode with the real stream, one turn after the other. Per mode:

* warp error: mean absolute difference, in levels of 0..255 as floats, between an output and the one before it, moved
  along the true motion, over pixels that were in view then (the same instance there). That of the input itself says
  what the resampling of the measurement alone comes to.
* disoccluded: over the pixels that were not in view, how far outputs are from the per-frame output, and from the input.
* flicker: mean absolute difference of neighbouring outputs of the still clips.
* sharpness: mean gradient magnitude; edit: mean absolute difference of output and input; style: share of outputs that
  a classifier trained on true renders puts in the prompted style.
* recovery: outputs after a cut until the difference to the per-frame output stays at most 4 levels on average.
* cost: milliseconds per turn, median and 99th percentile, over the moving clips, modes in turn on each.

Warp error rewards blur and standstill, so read it beside sharpness, edit and style.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.commands.words import Parser
from tests.bench.report import bar, emit, percentile, table

SIZE_PX, FPS = 128, 30.0
STYLES = ("neon", "toy", "comic", "pastel")
NOISE_LEVELS = 3.0
"""Standard deviation of the noise of the camera that films a still scene."""
RECOVERED_LEVELS = 4.0
FIRST = 4
"""Outputs of a clip that are not judged: there is nothing before them to be steady with."""
MODES: dict[str, dict[str, Any]] = {
    "off": {},
    "bank": {"temporal": "bank"},
    "bank, original": {
        "temporal": "bank",
        "bank_sink": False,
        "bank_sizes": False,
        "bank_reset": "never",
    },
    "engine": {"temporal": "engine"},
    "engine, picture alone": {"temporal": "engine", "motion_latent": 0.0},
    "engine, latent alone": {"temporal": "engine", "motion_share": 0.0},
    "flow": {"temporal": "flow"},
}


@dataclass(frozen=True)
class Clip:
    """colour (N, H, W, 3) uint8, depth (N, H, W) metres, motion (N, H, W, 2) pixels back to the frame before, instance
    (N, H, W). cut: the first frame of another scene, or None."""

    kind: str
    style: str
    prompt: str
    colour: Any
    depth: Any
    motion: Any
    instance: Any
    cut: int | None = None


def clips(kind: str, scenes: int, frames: int) -> list[Clip]:
    """One clip per scene."""
    import torch

    from core.tiny.evaluate import EVALUATION_SEED
    from core.world import World

    made = []
    for scene in range(scenes):
        worlds = [World(EVALUATION_SEED + 500 + scene), World(EVALUATION_SEED + 700 + scene)]
        cut = frames // 2 if kind == "cut" else None
        style = STYLES[scene % len(STYLES)]
        planes: dict[str, list[Any]] = defaultdict(list)
        noise = torch.Generator().manual_seed(scene)
        for number in range(frames):
            world = worlds[cut is not None and number >= cut]
            still = kind == "still"
            out = world.render(
                1.0 if still else 1.0 + number / FPS,
                SIZE_PX,
                SIZE_PX,
                planes=("colour", "depth", "motion", "instance"),
                motion_dt_s=0.0 if still else 1.0 / FPS,
            )
            if still:
                shaken = out["colour"].float() + NOISE_LEVELS * torch.randn(out["colour"].shape, generator=noise)
                out["colour"] = shaken.round().clamp(0, 255).to(torch.uint8)
            for name, plane in out.items():
                planes[name].append(-plane if name == "motion" else plane)
        whole = {name: torch.stack(values) for name, values in planes.items()}
        made.append(Clip(kind, style, worlds[0].caption(style), **whole, cut=cut))
    return made


def painted(stream: Any, plan: Any, clip: Clip, times_ms: list[float] | None = None) -> dict[int, Any]:
    """Outputs (H, W, 3) by the number of their frame."""
    out = {}
    for number in range(len(clip.colour)):
        planes = {"motion": clip.motion[number][None], "depth": clip.depth[number][None]}
        started = time.perf_counter()
        picture = stream.step(clip.colour[number][None], number, plan, planes, (number + 1,))
        if times_ms is not None and number >= FIRST:
            times_ms.append((time.perf_counter() - started) * 1e3)
        if picture is not None:
            out[picture.tag] = picture.frame_FHWC[0, ..., :3].float()
    return out


def compared(clip: Clip, out: dict[int, Any], off: dict[int, Any], judge: Any) -> dict[str, list[float]]:
    """The figures of one clip's outputs, a value per output."""
    import torch

    from core.motion import identity_grid, moved
    from core.tiny.vocabulary import STYLES as KNOWN

    here = identity_grid(SIZE_PX, SIZE_PX, torch.device("cpu"))
    found: dict[str, list[float]] = defaultdict(list)
    numbers = sorted(out)
    for number in numbers:
        now, source = out[number], clip.colour[number].float()
        if clip.cut is not None:
            if number >= clip.cut:
                found["after cut"].append(float((now - off[number]).abs().mean()))
            continue
        if number < FIRST or number - 1 not in out:
            continue
        if clip.kind == "still":
            found["flicker"].append(float((now - out[number - 1]).abs().mean()))
            continue
        grid = here + clip.motion[number][None] * (2.0 / SIZE_PX)
        then = moved(out[number - 1].permute(2, 0, 1)[None], grid)[0].permute(1, 2, 0)
        label = moved(clip.instance[number - 1][None, None].float(), grid, "nearest")[0, 0]
        seen = (label == clip.instance[number].float()) & (grid[0].abs() <= 1.0).all(-1)
        was = moved(clip.colour[number - 1].permute(2, 0, 1)[None].float(), grid)[0].permute(1, 2, 0)
        found["warp of the input"].append(float((source - was).abs().mean(-1)[seen].mean()))
        found["warp"].append(float((now - then).abs().mean(-1)[seen].mean()))
        if int((~seen).sum()) >= 8:
            found["disoccluded"].append(float((now - off[number]).abs().mean(-1)[~seen].mean()))
            found["disoccluded, to input"].append(float((now - source).abs().mean(-1)[~seen].mean()))
        luma = now.mean(-1)
        found["sharpness"].append(float(luma.diff(dim=0)[:, 1:].hypot(luma.diff(dim=1)[1:]).mean()))
        found["edit"].append(float((now - source).abs().mean()))
        if clip.style in KNOWN:
            hit = int(judge(now.to(torch.uint8)[None]).argmax()) == KNOWN.index(clip.style)
            found["style"].append(float(hit))
    return found


def recovered(differences: list[float]) -> int:
    """Outputs after a cut until all are near those of the per-frame output."""
    return next((i for i in range(len(differences)) if max(differences[i:]) <= RECOVERED_LEVELS), len(differences))


def long_run(model: Any, params: Any, frames: int) -> dict[str, float]:
    """Resident memory and time per turn early and late in one run of `temporal engine`."""
    import resource

    from core.stream import StreamConfig

    clip = clips("moving", 1, 60)[0]
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    plan = stream.plan(params)
    took: list[float] = []
    peaks = []
    for number in range(frames):
        at = number % len(clip.colour)
        planes = {"motion": clip.motion[at][None], "depth": clip.depth[at][None]}
        started = time.perf_counter()
        stream.step(clip.colour[at][None], number, plan, planes, (number + 1,))
        took.append((time.perf_counter() - started) * 1e3)
        if number in (frames // 5, frames - 1):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    fifth = frames // 5
    return {
        "frames": frames,
        "growth_mb": peaks[1] - peaks[0],
        "early_ms": percentile(took[fifth : 2 * fifth], 50),
        "late_ms": percentile(took[-fifth:], 50),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = Parser("bench temporal", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four scenes of 24 frames each")
    parser.add_argument("--scenes", type=int, default=None, help="scenes of each kind (default 12)")
    parser.add_argument("--frames", type=int, default=None, help="frames per clip (default 60)")
    parser.add_argument("--steps", type=int, default=2, help="denoising steps (default 2)")
    parser.add_argument("--device", default=None)
    parser.add_argument("--backend", default=None)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="parameters of all modes")
    parser.add_argument("--modes", default="", help="a list by semicolons of those to run beside off (default all)")
    args = parser.parse_args(argv)
    scenes = args.scenes or (4 if args.quick else 12)
    frames = args.frames or (24 if args.quick else 60)

    import torch

    from bridge.commands.host import params_from
    from core.bank import bytes_of
    from core.device import dtype_name, pick_device
    from core.model import load_model
    from core.params import Params
    from core.stream import StreamConfig
    from core.tiny import WEIGHTS
    from core.tiny.evaluate import StyleJudge

    model = load_model(Path(WEIGHTS), pick_device(args.device), torch.float32, args.backend)
    print("training the style judge on true renders ...", flush=True)
    judge, judge_share = StyleJudge.trained()
    base = params_from(args.set, Params(steps=args.steps))
    picked = [m.strip() for m in args.modes.split(";") if m.strip()]
    modes = {n: v for n, v in MODES.items() if not picked or n == "off" or n in picked}
    figures: dict[str, dict[str, list[float]]] = {mode: defaultdict(list) for mode in modes}
    cuts: dict[str, list[int]] = defaultdict(list)
    for kind in ("moving", "still", "cut"):
        for clip in clips(kind, scenes, frames):
            off: dict[int, Any] = {}
            for mode, values in modes.items():
                stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
                plan = stream.plan(base.with_values(prompt=clip.prompt, **values))
                times_ms = figures[mode]["turn_ms"] if kind == "moving" else None
                out = painted(stream, plan, clip, times_ms)
                off = off or out
                found = compared(clip, out, off, judge)
                for name, series in found.items():
                    figures[mode][name] += series
                if clip.cut is not None:
                    cuts[mode].append(recovered(found["after cut"]))
        print(f"{kind} clips done", flush=True)
    results: dict[str, Any] = {
        "judge_on_truth": judge_share,
        "scenes": scenes,
        "frames": frames,
        "steps": args.steps,
        "backend": model.execution.backend,
        "dtype": dtype_name(model.execution.dtype),
    }
    names = ("warp", "flicker", "sharpness", "edit", "style", "disoccluded", "disoccluded, to input")
    by: dict[str, dict[str, float]] = {}
    for mode, series in figures.items():
        by[mode] = {name: sum(series[name]) / len(series[name]) for name in names if series[name]}
        by[mode] |= {f"turn_p{q}_ms": percentile(series["turn_ms"], q) for q in (50, 99)}
        by[mode]["recovery_frames"] = max(cuts[mode])
    results["modes"] = by
    own = figures["off"]["warp of the input"]
    results["warp_of_the_input"] = sum(own) / len(own)
    print(f"warp error of the input itself: {results['warp_of_the_input']:.3f}")
    header = [*names, "turn_p50_ms", "turn_p99_ms", "recovery_frames"]
    table(["mode", *header], [[mode, *(by[mode].get(name, float("nan")) for name in header)] for mode in by])
    bars = _bars(by)
    if "engine" in by:
        results["long"] = long_run(model, base.with_values(temporal="engine"), 200 if args.quick else 1000)
        growth = results["long"]
        bars.append(bar("engine: growth of memory over a long run, MB", growth["growth_mb"], 8.0, at_most=True))
        slower = growth["late_ms"] / growth["early_ms"]
        bars.append(bar("engine: late turns against early ones", slower, 1.1, at_most=True))
    results["bank_bytes_sd15_512px_4_rows_fp16"] = sd15_bank_bytes(bytes_of)
    million = results["bank_bytes_sd15_512px_4_rows_fp16"] / 1e6
    bars.append(bar("merged bank of an SD 1.5-shaped U-Net, 512 px, 4 rows, fp16, MB", million, 280.0, at_most=True))
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


def _bars(by: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    off = by["off"]
    limits = {"bank": (0.75, 1.25), "engine": (0.45, 1.15), "flow": (0.45, None)}
    bars = []
    for mode, (warp, cost) in limits.items():
        if mode not in by:
            continue
        now = by[mode]
        bars.append(bar(f"{mode}: warp error against per-frame output", now["warp"] / off["warp"], warp, at_most=True))
        for name in ("sharpness", "edit"):
            apart = abs(now[name] / off[name] - 1.0)
            bars.append(bar(f"{mode}: {name}, apart from per-frame output by", apart, 0.05, at_most=True))
        lost = (off["style"] - now["style"]) * 100.0
        bars.append(bar(f"{mode}: points of prompted style lost", lost, 2.0, at_most=True))
        if cost is not None:
            ratio = now["turn_p50_ms"] / off["turn_p50_ms"]
            bars.append(bar(f"{mode}: time per frame against per-frame output", ratio, cost, at_most=True))
        if mode == "engine":
            bars.append(bar("engine: frames to recover from a cut", now["recovery_frames"], 3.0, at_most=True))
            there = now["disoccluded, to input"] / off["disoccluded, to input"]
            bars.append(bar("engine: disoccluded pixels, distance to the input against", there, 1.0, at_most=True))
    return bars


if __name__ == "__main__":
    sys.exit(main())

"""frameloom bench stream: the stream beside the original class, its networks beside what the processor can do.

Everything runs in child processes, on the processor as it is and held to AVX2 (`tests.avx2`), where it has more:

* cells: frames per second of ours and of the original for each guidance and number of steps. The same embedded weights,
  frames, steps and guidance in float32 on both sides, alternating in one run. Ours runs as the host would run it here:
  back end, threads and overlap as `bridge.host.tuning` measures them, float32 alone allowed. The original is
  StreamDiffusion 0.1.1, unmodified, with its similarity filter off, where the package is at hand (`pip install
  --no-deps --target FOLDER streamdiffusion==0.1.1`, then --original FOLDER); with --compile also with its networks
  through torch.compile. It takes its network's output for noise, so it is given the embedded U-Net behind a conversion
  to noise. It knows latents of four channels alone, so it is given those of the embedded model with each cell of
  16 channels as 2x2 cells of four, and so is its noise. Outputs are compared in the same run.
* ways: every back end, dtype, number of threads and overlap that `auto` chooses among, and what it chose.
* networks: milliseconds of encoder, U-Net and decoder by each back end, and the share that this is of the rate at
  which the same threads multiply float32 matrices. ONNX Runtime beside them where it is at hand (`pip install --target
  FOLDER onnxruntime onnx`, then --onnxruntime FOLDER); nothing else of the project uses it.
* demo: the figures of `bench demo`.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bridge.commands.arguments import Parser
from tests.bench import demo
from tests.bench.report import bar, emit, percentile, table

ROOT = Path(__file__).resolve().parent.parent.parent
SPEED_BAR, COMPILED_BAR, AUTO_BAR = 1.25, 1.0, 0.95
EQUAL_BAR = 1e-4
RUN_BY = "openvino float32"
SHARE_BARS = {"encode": 0.75, "unet": 0.5, "decode": 0.75}
PROMPT, NEGATIVE = "neon style, red sphere, blue box", "grey style"
SCALE, DELTA, SEED = 1.4, 0.9, 2
WAYS_BLOCKS = 9
PARTS = ("cells", "ways", "networks", "demo")
LONG_S = 60.0
"""A block of frames is never cut short in a benchmark."""


class Ours:
    """A stream of ours, with or without overlap."""

    def __init__(self, model: Any, params: Any, size: int, overlap: bool) -> None:
        from core.stream import StreamConfig

        self.execution = model.execution
        self.overlap = overlap
        self.stream = model.stream(StreamConfig(size, size))
        self.plan = self.stream.plan(params)

    def run(self, frames: Any) -> tuple[float, float]:
        """(frames per second, median latency in ms)."""
        import torch

        from bridge.host import tuning

        torch.set_num_threads(self.execution.torch_threads(tuning.default_threads()))
        result = (tuning.overlapped if self.overlap else tuning.serial)(self.stream, self.plan, frames, LONG_S)
        torch.set_num_threads(tuning.default_threads())
        return result.fps, result.latency_ms


def in_fours(latent_Fchw: Any) -> Any:
    """Latents of 4 n^2 channels as ones of 4 channels and n^2 times the cells, as the original alone knows them."""
    import torch.nn.functional as nnf

    n = round((latent_Fchw.shape[1] / 4) ** 0.5)
    return nnf.pixel_shuffle(latent_Fchw, n)


def out_of_fours(latent_F4hw: Any, channels: int) -> Any:
    """The way back."""
    import torch.nn.functional as nnf

    return nnf.pixel_unshuffle(latent_F4hw, round((channels / 4) ** 0.5))


def for_the_original(model: Any) -> tuple[Any, Any]:
    """A model's U-Net as one that predicts noise, as the original wants it, and its autoencoder, both with latents in
    fours."""
    import torch
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput

    from core.denoiser import PREDICTIONS

    unet, vae, pixels = model.unet, model.vae, model.latent_scale
    alpha_bar = model.noise.alphas_cumprod_T
    channels = int(unet.config.in_channels)

    class AsNoise(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet
            self.config = unet.config
            self.device, self.dtype = unet.device, unet.dtype
            self.register_buffer("a", alpha_bar.sqrt().float())
            self.register_buffer("b", (1.0 - alpha_bar).sqrt().float())

        def forward(self, x: Any, t: Any, encoder_hidden_states: Any, return_dict: bool = False) -> Any:
            x = out_of_fours(x, channels)
            out = self.unet(x, t, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
            a, b = (table[t].view(-1, 1, 1, 1) for table in (self.a, self.b))
            return (in_fours(PREDICTIONS[model.prediction](out, x, a, b)),)

    class InFours(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae
            self.encoder, self.decoder = vae.encoder, vae.decoder
            self.device, self.dtype = vae.device, vae.dtype
            levels = (pixels // round((channels / 4) ** 0.5)).bit_length()  # pixels per cell are counted by these
            self.config = SimpleNamespace(scaling_factor=vae.config.scaling_factor, block_out_channels=(0,) * levels)

        def encode(self, x: Any) -> Any:
            return AutoencoderTinyOutput(latents=in_fours(self.vae.encode(x, return_dict=False)[0]))

        def decode(self, z: Any, return_dict: bool = False) -> Any:
            return self.vae.decode(out_of_fours(z, channels), return_dict=False)

    return AsNoise().eval(), InFours().eval()


class Original:
    """The original class around (U-Net, autoencoder, text encoder, tokenizer) of `for_the_original`. cell: channels of
    the embedded model's latents and pixels of a cell."""

    def __init__(
        self, parts: Any, scheduler: dict[str, Any], params: Any, size: int, compiled: bool, cell: tuple[int, int]
    ) -> None:
        import torch

        from core.stream import seeded_noise
        from tests import original

        channels, pixels = cell

        self.stream = original.build(parts, scheduler, list(params.stages()), params.guidance, size)
        if compiled:
            torch.compiler.reset()  # each cell compiles for its own rows: torch gives up after a few of them
            self.stream.unet = torch.compile(self.stream.unet, dynamic=False)
            self.stream.vae.encoder.compile()
            self.stream.vae.decoder.compile()
        self.stream.prepare(
            params.prompt,
            params.negative_prompt,
            guidance_scale=params.guidance_scale,
            delta=params.delta,
            generator=torch.Generator(),
            seed=params.seed,
        )
        # Ours, stage by stage.
        noise = seeded_noise(params.seed, len(params.stages()), (1, channels, size // pixels, size // pixels))
        self.stream.init_noise = in_fours(noise[:, 0])
        self.one_step_self = params.guidance == "self-negative" and len(params.stages()) == 1
        self.latents: list[Any] = []
        decode = self.stream.decode_image

        def keep(latent: Any) -> Any:
            self.latents.append(latent)
            return decode(latent)

        self.stream.decode_image = keep

    def run(self, frames_01: list[Any]) -> list[float]:
        """Milliseconds per call."""
        out = []
        for frame in frames_01:
            if self.one_step_self:  # see tests/golden/make_golden.py
                self.stream.stock_noise = self.stream.init_noise
            started = time.perf_counter()
            self.stream(frame)
            out.append((time.perf_counter() - started) * 1e3)
        return out


def difference(ours: Ours, theirs: Original, frames: Any, frames_01: list[Any]) -> float:
    """Largest difference of the clean latents that leave both streams for the same frames; before `ours` ran others."""
    theirs.latents.clear()
    depth = ours.plan.depth
    theirs.run(frames_01)
    worst = 0.0
    for number, frame in enumerate(frames):
        result = ours.stream.advance(ours.stream.encode(frame), number, ours.plan)
        if result is not None:
            expected = out_of_fours(theirs.latents[result.tag + depth], result.latent_Fchw.shape[1])
            worst = max(worst, float((result.latent_Fchw - expected).abs().max()))
    return worst


# ---- the parts, each in a child process ----------------------------------------------------------------------------


class Setup:
    """What the parts share: the embedded model, pictures, parameters."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        from bridge.host import tuning
        from core.model import load_model
        from core.params import Params, params_for
        from core.tiny import WEIGHTS
        from core.world import World

        tuning.default_threads()
        self.args = args
        self.cpu = torch.device("cpu")
        self.model = load_model(WEIGHTS, self.cpu, torch.float32, "eager")
        self.size = (args.size, args.size)
        self.default = params_for("embedded")
        self.base = Params(prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=SCALE, delta=DELTA, seed=SEED)
        world = World(seed=3)
        pictures = [
            world.render(time_s=i / 30.0, width=args.size, height=args.size, style="grey")["colour"] for i in range(16)
        ]
        self.frames = [pictures[i % 16][None] for i in range(args.frames)]

    def tuned(self, dtype: Any = None) -> Any:
        """What `auto` takes at its first start here."""
        from bridge.host import tuning
        from core.backend import executions

        return tuning.tune(self.model, executions(self.cpu, dtype=dtype), self.size, self.default, tuning.Cache(None))


def run_cells(setup: Setup) -> list[dict[str, Any]]:
    """One entry per guidance and number of steps."""
    import torch

    from core.params import GUIDANCE_KINDS
    from tests import original

    args = setup.args
    with_original = original.installed(args.original)
    frames_01 = [f.permute(0, 3, 1, 2).float() / 255.0 for f in setup.frames]
    plain = setup.model
    texts = (plain.text._encoder, plain.text._tokenizer)
    parts = (*for_the_original(plain), *texts)
    cell = (int(plain.unet.config.in_channels), plain.latent_scale)
    scheduler = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "clip_sample": False,
    }
    tuned = setup.tuned(torch.float32)
    cells = []
    with original.cpu_stand_ins():
        for guidance in args.guidance or GUIDANCE_KINDS:
            for steps in args.steps:
                params = setup.base.with_values(guidance=guidance, steps=steps)
                ours = Ours(tuned.model, params, args.size, tuned.overlap)
                alone = Ours(tuned.model, params.with_values(mode="latency"), args.size, False)
                theirs: dict[str, Original] = {}
                if with_original:
                    theirs["original"] = Original(parts, scheduler, params, args.size, False, cell)
                if with_original and args.compile:
                    # Networks of its own: what is compiled stays so for everybody who has it.
                    own = (*copy.deepcopy(parts[:2]), *texts)
                    theirs["compiled"] = Original(own, scheduler, params, args.size, True, cell)
                entry: dict[str, Any] = {"guidance": guidance, "steps": steps}
                if with_original:
                    entry["difference"] = difference(ours, theirs["original"], setup.frames[:8], frames_01[:8])
                rates: dict[str, list[float]] = {"ours": [], "latency mode": []}
                calls: dict[str, list[float]] = {name: [] for name in theirs}
                waits: list[float] = []
                for block in range(args.blocks + 1):  # the first block warms up
                    fps, wait_ms = ours.run(setup.frames)
                    one_fps, _ = alone.run(setup.frames)
                    took = {name: stream.run(frames_01) for name, stream in theirs.items()}
                    if block:
                        rates["ours"].append(fps)
                        rates["latency mode"].append(one_fps)
                        waits.append(wait_ms)
                        for name in theirs:
                            calls[name] += took[name]
                rate = {name: statistics.median(values) for name, values in rates.items()}
                rate |= {name: 1e3 / statistics.median(values) for name, values in calls.items()}
                entry["fps"] = {name: round(value, 2) for name, value in rate.items()}
                entry["latency_ms"] = statistics.median(waits)
                entry["original_ms"] = {
                    name: {"p50": percentile(values, 50), "p99": percentile(values, 99)}
                    for name, values in calls.items()
                }
                entry["ratio"] = {name: rate["ours"] / rate[name] for name in theirs}
                cells.append(entry)
                print(f"  {guidance}, {steps} steps: {entry['fps']}", file=sys.stderr, flush=True)
    way = {"backend": tuned.model.execution.backend, "threads": tuned.model.execution.threads}
    return [{**cell, **way, "overlap": tuned.overlap} for cell in cells]


def run_ways(setup: Setup) -> dict[str, Any]:
    """Frames per second of every way to run the default parameters, in turn, and the one that `auto` chose."""
    from dataclasses import replace

    from bridge.host import tuning
    from core.backend import executions
    from core.device import dtype_name

    tuned = setup.tuned()
    chosen = (tuned.model.execution.backend, dtype_name(tuned.model.execution.dtype))
    chosen_way = (*chosen, tuned.model.execution.threads, tuned.overlap)
    streams = {}
    for execution in executions(setup.cpu):
        for threads, overlap in tuning.candidates(tuning.usable_cores(), None, None):
            model = setup.model.run_by(replace(execution, threads=threads))
            way = (execution.backend, dtype_name(execution.dtype), threads, overlap)
            streams[way] = Ours(model, setup.default, setup.args.size, overlap)
    rates: dict[Any, list[float]] = {way: [] for way in streams}
    waits: dict[Any, list[float]] = {way: [] for way in streams}
    # Of ways that differ by less than two blocks of one of them, a few blocks would find the luckiest.
    for block in range(max(setup.args.blocks, WAYS_BLOCKS) + 1):
        for way, stream in streams.items():
            fps, wait_ms = stream.run(setup.frames)
            if block:
                rates[way].append(fps)
                waits[way].append(wait_ms)
    fps_of = {way: statistics.median(values) for way, values in rates.items()}
    best: dict[str, float] = {}
    for way, fps in fps_of.items():
        best[way[0]] = max(best.get(way[0], 0.0), fps)
    return {
        "chosen": list(chosen_way),
        "tuning_s": tuned.seconds,
        "auto_of_best": fps_of[chosen_way] / max(fps_of.values()),
        "best_of_back_end": best,
        "ways": [
            {"way": list(way), "fps": fps, "latency_ms": statistics.median(waits[way])} for way, fps in fps_of.items()
        ],
    }


def run_networks(setup: Setup) -> dict[str, Any]:
    """Milliseconds and GFLOP/s of each network by each back end, with all threads and with one."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from bridge.host import tuning
    from core.backend import BACKENDS, Execution, executions
    from core.codec import DecodeVae, EncodeTiny
    from core.denoiser import keys_values
    from core.device import dtype_name
    from core.tree import stack

    model, rows = setup.model, 2
    side = setup.args.size // model.latent_scale
    channels = int(model.unet.config.in_channels)
    embedding = stack([model.text.embed(PROMPT)] * rows)
    prepared = tuple(keys_values(attn, embedding.tokens) for attn in model.call.cross)
    times = torch.full((rows,), 300)
    networks = {
        "encode": (EncodeTiny(model.vae), (torch.randn(1, 3, setup.args.size, setup.args.size),)),
        "unet": (model.call, (torch.randn(rows, channels, side, side), times, embedding, prepared)),
        "decode": (DecodeVae(model.vae), (torch.randn(1, channels, side, side),)),
    }
    gflop = {}
    for name, (network, example) in networks.items():
        with FlopCounterMode(display=False) as counter:
            network(*example)
        gflop[name] = counter.get_total_flops() / 1e9
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    results: dict[str, Any] = {"gflop": gflop, "rows": rows}
    for label, threads in (("all threads", None), ("one thread", 1)):
        calls: dict[tuple[str, str], Callable[[], Any]] = {}
        chosen = list(executions(setup.cpu, threads=threads))
        if setup.args.compile:
            chosen.append(Execution(setup.cpu, "compiled", torch.float32, threads))
        for execution in chosen:
            if execution.weights_dtype != torch.float32:
                continue  # eager in other dtypes is among the ways
            for name, (network, example) in networks.items():
                backend = BACKENDS[execution.backend]
                call = backend.call(backend.convert(network, example, None), example, execution)
                call.prepare(example[0].shape[0])
                way = f"{execution.backend} {dtype_name(execution.dtype)}"
                calls[name, way] = lambda call=call, example=example: call(*example)
        if setup.args.onnxruntime:
            for name, (network, example) in networks.items():
                calls[name, "onnxruntime float32"] = onnx_call(network, example, setup.args.onnxruntime, threads)
        calls["matrix product", "sgemm"] = lambda: a @ b
        took: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        torch.set_num_threads(threads or tuning.default_threads())
        with torch.inference_mode():
            for block in range(setup.args.blocks + 1):
                for key, call in calls.items():
                    for _ in range(5 if block else 3):
                        started = time.perf_counter()
                        call()
                        if block:
                            took[key].append(time.perf_counter() - started)
        torch.set_num_threads(tuning.default_threads())
        rate = 2 * 1024**3 / 1e9 / statistics.median(took["matrix product", "sgemm"])
        results[label] = {"sgemm_gflops": rate, "networks": []}
        for (name, way), seconds in took.items():
            if name in gflop:
                ms = statistics.median(seconds) * 1e3
                results[label]["networks"].append(
                    {
                        "network": name,
                        "way": way,
                        "ms": {"p50": ms, "p99": percentile(seconds, 99) * 1e3},
                        "share": gflop[name] / ms * 1e3 / rate,
                    }
                )
    return results


def onnx_call(network: Any, example: tuple[Any, ...], folder: str, threads: int | None) -> Callable[[], Any]:
    """The network through ONNX Runtime, ready to be called with the example."""
    import torch

    if folder not in sys.path:
        sys.path.append(folder)
    import onnxruntime
    from torch.utils._pytree import tree_flatten

    from core.backends.openvino import _Flat

    leaves, spec = tree_flatten(example)
    names = [f"i{i}" for i in range(len(leaves))]
    graph = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = _Flat(network, spec).eval()
        torch.onnx.export(
            flat, tuple(leaf.clone() for leaf in leaves), graph, dynamo=False, opset_version=18, input_names=names
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])
    wanted = {entry.name for entry in session.get_inputs()}
    feed = {name: leaf.numpy() for name, leaf in zip(names, leaves, strict=True) if name in wanted}
    return lambda: session.run(None, feed)


CHILD_PARTS: dict[str, Callable[[Setup], Any]] = {"cells": run_cells, "ways": run_ways, "networks": run_networks}


def child(args: argparse.Namespace) -> None:
    """Run the parts and leave the results in the file."""
    setup = Setup(args)
    results = {}
    for part in args.parts:
        if part in CHILD_PARTS:
            print(f"  {part}", file=sys.stderr, flush=True)
            results[part] = CHILD_PARTS[part](setup)
            args.child.write_text(json.dumps(results), encoding="utf-8")


# ---- what was asked for, and the report ----------------------------------------------------------------------------


def judge(way: str, results: dict[str, Any], at_avx2: bool) -> list[dict[str, Any]]:
    """The bars of one way to run the processor. at_avx2: it has no more then."""
    bars = []
    cells = results.get("cells", [])
    for name, limit in (("original", SPEED_BAR), ("compiled", COMPILED_BAR)):
        ratios = [cell["ratio"][name] for cell in cells if name in cell["ratio"]]
        if ratios:
            words = "original" if name == "original" else "original compiled"
            bars.append(bar(f"{way}: frames per second, ours / {words}, worst cell", min(ratios), limit))
    differences = [cell["difference"] for cell in cells if "difference" in cell]
    if differences:
        bars.append(
            bar(f"{way}: largest difference of latents from the original", max(differences), EQUAL_BAR, at_most=True)
        )
    if "ways" in results:
        bars.append(bar(f"{way}: auto, of the best way to run", results["ways"]["auto_of_best"], AUTO_BAR))
        bars.append(bar(f"{way}: measuring at the first start, s", results["ways"]["tuning_s"], 2.0, at_most=True))
    if "networks" in results and at_avx2:
        # With the threads that a call has as the host runs it.
        threads = "one thread" if "ways" in results and results["ways"]["chosen"][2] == 1 else "all threads"
        measured = results["networks"][threads]["networks"]
        for name, limit in SHARE_BARS.items():
            ours = [e["share"] for e in measured if e["network"] == name and e["way"] == RUN_BY]
            share = max(ours, default=0.0)
            bars.append(bar(f"{way}: {name}, share of the matrix product's rate, {threads}", share, limit))
    if "demo" in results:
        bars += demo.bars_of(way, results["demo"])
    return bars


def show(way: str, results: dict[str, Any]) -> None:
    """Tables for people."""
    print(f"\n{way}")
    if "cells" in results:
        others = list(results["cells"][0]["ratio"])
        header = ["guidance", "steps", "ours", "latency mode", *others, *(f"/ {name}" for name in others), "max diff"]
        rows = []
        for cell in results["cells"]:
            fps, ratio = cell["fps"], cell["ratio"]
            rates = [fps["ours"], fps["latency mode"], *(fps[n] for n in others), *(ratio[n] for n in others)]
            rows.append([cell["guidance"], cell["steps"], *rates, f"{cell.get('difference', float('nan')):.1e}"])
        print("frames per second, float32")
        table(header, rows)
    if "ways" in results:
        ways = results["ways"]
        print(f"ways to run the default parameters; auto took {ways['chosen']} after {ways['tuning_s']:.1f} s")
        ordered = sorted(ways["ways"], key=lambda entry: -entry["fps"])
        rows = [[*map(str, entry["way"]), entry["fps"], entry["latency_ms"]] for entry in ordered]
        table(["back end", "dtype", "threads", "overlap", "frames/s", "latency ms"], rows)
    for label in ("all threads", "one thread") if "networks" in results else ():
        measured = results["networks"][label]
        print(f"networks, {label}; float32 matrix product {measured['sgemm_gflops']:.0f} GFLOP/s")
        rows = [[e["network"], e["way"], e["ms"]["p50"], e["ms"]["p99"], e["share"]] for e in measured["networks"]]
        table(["network", "way", "ms", "p99", "share"], sorted(rows, key=lambda row: (row[0], row[2])))
    if "demo" in results:
        table(demo.HEADER, demo.rows_of(way, results["demo"]))


def whole(least: int) -> Callable[[str], int]:
    """An argument that is a whole number of at least `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"got {text}; give a whole number of at least {least}")
        return value

    return read


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser("bench stream", description=__doc__)
    # Fewer could not be told from the frames in flight at either end.
    parser.add_argument("--frames", type=whole(8), default=24, help="frames per block (default 24, at least 8)")
    parser.add_argument("--blocks", type=whole(1), default=3, help="alternating blocks per side (default 3)")
    parser.add_argument("--size", type=whole(64), default=128)
    parser.add_argument("--steps", type=whole(1), nargs="+", default=[1, 2, 4])
    parser.add_argument("--guidance", nargs="+", default=None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--original", default=None, metavar="FOLDER", help="pip --target folder with streamdiffusion")
    parser.add_argument("--onnxruntime", default=None, metavar="FOLDER", help="pip --target folder with onnxruntime")
    parser.add_argument(
        "--compile", action="store_true", help="beside the compiled original too (a C++ compiler; 20 minutes)"
    )
    parser.add_argument("--processor", choices=("as it is", "held to AVX2"), default=None, help="one of both alone")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    args = arguments(argv)
    if args.child is not None:
        child(args)
        return 0
    results: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    words = sys.argv[1:] if argv is None else argv
    with tempfile.TemporaryDirectory() as folder:
        processors = demo.ways(Path(folder))
        for number, (way, (variables, how)) in enumerate(processors.items()):
            if args.processor not in (None, way):
                continue
            print(f"{way}{': ' + how if how else ''}", file=sys.stderr, flush=True)
            own = Path(folder) / str(number)
            own.mkdir()
            results[way] = {"held": how}
            if any(part in CHILD_PARTS for part in args.parts):
                file = own / "results.json"
                command = [sys.executable, "-m", "tests.bench.stream", *words, "--child", str(file)]
                status = subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False).returncode
                if status:
                    print(f"frameloom bench stream: the process that measures ended with status {status}")
                    return 1
                results[way] |= json.loads(file.read_text(encoding="utf-8"))
            if "demo" in args.parts:
                results[way]["demo"] = demo.measure(own, 400, variables)
            show(way, results[way])
            bars += judge(way, results[way], number == len(processors) - 1)
    if not any("difference" in cell for entry in results.values() for cell in entry.get("cells", [])):
        print("the original is not installed: no comparison (see --original)")
    emit("stream", {"size": args.size, "frames": args.frames, "blocks": args.blocks, "processors": results}, bars)
    return 0


if __name__ == "__main__":
    sys.exit(main())

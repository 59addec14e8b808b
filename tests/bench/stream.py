"""frameloom bench stream: frames per second and latency of the stream beside the original class.

The same embedded weights, frames, steps and guidance in float32 on both sides, alternating in one run. Ours runs as
the host runs it, encode, U-Net and decode on three threads, and, for comparison, the same one after the other
("serial"). The original is StreamDiffusion 0.1.1, unmodified, with its similarity filter off, where the package is at
hand (`pip install --no-deps --target FOLDER streamdiffusion==0.1.1`, then --original FOLDER). It takes its network's
output for noise, so it is given the embedded U-Net behind a conversion from v to noise. Outputs are compared in the
same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from typing import Any

from tests.bench.report import bar, emit, percentile, table

SPEED_BAR = 1.25
EQUAL_BAR = 1e-4
PROMPT, NEGATIVE = "neon style, red sphere, blue box", "grey style"
SCALE, DELTA, SEED = 1.4, 0.9, 2


class Ours:
    """Our stream, driven either as the host drives it or by `step`. spread: as the host gives it, or None."""

    def __init__(self, model: Any, params: Any, size: int, spread: Any = None) -> None:
        from core.stream import StreamConfig

        self.stream = model.stream(StreamConfig(size, size), spread=spread)
        self.plan = self.stream.plan(params)
        self.stages = self.plan.depth

    def serial(self, frames: list[Any]) -> list[float]:
        """Milliseconds per frame, one after the other."""
        out = []
        for number, frame in enumerate(frames):
            started = time.perf_counter()
            self.stream.step(frame, number, self.plan)
            out.append((time.perf_counter() - started) * 1e3)
        return out

    def overlapped(self, frames: list[Any]) -> tuple[float, list[float]]:
        """(milliseconds per frame, latencies in ms from a frame's entry to its picture) on three threads."""
        from bridge.handoff import Closed, Handoff

        encoded: Handoff[Any] = Handoff(1)
        finished: Handoff[Any] = Handoff(1)
        entered: dict[int, float] = {}

        def encode() -> None:
            for number, frame in enumerate(frames):
                entered[number] = time.perf_counter()
                encoded.put((number, self.stream.encode(frame)))
            encoded.close()

        def turn() -> None:
            try:
                while True:
                    number, latent = encoded.get()
                    result = self.stream.advance(latent, number, self.plan)
                    if result is not None:
                        finished.put(result)
            except Closed:
                finished.close()

        latencies, left = [], []
        threads = [threading.Thread(target=encode), threading.Thread(target=turn)]
        for thread in threads:
            thread.start()
        try:
            while True:
                picture = self.stream.decode(finished.get())
                left.append(time.perf_counter())
                if picture.tag in entered:
                    latencies.append((left[-1] - entered[picture.tag]) * 1e3)
        except Closed:
            pass
        for thread in threads:
            thread.join()
        # The inner window: at the ends one of the three stages has nothing to do.
        return (left[-3] - left[2]) * 1e3 / (len(left) - 5), latencies


def as_noise(unet: Any, noise: Any) -> Any:
    """The v-predicting U-Net as one that predicts noise, for a caller that knows nothing else."""
    import torch

    class AsNoise(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet
            self.config = unet.config
            self.device, self.dtype = unet.device, unet.dtype
            self.register_buffer("a", noise.alphas_cumprod_T.sqrt().float())
            self.register_buffer("b", (1.0 - noise.alphas_cumprod_T).sqrt().float())

        def forward(self, x: Any, t: Any, encoder_hidden_states: Any, return_dict: bool = False) -> Any:
            v = self.unet(x, t, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
            return (self.a[t].view(-1, 1, 1, 1) * v + self.b[t].view(-1, 1, 1, 1) * x,)

    return AsNoise().eval()


class Original:
    """The original class around weights of its own copy."""

    def __init__(self, parts: Any, scheduler: dict[str, Any], params: Any, size: int, compiled: bool) -> None:
        import torch

        from tests import original

        self.stream = original.build(parts, scheduler, list(params.stages()), params.guidance, size)
        if compiled:
            self.stream.unet = torch.compile(self.stream.unet)
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


def difference(ours: Ours, theirs: Original, frames: list[Any], frames_01: list[Any]) -> float:
    """Largest difference of the clean latents that leave both streams for the same frames."""
    theirs.latents.clear()
    depth = ours.stages
    theirs.run(frames_01)
    worst = 0.0
    for number, frame in enumerate(frames):
        result = ours.stream.advance(ours.stream.encode(frame), ("check", number), ours.plan)
        if result is not None and result.tag[0] == "check":
            expected = theirs.latents[result.tag[1] + depth]
            worst = max(worst, float((result.latent_Fchw - expected).abs().max()))
    return worst


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = argparse.ArgumentParser(prog="frameloom bench stream", description=__doc__)
    parser.add_argument("--frames", type=int, default=24, help="frames per block (default 24)")
    parser.add_argument("--blocks", type=int, default=3, help="alternating blocks per side (default 3)")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--guidance", nargs="*", default=None)
    parser.add_argument("--original", default=None, metavar="FOLDER", help="pip --target folder with streamdiffusion")
    parser.add_argument(
        "--compile", action="store_true", help="compile the original (torch.compile; a C++ compiler, minutes)"
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads per operation, ours (default: host's)")
    args = parser.parse_args(argv)

    import torch

    from bridge.spread import Spread
    from core.device import host_threads, pick_dtype
    from core.model import load_model
    from core.params import GUIDANCE_KINDS, Params
    from core.tiny import WEIGHTS
    from core.world import World
    from tests import original

    cpu = torch.device("cpu")
    everything = torch.get_num_threads()
    threads = args.threads or host_threads(cpu) or everything
    with_original = original.installed(args.original)
    model = load_model(WEIGHTS, cpu, torch.float32)
    native = load_model(WEIGHTS, cpu, pick_dtype(cpu))
    plain = load_model(WEIGHTS, cpu, torch.float32, "eager")
    scheduler = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "clip_sample": False,
    }
    world = World(seed=3)
    pictures = [
        world.render(time_s=i / 30.0, width=args.size, height=args.size, style="grey")["colour"] for i in range(16)
    ]
    frames = [pictures[i % 16][None] for i in range(args.frames)]
    frames_01 = [f.permute(0, 3, 1, 2).float() / 255.0 for f in frames]
    parts = (as_noise(plain.unet, plain.noise), plain.vae, plain.text._encoder, plain.text._tokenizer)

    rows, results, ratios, serial_ratios, worst = [], [], [], [], 0.0
    spread = Spread()
    with original.cpu_stand_ins():
        for guidance in args.guidance or GUIDANCE_KINDS:
            for steps in args.steps:
                base = Params(prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=SCALE, delta=DELTA, seed=SEED)
                params = base.with_values(guidance=guidance, steps=steps)
                ours = Ours(model, params, args.size, spread)
                serial_ours = Ours(model, params, args.size)
                alone = Ours(model, params.with_values(mode="latency"), args.size)
                fast = Ours(native, params, args.size, spread)
                theirs = Original(parts, scheduler, params, args.size, args.compile) if with_original else None
                error = difference(ours, theirs, frames[:8], frames_01[:8]) if theirs else None
                times: dict[str, list[float]] = {k: [] for k in ("ours", "serial", "latency", "native", "original")}
                latencies: list[float] = []
                for block in range(args.blocks + 1):  # the first block warms up
                    torch.set_num_threads(threads)
                    ms, waits = ours.overlapped(frames)
                    native_ms, _ = fast.overlapped(frames)
                    torch.set_num_threads(everything)
                    serial = serial_ours.serial(frames)
                    one_by_one = alone.serial(frames)
                    call = theirs.run(frames_01) if theirs else []
                    if block:
                        times["ours"].append(ms)
                        times["native"].append(native_ms)
                        times["serial"] += serial
                        times["latency"] += one_by_one
                        times["original"] += call
                        latencies += waits
                fps = {k: 1e3 / statistics.median(v) for k, v in times.items() if v}
                entry: dict[str, Any] = {
                    "guidance": guidance,
                    "steps": steps,
                    "fps": {k: round(v, 2) for k, v in fps.items()},
                    "latency_ms": {"p50": percentile(latencies, 50), "p99": percentile(latencies, 99)},
                    "serial_ms": {"p50": percentile(times["serial"], 50), "p99": percentile(times["serial"], 99)},
                    "latency_mode_ms": {
                        "p50": percentile(times["latency"], 50),
                        "p99": percentile(times["latency"], 99),
                    },
                }
                if theirs:
                    entry["original_ms"] = {q: percentile(times["original"], n) for q, n in (("p50", 50), ("p99", 99))}
                    entry["ratio"] = fps["ours"] / fps["original"]
                    entry["ratio_serial"] = fps["serial"] / fps["original"]
                    entry["difference"] = error
                    ratios.append(entry["ratio"])
                    serial_ratios.append(entry["ratio_serial"])
                    worst = max(worst, error or 0.0)
                results.append(entry)
                rows.append(
                    [
                        guidance,
                        steps,
                        fps["ours"],
                        fps["serial"],
                        fps["latency"],
                        fps["native"],
                        fps.get("original", float("nan")),
                        entry.get("ratio", float("nan")),
                        entry.get("difference", float("nan")) if theirs else float("nan"),
                    ]
                )
                print(f"{guidance}, {steps} steps: done", flush=True)
    dtype = str(native.dtype).removeprefix("torch.")
    print(f"frames per second, {args.size} px, float32 but for 'ours {dtype}'; threads per operation: original,")
    print(f"serial and latency mode {everything}, ours {threads} in each of its three stages")
    header = [
        "guidance",
        "steps",
        "ours",
        "ours serial",
        "ours latency mode",
        f"ours {dtype}",
        "original",
        "ratio",
        "max diff",
    ]
    table(header, rows)
    bars = []
    if with_original:
        bars = [
            bar("frames per second, ours / original, worst of all steps and guidance", min(ratios), SPEED_BAR),
            bar("largest difference of clean latents from the original", worst, EQUAL_BAR, at_most=True),
        ]
    else:
        print("the original is not installed: no comparison (see --original)")
    summary = {
        "backend": model.backend,
        "original_compiled": args.compile,
        "size": args.size,
        "threads": threads,
        "median_ratio": statistics.median(ratios) if ratios else None,
        "median_ratio_serial": statistics.median(serial_ratios) if serial_ratios else None,
        "cells": results,
    }
    emit("stream", summary, bars)
    return 0


if __name__ == "__main__":
    sys.exit(main())

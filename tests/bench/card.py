"""frameloom bench card: the first measurements on a CUDA card, in parts that a short loan of one suffices for.

On a card, in the root of the checkout (torch is wherever python3 finds it; diffusers and the original class may be
unpacked wheels, named with --path and --original):

    python3 -m tests.bench.card --parts A1 A2 A3 A7 --device cuda --path WHEELS --original WHEELS --out card.jsonl

It asks for torch, numpy, transformers, diffusers, safetensors and this checkout alone, of about the pinned versions.
Every part runs in a process of its own, so that a CUDA context that died ends one part only, and appends each figure to
--out as soon as it has it; a part that no longer fits into --budget-s is skipped and says so. `--device cpu` rehearses
all of it with small shapes.

A1  versions, device, rates of the matrix product, copies from pageable, pinned and registered ring memory
A2  the embedded model in every dtype against float32 on the CPU; where `Stream.step` makes the host wait for the card
A3  the U-Net of SD-Turbo's shape, random weights, 16 bits, by rows and memory layout: host ms, card ms, kernels
A7  the original class (StreamDiffusion 0.1.1), eager, and our stream around the same weights, in turn
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.report import bar, emit, percentile

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDS_S = {"A1": 25.0, "A2": 40.0, "A3": 70.0, "A7": 60.0}
"""A part is not begun with less than this left."""
SMALL_CHANNELS, LARGE_CHANNELS = (32, 64), (320, 640, 1280, 1280)
WIDTH = {True: 32, False: 1024}
"""Of the text embedding, small and not."""
TOKENS = 77


class Part:
    """What a part is given: the device, the scale, and a file that every figure is appended to."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        import torch

        self.name = name
        self.device = torch.device(args.device)
        self.on_card = self.device.type == "cuda"
        self.small = not self.on_card
        self.original = args.original
        self.calls = 4 if self.small else 30
        self._out = args.out

    def note(self, figure: str, values: Any) -> None:
        """Append one figure."""
        line = json.dumps({"part": self.name, "figure": figure, "device": str(self.device), "values": values})
        with self._out.open("a", encoding="utf-8") as out:
            out.write(line + "\n")
            out.flush()
            os.fsync(out.fileno())

    def wait(self) -> None:
        """Wait for the card."""
        import torch

        if self.on_card:
            torch.cuda.synchronize()

    def timed(self, call: Callable[[], Any], calls: int | None = None) -> dict[str, float]:
        """Medians and 99th percentiles in ms: "host", what issuing a call took, and "device", from its begin to its
        end there. Each call's inputs are the caller's to change."""
        import torch

        host, device = [], []
        for number in range((calls or self.calls) + 3):
            self.wait()
            begin = torch.cuda.Event(enable_timing=True) if self.on_card else None
            end = torch.cuda.Event(enable_timing=True) if self.on_card else None
            started = time.perf_counter()
            if begin is not None:
                begin.record()
            call()
            if end is not None:
                end.record()
            issued = time.perf_counter()
            self.wait()
            if number >= 3:
                host.append((issued - started) * 1e3)
                device.append(begin.elapsed_time(end) if begin is not None else host[-1])
        return {
            "host_ms": statistics.median(host),
            "host_p99_ms": percentile(host, 99),
            "device_ms": statistics.median(device),
            "device_p99_ms": percentile(device, 99),
        }


# ---- A1: the card ------------------------------------------------------------------------------------------------


def a1(part: Part) -> None:
    import importlib.metadata
    import platform

    import torch

    versions = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for package in ("torch", "numpy", "diffusers", "transformers", "safetensors"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    part.note("versions", versions)
    if part.on_card:
        about = torch.cuda.get_device_properties(part.device)
        part.note(
            "device", {"name": about.name, "memory_gib": about.total_memory / 2**30, "sms": about.multi_processor_count}
        )
    side = 256 if part.small else 8192
    for label, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("float16", torch.float16, False),
        ("bfloat16", torch.bfloat16, False),
    ):
        if tf32 and not part.on_card:
            continue
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(side, side, device=part.device).to(dtype) for _ in range(2))
        took = part.timed(lambda a=a, b=b: a @ b)
        part.note(f"matrix product {label}", {"side": side, "tflops": 2 * side**3 / took["device_ms"] / 1e9, **took})
    torch.backends.cuda.matmul.allow_tf32 = False
    size = (1 << 22) if part.small else (1 << 30)
    source, target = (torch.empty(size, dtype=torch.uint8, device=part.device) for _ in range(2))
    took = part.timed(lambda: target.copy_(source))
    part.note("copy on the device", {"bytes": size, "gb_per_s": 2 * size / took["device_ms"] / 1e6, **took})
    for name, (height, width) in {"512x512": (512, 512), "1920x1080": (1080, 1920)}.items():
        _copies(part, name, height, width)


def _copies(part: Part, name: str, height: int, width: int) -> None:
    """One RGBA picture to the device and back, by the kind of memory on the host."""
    import torch

    there = torch.empty((height, width, 4), dtype=torch.uint8, device=part.device)
    kinds: dict[str, Any] = {"pageable": torch.empty(there.shape, dtype=torch.uint8)}
    if part.on_card:
        kinds["pinned"] = torch.empty(there.shape, dtype=torch.uint8, pin_memory=True)
    with contextlib.ExitStack() as stack:
        kinds["ring"] = stack.enter_context(_in_a_ring(height, width))
        for kind, here in kinds.items():
            _up_and_down(part, f"{name}, {kind}", here, there)
        if part.on_card:
            stack.enter_context(_registered(kinds["ring"]))
            _up_and_down(part, f"{name}, ring registered", kinds["ring"], there)


def _up_and_down(part: Part, name: str, here: Any, there: Any) -> None:
    up = part.timed(lambda: there.copy_(here, non_blocking=True))
    down = part.timed(lambda: here.copy_(there, non_blocking=True))
    size = there.numel()
    for direction, took in (("to the device", up), ("to the host", down)):
        part.note(f"copy {name}, {direction}", {"bytes": size, "gb_per_s": size / took["device_ms"] / 1e6, **took})


@contextlib.contextmanager
def _in_a_ring(height: int, width: int) -> Iterator[Any]:
    """A writable picture in a slot of a real ring, as a tensor."""
    import torch

    from bridge.ring import PlaneSpec, RingWriter
    from bridge.ring.layout import Format, Kind

    spec = [PlaneSpec(Kind.COLOUR, Format.RGBA8, width, height)]
    with RingWriter(f"card-{uuid.uuid4().hex[:8]}", capacity_bytes=height * width * 4) as writer:
        with writer.slot(spec) as slot:
            yield torch.from_numpy(slot.planes[Kind.COLOUR])


@contextlib.contextmanager
def _registered(picture: Any) -> Iterator[None]:
    """The pages under a tensor known to the driver, so that the card's copy engine reads them itself."""
    import mmap

    import torch

    first = picture.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    size = -(-(picture.data_ptr() + picture.numel() - first) // mmap.PAGESIZE) * mmap.PAGESIZE
    runtime = torch.cuda.cudart()
    status = runtime.cudaHostRegister(first, size, 0)
    if int(status) != 0:
        raise RuntimeError(f"cudaHostRegister refused the ring's memory: {status}")
    try:
        yield
    finally:
        runtime.cudaHostUnregister(first)


# ---- A2: the embedded model ----------------------------------------------------------------------------------------


def a2(part: Part) -> None:
    import torch

    from core.model import load_model
    from core.params import params_for
    from core.stream import StreamConfig
    from core.tiny import WEIGHTS
    from core.world import World

    world, count = World(seed=3), 4 if part.small else 10
    frames = [world.render(time_s=i / 30, style="grey")["colour"][None] for i in range(count)]
    params = params_for("embedded").with_values(prompt=world.caption(style="neon"), steps=2)

    def run(device: Any, dtype: Any) -> tuple[list[Any], list[Any], Any, Any]:
        stream = load_model(WEIGHTS, device, dtype, "eager").stream(StreamConfig(128, 128))
        plan = stream.plan(params)
        latents, pictures = [], []
        for number, frame in enumerate(frames):
            finished = stream.advance(stream.encode(frame), number, plan)
            if finished is not None:
                latents.append(finished.latent_Fchw.float().cpu())
                pictures.append(stream.decode(finished).frame_FHWC.float().cpu())
        return latents, pictures, stream, plan

    true_latents, true_pictures, _, _ = run(torch.device("cpu"), torch.float32)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        try:
            latents, pictures, stream, plan = run(part.device, dtype)
        except ValueError as error:
            part.note(f"embedded {name}", {"refused": str(error)})
            continue
        by_latent = [(a - b).abs() for a, b in zip(latents, true_latents, strict=True)]
        by_picture = [(a - b).abs() for a, b in zip(pictures, true_pictures, strict=True)]
        part.note(
            f"embedded {name}",
            {
                "latent_largest": max(float(d.max()) for d in by_latent),
                "latent_mean": statistics.mean(float(d.mean()) for d in by_latent),
                "picture_largest_of_255": max(float(d.max()) for d in by_picture),
                "picture_mean_of_255": statistics.mean(float(d.mean()) for d in by_picture),
                "step": part.timed(lambda s=stream, p=plan: s.step(frames[0], 0, p)),
            },
        )
        if dtype == torch.float16 or part.small:
            part.note(f"waits for the card in ten frames, {name}", _waits(part, stream, plan, frames))


def _waits(part: Part, stream: Any, plan: Any, frames: list[Any]) -> Any:
    """Where a turn makes the host wait for the card: file:line to how often."""
    import torch

    if not part.on_card:
        return "a processor of its own does not wait"
    seen: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for number in range(10):
                stream.step(frames[number % len(frames)], number, plan)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        path = Path(warning.filename)
        where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
        seen[f"{where}:{warning.lineno}"] += 1
    return dict(seen)


# ---- A3: rows and layouts ------------------------------------------------------------------------------------------


def unet_of_turbo(device: Any, small: bool, dtype: Any) -> Any:
    """A U-Net of SD-Turbo's shape (or a small one) with random weights of a dtype, made on the device."""
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    channels = SMALL_CHANNELS if small else LARGE_CHANNELS
    down = ("CrossAttnDownBlock2D",) * (len(channels) - 1) + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(channels) - 1)
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=16 if small else 64,
            block_out_channels=channels,
            down_block_types=down,
            up_block_types=up,
            cross_attention_dim=WIDTH[small],
            attention_head_dim=(2, 4) if small else (5, 10, 20, 20),
            use_linear_projection=True,
            norm_num_groups=32,
        )
    # By torch's own `to`: that of diffusers warns of layers to be kept in float32, of which there are none here.
    return torch.nn.Module.to(unet, dtype).eval().requires_grad_(False)


def a3(part: Part) -> None:
    import torch

    dtype = torch.float16 if part.on_card else torch.float32
    side = 16 if part.small else 64
    all_rows = (1, 2) if part.small else (1, 2, 4, 8, 16)
    nhwc, nchw = torch.channels_last, torch.contiguous_format
    # Weights, inputs, cudnn.benchmark.
    layouts = {
        "as today": (nchw, nhwc, False),
        "NCHW": (nchw, nchw, False),
        "NHWC": (nhwc, nhwc, False),
        "NHWC, benchmark": (nhwc, nhwc, True),
    }
    unet = unet_of_turbo(part.device, part.small, dtype)
    for label, (weights_layout, input_layout, benchmark) in layouts.items():
        torch.backends.cudnn.benchmark = benchmark
        unet.to(memory_format=weights_layout)
        for rows in all_rows:
            text = torch.randn(rows, TOKENS, WIDTH[part.small], device=part.device, dtype=dtype)
            t = torch.full((rows,), 500, device=part.device)
            x = torch.empty((rows, 4, side, side), device=part.device, dtype=dtype).to(memory_format=input_layout)

            def call(x: Any = x, t: Any = t, text: Any = text) -> Any:
                return unet(x.normal_(), t, encoder_hidden_states=text, return_dict=False)[0]

            try:
                with torch.inference_mode():
                    finite = bool(call().isfinite().all())
                    took = part.timed(call)
                    kernels = _kernels(part, call)
            except torch.OutOfMemoryError as error:
                part.note(f"unet, {label}, {rows} rows", {"refused": str(error).splitlines()[0]})
                continue
            per_s = rows / took["device_ms"] * 1e3
            values = {"rows": rows, "finite": finite, "kernels": kernels, "rows_per_s": per_s, **took}
            part.note(f"unet, {label}, {rows} rows", values)
    torch.backends.cudnn.benchmark = False


def _kernels(part: Part, call: Callable[[], Any]) -> int:
    """Kernels that one call starts (operations of torch, on a CPU)."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if part.on_card else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        call()
        part.wait()
    if not part.on_card:
        return sum(event.count for event in profiler.key_averages())
    on_card = torch.autograd.DeviceType.CUDA
    return sum(1 for event in profiler.events() if event.device_type == on_card and "mem" not in event.name.lower())


# ---- A7: the original ----------------------------------------------------------------------------------------------


def a7(part: Part) -> None:
    import torch

    from core.backend import Execution
    from core.families.family import Encoder, Parts
    from core.libraries import AutoencoderTiny
    from core.model import assemble
    from core.params import Params
    from core.stream import StreamConfig
    from tests import original
    from tests.random_model import SCHEDULER, random_text

    if not original.installed(part.original):
        part.note("original", {"refused": "streamdiffusion 0.1.1 is not at hand; see --original"})
        return
    dtype = torch.float16 if part.on_card else torch.float32
    side = 128 if part.small else 512
    width = WIDTH[part.small]
    with torch.device(part.device):
        vae = torch.nn.Module.to(AutoencoderTiny(), dtype).eval().requires_grad_(False)
        encoder, tokenizer = random_text(width, width // 16, TOKENS)
    encoder = encoder.to(dtype)
    unet = unet_of_turbo(part.device, part.small, dtype)
    parts = (unet, vae, encoder, tokenizer)
    # The original has its own copy: ours puts its own attention on the layers of its U-Net.
    own = unet_of_turbo(part.device, part.small, dtype)
    execution = Execution(part.device, "eager", dtype)
    parts = Parts(own, vae, (Encoder(encoder, tokenizer),))
    model = assemble(Path("random"), parts, SCHEDULER, execution)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (16, 1, side, side, 3), dtype=torch.uint8, generator=generator)
    frames_01 = [(f.permute(0, 3, 1, 2).to(dtype) / 255.0).to(part.device) for f in frames]
    stand_ins = contextlib.nullcontext() if part.on_card else original.cpu_stand_ins()
    with stand_ins:
        for steps in (1, 2) if part.small else (1, 2, 4):
            params = Params(prompt="a red ball", guidance="none", steps=steps, strength=0.64)
            theirs = original.build(parts, SCHEDULER, list(params.stages()), "none", side, dtype=dtype)
            theirs.prepare("a red ball", "", guidance_scale=1.0, generator=torch.Generator(part.device), seed=2)
            stream = model.stream(StreamConfig(side, side))
            plan = stream.plan(params)
            took: dict[str, list[float]] = {"ours": [], "original": []}
            turns: dict[str, Callable[[int], Any]] = {
                "ours": lambda i, stream=stream, plan=plan: stream.step(frames[i % 16], i, plan),
                "original": lambda i, theirs=theirs: theirs(frames_01[i % 16]),
            }
            for block in range(3 if part.small else 6):
                for name, turn in turns.items():
                    for i in range(4 if part.small else 16):
                        started = time.perf_counter()
                        turn(i)
                        part.wait()
                        if block:
                            took[name].append((time.perf_counter() - started) * 1e3)
            part.note(
                f"ours and the original, {steps} steps",
                {
                    "size": side,
                    "ms": {n: {"p50": statistics.median(v), "p99": percentile(v, 99)} for n, v in took.items()},
                    "fps": {n: 1e3 / statistics.median(v) for n, v in took.items()},
                    "ratio": statistics.median(took["original"]) / statistics.median(took["ours"]),
                },
            )


PARTS: dict[str, Callable[[Part], None]] = {"A1": a1, "A2": a2, "A3": a3, "A7": a7}


# ---- the run -------------------------------------------------------------------------------------------------------


def run_part(name: str, args: argparse.Namespace) -> int:
    """One part, in this process."""
    import torch

    torch.set_grad_enabled(False)
    PARTS[name](Part(name, args))
    return 0


def available(device: str) -> str | None:
    """Why the device cannot be used, or None."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return None


def main(argv: list[str] | None = None) -> int:
    """Run the parts; 1 when the device cannot be used or a part failed."""
    parser = argparse.ArgumentParser(prog="frameloom bench card", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="in this order")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, or cpu for a rehearsal")
    parser.add_argument("--out", type=Path, default=Path("out/card.jsonl"), help="file that figures are appended to")
    parser.add_argument("--budget-s", type=float, default=420.0, help="seconds for all parts together (default 420)")
    parser.add_argument("--path", action="append", default=[], metavar="FOLDER", help="with unpacked packages")
    parser.add_argument("--original", default=None, metavar="FOLDER", help="pip --target folder with streamdiffusion")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for folder in args.path:
        sys.path.append(folder)
    if args.child is not None:
        return run_part(args.child, args)
    refused = available(args.device)
    if refused is not None:
        print(
            f"frameloom bench card: {args.device} cannot be used ({refused}); --device cpu rehearses", file=sys.stderr
        )
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    words = sys.argv[1:] if argv is None else argv
    args.out.touch()
    begun, outcome = args.out.stat().st_size, {}
    deadline = time.monotonic() + args.budget_s
    for name in args.parts:
        left_s = deadline - time.monotonic()
        if left_s < NEEDS_S[name]:
            outcome[name] = f"skipped: {left_s:.0f} s left, {NEEDS_S[name]:.0f} needed"
            continue
        started = time.monotonic()
        try:
            command = [sys.executable, "-m", "tests.bench.card", *words, "--child", name]
            status = subprocess.run(command, cwd=ROOT, timeout=left_s, check=False).returncode
            outcome[name] = f"status {status} after {time.monotonic() - started:.1f} s"
        except subprocess.TimeoutExpired:
            outcome[name] = f"stopped after {left_s:.0f} s; its figures up to then are kept"
        print(f"{name}: {outcome[name]}", flush=True)
    with args.out.open(encoding="utf-8") as file:
        file.seek(begun)
        figures = [json.loads(line) for line in file]
    for entry in figures:
        print(f"{entry['part']}  {entry['figure']}: {json.dumps(entry['values'])[:150]}")
    emit(
        "card",
        {"device": args.device, "rehearsal": args.device == "cpu", "parts": outcome, "figures": figures},
        judged(figures),
    )
    return 0 if all(said.startswith(("status 0", "skipped")) for said in outcome.values()) else 1


def judged(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The embedded model in float32 on the device against the CPU, and ours against the original."""
    bars = []
    for entry in figures:
        values = entry["values"]
        if entry["figure"] == "embedded float32" and "latent_largest" in values:
            name = "embedded model in float32, largest difference of latents from the CPU"
            bars.append(bar(name, values["latent_largest"], 1e-3, at_most=True))
        if entry["figure"].startswith("ours and the original") and "ratio" in values:
            bars.append(bar(f"{entry['figure']}: frames per second, ours / original", values["ratio"], 1.0))
    return bars


if __name__ == "__main__":
    sys.exit(main())

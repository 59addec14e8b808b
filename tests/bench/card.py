"""frameloom bench card: the first measurements on a CUDA card, in parts that a short loan of one suffices for.

On a card, in the root of the checkout (torch is wherever python3 finds it; diffusers and the original class may be
unpacked wheels, named with --path and --original):

    python3 -m tests.bench.card --parts A4 A6 A7 B2 B3 A5 --device cuda --path WHEELS --original WHEELS --out card.jsonl

It asks for torch, numpy, transformers, diffusers, safetensors and this checkout alone, of about the pinned versions.
Every part runs in a process of its own, so that a CUDA context that died ends one part only, and appends each figure to
--out as soon as it has it; a part that no longer fits into --budget-s is skipped and says so. `--device cpu` rehearses
all of it with small shapes.

A1  versions, device, rates of the matrix product, copies from pageable, pinned and registered ring memory
A2  the embedded model in every dtype against float32 on the CPU; where `Stream.step` makes the host wait for the card
A3  the U-Net of SD-Turbo's shape, random weights, 16 bits, by rows and memory layout: host ms, card ms, kernels
A4  networks captured as graphs against eager ones: seconds to capture, host ms, card ms, differences, memory
A5  the U-Net compiled, alone, in a graph, and so between two rings; stopped after 200 s, so the last one
A6  the host between two rings at 512x512, one step: eager, graphs, overlapped, and with a live change every ten frames
A7  the original class (StreamDiffusion 0.1.1), eager, and our stream of the same shape, eager and by graphs, in turn
B2  stream batch against sequential; kinds of guidance
B3  the rows of 1 to 16 channels in one call
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser
from tests.bench.report import bar, emit, percentile

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDS_S = {
    "A1": 25.0,
    "A2": 40.0,
    "A3": 70.0,
    "A4": 25.0,
    "A5": 60.0,
    "A6": 40.0,
    "A7": 28.0,
    "B2": 17.0,
    "B3": 20.0,
}
"""A part is not begun with less than this left. From A4 on these are estimates, ten seconds of each for its imports."""
LIMIT_S = {"A5": 200.0}
"""A part is stopped after so long, whatever is left; its figures up to then are kept."""
TFLOP_PER_ROW = 0.80
"""Of the U-Net of SD-Turbo's shape at 512x512, counted operation by operation."""
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
        self.dtype = torch.float16 if self.on_card else torch.float32
        self.side = 64 if self.small else 512
        self.rows = (1, 2) if self.small else (1, 2, 4, 8, 16)
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


# ---- what the parts on whole streams share -------------------------------------------------------------------------

PROMPTS = ("a red ball", "a blue box", "green hills", "a grey street")
BASE: dict[str, Any] = {"prompt": PROMPTS[0], "guidance": "none", "strength": 0.64, "similarity_filter": False}


def turbo(part: Part) -> tuple[Any, tuple[Any, Any, Any, Any]]:
    """A model (`core.model.Model`) of SD-Turbo's shape with a tiny autoencoder, run eagerly, and its parts: (unet, vae,
    text encoder, tokenizer)."""
    import torch

    from bridge.host.loading import Models
    from core.backend import Execution, Locks
    from core.families.family import Encoder, Parts
    from core.libraries import AutoencoderTiny
    from core.model import assemble
    from tests.random_model import SCHEDULER, random_text

    width = WIDTH[part.small]
    with torch.device(part.device):
        vae = torch.nn.Module.to(AutoencoderTiny(), part.dtype).eval().requires_grad_(False)
        encoder, tokenizer = random_text(width, width // 16, TOKENS)
    encoder = encoder.to(part.dtype)
    unet = unet_of_turbo(part.device, part.small, part.dtype)
    parts = Parts(unet, vae, (Encoder(encoder, tokenizer),))
    # As the host has it.
    locks = Locks(threading.Lock, Models.preparing)
    model = assemble(Path("random"), parts, SCHEDULER, Execution(part.device, "eager", part.dtype, locks=locks))
    return model, (unet, vae, encoder, tokenizer)


def by(part: Part, model: Any, backend: str) -> Any:
    """The same weights by a back end; those that need a card are eager in a rehearsal."""
    from dataclasses import replace

    return model.run_by(replace(model.execution, backend=backend if part.on_card else "eager"))


def random_pictures(part: Part, count: int, frames: int = 1) -> Any:
    """(count, frames, H, W, 3), uint8, on the host."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, frames, part.side, part.side, 3), dtype=torch.uint8, generator=generator)


def in_turn(function: Callable[[int], Any]) -> Callable[[], Any]:
    """A call of function(0), function(1) and so on."""
    numbers = itertools.count()
    return lambda: function(next(numbers))


# ---- A4: captured graphs -------------------------------------------------------------------------------------------


def a4(part: Part) -> None:
    import torch

    from core.stream import Latents, StreamConfig

    model, _ = turbo(part)
    fast = by(part, model, "graphs")
    latent = (4, part.side // 8, part.side // 8)
    denoisers = {"eager": model.denoiser(latent), "graphs": fast.denoiser(latent)}
    prompts = [denoisers["eager"].prompt(model.text.embed(text)) for text in PROMPTS]
    for rows in part.rows:
        with refusal(part, f"unet, graphs against eager, {rows} rows"):
            x = torch.empty((rows, *latent), device=part.device)
            t = torch.full((rows,), 500, device=part.device)
            values: dict[str, Any] = {"rows": rows}
            inputs, calls = {}, {}
            for name, denoiser in denoisers.items():
                before, started = memory(part), time.perf_counter()
                inputs[name] = denoiser.rows([prompts[i % len(prompts)] for i in range(rows)])
                part.wait()
                values[f"{name}_prepare_s"] = time.perf_counter() - started
                values[f"{name}_memory_mib"] = memory(part) - before
                calls[name] = lambda d=denoiser, i=inputs[name], x=x, t=t: d(x.normal_(), t, i)[0]
                values[name] = part.timed(calls[name])
            x.normal_()
            plain, ours = (denoisers[n](x, t, inputs[n])[0] for n in ("eager", "graphs"))
            values["largest_difference"] = float((plain - ours).abs().max())
            values["largest_value"] = float(plain.abs().max())
            values["captured"] = captured(fast)
            values["tflops"] = TFLOP_PER_ROW * rows / values["graphs"]["device_ms"] * 1e3
            part.note(f"unet, graphs against eager, {rows} rows", values)
    pictures = random_pictures(part, 8)
    made: dict[str, Any] = {}
    for name, way in (("eager", model), ("graphs", fast)):
        started = time.perf_counter()
        stream = way.stream(StreamConfig(part.side, part.side))
        part.wait()
        made[name] = {"prepare_s": time.perf_counter() - started}
        z = torch.randn(1, *latent, device=part.device)
        made[name]["encode"] = part.timed(in_turn(lambda i, s=stream: s.encode(pictures[i % 8])))
        made[name]["decode"] = part.timed(lambda s=stream, z=z: s.decode(Latents(z, 0)).on_host())
        torch.manual_seed(1)
        z = torch.randn(1, *latent, device=part.device)
        made[name]["out"] = (stream.encode(pictures[0]).estimate, stream.decode(Latents(z, 0)).frame_FHWC.float())
    pairs = zip(made["eager"].pop("out"), made["graphs"].pop("out"), strict=True)
    differences = [float((plain - ours).abs().max()) for plain, ours in pairs]
    made["largest_difference"] = {"encode": differences[0], "decode_of_255": differences[1]}
    part.note("encode and decode, graphs against eager", made)
    _matrix_rate(part)


def _matrix_rate(part: Part) -> None:
    """The rate that the U-Net's is judged by, in the same process."""
    import torch

    side = 256 if part.small else 8192
    a, b = (torch.randn(side, side, device=part.device).to(torch.bfloat16) for _ in range(2))
    took = part.timed(lambda: a @ b)
    part.note("matrix product bfloat16", {"side": side, "tflops": 2 * side**3 / took["device_ms"] / 1e9, **took})


def captured(model: Any) -> int:
    """Graphs that a model has: one for each network, size and number of rows."""
    from core.cuda_graphs import CapturedCall

    return sum(len(call.captured) for call in model.calls.values() if isinstance(call, CapturedCall))


def memory(part: Part) -> float:
    """MiB that torch has taken from the card."""
    import torch

    return torch.cuda.memory_reserved(part.device) / 2**20 if part.on_card else 0.0


@contextlib.contextmanager
def refusal(part: Part, figure: str) -> Iterator[None]:
    """What the card has no memory for is noted so, and the part goes on."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        part.note(figure, {"refused": str(error).splitlines()[0]})


# ---- A5: compiled --------------------------------------------------------------------------------------------------


def a5(part: Part) -> None:
    import torch

    from core.backend import BACKENDS
    from core.cuda_graphs import CapturedCall, CudaGraphs

    model, _ = turbo(part)
    latent = (4, part.side // 8, part.side // 8)
    denoiser = model.denoiser(latent)
    prompts = [denoiser.prompt(model.text.embed(text)) for text in PROMPTS]
    # A rehearsal tries the way and not the compiler, which would take minutes.
    compiled = torch.compile(model.call, dynamic=False, backend="inductor" if part.on_card else "eager")
    _ring_to_ring_compiled(part, model)
    for rows in (1, 2) if part.small else (1, 8):
        inputs = denoiser.rows([prompts[i % len(prompts)] for i in range(rows)])
        x = torch.randn(rows, *latent, device=part.device)
        t = torch.full((rows,), 500, device=part.device)
        example = (x, t, inputs.embedding, inputs.keys_values)
        plain = BACKENDS["eager"].call(compiled, example, model.execution)
        started = time.perf_counter()
        with torch.inference_mode():
            first = plain(*example)
            part.wait()
            values: dict[str, Any] = {"rows": rows, "cold_s": time.perf_counter() - started}
            part.note(f"unet compiled, {rows} rows, cold", values)
            expected = BACKENDS["eager"].call(model.call, example, model.execution)(*example)
            values["largest_difference"] = float((first - expected).abs().max())
            values["largest_value"] = float(expected.abs().max())
            values["compiled"] = part.timed(lambda p=plain, e=example: p(e[0].normal_(), *e[1:]))
            part.note(f"unet compiled, {rows} rows", values)
            if part.on_card:
                call = CapturedCall(
                    compiled, plain, example, plain.like, CudaGraphs(part.device, contextlib.nullcontext())
                )
                started = time.perf_counter()
                call.prepare(rows)
                part.wait()
                values["prepare_s"] = time.perf_counter() - started
                values["compiled+graphs"] = part.timed(lambda c=call, e=example: c(e[0].normal_(), *e[1:]))
                values["tflops"] = TFLOP_PER_ROW * rows / values["compiled+graphs"]["device_ms"] * 1e3
                part.note(f"unet compiled, in a graph, {rows} rows", values)


def _ring_to_ring_compiled(part: Part, model: Any) -> None:
    import torch

    torch.backends.cudnn.benchmark = part.on_card
    fast = by(part, model, "compiled+graphs")
    for name, overlap in (("serial", False), ("overlapped", True)):
        started = time.perf_counter()
        values = _ring_to_ring(part, fast, overlap, 10 if part.small else 300)
        part.note(f"ring to ring, {name} compiled graphs", {**values, "with_start_s": time.perf_counter() - started})
    torch.backends.cudnn.benchmark = False


# ---- A6: ring to ring ----------------------------------------------------------------------------------------------


def a6(part: Part) -> None:
    import torch

    from core.stream import Latents, StreamConfig

    model, _ = turbo(part)
    fast = by(part, model, "graphs")
    for name, way in (("eager", model), ("graphs", fast)):
        # As the host sets it for a card; each thread that runs eagerly would look for its algorithms again.
        torch.backends.cudnn.benchmark = part.on_card and name == "graphs"
        stream, picture = way.stream(StreamConfig(part.side, part.side)), random_pictures(part, 1)[0]
        plan = stream.plan(_params(1))
        z = torch.randn(1, 4, part.side // 8, part.side // 8, device=part.device)
        entering = stream.encode(picture)
        stages = {
            "encode": part.timed(lambda s=stream, f=picture: s.encode(f)),
            "unet": part.timed(lambda s=stream, e=entering, p=plan: s.advance(e, 0, p)),
            "decode": part.timed(lambda s=stream, z=z: s.decode(Latents(z, 0)).on_host()),
        }
        part.note(f"stages of one frame, {name}", stages)
    torch.backends.cudnn.benchmark = False
    for name, way, overlap, count in (
        ("serial eager", model, False, 60),
        ("serial graphs", fast, False, 300),
        ("overlapped graphs", fast, True, 300),
    ):
        values = _ring_to_ring(part, way, overlap, 10 if part.small else count)
        if not overlap:
            # By the stages' own times in the host, each of which ends when the card has done its work.
            took = sum(values["stages_ms"][stage] for stage in ("encode", "unet", "decode"))
            values["overhead_ms"] = values["interval_ms"] - took
        part.note(f"ring to ring, {name}", values)
    values = _ring_to_ring(part, fast, True, 40 if part.small else 600, change_every=10)
    part.note("ring to ring, overlapped graphs, a live change every 10 frames", values)


def _params(steps: int, **values: Any) -> Any:
    from core.params import Params

    return Params(**{**BASE, "steps": steps, **values})


class _Given:
    """Stands where `bridge.host.loading.Models` does: a model that is there already."""

    def __init__(self, part: Part, model: Any, overlap: bool) -> None:
        from bridge.host.converting import Converter
        from bridge.host.loading import Loaded

        self.converter = Converter()
        card = part.device if part.on_card else None
        name, dtype = model.execution.backend, str(part.dtype).removeprefix("torch.")
        self._loaded = Loaded(model, overlap, str(part.device), dtype, name, card=card)

    def load(self, config: Any, params: Any, beside: Any = None) -> Any:
        return self._loaded


def _ring_to_ring(part: Part, model: Any, overlap: bool, count: int, change_every: int = 0) -> dict[str, Any]:
    """The host between two real rings. A writer in a process of its own writes more pictures than can be run, so a new
    one is always there; latency is from a picture's capture stamp to its result's publication."""
    from bridge.control.live import LiveParams
    from bridge.host.host import Host, HostConfig
    from bridge.ring import RingReader
    from bridge.ring.leftovers import sweep
    from tests.bench.host import WRITER

    channel = f"card-{uuid.uuid4().hex[:8]}"
    more = {"guidance": "self-negative", "guidance_scale": 1.2} if change_every else {}
    live = LiveParams(_params(1, **more))
    config = HostConfig(channel, size=(part.side, part.side), overlap=overlap)
    took: dict[str, list[int]] = {}
    host = Host(config, live=live, models=_Given(part, model, overlap))  # type: ignore[arg-type]
    record = host.statistics.record

    def keep(stage: str, ns: int) -> None:
        took.setdefault(stage, []).append(ns)
        record(stage, ns)

    host.statistics.record = keep  # type: ignore[method-assign]
    rate = "20" if part.small else "500"
    command = [sys.executable, "-c", WRITER, channel, str(part.side), str(part.side), rate]
    frames: list[tuple[int, int, int]] = []
    changes = allocations = captures = 0
    warm_up = 4 if part.small else 30
    reader = RingReader(f"{channel}.out")
    host.start()
    writer = subprocess.Popen(command, cwd=ROOT)
    try:
        while len(frames) < count + warm_up:
            frame = reader.read(timeout_s=30.0 if frames else 150.0)
            if frame is None:
                raise RuntimeError(f"no frame came out in time: {host.failure}")
            frames.append((frame.publish_ns, frame.capture_ns, frame.param_revision))
            if len(frames) == warm_up:
                allocations, captures = _device_allocations(part), captured(model)
                took.clear()
            if change_every and len(frames) >= warm_up and len(frames) % change_every == 0:
                live.set(*_CHANGES[changes % len(_CHANGES)](changes))
                changes += 1
        allocations, captures = _device_allocations(part) - allocations, captured(model) - captures
    finally:
        writer.terminate()
        writer.wait()
        host.stop()
        host.join(20)
        reader.close()
        sweep(channel)
    part.wait()
    frames = frames[warm_up:]
    latency = [(published - taken) / 1e6 for published, taken, _ in frames]
    intervals = [(b[0] - a[0]) / 1e6 for a, b in itertools.pairwise(frames)]
    values: dict[str, Any] = {
        "size": part.side,
        "frames": len(frames),
        "fps": 1e3 * len(intervals) / sum(intervals),
        "interval_ms": statistics.median(intervals),
        "latency_ms": {"p50": percentile(latency, 50), "p99": percentile(latency, 99), "max": max(latency)},
        "stages_ms": {name: statistics.median(ns) / 1e6 for name, ns in took.items()},
        "captures": captures,
        "device_allocations": allocations,
    }
    if change_every:
        shown = len({revision for _, _, revision in frames})
        ratio = values["latency_ms"]["p99"] / values["latency_ms"]["p50"]
        values |= {"changes": changes, "revisions_shown": shown, "p99_to_p50": ratio}
    return values


_CHANGES: tuple[Callable[[int], tuple[str, Any]], ...] = (
    lambda i: ("prompt", PROMPTS[(i // 3 + 1) % len(PROMPTS)]),
    lambda i: ("seed", i),
    lambda i: ("guidance_scale", 1.3 + 0.1 * (i // 3 % 5)),
)


def _device_allocations(part: Part) -> int:
    """How often torch has asked the card for memory so far."""
    import torch

    return int(torch.cuda.memory_stats(part.device).get("num_device_alloc", 0)) if part.on_card else 0


# ---- B2, B3: what the batch is worth -------------------------------------------------------------------------------


def b2(part: Part) -> None:
    from core.stream import StreamConfig

    model, _ = turbo(part)
    fast = by(part, model, "graphs")
    pictures = random_pictures(part, 8)
    for steps in (2,) if part.small else (2, 4):
        took: dict[str, Any] = {}
        for mode in ("latency", "throughput"):
            stream = fast.stream(StreamConfig(part.side, part.side))
            plan = stream.plan(_params(steps, mode=mode))
            took[mode] = part.timed(in_turn(lambda i, s=stream, p=plan: s.step(pictures[i % 8], i, p)))
        ratio = took["latency"]["device_ms"] / took["throughput"]["device_ms"]
        part.note(f"stream batch against sequential, {steps} steps", {**took, "ratio": ratio})
    steps = 2 if part.small else 5
    took = {}
    for guidance in ("none", "self-negative", "full"):
        stream = fast.stream(StreamConfig(part.side, part.side))
        plan = stream.plan(_params(steps, guidance=guidance, guidance_scale=1.4, mode="throughput"))
        entering = stream.encode(pictures[0])
        took[guidance] = part.timed(lambda s=stream, p=plan, e=entering: s.advance(e, 0, p))
    ratio = took["full"]["device_ms"] / took["self-negative"]["device_ms"]
    part.note(f"guidance kinds, {steps} steps", {**took, "full_to_self_negative": ratio})


def b3(part: Part) -> None:
    """Several channels' rows in one call, each with a prompt of its own, as pictures of one frame buffer."""
    from dataclasses import replace

    from core.stream import StreamConfig

    model, _ = turbo(part)
    fast = by(part, model, "graphs")
    latent = (4, part.side // 8, part.side // 8)
    denoiser = fast.denoiser(latent)
    prompts = [denoiser.prompt(model.text.embed(text)) for text in PROMPTS]
    for rows in part.rows:
        with refusal(part, f"channels, {rows}"):
            pictures = random_pictures(part, 4, rows)
            stream = fast.stream(StreamConfig(part.side, part.side, frame_buffer=rows))
            plan = stream.plan(_params(1))
            inputs = denoiser.rows([prompts[i % len(prompts)] for i in range(rows)])
            plan = replace(plan, passes=(replace(plan.passes[0], inputs=inputs),))
            entering = stream.encode(pictures[0])
            unet = part.timed(lambda s=stream, p=plan, e=entering: s.advance(e, 0, p))
            turn = in_turn(lambda i, s=stream, p=plan, f=pictures: s.step(f[i % 4], i, p).on_host())
            took = part.timed(turn)
            tflops = TFLOP_PER_ROW * rows / unet["device_ms"] * 1e3
            fps = rows / took["device_ms"] * 1e3
            values = {"rows": rows, "fps": fps, "unet": unet, "step": took, "unet_tflops": tflops}
            part.note(f"channels, {rows}", values)


# ---- A7: the original ----------------------------------------------------------------------------------------------


def a7(part: Part) -> None:
    import copy

    import torch

    from core.stream import StreamConfig
    from tests import original
    from tests.random_model import SCHEDULER

    if not original.installed(part.original):
        part.note("original", {"refused": "streamdiffusion 0.1.1 is not at hand; see --original"})
        return
    model, (_, vae, encoder, tokenizer) = turbo(part)
    fast = by(part, model, "graphs")
    # The original has networks of its own: ours lie otherwise in memory, and have our own attention.
    unet = unet_of_turbo(part.device, part.small, part.dtype)
    parts = (unet, torch.nn.Module.to(copy.deepcopy(vae), memory_format=torch.contiguous_format), encoder, tokenizer)
    frames = random_pictures(part, 16)
    frames_01 = [(f.permute(0, 3, 1, 2).to(part.dtype) / 255.0).to(part.device) for f in frames]
    stand_ins = contextlib.nullcontext() if part.on_card else original.cpu_stand_ins()
    with stand_ins:
        for steps in (1, 2) if part.small else (1, 4):
            params = _params(steps)
            theirs = original.build(parts, SCHEDULER, list(params.stages()), "none", part.side, dtype=part.dtype)
            theirs.prepare(BASE["prompt"], "", guidance_scale=1.0, generator=torch.Generator(), seed=2)
            turns: dict[str, Callable[[int], Any]] = {"original": lambda i, theirs=theirs: theirs(frames_01[i % 16])}
            for name, way in (("ours eager", model), ("ours graphs", fast)):
                stream = way.stream(StreamConfig(part.side, part.side))
                plan = stream.plan(params)
                turns[name] = lambda i, stream=stream, plan=plan: stream.step(frames[i % 16], i, plan)
            took: dict[str, list[float]] = {name: [] for name in turns}
            for block in range(3 if part.small else 5):
                for name, turn in turns.items():
                    for i in range(4 if part.small else 12):
                        started = time.perf_counter()
                        turn(i)
                        part.wait()
                        if block:
                            took[name].append((time.perf_counter() - started) * 1e3)
            middle = {name: statistics.median(ms) for name, ms in took.items()}
            part.note(
                f"ours and the original, {steps} steps",
                {
                    "size": part.side,
                    "ms": {n: {"p50": middle[n], "p99": percentile(ms, 99)} for n, ms in took.items()},
                    "fps": {n: 1e3 / ms for n, ms in middle.items()},
                    "ratio": middle["original"] / middle["ours graphs"],
                    "ratio_eager": middle["original"] / middle["ours eager"],
                },
            )


PARTS: dict[str, Callable[[Part], None]] = {
    "A1": a1,
    "A2": a2,
    "A3": a3,
    "A4": a4,
    "A6": a6,
    "A7": a7,
    "B2": b2,
    "B3": b3,
    "A5": a5,
}


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
    parser = Parser("bench card", description=__doc__)
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
            limit_s = min(left_s, LIMIT_S.get(name, left_s))
            status = subprocess.run(command, cwd=ROOT, timeout=limit_s, check=False).returncode
            outcome[name] = f"status {status} after {time.monotonic() - started:.1f} s"
        except subprocess.TimeoutExpired:
            outcome[name] = f"stopped after {limit_s:.0f} s; its figures up to then are kept"
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


_RING_TO_RING = (("least", 150.0), ("aim", 200.0))
"""Frames per second asked for at 512x512, one step."""

CARD_BARS: tuple[tuple[str, str, str, float, bool], ...] = (
    *(
        (f"frames per second, ring to ring, {word}", "ring to ring, overlapped graphs", "fps", limit, False)
        for word, limit in _RING_TO_RING
    ),
    ("overhead outside the stages, serial, ms", "ring to ring, serial graphs", "overhead_ms", 0.5, True),
    (
        "p99 of the latency over its median, with live changes",
        "ring to ring, overlapped graphs, a live change every 10 frames",
        "p99_to_p50",
        1.5,
        True,
    ),
    (
        "captures while values change",
        "ring to ring, overlapped graphs, a live change every 10 frames",
        "captures",
        0.0,
        True,
    ),
    (
        "frames per second over the original eager, one step",
        "ours and the original, 1 steps",
        "ratio",
        2.5,
        False,
    ),
    ("frames per second of eight channels together", "channels, 8", "fps", 300.0, False),
    ("stream batch over sequential, 4 steps", "stream batch against sequential, 4 steps", "ratio", 1.5, False),
    ("self-negative over full, 5 steps", "guidance kinds, 5 steps", "full_to_self_negative", 1.6, False),
)
"""What is asked for on a card: name, figure, where in its values, bar, whether at most."""


def judged(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The embedded model in float32 on the device against the CPU, ours against the original, and what is asked for on
    a card; of figures that were measured."""
    bars = []
    on_card: dict[str, Any] = {}
    for entry in figures:
        values = entry["values"]
        if entry["device"].startswith("cuda"):
            on_card[entry["figure"]] = values
        if entry["figure"] == "embedded float32" and "latent_largest" in values:
            name = "embedded model in float32, largest difference of latents from the CPU"
            bars.append(bar(name, values["latent_largest"], 1e-3, at_most=True))
        if entry["figure"].startswith("ours and the original") and "ratio" in values:
            bars.append(bar(f"{entry['figure']}: frames per second, ours / original", values["ratio"], 1.0))
    for name, figure, key, limit, at_most in CARD_BARS:
        value = on_card.get(figure, {}).get(key)
        if value is not None:
            bars.append(bar(name, value, limit, at_most=at_most))
    compiled = on_card.get("ring to ring, overlapped compiled graphs")
    if compiled is not None:
        bars += [
            bar(f"frames per second, ring to ring, compiled networks, {word}", compiled["fps"], limit)
            for word, limit in _RING_TO_RING
        ]
    rate = on_card.get("matrix product bfloat16")
    rows = on_card.get("unet, graphs against eager, 16 rows")
    if rate is not None and rows is not None and "tflops" in rows:
        share = rows["tflops"] / rate["tflops"]
        bars.append(bar("U-Net at 16 rows, share of the measured bfloat16 matrix rate", share, 0.4))
    return bars


if __name__ == "__main__":
    sys.exit(main())

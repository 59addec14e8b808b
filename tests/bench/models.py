"""Other people's models: how near to diffusers' pipelines, what live changes cost, and memory and time per stage.

Nearness and live changes are measured on small random models in the published layouts (`tests.tiny_pipelines`), the
latter as whoever watches the results of a host sees them; time and memory on random weights of the published sizes,
which --quick leaves out. Weights that were trained change none of these figures.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bridge.commands.arguments import Parser
from bridge.ring import Kind, RingReader, RingWriter
from tests.bench.report import bar, emit, percentile, table

NEAR = 1e-3
CHANGES, QUICK_CHANGES = 500, 150
"""Of each parameter. Fewer have no 99th percentile but their slowest."""
QUICK_LOADS = 10
"""Of parameters that load a model or make streams, in a quick run; many results come during each."""
GROWTH_MIB = 8.0
FREE_FACTOR = 1.3
"""Of a model's weights, what has to be free before one of full size is made."""

FULL_SIZE: dict[str, dict[str, Any]] = {
    "sd15": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sd21": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""The U-Nets, as their published config.json describe them."""
WEIGHTS_GIB = {"sd15": 3.5, "sd21": 3.5, "sdxl": 10.5}
"""Of U-Net and autoencoder in float32."""


def near_diffusers(folder: Path) -> dict[str, float]:
    """The largest difference of latents from diffusers' own pipeline, by what was compared."""
    from core.model import load_model
    from core.params import Params
    from core.stream import StreamConfig
    from tests import tiny_pipelines
    from tests.core import test_control as nets
    from tests.core import test_image_prompt as pictures
    from tests.core import test_lora as loras
    from tests.core.test_single_file import PREDICTION, load
    from tests.random_model import random_frames
    from tests.tiny_pipelines import PIPELINES, SIDE_PX, theirs

    frame = random_frames(1)
    far: dict[str, float] = {}
    for name, make in PIPELINES.items():
        pipeline = make()
        path = tiny_pipelines.single_file(name, pipeline, folder / name / "model.safetensors")
        model = load(path, prediction=PREDICTION.get(name))
        params = Params(prompt="a house", steps=2, strength=0.8, mode="latency", guidance="full", guidance_scale=2.0)
        ours, timesteps = loras.painted(model, params, frame)
        latent = loras.entering(pipeline, frame[0])
        far[f"{name}, single file"] = float((ours - theirs(pipeline, latent, params, timesteps)).abs().max())
        if name == "sd21":
            continue
        pipeline.save_pretrained(folder / name / "model")
        made = loras.layers(pipeline, 1)
        file = loras.saved(loras.kohya(made), folder / name / "style.safetensors")
        changed = loras.BASE.with_values(lora_1=0.7)
        ours, timesteps = loras.painted(loras.load(folder / name / "model", file), changed, frame)
        merged = loras.merged(pipeline, (made, 0.7 * loras.ALPHA / loras.RANK))
        far[f"{name}, LoRA"] = float((ours - theirs(merged, latent, changed, timesteps)).abs().max())
        net = nets.controlnet(pipeline, 31)
        net.save_pretrained(folder / name / "first")
        stream = nets.load(folder / name, ("depth", "first")).stream(StreamConfig(SIDE_PX, SIDE_PX))
        near = 1.0 / nets.depth_plane()
        picture = (near / near.max())[:, None].repeat(1, 3, 1, 1)
        steered = nets.BASE.with_values(control_1=0.8)
        ours = nets.painted(stream, steered, frame, {"depth": nets.depth_plane()})
        expected = nets.theirs(pipeline, net, latent, picture, steered, controlnet_conditioning_scale=0.8)
        far[f"{name}, ControlNet"] = float((ours - expected).abs().max())
        adapter = pictures.put(pipeline, folder / name)
        image = folder / name / "pictures" / "dawn.png"
        shown = loras.BASE.with_values(reference_scale=0.8)
        model = load_model(
            folder / name / "model", pictures.CPU, torch.float32, "eager", adapter=adapter, references=[image]
        )
        ours, timesteps = loras.painted(model, shown, frame)
        expected = pictures.expected(make(), adapter, image, 0.8, latent, shown, timesteps)
        far[f"{name}, IP-Adapter"] = float((ours - expected).abs().max())
    return far


_WORDS = ("a red ball", "a blue box", "a green house")
LIVE: dict[str, Callable[[int], Any]] = {
    "prompt": lambda i: f"{_WORDS[i % 3]} {i}",
    "negative_prompt": lambda i: f"{_WORDS[i % 3]} {i}",
    "prompt_mix": lambda i: (i % 100) / 100,
    "seed": lambda i: i,
    "seed_mix": lambda i: (i % 100) / 100,
    "guidance": lambda i: ("self-negative", "full")[i % 2],
    "guidance_scale": lambda i: 1.5 + (i % 50) / 50,
    "strength": lambda i: 0.3 + (i % 60) / 100,
    "steps": lambda i: 1 + i % 2,
    "mode": lambda i: ("latency", "throughput")[i % 2],
    "task": lambda i: ("txt2img", "img2img")[i % 2],
    "lora_1": lambda i: (i % 100) / 100,
    "control_1": lambda i: 0.1 + (i % 90) / 100,
    "control_1_end": lambda i: (0.5, 1.0)[i % 2],
    "reference": lambda i: ("dawn.png", "dusk.png")[i % 2],
    "reference_scale": lambda i: 0.1 + (i % 90) / 100,
    "feedback": lambda i: (i % 90) / 100,
    "feedback_space": lambda i: ("latent", "picture")[i % 2],
    "feedback_zoom": lambda i: 1.0 + (i % 50) / 100,
    "feedback_hue": lambda i: float(i % 90),
    "masked": lambda i: bool(i % 2),
    "upscale": lambda i: 1 + i % 2,
    "size": lambda i: ((128, 136), ())[i % 2],
    "lora_file_1": lambda i: ("another", "as started")[i % 2],
    "model": lambda i: ("another", "as started")[i % 2],
}
"""What a parameter is set to in its i-th change, each another than the one before."""
BESIDE: dict[str, dict[str, Any]] = {
    "prompt_mix": {"prompt_to": "a green house"},
    "seed_mix": {"seed_to": 5},
    "feedback_space": {"feedback": 0.5},
    "feedback_zoom": {"feedback": 0.5},
    "feedback_hue": {"feedback": 0.5},
}
"""Set meanwhile, so that a parameter acts."""
LOADS = ("size", "lora_file_1", "model")
"""Those that load a model or make streams beside the one that runs."""
STILL = 100
"""Results without a change, for the median and the 99th percentile."""
PACE_S = 0.002
"""A frame is written at least so often: there is always a newer one for the host to take."""


class Watched:
    """A host that never lacks frames, and what its results tell of it."""

    def __init__(
        self, host: Any, writer: RingWriter, reader: RingReader, planes: dict[Any, Any], pictures: Sequence[Any]
    ) -> None:
        self._host = host
        self._writer = writer
        self._reader = reader
        self._planes = planes
        self._pictures = pictures
        self._written = 0
        self._last: Any = None

    def gap_ms(self) -> float | None:
        """Between the next result and the one before it; None where one of them was not seen."""
        while True:
            if self._host.failure is not None:
                raise SystemExit(f"the host ended: {self._host.failure}")
            picture = self._pictures[self._written % len(self._pictures)]
            self._written += 1
            self._writer.write({**self._planes, Kind.COLOUR: picture}, source_frame_id=self._written)
            frame = self._reader.read(timeout_s=PACE_S)
            if frame is not None:
                break
        before, self._last = self._last, frame
        follows = before is not None and frame.sequence == before.sequence + 1
        return (frame.publish_ns - before.publish_ns) / 1e6 if follows else None

    def gaps_ms(self, results: int) -> list[float]:
        return [gap for _ in range(results) if (gap := self.gap_ms()) is not None]

    def changed(self, values: dict[str, Any]) -> list[float]:
        """The gaps from a change of the parameters until it is seen."""
        live = self._host.live
        live.update(values)
        gaps = self.gaps_ms(1)
        while self._last.param_revision < live.revision or not self._followed(values):
            gaps += self.gaps_ms(1)
        return gaps

    def _followed(self, values: dict[str, Any]) -> bool:
        """Whether what is made ready beside the frames runs, too."""
        change, planner = self._host._change, self._host.planner
        now = {**change._chosen, "size": planner.size}
        return all(now[name] == value for name, value in values.items() if name in LOADS)

    def grown_mib(self) -> float:
        """What the process has; nothing is measured while it cleans up."""
        gc.collect()
        grown = _rss_mib()
        self.gaps_ms(3)
        return grown


def live_changes(
    folder: Path, changes: int, loads: int, backend: str | None
) -> tuple[str, dict[str, dict[str, float]]]:
    """What the networks run on, and per parameter, after so many changes, or loads of models: the median time from one
    result of a host to the next, without changes, of the slower of two values, and with one change at a time, in ms,
    and by how many MiB the process grew from a fifth of the changes on."""
    import numpy as np

    from bridge.control.live import LiveParams
    from bridge.host.host import Host, HostConfig
    from core.params import Params
    from tests.core import test_control as nets
    from tests.random_model import random_frames
    from tests.tiny_pipelines import SIDE_PX

    # Left there by `near_diffusers`.
    home = folder / "sd15"
    shutil.copytree(home / "model", folder / "models" / "another")
    (folder / "loras").mkdir()
    shutil.copy(home / "style.safetensors", folder / "loras" / "another.safetensors")
    base = Params(prompt="a house", steps=2, strength=0.6, guidance="full", guidance_scale=1.5)
    channel = f"bench-models-{os.getpid()}"
    config = HostConfig(
        channel,
        home / "model",
        size=(SIDE_PX, SIDE_PX),
        loras=(home / "style.safetensors",),
        controls=(("depth", home / "first"),),
        adapter=home / "adapter.safetensors",
        references=(home / "pictures",),
        backend=backend,
        models_folder=folder / "models",
        loras_folder=folder / "loras",
        cache=folder / "cache",
    )
    host = Host(config, live=LiveParams(base))
    with RingWriter(f"{channel}.in") as writer, RingReader(f"{channel}.out") as reader:
        host.start()
        try:
            while not host.ready.wait(1.0):
                if host.failure is not None:
                    raise SystemExit(f"the host ended: {host.failure}")
            assert host.loaded is not None
            planes = {Kind.DEPTH: nets.depth_plane()[0].numpy(), Kind.MASK: np.zeros((SIDE_PX, SIDE_PX), np.uint8)}
            watched = Watched(host, writer, reader, planes, list(random_frames(8).numpy()))
            counts = {name: min(changes, loads) if name in LOADS else changes for name in LIVE}
            return host.loaded.backend_name, {
                name: _changed(watched, base, name, count) for name, count in counts.items()
            }
        finally:
            host.stop()
            host.join()


def _changed(watched: Watched, base: Any, name: str, changes: int) -> dict[str, float]:
    beside = BESIDE.get(name, {})
    watched.changed(beside)
    # A value may make every frame slower, which is no stall: the slower of the first two is what changes are held to.
    still: list[float] = []
    moving: list[float] = []
    for i in (1, 0):
        moving += watched.changed({name: LIVE[name](i)})
        watched.gaps_ms(10)
        still = max(still, watched.gaps_ms(STILL), key=lambda gaps: statistics.median(gaps or [0.0]))
    grown = 0.0
    for i in range(changes):
        if i == changes // 5:
            grown = watched.grown_mib()
        moving += watched.changed({name: LIVE[name](i + 1)})
    grown = watched.grown_mib() - grown
    watched.changed({one: getattr(base, one) for one in (name, *beside)})
    return {
        "frame_ms": statistics.median(still),
        "p99_ms": percentile(still, 99),
        "slowest_still_ms": max(still),
        "frame_while_changing_ms": statistics.median(moving),
        "p99_while_changing_ms": percentile(moving, 99),
        "slowest_while_changing_ms": max(moving),
        "changes": changes,
        "results_meanwhile": len(moving),
        "grown_mib": grown,
    }


def _rss_mib() -> float:
    """What this process has written, 0 where the system does not say it in this way. Without what it has of files:
    those pages the system takes away from who does not look at them, and gives back."""
    try:
        _, resident, of_files, *_ = map(int, Path("/proc/self/statm").read_text().split())
        return (resident - of_files) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def _free_gib() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20
    except (OSError, StopIteration):
        return None


@torch.inference_mode()
def full_size(name: str, side_px: int, calls: int) -> dict[str, Any]:
    """Milliseconds of the stages, the weights' GiB and those of this process at its peak, of random networks of the
    published size in float32. For a process of its own."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    free = _free_gib()
    if free is None or free < FREE_FACTOR * WEIGHTS_GIB[name]:
        said = "unknown" if free is None else f"{free:.1f} GiB"
        return {"left_out": f"needs {FREE_FACTOR * WEIGHTS_GIB[name]:.1f} GiB free; {said} are"}
    cells = side_px // 8
    parts = {
        "unet": lambda: UNet2DConditionModel(sample_size=cells, layers_per_block=2, **FULL_SIZE[name]),
        "vae": lambda: AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        ),
    }
    networks: dict[str, Any] = {}
    for part, make in parts.items():
        # As fast as it can be: what is in the weights takes no part in how long a call is.
        with torch.device("meta"):
            network = make()
        networks[part] = network.to_empty(device="cpu").eval()
        for weight in networks[part].parameters():
            weight.normal_(0.0, 0.02)
    unet, vae = networks["unet"], networks["vae"]
    text = torch.randn(1, 77, FULL_SIZE[name]["cross_attention_dim"])
    added = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.zeros(1, 6)} if name == "sdxl" else None
    x, picture = torch.randn(1, 4, cells, cells), torch.randn(1, 3, side_px, side_px)
    stages: dict[str, Callable[[], Any]] = {
        "encode": lambda: vae.encode(picture, return_dict=False),
        "unet": lambda: unet(x, torch.tensor([499]), text, added_cond_kwargs=added, return_dict=False),
        "decode": lambda: vae.decode(x, return_dict=False),
    }
    result: dict[str, Any] = {
        "side_px": side_px,
        "weights_gib": sum(w.numel() * 4 for net in networks.values() for w in net.parameters()) / 2**30,
    }
    for stage, call in stages.items():
        took = []
        for _ in range(calls):
            began = time.perf_counter()
            call()
            took.append((time.perf_counter() - began) * 1e3)
        result[f"{stage}_ms"] = min(took)
    return {**result, "peak_gib": _peak_gib()}


def _peak_gib() -> float | None:
    """The most memory that this process has had; None where the system does not say it in this way."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    except (OSError, StopIteration):
        return None


def full_sizes(side_px: int) -> dict[str, dict[str, Any]]:
    """By family; those that there is no memory for say so."""
    found = {}
    for name in FULL_SIZE:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            found[name] = figures = alone.submit(full_size, name, side_px, 2).result()
        print(name, figures.get("left_out") or {key: value and round(value, 1) for key, value in figures.items()})
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure; 0 whatever the bars say."""
    parser = Parser("bench models", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer changes, no networks of full size")
    parser.add_argument("--full-size", action="store_true", help="networks of full size alone")
    parser.add_argument("--size", type=int, default=512, help="side in pixels of the full-size runs (default 512)")
    parser.add_argument("--backend", help="of the live changes (default: what a host takes, the fastest)")
    args = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.simplefilter("ignore")
    if args.full_size:
        emit("models_full", {"torch_threads": torch.get_num_threads(), "full_size": full_sizes(args.size)}, [])
        return 0
    changes = QUICK_CHANGES if args.quick else CHANGES
    with tempfile.TemporaryDirectory() as folder:
        far = near_diffusers(Path(folder))
        table(
            ("against diffusers' pipeline", "largest difference"),
            [(name, f"{value:.1e}") for name, value in far.items()],
        )
        backend, live = live_changes(Path(folder), changes, QUICK_LOADS if args.quick else changes, args.backend)
    rows = [
        (
            name,
            f["frame_ms"],
            f["frame_while_changing_ms"],
            f["p99_while_changing_ms"],
            f["slowest_while_changing_ms"],
            f["grown_mib"],
        )
        for name, f in live.items()
    ]
    table(("changed live", "frame ms", "while changing", "p99", "slowest", "grown MiB"), rows)
    sizes = {} if args.quick else full_sizes(args.size)
    bars = [bar(f"difference from diffusers: {name}", value, NEAR, at_most=True) for name, value in far.items()]
    linux = platform.system() == "Linux"
    for name, figures in live.items():
        # Beyond what the slowest hundredth of the results of the undisturbed stream takes.
        stall = (figures["p99_while_changing_ms"] - figures["p99_ms"]) / figures["frame_ms"]
        bars.append(bar(f"{name}: frames that a change holds the stream up, p99", stall, 1.0, at_most=True))
        grown = figures["grown_mib"] if linux else None
        bars.append(bar(f"{name}: MiB grown over {figures['changes']} changes", grown, GROWTH_MIB, at_most=True))
    emit("models", {"far": far, "backend": backend, "live": live, "changes": changes, "full_size": sizes}, bars)
    return 0


if __name__ == "__main__":
    sys.exit(main())

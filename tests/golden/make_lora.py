"""Makes tests/golden/lora.safetensors: what diffusers' own adapters paint. Needs peft, which nothing else does:
python -m pip install peft, then python -m tests.golden.make_lora."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import save_file

from core.stream import StreamConfig
from tests.core.test_lora import BASE, GOLDEN, entering, golden_loras, load, saved
from tests.random_model import random_frames
from tests.tiny_pipelines import PIPELINES, SIDE_PX, theirs

WEIGHTS = ((0.0, 0.0), (0.7, 0.0), (0.5, 1.2), (-0.4, 0.3))


def main() -> None:
    """Load the LoRAs by diffusers, set their weights by `set_adapters`, and keep what its pipeline paints."""
    pipeline = PIPELINES["sd15"]()
    painted = {}
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(Path(folder) / "model")
        stream = load(Path(folder) / "model").stream(StreamConfig(SIDE_PX, SIDE_PX))
        timesteps = [int(one.t_R[0]) for one in stream.plan(BASE).passes]
        latent = entering(pipeline, random_frames(1)[0])
        loras = golden_loras(pipeline)
        for name, weights in loras.items():
            pipeline.load_lora_weights(saved(weights, Path(folder) / f"{name}.safetensors"), adapter_name=name)
        for one, two in WEIGHTS:
            pipeline.set_adapters(list(loras), [one, two])
            painted[f"{one} {two}"] = theirs(pipeline, latent, BASE, timesteps).contiguous()
    save_file(painted, GOLDEN)


if __name__ == "__main__":
    main()

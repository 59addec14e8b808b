"""Make the golden files: what the original StreamDiffusion 0.1.1 returns for fixed weights, noise and frames.

    pip install --no-deps --target ORIGINAL streamdiffusion==0.1.1
    python -m tests.golden.make_golden ORIGINAL

One .npz per guidance kind and step count, with the clean latents that leave the stream after each frame and the noise
that the original drew. The original's one-step self-negative guidance never sets its stock noise (it stays at zero for
the first frame and then mixes the previous frame's error in); the paper's value, the frame's own noise, is given to it
before every call, as its own code does for two steps and more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from tests import original
from tests.random_model import SCHEDULER, SIZE_PX, random_frames, random_parts

FOLDER = Path(__file__).parent
FRAMES = 8
PROMPT, NEGATIVE = "red ball, neon", "grey, flat"
SCALE, DELTA, SEED = 1.6, 0.8, 2
STEPS = {1: [18], 2: [18, 34], 4: [18, 26, 34, 42]}


def run_original(guidance: str, stages: list[int]) -> dict[str, np.ndarray]:
    """Feed the frames and keep every clean latent that reaches the decoder."""
    parts = random_parts()
    stream = original.build(parts, SCHEDULER, stages, guidance, SIZE_PX)
    stream.prepare(PROMPT, NEGATIVE, guidance_scale=SCALE, delta=DELTA, generator=torch.Generator(), seed=SEED)
    latents = []
    decode = stream.decode_image

    def keep(latent: torch.Tensor) -> torch.Tensor:
        latents.append(latent.clone())
        return decode(latent)

    stream.decode_image = keep
    for frame_HWC in random_frames(FRAMES):
        if len(stages) == 1:
            stream.stock_noise = stream.init_noise.clone()
        stream(frame_HWC.permute(2, 0, 1)[None].float() / 255.0)
    return {"latents": torch.cat(latents).numpy(), "noise": stream.init_noise.numpy()}


def main(folder: str) -> None:
    if not original.installed(folder):
        raise SystemExit(f"{folder} holds no streamdiffusion package; see the head of this file")
    weights = torch.cat([p.flatten() for part in random_parts()[:3] for p in part.parameters()])
    with original.cpu_stand_ins():
        for guidance in original.KINDS:
            for count, stages in STEPS.items():
                arrays = run_original(guidance, stages)
                np.savez_compressed(
                    FOLDER / f"{guidance}-{count}.npz", **arrays, weights=weights.double().abs().sum().numpy()
                )
                print(guidance, count, float(arrays["latents"].std()))


if __name__ == "__main__":
    main(sys.argv[1])

"""The original StreamDiffusion 0.1.1 class, unmodified, made to run on a CPU.

Used by the golden generator and, where the package is at hand, by `frameloom bench stream`. Stubbed: the CUDA timing
events and the synchronisation in `__call__`, which have no CPU counterpart; nothing else.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

KINDS = {"none": "none", "full": "full", "onetime-negative": "initialize", "self-negative": "self"}


class _Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: _Event) -> float:
        return (other.at - self.at) * 1e3


@contextmanager
def cpu_stand_ins() -> Any:
    """While open, torch.cuda's events and synchronize do nothing but read the clock."""
    with mock.patch("torch.cuda.Event", _Event), mock.patch("torch.cuda.synchronize", lambda *a: None):
        yield


def installed(folder: str | None = None) -> bool:
    """True when the original can be imported; `folder` is a pip --target folder that holds it."""
    if folder and folder not in sys.path:
        sys.path.append(folder)
    return importlib.util.find_spec("streamdiffusion") is not None


def build(
    parts: tuple[Any, Any, Any, Any],
    scheduler_config: dict[str, Any],
    t_index: list[int],
    guidance: str,
    size: int,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Any:
    """A StreamDiffusion object around (unet, vae, text encoder, tokenizer) of a dtype."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from streamdiffusion.pipeline import StreamDiffusion

    unet, vae, encoder, tokenizer = parts
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler.from_config(scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return StreamDiffusion(
        pipe, t_index, torch_dtype=dtype, width=size, height=size, cfg_type=KINDS[guidance], **options
    )

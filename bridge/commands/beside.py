"""Steady pictures beside single ones: the demo's sheet with the same frames painted by themselves.

Importing it is cheap; painting needs the model that the demo has loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bridge.commands.contact_sheet import Array, Pair
from core.params import Params

STRETCH = 4
"""Changes are shown so many times as large."""
ROWS = f"From above: input, single frames, {{temporal}}; what changed since the picture before, x{STRETCH}, in both."


def beside(model: Any, params: Params, pairs: Sequence[Pair], before: Sequence[Pair]) -> list[Pair]:
    """Each pair with more pictures below its input: the same frame painted with `temporal` off, as it was painted with
    it, and how much either differs from the picture before. model: `bridge.host.loading.Loaded.model`. before: the
    pairs of frames before, one each; both are labelled with their prompts."""
    if not pairs:
        return []
    import torch

    from core.stream import StreamConfig

    height, width = pairs[0].output.shape[:2]
    made = []
    for pair, earlier in zip(pairs, before, strict=True):
        stream = model.stream(StreamConfig(width, height))
        alone = params.with_values(temporal="off", mode="latency", paused=False, prompt=pair.label)
        plan = stream.plan(alone)
        single = []
        for one in (earlier, pair):
            picture = stream.step(torch.from_numpy(np.ascontiguousarray(one.input))[None], None, plan)
            single.append(picture.on_host().frame_FHWC[0].numpy())
        steady = [earlier.output, pair.output]
        made.append(replace(pair, output=single[1], more=(pair.output, _change(*single), _change(*steady))))
    return made


def _change(before: Array, now: Array) -> Array:
    """uint8 (H, W, 3), grey: mean absolute difference of the colours, stretched."""
    apart = np.abs(now[..., :3].astype(np.float32) - before[..., :3]).mean(-1, keepdims=True) * STRETCH
    return np.repeat(apart.clip(0, 255).astype(np.uint8), 3, axis=-1)

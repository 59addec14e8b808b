"""Finished pictures made larger on the device: bicubic, then a light unsharp mask against the blur of it.

Shapes: F frames, H W pixels.
"""

from __future__ import annotations

import torch.nn.functional as nnf
from torch import Tensor

SHARPEN = 0.3
"""Of what a blur over three pixels would take away, this share is added."""


def enlarged(levels_F3HW: Tensor, times: int) -> Tensor:
    """Levels (F, 3, times H, times W); as they are for 1."""
    if times == 1:
        return levels_F3HW
    height, width = levels_F3HW.shape[-2:]
    # Without antialias torch takes another cubic, which makes stairs of slopes.
    large = nnf.interpolate(levels_F3HW, (times * height, times * width), mode="bicubic", antialias=True)
    blurred = nnf.avg_pool2d(nnf.pad(large, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return large + SHARPEN * (large - blurred)

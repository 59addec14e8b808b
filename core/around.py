"""The values around each: means and extremes over a few pixels, on a processor by OpenCV, elsewhere by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.opencv import opencv


def around(x_FcHW: Tensor, reach: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The float32 values up to `reach` (1 or 2) away in each direction, combined by `torch.minimum`, `torch.maximum` or
    `torch.add`; beyond the margin its values go on."""
    return _by_opencv(x_FcHW, reach, combine) if x_FcHW.device.type == "cpu" else by_steps(x_FcHW, reach, combine)


def _by_opencv(x_FcHW: Tensor, reach: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Of three planes of 128 x 128, 5 x 5: 0.03 ms for 0.07 ms by steps."""
    cv2 = opencv()
    side = 2 * reach + 1
    out = torch.empty_like(x_FcHW, memory_format=torch.contiguous_format)
    planes, results = (x.flatten(0, 1).numpy() for x in (x_FcHW.contiguous(), out))
    extremes: dict[Any, Any] = {torch.minimum: cv2.erode, torch.maximum: cv2.dilate}
    extreme = extremes.get(combine)
    if extreme is None:
        for plane, result in zip(planes, results, strict=True):
            cv2.boxFilter(plane, -1, (side, side), result, normalize=False, borderType=cv2.BORDER_REPLICATE)
    else:
        # What lies beyond the margin is left out, which is the same.
        square = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
        for plane, result in zip(planes, results, strict=True):
            extreme(plane, square, result)
    return out


def by_steps(x_FcHW: Tensor, reach: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The plain twin of `around`. Two or three steps a direction; torch's own pooling takes up to twenty times as long
    on a processor."""
    for dim in (-1, -2):
        x = nnf.pad(x_FcHW, (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach), mode="replicate")
        count = x_FcHW.shape[dim]
        some = combine(x.narrow(dim, 0, count + 2 * reach - 1), x.narrow(dim, 1, count + 2 * reach - 1))
        if reach == 2:
            some = combine(some.narrow(dim, 0, count + 1), some.narrow(dim, 2, count + 1))
        x_FcHW = combine(some.narrow(dim, 0, count), x.narrow(dim, 2 * reach, count))
    return x_FcHW

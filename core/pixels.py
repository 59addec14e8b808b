"""Whatever pixels a client writes, as the 8-bit RGB that the stream takes.

Rows from the top, values display-referred (sRGB). NaN counts as 0, values beyond the range are clipped.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class PixelError(ValueError):
    """Pixels that are no picture; the message names what would be one."""


def to_rgb8(
    pixels_HWC: NDArray[Any], *, blue_first: bool = False, from_bottom: bool = False, linear: bool = False
) -> NDArray[Any]:
    """uint8 (H, W, 3 or 4), RGB first, of uint8, float16 or float32 pixels of shape (H, W) or (H, W, 1, 3 or 4).

    blue_first: the input is BGR(A). from_bottom: row 0 is the bottom one. linear: the values are linear light.
    Pixels that are already right are returned as they are, without a copy. Raises `PixelError`.
    """
    if pixels_HWC.ndim == 2:
        pixels_HWC = pixels_HWC[:, :, None]
    if pixels_HWC.ndim != 3 or pixels_HWC.shape[2] not in (1, 3, 4) or 0 in pixels_HWC.shape:
        raise PixelError(f"a picture of shape {pixels_HWC.shape} cannot be used; send (height, width, 1, 3 or 4)")
    if from_bottom:
        pixels_HWC = pixels_HWC[::-1]
    if pixels_HWC.dtype.kind == "f":
        values = np.nan_to_num(pixels_HWC[..., :3].astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
        pixels_HWC = np.rint((_to_srgb(values) if linear else values) * 255.0).astype(np.uint8)
    elif pixels_HWC.dtype != np.uint8:
        raise PixelError(f"pixels of type {pixels_HWC.dtype} cannot be used; send uint8, float16 or float32")
    elif linear:
        table = np.rint(_to_srgb(np.arange(256) / 255.0) * 255.0).astype(np.uint8)
        pixels_HWC = table[pixels_HWC[..., :3]]
    if pixels_HWC.shape[2] == 1:
        pixels_HWC = np.repeat(pixels_HWC, 3, axis=2)
    if blue_first:
        # Channel by channel: numpy copies a reversed last axis one pixel at a time, five times as slowly.
        red_first = np.empty((*pixels_HWC.shape[:2], 3), np.uint8)
        for channel in range(3):
            red_first[..., channel] = pixels_HWC[..., 2 - channel]
        return red_first
    return np.ascontiguousarray(pixels_HWC)


def _to_srgb(values: NDArray[Any]) -> NDArray[Any]:
    """sRGB of linear light, both 0..1 (IEC 61966-2-1)."""
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def as_tensor(pixels_HWC: NDArray[Any]) -> torch.Tensor:
    """Pixels (uint8, C-contiguous, any shape) as a tensor on the same memory, which is only ever read."""
    if pixels_HWC.flags.writeable:
        return torch.from_numpy(pixels_HWC)
    # torch has no read-only tensors and warns of views of a ring's slot. The memory goes by its address instead; the
    # tensor must not outlive the view, which holds for everything that the frame path does with it.
    address = pixels_HWC.__array_interface__["data"][0]
    lasting = np.frombuffer(memoryview((ctypes.c_uint8 * pixels_HWC.nbytes).from_address(address)), np.uint8)
    return torch.from_numpy(lasting.reshape(pixels_HWC.shape))

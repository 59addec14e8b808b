"""Memory that a client wrote as tensors that the stream reads."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class PixelError(ValueError):
    """Pixels that are no picture; the message names what would be one."""


def as_tensor(pixels_HWC: NDArray[Any]) -> torch.Tensor:
    """Pixels (uint8, C-contiguous, any shape) as a tensor on the same memory, which is only ever read."""
    if pixels_HWC.flags.writeable:
        return torch.from_numpy(pixels_HWC)
    # torch has no read-only tensors and warns of views of a ring's slot. The memory goes by its address instead; the
    # tensor must not outlive the view, which holds for everything that the frame path does with it.
    address = pixels_HWC.__array_interface__["data"][0]
    lasting = np.frombuffer(memoryview((ctypes.c_uint8 * pixels_HWC.nbytes).from_address(address)), np.uint8)
    return torch.from_numpy(lasting.reshape(pixels_HWC.shape))

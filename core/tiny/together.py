"""Processes that train one model together, on several cards or machines: each takes its rows of every batch, and their
gradients are averaged. The sum is that of one process with the whole batch, but for rounding.

`accelerate launch --num_processes 2 -m bridge train ...` (or torchrun) starts them; accelerate (`pip install
accelerate`) connects them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from core.device import DeviceError


class Alone:
    """One process: the plain twin. rank, count: which of how many. device: that of this process, or None for any."""

    rank, count = 0, 1
    device: torch.device | None = None

    def rows(self, value_B: Tensor) -> Tensor:
        """This process's rows of a batch, as many as every other's. Raises `DeviceError` where that cannot be."""
        if len(value_B) % self.count:
            raise DeviceError(f"{len(value_B)} rows cannot be shared by {self.count} processes; take a multiple")
        return value_B[self.rank :: self.count]

    def average(self, values: Sequence[Tensor]) -> None:
        """Replace each by its mean over all processes."""

    def wait(self) -> None:
        """Until all processes are here."""


class Several(Alone):
    """See the module. on_processors: use no card."""

    def __init__(self, on_processors: bool) -> None:
        from accelerate import PartialState

        self._state = PartialState(cpu=on_processors)
        self.rank, self.count = self._state.process_index, self._state.num_processes
        self.device = self._state.device

    def average(self, values: Sequence[Tensor]) -> None:
        """In one message, in float32."""
        from accelerate.utils import reduce

        device = self.device or torch.device("cpu")
        joined = torch.cat([value.detach().reshape(-1).to(device, torch.float32) for value in values])
        parts = reduce(joined, "mean").split([value.numel() for value in values])
        for value, part in zip(values, parts, strict=True):
            value.detach().copy_(part.view_as(value))

    def wait(self) -> None:
        """See `Alone.wait`."""
        self._state.wait_for_everyone()


def found(on_processors: bool) -> Alone:
    """The others that this process was started with, if any. Raises `DeviceError` where accelerate is missing."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Alone()
    try:
        return Several(on_processors)
    except ImportError as error:
        raise DeviceError(f"to train in several processes: pip install accelerate ({error})") from error

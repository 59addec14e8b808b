"""Low-rank adaptation (LoRA, arXiv 2106.09685) of every linear and convolutional layer of a module: the weights stay
as they are, a product of two thin matrices is learnt beside each and added to it in the end.

What comes out is a module of the same layers as before, so whatever loads the one loads the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class _Beside(nn.Module):
    """W + B A. B starts at 0, so that nothing changes at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out, into = weight.shape[0], weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, into, device=weight.device) / into**0.5)
        self.up = nn.Parameter(torch.zeros(out, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def _layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


def adapted(module: nn.Module, rank: int) -> None:
    """Freeze the module and learn matrices of `rank` beside its layers from now on."""
    if rank < 1:
        raise ValueError(f"rank {rank}: use at least 1")
    module.requires_grad_(False)
    for layer in _layers(module):
        weight: Tensor = layer.weight  # type: ignore[assignment]
        parametrize.register_parametrization(layer, "weight", _Beside(weight, min(rank, weight.shape[0])))


def merged(module: nn.Module) -> None:
    """Add what was learnt to the weights; the layers are plain again."""
    for layer in _layers(module):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)

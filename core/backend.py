"""Ways to run the networks, one table: as they are, with weights laid out for the processor, or compiled.

A back end changes a loaded network in place, before its first call; all of them compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class BackendError(ValueError):
    """A back end that cannot be had here; the message names those that can."""


class _PackedConv(nn.Module):
    """A convolution whose weights are kept in oneDNN's own layout, so that no call has to reorder them."""

    def __init__(self, conv: nn.Conv2d, activation: str) -> None:
        super().__init__()
        padding, stride, dilation = list(conv.padding), list(conv.stride), list(conv.dilation)
        self._geometry = (padding, stride, dilation, conv.groups)
        dense = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(dense, *self._geometry, None)
        self._bias = None if conv.bias is None else conv.bias.detach()
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, *self._geometry, self._activation, [], ""
        )


class _PackedLinear(nn.Module):
    """A linear layer whose weights are kept in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


def _packed(network: nn.Module) -> None:
    for name, child in list(network.named_children()):
        if type(child) is nn.Conv2d:
            setattr(network, name, _PackedConv(child, "none"))
        elif type(child) is nn.Linear and child.weight.dtype == torch.bfloat16:
            # In float32 the plain layer is as fast: its matrix product reads the weights as they are.
            setattr(network, name, _PackedLinear(child))
        else:
            _packed(child)
    if isinstance(network, nn.Sequential):
        _fuse_relu(network)


def _fuse_relu(layers: nn.Sequential) -> None:
    """Let a packed convolution apply the ReLU behind it while its result is still in the cache."""
    for i in range(len(layers) - 1):
        first, second = layers[i], layers[i + 1]
        if isinstance(first, _PackedConv) and type(second) is nn.ReLU:
            first._activation = "relu"
            layers[i + 1] = nn.Identity()


def _compiled(network: nn.Module) -> None:
    network.compile()


def _eager(network: nn.Module) -> None:
    pass


Backend = Callable[[nn.Module], None]
BACKENDS: Mapping[str, Backend] = {"eager": _eager, "packed": _packed, "compiled": _compiled}


def pick_backend(device: torch.device, name: str | None = None) -> str:
    """The back end called `name`, or for None or "auto" the fastest that needs no compiler.

    Raises `BackendError` when it is unknown or does not suit the device.
    """
    packs = device.type == "cpu" and torch.backends.mkldnn.is_available()
    if name is None or name == "auto":
        return "packed" if packs else "eager"
    here = [b for b in BACKENDS if b != "packed" or packs]
    if name not in here:
        raise BackendError(f"back end {name!r} cannot be had on {device.type}; use one of auto, {', '.join(here)}")
    return name

"""Ways to run the networks, one table: as they are, with weights laid out for the processor, recorded, or compiled.

A back end prepares a loaded network in place, before its first call, and may record a call of it; all of them compute
the same.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


class BackendError(ValueError):
    """A back end that cannot be had here; the message names those that can."""


# The same two operators in TorchScript: recording them from Python fails on their empty list of scalars.
_SCRIPT = """
def convolution(x: Tensor, weight: Tensor, bias: Optional[Tensor], padding: List[int], stride: List[int],
                dilation: List[int], groups: int, activation: str) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, activation, [], "")

def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
"""


@functools.cache
def _script() -> Any:
    return torch.jit.CompilationUnit(_SCRIPT)


class _PackedConv(nn.Module):
    """A convolution whose weights are kept in oneDNN's own layout, so that no call has to reorder them."""

    def __init__(self, conv: nn.Conv2d, activation: str) -> None:
        super().__init__()
        padding, stride, dilation = list(conv.padding), list(conv.stride), list(conv.dilation)
        self._geometry = (padding, stride, dilation, conv.groups)
        dense = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        weight = torch.ops.mkldnn._reorder_convolution_weight(dense, *self._geometry, None)
        self.register_buffer("_weight", weight, persistent=False)
        self.register_buffer("_bias", None if conv.bias is None else conv.bias.detach(), persistent=False)
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return _script().convolution(x, self._weight, self._bias, *self._geometry, self._activation)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, *self._geometry, self._activation, [], ""
        )


class _PackedLinear(nn.Module):
    """A linear layer whose weights are kept in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.register_buffer("_weight", weight, persistent=False)
        self.register_buffer("_bias", None if linear.bias is None else linear.bias.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return _script().linear(x, self._weight, self._bias)
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


def _packed_where_possible(network: nn.Module) -> None:
    if torch.backends.mkldnn.is_available():
        _packed(network)


def _compiled(network: nn.Module) -> None:
    network.compile()


def _untouched(network: nn.Module) -> None:
    pass


Call = Callable[..., Tensor]
RECORDS = sys.version_info < (3, 14)
"""From Python 3.14 on torch says that its recorder may break."""


def _as_it_is(network: nn.Module, example: tuple[Any, ...]) -> Call:
    return network


def _traced(network: nn.Module, example: tuple[Any, ...]) -> Call:
    """The call as a TorchScript graph: no Python, hence no wait for the interpreter's lock, between two operations.

    A stage of the host that holds the lock for a few microseconds per operation stalls the other two just as often;
    recorded, a call takes the lock once. Sizes that follow from the inputs stay free: one recording serves any number
    of rows.
    """
    with torch.no_grad(), warnings.catch_warnings():
        example = tree_map(torch.clone, example)  # what was made in inference mode cannot be recorded
        # Deprecated for compilers; those want a C++ compiler on the user's machine and minutes. torch is pinned.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(network, example, check_trace=False)


@dataclass(frozen=True)
class Backend:
    """prepare: changes a loaded network in place. record: a faster form of calling a module with arguments like the
    example's, in set-up; of the same device, dtype, height and width, and any number of rows."""

    prepare: Callable[[nn.Module], None] = _untouched
    record: Callable[[nn.Module, tuple[Any, ...]], Call] = _as_it_is


BACKENDS: Mapping[str, Backend] = {
    "eager": Backend(),
    "packed": Backend(_packed),
    "traced": Backend(_packed_where_possible, _traced),
    "compiled": Backend(_compiled),
}


def pick_backend(device: torch.device, name: str | None = None) -> str:
    """The back end called `name`, or for None or "auto" the fastest that needs no compiler.

    Raises `BackendError` when it is unknown or does not suit the device.
    """
    on_cpu = device.type == "cpu"
    cannot = set() if on_cpu else {"packed", "traced"}
    if not torch.backends.mkldnn.is_available():
        cannot.add("packed")
    if not RECORDS:
        cannot.add("traced")
    here = [b for b in BACKENDS if b not in cannot]
    if name is None or name == "auto":
        return next(b for b in ("traced", "packed", "eager") if b in here)
    if name not in here:
        raise BackendError(f"back end {name!r} cannot be had on {device.type}; use one of auto, {', '.join(here)}")
    return name

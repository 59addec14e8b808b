"""Ways to run the networks, one table: as they are, captured as CUDA graphs, compiled by torch, or by OpenVINO.

A back end turns a network into a `Call`. Which dtype it computes in, how it lays out memory and how many threads it
takes is its own business; all of them compute the same, and "eager" is the plain twin of the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from core.cuda_graphs import CapturedCall, CudaGraphs, repeated
from core.device import DTYPES, dtype_name, memory_format, native_dtypes


class BackendError(ValueError):
    """A back end or dtype that is not available here; the message names those that are."""


class Call(Protocol):
    """A network that takes trees of float32 tensors of R rows each and gives a float32 tensor of R rows, or a tree of
    them, whichever the network itself does."""

    def __call__(self, x_R: Tensor, *others: Any) -> Any:
        """What was given among `others` is not written to afterwards: other values come as other tensors, and a tree
        that comes again stands for the same values."""

    def prepare(self, rows: int) -> None:
        """Set-up verb: make ready for calls of so many rows. Harmless when that was done before."""


@dataclass(frozen=True)
class Locks:
    """What keeps threads apart that use one model; where there is one thread alone, nothing.

    call: makes one for each network. preparing: the one for all networks of the process, as torch marks its random
    generator as captured for all threads.
    """

    call: Callable[[], AbstractContextManager[Any]] = nullcontext
    preparing: AbstractContextManager[Any] = field(default_factory=nullcontext)


Elsewhere = Callable[[Any, Any, Path], bool]


@dataclass(frozen=True)
class Execution:
    """How networks are run.

    backend: key of `BACKENDS`. dtype: what it computes in. threads: CPU threads of one call; None leaves it to the
    library. many_rows: an engine's calls of so many rows or more leave it to the library all the same; None: no call.
    locks: of calls whose memory threads would share. store: a folder where converted networks are kept for the next
    start, or None. elsewhere: converts (network, example) into a folder of the store without being in anybody's way;
    False where it does not, and whoever asks does it. shared: makes of a call what several threads call in its place;
    None where one thread alone calls.
    """

    device: torch.device
    backend: str
    dtype: torch.dtype
    threads: int | None = None
    store: Path | None = None
    many_rows: int | None = None
    elsewhere: Elsewhere | None = field(default=None, compare=False)
    locks: Locks = field(default_factory=Locks, compare=False)
    shared: Callable[[Call], Call] | None = field(default=None, compare=False)

    @property
    def weights_dtype(self) -> torch.dtype:
        """The dtype that the torch weights have to be in."""
        return torch.float32 if BACKENDS[self.backend].engine else self.dtype

    def torch_threads(self, everything: int) -> int:
        """CPU threads that torch's own operations should take; `everything` is what it takes untold. Beside an engine
        one is enough for the little that is left, and a second would spin on a core that the engine needs."""
        return 1 if BACKENDS[self.backend].engine else self.threads or everything


class _Torch:
    """A network called by torch, with its input in the dtype and the layout that suit the device."""

    def __init__(self, network: Callable[..., Any], example: tuple[Any, ...], execution: Execution) -> None:
        self._network = network
        self._example = example
        self._dtype = execution.dtype
        self._format = memory_format(execution.device)
        # A library that looks for its fastest algorithm does so in the first call of a shape.
        self._warms_up = execution.device.type == "cuda"
        self._prepared: set[int] = set()

    def __call__(self, x_R: Tensor, *others: Any) -> Any:
        return tree_map(lambda out: out.to(torch.float32), self._network(self.like(x_R), *others))

    def like(self, x_R: Tensor) -> Tensor:
        """An input as the network reads it."""
        x = x_R.to(self._dtype)
        return x.contiguous(memory_format=self._format) if x.dim() == 4 else x

    @torch.inference_mode()
    def prepare(self, rows: int) -> None:
        if self._warms_up and rows not in self._prepared:
            self(*repeated(self._example, rows))
            self._prepared.add(rows)


class _Compiled(_Torch):
    """The same through torch.compile, which compiles anew, for tens of seconds, for another number of rows."""

    def __init__(self, network: nn.Module, example: tuple[Any, ...], execution: Execution) -> None:
        super().__init__(_compiled(network, execution), example, execution)
        self._warms_up = True


def _compiled(network: nn.Module, execution: Execution) -> Callable[..., Any]:
    # On a card for each number of rows alone: a call with a dynamic one cannot be captured as it is.
    if execution.device.type == "cuda":
        return torch.compile(network, dynamic=False)
    # Otherwise it would be compiled for as many threads as torch has in the thread that happens to compile it.
    return torch.compile(network, options=None if execution.threads is None else {"cpp.threads": execution.threads})


def _graphs(network: nn.Module, example: tuple[Any, ...], execution: Execution) -> Call:
    plain = _Torch(network, example, execution)
    return _captured(network, plain, example, execution)


def _compiled_graphs(network: nn.Module, example: tuple[Any, ...], execution: Execution) -> Call:
    # What is not captured runs eagerly: to compile in the frame path would be far slower.
    plain = _Torch(network, example, execution)
    return _captured(_compiled(network, execution), plain, example, execution)


def _captured(network: Callable[..., Any], plain: _Torch, example: tuple[Any, ...], execution: Execution) -> Call:
    graphs = CudaGraphs(execution.device, execution.locks.call())
    return CapturedCall(network, plain, example, plain.like, graphs, execution.locks.preparing)


def _as_it_is(
    network: nn.Module, example: tuple[Any, ...], store: Path | None, elsewhere: Elsewhere | None = None
) -> nn.Module:
    return network


def on_cards(device: torch.device) -> tuple[torch.dtype, ...]:
    return native_dtypes(device) if device.type == "cuda" else ()


@dataclass(frozen=True)
class Backend:
    """One way to run networks.

    call: makes the `Call` of what `convert` gave. convert: (network, example, store, elsewhere) to whatever can be
    shared by all executions with the same weights; the arguments of calls look like the example's, of the same height
    and width, but for the number of rows. dtypes: what it computes in on a device without detours, the likely fastest
    first; empty where it is not available. engine: it works outside torch: is given float32 weights whatever it
    computes in, and has threads of its own. measured: cheap enough to be tried by whoever looks for the fastest. plain:
    the back end that runs the same weights at once, where this one takes tens of seconds to be ready.
    """

    call: Callable[[Any, tuple[Any, ...], Execution], Call]
    convert: Callable[..., Any] = _as_it_is
    dtypes: Callable[[torch.device], tuple[torch.dtype, ...]] = native_dtypes
    engine: bool = False
    measured: bool = True
    plain: str | None = None


def in_file(module: str, **about: Any) -> Backend:
    """A back end with a file of its own, imported when it is first asked for, whose functions `call`, `convert` and
    `dtypes` are those of a `Backend`. about: the rest of it."""

    def late(name: str) -> Callable[..., Any]:
        return lambda *arguments: getattr(importlib.import_module(module), name)(*arguments)

    return Backend(late("call"), late("convert"), late("dtypes"), **about)


BACKENDS: Mapping[str, Backend] = {
    "openvino": in_file("core.backends.openvino", engine=True),
    "graphs": Backend(_graphs, dtypes=on_cards),
    "eager": Backend(_Torch),
    "compiled": Backend(_Compiled, measured=False, plain="eager"),
    "compiled+graphs": Backend(_compiled_graphs, dtypes=on_cards, measured=False, plain="graphs"),
}
"""The likely fastest first."""


def executions(
    device: torch.device,
    backend: str | None = None,
    dtype: torch.dtype | None = None,
    *,
    threads: int | None = None,
    store: Path | None = None,
    elsewhere: Elsewhere | None = None,
) -> list[Execution]:
    """Everything that can run here and is as asked for, the likely fastest first; never empty.

    backend: key of `BACKENDS`; None or "auto" stands for all that are cheap to try. dtype: None stands for all that
    the device multiplies in hardware. Raises `BackendError` when nothing is left.
    """
    here = {name: dtypes for name, entry in BACKENDS.items() if (dtypes := entry.dtypes(device))}
    any_backend = backend is None or backend == "auto"
    if not any_backend and backend not in here:
        raise BackendError(
            f"back end {backend!r} is not available on {device.type}; use one of auto, {', '.join(here)}"
        )
    names = [name for name in here if (BACKENDS[name].measured if any_backend else name == backend)]
    known = [d for d in DTYPES.values() if any(d in here[name] for name in names)]
    if dtype is not None and dtype not in known:
        raise BackendError(
            f"dtype {dtype_name(dtype)} cannot be computed in hardware by this {device.type} (back end"
            f" {', '.join(names)}); use one of auto, {', '.join(map(dtype_name, known))}"
        )
    order = dict.fromkeys(d for name in names for d in here[name])
    return [
        Execution(device, name, d, threads, store, elsewhere=elsewhere)
        for d in order
        for name in names
        if d in here[name] and dtype in (None, d)
    ]

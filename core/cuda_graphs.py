"""A network's calls on a CUDA card, captured once per number of rows and replayed.

A U-Net of SD-Turbo's shape is some 1,250 kernels, which torch takes longer to start than a card to run; a replayed
graph starts them all at once. What is captured reads and writes memory that stays where it is, so a call is three
steps on the current stream: inputs into that memory, replay, a copy of the outputs.

What is captured, and how, is the business of a `GraphCapture`; all else here runs on any machine.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from core.faults import is_permanent
from core.tree import mapped

log = logging.getLogger("frameloom.graphs")

WARM_UPS = 3
"""Calls before a capture: libraries choose algorithms and take workspaces, and compilers compile, in the first ones."""


class GraphCapture(Protocol):
    """How work on tensors that stay where they are is captured."""

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], Any]]:
        """What `work` returns, a tree of tensors, and a function that fills those anew, from whatever the work's inputs
        then hold. Raises `RuntimeError` when that cannot be had."""

    def use(self) -> AbstractContextManager[None]:
        """While open, no other use of what was captured is under way."""


class CudaGraphs:
    """Captures graphs of one network, on a stream of its own, into one pool of memory.

    Graphs share a pool safely as long as no two run at once, which `use` sees to: none reads what another one left.
    alone: held while a call is given to the card; a lock where several threads call.
    """

    def __init__(self, device: torch.device, alone: AbstractContextManager[Any]) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._alone = alone
        self._free = torch.cuda.Event()

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], Any]]:
        """See `GraphCapture.capture`. Other threads may use the card meanwhile."""
        graph = torch.cuda.CUDAGraph()
        ready = torch.cuda.current_stream(self._device).record_event()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            for _ in range(WARM_UPS):
                work()
            self._stream.synchronize()
            # Not by torch.cuda.graph, which waits for everything on the card and gives back all memory that is free.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = work()
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                # torch may still take what is freed or asked for there for part of the capture that failed.
                self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self._device)
                raise
            graph.capture_end()
        return outputs, graph.replay

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """See `GraphCapture.use`: on the card, from what was given to the current stream before this to what comes
        after it; hosts that share a model come from several threads and streams."""
        with self._alone:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(self._free)
            try:
                yield
            finally:
                self._free.record(stream)


class _CapturedRows:
    """One number of rows. given: the arguments that the inputs hold at the moment, kept so that no other object takes
    their place in memory unnoticed."""

    def __init__(
        self,
        network: Callable[..., Any],
        example: tuple[Any, ...],
        like: Callable[[Tensor], Tensor],
        graphs: GraphCapture,
    ) -> None:
        self.x, *others = example
        self.x = torch.empty_like(like(self.x)).copy_(self.x)
        self.others = [_Argument(other) for other in others]
        held = [argument.tree for argument in self.others]

        def work() -> Any:
            return tree_map(lambda out: out.to(torch.float32), network(self.x, *held))

        self.outputs, self.replay = graphs.capture(work)

    def fits(self, x: Tensor, others: tuple[Any, ...]) -> bool:
        return (
            x.shape == self.x.shape
            and len(others) == len(self.others)
            and all(argument.fits(other) for argument, other in zip(self.others, others, strict=True))
        )

    def load(self, x: Tensor, others: tuple[Any, ...]) -> None:
        self.x.copy_(x)
        for argument, other in zip(self.others, others, strict=True):
            argument.load(other)


class _Argument:
    """One of the other arguments: a tree whose tensors stay where they are."""

    def __init__(self, example: Any) -> None:
        leaves, self._spec = tree_flatten(example)
        self._leaves = [torch.clone(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._given: Any = None
        self._asked: tuple[Any, list[Any]] | None = None
        self.tree = tree_unflatten(self._leaves, self._spec)

    def fits(self, tree: Any) -> bool:
        if tree is self._given:
            return True
        leaves, spec = tree_flatten(tree)
        self._asked = (tree, leaves)
        return _same_form(spec, leaves, self._spec, self._leaves)

    def load(self, tree: Any) -> None:
        """Of a tree that `fits`."""
        if tree is self._given:
            return
        assert self._asked is not None and self._asked[0] is tree
        pairs = [pair for pair in zip(self._leaves, self._asked[1], strict=True) if isinstance(pair[0], Tensor)]
        # Forgotten until it is done: an error half-way must not leave the tree for what the inputs hold.
        self._given, self._asked = None, None
        if pairs:
            # One kernel for all of a prompt's keys and values, instead of one each.
            torch._foreach_copy_([held for held, _ in pairs], [new for _, new in pairs])
        self._given = tree


def _same_form(spec: TreeSpec, leaves: list[Any], held_spec: TreeSpec, held: list[Any]) -> bool:
    if spec != held_spec:
        return False
    for new, old in zip(leaves, held, strict=True):
        if isinstance(old, Tensor) != isinstance(new, Tensor):
            return False
        if isinstance(old, Tensor):
            if (new.shape, new.dtype, new.device) != (old.shape, old.dtype, old.device):
                return False
        elif new != old:
            return False
    return True


class CapturedCall:
    """A network whose calls are captured for each number of rows that was prepared; any other call runs as `plain` has
    it, and so does one whose arguments differ in form from the example's.

    network: to be captured. plain: its twin, of the same answers. example: as of `core.backend.Backend.convert`. like:
    a tensor in the dtype and layout that the network is to read. preparing: held meanwhile; see `core.backend.Locks`.
    What a call returns is the caller's for good.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        plain: Any,
        example: tuple[Any, ...],
        like: Callable[[Tensor], Tensor],
        graphs: GraphCapture,
        preparing: AbstractContextManager[Any] = contextlib.nullcontext(),  # noqa: B008
    ) -> None:
        self._network = network
        self._plain = plain
        self._example = example
        self._like = like
        self._graphs = graphs
        self._captured: dict[int, _CapturedRows] = {}
        self._refused: set[int] = set()
        self._preparing = preparing

    @property
    def captured(self) -> tuple[int, ...]:
        """The numbers of rows whose calls are replayed."""
        return tuple(self._captured)

    @torch.inference_mode()
    def __call__(self, x_R: Tensor, *others: Any) -> Any:
        """See `core.backend.Call`."""
        captured = self._captured.get(len(x_R))
        if captured is not None:
            with self._graphs.use():
                if captured.fits(x_R, others):
                    captured.load(x_R, others)
                    captured.replay()
                    # A copy, as the next call writes there: 64 KiB of latents cost less than the rules of a lease.
                    return mapped(torch.clone, captured.outputs)
        return self._plain(x_R, *others)

    @torch.inference_mode()
    def prepare(self, rows: int) -> None:
        """See `core.backend.Call.prepare`. Where that fails, calls of so many rows run as `plain` has them."""
        with self._preparing:
            if rows in self._captured or rows in self._refused:
                return
            try:
                example = repeated(self._example, rows)
                self._captured[rows] = _CapturedRows(self._network, example, self._like, self._graphs)
            except RuntimeError as error:
                if is_permanent(error):
                    raise
                self._refused.add(rows)
                reason = " ".join(str(error).split())[:200]
                log.warning("calls of %d rows could not be captured and run eagerly, which is slower: %s", rows, reason)
                self._plain.prepare(rows)


def repeated(example: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    """The example's first row, so many times."""

    def of(leaf: Any) -> Any:
        return leaf[:1].repeat(rows, *(1,) * (leaf.dim() - 1)) if isinstance(leaf, Tensor) else leaf

    return tree_map(of, example)

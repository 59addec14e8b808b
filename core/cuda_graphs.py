"""Networks that a CUDA card has recorded: one replay in place of the start of every kernel.

A U-Net of Stable Diffusion's size is a thousand kernels. Starting them one by one takes a processor longer than a large
card takes to run them. A recording is for one number of rows and one size, reads its inputs from buffers of its own and
leaves its outputs in others; what is replayed is exactly what was recorded, so the plain call is its twin.

Shapes: R rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

log = logging.getLogger("frameloom.cuda_graphs")

Work = Callable[[], Any]
Recorder = Callable[[Work], tuple[Callable[[], object], Any]]
"""Records a function of buffers that stay where they are: what replays it, and its outputs, which stay there too."""


def by_running(work: Work) -> tuple[Callable[[], object], Any]:
    """A recorder for any device that runs the function anew: the twin of `Pool.record`."""
    outputs = work()

    def again() -> None:
        for old, new in zip(*(tree_flatten(made)[0] for made in (outputs, work())), strict=True):
            old.copy_(new)

    return again, outputs


class Pool:
    """Recordings on the current card that share the memory of what lies between inputs and outputs: they are never
    replayed at the same time."""

    def __init__(self) -> None:
        self._handle: Any = None

    def record(self, work: Work) -> tuple[Callable[[], object], Any]:
        """See `Recorder`. Other threads may use the card meanwhile. Raises `RuntimeError` for what cannot be recorded,
        such as a wait for the card."""
        if self._handle is None:
            self._handle = torch.cuda.graph_pool_handle()
        aside, here = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            # Libraries choose their kernels and take their memory in the first calls.
            for _ in range(3):
                work()
            aside.synchronize()
            # Not by `torch.cuda.graph`: it waits for everything that runs on the card, and so stops the stream.
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self._handle, capture_error_mode="thread_local")
            try:
                outputs = work()
            finally:
                graph.capture_end()
        here.wait_stream(aside)
        return graph.replay, outputs


class _Recording:
    """One recorded call, with its buffers."""

    def __init__(self, call: Callable[..., Any], example: tuple[Any, ...], record: Recorder) -> None:
        leaves, self._spec = tree_flatten(example)
        self._buffers: list[Tensor] = [leaf.clone() for leaf in leaves]
        self._forms = [(leaf.shape, leaf.dtype) for leaf in leaves]
        inputs = tree_unflatten(self._buffers, self._spec)
        self._replay, self._outputs = record(lambda: call(*inputs))
        self._alike = [
            [i for i, (_, dtype) in enumerate(self._forms) if dtype == kind]
            for kind in dict.fromkeys(dtype for _, dtype in self._forms)
        ]

    def call(self, given: tuple[Any, ...]) -> Any:
        """The outputs, which belong to the caller; None where the inputs are not of the kind that was recorded."""
        leaves, spec = tree_flatten(given)
        if spec != self._spec or [(leaf.shape, leaf.dtype) for leaf in leaves] != self._forms:
            return None
        for places in self._alike:  # a prompt's keys and values are dozens of small tensors: one copy for all
            torch._foreach_copy_([self._buffers[i] for i in places], [leaves[i] for i in places])
        self._replay()
        return tree_map(torch.clone, self._outputs)


class Graphs:
    """A `core.backend.Call` that replays recordings of another one, for the numbers of rows that were prepared. Any
    other call, and whatever the card refuses to record, is made as it is.

    call: from here on only to be called by this. example: arguments like those of calls, of any number of rows.
    """

    def __init__(self, call: Any, example: tuple[Any, ...], record: Recorder | None = None) -> None:
        self._call = call
        self._example = example
        self._record = record or Pool().record
        self._recordings: dict[int, _Recording | None] = {}

    @torch.inference_mode()
    def __call__(self, x_R: Tensor, *others: Any) -> Any:
        """See `core.backend.Call`."""
        recording = self._recordings.get(len(x_R))
        outputs = None if recording is None else recording.call((x_R, *others))
        return self._call(x_R, *others) if outputs is None else outputs

    @torch.inference_mode()
    def prepare(self, rows: int) -> None:
        """See `core.backend.Call`."""
        if rows in self._recordings:
            return
        self._call.prepare(rows)
        example = tree_map(lambda leaf: leaf[:1].repeat(rows, *(1,) * (leaf.dim() - 1)), self._example)
        try:
            self._recordings[rows] = _Recording(self._call, example, self._record)
        except torch.OutOfMemoryError:
            self._recordings[rows] = None
            log.warning(
                "no memory to record calls of %d rows; they are started kernel by kernel, which is slower", rows
            )
        except RuntimeError as error:
            self._recordings[rows] = None
            reason = str(error).splitlines()[0]
            log.warning("calls of %d rows are started kernel by kernel, which is slower: %s", rows, reason)

    def recorded(self) -> tuple[int, ...]:
        """The numbers of rows that are replayed."""
        return tuple(rows for rows, recording in self._recordings.items() if recording is not None)

"""Calls that several threads make to one network, answered together.

A card, and to a lesser degree a processor, takes hardly longer for the rows of four channels than for those of one.
Channels know nothing of each other: each calls the network as if it were its own. While one call runs, the others wait
in a queue; what has come together by then goes into the next call, in the order in which it came, and each caller gets
its own rows back. A channel that is alone never waits for anybody.

Shapes: R rows.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from core.backend import Call
from core.device import given

PATIENCE = 0.15
"""A call waits for so much of the time that the last one took, until as many have come as called just before. Without
it those that finish together would call again just too late for the one that did not, and take turns for ever."""


class _Asked:
    """One thread's call, from when it is asked for until it is answered. kind: calls of one kind can be joined."""

    def __init__(self, x_R: Tensor, others: tuple[Any, ...]) -> None:
        self.x = x_R
        self.others = others
        self.answer: Any = None
        self.error: Exception | None = None
        self.done = False
        self.kind = _kind(x_R, others)
        self.ready = given(x_R.device)

    @property
    def rows(self) -> int:
        return len(self.x)


def _kind(x_R: Tensor, others: tuple[Any, ...]) -> Hashable:
    """None for a call that is not of rows alone."""
    leaves, spec = tree_flatten((x_R, *others))
    if not all(isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == len(x_R) for leaf in leaves):
        return None
    return str(spec), tuple((leaf.shape[1:], leaf.dtype, leaf.device) for leaf in leaves)


def _after(event: Any, device: torch.device) -> None:
    """What this thread gives to the card from now on comes after the event."""
    if event is not None:
        torch.cuda.current_stream(device).wait_event(event)


class SharedCall:
    """A `core.backend.Call` for several threads, of which one runs the network for all that wait.

    call: the network; its plain twin, with an answer equal within rounding. callers: how many threads there may be.
    patience: see `PATIENCE`. A number of rows is only put together where the network was made ready for it (`prepare`).

    Nothing that one caller does reaches another one: where a joint call fails, each is made alone, and an error goes to
    the caller whose rows it is of.
    """

    def __init__(self, call: Call, callers: int, patience: float = PATIENCE) -> None:
        self._call = call
        self._callers = callers
        self._patience = patience
        self._prepared: set[int] = set()
        self._changed = threading.Condition()
        self._queue: list[_Asked] = []
        self._running = False
        self._took_s = 0.0
        self._seen_s: dict[int, float] = {}
        self._joined: dict[tuple[int, ...], _Joined] = {}
        self.calls = 0
        """Of the network so far."""
        self.answered = 0
        """Callers so far: more than calls, where some were answered together."""

    @property
    def waiting(self) -> int:
        """Calls that are in the queue."""
        with self._changed:
            return len(self._queue)

    @property
    def joined(self) -> tuple[Any, ...]:
        """The joined arguments that are kept."""
        return tuple(held.tree for held in self._joined.values())

    def prepare(self, rows: int) -> None:
        """See `core.backend.Call.prepare`; for as many callers of so many rows as there may be, too."""
        for callers in range(1, self._callers + 1):
            self._call.prepare(rows * callers)
            with self._changed:
                self._prepared.add(rows * callers)

    @torch.inference_mode()
    def __call__(self, x_R: Tensor, *others: Any) -> Any:
        """See `core.backend.Call`."""
        asked = _Asked(x_R, others)
        with self._changed:
            self._queue.append(asked)
            self._seen_s[threading.get_ident()] = time.monotonic()
            self._changed.notify_all()
            while not asked.done and (self._running or self._queue[0] is not asked):
                self._changed.wait()
            batch = [] if asked.done else self._lead()
        if batch:
            started_s = time.monotonic()
            try:
                self._answer(batch)
            finally:
                with self._changed:
                    self._took_s = time.monotonic() - started_s
                    self._running = False
                    for one in batch:
                        one.done = True
                    self._changed.notify_all()
        _after(asked.ready, x_R.device)
        if asked.error is not None:
            raise asked.error
        return asked.answer

    def _lead(self) -> list[_Asked]:
        """Become the one that runs the network; the calls to answer, the oldest first. The condition is held."""
        self._running = True
        patient_until_s = time.monotonic() + self._patience * self._took_s
        while len(self._queue) < self._expected() and (left_s := patient_until_s - time.monotonic()) > 0:
            self._changed.wait(left_s)
        batch = self._fitting()
        self._queue = [one for one in self._queue if one not in batch]
        return batch

    def _expected(self) -> int:
        """Callers that may be about to call: they did so since before the last call began."""
        since_s = time.monotonic() - 2.0 * self._took_s
        self._seen_s = {caller: seen_s for caller, seen_s in self._seen_s.items() if seen_s >= since_s}
        return len(self._seen_s)

    def _fitting(self) -> list[_Asked]:
        """The oldest call with as many others of its kind as make a number of rows that the network is ready for."""
        first = self._queue[0]
        alike = [one for one in self._queue if one is first or (one.kind is not None and one.kind == first.kind)]
        best, rows = 1, 0
        for count, one in enumerate(alike, 1):
            rows += one.rows
            if rows in self._prepared:
                best = count
        return alike[:best]

    def _answer(self, batch: list[_Asked]) -> None:
        """Never raises."""
        if len(batch) > 1:
            try:
                self._answer_together(batch)
                return
            except Exception:  # whoever it comes from gets it below
                pass
        for one in batch:
            try:
                _after(one.ready, one.x.device)
                one.answer = self._call(one.x, *one.others)
            except Exception as error:
                one.error = error
            one.ready = given(one.x.device)
            self.calls += 1
            self.answered += 1

    def _answer_together(self, batch: list[_Asked]) -> None:
        device = batch[0].x.device
        for one in batch:
            _after(one.ready, device)
        others = [self._join([one.others[i] for one in batch]) for i in range(len(batch[0].others))]
        out = self._call(torch.cat([one.x for one in batch]), *others)
        end, first = given(device), 0
        for one in batch:
            rows = slice(first, first + one.rows)
            one.answer = tree_map(lambda leaf, rows=rows: leaf[rows], out)
            one.ready = end
            first = rows.stop
        self.calls += 1
        self.answered += len(batch)

    def _join(self, trees: Sequence[Any]) -> Any:
        """Trees of rows as one tree. Of the same tensors it is the same tree again, as `core.backend.Call` wants it."""
        leaves = [tree_leaves(tree) for tree in trees]
        key = tuple(id(leaf) for several in leaves for leaf in several)
        held = self._joined.get(key)
        if held is not None and held.of(leaves):
            return held.tree
        spec = tree_flatten(trees[0])[1]
        tree = tree_unflatten([torch.cat(several) for several in zip(*leaves, strict=True)], spec)
        # What a denoiser remembers is another tensor in every call, and may be large.
        self._joined = {key: held for key, held in self._joined.items() if held.alive}
        self._joined[key] = _Joined(leaves, tree)
        return tree


class _Joined:
    """A joined tree, for as long as all that it was made of is there."""

    def __init__(self, leaves: Sequence[Sequence[Tensor]], tree: Any) -> None:
        self._made_of = [weakref.ref(leaf) for several in leaves for leaf in several]
        self.tree = tree

    @property
    def alive(self) -> bool:
        return all(made_of() is not None for made_of in self._made_of)

    def of(self, leaves: Sequence[Sequence[Tensor]]) -> bool:
        """Whether it was made of these, and not of others that lay in their place."""
        given = (leaf for several in leaves for leaf in several)
        return all(made_of() is leaf for made_of, leaf in zip(self._made_of, given, strict=True))

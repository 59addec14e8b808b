"""Calls of several threads answered together, against each alone."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bridge.host.shared_call import SharedCall
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model


class Network:
    """A network that can be held up, with a note of every call. Rows of 13 fail."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Semaphore(0)
        self.rows: list[int] = []
        self.prepared: list[int] = []
        self.others: list[tuple[Any, ...]] = []

    def prepare(self, rows: int) -> None:
        self.prepared.append(rows)

    def __call__(self, x_R: Tensor, *others: Any) -> Any:
        self.rows.append(len(x_R))
        self.others.append(others)
        self.begun.release()
        assert self.free.wait(20)
        if (x_R == 13).any():
            raise RuntimeError("thirteen")
        factor, more = others
        return x_R * factor[:, None], {"sum": x_R.sum(1) + more["plus"]}


def ask(call: Any, value: float, rows: int = 1, width: int = 2, prompt: Any = None) -> Any:
    prompt = prompt or (torch.full((rows,), 2.0), {"plus": torch.full((rows,), value)})
    return call(torch.full((rows, width), value), *prompt)


def right(answer: Any, value: float, rows: int = 1, width: int = 2) -> bool:
    out, more = answer
    return bool(
        out.shape == (rows, width)
        and (out == 2 * value).all()
        and more["sum"].shape == (rows,)
        and (more["sum"] == (width + 1) * value).all()
    )


def while_busy(network: Network, call: SharedCall, asks: list[Callable[[], Any]]) -> list[Any]:
    """What a list of calls gives, each from a thread of its own, that come in order while the network is busy."""
    answers: list[Any] = [None] * len(asks)

    def one(number: int) -> None:
        try:
            answers[number] = asks[number]()
        except RuntimeError as error:
            answers[number] = error

    network.free.clear()
    network.begun = threading.Semaphore(0)
    first = threading.Thread(target=lambda: ask(call, 1.0))
    first.start()
    assert network.begun.acquire(timeout=20)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(asks))]
    for count, thread in enumerate(threads, 1):
        thread.start()
        while call.waiting < count:
            pass
    network.free.set()
    for thread in [first, *threads]:
        thread.join(20)
        assert not thread.is_alive()
    return answers


@pytest.fixture
def network() -> Network:
    return Network()


def together(network: Network, callers: int = 4, rows: int = 1) -> SharedCall:
    call = SharedCall(network, callers, patience=0.0)
    call.prepare(rows)
    return call


def test_one_caller_alone_calls_as_if_it_were_not_there(network: Network) -> None:
    call = together(network)
    prompt = (torch.full((1,), 2.0), {"plus": torch.full((1,), 3.0)})
    assert right(ask(call, 3.0, prompt=prompt), 3.0)
    assert network.others[0][0] is prompt[0]
    assert network.rows == [1] and (call.calls, call.answered) == (1, 1)


def test_those_that_wait_are_answered_together_each_with_its_own_rows(network: Network) -> None:
    call = together(network)
    assert network.prepared == [1, 2, 3, 4]
    answers = while_busy(network, call, [lambda v=v: ask(call, v) for v in (2.0, 3.0, 4.0)])
    assert network.rows == [1, 3]
    assert all(right(answer, value) for answer, value in zip(answers, (2.0, 3.0, 4.0), strict=True))
    assert (call.calls, call.answered) == (2, 4)


def test_an_error_goes_to_the_caller_whose_rows_it_is_of(network: Network) -> None:
    call = together(network)
    answers = while_busy(network, call, [lambda v=v: ask(call, v) for v in (2.0, 13.0, 4.0)])
    assert right(answers[0], 2.0) and right(answers[2], 4.0)
    assert isinstance(answers[1], RuntimeError) and str(answers[1]) == "thirteen"
    assert network.rows == [1, 3, 1, 1, 1]


def test_other_sizes_and_numbers_of_rows_wait_for_a_call_of_their_own(network: Network) -> None:
    call = together(network)
    asks = [lambda: ask(call, 2.0), lambda: ask(call, 3.0, width=5), lambda: ask(call, 4.0), lambda: ask(call, 5.0, 7)]
    answers = while_busy(network, call, asks)
    # 1, then both of width 2, then 5 wide, then 7 rows, which nothing was made ready for together with others.
    assert network.rows == [1, 2, 1, 7]
    assert right(answers[0], 2.0) and right(answers[1], 3.0, width=5)
    assert right(answers[2], 4.0) and right(answers[3], 5.0, 7)


def test_rows_are_joined_up_to_a_number_that_was_made_ready(network: Network) -> None:
    call = SharedCall(network, 2, patience=0.0)
    call.prepare(2)
    answers = while_busy(network, call, [lambda v=v: ask(call, v, 2) for v in (2.0, 3.0, 4.0)])
    assert network.rows == [1, 4, 2]
    assert all(right(answer, value, 2) for answer, value in zip(answers, (2.0, 3.0, 4.0), strict=True))


def test_joined_arguments_that_come_again_are_the_same_and_go_with_what_they_were_made_of(network: Network) -> None:
    call = together(network, 2)
    prompts = [(torch.full((1,), 2.0), {"plus": torch.full((1,), v)}) for v in (2.0, 3.0)]

    def again() -> Any:
        """The last argument of the joint call of both."""
        asks = [lambda v=v, p=p: ask(call, v, prompt=p) for v, p in zip((2.0, 3.0), prompts, strict=True)]
        answers = while_busy(network, call, asks)
        assert right(answers[0], 2.0) and right(answers[1], 3.0)
        assert network.rows[-1] == 2
        return network.others[-1][1]

    first = again()
    assert again() is first
    assert len(call.joined) == 2
    old, prompts[0] = prompts[0], (torch.full((1,), 2.0), {"plus": torch.full((1,), 2.0)})
    network.others.clear()
    del old, first
    gc.collect()
    again()
    assert len(call.joined) == 2


@pytest.mark.parametrize("patience", [0.0, 0.5])
def test_many_threads_that_call_for_ever_all_get_their_own_and_none_is_left_behind(
    network: Network, patience: float
) -> None:
    call, turns = SharedCall(network, 4, patience), 60
    call.prepare(1)
    counts = [0] * 4
    prompts = [(torch.full((1,), 2.0), {"plus": torch.full((1,), float(i + 20))}) for i in range(4)]

    def many(number: int) -> None:
        for _ in range(turns):
            if right(ask(call, number + 20.0, prompt=prompts[number]), number + 20.0):
                counts[number] += 1

    threads = [threading.Thread(target=many, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counts == [turns] * 4
    assert call.answered == 4 * turns and sum(network.rows) == 4 * turns


CHANNELS = (
    Params(prompt="a red ball", steps=1),
    Params(prompt="woodcut style, blue box", steps=2, strength=0.5, guidance="self-negative", guidance_scale=1.3),
    Params(prompt="neon style", steps=2, strength=0.6, guidance="full", guidance_scale=1.5, seed=7),
    Params(prompt="glass style", steps=3, mode="latency", temporal="bank"),
)


def test_each_channel_gets_what_it_would_get_alone() -> None:
    """Streams of other steps, guidance, mode and bank, each on a thread of its own, one set of weights."""
    plain = random_model()
    pictures = random_frames(8)[:, None]

    def run(model: Any, params: Params) -> list[Tensor]:
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        plan = stream.plan(params)
        out = [stream.step(pictures[i], i, plan) for i in range(8)]
        return [picture.frame_FHWC for picture in out if picture is not None]

    alone = [run(plain, params) for params in CHANNELS]
    joint = plain.run_by(replace(plain.execution, shared=partial(SharedCall, callers=len(CHANNELS))))
    begin = threading.Barrier(len(CHANNELS))
    results: list[list[Tensor]] = [[] for _ in CHANNELS]

    def channel(number: int) -> None:
        begin.wait(60)
        results[number] = run(joint, CHANNELS[number])

    threads = [threading.Thread(target=channel, args=(i,)) for i in range(len(CHANNELS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for ours, theirs in zip(results, alone, strict=True):
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            assert (a.int() - b.int()).abs().max() <= 1
    counted = [(call.calls, call.answered) for call in joint.calls.values() if isinstance(call, SharedCall)]
    assert sum(answered for _, answered in counted) > sum(calls for calls, _ in counted)

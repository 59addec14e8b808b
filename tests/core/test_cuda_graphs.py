"""Captured calls: their bookkeeping on any machine, with a capture that runs the network again instead of replaying a
graph of it; the graphs themselves where there is a card."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref

import pytest
import torch
from torch.utils._pytree import tree_leaves

from core.backend import BACKENDS, Backend, Execution, _Torch
from core.cuda_graphs import CapturedCall, CudaGraphs
from core.faults import is_permanent
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model

CPU = torch.device("cpu")
card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card here")


class Rerun:
    """Fills the outputs by running the work again, after spoiling them: what a replay forgets to fill shows."""

    def __init__(self, error=None) -> None:
        self.error = error
        self.captures = self.replays = 0

    def capture(self, work):
        self.captures += 1
        if self.error is not None:
            raise self.error
        outputs = work()

        def replay() -> None:
            self.replays += 1
            fresh = [leaf.clone() for leaf in tree_leaves(work())]
            for held, new in zip(tree_leaves(outputs), fresh, strict=True):
                held.fill_(torch.nan).copy_(new)

        return outputs, replay

    @contextlib.contextmanager
    def use(self):
        yield


class Mix(torch.nn.Module):
    """Reads every argument, a tree among them."""

    def forward(self, x, t, tree):
        k, more = tree
        return x * 2.0 + t[:, None] + k, {"sum": more["v"] + x}


EXAMPLE = (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), (torch.zeros(2, 3), {"v": torch.zeros(2, 3), "n": 1}))


def tree(rows: int, value: float, n: int = 1):
    return torch.full((rows, 3), value), {"v": torch.full((rows, 3), 2 * value), "n": n}


def captured(graphs, network=None, example=EXAMPLE) -> CapturedCall:
    network = network or Mix()
    plain = _Torch(network, example, Execution(CPU, "eager", torch.float32))
    return CapturedCall(network, plain, example, plain.like, graphs)


@pytest.fixture
def captures(monkeypatch):
    """Models run by the back end "graphs" on this machine; the captures of their networks."""
    made = []

    def call(network, example, execution):
        made.append(Rerun())
        plain = _Torch(network, example, execution)
        return CapturedCall(network, plain, example, plain.like, made[-1])

    monkeypatch.setitem(BACKENDS, "graphs", Backend(call))
    return made


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_a_stream_of_captured_calls_equals_the_eager_one_through_live_changes(captures, mode):
    streams = [random_model(backend=backend).stream(StreamConfig(SIZE_PX, SIZE_PX)) for backend in ("graphs", "eager")]
    params = Params(prompt="red ball", strength=0.64, guidance="self-negative", steps=2, mode=mode)
    frames = random_frames(12)
    for number, frame in enumerate(frames):
        changes = {3: {"prompt": "blue box"}, 5: {"seed": 7}, 7: {"guidance_scale": 2.0}, 9: {"guidance": "full"}}
        params = params.with_values(**changes.get(number, {}))
        ours, plain = (s.step(frame[None], number, s.plan(params)) for s in streams)
        assert (ours is None) == (plain is None)
        if ours is not None:
            assert ours.tag == plain.tag
            # Where a tensor begins in memory may change the last bit of a processor's sums.
            assert (ours.frame_FHWC.int() - plain.frame_FHWC.int()).abs().max() <= 1
    assert sum(graphs.replays for graphs in captures) >= 3 * 10
    # Encoder, decoder and two numbers of rows of the U-Net: what changed but the guidance's kind was only copied.
    assert sum(graphs.captures for graphs in captures) == 4


def test_results_are_the_callers_for_good():
    call = captured(graphs := Rerun())
    call.prepare(2)
    t, given = torch.tensor([1, 2]), tree(2, 10.0)
    first, again = call(torch.ones(2, 3), t, given)
    kept = first.clone(), again["sum"].clone()
    for value in (5.0, 6.0, 7.0):
        call(torch.full((2, 3), value), t, tree(2, value))
    assert graphs.replays == 4
    assert torch.equal(first, kept[0]) and torch.equal(again["sum"], kept[1])
    assert torch.equal(first, torch.tensor([[13.0] * 3, [14.0] * 3]))


def test_a_tree_that_is_gone_is_not_taken_for_a_new_one_in_its_place():
    call = captured(Rerun())
    call.prepare(1)
    x, t = torch.ones(1, 3), torch.tensor([0])
    held = tree(1, 1.0)[0]
    there = weakref.ref(held)
    call(x, t, (held, {"v": torch.zeros(1, 3), "n": 1}))
    del held
    gc.collect()
    assert there() is not None  # so no other tensor can have its address and its id
    for value in range(20):
        out, _ = call(x, t, tree(1, float(value)))
        assert torch.equal(out, torch.full((1, 3), 2.0 + value))
    assert there() is None


def test_what_was_not_prepared_or_has_another_form_runs_eagerly():
    call = captured(graphs := Rerun())
    call.prepare(2)
    call.prepare(2)
    assert graphs.captures == 1 and call.captured == (2,)
    t = torch.tensor([1, 1])
    for x, ts, given in (
        (torch.ones(3, 3), torch.ones(3, dtype=torch.long), tree(3, 1.0)),  # rows
        (torch.ones(2, 1), t, tree(2, 1.0)),  # another shape
        (torch.ones(2, 3), t.to(torch.float32), tree(2, 1.0)),  # another dtype
        (torch.ones(2, 3), t, tree(2, 1.0, n=2)),  # another value that is no tensor
        (torch.ones(2, 3), t, tree(2, 1.0)),  # the same form: the only one that is replayed
    ):
        out, more = call(x, ts, given)
        expected = Mix()(x, ts, given)
        torch.testing.assert_close((out, more), expected, atol=0.0, rtol=0.0)
    assert graphs.replays == 1


def test_a_capture_that_fails_is_told_once_and_runs_eagerly(caplog):
    call = captured(graphs := Rerun(RuntimeError("operation not permitted\nwhen stream is capturing")))
    call.prepare(2)
    call.prepare(2)
    out, _ = call(torch.ones(2, 3), torch.tensor([0, 0]), tree(2, 1.0))
    assert torch.equal(out, torch.full((2, 3), 3.0))
    assert graphs.captures == 1 and len(caplog.records) == 1 and call.captured == ()
    assert "2 rows could not be captured and run eagerly, which is slower: operation not permitted when stream" in (
        caplog.text
    )


def test_a_dead_card_is_no_failed_capture():
    call = captured(Rerun(RuntimeError("CUDA error: an illegal memory access was encountered")))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        call.prepare(2)


def test_which_errors_end_a_card():
    assert is_permanent(RuntimeError("CUDA error: device-side assert triggered"))
    assert is_permanent(RuntimeError("CUDA error: unspecified launch failure"))
    coded = RuntimeError("something")
    coded.error_code = 700
    assert is_permanent(coded)
    outer = ValueError("frame lost")
    outer.__cause__ = coded
    assert is_permanent(outer)
    for harmless in (
        "CUDA out of memory. Tried to allocate 2 GiB",
        "CUDA error: invalid argument",
        "misaligned address",
    ):
        assert not is_permanent(RuntimeError(harmless))


@card
def test_graphs_of_a_card_equal_eager_calls_there():
    device = torch.device("cuda")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 64, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(64, 4, 1))
    network = network.to(device).half().eval().requires_grad_(False)
    example = (torch.zeros(1, 4, 32, 32, device=device),)
    plain = _Torch(network, example, Execution(device, "eager", torch.float16))
    call = CapturedCall(network, plain, example, plain.like, CudaGraphs(device, contextlib.nullcontext()))
    for rows in (1, 2, 3):
        call.prepare(rows)
    for _ in range(3):
        for rows in (3, 1, 2, 4):
            x = torch.randn(rows, 4, 32, 32, device=device)
            torch.testing.assert_close(call(x), plain(x), atol=1e-3, rtol=1e-3)


def test_preparing_is_kept_apart_by_the_lock_that_was_given():
    held = []

    class Watched(Rerun):
        def capture(self, work):
            held.append(lock.locked())
            return super().capture(work)

    lock = threading.Lock()
    network, execution = Mix(), Execution(CPU, "eager", torch.float32)
    plain = _Torch(network, EXAMPLE, execution)
    CapturedCall(network, plain, EXAMPLE, plain.like, Watched(), lock).prepare(2)
    assert held == [True] and not lock.locked()

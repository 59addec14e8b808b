"""Recorded networks against the plain ones. Without a card the recorder is its twin, which runs the work anew."""

from __future__ import annotations

import pytest
import torch

from core.backend import BACKENDS, Execution
from core.cuda_graphs import Graphs, by_running
from core.device import DeviceError, native_dtypes, pick_device
from core.model import load_model
from core.params import Params
from core.stream import StreamConfig
from core.tiny import WEIGHTS

CPU = torch.device("cpu")
on_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")


class Adds:
    """A network over a tree: counts how often it is called itself."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x_R, scale_R, more):
        self.calls += 1
        return x_R * scale_R[:, None] + more["bias"], more["bias"] * 2

    def prepare(self, rows: int) -> None:
        pass


def arguments(rows: int):
    return torch.randn(rows, 3), torch.arange(rows), {"bias": torch.randn(rows, 3)}


def test_what_was_prepared_is_replayed_and_anything_else_is_called_as_it_is():
    plain, inner = Adds(), Adds()
    graphs = Graphs(inner, arguments(2), by_running)
    graphs.prepare(4)
    graphs.prepare(4)
    assert graphs.recorded() == (4,) and inner.calls == 1
    for rows in (4, 1, 4):
        given = arguments(rows)
        for ours, theirs in zip(graphs(*given), plain(*given), strict=True):
            assert torch.equal(ours, theirs)
    assert graphs._recordings[4] is not None
    other = (torch.randn(4, 3), torch.arange(4), {"bias": torch.randn(4, 1)})
    assert torch.equal(graphs(*other)[0], plain(*other)[0]), "of another shape than was recorded"
    other = (torch.randn(4, 3), torch.arange(4), {"bias": torch.randn(4, 3), "beside": torch.ones(4)})
    assert torch.equal(graphs(*other)[0], plain(*other)[0]), "another tree than was recorded"


def test_outputs_belong_to_the_caller_and_inputs_are_not_kept():
    graphs = Graphs(Adds(), arguments(2), by_running)
    graphs.prepare(2)
    given = arguments(2)
    first, _ = graphs(*given)
    kept = first.clone()
    graphs(*arguments(2))
    assert torch.equal(first, kept), "overwritten by a later call"
    given[0].zero_()
    again = arguments(2)
    assert torch.equal(graphs(*again)[0], Adds()(*again)[0])


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted when stream is capturing"), None])
def test_what_cannot_be_recorded_is_called_as_it_is_with_one_word(error, caplog):
    def refuse(work):
        raise error or torch.OutOfMemoryError("CUDA out of memory")

    graphs = Graphs(Adds(), arguments(2), refuse)
    for _ in range(2):
        graphs.prepare(2)
    assert graphs.recorded() == () and len(caplog.records) == 1 and "2 rows" in caplog.records[0].message
    given = arguments(2)
    assert torch.equal(graphs(*given)[0], Adds()(*given)[0])


def test_a_stream_of_recorded_networks_equals_the_plain_one_through_live_changes(monkeypatch):
    made = []

    def recorded(network, example, execution: Execution):
        plain = BACKENDS["eager"].call(network, example, execution)
        made.append(Graphs(plain, example, by_running))
        return made[-1]

    def pictures(model):
        stream = model.stream(StreamConfig(64, 64))
        frames = torch.randint(
            0, 256, (12, 1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        out, params = [], Params(prompt="neon style", steps=2, strength=0.3)
        changes = {3: {"prompt": "ice style"}, 5: {"steps": 3}, 7: {"guidance": "self-negative"}, 9: {"seed": 9}}
        for number, frame in enumerate(frames):
            params = params.with_values(**changes.get(number, {}))
            picture = stream.step(frame, number, stream.plan(params))
            if picture is not None:
                out.append(picture.frame_FHWC)
        return out

    plain = pictures(load_model(WEIGHTS, CPU, torch.float32, "eager"))
    model = load_model(WEIGHTS, CPU, torch.float32, "eager")
    monkeypatch.setattr(
        model.__class__, "_call", lambda self, network, *example: recorded(network, example, self.execution)
    )
    ours = pictures(model)
    assert len(ours) == len(plain) > 8
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert {rows for graphs in made for rows in graphs.recorded()} >= {1, 2, 3}


@on_a_card
def test_a_card_replays_what_it_recorded():
    card = torch.device("cuda")
    frames = torch.randint(0, 256, (8, 1, 128, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    results = {}
    for backend in ("eager", "graphs"):
        stream = load_model(WEIGHTS, card, torch.float16, backend).stream(StreamConfig(128, 128))
        plan = stream.plan(Params(prompt="neon style", steps=2))
        steps = [stream.step(frame, 0, plan) for frame in frames]
        results[backend] = [s.frame_FHWC.cpu().float() for s in steps if s is not None]
    for a, b in zip(results["eager"], results["graphs"], strict=True):
        assert float((a - b).abs().max()) <= 2.0


def test_cards_that_are_not_there_are_refused_and_half_precision_comes_first_on_those_that_are(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    for name in ("cuda:2", "cuda:x", "cuda:-1"):
        with pytest.raises(DeviceError, match="cuda:0, cuda:1"):
            pick_device(name)
    for emulated, dtypes in (
        (False, (torch.float16, torch.bfloat16, torch.float32)),
        (True, (torch.float16, torch.float32)),
    ):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation, e=emulated: not e)
        assert native_dtypes(torch.device("cuda")) == dtypes

"""What is fastest is measured once, remembered for the next start, and follows what the user asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from bridge.host import tuning
from core.backend import BACKENDS, BackendError, executions
from core.params import Params
from tests.random_model import SIZE_PX, random_model

CPU = torch.device("cpu")
SIZE = (SIZE_PX, SIZE_PX)
PARAMS = Params(steps=2)


@pytest.fixture(autouse=True)
def torch_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model():
    return random_model()


@pytest.fixture
def figures(monkeypatch):
    """Sets what a trial is to measure: {(backend, dtype): ms} and {(threads, overlap): (fps, ms)}."""

    def put(calls, ways):
        def unet(self, model, deadline_s):
            execution = model.execution
            name = tuning.dtype_name(execution.dtype)
            return tuning.Figure(execution.backend, name, execution.threads, unet_ms=calls[execution.backend, name])

        def turn(self, execution, way):
            return tuning.Turn(*ways[way], unet_ms=20.0, others_ms=15.0)

        monkeypatch.setattr(tuning._Trial, "_unet", unet)
        monkeypatch.setattr(tuning._Trial, "_turn", turn)
        monkeypatch.setattr(tuning, "CALLS_BUDGET_S", 1e9)
        monkeypatch.setattr(tuning, "BUDGET_S", 1e9)

    return put


def test_the_first_start_measures_and_the_next_one_remembers(model, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "disturbed", lambda: False)
    memory = tuning.Cache(tmp_path / "cache" / "tuning.json")
    first = tuning.tune(model, executions(CPU), SIZE, PARAMS, memory)
    assert first.seconds > 0
    assert first.figures[0].fps and first.figures[0].latency_ms
    measured = {(f.backend, f.dtype) for f in first.figures if f.unet_ms is not None}
    assert measured & {(e.backend, tuning.dtype_name(e.dtype)) for e in executions(CPU)}
    again = tuning.tune(model, executions(CPU), SIZE, PARAMS, memory)
    assert again.seconds == 0.0
    assert again.figures == first.figures
    assert (again.model.execution, again.overlap) == (first.model.execution, first.overlap)
    # Another size is another question.
    assert tuning.tune(model, executions(CPU), (SIZE_PX, 2 * SIZE_PX), PARAMS, memory).seconds > 0
    for figure in first.figures:
        assert figure.backend in str(figure) and figure.dtype in str(figure)


def test_what_was_measured_beside_other_programs_is_measured_anew_once_they_are_gone(model, tmp_path, monkeypatch):
    memory = tuning.Cache(tmp_path / "tuning.json")
    alone = False
    monkeypatch.setattr(tuning, "disturbed", lambda: not alone)
    first = tuning.tune(model, executions(CPU), SIZE, PARAMS, memory)
    assert first.seconds > 0 and first.figures[0].disturbed
    # Still beside them: nothing better could be measured.
    assert tuning.tune(model, executions(CPU), SIZE, PARAMS, memory).figures == first.figures
    alone = True
    again = tuning.tune(model, executions(CPU), SIZE, PARAMS, memory)
    assert again.seconds > 0 and not again.figures[0].disturbed
    alone = False
    assert tuning.tune(model, executions(CPU), SIZE, PARAMS, memory).figures == again.figures


def test_other_programs_are_noticed():
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * tuning.usable_cores())]
    try:
        # Some of the looks may come before all of them run.
        assert any(tuning.disturbed() for _ in range(100))
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_the_fastest_back_end_and_then_the_fastest_way_are_taken(model, figures, monkeypatch):
    ways = [e for e in executions(CPU)]
    calls = {(e.backend, tuning.dtype_name(e.dtype)): 10.0 + i for i, e in enumerate(ways)}
    calls["eager", "float32"] = 5.0
    monkeypatch.setattr(tuning, "usable_cores", lambda: 8)
    figures(
        calls,
        {(None, False): (20.0, 50.0), (None, True): (25.0, 90.0), (4, False): (29.0, 40.0), (4, True): (30.0, 80.0)},
    )
    tuned = tuning.tune(model, ways, SIZE, PARAMS, tuning.Cache(None))
    assert (tuned.model.execution.backend, tuned.model.execution.dtype) == ("eager", torch.float32)
    # As good as the fastest, and half as late.
    assert (tuned.model.execution.threads, tuned.overlap) == (4, False)
    assert [f.fps for f in tuned.figures[:2]] == [29.0, 30.0]
    # Two rows take 20 ms and the other stages 15: the four free cores would wait for three rows.
    assert tuned.figures[1].many_rows == 3
    # One after the other nothing waits.
    assert tuned.figures[0].many_rows is tuned.model.execution.many_rows is None


@pytest.mark.parametrize(
    "unet_ms, others_ms, rows",
    [(20.0, 15.0, 3), (400.0, 100.0, 1), (20.0, 61.0, 11)],
)
def test_a_longer_call_takes_all_threads_from_where_the_other_cores_would_wait(unet_ms, others_ms, rows):
    assert tuning.many_rows(2, unet_ms, others_ms) == rows
    row_ms = unet_ms / 2
    for count in range(1, 2 * rows):
        everything_ms = (count * row_ms + others_ms) / 2 / tuning.SHARED
        assert (everything_ms < count * row_ms) == (count >= rows)


def test_what_the_user_asked_for_is_not_measured_away(model, figures):
    figures({("eager", "float32"): 5.0}, {(3, False): (1.0, 1.0), (3, True): (2.0, 1.0)})
    tuned = tuning.tune(model, executions(CPU, "eager", torch.float32), SIZE, PARAMS, tuning.Cache(None), threads=3)
    assert (tuned.model.execution.backend, tuned.model.execution.threads, tuned.overlap) == ("eager", 3, True)
    # Nothing is left open: nothing is measured.
    one = executions(CPU, "eager", torch.float32)
    tuned = tuning.tune(model, one, SIZE, PARAMS, tuning.Cache(None), threads=2, overlap=False)
    assert (tuned.figures, tuned.overlap, tuned.model.execution.threads) == ((), False, 2)


def test_a_slow_machine_measures_one_of_each_kind(model, monkeypatch):
    monkeypatch.setattr(tuning, "BUDGET_S", 0.0)
    monkeypatch.setattr(tuning, "CALLS_BUDGET_S", 0.0)
    tuned = tuning.tune(model, executions(CPU), SIZE, PARAMS, tuning.Cache(None))
    assert [f.fps is None for f in tuned.figures] == [False, True]


def test_a_back_end_that_cannot_run_the_model_is_left_out(model, monkeypatch, caplog):
    def broken(*args):
        raise RuntimeError("no such operation")

    first = executions(CPU)[0].backend
    if first == "eager":
        pytest.skip("there is one back end only on this machine")
    monkeypatch.setitem(BACKENDS, first, replace(BACKENDS[first], convert=broken))
    tuned = tuning.tune(model, executions(CPU), SIZE, PARAMS, tuning.Cache(None))
    assert tuned.model.execution.backend == "eager"
    assert f"back end {first}" in caplog.text and "no such operation" in caplog.text
    with pytest.raises(BackendError, match=f"cannot be run by {first}; use another back end"):
        tuning.tune(model, executions(CPU, first), SIZE, PARAMS, tuning.Cache(None))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{]",
        '{"KEY": [{"speed": 3}]}',
        '{"KEY": [{"backend": "warp", "dtype": "float32", "threads": 1}]}',
        '{"KEY": 3}',
    ],
)
def test_a_damaged_memory_is_an_empty_one(tmp_path, content):
    path = tmp_path / "tuning.json"
    path.write_text(content)
    memory = tuning.Cache(path)
    assert memory.recall("KEY") == ()
    figure = tuning.Figure("eager", "float32", None, True, fps=3.0, latency_ms=9.0)
    memory.put("KEY", [figure])
    assert tuning.Cache(path).recall("KEY") == (figure,)
    assert list(json.loads(path.read_text())) == ["KEY"]


def test_a_memory_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    memory = tuning.Cache(tmp_path / "file" / "tuning.json")
    memory.put("KEY", [tuning.Figure("eager", "float32", None)])
    assert memory.recall("KEY") == ()
    assert "measures again" in caplog.text


@pytest.mark.parametrize("overlap", [False, True])
def test_an_error_in_a_stage_comes_out_of_the_trial(model, overlap):
    stream = model.stream(tuning.StreamConfig(*SIZE))
    plan = stream.plan(PARAMS)
    frames = torch.zeros((8, 1, SIZE_PX, SIZE_PX, 3), dtype=torch.uint8)
    run = tuning.overlapped if overlap else tuning.serial
    for _ in range(2):
        turn = run(stream, plan, frames, 0.05)
        assert turn.fps > 0 and turn.latency_ms > 0 and turn.unet_ms > 0 and turn.others_ms > 0
    with pytest.raises(ValueError, match="cannot be used"):
        run(stream, plan, frames.float(), 0.05)


def test_nothing_is_measured_beside_a_model_that_paints(model, tmp_path, monkeypatch):
    """It would hold that up; what an earlier start measured is used, whatever was beside it."""
    monkeypatch.setattr(tuning, "disturbed", lambda: pytest.fail("looked"))
    memory = tuning.Cache(tmp_path / "tuning.json")
    running = replace(executions(CPU, "eager")[-1], threads=1, many_rows=5)
    taken = tuning.tune(model, executions(CPU), SIZE, PARAMS, memory, overlap=True, beside=running)
    execution = taken.model.execution
    assert (execution.backend, execution.dtype, execution.threads) == ("eager", running.dtype, 1)
    assert execution.many_rows == 5 and taken.overlap and taken.figures == () and taken.seconds == 0.0
    assert not (tmp_path / "tuning.json").exists()
    with monkeypatch.context() as alone:
        alone.setattr(tuning, "disturbed", lambda: True)
        measured = tuning.tune(model, executions(CPU), SIZE, PARAMS, memory, overlap=True)
    again = tuning.tune(model, executions(CPU), SIZE, PARAMS, memory, overlap=True, beside=running)
    assert again.figures == measured.figures

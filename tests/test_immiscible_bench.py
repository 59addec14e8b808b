"""The figures of `bench immiscible`: intervals, speed-ups, verdicts; its path over a made-up CIFAR-10."""

from __future__ import annotations

import math

import pytest
import torch

from core.pairing import PAIRINGS as ALL
from core.training.compare import Trial
from tests.bench import immiscible
from tests.bench.immiscible import interval, noise_statistics, speed_up, steps_to, verdict
from tests.core.test_training import made_up


def test_intervals_are_of_logarithms_by_student_s_t():
    mean, low, high = interval([0.5, 1.0, 2.0])
    assert mean == pytest.approx(1.0) and low * high == pytest.approx(1.0)
    # t of 2 degrees of freedom at 97.5 %: 4.303; deviation log 2.
    assert high == pytest.approx(math.exp(4.3027 * math.log(2.0) / 3**0.5), rel=1e-3)
    assert interval([0.7]) == (pytest.approx(0.7), 0.0, math.inf)


def test_steps_to_a_distance_lie_between_two_looks():
    curve = [(100, 80.0), (200, 20.0), (300, 25.0)]
    assert steps_to(curve, 80.0) == 100 and steps_to(curve, 20.0) == 200
    assert steps_to(curve, 40.0) == pytest.approx(150)
    assert steps_to(curve, 100.0) == 100


def test_a_speed_up_counts_either_way():
    slow, quick = [(100, 80.0), (200, 40.0), (400, 20.0)], [(100, 40.0), (200, 20.0), (400, 10.0)]
    assert speed_up(slow, quick) == pytest.approx(2.0) and speed_up(quick, slow) == pytest.approx(0.5)
    assert speed_up(slow, slow) == 1.0


def test_a_verdict_needs_the_whole_interval():
    assert [verdict(0.5, 0.9), verdict(0.9, 1.1), verdict(1.01, 2.0)] == ["better", "undecided", "worse"]


def test_from_a_made_up_cifar_to_a_compared_trial(tmp_path, monkeypatch):
    (tmp_path / "cifar").mkdir()
    made_up(tmp_path / "cifar", batches=3, records=10)
    for name, value in (("CLASSIFIER_STEPS", 10), ("FIT_STEPS", 10)):
        monkeypatch.setattr(immiscible, name, value)
    data = immiscible._prepared(tmp_path, tmp_path / "cifar")
    loaded = immiscible._load(data)
    monkeypatch.setattr(immiscible, "_LOADED", loaded)
    assert loaded["side"] == 32 and loaded["repainting"] is None
    records = {}
    for pairing in ("none", "nearest"):
        sizes = {"steps": 4, "batch": 8, "width": 16, "blocks": 1, "looks": 2, "made": 70}
        trial = Trial("few-step", pairing, False, 0, **sizes)
        immiscible._run(trial, tmp_path / f"{trial.name}.json")
        records |= immiscible._records([trial], data, tmp_path, 1)
    cell = immiscible._compared(records, 1)["few-step, unconditional"]
    assert cell["none"]["1 evaluations"]["ratio"][0] == 1.0 and cell["nearest"]["seeds"] == 1
    assert cell["nearest"]["1 evaluations"]["verdict"] == "undecided", "one seed decides nothing"
    statistics = noise_statistics(loaded, 16, 64)
    assert statistics.keys() == ALL.keys() and statistics["assignment"]["nearer"] > statistics["none"]["nearer"]
    assert torch.load(data, weights_only=True)["side"] == 32

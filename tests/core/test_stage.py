"""Resumable stages of training."""

from __future__ import annotations

import math

import pytest
import torch

from core.tiny.stage import LOOK_EVERY, MOST_SETBACKS, Diverged, Stage


def staged(tmp_path, said, module):
    return Stage(
        "toy", tmp_path, module, said.append, rate=lambda step, done, peak: peak, average=0.9, checkpoint_s=1e9
    )


def test_a_loss_that_is_not_a_number_leads_back_to_the_last_good_state(tmp_path):
    torch.manual_seed(0)
    module, said, rates = torch.nn.Linear(2, 1), [], []
    stage = staged(tmp_path, said, module)
    bad = 2 * LOOK_EVERY - 10

    def loss_at(step):
        rates.append(stage.progress.optimizer.param_groups[0]["lr"])
        loss = (module(torch.ones(4, 2)) - 3.0).square().mean()
        return (loss * math.nan if step == bad else loss), {"loss": loss.detach()}

    stage.run(6 * LOOK_EVERY, 0.01, loss_at)
    assert sum("not a number" in line for line in said) == 1
    assert rates[bad] == 0.01 and rates[-1] == 0.005
    assert all(bool(value.isfinite().all()) for value in [*module.parameters(), *stage.progress.average.values()])
    assert abs(float(module(torch.ones(1, 2)).detach()) - 3.0) < 0.5, "it learnt on"
    assert stage.progress.step == 6 * LOOK_EVERY


def test_a_training_that_always_diverges_ends_in_a_sentence_and_keeps_the_good_state(tmp_path):
    module, said = torch.nn.Linear(2, 1), []
    before = [value.clone() for value in module.parameters()]
    stage = staged(tmp_path, said, module)
    with pytest.raises(Diverged, match="lower learning rate"):
        stage.run(100 * LOOK_EVERY, 0.01, lambda step: (module(torch.ones(4, 2)).mean() * math.nan, {}))
    assert len(said) == MOST_SETBACKS
    again = staged(tmp_path, said, torch.nn.Linear(2, 1))
    assert all(torch.equal(a, b) for a, b in zip(again.progress.module.parameters(), before, strict=True))

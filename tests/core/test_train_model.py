"""A model of one's own from captioned pictures: noise levels, guidance baked in, a training that is killed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from core.model import load_model
from core.params import Params
from core.schedule import NoiseSchedule
from core.stream import StreamConfig
from core.tiny import AUTOENCODER, WEIGHTS
from core.tiny.parts import SCHEDULER
from core.tiny.shards import tokens_of
from core.training import model as recipe
from core.training.datasets import DataError
from core.training.folder import Captioned
from core.training.model import ByObjective, ModelSettings, Timesteps, guided, train_model
from core.training.objectives import OBJECTIVES

CPU = torch.device("cpu")
SHAPE = (16, 4, 4)
TINY = ModelSettings(steps=3, rows=4, size=32, sheet_every=2, checkpoint_s=0.0, lr=1e-3)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Knowing:
    """Stands for a painter that knows the one clean latent there is, shifted by what it was told: its v."""

    def __init__(self, x_D, told=0.0):
        self.x_D, self.told = x_D, told
        alpha_bar = NoiseSchedule.from_config(SCHEDULER).alphas_cumprod_T
        self.a, self.b = alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()

    def __call__(self, x_Bchw, t_B, tokens_BT):
        # Between timesteps as the levels are: straight in the logarithm of their ratio.
        low = t_B.long().clamp(max=998)
        ratio = (self.b / self.a).log()
        at = (ratio[low] + (t_B - low) * (ratio[low + 1] - ratio[low])).exp()[:, None]
        a, b = 1.0 / (1.0 + at.square()).sqrt(), at / (1.0 + at.square()).sqrt()
        named = (tokens_BT != tokens_of([""]).long()).any(1).float()[:, None]
        clean = self.x_D + self.told * named
        noise = (x_Bchw.flatten(1) - a * clean) / b
        return (a * noise - b * clean).view_as(x_Bchw)


def net_of(name, painter):
    return ByObjective(painter, OBJECTIVES[name], SHAPE, tokens_of(["moss style", ""]).long())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_painter_of_v_is_a_network_of_every_objective(name):
    objective = OBJECTIVES[name]
    x, noise = torch.randn(1, 256, generator=seeded(0)), torch.randn(8, 256, generator=seeded(1))
    t, captions = torch.linspace(0.03, 0.93, 8), torch.zeros(8, dtype=torch.long)
    net = net_of(name, Knowing(x))
    out = net(objective.noised(x, noise, t), t, captions)
    torch.testing.assert_close(out, objective.target(x.expand(8, -1), noise, t[:, None]), atol=1e-4, rtol=1e-4)
    # Consistency training looks at earlier times, which stay above Stable Diffusion's least noise.
    t = t.clamp(min=0.3)
    for done in (0.1, 0.3, 0.6, 0.9):
        assert float(objective.loss(objective, net, x.expand(8, -1), noise, captions, t, done)) < 1e-3


def test_timesteps_are_those_of_the_same_ratio_of_noise_to_signal():
    alpha_bar = NoiseSchedule.from_config(SCHEDULER).alphas_cumprod_T
    a, b = alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()
    torch.testing.assert_close(Timesteps(CPU).of(3.0 * a, 3.0 * b), torch.arange(1000.0), atol=0.05, rtol=0)
    ends = Timesteps(CPU).of(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [0.0, 999.0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_guidance_moves_the_target_and_leaves_the_mixture(name):
    objective, captions = OBJECTIVES[name], torch.tensor([0, 0, 1])
    x, noise = torch.randn(3, 256, generator=seeded(2)), torch.randn(3, 256, generator=seeded(3))
    t = torch.tensor([0.2, 0.7, 0.5])
    guide = net_of(name, Knowing(x, told=0.5))
    moved_x, moved_noise = guided(guide, objective, x, noise, captions, t, 2.0)
    torch.testing.assert_close(
        objective.noised(moved_x, moved_noise, t), objective.noised(x, noise, t), atol=1e-4, rtol=1e-4
    )
    # Told, this guide says 0.5 more everywhere than untold.
    torch.testing.assert_close(moved_x[:2], x[:2] + 1.0, atol=2e-3, rtol=2e-3)
    assert torch.equal(moved_x[2], x[2]) and torch.equal(moved_noise[2], noise[2]), "without a caption: as it was"


# -- the training ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given():
    """Pictures of two captions: red ones, blue ones."""
    pictures = torch.zeros((6, 40, 40, 3), dtype=torch.uint8)
    pictures[::2, ..., 0] = pictures[1::2, ..., 2] = 200
    pictures += torch.randint(0, 30, pictures.shape, generator=seeded(0), dtype=torch.uint8)
    return Captioned(pictures, ("neon style", "ice style") * 3, tuple(f"{i}.png" for i in range(6)))


def run(folder, given, settings=TINY, **options):
    said = []
    train_model(settings, given, AUTOENCODER, folder / "work", folder / "out", CPU, said.append, **options)
    return said


@pytest.fixture(scope="module")
def flow(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    run(folder, given, replace(TINY, pairing="assignment"))
    return folder


def weights(folder):
    return {p.relative_to(folder / "out"): p.read_bytes() for p in (folder / "out").rglob("*.safetensors")}


def test_what_comes_out_is_a_model_folder_that_the_stream_runs_in_both_tasks(flow):
    model = load_model(flow / "out", CPU, torch.float32, "eager")
    assert model.prediction == "v_prediction" and model.native_size == 32
    stream = model.stream(StreamConfig(32, 32))
    for task in ("img2img", "txt2img"):
        plan = stream.plan(Params(prompt="neon style", task=task, mode="latency", steps=2))
        picture = stream.step(torch.zeros((1, 32, 32, 3), dtype=torch.uint8), 0, plan).frame_FHWC
        assert picture.shape == (1, 32, 32, 4)
    told = json.loads((flow / "out" / "recipe.json").read_text())
    assert told["settings"]["objective"] == "flow" and told["steps"] == 3 and told["captions"][0] == "neon style"
    assert {"samples.png", "samples_000002.png"} <= {p.name for p in (flow / "work").iterdir()}


def test_few_steps_with_guidance_from_a_flow_and_low_rank_from_that(flow, given, tmp_path):
    few = replace(TINY, objective="few-step", guidance=1.0, steps=2)
    run(tmp_path, given, few, start=flow / "out")
    assert weights(tmp_path).keys() == weights(flow).keys() and weights(tmp_path) != weights(flow)
    run(tmp_path / "low", given, replace(TINY, objective="diffusion", rank=2, steps=1), start=tmp_path / "out")
    assert weights(tmp_path / "low").keys() == weights(flow).keys()
    load_model(tmp_path / "low" / "out", CPU, torch.float32, "eager")


def test_a_training_that_is_killed_ends_as_if_it_had_not_been(flow, given, tmp_path, monkeypatch):
    plain, calls = recipe.seed_of, []

    def killed(seed, step):
        calls.append(step)
        if step == 2 and calls.count(2) == 1:
            raise KeyboardInterrupt
        return plain(seed, step)

    settings = replace(TINY, pairing="assignment")
    monkeypatch.setattr(recipe, "seed_of", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, given, replace(settings, sheet_every=1000))
    assert not (tmp_path / "out").exists()
    said = run(tmp_path, given, settings)
    assert any("going on from step 2" in line for line in said)
    assert weights(tmp_path) == weights(flow)


def test_what_cannot_be_is_said(flow, given, tmp_path):
    with pytest.raises(DataError, match="multiple of 16"):
        run(tmp_path, given, replace(TINY, size=40))
    with pytest.raises(DataError, match="need a trained model"):
        run(tmp_path, given, replace(TINY, guidance=1.0))
    with pytest.raises(DataError, match="answers with sample"):
        run(tmp_path, given, start=WEIGHTS)
    with pytest.raises(DataError, match="is no model of this kind"):
        run(tmp_path / "a", given, start=tmp_path)
    with pytest.raises(DataError, match="another training"):
        run(flow, given, replace(TINY, seed=9))
    with pytest.raises(DataError, match="is no autoencoder"):
        train_model(TINY, given, tmp_path, tmp_path / "b", tmp_path / "out", CPU, lambda line: None)

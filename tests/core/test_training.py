"""Training that is not tied to one model: data sets, objectives, distances, curves, comparisons."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.pairing import PAIRINGS, TrainingSet
from core.training.compare import DRAWS, Measure, Repainting, Trial, repainted, train_trial
from core.training.curves import COLOURS_RGB, Line, Panel, drawn, save_picture
from core.training.datasets import CIFAR_RECORD, DataError, cifar10, in_styles, world_pictures, world_views
from core.training.frechet import frechet_distance, trained_classifier
from core.training.mixer import Mixer
from core.training.objectives import OBJECTIVES


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- CIFAR-10 in its published layout ----------------------------------------------------------------------------------


def made_up(folder, batches=2, records=5):
    """A folder as the binary version unpacks to; the pictures are flat: red 10 label, green 20, blue 30."""
    for name in [*(f"data_batch_{i + 1}.bin" for i in range(batches)), "test_batch.bin"]:
        rows = []
        for label in range(records):
            planes = [np.full(1024, value, np.uint8) for value in (10 * label, 20, 30)]
            rows.append(np.concatenate([np.array([label], np.uint8), *planes]))
        np.concatenate(rows).tofile(folder / name)
    return folder


def test_cifar_is_read_as_it_is_published(tmp_path):
    training, held_out = cifar10(made_up(tmp_path))
    assert training.x_ND.shape == (10, 3072) and held_out.x_ND.shape == (5, 3072)
    assert training.caption_N.tolist() == [0, 1, 2, 3, 4] * 2 and training.captions == 10
    red, green, blue = ((training.x_ND[3].view(3, -1) + 1.0) * 127.5).mean(1).tolist()
    assert (round(red), round(green), round(blue)) == (30, 20, 30)


def spoil(folder, how):
    first = folder / "data_batch_1.bin"
    if how == "cut short":
        first.write_bytes(first.read_bytes()[:-1])
    elif how == "empty":
        first.write_bytes(b"")
    elif how == "a label of 200":
        first.write_bytes(bytes([200]) + first.read_bytes()[1:])
    elif how == "no test batch":
        (folder / "test_batch.bin").unlink()
    else:
        first.rename(folder / "data_batch_1")
        (folder / "data_batch_2.bin").unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut short", f"not a multiple of {CIFAR_RECORD}"),
        ("empty", "has 0 bytes"),
        ("a label of 200", "label 200"),
        ("no test batch", "binary version"),
        ("no batches", "binary version"),
    ],
)
def test_a_folder_that_is_not_cifar_is_refused_in_a_sentence(tmp_path, how, said):
    spoil(made_up(tmp_path), how)
    with pytest.raises(DataError, match=said):
        cifar10(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        cifar10(tmp_path / "nowhere")


# -- the world ---------------------------------------------------------------------------------------------------------


def test_world_pictures_are_told_apart_by_a_classifier():
    data, other = world_pictures(384, 16, 1), world_pictures(128, 16, 2)
    assert data.x_ND.shape == (384, 768) and not torch.equal(data.x_ND[:128], other.x_ND)
    assert torch.equal(world_pictures(128, 16, 2).x_ND, other.x_ND)
    classifier = trained_classifier(data.x_ND, data.caption_N, 16, steps=120)
    assert float((classifier(other.x_ND).argmax(1) == other.caption_N).float().mean()) > 0.9


# -- distances ---------------------------------------------------------------------------------------------------------


def test_the_frechet_distance_of_gaussians_is_the_formula():
    drawn_ = torch.randn(200_000, 3, generator=seeded(0))
    assert frechet_distance(drawn_[:100_000], drawn_[100_000:]) < 0.01
    moved = 2.0 * drawn_[100_000:] + torch.tensor([1.0, 0.0, -2.0])
    # |m|^2 + sum of (1 - 2)^2
    assert frechet_distance(drawn_[:100_000], moved) == pytest.approx(5.0 + 3.0, rel=0.02)


# -- objectives --------------------------------------------------------------------------------------------------------


class Knowing:
    """What a network would say that knows the one picture that there is."""

    def __init__(self, objective, x):
        self.objective, self.x = objective, x

    def __call__(self, noised, t, captions):
        a, b = self.objective.levels(t[:, None])
        noise = (noised - a * self.x) / b
        return self.objective.target(self.x.expand_as(noised), noise, t[:, None])


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("evaluations", [1, 2, 7])
def test_who_knows_the_answer_makes_the_picture_and_has_no_loss(name, evaluations):
    objective, x = OBJECTIVES[name], torch.randn(1, 12, generator=seeded(1))
    knowing = Knowing(objective, x)
    noise, captions = torch.randn(64, 12, generator=seeded(2)), torch.zeros(64, dtype=torch.long)
    made = objective.made(knowing, noise, captions, evaluations, seeded(3))
    torch.testing.assert_close(made, x.expand(64, -1), atol=1e-3, rtol=1e-3)
    t = torch.rand(64, generator=seeded(4)).clamp(min=0.01)
    for done in (0.0, 0.3, 0.6, 0.99):
        loss = objective.loss(objective, knowing, x.expand(64, -1), noise, captions, t, done)
        assert float(loss) < 1e-3
        ignorant = objective.loss(objective, lambda x, t, c: torch.zeros_like(x), x, noise, captions, t, done)
        assert float(ignorant) > 0.05


@pytest.mark.parametrize("name", OBJECTIVES)
def test_levels_go_from_the_picture_to_noise_alone(name):
    a, b = OBJECTIVES[name].levels(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(a, torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(b, torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)


def test_the_mixer_sees_time_caption_and_place():
    torch.manual_seed(0)
    net = Mixer(16, 4, width=16, blocks=2)
    for parameter in net.leave.parameters():
        torch.nn.init.normal_(parameter)
    x, t, caption = torch.randn(2, 768), torch.full((2,), 0.5), torch.tensor([0, 4])
    out = net(x, t, caption)
    assert out.shape == x.shape
    assert not torch.allclose(net(x, t + 0.2, caption), out)
    assert not torch.allclose(net(x, t, torch.tensor([1, 4]))[0], out[0])
    turned = x.view(2, 3, 16, 16).flip(-1).flatten(1)
    assert not torch.allclose(net(turned, t, caption).view(2, 3, 16, 16).flip(-1).flatten(1), out)


# -- comparisons -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    data = world_pictures(192, 16, 1)
    data = data.scaled(float(data.x_ND.mean()), float(data.x_ND.std()))
    classifier = trained_classifier(data.x_ND, data.caption_N, 16, steps=60)
    return TrainingSet(data.x_ND, data.caption_N), Measure(classifier, classifier.features(data.x_ND).detach())


SMALL = Trial("flow", "none", True, 0, steps=40, batch=32, width=32, blocks=1, looks=2, made=128, average=0.9)


def test_a_trial_is_its_seed_s_alone_and_learns(measured):
    one, net = train_trial(SMALL, measured[0], 16, measured[1])
    same, again = train_trial(SMALL, measured[0], 16, measured[1])
    assert one["curve"] == same["curve"] and one["final"] == same["final"]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    other, _ = train_trial(replace(SMALL, seed=1), measured[0], 16, measured[1])
    assert other["curve"] != one["curve"]
    steps, distances = zip(*one["curve"], strict=True)
    assert steps == (20, 40) and distances[1] < distances[0]
    assert 0.0 <= one["pairing_s"] < one["step_s"]


def test_pairings_differ_in_who_gets_which_noise_alone(measured, monkeypatch):
    seen = {}
    for name in ("none", "assignment"):
        plain, drawn_ = PAIRINGS[name], []

        def watched(data, rows, generator, plain=plain, drawn_=drawn_):
            paired = plain(data, rows, generator)
            drawn_.append((paired.rows_B, paired.noise_BD.sum(0)))
            return paired

        monkeypatch.setattr("core.training.compare.PAIRINGS", {name: watched})
        record, _ = train_trial(replace(SMALL, pairing=name, steps=4), measured[0], 16, measured[1])
        seen[name] = (drawn_, record["final"])
    for (rows, noise), (other_rows, other_noise) in zip(seen["none"][0], seen["assignment"][0], strict=True):
        assert torch.equal(rows, other_rows)
        torch.testing.assert_close(noise, other_noise, atol=1e-4, rtol=1e-4)
    assert seen["none"][1] != seen["assignment"][1]


def test_without_captions_no_pairing_may_tell_them_apart(measured):
    trial = replace(SMALL, conditional=False, steps=4)
    by_caption, _ = train_trial(replace(trial, pairing="assignment-by-caption"), measured[0], 16, measured[1])
    plain, _ = train_trial(replace(trial, pairing="assignment"), measured[0], 16, measured[1])
    assert by_caption["curve"] == plain["curve"] and "prompted" not in plain["final"]["8"]


def test_repainting_takes_better_noise_the_more_draws_there_are(measured):
    views = world_views(64, 16, 5)
    captions = torch.arange(64) % 8
    given = Repainting(in_styles(views, captions), in_styles(views, captions.roll(1)), captions.roll(1))
    planes, products = given.before.view(64, 3, -1), {}
    centred = (planes - planes.mean(2, keepdim=True)).flatten(1)

    def listening(noised, t, caption):
        products[draws] = products.get(draws, float((noised * centred).sum()))
        return torch.zeros_like(noised)

    for draws in DRAWS:
        figures = repainted(OBJECTIVES["flow"], listening, given, measured[1], draws)
        assert all(math.isfinite(value) for value in figures.values())
    assert products[DRAWS[0]] < products[DRAWS[1]] < products[DRAWS[2]]


# -- curves ------------------------------------------------------------------------------------------------------------


def test_curves_are_drawn_in_their_colours_and_saved(tmp_path):
    lines = {"one": Line([0, 10, 20], [5.0, 2.0, 1.0], [4.0, 1.5, 0.8], [6.0, 3.0, 1.2]), "two": Line([0, 20], [1, 9])}
    picture = drawn([Panel("a", lines, log=True), Panel("b", {"two": lines["two"]}), Panel("c", {})])
    for colour in COLOURS_RGB[:2]:
        assert (picture == np.array(colour)).all(-1).sum() > 100
    save_picture(tmp_path / "deep" / "x.png", picture)
    assert (tmp_path / "deep" / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("values", [[1.0, math.nan, 2.0], [0.0, 0.0, 0.0], [3.0, 3.0, 3.0], [-1.0, 1e12, 1e-12]])
@pytest.mark.parametrize("log", [False, True])
def test_curves_of_odd_values_are_drawn_all_the_same(values, log):
    assert drawn([Panel("odd", {"x": Line([1, 2, 3], values)}, log=log)], columns=1).shape[2] == 3

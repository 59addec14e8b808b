"""Noise pairings: what each keeps, what it changes, and that the quick ones equal the plain."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf

from core import pairing
from core.pairing import PAIRINGS, TrainingSet, fitted


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(count: int, seed: int = 0) -> torch.Tensor:
    """Pictures with the spectrum of latents, and with a common brightness."""
    drawn = torch.randn(count, 4, 4, 4, generator=seeded(seed))
    x = nnf.interpolate(drawn, (8, 8), mode="bilinear").flatten(1)
    return x / x.std() + 0.3


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    plain = TrainingSet(smooth(96), torch.arange(96) % 6)
    once = fitted(plain, seeded(1), steps=200, batch=512)
    return fitted(once, seeded(1), steps=200, batch=512, within_captions=True)


def alignment(data: TrainingSet, paired: pairing.Paired) -> float:
    x = data.x_ND[paired.rows_B] - data.x_ND.mean(0)
    return float(nnf.cosine_similarity(x, paired.noise_BD).mean())


@pytest.mark.parametrize("name", PAIRINGS)
def test_every_pairing_gives_rows_and_their_noise_from_the_generator_alone(data: TrainingSet, name: str) -> None:
    rows = torch.randint(96, (64,), generator=seeded(2))
    one, same, other = (PAIRINGS[name](data, rows, seeded(seed)) for seed in (3, 3, 4))
    assert one.noise_BD.shape == (64, data.x_ND.shape[1]) and one.rows_B.shape == (64,)
    assert torch.equal(one.noise_BD, same.noise_BD) and torch.equal(one.rows_B, same.rows_B)
    assert not torch.equal(one.noise_BD, other.noise_BD)
    assert name.startswith("semi-discrete") or torch.equal(one.rows_B, rows)
    assert name == "semi-discrete" or torch.equal(data.caption_N[one.rows_B], data.caption_N[rows])


@pytest.mark.parametrize("name", PAIRINGS)
def test_all_but_none_bring_noise_nearer_to_its_picture(data: TrainingSet, name: str) -> None:
    rows = torch.randint(96, (512,), generator=seeded(5))
    found = alignment(data, PAIRINGS[name](data, rows, seeded(6)))
    assert abs(found) < 0.01 if name == "none" else found > 0.03


@pytest.mark.parametrize("name", [n for n in PAIRINGS if "assignment" in n])
def test_an_assignment_only_permutes_the_noise(data: TrainingSet, name: str) -> None:
    rows = torch.arange(96)
    paired = PAIRINGS[name](data, rows, seeded(7))
    drawn = PAIRINGS["none"](data, rows, seeded(7)).noise_BD
    assert torch.equal(paired.noise_BD.sort(0).values, drawn.sort(0).values)
    assert {tuple(n.tolist()) for n in paired.noise_BD} == {tuple(n.tolist()) for n in drawn}


def test_the_assignment_is_that_of_least_squared_distance() -> None:
    few = TrainingSet(smooth(6), torch.zeros(6, dtype=torch.long))
    rows = torch.arange(6)
    drawn = PAIRINGS["none"](few, rows, seeded(8)).noise_BD
    best = min(
        itertools.permutations(range(6)), key=lambda order: float((few.x_ND - drawn[list(order)]).square().sum())
    )
    assert torch.equal(PAIRINGS["assignment"](few, rows, seeded(8)).noise_BD, drawn[list(best)])


def test_blocks_are_matched_apart(data: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "BLOCK", 16)
    rows = torch.arange(64)
    paired = PAIRINGS["assignment"](data, rows, seeded(9))
    drawn = PAIRINGS["none"](data, rows, seeded(9)).noise_BD
    for block, own in zip(paired.noise_BD.split(16), drawn.split(16), strict=True):
        assert torch.equal(block.sort(0).values, own.sort(0).values)


def test_by_caption_no_noise_leaves_its_caption(data: TrainingSet) -> None:
    rows = torch.arange(96)
    paired = PAIRINGS["assignment-by-caption"](data, rows, seeded(10))
    drawn = PAIRINGS["none"](data, rows, seeded(10)).noise_BD
    for caption in range(6):
        own = data.caption_N == caption
        assert torch.equal(paired.noise_BD[own].sort(0).values, drawn[own].sort(0).values)


def test_the_published_nearest_is_too_quiet_and_leans_and_the_centred_one_is_not(data: TrainingSet) -> None:
    rows = torch.randint(96, (4096,), generator=seeded(11))
    towards = data.x_ND.mean(0) / data.x_ND.mean(0).norm()

    def of(name: str) -> tuple[float, float]:
        noise = PAIRINGS[name](data, rows, seeded(12)).noise_BD
        return float(noise.square().mean()), float((noise @ towards).mean())

    strength, lean = of("nearest")
    assert strength < 0.985 and lean > 0.1
    strength, lean = of("nearest-centred")
    assert abs(strength - 1.0) < 0.012 and abs(lean) < 0.06


def test_fitted_potentials_leave_no_picture_out_where_a_batch_finds_few_of_them() -> None:
    generator = seeded(14)
    data = fitted(
        TrainingSet(torch.randn(1024, 96, generator=generator), torch.zeros(1024).long()), generator, 150, 256
    )
    found = PAIRINGS["semi-discrete"](data, torch.zeros(40_000, dtype=torch.long), generator).rows_B
    share = torch.bincount(found, minlength=1024) / 40_000 * 1024
    assert share.min() > 0.1 and float((share - 1.0).abs().mean()) < 0.4


def test_semi_discrete_noise_is_untouched_and_every_picture_gets_its_share(data: TrainingSet) -> None:
    rows = torch.zeros(20_000, dtype=torch.long)
    paired = PAIRINGS["semi-discrete"](data, rows, seeded(13))
    assert torch.equal(paired.noise_BD, PAIRINGS["none"](data, rows, seeded(13)).noise_BD)
    share = torch.bincount(paired.rows_B, minlength=96) / 20_000 * 96
    assert share.min() > 0.7 and share.max() < 1.4
    unfitted = TrainingSet(data.x_ND, data.caption_N, torch.zeros(96))
    uneven = torch.bincount(PAIRINGS["semi-discrete"](unfitted, rows, seeded(13)).rows_B, minlength=96) / 20_000 * 96
    assert uneven.max() > 2.0 * share.max()
    for name in ("semi-discrete", "semi-discrete-by-caption"):
        with pytest.raises(ValueError, match="give it to `fitted`"):
            PAIRINGS[name](TrainingSet(data.x_ND, data.caption_N), rows, seeded(13))


def test_within_captions_every_picture_of_a_caption_gets_its_share(data: TrainingSet) -> None:
    rows = torch.arange(30_000) % 3  # half of the captions alone
    paired = PAIRINGS["semi-discrete-by-caption"](data, rows, seeded(13))
    assert torch.equal(paired.noise_BD, PAIRINGS["none"](data, rows, seeded(13)).noise_BD)
    share = torch.bincount(paired.rows_B, minlength=96) / 30_000 * 48
    asked = data.caption_N < 3
    assert share[~asked].max() == 0 and share[asked].min() > 0.7 and share[asked].max() < 1.4

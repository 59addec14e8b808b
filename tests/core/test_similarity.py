"""The similarity filter: when it rests, and that it never rests on a half-shown change."""

from __future__ import annotations

import pytest
import torch

from core.similarity import CHUNK, SimilarityFilter, similarity_of, skip_probability

OPTIONS = {"threshold": 0.98, "max_skip": 10}


def picture(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_probability_follows_the_paper():
    assert skip_probability(1.0, 0.98) == 1.0
    assert skip_probability(0.99, 0.98) == pytest.approx(0.5)
    assert skip_probability(0.98, 0.98) == pytest.approx(0.0)
    assert skip_probability(0.5, 0.98) == 0.0
    assert skip_probability(1.0, 1.0) == 0.0


def test_black_pictures_are_similar_to_each_other_only():
    black = torch.zeros(4, 4, 3, dtype=torch.uint8)
    assert similarity_of(black, black.clone()) == 1.0
    assert similarity_of(black, picture(1)[:4, :4]) == 0.0


def test_pictures_of_one_brightness_are_as_alike_as_the_paper_says():
    one = picture(1)
    other = one.flip(0)
    cosine = torch.nn.functional.cosine_similarity(one.flatten().float(), other.flatten().float(), dim=0)
    assert similarity_of(one, other) == pytest.approx(float(cosine), abs=1e-5)
    assert similarity_of(one, one.clone()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("channels", [3, 4])
def test_pieces_of_a_large_picture_add_up_without_alpha(channels):
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(0, 256, (203, 301, channels), dtype=torch.uint8, generator=generator) for _ in "ab")
    assert one.numel() > 2 * CHUNK
    a, b = (picture[..., :3].flatten().double() for picture in (one, other))
    assert similarity_of(one, other) == pytest.approx(float(a @ b / max(a @ a, b @ b)), abs=1e-4)
    assert similarity_of(one, one.clone()) == 1.0


@pytest.mark.parametrize("bright", [picture(0) // 2, torch.full((8, 8, 3), 60, dtype=torch.uint8)])
def test_a_change_of_brightness_alone_runs(bright):
    """Its cosine with the picture before it is 1."""
    rest = SimilarityFilter()
    for still in (bright, bright * 2, bright):
        assert rest.admit(still, depth=0, **OPTIONS)
        assert not rest.admit(still, depth=0, **OPTIONS)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_still_picture_rests_after_the_flush_and_wakes_after_max_skip(depth):
    rest = SimilarityFilter()
    still = picture(0)
    ran = [rest.admit(still, depth=depth, **OPTIONS) for _ in range(50)]
    period = [True] * (depth + 1) + [False] * 10
    assert ran == (period * 50)[:50]
    assert rest.skipped == ran.count(False)
    assert rest.admitted == ran.count(True)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_change_during_the_flush_is_flushed_too(depth):
    rest = SimilarityFilter()
    ran = [rest.admit(picture(0), depth=depth, **OPTIONS), rest.admit(picture(1), depth=depth, **OPTIONS)]
    ran += [rest.admit(picture(1), depth=depth, **OPTIONS) for _ in range(depth + 1)]
    assert ran == [True] * (depth + 2) + [False]


def test_a_changed_key_runs_the_next_frame_and_flushes():
    rest = SimilarityFilter()
    still = picture(0)
    for _ in range(3):
        rest.admit(still, depth=1, key="a", **OPTIONS)
    ran = [rest.admit(still, depth=1, key="b", **OPTIONS) for _ in range(3)]
    assert ran == [True, True, False]


def test_max_skip_zero_never_rests():
    rest = SimilarityFilter()
    assert all(rest.admit(picture(0), depth=0, threshold=0.98, max_skip=0) for _ in range(10))


def test_moving_pictures_all_run():
    rest = SimilarityFilter()
    assert all(rest.admit(picture(i), depth=2, **OPTIONS) for i in range(20))


def test_a_new_size_runs():
    rest = SimilarityFilter()
    rest.admit(picture(0), depth=0, **OPTIONS)
    assert rest.admit(picture(0)[:4], depth=0, **OPTIONS)

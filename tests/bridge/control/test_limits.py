"""How often something may happen."""

from __future__ import annotations

import math

import pytest

from bridge.control.limits import KEYS_KEPT, OncePer, TokenBucket


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("bridge.control.limits.time.monotonic", lambda: now[0])
    return now


def test_a_bucket_makes_debts_wait(clock: list[float]) -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert bucket.take(5) == 0
    assert bucket.take(20) == pytest.approx(2.0)
    clock[0] += 2.0
    assert bucket.take(0) == pytest.approx(0, abs=1e-9)
    clock[0] += 1000
    assert bucket.take(6) == pytest.approx(0.1)
    assert TokenBucket(rate=10, burst=5, saved=1).take(2) == pytest.approx(0.1)


def test_the_same_thing_happens_once_in_so_many_seconds(clock: list[float]) -> None:
    once = OncePer(2.0)
    assert [once.may("a"), once.may("a"), once.may("b")] == [True, False, True]
    clock[0] += 2.0
    assert once.may("a")


def test_what_is_told_once_for_good(clock: list[float]) -> None:
    once = OncePer(math.inf)
    assert once.may("a")
    clock[0] += 1e9
    assert not once.may("a") and once.may("b")


def test_what_happened_is_not_remembered_without_end(clock: list[float]) -> None:
    once = OncePer(1e9)
    for number in range(10 * KEYS_KEPT):
        assert once.may(number)
    assert len(once._last) <= KEYS_KEPT

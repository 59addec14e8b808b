"""The parts of a call, run at once."""

from __future__ import annotations

import threading

import pytest

from bridge.spread import Spread


def test_results_come_in_order_and_the_parts_run_at_once():
    meet = threading.Barrier(2, timeout=30.0)

    def part(result):
        meet.wait()  # passes only when both parts are running
        return result

    spread = Spread()
    try:
        assert spread([lambda: part("first"), lambda: part("second")]) == ["first", "second"]
    finally:
        spread.close()


def test_an_error_waits_for_the_other_part_and_is_raised():
    spread, done = Spread(), threading.Event()
    started = threading.Event()

    def fails():
        started.wait(30.0)
        raise ValueError("first part")

    def succeeds():
        started.set()
        done.set()

    try:
        with pytest.raises(ValueError, match="first part"):
            spread([fails, succeeds])
        assert done.is_set()
        with pytest.raises(ZeroDivisionError):
            spread([lambda: 1.0, lambda: 1 / 0])
        assert spread([lambda: 1]) == [1]
    finally:
        spread.close()

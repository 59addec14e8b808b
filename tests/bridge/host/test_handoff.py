"""The bounded queue between two stages."""

from __future__ import annotations

import threading

import pytest

from bridge.host.handoff import Closed, Handoff


def test_newest_wins_drops_the_oldest_and_counts():
    queue = Handoff(2, newest_wins=True)
    assert [queue.put(i) for i in range(5)] == [0, 0, 1, 1, 1]
    assert queue.dropped == 3
    assert [queue.get(), queue.get()] == [3, 4]


def test_a_waiting_producer_loses_nothing():
    queue = Handoff(1)
    producer = threading.Thread(target=lambda: [queue.put(i) for i in range(50)])
    producer.start()
    assert [queue.get() for _ in range(50)] == list(range(50))
    producer.join(10)
    assert queue.dropped == 0


def test_closing_wakes_both_sides_and_keeps_what_was_put():
    queue = Handoff(1)
    queue.put("last")
    outcomes = []

    def produce():
        try:
            queue.put("too late")
        except Closed:
            outcomes.append("closed")

    producer = threading.Thread(target=produce)
    producer.start()
    queue.close()
    producer.join(10)
    assert outcomes == ["closed"]
    assert queue.get() == "last"
    with pytest.raises(Closed):
        queue.get()


def test_waiting_for_the_consumer():
    queue = Handoff(1)
    queue.put(1)
    assert not queue.wait_taken(0.01)
    queue.get()
    assert queue.wait_taken(0.01)


def test_a_bound_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Handoff(0)

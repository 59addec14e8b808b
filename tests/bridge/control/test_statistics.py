import json
import subprocess
import sys
import threading
import tracemalloc

import pytest

from bridge.control.statistics import COUNTERS, STAGES, Statistics, peak_memory_mb


def test_an_empty_snapshot_is_plain_json_with_every_key():
    snapshot = Statistics().snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert snapshot["fps"] == 0.0 and snapshot["p50_ms"] is None
    assert set(snapshot["stages"]) == set(STAGES)
    assert all(snapshot[name] == 0 for name in COUNTERS)


def test_percentiles_are_exact_over_the_window():
    statistics = Statistics()
    for ms in range(101):
        statistics.record("unet", ms * 1_000_000)
    unet = statistics.snapshot()["stages"]["unet"]
    assert (unet["p50_ms"], unet["p95_ms"], unet["p99_ms"], unet["count"]) == (50.0, 95.0, 99.0, 101)


def test_the_window_is_bounded_and_keeps_the_newest():
    statistics = Statistics(window=10)
    for ms in [1000] * 50 + [3] * 7 + [5] * 3:
        statistics.record("decode", ms * 1_000_000)
    decode = statistics.snapshot()["stages"]["decode"]
    assert decode["count"] == 60
    assert decode["p50_ms"] == 3.0 and decode["p99_ms"] == 5.0


def test_capture_to_publish_is_the_headline():
    statistics = Statistics()
    statistics.record("capture_to_publish", 7_000_000)
    snapshot = statistics.snapshot()
    assert snapshot["p50_ms"] == snapshot["p99_ms"] == 7.0


def test_only_recent_times_count_when_asked(monkeypatch):
    clock = [10**12]
    monkeypatch.setattr("bridge.control.statistics.now_ns", lambda: clock[0])
    statistics = Statistics()
    statistics.record("encode", 100_000_000)
    clock[0] += 10 * 10**9
    statistics.record("encode", 2_000_000)
    assert statistics.snapshot(last_s=5.0)["stages"]["encode"]["p99_ms"] == 2.0
    assert statistics.snapshot()["stages"]["encode"]["p99_ms"] > 90
    clock[0] += 10 * 10**9
    assert statistics.snapshot(last_s=5.0)["stages"]["encode"]["p99_ms"] is None


def test_rates_follow_the_clock_and_fall_when_frames_stop(monkeypatch):
    clock = [10**12]
    monkeypatch.setattr("bridge.control.statistics.now_ns", lambda: clock[0])
    statistics = Statistics()
    for _ in range(100):
        clock[0] += 50_000_000
        statistics.count("frames_out")
        statistics.count("frames_in", 2)
    snapshot = statistics.snapshot()
    assert snapshot["fps"] == pytest.approx(20, rel=0.02)
    assert snapshot["fps_in"] == pytest.approx(40, rel=0.03)
    clock[0] += 2 * 10**9
    assert statistics.snapshot()["fps"] < 10
    clock[0] += 2 * 10**9
    assert statistics.snapshot()["fps"] == 0.0
    assert statistics.counter("frames_in") == 200


@pytest.mark.parametrize("ns", [-1, 10**13, 2**63, -(2**64)])
def test_stamps_from_another_clock_are_left_out(ns):
    statistics = Statistics()
    statistics.record("capture_to_publish", ns)
    assert statistics.snapshot()["stages"]["capture_to_publish"]["count"] == 0


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="send one of .*unet"):
        Statistics().record("unett", 1)
    with pytest.raises(ValueError, match="send one of .*dropped"):
        Statistics().count("lost")
    with pytest.raises(ValueError, match="at least 1"):
        Statistics(window=0)


def test_memory_does_not_grow_with_use():
    statistics = Statistics()

    def use():
        for i in range(3000):
            statistics.record("unet", i)
            statistics.count("frames_out")

    use()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    use()
    use()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 4096


def test_many_threads_lose_nothing():
    statistics = Statistics()

    def use():
        for i in range(2000):
            statistics.record("publish", i)
            statistics.count("dropped")
            if i % 500 == 0:
                statistics.snapshot()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    snapshot = statistics.snapshot()
    assert snapshot["dropped"] == 8000 and snapshot["stages"]["publish"]["count"] == 8000


def test_peak_memory_is_this_process_and_rises():
    code = (
        "from bridge.control.statistics import peak_memory_mb\n"
        "a = peak_memory_mb()\n"
        "block = b'x' * (64 << 20)\n"
        "b = peak_memory_mb()\n"
        "print(a, b)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert float(out[1]) - float(out[0]) > 50
    assert peak_memory_mb() > 1

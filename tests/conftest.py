"""What all tests run under."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

LONG = """
    control demo ring_processes calibrate settings lora backend single_file calibration 07_calibration card_bench
    tiny_bench temporal_bench faults_bench teach_example painter tuning stage autoencoder stable_diffusion_xl families
    image_prompt host planner
""".split()
"""Files whose tests take half a minute and more together."""


def pytest_configure() -> None:
    # A shell's background jobs ignore Ctrl-C, and so would the programs that tests start and send it to.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Several processes run tests at once. Were each to compute with a thread per core, most threads would wait for
    # others that have no core, and spin while they wait. Before anything imports torch; programs started inherit it.
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, then what has many tests: a long file that begins last is waited for alone."""
    many = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.stem.removeprefix("test_") not in LONG, -many[item.path]))

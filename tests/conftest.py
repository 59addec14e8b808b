"""What all tests run under."""

from __future__ import annotations

import os
import signal


def pytest_configure() -> None:
    # A shell's background jobs ignore Ctrl-C, and so would the programs that tests start and send it to.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Several processes run tests at once. Were each to compute with a thread per core, most threads would wait for
    # others that have no core, and spin while they wait. Before anything imports torch; programs started inherit it.
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")

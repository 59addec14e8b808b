"""How many CPU threads torch takes of the thread that calls it."""

from __future__ import annotations

import threading

import torch


def one_thread() -> None:
    """Let torch's operations of the calling thread take one CPU thread from now on; other threads keep theirs.

    For what computes beside the frame path: each thread that calls torch gets a pool of CPU threads of its own, and
    once there are more of them than cores, GNU OpenMP lets all sleep between any two operations instead of spinning.
    """
    others = torch.get_num_threads()
    torch.set_num_threads(1)
    # What was set last is also what threads begin with that call torch for the first time.
    again = threading.Thread(target=torch.set_num_threads, args=(others,))
    again.start()
    again.join()

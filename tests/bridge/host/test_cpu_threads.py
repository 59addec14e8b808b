"""How many CPU threads torch takes of a thread."""

from __future__ import annotations

import threading

import torch

from bridge.host.cpu_threads import one_thread


def test_a_thread_beside_the_frame_path_takes_one_cpu_thread_and_leaves_others_theirs():
    def in_thread(work):
        found = []
        thread = threading.Thread(target=lambda: found.append(work()))
        thread.start()
        thread.join()
        return found[0]

    def beside():
        one_thread()
        return torch.get_num_threads()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert in_thread(beside) == 1
        assert torch.get_num_threads() == 3
        assert in_thread(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(before)

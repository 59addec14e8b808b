"""A process held to AVX2 sees an older processor, and is otherwise as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import avx2

ROOT = Path(__file__).resolve().parent.parent

SEEN = """
import json, signal, torch
caught = []
signal.signal(signal.SIGSEGV, lambda *_: caught.append(1))
signal.raise_signal(signal.SIGSEGV)
beyond = [n for n, has in torch.cpu.get_capabilities().items() if has is True and n.startswith(("avx512", "amx"))]
from core.backend import executions
dtypes = sorted({str(e.dtype) for e in executions(torch.device("cpu"))})
print(json.dumps([torch.backends.cpu.get_cpu_capability(), beyond, dtypes, len(caught)]))
"""


def test_a_held_process_sees_no_more_than_avx2(tmp_path):
    variables, how = avx2.held(tmp_path)
    if not torch.cpu.get_capabilities().get("avx2"):
        pytest.skip("this processor has no AVX2")
    done = subprocess.run(
        [sys.executable, "-c", SEEN],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    level, beyond, dtypes, caught = json.loads(done.stdout)
    assert level == "AVX2" and dtypes == ["torch.float32"]
    assert caught == 1  # the program's own handler is still called
    if how.startswith("every library"):
        assert beyond == []


def test_a_command_runs_held_and_tells_its_exit_status(capfd, monkeypatch):
    command = [sys.executable, "-c", "import os, sys; sys.exit(3 if os.environ['ONEDNN_MAX_CPU_ISA'] == 'AVX2' else 4)"]
    assert avx2.main(command) == 3
    assert "held to AVX2" in capfd.readouterr().err
    for more, status in ((True, 3), (False, 0)):
        monkeypatch.setattr(avx2, "beyond", lambda more=more: more)
        assert avx2.main(["--if-there-is-more", *command]) == status

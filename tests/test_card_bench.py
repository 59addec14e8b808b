"""The benchmark for a card, as far as it can be tried without one: its rehearsal on the CPU, and its refusals."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench.card", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def numbers(values) -> list[float]:
    if isinstance(values, dict):
        return [n for value in values.values() for n in numbers(value)]
    return [values] if isinstance(values, (int, float)) else []


def test_a_rehearsal_leaves_every_figure_in_the_file_and_in_the_last_line(tmp_path):
    out = tmp_path / "deep" / "card.jsonl"
    done = bench("--device", "cpu", "--parts", "A1", "A2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert document["results"]["figures"] == lines
    assert document["results"]["rehearsal"] is True
    figures = {line["figure"]: line["values"] for line in lines}
    assert {"versions", "matrix product float32", "copy 512x512, ring, to the device", "embedded float32"} <= set(
        figures
    )
    assert all(math.isfinite(n) for n in numbers(list(figures.values())) + numbers(figures))
    assert figures["embedded float32"]["latent_largest"] == 0.0
    assert 0.0 < figures["embedded bfloat16"]["latent_largest"] < 0.2
    assert [b["holds"] for b in document["bars"]] == [True]


def test_parts_that_no_longer_fit_are_skipped_and_say_so(tmp_path):
    done = bench("--device", "cpu", "--parts", "A3", "--budget-s", "1", "--out", str(tmp_path / "card.jsonl"))
    # Nothing was measured: the file is there, and empty.
    assert "skipped: 1 s left" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["results"]["figures"] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
def test_without_a_card_it_says_so_in_a_sentence(tmp_path):
    done = bench("--out", str(tmp_path / "card.jsonl"))
    assert done.returncode == 1
    assert "cuda cannot be used" in done.stderr and "--device cpu rehearses" in done.stderr
    assert "Traceback" not in done.stderr

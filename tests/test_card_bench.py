"""The benchmark for a card, as far as it can be tried without one: its rehearsal on the CPU, and its refusals."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.bench import card

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
    halves = figures["embedded bfloat16"]  # not every processor computes in it
    assert "bfloat16" in halves["refused"] if "refused" in halves else 0.0 < halves["latent_largest"] < 0.2
    assert [b["holds"] for b in document["bars"]] == [True]


def test_the_parts_on_whole_streams_leave_their_figures_in_a_rehearsal(tmp_path):
    """In one process, as most of what they take is the imports."""
    out = tmp_path / "card.jsonl"
    args = argparse.Namespace(device="cpu", original=None, out=out)
    with torch.no_grad():
        for name in ("A4", "A6", "B2", "B3", "A5"):
            card.PARTS[name](card.Part(name, args))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    figures = {line["figure"]: line["values"] for line in lines}
    assert all(math.isfinite(n) for n in numbers(list(figures.values())) + numbers(figures))
    # A rehearsal runs both eagerly; they get noise of their own, but for where they are compared.
    assert figures["unet, graphs against eager, 2 rows"]["largest_difference"] == 0.0
    assert figures["unet, graphs against eager, 2 rows"]["largest_value"] > 0.1
    assert figures["encode and decode, graphs against eager"]["largest_difference"] == {
        "encode": 0.0,
        "decode_of_255": 0.0,
    }
    live = figures["ring to ring, overlapped graphs, a live change every 10 frames"]
    assert live["changes"] >= 3 and live["revisions_shown"] >= 3 and live["captures"] == 0
    assert figures["ring to ring, serial graphs"]["frames"] == 10
    assert {"stream batch against sequential, 2 steps", "guidance kinds, 2 steps", "channels, 2"} <= set(figures)
    assert figures["unet compiled, 2 rows"]["largest_difference"] < 1e-4
    # What is asked for on a card is judged on one alone.
    assert card.judged(lines) == []


def test_figures_of_a_card_are_judged_by_what_is_asked_for():
    given = {
        "ring to ring, overlapped graphs": {"fps": 160.0},
        "ring to ring, serial graphs": {"overhead_ms": 0.7},
        "ours and the original, 1 steps": {"ratio": 3.0},
        "unet, graphs against eager, 16 rows": {"tflops": 300.0},
        "matrix product bfloat16": {"tflops": 600.0},
        "channels, 8": {"refused": "out of memory"},
    }
    figures = [{"part": "A6", "figure": f, "device": "cuda:0", "values": v} for f, v in given.items()]
    found = {b["name"]: (b["value"], b["bar"], b["holds"]) for b in card.judged(figures)}
    assert found == {
        "ours and the original, 1 steps: frames per second, ours / original": (3.0, 1.0, True),
        "frames per second, ring to ring, least": (160.0, 150.0, True),
        "frames per second, ring to ring, aim": (160.0, 200.0, False),
        "overhead outside the stages, serial, ms": (0.7, 0.5, False),
        "frames per second over the original eager, one step": (3.0, 2.5, True),
        "U-Net at 16 rows, share of the measured bfloat16 matrix rate": (0.5, 0.4, True),
    }


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

"""`frameloom bench demo`: the demo as a user starts it, 128 x 128 and 2 steps: rate, first picture, memory.

Runs `frameloom demo --no-browser` in a process of its own, with its client, its page and its ports, and judges the
summary that it ends with. Memory is the sum of both processes' peaks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.report import bar, emit, table

ROOT = Path(__file__).resolve().parent.parent.parent


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark; it ends with an error only when the demo did."""
    parser = argparse.ArgumentParser(prog="frameloom bench demo", description=__doc__)
    parser.add_argument("--frames", type=int, default=400, help="frames to show (default 400)")
    frames = parser.parse_args(argv).frames
    with tempfile.TemporaryDirectory() as folder:
        words = ["--frames", str(frames), "--no-browser", "--port", "0", "--osc-port", "0"]
        command = [sys.executable, "-m", "bridge", "demo", *words, "--sheet", str(Path(folder) / "sheet.png")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.returncode)
    summary = json.loads(done.stdout.splitlines()[-1])
    memory_mb = summary["peak_memory_mb"] + summary["client_memory_mb"]
    table(
        ["frames/s", "first picture s", "p50 ms", "p99 ms", "memory MB"],
        [[summary["fps"], summary["first_output_s"], summary["p50_ms"], summary["p99_ms"], memory_mb]],
    )
    emit(
        "demo",
        summary,
        [
            bar("demo at 128 px, 2 steps: frames per second", summary["fps"], 15),
            bar("demo: first picture after, s", summary["first_output_s"], 20, at_most=True),
            bar("demo: memory of host and client, MB", memory_mb, 1500, at_most=True),
        ],
    )


if __name__ == "__main__":
    main()

"""`frameloom bench demo`: the demo as a user starts it, and at other sizes: rate, latency, first picture, memory.

Runs the demo, without a browser, in a process of its own, with its client, its page and its ports, and judges the
summary that it ends with: once with an empty cache, as at the very first start, once with what that start left, and
then at 128 px, with one step and two, and at 256 px. All on the processor as it is and held to AVX2 (`tests.avx2`),
where it has more. Memory is the sum of host and client; the scene's own renderer, which shares the cores, is timed
alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser
from tests import avx2
from tests.bench.report import bar, emit, table

ROOT = Path(__file__).resolve().parent.parent.parent
COLD_FRAMES = 60
SIZES: dict[str, list[str]] = {
    "128 px, 2 steps": ["--size", "128", "--set", "steps=2"],
    "128 px": ["--size", "128"],
    "256 px": ["--size", "256"],
}
"""Beside the demo as it is. The scene itself gives 30 frames per second at most."""
LEAST_FPS = {"128 px, 2 steps": 18.0, "128 px": 25.0, "256 px": 10.0}
RENDER = """
import statistics, time, torch
torch.set_num_threads(1)
from core.world import World
world, took = World(seed=0), []
for i in range(60):
    started = time.perf_counter()
    world.render(time_s=i / 30, width=128, height=128, style="grey")
    took.append((time.perf_counter() - started) * 1e3)
print(statistics.median(took))
"""


def ways(folder: Path) -> dict[str, tuple[dict[str, str], str]]:
    """The ways to run this processor: name to (environment variables, words): as it is, and held to AVX2."""
    found: dict[str, tuple[dict[str, str], str]] = {"as it is": ({}, "")}
    if avx2.beyond():
        found["held to AVX2"] = avx2.held(folder)
    return found


def measure(folder: Path, frames: int, variables: dict[str, str]) -> dict[str, Any]:
    """The summaries of a cold and a warm run, and the milliseconds of one rendered frame. Raises `SystemExit`."""
    environment = {**os.environ, **variables}

    def run(frames: int, *others: str) -> dict[str, Any]:
        words = ["--frames", str(frames), "--no-browser", "--port", "0", "--osc-port", "0", *others]
        words += ["--cache", str(folder / "cache"), "--sheet", str(folder / "sheet.png")]
        command = [sys.executable, "-m", "bridge", "demo", *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        if done.returncode:
            raise SystemExit(done.returncode)
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        del summary["sheet"]  # a place of this machine
        summary["memory_mb"] = summary["peak_memory_mb"] + summary["client_memory_mb"]
        return summary

    render = [sys.executable, "-c", RENDER]
    done = subprocess.run(render, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment, check=True)
    figures = {"cold": run(COLD_FRAMES), "warm": run(frames), "render_ms": float(done.stdout)}
    return {**figures, "sizes": {name: run(frames, *words) for name, words in SIZES.items()}}


def bars_of(way: str, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that are asked for, of one way to run the processor."""
    cold, warm, sizes = measured["cold"], measured["warm"], measured["sizes"]
    name = f"demo, {way}"
    return [
        bar(f"{name}: frames per second", warm["fps"], 20.0),
        *(bar(f"{name}, {size}: frames per second", sizes[size]["fps"], least) for size, least in LEAST_FPS.items()),
        bar(
            f"{name}, 128 px, 2 steps: 95th percentile of the latency, ms",
            sizes["128 px, 2 steps"]["p95_ms"],
            200,
            at_most=True,
        ),
        bar(f"{name}: 95th percentile of the latency, ms", warm["p95_ms"], 200, at_most=True),
        bar(f"{name}: first picture at the very first start, s", cold["first_output_s"], 20, at_most=True),
        bar(f"{name}: first picture with warm caches, s", warm["first_output_s"], 12, at_most=True),
        bar(f"{name}: memory of host and client, MB", max(cold["memory_mb"], warm["memory_mb"]), 1500, at_most=True),
    ]


def rows_of(way: str, measured: dict[str, Any]) -> list[list[Any]]:
    """The rows of the table."""
    cold, runs = measured["cold"], {"as it starts": measured["warm"], **measured["sizes"]}
    firsts = [cold["first_output_s"], measured["warm"]["first_output_s"]]
    return [
        [
            way,
            name,
            f"{run['backend']} {run['dtype']}",
            run["fps"],
            run["p50_ms"],
            run["p95_ms"],
            *firsts,
            run["memory_mb"],
        ]
        for name, run in runs.items()
    ]


HEADER = ["processor", "size", "runs by", "frames/s", "p50 ms", "p95 ms", "first s, cold", "warm", "memory MB"]


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark; it ends with an error only when the demo did."""
    parser = Parser("bench demo", description=__doc__)
    parser.add_argument("--frames", type=int, default=400, help="frames to show in the warm run (default 400)")
    args = parser.parse_args(argv)
    if args.frames < 1:
        parser.error("--frames: give at least 1")
    results, bars = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for number, (way, (variables, how)) in enumerate(ways(Path(folder)).items()):
            own = Path(folder) / str(number)
            own.mkdir()
            results[way] = {"held": how, **measure(own, args.frames, variables)}
            bars += bars_of(way, results[way])
    table(HEADER, [row for way, measured in results.items() for row in rows_of(way, measured)])
    emit("demo", results, bars)


if __name__ == "__main__":
    main()

"""frameloom bench channels: several channels in one process, with one set of weights, against a host each.

Each channel has a writer that always has a new picture and a reader that takes every result; the work is the same:
size, steps, model, device. In turn: a host of its own for each (separate processes, as `frameloom host` starts them);
one process whose channels share the weights and call the networks as they come; and one whose calls are answered
together (`bridge.host.shared_call`). Frames per second of all channels, each channel's share, memory that is not
shared with anybody, and the latency from capture to publication.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser
from bridge.ring.leftovers import sweep
from tests.bench.host import WRITER
from tests.bench.report import bar, emit, percentile, table

ROOT = Path(__file__).resolve().parent.parent.parent
PREFIX = "bench-channels-"
START_S = 300.0
PROMPTS = ("red ball, neon style", "blue box, woodcut style", "green cone, glass style", "pencil style")

HOSTS = """
import json, os, sys, threading
from bridge.control.live import LiveParams
from bridge.host.host import Host, HostConfig
from bridge.host.loading import Models
from bridge.commands.host import LIBRARY_HABITS
os.environ.update(LIBRARY_HABITS)
asked = json.loads(sys.argv[1])
from core.params import params_for
models = Models(len(asked["channels"]), together=asked["together"])
hosts = []
for channel, prompt in zip(asked["channels"], asked["prompts"]):
    live = LiveParams(params_for("embedded").with_values(prompt=prompt, similarity_filter=False))
    config = HostConfig(channel, size=(asked["px"], asked["px"]), device=asked["device"], **asked["options"])
    hosts.append(Host(config, live=live, models=models))
for host in hosts:
    host.start()
    while not host.ready.wait(0.1) and host.failure is None:
        pass
print("ready" if not any(h.failure for h in hosts) else [h.failure for h in hosts], flush=True)
sys.stdin.read()
calls = {id(c): c for h in hosts for c in h.loaded.model.calls.values() if hasattr(c, "answered")}.values()
print(json.dumps([[c.calls, c.answered] for c in calls]), flush=True)
for host in hosts:
    host.stop()
for host in hosts:
    host.join(20)
"""


def _own_memory_mb(pids: list[int]) -> float | None:
    """Of processes, without what they share with others; None where the system does not tell."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
    return total / 1024.0


class _Reader(threading.Thread):
    """Takes every result of one channel."""

    def __init__(self, channel: str) -> None:
        super().__init__(daemon=True)
        self.channel = channel
        self.frames: list[tuple[int, int]] = []
        self.end = threading.Event()

    def run(self) -> None:
        from bridge.ring import RingReader

        with RingReader(f"{self.channel}.out") as reader:
            while not self.end.is_set():
                frame = reader.read(timeout_s=0.2)
                if frame is not None:
                    self.frames.append((frame.publish_ns, frame.capture_ns))


def measure(groups: list[list[str]], together: bool, args: argparse.Namespace) -> dict[str, Any]:
    """groups: the channels of each process."""
    channels = list(itertools.chain(*groups))
    options = {"threads": args.threads} if args.threads else {}
    hosts, writers, readers = [], [], [_Reader(channel) for channel in channels]
    calls: list[list[int]] = []
    try:
        for group in groups:
            asked = {
                "channels": group,
                "prompts": [PROMPTS[channels.index(channel) % len(PROMPTS)] for channel in group],
                "px": args.size,
                "device": args.device,
                "together": together,
                "options": options,
            }
            command = [sys.executable, "-P", "-c", HOSTS, json.dumps(asked)]
            host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            hosts.append(host)
            assert host.stdout is not None
            said = host.stdout.readline().strip()
            if said != "ready":
                raise SystemExit(f"a host did not start: {said or host.poll()}")
        for channel in channels:
            command = [sys.executable, "-c", WRITER, channel, str(args.size), str(args.size), str(args.fps)]
            writers.append(subprocess.Popen(command, cwd=ROOT))
        for reader in readers:
            reader.start()
        deadline = time.monotonic() + START_S
        while not all(len(reader.frames) > 5 for reader in readers):
            if time.monotonic() > deadline:
                raise SystemExit("no pictures came out")
            time.sleep(0.1)
        first = [len(reader.frames) for reader in readers]
        time.sleep(args.seconds)
        frames = [reader.frames[n:] for n, reader in zip(first, readers, strict=True)]
        memory = _own_memory_mb([host.pid for host in hosts])
        for host in hosts:
            assert host.stdin is not None and host.stdout is not None
            host.stdin.close()
            calls += json.loads(host.stdout.readline())
    finally:
        for reader in readers:
            reader.end.set()
        for process in (*writers, *hosts):
            process.kill()
            process.wait()
        for reader in readers:
            if reader.is_alive():
                reader.join(5)
        sweep(PREFIX)
    latency = [(published - taken) / 1e6 for several in frames for published, taken in several]
    rates = [len(several) / args.seconds for several in frames]
    asked_for = sum(answered for _, answered in calls)
    return {
        "fps": sum(rates),
        "fps_of_channels": rates,
        "latency_ms": {"p50": percentile(latency, 50), "p99": percentile(latency, 99)},
        "own_memory_mb": memory,
        "callers_per_call": asked_for / sum(made for made, _ in calls) if asked_for else 1.0,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = Parser("bench channels", description=__doc__)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="of all ways in turn (default 3)")
    parser.add_argument(
        "--fps", type=float, default=240.0, help="of each writer (default 240, more than any processor paints)"
    )
    parser.add_argument("--threads", type=int, default=None, help="of a call (default: as each finds fastest)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="one short round")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.seconds = 1, 4.0
    ways: dict[str, list[dict[str, Any]]] = {"separate hosts": [], "one process": [], "one process, together": []}
    for number in range(args.rounds):
        # Each way in each place: what a machine does to the first it does not do to the same way always.
        names = list(ways)[number % 3 :] + list(ways)[: number % 3]
        for name in names:
            base = f"{PREFIX}{uuid.uuid4().hex[:8]}"
            channels = [f"{base}-{i}" for i in range(args.channels)]
            groups = [[channel] for channel in channels] if name == "separate hosts" else [channels]
            ways[name].append(measure(groups, name.endswith("together"), args))
    middle = {name: sorted(runs, key=lambda run: run["fps"])[len(runs) // 2] for name, runs in ways.items()}
    rows = [
        [name, r["fps"], min(r["fps_of_channels"]), r["latency_ms"]["p50"], r["latency_ms"]["p99"]]
        + [r["own_memory_mb"] or 0.0, r["callers_per_call"]]
        for name, r in middle.items()
    ]
    table(["way", "fps in all", "least of one", "p50 ms", "p99 ms", "memory MB", "callers per call"], rows)
    ratios = {
        name: statistics.median(
            ours["fps"] / theirs["fps"] for ours, theirs in zip(ways[name], ways["separate hosts"], strict=True)
        )
        for name in ways
    }
    # What the host itself takes: the way that `Models` picks on this device.
    ours = "one process, together" if args.device.startswith("cuda") else "one process"
    shares = [min(run["fps_of_channels"]) * args.channels / run["fps"] for run in ways[ours]]
    bars = [
        bar(f"{args.channels} channels in one process, frames per second over separate hosts", ratios[ours], 1.3),
        bar("the least channel's part of an even share", statistics.median(shares), 0.8),
    ]
    emit("channels", {"size": args.size, "ways": ways, "ratios": ratios, "taken": ours}, bars)
    return 0


if __name__ == "__main__":
    sys.exit(main())

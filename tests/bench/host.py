"""frameloom bench host: what a frame costs in the host outside the stream, from capture stamp to publish stamp.

A writer process of its own publishes 512x512 RGBA frames at a steady rate; the host runs the pass-through model, so
nearly all that is left is the host: taking the frame, handing it from thread to thread, publishing it. What the
stream's own three parts took for a frame is subtracted. The serial twin runs in turn with the overlapped loop, and so
does a bare echo (read the input ring, write the output ring, one thread), which is the least that two rings cost.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from typing import Any

from bridge.commands.arguments import Parser
from bridge.ring.leftovers import sweep
from tests.bench.report import bar, emit, percentile, table

OVERHEAD_BAR_MS = 2.0

WRITER = """
import sys, time
import numpy as np
from bridge.ring import RingWriter, now_ns
from bridge.ring.layout import Kind
channel, width, height, fps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
writer = RingWriter(channel + ".in", capacity_bytes=width * height * 4)
frame = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
number, due = 0, time.monotonic()
while True:
    due += 1.0 / fps
    time.sleep(max(0.0, due - time.monotonic()))
    number += 1
    frame[0, 0, :] = number & 255
    writer.write({Kind.COLOUR: frame}, source_frame_id=number, capture_ns=now_ns())
"""


def measure_host(channel: str, frames: int, overlap: bool) -> dict[str, Any]:
    """Run the host until `frames` results came out; times in ms."""
    from bridge.control.live import LiveParams
    from bridge.host.host import Host, HostConfig
    from bridge.ring import RingReader
    from core.params import Params

    host = Host(HostConfig(channel, model="passthrough", overlap=overlap), live=LiveParams(Params(steps=1)))
    stages: dict[str, list[int]] = {}
    record = host.statistics.record

    def keep(stage: str, ns: int) -> None:
        stages.setdefault(stage, []).append(ns)
        record(stage, ns)

    host.statistics.record = keep  # type: ignore[method-assign]
    total = []
    reader = RingReader(f"{channel}.out")
    host.start()
    try:
        host.ready.wait(60)
        warm_up = 30
        while len(total) < frames + warm_up:
            frame = reader.read(timeout_s=1.0)
            if frame is None:
                raise SystemExit(f"no frame came out within a second: {host.failure}")
            total.append((frame.publish_ns - frame.capture_ns) / 1e6)
    finally:
        host.stop()
        host.join(10)
        reader.close()
    own = [sum(parts) / 1e6 for parts in zip(stages["encode"], stages["unet"], stages["decode"], strict=False)]
    total, stream_ms = total[warm_up:], percentile(own[warm_up:], 50)
    return {
        "capture_to_publish_ms": {q: percentile(total, n) for q, n in (("p50", 50), ("p99", 99))},
        "stream_ms": stream_ms,
        "overhead_ms": {"p50": percentile(total, 50) - stream_ms},
        "stages_ms": {name: percentile([v / 1e6 for v in values[warm_up:]], 50) for name, values in stages.items()},
    }


def measure_echo(channel: str, frames: int) -> dict[str, Any]:
    """The least: one thread copies from ring to ring."""
    from bridge.ring import RingReader, RingWriter
    from bridge.ring.layout import Kind

    total: list[float] = []
    done = threading.Event()

    def echo() -> None:
        with RingReader(f"{channel}.in") as source, RingWriter(f"{channel}.out") as target:
            while not done.is_set():
                with source.latest(timeout_s=0.2) as frame:
                    if frame is not None:
                        planes = {Kind.COLOUR: frame.planes[Kind.COLOUR]}
                        target.write(planes, source_frame_id=frame.source_frame_id, capture_ns=frame.capture_ns)

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        with RingReader(f"{channel}.out") as reader:
            while len(total) < frames + 30:
                frame = reader.read(timeout_s=1.0)
                if frame is None:
                    raise SystemExit("the echo gave no frame within a second")
                total.append((frame.publish_ns - frame.capture_ns) / 1e6)
    finally:
        done.set()
        thread.join()
    return {"capture_to_publish_ms": {q: percentile(total[30:], n) for q, n in (("p50", 50), ("p99", 99))}}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = Parser("bench host", description=__doc__)
    parser.add_argument("--frames", type=int, default=300, help="frames per measurement (default 300)")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--fps", type=float, default=60.0, help="rate of the writer (default 60)")
    args = parser.parse_args(argv)
    channel = f"bench-host-{uuid.uuid4().hex[:8]}"
    size = [str(args.width), str(args.height), str(args.fps)]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, channel, *size])
    try:
        time.sleep(1.0)
        results = {
            "overlapped": measure_host(channel, args.frames, True),
            "serial": measure_host(channel, args.frames, False),
            "echo": measure_echo(channel, args.frames),
        }
    finally:
        writer.kill()
        writer.wait()
        sweep("bench-host-")  # also what runs that were killed left
    rows = []
    for name, r in results.items():
        total = r["capture_to_publish_ms"]
        over = r.get("overhead_ms", total)
        rows.append([name, total["p50"], total["p99"], r.get("stream_ms", 0.0), over["p50"]])
    table(["loop", "total p50 ms", "p99", "stream ms", "overhead p50 ms"], rows)
    overhead = results["overlapped"]["overhead_ms"]["p50"]
    name = f"capture-to-publish overhead outside the stream at {args.width}x{args.height}, median ms"
    emit("host", results, [bar(name, overhead, OVERHEAD_BAR_MS, at_most=True)])
    return 0


if __name__ == "__main__":
    sys.exit(main())

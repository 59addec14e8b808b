"""frameloom bench touchdesigner: what a frame costs TouchDesigner's main thread, both ways, beside plain copies.

Sending: the component turns the float32 array that `numpyArray` gives into 8-bit pixels in a slot of the ring, and
publishes it; beside it a copy of those floats, a copy of as many bytes as the slot takes, and the naive way (several
passes over whole pictures, then a copy into the ring). Receiving: the component takes the newest slot into the array
that `copyNumpyArray` gets, rows turned over; beside it a copy of the same pixels. What is measured is the component's
own code (`frameloom_td.frames`); TouchDesigner's download and upload are not in it.

"At most one copy per frame" is judged three times: by counting how often numpy goes through the pixels, by the memory
that a frame allocates, and by time, in copies of what has to be read: below two there is no room for a second copy.
"""

from __future__ import annotations

import contextlib
import runpy
import time
import tracemalloc
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bridge.commands.arguments import Parser
from tests.bench.report import bar, emit, percentile, table
from tests.clients.counted import Counted

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((512, 512), (1920, 1080))
COPIES_BAR = 2.0
ALLOCATED_BAR = 0.05


def timed(work: Callable[[], Any], frames: int, before: Callable[[], Any] | None = None) -> list[float]:
    """Milliseconds of each call; `before` runs untimed ahead of each."""
    took = []
    for number in range(frames + 5):
        if before is not None:
            before()
        start = time.perf_counter()
        work()
        if number >= 5:
            took.append((time.perf_counter() - start) * 1e3)
    return took


def in_turn(
    works: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]], frames: int
) -> dict[str, list[float]]:
    """The same, in rounds, so that what else the machine does falls on all of them."""
    took: dict[str, list[float]] = {name: [] for name in works}
    rounds = 5
    for _ in range(rounds):
        for name, (work, before) in works.items():
            took[name] += timed(work, max(1, frames // rounds), before)
    return took


def allocated(work: Callable[[], Any], before: Callable[[], Any] | None) -> int:
    """The most memory in bytes that twenty calls had allocated at once; what `before` does is not counted."""
    most = 0
    for _ in range(20):
        if before is not None:
            before()
        tracemalloc.start()
        work()
        most = max(most, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return most


def measure(width: int, height: int, frames: int) -> dict[str, Any]:
    """All figures at one size; times in ms."""
    from bridge.ring import Kind, RingWriter

    parts = runpy.run_path(str(ROOT / "clients" / "touchdesigner" / "load.py"))["fresh"]("frameloom_td.frames")
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    floats = (levels / np.float32(255)).astype(np.float32)
    bytes_copy, floats_copy = np.zeros_like(levels), np.zeros_like(floats)
    channel = f"bench-td-{uuid.uuid4().hex[:8]}"
    with ThreadPoolExecutor(1) as errands, contextlib.ExitStack() as stack:
        sender = parts.Sender(f"{channel}.in", errands)
        stack.callback(sender.close)
        writer = stack.enter_context(RingWriter(f"{channel}.out", capacity_bytes=levels.nbytes))
        naive_writer = stack.enter_context(RingWriter(f"{channel}-naive.in", capacity_bytes=levels.nbytes))
        receiver = parts.Receiver(f"{channel}.out")
        stack.callback(receiver.close)

        def send() -> bool:
            sent: bool = sender.send(floats, 0, 1, linear=False, odd=False)
            return sent

        def naive() -> None:
            naive_writer.write({Kind.COLOUR: np.flipud((np.clip(floats, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))})

        def publish() -> None:
            writer.write({Kind.COLOUR: levels})

        while not send():
            time.sleep(0.01)
        publish()
        assert receiver.take() and (receiver.picture == levels[::-1]).all()
        works: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]] = {
            "send": (send, None),
            "send, naive": (naive, None),
            "copy of the floats": (lambda: np.copyto(floats_copy, floats), None),
            "receive": (receiver.take, publish),
            "copy of the bytes": (lambda: np.copyto(bytes_copy, levels), publish),
        }
        took = in_turn(works, frames)
        memory = {name: allocated(*works[name]) / levels.nbytes for name in ("send", "send, naive", "receive")}
        Counted.passes = 0
        assert sender.send(floats.view(Counted), 0, 1, linear=False, odd=False)
    return {
        "ms": {name: {"p50": percentile(t, 50), "p99": percentile(t, 99)} for name, t in took.items()},
        "allocated_pictures": memory,
        "passes": Counted.passes,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = Parser("bench touchdesigner", description=__doc__)
    parser.add_argument("--frames", type=int, default=100, help="frames per measurement (default 100)")
    args = parser.parse_args(argv)
    results: dict[str, Any] = {}
    rows, bars = [], []
    for width, height in SIZES:
        size = f"{width}x{height}"
        found = results[size] = measure(width, height, args.frames)
        ms, memory = found["ms"], found["allocated_pictures"]
        rows += [[size, name, t["p50"], t["p99"], memory.get(name, 0.0)] for name, t in ms.items()]
        bars.append(bar(f"{size}: send, passes over the pixels", found["passes"], 1, at_most=True))
        for name, copy in (("send", "copy of the floats"), ("receive", "copy of the bytes")):
            ratio = ms[name]["p50"] / ms[copy]["p50"]
            bars.append(bar(f"{size}: {name}, median, in times one {copy}", ratio, COPIES_BAR, at_most=True))
            what = f"{size}: {name}, memory allocated per frame, of a picture"
            bars.append(bar(what, memory[name], ALLOCATED_BAR, at_most=True))
    table(["size", "what", "p50 ms", "p99 ms", "allocated pictures"], rows)
    emit("touchdesigner", results, bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Every writer against every reader at length, and what a reader costs beside a bare memory copy.

Python, C, C# and the Windows build of the C programs under Wine, each in processes of their own, on one file-backed
ring per run. Per pair: flat-out writers that overrun a copying and a viewing reader while size and format change,
pictures that outgrow their slots, writers killed half way through a frame, readers killed with a pinned slot, a
lossless reader. A run that finds anything forbidden (torn, older, wrong, missed, hang, crash) is printed and counted.
Languages whose tools are missing are left out with the reason.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser
from tests.bench import report
from tests.conformance import runs
from tests.conformance.peers import Peer, available, end_wine, stage


def play(writer: Peer, reader: Peer, directory: Path, share: int) -> tuple[runs.Count, int, list[str]]:
    """All situations of one pair; `share` frames flat out. What was done, frames flat out, what went wrong."""
    count, flat_out, wrong = runs.Count(0, 0), 0, []
    for number, run in enumerate(
        (
            lambda: runs.overrun(writer, reader, directory, share * 2 // 5, "read"),
            lambda: runs.overrun(writer, reader, directory, share * 2 // 5, "latest"),
            lambda: runs.steady(writer, reader, directory, share // 5, "latest"),
            lambda: runs.generations(writer, reader, directory, 2000, "latest"),
            lambda: runs.restarts(writer, reader, directory, 300, "latest"),
            lambda: runs.killed_reader(writer, reader, directory, 1000),
            lambda: runs.lossless(writer, reader, directory, 150),
        )
    ):
        try:
            done = run()
            count = runs.Count(count.published + done.published, count.taken + done.taken)
            flat_out += done.published if number < 3 else 0
        except AssertionError as error:
            wrong.append(str(error))
            print(f"FORBIDDEN  {error}", flush=True)
    return count, flat_out, wrong


def throughput(peer: Peer, directory: Path, rounds: int) -> dict[str, Any]:
    """The middle of five goes of the peer's `measure`: copying read and bare copy of 1920 x 1080 RGBA8, in turn."""
    ratios, results = [], []
    for _ in range(5):
        with stage(directory) as at:
            result = at.start(peer, "measure", width=1920, height=1080, rounds=rounds).result()
        assert result["error"] is None, result
        ratios.append(result["copy_us"] / result["read_us"])
        results.append(result)
    middle = results[ratios.index(statistics.median(ratios))]
    return {
        "read_us": round(middle["read_us"], 1),
        "copy_us": round(middle["copy_us"], 1),
        "of_memcpy": round(statistics.median(ratios), 3),
    }


def main(words: list[str] | None = None) -> int:
    parser = Parser("bench conformance", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--frames", type=int, default=1_000_000, help="frames written flat out, over all pairs")
    parser.add_argument("--rounds", type=int, default=100, help="rounds of the throughput measurement")
    parser.add_argument("--only", default="", help="languages, comma separated: python, c, c#, c on wine")
    o = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="frameloom-conformance-") as built:
        peers = available(Path(built))
        try:
            return _measure(o, {n: p for n, p in peers.items() if not o.only or n in o.only.split(",")})
        finally:
            end_wine(peers)


def _measure(o: argparse.Namespace, peers: dict[str, Peer]) -> int:
    left_out = {name: peer.missing for name, peer in peers.items() if peer.missing}
    for name, reason in left_out.items():
        print(f"left out  {name}: {reason}")
    there = [peer for peer in peers.values() if not peer.missing]
    pairs = [(writer, reader) for writer in there for reader in there]
    share = -(-o.frames // len(pairs) // 5) * 5
    home = "/dev/shm" if Path("/dev/shm").is_dir() else None
    rows, forbidden, total, flat_out = [], [], runs.Count(0, 0), 0
    with tempfile.TemporaryDirectory(prefix="frameloom-conformance-", dir=home) as folder:
        speeds = {peer.name: throughput(peer, Path(folder), o.rounds) for peer in there}
        for writer, reader in pairs:
            began = time.monotonic()
            count, fast, wrong = play(writer, reader, Path(folder), share)
            forbidden += wrong
            flat_out += fast
            total = runs.Count(total.published + count.published, total.taken + count.taken)
            rows.append((writer.name, reader.name, count.published, count.taken, len(wrong), time.monotonic() - began))
    report.table(("writer", "reader", "published", "taken and checked", "forbidden", "seconds"), rows)
    print()
    report.table(
        ("reader at 1920 x 1080 RGBA8", "copying read, us", "bare copy, us", "of memcpy"),
        [(name, s["read_us"], s["copy_us"], s["of_memcpy"]) for name, s in speeds.items()],
    )
    bars = [
        report.bar("forbidden outcomes", len(forbidden), 0, at_most=True),
        report.bar("frames written flat out, over all pairs", flat_out, 1_000_000),
        *(report.bar(f"{n} reader of memcpy", speeds[n]["of_memcpy"], 0.8) for n in ("c", "c#") if n in speeds),
    ]
    results = {
        "pairs": [
            dict(zip(("writer", "reader", "published", "taken", "forbidden"), row, strict=False)) for row in rows
        ],
        "published": total.published,
        "flat_out": flat_out,
        "taken": total.taken,
        "forbidden": forbidden[:20],
        "left_out": left_out,
        "throughput": speeds,
    }
    report.emit("conformance", results, bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The ring against kills, damage, floods and want: what must never happen, counted, and how soon a reader is back.

Kills: `kill -9` at a random moment of a writer under a reader that lives on and of ordinary readers that come just
then; of copying, viewing and lossless readers under a writer that lives on; of a writer under the lossless reader; of
the whole host between a writer and a reader. Suspends (SIGSTOP) of either side. Damage: rings with random bytes
changed in record, header and slot, given to readers in Python, C (under sanitizers where they start) and C#. Floods of
hostile OSC datagrams and WebSocket messages at a host while frames pass. Want: a ring taken over on a full file system
while a reader maps the dead one, no inodes (both as root), no descriptors, no address space, clocks a day apart (as
root). A soak of ring, host, page and recorder. The first kills once more on what people would take instead.

Every frame says its number in every pixel: torn is one that says two, backward one that is not above the last, dead
one of a writer that was killed before the reader came. A hang is no answer within 20 s (5 s where others run).
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser
from bridge.ring import RingWriter
from tests.bench import report
from tests.bench.attacks import others, want
from tests.bench.attacks.counting import Count
from tests.bench.attacks.damage import damage
from tests.bench.attacks.flood import killed_hosts, osc_flood, soak, websocket_flood
from tests.bench.attacks.kills import killed_readers, killed_writers, suspended

Bars = list[dict[str, Any]]
Found = tuple[dict[str, Any], Bars]
"""What a section measured, and its bars."""

SIZES = {
    # name: (quick, full, what)
    "kills": (300, 1000, "kill -9 and suspends of each kind"),
    "hosts": (3, 200, "kills of the host"),
    "cases": (4000, 1_000_000, "damaged rings"),
    "datagrams": (100_000, 1_000_000, "hostile OSC datagrams"),
    "messages": (5000, 100_000, "hostile WebSocket messages"),
    "starved": (100, 1000, "rounds under each limit"),
    "soak": (60, 3600, "seconds of the soak"),
    "others": (60, 1000, "kills of writers on each transport"),
}
KILL_COLUMNS = ("what", "times", "frames", "torn", "backward", "dead pictures", "lost", "hangs")
FRAME_RATE = 0.95


@contextlib.contextmanager
def ring_folder() -> Iterator[str]:
    """A folder of its own in memory."""
    home = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="frameloom-faults-", dir=home) as directory:
        yield directory


def counted(counts: dict[str, Count], asked: int) -> Found:
    report.table(KILL_COLUMNS, [count.row(name) for name, count in counts.items()])
    bars: Bars = []
    for name, count in counts.items():
        bars.append(report.bar(f"{name}: forbidden outcomes", count.forbidden, 0, at_most=True))
        bars.append(report.bar(f"{name}: times", count.kills, asked))
    return {name: vars(count) | {"attach_ms": times(count)} for name, count in counts.items()}, bars


def times(count: Count) -> dict[str, float] | None:
    if not count.attach_ms:
        return None
    p50, p99 = (report.percentile(count.attach_ms, q) for q in (50, 99))
    return {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(max(count.attach_ms), 2)}


def kills(size: dict[str, int], chance: random.Random) -> Found:
    n = size["kills"]
    counts: dict[str, Count] = {}
    left = 0
    with ring_folder() as directory:
        runs: dict[str, Callable[[], Count]] = {
            "writer killed under a reader": lambda: killed_writers(directory, n, chance, lossless=False),
            "writer killed under the lossless reader": lambda: killed_writers(directory, n, chance, lossless=True),
            "copying readers killed": lambda: killed_readers(directory, n, chance, "copy"),
            "viewing readers killed": lambda: killed_readers(directory, n, chance, "view"),
            "lossless reader killed": lambda: killed_readers(directory, n, chance, "lossless"),
            "writer suspended": lambda: suspended(directory, n, chance, "writer"),
            "copying reader suspended": lambda: suspended(directory, n, chance, "copy"),
            "viewing reader suspended": lambda: suspended(directory, n, chance, "view"),
            "lossless reader suspended": lambda: suspended(directory, n, chance, "lossless"),
        }
        for name, run in runs.items():
            counts[name] = run()
            # What the last one left goes with the next writer.
            RingWriter("a", 4096, directory=directory).close()
            left += len(os.listdir(directory))
    results, bars = counted(counts, 1000)
    attach = times(counts["writer killed under a reader"])
    assert attach is not None
    bars += [
        report.bar("files left", left, 0, at_most=True),
        report.bar("re-attach p50, ms", attach["p50"], 10, at_most=True),
        report.bar("re-attach p99, ms", attach["p99"], 100, at_most=True),
    ]
    return results, bars


def hosts(size: dict[str, int], chance: random.Random) -> Found:
    return counted({"host killed between writer and reader": killed_hosts(size["hosts"], chance)}, 200)


def damaged(size: dict[str, int], chance: random.Random) -> Found:
    with ring_folder() as directory:
        found = damage(directory, size["cases"], chance)
    report.table(
        ("damaged rings", "cases", "died or hung", "slowest, ms", "grown, MB"),
        [(n, d["cases"], d["failed"], d["slowest_ms"], d["grown_mb"]) for n, d in found.items()],
    )
    bars: Bars = []
    for name, seen in found.items():
        what = f"damaged rings, {name}"
        bars += [
            report.bar(f"{what}: died or hung", seen["failed"], 0, at_most=True),
            report.bar(f"{what}: cases", seen["cases"], 1_000_000),
            report.bar(f"{what}: slowest, ms", seen["slowest_ms"], 1000, at_most=True),
            report.bar(f"{what}: grown, MB", seen["grown_mb"], 64, at_most=True),
        ]
    # A reader that could not be built was not tried: that is no bar held.
    for name in ("python", "c, sanitized", "c#"):
        if name not in found:
            bars.append(report.bar(f"damaged rings, {name}: cases", None, 1_000_000))
    return found, bars


def datagrams(size: dict[str, int], chance: random.Random) -> Found:
    found = osc_flood(size["datagrams"], chance)
    shares = found["frames_out_per_frame_in"]
    print(
        f"{found['datagrams']} hostile datagrams, {found['per_second']} per second; frames out per frame in: {shares}"
    )
    return found, [
        report.bar("hostile datagrams", found["datagrams"], 1_000_000),
        report.bar("host dead after hostile datagrams", float(found["host_died"]), 0, at_most=True),
        report.bar(
            "frame rate among hostile datagrams, of that beside as many that nobody reads",
            shares["while"] / max(1e-9, shares["beside it"]),
            FRAME_RATE,
        ),
        report.bar("host grown among hostile datagrams, MB", found["grown_mb"], 64, at_most=True),
    ]


def messages(size: dict[str, int], chance: random.Random) -> Found:
    found = websocket_flood(size["messages"], chance)
    shares = found["frames_out_per_frame_in"]
    print(f"{found['messages']} hostile messages in {found['visits']} visits; frames out per frame in: {shares}")
    return found, [
        report.bar("hostile WebSocket messages", found["messages"], 100_000),
        report.bar("host dead after hostile messages", float(found["host_died"]), 0, at_most=True),
        report.bar("page shows a picture after hostile messages", float(found["picture_after"]), 1),
        report.bar(
            "frame rate among hostile messages, of that beside as many that are thrown away",
            shares["while"] / max(1e-9, shares["beside it"]),
            FRAME_RATE,
        ),
        report.bar("host grown among hostile messages, MB", found["grown_mb"], 64, at_most=True),
    ]


def wants(size: dict[str, int], chance: random.Random) -> Found:
    n = size["starved"]
    with ring_folder() as directory:
        found = {
            "inodes": want.no_inodes(n, chance),
            "descriptors": want.starved(directory, n, chance, lambda: want.descriptors(chance)),
            "address space": want.starved(directory, n, chance, lambda: want.address_space(chance)),
        }
        clocks = want.clocks_apart(directory, n)
    failed = want.full_disk(max(6, n // 20))
    report.table(
        ("no", "calls", "refused", "forbidden"),
        [(name, *(seen or ("not root", "", ""))) for name, seen in found.items()],
    )
    bars: Bars = [report.bar("take-overs failed on a full disk", failed, 0, at_most=True)]
    for name, seen in found.items():
        bars.append(report.bar(f"no {name}: forbidden outcomes", seen and seen[2], 0, at_most=True))
    bars.append(report.bar("clocks a day apart: frames that did not come", clocks and clocks[1], 0, at_most=True))
    return {**found, "take_overs_failed": failed, "clocks_apart": clocks}, bars


def soaked(size: dict[str, int], chance: random.Random) -> Found:
    found = soak(float(size["soak"]))
    print(f"soak: {found}")
    return found, [
        report.bar("soak: seconds", found["seconds"], 3600),
        report.bar("soak: host or recorder ended", float(found["ended_by_itself"]), 0, at_most=True),
        *(
            report.bar(f"soak: {name} grown from a quarter of the time to the end, MB", grown, 16, at_most=True)
            for name, grown in found["grown_mb"].items()
        ),
    ]


def compared(size: dict[str, int], chance: random.Random) -> Found:
    rows, found = [], {}
    for name, transport in others.transports().items():
        with ring_folder() as directory:
            count, left = others.compared(transport, directory, size["others"], chance)
        attach = times(count) or {"p50": None, "p99": None}
        rows.append((*count.row(name), left, attach["p50"], attach["p99"]))
        found[name] = vars(count) | {"attach_ms": attach, "left": left}
    report.table((*KILL_COLUMNS, "left", "back p50, ms", "p99, ms"), rows)
    ring = found["ring"]
    forbidden = sum(ring[what] for what in ("torn", "backward", "dead", "lost", "hangs", "left"))
    return found, [report.bar("writer killed, beside others: ring: forbidden outcomes", forbidden, 0, at_most=True)]


SECTIONS: dict[str, Callable[[dict[str, int], random.Random], Found]] = {
    "kills": kills,
    "hosts": hosts,
    "damage": damaged,
    "osc": datagrams,
    "websocket": messages,
    "want": wants,
    "soak": soaked,
    "others": compared,
}


def main(words: list[str] | None = None) -> int:
    parser = Parser("bench faults", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="minutes instead of hours")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    for name, (quick, full, what) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, help=f"{what} [{full:,}; quick: {quick:,}]")
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args(words)
    chosen = o.only.split(",")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"--only {','.join(sorted(unknown))}: use some of {','.join(SECTIONS)}")
    if not hasattr(os, "fork"):
        print("kills by POSIX signals; not for Windows")
        return 1
    size = {}
    for name, (quick, full, _) in SIZES.items():
        given = getattr(o, name)
        size[name] = given if given is not None else quick if o.quick else full
    results: dict[str, Any] = {"seed": o.seed, "sizes": size}
    bars: Bars = []
    for name in chosen:
        print(f"-- {name}", file=sys.stderr, flush=True)
        try:
            # Each with a chance of its own: a section alone does what it does among the others.
            results[name], more = SECTIONS[name](size, random.Random(o.seed))
        except KeyboardInterrupt:
            print("stopped: only whole sections are told", file=sys.stderr, flush=True)
            break
        bars += more
        print(flush=True)
    report.emit("faults", results, bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

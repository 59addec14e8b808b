"""One convention for every benchmark: a table for people, then one JSON line for machines.

The JSON has `bars`, a list of {"name", "value", "bar", "holds"}, one per figure that somebody asked for,
computed from what was just measured, beside the machine, the versions and the date.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0..100) of a non-empty sequence, by linear interpolation."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * q / 100.0
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def bar(name: str, value: float | None, limit: float, *, at_most: bool = False, why: str = "") -> dict[str, Any]:
    """One judged figure; `at_most` when smaller is better. None where it could not be measured here; why: said then."""
    sense = "<=" if at_most else ">="
    if value is None:
        reason = {"why": why} if why else {}
        return {"name": name, "value": None, "bar": limit, "sense": sense, "holds": None, **reason}
    holds = value <= limit if at_most else value >= limit
    return {"name": name, "value": float(f"{value:.4g}"), "bar": limit, "sense": sense, "holds": holds}


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print an aligned table to standard output."""
    text = [[str(c) for c in header]] + [[f"{c:.3f}" if isinstance(c, float) else str(c) for c in r] for r in rows]
    widths = [max(len(r[i]) for r in text) for i in range(len(header))]
    for number, row in enumerate(text):
        print("  ".join(c.rjust(w) if number else c.ljust(w) for c, w in zip(row, widths, strict=True)))
        if number == 0:
            print("  ".join("-" * w for w in widths))
    sys.stdout.flush()


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def emit(bench: str, results: Any, bars: list[dict[str, Any]]) -> None:
    """Print the bars for people and then the one JSON line, the last line of the run."""
    for b in bars:
        word = {True: "holds", False: "SHORT", None: "open "}[b["holds"]]
        value = b["value"] if "why" not in b else b["why"]
        print(f"{word}  {b['name']}: {value} (bar {b['sense']} {b['bar']})")
    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "diffusers", "transformers", "pyzmq"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    document = {
        "bench": bench,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.system(),
            "arch": platform.machine(),
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
        },
        "versions": versions,
        "results": results,
        "bars": bars,
    }
    print(json.dumps(document, separators=(",", ":")), flush=True)

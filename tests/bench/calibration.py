"""frameloom bench calibration: pose and clock offset of camera and depth sensor, on sequences with known truth.

Drives and rooms that no setting was tuned on, with noise in masks, points and clocks and start errors as in the
method's literature: the published loss as it is, what it loses without its parts, and the solver that calibrates.
Success is 1 degree, 10 cm and 15 ms.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bridge.commands.arguments import Parser
from core.calibration.calibrate import Calibration, calibrate, calibrate_recording
from core.calibration.depth import Projector, fill
from core.calibration.geometry import angle_deg, rigid, rotation_vector
from core.calibration.published import solve_published
from core.calibration.recording import pair
from core.calibration.residuals import State
from core.calibration.rig import Rig
from core.calibration.synthetic import HARSH, Sequence, drive, room
from tests.bench.report import bar, emit, percentile, table

FIRST_SEED = 5000

SEQUENCES: dict[str, tuple[Callable[[int], Sequence], bool, bool]] = {
    "drive, stop and go": (lambda seed: drive(seed), False, False),
    "drive, stop and go, from 12 degrees and 0.6 m": (lambda seed: drive(seed), True, False),
    "drive, stop and go, harsh masks": (lambda seed: drive(seed, noise=HARSH), False, False),
    "drive, varying speed": (lambda seed: drive(seed, "varying"), False, False),
    "drive, constant speed": (lambda seed: drive(seed, "constant"), False, False),
    "room, depth camera": (lambda seed: room(seed), False, False),
    "room, depth camera, estimated flow, two passes": (lambda seed: room(seed, estimated_flow=True), False, True),
    "room, LiDAR, estimated flow, two passes": (lambda seed: room(seed, "lidar", estimated_flow=True), False, True),
}
"""How it is made, whether the start is far off, whether it is a recording to be paired twice."""

WANTED = {
    "drive, stop and go": (0.07, 5.1, 4.6),
    "drive, stop and go, from 12 degrees and 0.6 m": (0.07, 5.1, 4.6),
    "drive, varying speed": (0.12, 8.0, 6.6),
    "drive, constant speed": (0.20, 10.3, 8.4),
    "room, depth camera": (0.30, 2.5, 1.4),
    "room, depth camera, estimated flow, two passes": (0.18, 2.2, 0.5),
    "room, LiDAR, estimated flow, two passes": (0.27, 2.5, 2.1),
}
"""Median degrees, centimetres and milliseconds of a prototype; 1.5 times as much is allowed."""


def errors(state: State, sequence: Sequence) -> tuple[float, float, float]:
    """Degrees, centimetres, milliseconds."""
    true = sequence.truth
    return (
        angle_deg(state.T[:3, :3] @ true.T_cam_lidar[:3, :3].T),
        100.0 * float(np.linalg.norm(state.T[:3, 3] - true.T_cam_lidar[:3, 3])),
        1e3 * abs(state.offset_s - true.offset_s),
    )


def success(error: tuple[float, float, float]) -> bool:
    return error[0] < 1.0 and error[1] < 10.0 and error[2] < 15.0


def covered(result: Calibration, sequence: Sequence) -> list[bool]:
    """Per parameter, whether the truth lies within the 90 % interval that the rig reports."""
    rig, true = result.rig, sequence.truth
    assert rig.covariance is not None
    off = np.concatenate(
        [
            rotation_vector(rig.T_cam_lidar[:3, :3] @ true.T_cam_lidar[:3, :3].T),
            rig.T_cam_lidar[:3, 3] - true.T_cam_lidar[:3, 3],
            [rig.offset_s - true.offset_s],
        ]
    )
    return [bool(x) for x in np.abs(off) <= 1.645 * np.sqrt(np.diag(rig.covariance))]


def depth_error(T: Any, offset_s: float, sequence: Sequence, picture: int) -> float:
    """Median over pixels of the relative error of a filled depth plane, points moved by the sequence's own motion."""
    scan = sequence.scan(picture)
    points = scan.points
    twist = sequence.true_twist(picture)
    lag = offset_s + (sequence.camera_ns[picture] - sequence.lidar_ns[picture]) * 1e-9
    c = points @ T[:3, :3].T + T[:3, 3]
    c = c + lag * (twist[:3] + np.cross(twist[3:], c))
    projector = Projector(Rig(sequence.K, sequence.size, rigid(np.eye(3), np.zeros(3))))
    plane = fill(projector.project(c.astype(np.float32)), 9)
    true = sequence.depth(picture)
    known = (plane > 0) & np.isfinite(true)
    return float(np.mean(np.abs(plane[known] - true[known]) / true[known]))


def projection_ms() -> float:
    """131,072 points into 1280 x 720, median of 50."""
    rng = np.random.default_rng(0)
    T = rigid(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.zeros(3))
    projector = Projector(Rig(np.array([[800.0, 0, 640], [0, 800, 360], [0, 0, 1]]), (1280, 720), T))
    points = (rng.uniform((1, -9, -5), (20, 9, 5), (131072, 3))).astype(np.float32)
    spent = []
    for _ in range(55):
        started = time.perf_counter()
        projector.project(points)
        spent.append(time.perf_counter() - started)
    return 1e3 * percentile(spent[5:], 50)


def one(name: str, seed: int, baselines: bool) -> dict[str, Any]:
    """Everything about one sequence and seed."""
    make, far, twice = SEQUENCES[name]
    sequence = make(seed)
    start = sequence.start(12, 0.6) if far else sequence.start()
    entry: dict[str, Any] = {"seed": seed}
    started, worked = time.perf_counter(), time.process_time()
    if twice:
        result = calibrate_recording(sequence, start)
    else:
        pairs = pair(sequence)
        started, worked = time.perf_counter(), time.process_time()
        result = calibrate(pairs, sequence.K, sequence.size, start)
    entry["seconds"] = time.perf_counter() - started
    entry["processor_seconds"] = time.process_time() - worked
    entry["flags"] = list(result.rig.flags)
    entry["ours"] = errors(State(result.rig.T_cam_lidar, result.rig.offset_s), sequence)
    entry["covered"] = covered(result, sequence)
    if twice:
        return entry
    ways: dict[str, dict[str, Any]] = {"published": {}}
    if baselines:
        ways |= {
            "point to pixel alone": {"reverse": False},
            "no velocity": {"motion": False},
            "spatial alone": {"temporal": False},
        }
    for way, options in ways.items():
        entry[way] = errors(solve_published(pairs, sequence.K, start, **options), sequence)
    if name == "drive, stop and go":
        rig = result.rig
        entry["depth"] = [
            depth_error(T, offset_s, sequence, 10)
            for T, offset_s in (
                (rig.T_cam_lidar, rig.offset_s),
                (sequence.truth.T_cam_lidar, sequence.truth.offset_s),
                (start, 0.0),
            )
        ]
    return entry


def kept(folder: Path | None, name: str, seed: int) -> dict[str, Any]:
    """What `one` gives, from the folder where it is there already. A folder belongs to one state of the code."""
    baselines = name == "drive, stop and go"
    if folder is None:
        return one(name, seed, baselines)
    path = folder / f"{list(SEQUENCES).index(name)}-{seed}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(one(name, seed, baselines))
        draft = path.with_suffix(".draft")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    entry: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return entry


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = Parser("bench calibration", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="sequences per row (default 20)")
    parser.add_argument("--quick", action="store_true", help="two sequences per row: under ten minutes on two cores")
    parser.add_argument("--keep", type=Path, help="folder for what is done: a run that was cut off goes on from there")
    parser.add_argument("--rows", nargs="+", choices=list(SEQUENCES), default=list(SEQUENCES))
    args = parser.parse_args(argv)
    seeds = 2 if args.quick else args.seeds
    results: dict[str, list[dict[str, Any]]] = {}
    for name in args.rows:
        results[name] = []
        for number in range(seeds):
            results[name].append(kept(args.keep, name, FIRST_SEED + number))
            print(f"{name}, {number + 1} of {seeds}", flush=True)
    rows, bars = [], []
    for name, entries in results.items():
        for way in ("ours", "published", "point to pixel alone", "no velocity", "spatial alone"):
            got = [e[way] for e in entries if way in e]
            if not got:
                continue
            medians = [percentile([g[i] for g in got], 50) for i in range(3)]
            worst = [percentile([g[i] for g in got], 95) for i in range(3)]
            share = sum(map(success, got)) / len(got)
            rows.append(
                [name, way, *(f"{m:.2f} ({w:.2f})" for m, w in zip(medians, worst, strict=True)), f"{share:.0%}"]
            )
            if way != "ours":
                continue
            units = ("degrees", "cm", "ms")
            for value, wanted, unit in zip(medians, WANTED.get(name, ()), units, strict=False):
                bars.append(bar(f"{name}: median {unit}", value, round(1.5 * wanted, 3), at_most=True))
            if "constant" in name:
                flagged = sum(any("weakly" in f for f in e["flags"]) for e in entries) / len(entries)
                bars.append(bar(f"{name}: share flagged as weakly observable", flagged, 1.0))
            else:
                bars.append(bar(f"{name}: success", share, 0.95))
        ahead = [
            all(o <= p for o, p in zip(e["ours"][:2], e["published"][:2], strict=True))
            for e in entries
            if "published" in e
        ]
        if ahead:
            bars.append(
                bar(f"{name}: rotation and translation ahead of the published loss", sum(ahead) / len(ahead), 1.0)
            )
    table(["sequence", "solver", "degrees (p95)", "cm (p95)", "ms (p95)", "success"], rows)
    entries_all = [e for entries in results.values() for e in entries]
    inside = [c for e in entries_all for c in e["covered"]]
    bars.append(bar("share of parameters within their reported 90 % interval", sum(inside) / len(inside), 0.9))
    # Processor seconds: no less than what two free cores take, whatever else runs.
    single = [e["processor_seconds"] for name, es in results.items() if not SEQUENCES[name][2] for e in es]
    if single:
        bars.append(bar("processor seconds for one solve, 95th percentile", percentile(single, 95), 15.0, at_most=True))
    depths = [e["depth"] for e in entries_all if "depth" in e]
    if depths:
        ours, true = (percentile([d[i] for d in depths], 50) for i in range(2))
        bars.append(
            bar("relative error of the depth plane, of what the true pose gives", ours / true, 1.1, at_most=True)
        )
    bars.append(bar("131,072 points into 1280x720, median ms", projection_ms(), 5.0, at_most=True))
    emit("calibration", results, bars)
    return 0


if __name__ == "__main__":
    sys.exit(main())

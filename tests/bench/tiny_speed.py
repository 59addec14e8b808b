"""Section `speed` of bench tiny: frames per second of the stream on two cores, run as the host would run it.

Each in a process of its own, on the processor as it is and held to AVX2 (`tests.avx2`), where it has more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import demo

CORES = 2
SIZES_PX = (128, 256)
CHILD = "import sys; from tests.bench.tiny_speed import rate; rate(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"


def rate(model: str, side_px: int, frames: int) -> None:
    """Print {"fps", "backend", "dtype"} as JSON: a scene that moves, as the host's first start would choose to run."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])

    import torch

    torch.set_num_threads(min(CORES, torch.get_num_threads()))

    from bridge.host import tuning
    from core.backend import executions
    from core.device import dtype_name
    from core.model import load_model
    from core.params import params_for
    from core.world import World
    from tests.bench.stream import Ours

    cpu, params = torch.device("cpu"), params_for("embedded")
    plain = load_model(Path(model), cpu, torch.float32, "eager")
    tuned = tuning.tune(plain, executions(cpu), (side_px, side_px), params, tuning.Cache(None))
    world = World(seed=3)
    made = [world.render(time_s=i / 30, width=side_px, height=side_px, style="grey")["colour"] for i in range(16)]
    ours = Ours(tuned.model, params, side_px, tuned.overlap)
    # The first frames warm up; of three turns the best counts, as whatever else happens only ever slows one.
    ours.run([made[i][None] for i in range(4)])
    fps = max(ours.run([made[i % 16][None] for i in range(frames)])[0] for _ in range(3))
    execution = tuned.model.execution
    print(json.dumps({"fps": fps, "backend": execution.backend, "dtype": dtype_name(execution.dtype)}))


def measure(model: Path, frames: int) -> dict[str, Any]:
    """By side in pixels and way to run the processor."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="frameloom-bench-") as folder:
        ways = demo.ways(Path(folder))
        for side in SIZES_PX:
            for way, (variables, _) in ways.items():
                command = [sys.executable, "-c", CHILD, str(model), str(side), str(frames)]
                environment = {**os.environ, **variables, "PYTHONPATH": str(demo.ROOT)}
                done = subprocess.run(
                    command, stdout=subprocess.PIPE, text=True, cwd=demo.ROOT, env=environment, check=True
                )
                found.setdefault(str(side), {})[way] = json.loads(done.stdout.splitlines()[-1])
    return {"cores": CORES, "frames": frames, **found}


def slowest(found: dict[str, Any], side: int) -> float:
    """Held to AVX2, where the processor has more; as it is otherwise."""
    return min(float(way["fps"]) for way in found[str(side)].values())

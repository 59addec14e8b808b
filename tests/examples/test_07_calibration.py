"""The example of calibration runs as it is, with its devices, both commands and the rings between them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.rings import fresh_channel, sweep

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_finds_the_sensor_and_gives_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("example_07", ROOT / "examples" / "07_calibration.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    name = fresh_channel()
    try:
        reached = example.main(["--quick", "--out", str(tmp_path), "--name", name])
    finally:
        for part in ("camera", "sensor", "aligned"):
            sweep(f"{name}-{part}")
    assert reached["rotation_deg"] < 1.5 and reached["translation_cm"] < 12 and reached["offset_ms"] < 40
    # Of depth by the start's pose, a third of the pixels would be of what lies behind.
    assert reached["depth"] < 0.03
    assert {f.name for f in tmp_path.iterdir()} == {"rig.json", "rig-points.mp4", "rig-loss.png", "rig-search.png"}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert lines[0]["accepted"] and lines[1]["frames"] == 30

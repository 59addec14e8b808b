"""The clips of the temporal benchmark are what they say, and its figures tell a steady picture from a shaking one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.motion import identity_grid, moved
from core.params import Params
from tests.bench import temporal_cost
from tests.bench.temporal import FIRST, compared, recovered
from tests.bench.temporal_clips import FPS, KINDS, SIZE_PX, clip, film
from tests.bench.temporal_pictures import plot, write
from tests.random_model import random_model

FRAMES = FIRST + 3


class Judge:
    """Sees the first style everywhere."""

    def styles(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(pictures), dtype=torch.long)


@pytest.mark.parametrize("kind", KINDS)
def test_motion_of_a_clip_leads_back_to_the_frame_before(kind):
    made = clip(kind, 2, FRAMES)
    assert made.colour.shape == (FRAMES, SIZE_PX, SIZE_PX, 3) and FPS == 30.0
    number = FRAMES - 1
    grid = identity_grid(SIZE_PX, SIZE_PX, torch.device("cpu")) + made.motion[number][None] * (2.0 / SIZE_PX)
    was = moved(made.colour[number - 1].permute(2, 0, 1)[None].float(), grid)[0].permute(1, 2, 0)
    same = moved(made.instance[number - 1][None, None].float(), grid, "nearest")[0, 0] == made.instance[number]
    same &= (grid[0].abs() <= 1.0).all(-1)
    now = made.colour[number].float()
    led, stayed = (float((now - x).abs().mean(-1)[same].mean()) for x in (was, made.colour[number - 1].float()))
    assert same.float().mean() > 0.8
    if kind in ("orbit", "pan", "actor"):
        assert led < 0.7 * stayed
    if kind == "watch":
        assert 0.0 < float((made.colour[number] != made.colour[number - 1]).any(-1).float().mean()) < 0.4
    assert (made.cut is not None) == (kind == "cut")


def test_steady_outputs_have_less_error_than_shaking_ones():
    made = clip("pan", 0, FRAMES)
    steady = {n: made.colour[n].float() for n in range(FRAMES)}
    shaking = {n: picture + (12.0 if n % 2 else -12.0) for n, picture in steady.items()}
    good, bad = (compared(made, out, steady, Judge()) for out in (steady, shaking))
    assert good["warp"][0] < 1.0 < 20.0 < bad["warp"][0]
    assert good["warp"] == good["warp of the input"] and good["edit"][0] == 0.0
    outputs = [
        {n: torch.full((2, 2, 3), value) for n, value in enumerate(values, 7)}
        for values in ((9.0, 5.0, 1.0, 2.0), (0.0,) * 4)
    ]
    assert recovered(*outputs) == 2 and recovered(outputs[0], outputs[0]) == 0


def test_a_film_is_read_with_estimated_motion_and_pictures_are_written(tmp_path: Path):
    cv2 = pytest.importorskip("cv2")
    made = clip("pan", 0, FRAMES)
    for number, frame in enumerate(made.colour):
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), frame.numpy()[..., ::-1])
    (tmp_path / "words.txt").write_text("no picture", encoding="utf-8")
    read = film(tmp_path, "neon", 5)
    assert torch.equal(read.colour, made.colour[:5])
    middle = read.motion[3][32:-32, 32:-32].reshape(-1, 2)
    assert (middle[middle.isfinite().all(-1)].median(0).values - torch.tensor([2.0, 0.0])).abs().max() < 0.5
    out = {n: made.colour[n].float() for n in range(5)}
    paths = write(tmp_path / "out", read, {"off": out, "engine, noise moves": out})
    assert [Path(p).name for p in paths] == ["film-off.mp4", "film-engine-noise-moves.mp4", "film.jpg"]
    assert all(Path(p).stat().st_size > 1000 for p in paths)
    with pytest.raises(ValueError, match="fewer than two pictures"):
        film(tmp_path / "nothing.mp4", "neon", 5)


def test_every_mode_is_timed_on_the_same_frames_and_a_long_run_beside_a_young_one(monkeypatch):
    monkeypatch.setattr(temporal_cost, "ROUNDS", 2)
    model, made = random_model(), clip("orbit", 0, FRAMES)
    params = {mode: Params(steps=2, temporal=mode) for mode in ("off", "engine", "bank")}
    for overlap in (False, True):
        took = temporal_cost.frame_ms(model, overlap, params, [made, made])
        assert {mode: len(blocks) for mode, blocks in took.items()} == dict.fromkeys(params, 4)
        assert all(block > 0.0 for blocks in took.values() for block in blocks)
    long = temporal_cost.long_run(model, params["engine"], made, 20)
    assert long["frames"] == 20 and long["ratio"] > 0.0 and long["late_ms"] > 0.0 and long["early_beside_ms"] > 0.0


def test_the_plot_shows_the_mean_of_all_clips_from_frame_to_frame(tmp_path):
    same = {"off": [4.0, 6.0, 8.0], "bank": [1.0, 2.0, 3.0]}
    two = {mode: [v - 1.0 for v in series] + [v + 1.0 for v in series] for mode, series in same.items()}
    for name, errors, clips in (("one", same, 1), ("two", two, 2), ("other", {**same, "bank": [5.0] * 3}, 1)):
        plot(tmp_path / name, {"pan": errors}, clips)
    one, mean, other = ((tmp_path / name).read_bytes() for name in ("one", "two", "other"))
    assert one == mean != other and one.startswith(b"\x89PNG")

"""Calibration of camera and depth sensor: geometry, rig files, the solver on sequences with known truth, bad input."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.calibration.calibrate import CalibrationError, calibrate
from core.calibration.depth import Projector, fill, project_plainly
from core.calibration.geometry import angle_deg, rotation, rotation_vector
from core.calibration.recording import ClockError, Pair, match, pair
from core.calibration.residuals import Problem, State
from core.calibration.rig import Rig, RigError, check_camera, check_pose, load_rig
from core.calibration.solver import SolverSettings
from core.calibration.synthetic import Pinhole, Sequence, drive, room

QUICK = SolverSettings(points=400, pixels=250, starts=2, rounds=3, averaged=2)
SMALL = Pinhole(414, 125, 240.5)


@functools.cache
def driven(profile: str = "stop-go") -> tuple[Sequence, list[Pair]]:
    sequence = drive(7, profile, frames=9, camera=SMALL)
    return sequence, pair(sequence)


def errors(rig: Rig, sequence: Sequence) -> tuple[float, float]:
    """Degrees and metres."""
    true = sequence.truth.T_cam_lidar
    return angle_deg(rig.T_cam_lidar[:3, :3] @ true[:3, :3].T), float(
        np.linalg.norm(rig.T_cam_lidar[:3, 3] - true[:3, 3])
    )


@pytest.mark.parametrize("w", [[0.0, 0.0, 0.0], [0.3, -0.2, 0.1], [0.0, 3.1, 0.0], [np.pi, 0.0, 0.0], [1.7, -1.7, 1.7]])
def test_rotation_and_its_vector_are_inverse(w: list[float]) -> None:
    R = rotation(np.array(w))
    assert np.allclose(R @ R.T, np.eye(3)) and np.isclose(np.linalg.det(R), 1)
    assert np.allclose(rotation(rotation_vector(R)), R, atol=1e-9)


@pytest.mark.parametrize("kind", ["drive", "room"])
def test_derivatives_are_those_of_the_projection(kind: str) -> None:
    if kind == "drive":
        sequence, pairs = driven()
    else:
        sequence = room(3, frames=2)
        pairs = [replace(p, flow=np.full((360, 640, 2), 40.0, np.float32)) for p in pair(sequence)]
    problem = Problem(pairs, sequence.K)
    state = State(sequence.truth.T_cam_lidar, 0.05)
    s = problem.sample(np.random.default_rng(0), 60, 30, 0.5)
    uv, J, ahead = problem.project(state, s)
    for k in range(7):
        step = np.zeros(7)
        step[k] = 1e-6
        high, low = problem.project(state.stepped(step), s)[0], problem.project(state.stepped(-step), s)[0]
        assert np.allclose(((high - low) / 2e-6)[ahead], J[ahead][:, :, k], rtol=1e-3, atol=1e-2)


def test_the_solver_finds_pose_and_offset_and_says_how_sure_it_is() -> None:
    sequence, pairs = driven()
    result = calibrate(pairs, sequence.K, sequence.size, sequence.start(), settings=QUICK)
    degrees, metres = errors(result.rig, sequence)
    assert degrees < 1.0 and metres < 0.3 and abs(result.rig.offset_s - sequence.truth.offset_s) < 0.04
    assert result.rig.accepted and result.score_after < result.score_before
    assert 0 < result.rig.sigma()["rotation_deg"] < 2.0


def test_a_scene_that_stands_still_gives_no_offset() -> None:
    sequence, pairs = driven()
    still = [replace(p, twist=np.zeros(6)) for p in pairs]
    rig = calibrate(still, sequence.K, sequence.size, sequence.start(2, 0.1), settings=QUICK).rig
    assert rig.offset_ns is None and any("nothing of the class moves" in flag for flag in rig.flags)
    rig = calibrate(
        [replace(p, twist=None) for p in pairs], sequence.K, sequence.size, sequence.start(2, 0.1), settings=QUICK
    ).rig
    assert rig.offset_ns is None and any("neither flow nor velocity" in flag for flag in rig.flags)


def test_constant_speed_is_flagged() -> None:
    sequence, pairs = driven("constant")
    rig = calibrate(pairs, sequence.K, sequence.size, sequence.start(), settings=QUICK).rig
    assert any("weakly observable" in flag for flag in rig.flags)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda pairs: pairs[:3], "only 3 pairs"),
        (lambda pairs: [replace(p, mask=np.zeros_like(p.mask)) for p in pairs], "masks are empty"),
        (lambda pairs: [replace(p, mask=np.ones_like(p.mask)) for p in pairs], "empty or full"),
        (lambda pairs: [replace(p, points=p.points * np.nan) for p in pairs], "no points of the class"),
        (lambda pairs: [replace(p, mask=p.mask[:, :-1]) for p in pairs], "of the camera's size"),
        (lambda pairs: [replace(p, twist=np.full(6, np.nan)) for p in pairs], "not finite"),
    ],
)
def test_data_that_hold_nothing_are_refused_with_the_reason(broken, reason: str) -> None:  # type: ignore[no-untyped-def]
    sequence, pairs = driven()
    with pytest.raises(CalibrationError, match=reason):
        calibrate(broken(pairs), sequence.K, sequence.size, sequence.start(), settings=QUICK)


def test_some_points_that_are_not_finite_are_left_out_and_named() -> None:
    sequence, pairs = driven()
    holed = [replace(p, points=np.where(np.arange(len(p.points))[:, None] % 10 == 0, np.nan, p.points)) for p in pairs]
    rig = calibrate(holed, sequence.K, sequence.size, sequence.start(), settings=QUICK).rig
    assert rig.accepted and any("not finite" in flag for flag in rig.flags)


def test_masks_of_something_else_are_not_accepted() -> None:
    sequence, pairs = driven()
    rng = np.random.default_rng(0)
    other = []
    for p in pairs:
        mask = np.zeros_like(p.mask)
        y, x = rng.integers(0, 60), rng.integers(0, 300)
        mask[y : y + 12, x : x + 20] = True
        other.append(replace(p, mask=mask))
    result = calibrate(other, sequence.K, sequence.size, sequence.start(), settings=QUICK)
    assert not result.rig.accepted and any("do not fit" in f or "do not see the same" in f for f in result.rig.flags)


@pytest.mark.parametrize(
    ("K", "reason"),
    [
        (np.diag([-700.0, 700.0, 1.0]), "mirrors"),
        (np.array([[700.0, 0, 600], [0, np.nan, 180], [0, 0, 1]]), "finite"),
        (np.array([[700.0, 0, 600], [0, 200, 180], [0, 0, 1]]), "differ"),
        (np.array([[7.0, 0, 600], [0, 7, 180], [0, 0, 1]]), "does not fit"),
        (np.array([[700.0, 0, 9000], [0, 700, 180], [0, 0, 1]]), "far outside"),
    ],
)
def test_intrinsics_of_no_camera_are_refused(K: np.ndarray, reason: str) -> None:
    with pytest.raises(RigError, match=reason):
        check_camera(K, (1242, 375))


def test_a_mirrored_pose_is_refused() -> None:
    with pytest.raises(RigError, match="mirrors"):
        check_pose(np.diag([1.0, -1.0, 1.0, 1.0]))


def test_clocks_that_run_backwards_jump_or_do_not_meet_are_refused() -> None:
    stamps = [k * 100_000_000 for k in range(20)]
    assert len(match(stamps, stamps, 0.0, 20)) == 20
    with pytest.raises(ClockError, match="backwards"):
        match(stamps, [*stamps[:10], *stamps[5:15]], 0.0, 20)
    with pytest.raises(ClockError, match="jumps"):
        match([*stamps[:10], *(s + 10**11 for s in stamps[10:])], stamps, 0.0, 20)
    with pytest.raises(ClockError, match="do not overlap"):
        match([s + 10**12 for s in stamps], stamps, 0.0, 20)


def test_pairing_takes_the_offset_into_account() -> None:
    camera = [round(k * 1e9 / 30) for k in range(90)]
    lidar = [round(k * 1e8) + 10**7 for k in range(5, 25)]
    for offset_s in (-0.15, 0.0, 0.15):
        for picture, scan, lag_s in match(camera, lidar, offset_s, 20):
            assert lag_s == pytest.approx((camera[picture] - lidar[scan]) * 1e-9)
            assert abs(lag_s + offset_s) <= 0.5 / 30 + 1e-9


def test_a_rig_survives_its_file(tmp_path: Path) -> None:
    sequence, _ = driven()
    rig = Rig(
        sequence.K, sequence.size, sequence.truth.T_cam_lidar, -12_345_678, np.eye(7), 1.5, 2.0, {"offset": 3.0}, ("a",)
    )
    rig.save(tmp_path / "rig.json")
    back = load_rig(tmp_path / "rig.json")
    assert np.array_equal(back.T_cam_lidar, rig.T_cam_lidar) and np.array_equal(back.K, rig.K)
    assert (back.offset_ns, back.flags, back.inflation, back.size) == (-12_345_678, ("a",), {"offset": 3.0}, rig.size)
    (tmp_path / "rig.json").write_text('{"schema": "frameloom-rig-1", "K": 3}')
    with pytest.raises(RigError, match="damaged"):
        load_rig(tmp_path / "rig.json")


def test_projection_equals_its_plain_twin_and_leaves_out_what_is_not_finite() -> None:
    sequence, _ = driven()
    rig = Rig(sequence.K, sequence.size, sequence.truth.T_cam_lidar)
    points = sequence.scan(1).points[:6000].astype(np.float32)
    points = np.concatenate([points, points[:50] * np.nan, points[:50] * -1, np.full((1, 3), np.inf, np.float32)])
    plane, plain = Projector(rig).project(points), project_plainly(rig, points)
    assert (plain > 0).sum() > 1000
    # float32 may put a point on the other side of a pixel's edge.
    assert np.isclose(plane, plain, rtol=1e-4).mean() > 0.999
    assert Projector(rig).project(np.zeros((0, 3), np.float32)).max() == 0


def test_filling_covers_holes_and_what_shines_through() -> None:
    plane = np.zeros((60, 80), np.float32)
    plane[::4, ::4] = 2.0
    plane[22, 22] = 9.0
    full = fill(plane, 5)
    assert (full == 2.0).all()


def test_one_frame_with_a_false_mask_does_not_decide() -> None:
    sequence, pairs = driven()
    wrong = np.zeros_like(pairs[0].mask)
    wrong[5:60, 5:200] = True
    spoiled = [replace(p, mask=p.mask | wrong) if k == 3 else p for k, p in enumerate(pairs)]
    good = calibrate(pairs, sequence.K, sequence.size, sequence.start(), settings=QUICK).rig
    rig = calibrate(spoiled, sequence.K, sequence.size, sequence.start(), settings=QUICK).rig
    assert errors(rig, sequence)[0] < errors(good, sequence)[0] + 0.3
    assert errors(rig, sequence)[1] < errors(good, sequence)[1] + 0.1


@pytest.mark.parametrize("share", [0.6, 1.6])
def test_wrong_intrinsics_are_not_taken_for_sure(share: float) -> None:
    sequence, pairs = driven()
    K = sequence.K.copy()
    K[0, 0] = K[1, 1] = share * K[0, 0]
    rig = calibrate(pairs, K, sequence.size, sequence.start(), settings=QUICK).rig
    assert not rig.accepted and any("intrinsics" in flag for flag in rig.flags)


def test_scans_that_show_one_thing_in_one_place_do_not_determine_the_pose() -> None:
    # One small object, always straight ahead and equally far: turning and shifting the sensor look the same.
    K, size = np.array([[300.0, 0, 160], [0, 300.0, 90], [0, 0, 1]]), (320, 180)
    y, z = np.meshgrid(np.linspace(-0.3, 0.3, 25), np.linspace(-0.3, 0.3, 25))
    points = np.stack([y.ravel(), z.ravel(), np.full(y.size, 4.0)], 1)
    mask = np.zeros((180, 320), bool)
    mask[67:113, 137:183] = True
    pairs = [Pair(mask, points + (0, 0, 0.001 * k), flow=np.zeros((180, 320, 2), np.float32)) for k in range(8)]
    rig = calibrate(pairs, K, size, np.eye(4), settings=QUICK).rig
    assert any("weakly determined" in flag for flag in rig.flags)
    assert rig.offset_ns is None

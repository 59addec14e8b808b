"""What a calibration can be made from: KITTI's layouts, recorded folders, and the segmentation of both."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from core.calibration.calibrate import calibrate, calibrate_recording
from core.calibration.footage import Cloud, FootageError, FootageWriter, RecordedFootage, Segmented
from core.calibration.geometry import angle_deg
from core.calibration.kitti import KittiRaw, SemanticKitti, open_kitti
from core.calibration.recording import pair
from core.calibration.segmentation import (
    SEMANTIC_KITTI,
    InMasks,
    above_ground,
    away_from_background,
    by_label,
    by_segmenter,
    changed,
    from_mask_plane,
    from_pictures,
)
from core.calibration.solver import SolverSettings
from core.calibration.synthetic import CLEAN, Pinhole, Sequence, drive, room
from tests.core.kitti_folder import write_odometry, write_raw

QUICK = SolverSettings(points=400, pixels=250, starts=2, rounds=3, averaged=2)
SMALL = Pinhole(414, 125, 240.5)
TINY = Pinhole(320, 180, 250.0)
UP = np.array([0.0, 0.0, 1.0])


@functools.cache
def driven() -> Sequence:
    return drive(11, frames=9, camera=SMALL)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(driven(), tmp_path_factory.mktemp("raw"), skip=4)


@pytest.fixture(scope="module")
def odometry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_odometry(driven(), tmp_path_factory.mktemp("odometry"))


def test_a_raw_drive_is_read_as_its_description_says(raw: Path) -> None:
    sequence, read = driven(), open_kitti(raw, labels=raw / "labels")
    assert isinstance(read, KittiRaw) and read.has_labels and read.size == sequence.size
    assert np.allclose(read.K, sequence.K, atol=1e-9)
    assert np.allclose(read.T_cam_lidar, sequence.truth.T_cam_lidar, atol=1e-9)
    # Scan 4 is missing, and the others keep their stamps.
    assert len(read.camera_ns) == 9 and len(read.lidar_ns) == 8
    steps = np.diff(read.lidar_ns)
    assert np.allclose(steps, np.diff(np.delete(sequence.lidar_ns, 4)), atol=200)
    apart = np.array(read.camera_ns) - np.array(sequence.camera_ns)
    assert abs(apart - apart[0]).max() < 200 and abs(apart[0] - (read.lidar_ns[0] - sequence.lidar_ns[0])) < 200
    for picture in (0, 8):
        assert np.allclose(read.twist(picture), sequence.true_twist(picture), atol=1e-6)
    cloud, true = read.cloud(4), sequence.scan(5)
    assert np.array_equal(cloud.points, true.points.astype(np.float32))
    assert np.array_equal(by_label(SEMANTIC_KITTI["car"])(4, cloud), true.chosen)
    # The synthetic sweep turns the same way and is as old as its azimuth says, in five steps of a fifth of the view.
    assert np.abs(cloud.ages_s - true.ages_s).max() < 0.1 * 20 / 360 * 0.51 + 1e-3


def test_an_odometry_sequence_is_read_as_its_description_says(odometry: Path) -> None:
    sequence, read = driven(), open_kitti(odometry)
    assert isinstance(read, SemanticKitti) and read.has_labels
    assert np.allclose(read.K, sequence.K, atol=1e-9)
    assert np.allclose(read.T_cam_lidar, sequence.truth.T_cam_lidar, atol=1e-9)
    assert read.camera_ns == read.lidar_ns and read.cloud(0).ages_s is None
    assert np.allclose(read.twist(7), sequence.true_twist(7), atol=0.02)
    assert np.linalg.norm(sequence.true_twist(7)[:3]) > 4.0


@pytest.mark.parametrize("layout", ["raw", "odometry"])
def test_pose_and_offset_are_found_from_a_kitti_folder(layout: str, raw: Path, odometry: Path) -> None:
    sequence = driven()
    folder = raw if layout == "raw" else odometry
    read = open_kitti(folder, labels=folder / "labels")
    recording = Segmented(read, from_pictures(folder / "masks", (26,)), by_label(SEMANTIC_KITTI["car"]))
    assert recording.moves_by == "rig"
    rig = calibrate(pair(recording), read.K, read.size, sequence.start(), settings=QUICK).rig
    true = sequence.truth.T_cam_lidar
    assert rig.accepted
    assert angle_deg(rig.T_cam_lidar[:3, :3] @ true[:3, :3].T) < 1.0
    assert np.linalg.norm(rig.T_cam_lidar[:3, 3] - true[:3, 3]) < 0.35
    # The odometry layout has one stamp for picture and scan, so the offset is what the pictures were taken later.
    assert abs(rig.offset_s - sequence.truth.offset_s) < 0.05


def test_folders_in_no_layout_are_refused_with_the_reason(tmp_path: Path, odometry: Path) -> None:
    with pytest.raises(FootageError, match="neither a raw drive"):
        open_kitti(tmp_path)
    (tmp_path / "velodyne").mkdir()
    with pytest.raises(FootageError, match=r"calib.txt cannot be read"):
        open_kitti(tmp_path)
    (tmp_path / "calib.txt").write_text("P2: 1 2 3\n")
    with pytest.raises(FootageError, match="no P2 of 12 numbers"):
        open_kitti(tmp_path)
    label = sorted((odometry / "labels").iterdir())[2]
    whole = label.read_bytes()
    try:
        label.write_bytes(whole[:-4])
        with pytest.raises(FootageError, match="labels for"):
            open_kitti(odometry).cloud(2)
    finally:
        label.write_bytes(whole)


# ---- a recorded room -----------------------------------------------------------------------------------------------


def record(sequence: Sequence, folder: Path, rotated_by_s: float = 0.0) -> None:
    """What a live recording of the sequence would write; the clouds' clock is ahead by `rotated_by_s`."""
    recorder = FootageWriter(folder)
    for k, ns in enumerate(sequence.camera_ns):
        recorder.picture(sequence.picture(k), k, ns, ns + 5_000_000, (3 * sequence.true_mask(k)).astype(np.uint8))
    for k, ns in enumerate(sequence.lidar_ns):
        scan = sequence.scan(k)
        rows = np.column_stack([scan.points, scan.chosen]).astype(np.float32)
        recorder.cloud(rows, k, ns + round(rotated_by_s * 1e9), ns + 5_000_000)
    recorder.close()


@functools.cache
def walked() -> Sequence:
    """Fifteen pictures a second, for flow."""
    return room(5, "depth", CLEAN, 10, 3, seconds=4.0, estimated_flow=True, camera=TINY, camera_hz=15.0)


@functools.cache
def strolled() -> Sequence:
    """Ten seconds, so that nobody stays where he is."""
    return room(6, "depth", frames=20, people=2, seconds=10.0, estimated_flow=True, camera=TINY, camera_hz=2.0)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("room") / "recording"
    record(walked(), folder)
    return folder


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def test_a_recording_comes_back_and_needs_its_intrinsics(recorded: Path) -> None:
    sequence = walked()
    with pytest.raises(FootageError, match="without intrinsics"):
        RecordedFootage(recorded)
    read = RecordedFootage(recorded, sequence.K)
    assert read.size == sequence.size and read.camera_ns == sequence.camera_ns and read.lidar_ns == sequence.lidar_ns
    assert np.abs(read.picture(3).astype(int) - sequence.picture(3)).mean() < 4.0
    assert np.allclose(read.cloud(2).points, sequence.scan(2).points, atol=1e-5)
    assert overlap(from_mask_plane(read, (3,))(3), sequence.true_mask(3)) == 1.0
    assert not from_mask_plane(read, (2,))(3).any()
    assert abs(read.clocks_apart_s) < 1e-6
    with pytest.raises(FootageError, match="holds a recording already"):
        FootageWriter(recorded)
    with pytest.raises(FootageError, match="holds no recording"):
        RecordedFootage(recorded / "points")


def test_what_moves_is_found_in_pictures_and_clouds(tmp_path: Path) -> None:
    sequence = strolled()
    record(sequence, tmp_path / "recording")
    read = RecordedFootage(tmp_path / "recording", sequence.K)
    mask = changed(read)
    seen = [overlap(mask(k), sequence.true_mask(k)) for k in range(0, 20, 3)]
    chosen = away_from_background(read)
    found = [overlap(chosen(k, read.cloud(k)), sequence.scan(k).chosen) for k in range(0, 20, 3)]
    assert np.mean(seen) > 0.6 and np.mean(found) > 0.6


def test_points_of_the_class_are_found_by_the_masks_and_an_estimate(recorded: Path) -> None:
    sequence = walked()
    read = RecordedFootage(recorded, sequence.K)
    masks = from_mask_plane(read)
    in_masks = InMasks(read, masks, sequence.start(8, 0.4), 0.0)
    rough = np.mean([overlap(in_masks(k, read.cloud(k)), sequence.scan(k).chosen) for k in range(0, 10, 2)])
    in_masks.estimate(sequence.truth.T_cam_lidar, sequence.truth.offset_s)
    good = np.mean([overlap(in_masks(k, read.cloud(k)), sequence.scan(k).chosen) for k in range(0, 10, 2)])
    assert good > 0.7 and good > rough + 0.1


def test_objects_stand_above_the_ground() -> None:
    sequence = driven()
    scan = sequence.scan(6)
    chosen = above_ground(UP)(0, Cloud(scan.points))
    # Cars and what else stands there, and of the cars nearly all.
    assert chosen[scan.chosen].mean() > 0.9 and chosen.mean() < 0.6
    with pytest.raises(FootageError, match="no ground"):
        above_ground(UP)(0, Cloud(np.random.default_rng(0).normal(0, 3, (500, 3)) * (0.01, 1, 1)))


def test_a_segmenter_of_ones_own_is_held_to_the_size_of_the_pictures(recorded: Path) -> None:
    read = RecordedFootage(recorded, walked().K)
    assert by_segmenter(read, lambda picture: picture[..., 0] > 100)(0).shape == (180, 320)
    with pytest.raises(FootageError, match=r"must give \(180, 320\)"):
        by_segmenter(read, lambda picture: picture[:10, :, 0] > 100)(0)


def test_pose_and_offset_are_found_from_a_recording_on_two_clocks(tmp_path: Path) -> None:
    sequence = walked()
    record(sequence, tmp_path / "recording", rotated_by_s=5000.0)
    read = RecordedFootage(tmp_path / "recording", sequence.K)
    assert read.clocks_apart_s == pytest.approx(5000.0, abs=1e-3)
    recording = Segmented(read, from_mask_plane(read), by_label(()))
    assert recording.moves_by == "optical flow"
    rig = calibrate_recording(recording, sequence.start(3, 0.15), read.clocks_apart_s, 10, passes=1, settings=QUICK).rig
    true = sequence.truth.T_cam_lidar
    assert rig.accepted and angle_deg(rig.T_cam_lidar[:3, :3] @ true[:3, :3].T) < 1.5
    assert abs(rig.offset_s - 5000.0 - sequence.truth.offset_s) < 0.03

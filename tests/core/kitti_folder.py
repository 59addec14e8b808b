"""Writes a synthetic drive in the layouts of KITTI raw and SemanticKITTI, as the data sets' descriptions give them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from core.calibration.geometry import Floats, inverse, rigid, rotation
from core.calibration.synthetic import CLASS, Sequence
from core.opencv import opencv

R_RECT = rotation(np.array([0.010, -0.007, 0.004]))
T_CAM2_CAM0 = rigid(np.eye(3), np.array([0.06, -0.0003, 0.0027]))
"""Rectified camera 2 from rectified camera 0."""
T_VELO_IMU = rigid(rotation(np.array([0.0, 0.01, -0.005])), np.array([-0.81, 0.32, -0.80]))
CAR, ROAD = 10, 40


def projection(sequence: Sequence) -> Floats:
    """P_rect_02: pixels counted from their centres, and camera 0's origin in its last column."""
    K = sequence.K.copy()
    K[:2, 2] -= 0.5
    return np.column_stack([K, K @ T_CAM2_CAM0[:3, 3]])


def numbers(values: Floats) -> str:
    return " ".join(f"{x:.12e}" for x in np.asarray(values).ravel())


def stamp(seconds: float) -> str:
    whole = datetime(2011, 9, 26, 13, 2, 25) + timedelta(seconds=math.floor(seconds))
    return whole.strftime("%Y-%m-%d %H:%M:%S") + f".{round((seconds - math.floor(seconds)) * 1e9):09d}"


def write_png(path: Path, picture: Floats) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert opencv().imwrite(str(path), picture[..., ::-1] if picture.ndim == 3 else picture)


def grey(sequence: Sequence, picture: int) -> Floats:
    """Any picture of the right size: the tests segment by labels."""
    return np.repeat((60 + 90 * (sequence.met(picture).label == CLASS)).astype(np.uint8)[..., None], 3, axis=2)


def labelled(sequence: Sequence, folder: Path) -> None:
    """Mask pictures beside the data set, which has none of its own."""
    for k in range(len(sequence.camera_ns)):
        write_png(folder / f"{k:06d}.png", np.where(sequence.mask(k), 26, 7).astype(np.uint8))


def scans(sequence: Sequence, data: Path, labels: Path, names: list[str], skip: int = -1) -> None:
    data.mkdir(parents=True)
    labels.mkdir(parents=True)
    for k in range(len(sequence.lidar_ns)):
        if k == skip:
            continue
        scan = sequence.scan(k)
        np.column_stack([scan.points, np.full(len(scan.points), 0.3)]).astype(np.float32).tofile(
            data / f"{names[k]}.bin"
        )
        # The upper half of a label is the instance.
        label = np.where(scan.chosen, CAR, ROAD).astype(np.uint32) | (np.uint32(7) << 16)
        label.tofile(labels / f"{names[k]}.label")


def write_raw(sequence: Sequence, root: Path, skip: int = -1) -> Path:
    """One drive of the raw data; labels of its clouds in `labels`, of its pictures in `masks`. skip: a scan that is
    missing, as in some drives."""
    date = root / "2011_09_26"
    drive = date / "2011_09_26_drive_0099_sync"
    drive.mkdir(parents=True)
    (date / "calib_cam_to_cam.txt").write_text(
        f"calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.95e-02\n"
        f"R_rect_00: {numbers(R_RECT)}\nP_rect_02: {numbers(projection(sequence))}\n"
    )
    T_cam0unrect_velo = inverse(T_CAM2_CAM0 @ rigid(R_RECT, np.zeros(3))) @ sequence.truth.T_cam_lidar
    for name, T in (("velo_to_cam", T_cam0unrect_velo), ("imu_to_velo", T_VELO_IMU)):
        (date / f"calib_{name}.txt").write_text(
            f"calib_time: 15-Mar-2012 11:37:16\nR: {numbers(T[:3, :3])}\nT: {numbers(T[:3, 3])}\n"
        )
    scans(
        sequence,
        drive / "velodyne_points" / "data",
        drive / "labels",
        [f"{k:010d}" for k in range(len(sequence.lidar_ns))],
        skip,
    )
    labelled(sequence, drive / "masks")
    T_imu_cam = inverse(sequence.truth.T_cam_lidar @ T_VELO_IMU)
    (drive / "oxts" / "data").mkdir(parents=True)
    for k in range(len(sequence.camera_ns)):
        write_png(drive / "image_02" / "data" / f"{k:010d}.png", grey(sequence, k))
        # The inertial sensor measures its own velocity and turning rate, along its own axes.
        twist = sequence.true_twist(k)
        here = inverse(T_imu_cam)[:3, 3]
        velocity = -(twist[:3] + np.cross(twist[3:], here))
        values = np.zeros(30)
        values[8:11], values[20:23] = T_imu_cam[:3, :3] @ velocity, -T_imu_cam[:3, :3] @ twist[3:]
        (drive / "oxts" / "data" / f"{k:010d}.txt").write_text(numbers(values))
    lidar_s = np.array(sequence.lidar_ns) * 1e-9
    for folder, file, seconds in (
        ("image_02", "timestamps", np.array(sequence.camera_ns) * 1e-9),
        ("velodyne_points", "timestamps", lidar_s),
        ("velodyne_points", "timestamps_start", lidar_s - 0.05),
        ("velodyne_points", "timestamps_end", lidar_s + 0.05),
    ):
        (drive / folder / f"{file}.txt").write_text("".join(stamp(s) + "\n" for s in seconds))
    return drive


def write_odometry(sequence: Sequence, root: Path) -> Path:
    """One sequence of the odometry benchmark with SemanticKITTI's labels; mask pictures in `masks`. Of its frames, ten
    a second, most have no picture and no scan."""
    folder = root / "sequences" / "42"
    folder.mkdir(parents=True)
    T_cam0_velo = inverse(T_CAM2_CAM0) @ sequence.truth.T_cam_lidar
    (folder / "calib.txt").write_text(f"P2: {numbers(projection(sequence))}\nTr: {numbers(T_cam0_velo[:3])}\n")
    step_s = 0.1
    index = [round((ns * 1e-9 - 100.0) / step_s) for ns in sequence.lidar_ns]
    times = np.arange(max(index) + 2) * step_s
    (folder / "times.txt").write_text("".join(f"{s:.6e}\n" for s in times))
    world = inverse(sequence.T_world_cam(sequence.truth.offset_s))
    rows = [
        numbers((world @ sequence.T_world_cam(s + sequence.truth.offset_s) @ T_CAM2_CAM0)[:3]) + "\n" for s in times
    ]
    for k, name in enumerate(index):
        write_png(folder / "image_2" / f"{name:06d}.png", grey(sequence, k))
    (folder / "poses.txt").write_text("".join(rows))
    scans(sequence, folder / "velodyne", folder / "labels", [f"{name:06d}" for name in index])
    labelled(sequence, folder / "masks")
    return folder

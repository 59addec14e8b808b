"""KITTI raw drives and sequences in the layout of the odometry benchmark with SemanticKITTI's labels, as `Footage`.

    DATE/calib_cam_to_cam.txt, calib_velo_to_cam.txt, calib_imu_to_velo.txt
    DATE/DATE_drive_0005_sync/image_02/{timestamps.txt, data/0000000000.png}
                             /velodyne_points/{timestamps.txt, timestamps_start.txt, timestamps_end.txt, data/*.bin}
                             /oxts/{timestamps.txt, data/0000000000.txt}

    sequences/00/{velodyne/000000.bin, labels/000000.label, image_2/000000.png, calib.txt, times.txt, poses.txt}

Written from the data sets' own descriptions (Geiger et al., IJRR 2013; Behley et al., ICCV 2019). KITTI counts pixels
from their centres and this package from their corners, so half a pixel is added to the principal point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.calibration.footage import Cloud, FootageError, read_picture, twist_from_poses
from core.calibration.geometry import Floats, rigid


def read_table(path: Path) -> dict[str, Floats]:
    """`name: numbers` a line; lines whose values are no numbers (dates) are left out. Raises `FootageError`."""
    table = {}
    for line in _text(path).splitlines():
        name, colon, rest = line.partition(":")
        try:
            if colon:
                table[name.strip()] = np.array(rest.split(), float)
        except ValueError:
            continue
    return table


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FootageError(f"{path} cannot be read ({error}); the folder must be in KITTI's layout") from None


def _matrix(table: dict[str, Floats], name: str, rows: int, columns: int, path: Path) -> Floats:
    found = table.get(name)
    if found is None or found.size != rows * columns:
        raise FootageError(f"{path} holds no {name} of {rows * columns} numbers")
    return found.reshape(rows, columns)


def _camera(P: Floats) -> tuple[Floats, Floats]:
    """A projection matrix (3,4) as intrinsics and where camera 0 is in that camera's frame."""
    K = P[:, :3].copy()
    K[0, 2] += 0.5
    K[1, 2] += 0.5
    return K, np.linalg.solve(P[:, :3], P[:, 3])


def stamps_ns(path: Path) -> list[int]:
    """`YYYY-MM-DD HH:MM:SS.nnnnnnnnn` a line to nanoseconds since 1970, without regard to time zones."""
    out = []
    for line in filter(None, map(str.strip, _text(path).splitlines())):
        whole, _, part = line.partition(".")
        try:
            seconds = (datetime.strptime(whole, "%Y-%m-%d %H:%M:%S") - datetime(1970, 1, 1)).total_seconds()
            out.append(int(seconds) * 1_000_000_000 + int((part or "0").ljust(9, "0")[:9]))
        except ValueError:
            raise FootageError(f"{path} holds {line!r}, which is no time stamp") from None
    return out


def _numbered(folder: Path, suffix: str) -> list[Path]:
    files = sorted(f for f in folder.glob(f"*{suffix}") if f.stem.isdigit())
    if not files:
        raise FootageError(f"{folder} holds no numbered {suffix} files; the folder must be in KITTI's layout")
    return files


def _stamped(folder: Path, files: list[Path], stamps: Sequence[int]) -> tuple[list[Path], list[int]]:
    """Files that have a stamp. A drive may lack single scans, so the number in the name counts."""
    kept = [f for f in files if int(f.stem) < len(stamps)]
    if not kept:
        raise FootageError(f"{folder}: the time stamps do not belong to its files")
    return kept, [stamps[int(f.stem)] for f in kept]


class _Kitti:
    """What both layouts share."""

    K: Floats
    size: tuple[int, int]
    T_cam_lidar: Floats
    """The data set's own calibration."""
    camera_ns: list[int]
    lidar_ns: list[int]
    _pictures: list[Path]
    _scans: list[Path]
    _labels: Path | None

    def picture(self, number: int) -> NDArray[np.uint8]:
        return read_picture(self._pictures[number])

    def cloud(self, number: int) -> Cloud:
        path = self._scans[number]
        rows = np.fromfile(path, np.float32)
        if rows.size % 4:
            raise FootageError(f"{path} is no scan: its size is no multiple of 16 bytes")
        rows = rows.reshape(-1, 4)
        extra: Floats = rows[:, 3]
        if self._labels is not None:
            label = self._labels / f"{path.stem}.label"
            try:
                extra = np.fromfile(label, np.uint32) & 0xFFFF
            except OSError as error:
                raise FootageError(f"{label} cannot be read ({error})") from None
            if len(extra) != len(rows):
                raise FootageError(f"{label} holds {len(extra)} labels for {len(rows)} points")
        return Cloud(rows[:, :3], extra, self._ages(number, rows))

    def _ages(self, number: int, rows: Floats) -> Floats | None:
        return None

    def classes(self, number: int) -> NDArray[np.uint8] | None:
        return None

    def motion(self, number: int) -> Floats | None:
        return None

    @property
    def has_labels(self) -> bool:
        return self._labels is not None


class KittiRaw(_Kitti):
    """One synchronised drive of the raw data, rectified camera `camera` (0 to 3)."""

    def __init__(self, drive: Path, camera: int = 2, labels: Path | None = None) -> None:
        """labels: folder of `.label` files in SemanticKITTI's form, named like the scans. Raises `FootageError`."""
        date, at = drive.parent, f"{camera:02d}"
        lens = read_table(date / "calib_cam_to_cam.txt")
        self.K, place = _camera(_matrix(lens, f"P_rect_{at}", 3, 4, date / "calib_cam_to_cam.txt"))
        R_rect = _matrix(lens, "R_rect_00", 3, 3, date / "calib_cam_to_cam.txt")
        self.T_cam_lidar = (
            rigid(np.eye(3), place) @ rigid(R_rect, np.zeros(3)) @ _motion(date / "calib_velo_to_cam.txt")
        )
        self._labels = labels
        images, scans = drive / f"image_{at}", drive / "velodyne_points"
        self._pictures, self.camera_ns = _stamped(
            images, _numbered(images / "data", ".png"), stamps_ns(images / "timestamps.txt")
        )
        self._scans, self.lidar_ns = _stamped(
            scans, _numbered(scans / "data", ".bin"), stamps_ns(scans / "timestamps.txt")
        )
        shape = self.picture(0).shape
        self.size = (shape[1], shape[0])
        self._sweeps_s = self._sweeps(scans)
        self._T_cam_imu = None
        self._oxts: dict[int, Path] = {}
        if (drive / "oxts" / "data").is_dir() and (date / "calib_imu_to_velo.txt").exists():
            self._T_cam_imu = self.T_cam_lidar @ _motion(date / "calib_imu_to_velo.txt")
            self._oxts = {int(f.stem): f for f in _numbered(drive / "oxts" / "data", ".txt")}

    def _sweeps(self, scans: Path) -> list[float]:
        ends = [scans / "timestamps_start.txt", scans / "timestamps_end.txt"]
        if not all(f.exists() for f in ends):
            return []
        return [(b - a) * 1e-9 for a, b in zip(*map(stamps_ns, ends), strict=False)]

    def _ages(self, number: int, rows: Floats) -> Floats | None:
        """The laser turns counter-clockwise, once a sweep, and the stamp is that of its looking ahead."""
        index = int(self._scans[number].stem)
        if index >= len(self._sweeps_s):
            return None
        return -np.arctan2(rows[:, 1], rows[:, 0]).astype(float) * (self._sweeps_s[index] / (2 * math.pi))

    def twist(self, number: int) -> Floats | None:
        """From the inertial sensor: its velocity and turning rate (forward, left, up), moved to the camera by its
        lever arm."""
        path = self._oxts.get(int(self._pictures[number].stem))
        if path is None or self._T_cam_imu is None:
            return None
        try:
            values = np.array(_text(path).split(), float)
        except ValueError:
            values = np.zeros(0)
        if values.size < 23:
            raise FootageError(f"{path} holds no 30 numbers")
        R, t = self._T_cam_imu[:3, :3], self._T_cam_imu[:3, 3]
        turning = R @ values[20:23]
        # The camera's origin is at -R't in the frame of the inertial sensor.
        velocity = R @ values[8:11] + np.cross(turning, -t)
        return -np.concatenate([velocity, turning])


def _motion(path: Path) -> Floats:
    table = read_table(path)
    return rigid(_matrix(table, "R", 3, 3, path), _matrix(table, "T", 3, 1, path)[:, 0])


class SemanticKitti(_Kitti):
    """One sequence of the odometry benchmark, rectified camera `camera`, with labels where the folder has them. Its
    scans are free of the sensor's own motion, so that all points of one have its stamp."""

    def __init__(self, sequence: Path, camera: int = 2, labels: Path | None = None) -> None:
        """Raises `FootageError`."""
        path = sequence / "calib.txt"
        table = read_table(path)
        self.K, self._place = _camera(_matrix(table, f"P{camera}", 3, 4, path))
        T = np.vstack([_matrix(table, "Tr", 3, 4, path), [0, 0, 0, 1.0]])
        self.T_cam_lidar = rigid(np.eye(3), self._place) @ T
        own = sequence / "labels"
        self._labels = labels or (own if own.is_dir() else None)
        try:
            times = [round(float(line) * 1e9) for line in _text(sequence / "times.txt").split()]
        except ValueError:
            raise FootageError(f"{sequence / 'times.txt'} holds something that is no number of seconds") from None
        self._pictures, self.camera_ns = _stamped(sequence, _numbered(sequence / f"image_{camera}", ".png"), times)
        self._scans, self.lidar_ns = _stamped(sequence, _numbered(sequence / "velodyne", ".bin"), times)
        shape = self.picture(0).shape
        self.size = (shape[1], shape[0])
        self._times, self._poses = times, self._read_poses(sequence / "poses.txt")

    def _read_poses(self, path: Path) -> list[Floats | None]:
        if not path.exists():
            return []
        try:
            rows = [np.array(line.split(), float).reshape(3, 4) for line in _text(path).splitlines()]
        except ValueError:
            raise FootageError(f"{path} holds a line that is no 12 numbers") from None
        return [np.vstack([row, [0, 0, 0, 1.0]]) for row in rows]

    def twist(self, number: int) -> Floats | None:
        """From the poses of camera 0, moved to this camera."""
        index = int(self._pictures[number].stem)
        twist = twist_from_poses(self._poses, self._times, index) if index < len(self._poses) else None
        if twist is None:
            return None
        return np.concatenate([twist[:3] - np.cross(twist[3:], self._place), twist[3:]])


def open_kitti(folder: Path, camera: int = 2, labels: Path | None = None) -> KittiRaw | SemanticKitti:
    """The folder of one raw drive or of one odometry sequence. Raises `FootageError`."""
    if (folder / "velodyne_points").is_dir():
        return KittiRaw(folder, camera, labels)
    if (folder / "velodyne").is_dir():
        return SemanticKitti(folder, camera, labels)
    raise FootageError(
        f"{folder} is neither a raw drive (with velodyne_points/) nor an odometry sequence (with velodyne/): "
        "give the folder of one drive, such as 2011_09_26/2011_09_26_drive_0005_sync"
    )

"""Pictures and clouds as they were recorded, and what makes a `Recording` of them: segmentation and motion.

A folder that `FootageWriter` wrote, a KITTI folder and anything else with the attributes of `Footage` is calibrated.

    FOLDER/recording.json          schema, size, intrinsics or null
    FOLDER/camera.csv              sequence, capture_ns, publish_ns, 16 numbers of the pose or nothing
    FOLDER/frames/000000.jpg       and, where the client sends them, masks/000000.png, motion/000000.npy
    FOLDER/points.csv              sequence, capture_ns, publish_ns
    FOLDER/points/000000.npy       float32 (n,4): x, y, z in metres, intensity
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.calibration.flow import Flow
from core.calibration.geometry import Floats, twist_between
from core.calibration.recording import Scan
from core.opencv import opencv

SCHEMA = "frameloom-recording-1"
JPEG_QUALITY = 95
SLOWEST_RIG_M_S, SLOWEST_RIG_RAD_S = 0.05, 0.01
"""A rig that moves less than this stands still."""
LONGEST_STEP_S = 0.5
"""Pictures further apart than this say nothing of each other's motion."""


class FootageError(ValueError):
    """Footage that cannot be read. The message says why and what to do."""


@dataclass(frozen=True)
class Cloud:
    """One sweep as it was recorded: `points` float32 (n,3) metres, `extra` (n,) class label or intensity, None where
    there is neither, `ages_s` as in `Pair`."""

    points: Floats
    extra: Floats | None = None
    ages_s: Floats | None = None


class Footage(Protocol):
    """Pictures and clouds by number; stamps in nanoseconds, each on its own clock."""

    K: Floats
    size: tuple[int, int]
    camera_ns: Sequence[int]
    lidar_ns: Sequence[int]

    def picture(self, number: int) -> NDArray[np.uint8]:
        """(H,W,3) RGB."""
        ...

    def cloud(self, number: int) -> Cloud: ...

    def classes(self, number: int) -> NDArray[np.uint8] | None:
        """(H,W), the mask plane that came with a picture."""
        ...

    def motion(self, number: int) -> Floats | None:
        """(H,W,2), pixels per second of what is seen at each pixel, where somebody measured it."""
        ...

    def twist(self, number: int) -> Floats | None:
        """(6,) of static points in the camera frame, where the rig's own motion is known."""
        ...


class Segmented:
    """Footage with the class marked in pictures and clouds: a `Recording`.

    `masks` gives bool (H,W) of a picture by number, `chosen` bool (n,) of a cloud. How things move is taken from the
    motion that came with the pictures, else from the rig's own motion if it moves, else from optical flow.
    """

    def __init__(
        self,
        footage: Footage,
        masks: Callable[[int], NDArray[np.bool_]],
        chosen: Callable[[int, Cloud], NDArray[np.bool_]],
    ) -> None:
        self.footage, self._masks, self._chosen = footage, masks, chosen
        self.K, self.size = footage.K, footage.size
        self.camera_ns, self.lidar_ns = footage.camera_ns, footage.lidar_ns
        self._flow = Flow()
        self.moves_by = self._kind_of_motion()
        """`motion plane`, `rig`, or `optical flow`."""

    def _kind_of_motion(self) -> str:
        numbers = np.unique(np.linspace(0, max(len(self.camera_ns) - 1, 0), 12).round().astype(int)).tolist()
        if not self.camera_ns:
            return "optical flow"
        if self.footage.motion(numbers[len(numbers) // 2]) is not None:
            return "motion plane"
        known = [t for t in map(self.footage.twist, numbers) if t is not None]
        if known and (
            max(np.linalg.norm(t[:3]) for t in known) > SLOWEST_RIG_M_S
            or max(np.linalg.norm(t[3:]) for t in known) > SLOWEST_RIG_RAD_S
        ):
            return "rig"
        return "optical flow"

    def mask(self, picture: int) -> NDArray[np.bool_]:
        return self._masks(picture)

    def scan(self, number: int) -> Scan:
        cloud = self.footage.cloud(number)
        return Scan(cloud.points, self._chosen(number, cloud), cloud.ages_s)

    def twist(self, picture: int) -> Floats | None:
        return self.footage.twist(picture) if self.moves_by == "rig" else None

    def flow(self, picture: int) -> Floats | None:
        if self.moves_by == "rig":
            return None
        if self.moves_by == "motion plane":
            found = self.footage.motion(picture)
            if found is not None:
                return found
        stamps = self.camera_ns
        here = self.footage.picture(picture)
        sides = []
        for other in (picture - 1, picture + 1):
            if 0 <= other < len(stamps) and 0 < abs(stamps[other] - stamps[picture]) <= LONGEST_STEP_S * 1e9:
                step_s = np.float32((stamps[other] - stamps[picture]) * 1e-9)
                sides.append(self._flow.between(here, self.footage.picture(other)) / step_s)
        if not sides:
            width, height = self.size
            return np.zeros((height, width, 2), np.float32)
        rate: Floats = np.mean(sides, axis=0)
        return rate


# ---- a folder of our own -------------------------------------------------------------------------------------------


class FootageWriter:
    """Writes pictures and clouds into a folder as they come. Pictures and clouds may come from two threads."""

    def __init__(self, folder: Path) -> None:
        """Raises `FootageError` for a folder that holds a recording already."""
        if (folder / "recording.json").exists() or (folder / "camera.csv").exists():
            raise FootageError(f"{folder} holds a recording already; give another folder or delete it")
        for name in ("frames", "masks", "motion", "points"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._camera = (folder / "camera.csv").open("w", newline="", encoding="utf-8")
        self._lidar = (folder / "points.csv").open("w", newline="", encoding="utf-8")
        self.pictures = self.clouds = 0
        self._size: tuple[int, int] | None = None
        self._intrinsics: tuple[float, ...] | None = None

    def picture(
        self,
        rgb: NDArray[np.uint8],
        sequence: int,
        capture_ns: int,
        publish_ns: int,
        mask: NDArray[np.uint8] | None = None,
        motion: Floats | None = None,
        T_world_camera: Floats | None = None,
        intrinsics: Sequence[float] | None = None,
    ) -> None:
        """One picture (H,W,3); `sequence` counts the client's, which may not all come; `motion` (H,W,2) as in the
        ring: pixels, back to the client's picture before.

        Raises `FootageError` when the size changes.
        """
        size = (rgb.shape[1], rgb.shape[0])
        if self._size not in (None, size):
            raise FootageError(f"the pictures changed from {self._size} to {size} pixels: record at one size")
        self._size = size
        if intrinsics is not None:
            self._intrinsics = tuple(map(float, intrinsics))
        cv2, name = opencv(), f"{self.pictures:06d}"
        flags = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        good = cv2.imwrite(str(self.folder / f"frames/{name}.jpg"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), flags)
        if good and mask is not None:
            good = cv2.imwrite(str(self.folder / f"masks/{name}.png"), mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not good:
            raise FootageError(f"{self.folder} cannot be written; make room or give another folder")
        if motion is not None:
            np.save(self.folder / f"motion/{name}.npy", motion.astype(np.float16))
        pose = () if T_world_camera is None else np.asarray(T_world_camera, float).ravel()
        csv.writer(self._camera).writerow([sequence, capture_ns, publish_ns, *(f"{x:.9g}" for x in pose)])
        self.pictures += 1

    def cloud(self, points: Floats, sequence: int, capture_ns: int, publish_ns: int) -> None:
        """One cloud: x, y, z and intensity (..., 4)."""
        np.save(self.folder / f"points/{self.clouds:06d}.npy", np.asarray(points, np.float32).reshape(-1, 4))
        csv.writer(self._lidar).writerow([sequence, capture_ns, publish_ns])
        self.clouds += 1

    def close(self) -> None:
        self._camera.close()
        self._lidar.close()
        document = {"schema": SCHEMA, "size": self._size, "intrinsics": self._intrinsics}
        (self.folder / "recording.json").write_text(json.dumps(document) + "\n", encoding="utf-8")


def read_picture(path: Path, colour: bool = True) -> NDArray[np.uint8]:
    """(H,W,3) RGB, or the values as they are, (H,W). Raises `FootageError` when there is none."""
    cv2 = opencv()
    found = cv2.imread(str(path), cv2.IMREAD_COLOR if colour else cv2.IMREAD_UNCHANGED)
    if found is None:
        raise FootageError(f"{path} is missing or no picture")
    if colour:
        found = cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
    elif found.ndim == 3:
        # A label picture in grey that was saved with three equal channels.
        found = found[..., 0]
    picture: NDArray[np.uint8] = found
    return picture


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise FootageError(f"{path} cannot be read ({error}); give a folder that `calibrate --record` wrote") from None


def _document(folder: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((folder / "recording.json").read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA or not {"size", "intrinsics"} <= document.keys():
            raise FootageError(f"{folder} is no recording of this version: its schema must be {SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FootageError):
            raise
        raise FootageError(
            f"{folder} holds no recording ({error}); give a folder that `calibrate --record` wrote"
        ) from None
    return document


def recorded_size(folder: Path) -> tuple[int, int] | None:
    """Width and height of the pictures of a recorded folder; None without any. Raises `FootageError`."""
    size = _document(folder)["size"]
    return None if size is None else (int(size[0]), int(size[1]))


class RecordedFootage:
    """A folder that `FootageWriter` wrote, as `Footage`."""

    def __init__(self, folder: Path, K: Floats | None = None) -> None:
        """K: instead of the intrinsics that came with the pictures. Raises `FootageError`."""
        self._folder = folder
        document = _document(folder)
        size, lens = document["size"], document["intrinsics"]
        camera, lidar = _rows(folder / "camera.csv"), _rows(folder / "points.csv")
        if size is None or not camera:
            raise FootageError("no picture came; start what writes the camera's channel")
        if not lidar:
            raise FootageError("no cloud came; start what writes the channel of points")
        self.size = (int(size[0]), int(size[1]))
        if K is None and lens is None:
            raise FootageError("the pictures came without intrinsics: give --fov or --focal")
        if K is None:
            fx, fy, cx, cy = lens
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        self.K = K
        try:
            self.camera_ns = [int(row[1]) for row in camera]
            self.lidar_ns = [int(row[1]) for row in lidar]
            sequences = np.array([int(row[0]) for row in camera])
            late = [[int(row[2]) - int(row[1]) for row in rows] for rows in (camera, lidar)]
            self._poses = [np.array(row[3:19], float).reshape(4, 4) if len(row) >= 19 else None for row in camera]
        except (ValueError, IndexError) as error:
            raise FootageError(f"a table of {folder} is damaged ({error}); record again") from None
        steps = np.diff(sequences)
        self._step_s = float(np.median(np.diff(self.camera_ns) / np.maximum(steps, 1)) * 1e-9) if len(steps) else 0.0
        """From one of the client's pictures to the next, which need not be the next that was recorded."""
        self.clocks_apart_s = float(np.median(late[0]) - np.median(late[1])) * 1e-9
        """Offset of the clocks as far as the times of publication, which are on one clock, tell: to some 0.1 s."""

    def picture(self, number: int) -> NDArray[np.uint8]:
        return read_picture(self._folder / f"frames/{number:06d}.jpg")

    def cloud(self, number: int) -> Cloud:
        try:
            rows = np.load(self._folder / f"points/{number:06d}.npy")
        except (OSError, ValueError) as error:
            raise FootageError(f"cloud {number} cannot be read ({error}); record again") from None
        return Cloud(rows[:, :3], rows[:, 3])

    def classes(self, number: int) -> NDArray[np.uint8] | None:
        path = self._folder / f"masks/{number:06d}.png"
        return read_picture(path, colour=False) if path.exists() else None

    def motion(self, number: int) -> Floats | None:
        path = self._folder / f"motion/{number:06d}.npy"
        if not path.exists() or self._step_s <= 0:
            return None
        back = np.load(path).astype(np.float32)
        return np.nan_to_num(-back / np.float32(self._step_s), posinf=0.0, neginf=0.0)

    def twist(self, number: int) -> Floats | None:
        return twist_from_poses(self._poses, self.camera_ns, number)


def twist_from_poses(poses: Sequence[Floats | None], stamps_ns: Sequence[int], number: int) -> Floats | None:
    """(6,) of static points in the camera frame at one picture, from the poses (world from camera) around it; None
    where they are not known or too far apart."""
    first, last = max(number - 1, 0), min(number + 1, len(poses) - 1)
    before, after = poses[first], poses[last]
    seconds = (stamps_ns[last] - stamps_ns[first]) * 1e-9
    if before is None or after is None or not 0 < seconds <= 2 * LONGEST_STEP_S:
        return None
    return twist_between(before, after, seconds)

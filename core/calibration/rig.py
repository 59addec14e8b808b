"""How a camera and a depth sensor stand to each other, in space and in time: what calibrating gives, saved as JSON."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.calibration.geometry import Floats

SCHEMA = "frameloom-rig-1"
PARAMETERS = ("rotation_x", "rotation_y", "rotation_z", "translation_x", "translation_y", "translation_z", "offset")
"""Order of the covariance: radians and metres in the camera frame, seconds."""


class RigError(ValueError):
    """A rig that cannot be used. The message says why and what to do."""


@dataclass(frozen=True)
class Rig:
    """Intrinsics, pose and clock offset.

    `K` (3,3) pixels (the centre of the first pixel is 0.5, 0.5), `size` (width, height) pixels, `T_cam_lidar` (4,4)
    metres, `offset_ns`: how much later a picture was taken than a scan with the same stamp; None when the data did not
    determine it. `covariance` (7,7) in the order of PARAMETERS, None for a rig made by hand. `residual_px`: root mean
    square of the robust residuals. `residual_ms`: standard deviation of the offset. `inflation`: per parameter, by how
    much its variance grows because the others are unknown, too. `flags`: what to know before trusting it. `accepted`:
    whether the solver stands by it.
    """

    K: Floats
    size: tuple[int, int]
    T_cam_lidar: Floats
    offset_ns: int | None = 0
    covariance: Floats | None = None
    residual_px: float = math.nan
    residual_ms: float = math.nan
    inflation: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    accepted: bool = True

    @property
    def offset_s(self) -> float:
        """The offset in seconds, 0 where it is not known."""
        return 0.0 if self.offset_ns is None else self.offset_ns * 1e-9

    def sigma(self) -> dict[str, float]:
        """Standard deviations: `rotation_deg` and `translation_m` (root of the summed variances), `offset_ms`."""
        if self.covariance is None:
            return {}
        d = np.diag(self.covariance)
        return {
            "rotation_deg": math.degrees(math.sqrt(d[:3].sum())),
            "translation_m": math.sqrt(d[3:6].sum()),
            "offset_ms": 1e3 * math.sqrt(d[6]) if self.offset_ns is not None else math.inf,
        }

    def to_json(self) -> str:
        """One JSON object; numbers that are not known are null."""

        def number(x: float) -> float | None:
            return float(x) if math.isfinite(x) else None

        document = {
            "schema": SCHEMA,
            "K": np.asarray(self.K, float).tolist(),
            "size": list(self.size),
            "T_cam_lidar": np.asarray(self.T_cam_lidar, float).tolist(),
            "offset_ns": self.offset_ns,
            "covariance": None if self.covariance is None else np.asarray(self.covariance, float).tolist(),
            "parameters": list(PARAMETERS),
            "residual_px": number(self.residual_px),
            "residual_ms": number(self.residual_ms),
            "inflation": {name: number(x) for name, x in self.inflation.items()},
            "flags": list(self.flags),
            "accepted": self.accepted,
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        draft = path.with_name(path.name + ".draft")
        draft.write_text(self.to_json(), encoding="utf-8")
        os.replace(draft, path)


def check_camera(K: Floats, size: tuple[int, int]) -> None:
    """Raise `RigError` for intrinsics that no camera has: not finite, mirrored, or with a centre far outside."""
    K = np.asarray(K, float)
    if K.shape != (3, 3) or not np.isfinite(K).all():
        raise RigError("the intrinsics must be a 3 x 3 matrix of finite numbers: fx 0 cx, 0 fy cy, 0 0 1, in pixels")
    width, height = size
    if width < 2 or height < 2:
        raise RigError(f"a picture of {width} x {height} pixels is no camera's: give width and height in pixels")
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if fx <= 0 or fy <= 0:
        raise RigError(
            "a focal length is negative or zero, which mirrors the picture: give fx and fy above 0, in pixels"
        )
    if abs(K[2] - (0, 0, 1)).max() > 1e-9 or abs(K[1, 0]) > 1e-9 or abs(K[0, 1]) > 0.01 * fx:
        raise RigError("the intrinsics are skewed or scaled: the last row must be 0 0 1 and the skew 0")
    if not 0.5 < fx / fy < 2.0:
        raise RigError(f"fx {fx:g} and fy {fy:g} differ by more than twofold: check the intrinsics")
    if not (0.1 * width < fx < 20 * width):
        raise RigError(f"a focal length of {fx:g} px does not fit a picture {width} px wide: scale it to this size")
    if not (-0.25 * width < cx < 1.25 * width and -0.25 * height < cy < 1.25 * height):
        raise RigError(f"the centre {cx:g}, {cy:g} lies far outside a picture of {width} x {height}: check the size")


def check_pose(T: Floats) -> None:
    """Raise `RigError` unless T (4,4) is a rotation with a translation."""
    T = np.asarray(T, float)
    if T.shape != (4, 4) or not np.isfinite(T).all() or abs(T[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise RigError("T_cam_lidar must be a 4 x 4 matrix of finite numbers with the last row 0 0 0 1")
    R = T[:3, :3]
    if np.abs(R @ R.T - np.eye(3)).max() > 1e-3:
        raise RigError("the 3 x 3 part of T_cam_lidar is no rotation: its rows must be of length 1 and at right angles")
    if np.linalg.det(R) < 0:
        raise RigError("T_cam_lidar mirrors: one axis is flipped; check left-handed against right-handed axes")


def rig_from_json(text: str) -> Rig:
    """Read what `Rig.to_json` wrote. Raises `RigError` with the reason."""
    try:
        d: dict[str, Any] = json.loads(text)
        if not isinstance(d, dict) or d.get("schema") != SCHEMA:
            raise RigError(f"this is no rig file: its schema must be {SCHEMA}")
        width, height = d["size"]
        covariance = d.get("covariance")

        def known(name: str) -> float:
            value = d.get(name)
            return math.nan if value is None else float(value)

        rig = Rig(
            np.array(d["K"], float),
            (int(width), int(height)),
            np.array(d["T_cam_lidar"], float),
            None if d["offset_ns"] is None else int(d["offset_ns"]),
            None if covariance is None else np.array(covariance, float).reshape(7, 7),
            known("residual_px"),
            known("residual_ms"),
            {str(k): math.inf if v is None else float(v) for k, v in d.get("inflation", {}).items()},
            tuple(map(str, d.get("flags", ()))),
            bool(d.get("accepted", True)),
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, RigError):
            raise
        raise RigError(f"this rig file is damaged ({error}); calibrate again or restore it") from None
    check_camera(rig.K, rig.size)
    check_pose(rig.T_cam_lidar)
    return rig


def load_rig(path: Path) -> Rig:
    """Raises `RigError` when there is no such file or it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RigError(f"{path} cannot be read ({error}); give a rig that `calibrate` saved") from None
    return rig_from_json(text)

"""Live alignment: for every picture the depth plane of its own moment, from scans on another clock.

Knows nothing of rings; who calls gives pictures and scans with their stamps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.calibration.depth import Projector, fill, moved_by_flow
from core.calibration.flow import Flow
from core.calibration.geometry import Floats, rigid, rotation
from core.calibration.rig import Rig
from core.opencv import opencv

KEPT_SCANS = 16
OLDEST_S = 0.5
"""A scan further away in time than this says nothing of a picture."""
FLOW_PX = 320
"""Longest side of the pictures between which motion is estimated."""
FILL_PX = 9


def gap_at(points: Floats, rig: Rig) -> int:
    """How wide, in pixels, the gaps between the points of a scan are: what `Projector` has to fill. 3 to 31."""
    plane = Projector(rig).project(points)
    known = plane > 0
    if known.sum() < 50:
        return FILL_PX
    distance = opencv().distanceTransform((~known).astype(np.uint8), opencv().DIST_L2, 3)
    y, x = np.nonzero(known)
    inside = distance[y.min() : y.max() + 1, x.min() : x.max() + 1]
    return int(np.clip(round(2.5 * float(np.quantile(inside, 0.9))), 3, 31)) | 1


class Motion:
    """Where the pixels of a picture were in the one before: the ring's motion plane, from pictures alone."""

    def __init__(self) -> None:
        self._flow = Flow()
        self._before: NDArray[np.uint8] | None = None

    def back(self, rgb: NDArray[np.uint8]) -> Floats:
        """float32 (H,W,2), pixels; zero for the first picture and where the size changed."""
        cv2 = opencv()
        height, width = rgb.shape[:2]
        scale = min(1.0, FLOW_PX / max(height, width))
        size = (max(16, round(width * scale)), max(16, round(height * scale)))
        grey = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        before, self._before = self._before, grey
        if before is None or before.shape != grey.shape:
            return np.zeros((height, width, 2), np.float32)
        small = self._flow.between(grey, before)
        back: Floats = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        back *= np.array([width / size[0], height / size[1]], np.float32)
        return back


class Aligner:
    """Scans in, depth planes out, each for the moment of one picture."""

    def __init__(self, rig: Rig, fill_px: int | None = None) -> None:
        """fill_px: widest hole to fill, 0 for none; None measures how far apart the points of the first scan are."""
        self.rig, self.fill_px = rig, fill_px
        self._projector = Projector(rig)
        self._scans: deque[tuple[Floats, int]] = deque(maxlen=KEPT_SCANS)

    def add(self, points: Floats, stamp_ns: int) -> None:
        """A scan, float32 (n,3) or (n,4) in the LiDAR frame, on the sensor's clock. One that runs backwards begins
        anew. May be called from another thread than `plane`."""
        if self._scans and stamp_ns <= self._scans[-1][1]:
            self._scans.clear()
        self._scans.append((points, stamp_ns))

    def plane(self, stamp_ns: int, twist: Floats | None = None, flow: Floats | None = None) -> Floats | None:
        """Depth of a picture taken at `stamp_ns` on the camera's clock, float32 (H,W), metres, 0 where unknown.

        `twist` (6,) as in `Pair` when the rig moves, else `flow` (H,W,2) in pixels per second: what bridges the time
        between scan and picture; without either the scan is taken as it is. None when no scan is near in time.
        """
        scans: Sequence[tuple[Floats, int]] = tuple(self._scans)
        if not scans:
            return None
        wanted = stamp_ns + (self.rig.offset_ns or 0)
        points, scan_ns = min(scans, key=lambda scan: abs(wanted - scan[1]))
        late_s = (wanted - scan_ns) * 1e-9
        if abs(late_s) > OLDEST_S:
            return None
        if self.fill_px is None:
            self.fill_px = gap_at(points, self.rig)
        T = self.rig.T_cam_lidar
        if twist is not None:
            T = rigid(rotation(twist[3:] * late_s), twist[:3] * late_s) @ T
        plane = self._projector.project(points, T)
        if twist is None and flow is not None:
            plane = moved_by_flow(plane, flow, late_s)
        return fill(plane, self.fill_px) if self.fill_px else plane.copy()

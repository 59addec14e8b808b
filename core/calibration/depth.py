"""Points, a rig and a time to a depth plane in the camera's pixels: nearest point wins, holes are filled.

`Projector` is what runs for every frame; `project_plainly` is its twin, one point after another.
"""

from __future__ import annotations

import numpy as np

from core.calibration.geometry import NEAR_M, Floats, pixels
from core.calibration.rig import Rig
from core.opencv import opencv

FARTHEST_M = 1e9
CHUNK = 16384
"""Points at once: what is computed for them stays in the processor's cache."""


class Projector:
    """Depth planes of one rig, float32 (H,W), metres along the camera's axis, 0 where nothing is known.

    The buffers are made once; a plane that it returns is overwritten by the next call.
    """

    def __init__(self, rig: Rig, fill_px: int = 0) -> None:
        """fill_px: how wide a hole may be that is filled from its surroundings; 0 leaves all holes."""
        self.rig, self.fill_px = rig, fill_px
        self.width, self.height = rig.size
        fx, fy, cx, cy = rig.K[0, 0], rig.K[1, 1], rig.K[0, 2], rig.K[1, 2]
        self._camera = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        # One cell more: what falls outside the picture is written there, which costs less than leaving it out.
        self._cells = np.empty(self.width * self.height + 1, np.float32)

    def project(self, points: Floats, T_cam_lidar: Floats | None = None) -> Floats:
        """points float32 (n,3) or more columns, in the LiDAR frame; those that are not finite are left out. T_cam_lidar
        (4,4): instead of the rig's, where the camera has moved on since the scan."""
        cv2 = opencv()
        T = self.rig.T_cam_lidar if T_cam_lidar is None else T_cam_lidar
        P = (self._camera @ T[:3]).astype(np.float32)
        self._cells.fill(np.inf)
        for at in range(0, len(points), CHUNK):
            self._write(np.ascontiguousarray(points[at : at + CHUNK, :3], np.float32), P)
        plane: Floats = self._cells[:-1].reshape(self.height, self.width)
        # What nothing was written to becomes 0.
        cv2.threshold(plane, FARTHEST_M, 0.0, cv2.THRESH_TOZERO_INV, dst=plane)
        return fill(plane, self.fill_px) if self.fill_px else plane

    def _write(self, points: Floats, P: Floats) -> None:
        # By OpenCV on one thread: a product of numpy's spends longer waking its threads than multiplying.
        u, v, depth = np.ascontiguousarray(opencv().transform(points[:, None], P)[:, 0].T)
        with np.errstate(all="ignore"):
            u /= depth
            v /= depth
            good = (depth > NEAR_M) & (depth < FARTHEST_M)
            good &= (u >= 0) & (v >= 0) & (u < self.width) & (v < self.height)
            cell = v.astype(np.intp)
            cell *= self.width
            cell += u.astype(np.intp)
            np.putmask(cell, ~good, len(self._cells) - 1)
            np.minimum.at(self._cells, cell, depth)


def project_plainly(rig: Rig, points: Floats) -> Floats:
    """The plain twin of `Projector.project` without filling, in float64, one point after another."""
    width, height = rig.size
    plane = np.zeros((height, width), np.float32)
    for point in np.asarray(points, float):
        if not np.isfinite(point).all():
            continue
        c = rig.T_cam_lidar[:3, :3] @ point + rig.T_cam_lidar[:3, 3]
        if c[2] <= NEAR_M:
            continue
        u, v = pixels(rig.K, c[None])[0]
        if 0 <= u < width and 0 <= v < height:
            x, y = int(u), int(v)
            if plane[y, x] == 0 or c[2] < plane[y, x]:
                plane[y, x] = c[2]
    return plane


def fill(plane: Floats, width_px: int) -> Floats:
    """Holes up to about `width_px` wide take the depth of the nearest known pixel; in front of everything that shines
    through between the points of a nearer surface, the nearer one wins."""
    cv2 = opencv()
    known = plane > 0
    if not known.any():
        return plane.copy()
    near = np.where(known, plane, np.float32(1e9))
    size = max(3, width_px | 1)
    shape = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    # Closing of nearness: what lies behind a net of nearer points is covered by it.
    front = cv2.dilate(cv2.erode(near, shape), shape)
    hidden = known & (plane > 1.1 * front)
    seeds = known & ~hidden
    distance, labels = cv2.distanceTransformWithLabels(
        (~seeds).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(int(labels.max()) + 1, np.float32)
    of_label[labels[seeds]] = plane[seeds]
    full = np.where(distance <= width_px, of_label[labels], np.float32(0))
    smooth: Floats = cv2.medianBlur(full, 5)
    return np.where((smooth > 0) & (full > 0), smooth, full)


def moved_by_flow(plane: Floats, flow: Floats, seconds: float) -> Floats:
    """A depth plane as it is `seconds` later: every pixel moves by its flow (H,W,2) in pixels per second, the nearest
    one wins."""
    height, width = plane.shape
    y, x = np.nonzero(plane)
    z = plane[y, x]
    u = np.floor(x + 0.5 + flow[y, x, 0] * seconds).astype(int)
    v = np.floor(y + 0.5 + flow[y, x, 1] * seconds).astype(int)
    inside = (u >= 0) & (v >= 0) & (u < width) & (v < height)
    u, v, z = u[inside], v[inside], z[inside]
    order = np.argsort(-z, kind="stable")
    out = np.zeros_like(plane)
    out[v[order], u[order]] = z[order]
    return out

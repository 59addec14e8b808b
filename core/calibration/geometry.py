"""Rotations, rigid motions and the pinhole camera, in numpy.

Pixel coordinates follow the world renderer: pixel (0, 0) covers 0..1, so its centre is (0.5, 0.5). Camera frame: x
right, y down, z forward. Transforms read right to left: `T_cam_lidar` takes LiDAR points to the camera.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]

T_CAMERA_AXES = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
"""Takes x forward, y left, z up to x right, y down, z forward."""

NEAR_M = 0.1
"""What lies closer to the camera's plane than this is not projected."""


def skew(w: Floats) -> Floats:
    """(3,) to the (3,3) matrix of the cross product with it."""
    x, y, z = w
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation(w_rad: Floats) -> Floats:
    """Rotation vector (3,) in radians to a matrix (3,3), by Rodrigues' formula."""
    w_rad = np.asarray(w_rad, float)
    angle = float(np.linalg.norm(w_rad))
    if angle < 1e-12:
        return np.eye(3) + skew(w_rad)
    K = skew(w_rad / angle)
    return np.eye(3) + np.sin(angle) * K + (1.0 - np.cos(angle)) * (K @ K)


def rotation_vector(R: Floats) -> Floats:
    """Inverse of `rotation`, through the quaternion so that half turns are exact, too."""
    # The column of the largest component never divides by something small.
    d = np.diag(R)
    squares = np.array(
        [1.0 + d.sum(), 1.0 + 2.0 * d[0] - d.sum(), 1.0 + 2.0 * d[1] - d.sum(), 1.0 + 2.0 * d[2] - d.sum()]
    )
    k = int(np.argmax(squares))
    skewed = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    if k == 0:
        q = np.array([squares[0], *skewed])
    else:
        i, j, m = k - 1, k % 3, (k + 1) % 3
        q = np.empty(4)
        q[0] = skewed[i]
        q[1 + i] = squares[k]
        q[1 + j] = R[j, i] + R[i, j]
        q[1 + m] = R[m, i] + R[i, m]
    q /= np.linalg.norm(q)
    if q[0] < 0:
        q = -q
    sine = float(np.linalg.norm(q[1:]))
    if sine < 1e-12:
        return 2.0 * q[1:]
    return q[1:] * (2.0 * np.arctan2(sine, q[0]) / sine)


def angle_deg(R: Floats) -> float:
    """The angle of a rotation in degrees, 0..180 (the quaternion angle difference of a relative rotation)."""
    return float(np.degrees(np.linalg.norm(rotation_vector(R))))


def rigid(R: Floats, t: Floats) -> Floats:
    """(3,3) and (3,) to (4,4)."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T


def inverse(T: Floats) -> Floats:
    """Inverse of a rigid (4,4)."""
    R = T[:3, :3].T
    return rigid(R, -R @ T[:3, 3])


def moved(T: Floats, points: Floats) -> Floats:
    """T (4,4) applied to points (n,3)."""
    return points @ T[:3, :3].T + T[:3, 3]


def twist_between(T_world_before: Floats, T_world_after: Floats, seconds: float) -> Floats:
    """(6,) velocity m/s, then turning rate rad/s, that static points have in the frame of a camera that was in two
    poses (4,4) so many seconds apart."""
    step = inverse(T_world_after) @ T_world_before
    return np.concatenate([step[:3, 3], rotation_vector(step[:3, :3])]) / seconds


def pixels(K: Floats, points_cam: Floats) -> Floats:
    """Camera points (n,3) in front of the camera to pixels (n,2)."""
    z = points_cam[:, 2]
    return np.stack([K[0, 0] * points_cam[:, 0] / z + K[0, 2], K[1, 1] * points_cam[:, 1] / z + K[1, 2]], axis=1)

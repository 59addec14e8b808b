"""Where the class ends as a depth sensor sees it: between a point of the class and its neighbour that is none.

Points alone stop short of an object's edge by up to the distance to the next ray, and nothing says on which side of an
occluder that edge lies. Both are known from the neighbour: the edge is halfway to it, at the depth of the nearer one.
Knows nothing of cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError, cKDTree

from core.calibration.geometry import NEAR_M, Floats

REACH_RAD = 0.03
"""Neighbours further away than this are not looked at."""
BEFORE = 0.9
"""A neighbour nearer than this share of a point's distance hides what is behind it: the edge is its own."""
LONGEST = 3.0
"""Neighbours more than this many spacings apart have no edge between them: there may be anything in the gap."""
FEW, MOST = 0.34, 0.66
"""A point of the class with a smaller share of its neighbours in the class is a false one, and the other way round. At
a straight edge it is two thirds."""


@dataclass(frozen=True)
class Silhouette:
    """`points` float (n,3), metres, LiDAR frame: on the edge. `inward` (n,3), metres: across the edge, to the class.
    `ages_s` (n,) and `own` (n,3): as in `Pair`, zero where unknown."""

    points: Floats
    inward: Floats
    ages_s: Floats
    own: Floats


def silhouette(
    points: Floats, chosen: NDArray[np.bool_], ages_s: Floats | None = None, own: Floats | None = None
) -> Silhouette | None:
    """The edge of the class in one sweep; None where every point is of the class or too few are.

    points (n,3) metres in no order, those that are not finite are left out; chosen bool (n,); ages_s (n,) or None; own
    (n,3) or None; edges of what moves in a way that is not known are left out.
    """
    points = np.asarray(points, float)[:, :3]
    own = np.zeros_like(points) if own is None else np.asarray(own, float)
    ages = np.zeros(len(points)) if ages_s is None else np.asarray(ages_s, float)
    good = np.asarray(np.isfinite(points).all(axis=1), bool)
    good[good] = (points[good] ** 2).sum(1) > NEAR_M**2
    points, chosen, ages, own = points[good], np.asarray(chosen, bool)[good], ages[good], own[good]
    if chosen.sum() < 3 or chosen.all():
        return None
    far = np.linalg.norm(points, axis=1)
    up = np.arcsin(points[:, 2] / far)
    seen = np.stack([np.arctan2(points[:, 1], points[:, 0]) * np.cos(up), up], 1)
    ours = np.flatnonzero(chosen)
    low, high = seen[ours].min(0) - REACH_RAD, seen[ours].max(0) + REACH_RAD
    others = np.flatnonzero(~chosen & (seen >= low).all(1) & (seen <= high).all(1))
    apart, _ = cKDTree(seen[ours]).query(seen[others], distance_upper_bound=REACH_RAD)
    kept = np.concatenate([ours, others[apart < REACH_RAD]])
    if len(kept) == len(ours):
        return None
    try:
        starts, neighbours = Delaunay(seen[kept]).vertex_neighbor_vertices
    except QhullError:
        # All in one line.
        return None
    i, j = np.repeat(np.arange(len(kept)), np.diff(starts)), neighbours
    label = chosen[kept]
    length = np.linalg.norm(seen[kept[i]] - seen[kept[j]], axis=1)
    within = label[i] & label[j]
    if not within.any():
        return None
    near = length < LONGEST * np.median(length[within])
    i, j = i[near], j[near]
    share = np.bincount(i, label[j], len(kept)) / np.maximum(np.bincount(i, minlength=len(kept)), 1)
    label = np.where(label, share > FEW, share > MOST)
    across = label[i] & ~label[j]
    i, j = kept[i[across]], kept[j[across]]
    inner, outer = points[i] / far[i, None], points[j] / far[j, None]
    nearer = np.where(far[i] <= far[j], i, j)
    middle = inner + outer
    middle *= (far[nearer] / np.linalg.norm(middle, axis=1))[:, None]
    own = own[np.where(far[j] < BEFORE * far[i], j, i)]
    known = np.isfinite(own).all(1)
    return Silhouette(middle[known], ((inner - outer) * far[nearer, None])[known], ages[nearer][known], own[known])

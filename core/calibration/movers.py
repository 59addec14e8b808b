"""What of the class moves by itself, found in sweeps of a sensor on a rig that moves, too.

A solver that takes every point for a part of the ground is wrong about other vehicles. Right about them, it learns
more: at one constant speed, position along the way and clock offset cannot be told apart by what stands still, but by
what moves at another speed. Sweeps are compared by the sensor alone, so no pose is needed. The sensor's z axis is taken
for up. Knows nothing of cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.signal import fftconvolve
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from core.calibration.geometry import Floats

APART_S = 0.5
"""Sweeps that are compared lie about so far apart: what moves must have left its place."""
THIN_M = 0.25
CELL_M = 0.5
AROUND_M = 60.0
SPEED_OFF, SPEED_OFF_M = 0.15, 0.5
"""The rig's own way between two sweeps is within this share, and so many metres, of what the speed given says."""
SAME_M = 0.4
"""Points this close are of the same surface."""
TOGETHER_M = 0.7
"""Points this close are of the same object."""
BESIDE_M = 1.6
"""Points this close to an object must belong to it where it is to be recognised."""
FEWEST = 12
"""Points of an object whose motion can be known."""
FASTEST_M_S = 25.0
SLOWEST_M_S = 1.0
AGREE = 0.7
"""Share of an object's points that must be where its velocity puts them, before and after, and of the points there that
must be its own."""
STEADY_M_S = 1.0
"""Velocities from before and to after that differ by more are of no one motion, or of different sides of an object."""
VOTE_M_S = 0.25
TRIES = 6
MOSTLY = 0.3
"""Share of the class that must be found where it was; else the sweeps do not show one place, and nothing is said."""
LOOK_RAD, BEHIND_M = 0.01, 1.0
LEFT = 0.5
"""Share of an object's points behind which another sweep must see something further away: a parked car that was hidden,
and others of its row that are later, would look like one that moves."""
LIKE_S = 3.0
"""What moves is looked for with the velocities found within this time, too: a car in front is hidden by what passes,
and the first and the last sweep have one neighbour only."""


def _thinned(xy: Floats) -> Floats:
    """(m,2): one point per cell, so that what is close has no more say than what is far."""
    _, first = np.unique(np.floor(xy / THIN_M).astype(np.int64), axis=0, return_index=True)
    return xy[np.sort(first)]


def _occupied(xy: Floats) -> Floats:
    n = round(2 * AROUND_M / CELL_M)
    at = np.floor((xy + AROUND_M) / CELL_M).astype(int)
    at = at[((at >= 0) & (at < n)).all(1)]
    grid = np.zeros((n, n))
    grid[at[:, 0], at[:, 1]] = 1.0
    return grid


def rig_moved(here: Floats, there: Floats, way_m: float) -> tuple[Floats, Floats] | None:
    """Rotation (2,2) and shift (2,) that take the points of another sweep (m,2) to where they would be in this one
    (n,2), had nothing but the rig moved, by `way_m`; None when no shift brings many together."""
    match = fftconvolve(_occupied(here), _occupied(there)[::-1, ::-1])
    match = uniform_filter(match, 3)
    middle = match.shape[0] // 2
    reach = (np.arange(match.shape[0]) - middle) * CELL_M
    way = np.hypot(reach[:, None], reach[None])
    match[np.abs(way - way_m) > SPEED_OFF * way_m + SPEED_OFF_M] = -1.0
    best = np.unravel_index(int(np.argmax(match)), match.shape)
    R, shift = np.eye(2), np.array([reach[best[0]], reach[best[1]]])
    tree = cKDTree(here)
    for near_m in (1.0, 0.7, 0.5, 0.5, SAME_M, SAME_M, SAME_M, SAME_M):
        moved = there @ R.T + shift
        apart, found = tree.query(moved, distance_upper_bound=near_m)
        same = np.isfinite(apart)
        if same.sum() < max(FEWEST, 0.1 * min(len(here), len(there))):
            return None
        # The rigid motion in the plane that brings the pairs together (Umeyama 1991).
        a, b = moved[same], here[found[same]]
        p, q = a - a.mean(0), b - b.mean(0)
        angle = np.arctan2((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum(), (p * q).sum())
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        R, shift = turn @ R, turn @ shift + b.mean(0) - turn @ a.mean(0)
    return R, shift


def _looked(points: Floats) -> Floats:
    """(n,2) cells of the directions in which points (n,3) are seen."""
    far = np.linalg.norm(points, axis=1)
    seen = np.stack([np.arctan2(points[:, 1], points[:, 0]), np.arcsin(points[:, 2] / np.maximum(far, 1e-9))], 1)
    return np.floor((seen + np.pi) / LOOK_RAD).astype(int)


def _left(points: Floats, sweep: Floats) -> NDArray[np.bool_]:
    """Of points (n,3) in the frame of another sweep (m,3): whether that looks through their place."""
    n = int(2 * np.pi / LOOK_RAD) + 2
    furthest = np.zeros(n * n)
    at = _looked(sweep)
    np.maximum.at(furthest, at[:, 0] * n + at[:, 1], np.linalg.norm(sweep, axis=1))
    at = _looked(points)
    return furthest[at[:, 0] * n + at[:, 1]] > np.linalg.norm(points, axis=1) + BEHIND_M


def _near(tree: cKDTree, xy: Floats) -> NDArray[np.bool_]:
    return np.isfinite(tree.query(xy, distance_upper_bound=SAME_M)[0])


def _explained(tree: cKDTree, xy: Floats, near_m: float) -> float:
    """Share of the points around an object that are its own."""
    apart = tree.query(xy)[0]
    return float((apart < near_m).sum() / max((apart < BESIDE_M).sum(), 1))


def _objects(xy: Floats) -> list[NDArray[np.intp]]:
    """Numbers of the points of each object, the largest first."""
    pairs = cKDTree(xy).query_pairs(TOGETHER_M, output_type="ndarray")
    n = len(xy)
    _, part = connected_components(coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (n, n)), False)
    found = [np.flatnonzero(part == k) for k in np.flatnonzero(np.bincount(part, minlength=1) >= FEWEST)]
    return sorted(found, key=len, reverse=True)


def _velocity(thing: Floats, others: list[tuple[Floats, float]]) -> Floats | None:
    """(2,) of one object (n,2), from points before and after it in the same axes, with the seconds to them."""
    n = round(2 * FASTEST_M_S / VOTE_M_S)
    votes = np.full((n, n), np.inf)
    for xy, seconds in others:
        v = ((xy[None] - thing[:, None]).reshape(-1, 2)) / seconds
        at = np.floor((v + FASTEST_M_S) / VOTE_M_S).astype(int)
        at = at[((at >= 0) & (at < n)).all(1)]
        counted = np.bincount(at[:, 0] * n + at[:, 1], minlength=n * n).reshape(n, n).astype(float)
        votes = np.minimum(votes, uniform_filter(counted, 3))
    trees, own_tree = [cKDTree(xy) for xy, _ in others], cKDTree(thing)
    best: tuple[float, Floats] | None = None
    for _ in range(TRIES):
        i, j = np.unravel_index(int(np.argmax(votes)), votes.shape)
        votes[max(i - 3, 0) : i + 4, max(j - 3, 0) : j + 4] = -1.0
        v = (np.array([i, j]) + 0.5) * VOTE_M_S - FASTEST_M_S
        for near_m in (1.0, 0.6, SAME_M, SAME_M, SAME_M):
            steps, share = [], []
            for tree, (xy, seconds) in zip(trees, others, strict=True):
                apart, found = tree.query(thing + seconds * v, distance_upper_bound=near_m)
                same = np.isfinite(apart)
                share += [float(same.mean()), _explained(own_tree, xy - seconds * v, near_m)]
                if same.any():
                    steps.append((xy[found[same]] - thing[same] - seconds * v).mean(0) / seconds)
            if len(steps) < len(others):
                break
            v = v + np.mean(steps, axis=0)
        if len(steps) < len(others) or np.hypot(*(steps[0] - steps[-1])) > STEADY_M_S:
            continue
        if min(share) >= AGREE and (best is None or min(share) > best[0]):
            best = (min(share), v)
    return None if best is None or np.hypot(*best[1]) < SLOWEST_M_S else best[1]


@dataclass(frozen=True)
class Compared:
    """One sweep and its neighbours. `xy` (n,2); `stood` bool (n,): whether a neighbour has a point in the same place;
    `free`: points of each neighbour that did not stand, as the rig's own way would show them here, and the seconds to
    it; `left` bool (n,): whether one of them looks through its place; `velocities`: (2,) each, of the objects that
    moved."""

    xy: Floats
    stood: NDArray[np.bool_]
    left: NDArray[np.bool_]
    free: list[tuple[Floats, float]]
    velocities: list[Floats]


def compared(here: Floats, others: Sequence[tuple[Floats, Floats, float]], speed_m_s: float) -> Compared:
    """Points of the class in one sweep (n,3), metres; in one before and one after, or in one of them where there is no
    other, those of the class, all, and the seconds to it. All are finite. `speed_m_s` of the rig."""
    xy = here[:, :2]
    few = _thinned(xy)
    nothing = Compared(xy, np.ones(len(xy), bool), np.zeros(len(xy), bool), [], [])
    placed = []
    left = np.zeros(len(xy), bool)
    for points, everything, seconds in others:
        there = _thinned(points[:, :2])
        found = rig_moved(few, there, abs(seconds) * speed_m_s) if min(len(there), len(few)) >= FEWEST else None
        if found is None:
            return nothing
        placed.append((there @ found[0].T + found[1], seconds))
        left |= _left(np.column_stack([(xy - found[1]) @ found[0], here[:, 2]]), everything)
    if not placed or np.any([_near(cKDTree(at), few) for at, _ in placed], axis=0).mean() < MOSTLY:
        return nothing
    stood = np.any([_near(cKDTree(at), xy) for at, _ in placed], axis=0)
    rest = np.flatnonzero(~stood)
    tree = cKDTree(few)
    free = [(at[~_near(tree, at)], seconds) for at, seconds in placed]
    velocities = []
    if len(free) == 2 and len(rest) and min(len(at) for at, _ in free):
        objects = [rest[numbers] for numbers in _objects(xy[rest])]
        things = [_velocity(_thinned(xy[some]), free) for some in objects if left[some].mean() >= LEFT]
        velocities = [v for v in things if v is not None]
    return Compared(xy, stood, left, free, velocities)


def own_motion(sweep: Compared, guesses: Sequence[Floats]) -> Floats:
    """(n,3) velocity over the ground of what each point belongs to, m/s in the sensor's frame: zero for what stands,
    NaN for what moves in a way that is not known. `guesses` (2,) each, the likeliest first."""
    own = np.zeros((len(sweep.xy), 3))
    own[~sweep.stood] = np.nan
    for v in guesses:
        rest = np.flatnonzero(np.isnan(own[:, 0]))
        if len(rest):
            seen = [_near(cKDTree(at), sweep.xy[rest] + seconds * v) for at, seconds in sweep.free]
            rest = rest[np.all(seen, axis=0)]
        for numbers in _objects(sweep.xy[rest]) if len(rest) else []:
            thing = sweep.xy[rest[numbers]]
            tree = cKDTree(thing)
            # What is there must be this object, and not another one that happens to come by.
            if sweep.left[rest[numbers]].mean() >= LEFT and all(
                _explained(tree, at - seconds * v, SAME_M) >= AGREE for at, seconds in sweep.free
            ):
                own[rest[numbers]] = *v, 0.0
    return own


def own_motions(sweeps: Sequence[Compared], times_s: Sequence[float]) -> list[Floats]:
    """`own_motion` of each sweep, with the velocities that are found in at least two of those near in time: one that is
    found once may be two objects taken for one."""
    found = [(then, v) for sweep, then in zip(sweeps, times_s, strict=True) for v in sweep.velocities]
    own = []
    for sweep, now in zip(sweeps, times_s, strict=True):
        near = sorted((one for one in found if abs(one[0] - now) <= LIKE_S), key=lambda one: abs(one[0] - now))
        guesses: list[Floats] = []
        for _, v in near:
            alike = [(then, u) for then, u in near if np.hypot(*(u - v)) <= STEADY_M_S]
            if len({then for then, _ in alike}) < 2 or any(np.hypot(*(v - g)) <= STEADY_M_S for g in guesses):
                continue
            guesses.append(np.median([u for _, u in alike], axis=0))
        own.append(own_motion(sweep, guesses))
    return own

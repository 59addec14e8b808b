"""Edges of the class as a depth sensor sees them, and the search that goes by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.calibration.recording import Pair, pair
from core.calibration.refine import Refinement
from core.calibration.residuals import CHUNK, Problem, State, steps_between
from core.calibration.silhouette import silhouette
from core.calibration.solver import Solver, SolverSettings, steadied
from core.calibration.synthetic import Noise, Pinhole, Sequence, drive, room

SMALL = Pinhole(414, 125, 240.5)


def screen(half_m: float = 0.5, occluder_m: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rays of one degree: a square 4 m ahead before a wall 8 m ahead, and perhaps a pole right of y = 0."""
    y, z = np.meshgrid(np.tan(np.radians(np.arange(-14.5, 15))), np.tan(np.radians(np.arange(-14.5, 15))))
    rays = np.stack([np.ones(y.size), y.ravel(), z.ravel()], 1)
    chosen = (np.abs(4 * rays[:, 1:]) < half_m).all(1)
    depth = np.where(chosen, 4.0, 8.0)
    if occluder_m is not None:
        before = (rays[:, 1] < 0) & (rays[:, 1] > -0.1)
        depth[before], chosen[before] = occluder_m, False
    shuffled = np.random.default_rng(0).permutation(len(rays))
    return (rays * depth[:, None])[shuffled], chosen[shuffled]


def test_an_edge_lies_between_the_class_and_its_neighbour_at_the_depth_of_the_nearer_one() -> None:
    points, chosen = screen()
    edge = silhouette(points, chosen)
    assert edge is not None
    assert np.allclose(edge.points[:, 0], 4.0, atol=0.05)
    at = np.abs(edge.points[:, 1:]).max(1)
    # One ray in 4 m is 7 cm; the edge is at half a metre.
    assert abs(at.mean() - 0.5) < 0.04 and np.abs(at - 0.5).max() < 0.1
    assert ((edge.inward * edge.points)[:, 1:].sum(1) < 0).all()
    # The points of the class themselves end before it.
    assert np.abs(points[chosen][:, 1:]).max() < at.mean()


def test_the_edge_at_an_occluder_is_the_occluders() -> None:
    points, chosen = screen(occluder_m=2.0)
    edge = silhouette(points, chosen)
    assert edge is not None
    beside = np.abs(edge.points[:, 0] - 2.0) < 0.1
    assert beside.sum() >= 8 and np.abs(edge.points[beside, 1]).max() < 0.3


def test_false_points_make_no_edge_and_points_that_are_not_finite_are_left_out() -> None:
    points, chosen = screen()
    edge = silhouette(points, chosen)
    alone = np.flatnonzero(np.linalg.norm(points[:, 1:] - (1.6, 1.6), axis=1) < 0.2)[:1]
    chosen[alone] = True
    holed = np.concatenate([points, np.full((3, 3), np.nan), np.zeros((2, 3))])
    again = silhouette(holed, np.concatenate([chosen, np.ones(5, bool)]))
    assert edge is not None and again is not None and len(alone) == 1
    # Which of two equal diagonals joins four rays is not determined, so the edges need not be the same ones.
    assert np.abs(again.points[:, 1:]).max() < 0.6
    assert abs(np.abs(again.points[:, 1:]).max(1).mean() - np.abs(edge.points[:, 1:]).max(1).mean()) < 0.01


@pytest.mark.parametrize("kept", ["class alone", "nothing", "one line"])
def test_scans_without_surroundings_have_no_edge(kept: str) -> None:
    points, chosen = screen()
    some = {"class alone": chosen, "nothing": ~chosen, "one line": points[:, 1] == points[chosen][0, 1]}[kept]
    found = silhouette(points[some] * (1, 1, 0) if kept == "one line" else points[some], chosen[some])
    assert found is None or len(found.points) == 0


def sequence_and_pairs(kind: str) -> tuple[Sequence, list[Pair]]:
    sequence = drive(7, frames=9, camera=SMALL) if kind == "drive" else room(3, frames=6)
    return sequence, pair(sequence)


@pytest.mark.parametrize("kind", ["drive", "room"])
def test_derivatives_of_the_signed_distance(kind: str) -> None:
    sequence, pairs = sequence_and_pairs(kind)
    if kind == "room":
        pairs = [replace(p, flow=np.full((360, 640, 2), 40.0, np.float32)) for p in pairs]
    state = State(sequence.truth.T_cam_lidar, sequence.truth.offset_s)
    edges = Refinement(Problem(pairs, sequence.K), state, 2.0, 200, np.random.default_rng(0))
    grown = np.zeros(len(pairs))
    r, J, counts = edges.residuals(state, grown)
    assert counts.mean() > 0.5 and abs(np.median(r[counts])) < 1.0
    # The direction is taken over some pixels, so that it is the slope between two of them only on the whole.
    for k, size in enumerate([1e-3] * 3 + [0.01] * 3 + [0.01]):
        step = np.zeros(CHUNK)
        step[k] = size
        high, _, _ = edges.residuals(state.stepped(step), grown)
        low, _, _ = edges.residuals(state.stepped(-step), grown)
        near = counts & (np.abs(r) < 3)
        found, told = ((high - low) / (2 * size))[near], J[near, k]
        assert 0.85 < (found @ told) / (told @ told) < 1.15
    assert np.allclose(edges.residuals(state, grown + 0.5)[0] - r, 0.5 * J[:, CHUNK])


def test_the_size_of_a_mask_is_not_taken_for_the_pose() -> None:
    sequence, pairs = sequence_and_pairs("drive")
    state = State(sequence.truth.T_cam_lidar, sequence.truth.offset_s)
    edges = Refinement(Problem(pairs, sequence.K), state, 2.0, 400, np.random.default_rng(0))
    fit = edges.fit(state, np.zeros(len(pairs)), 4.0)
    A, b = fit.reduced()
    # Marginalising takes information away, never adds any.
    lost = fit.A[:, :CHUNK, :CHUNK].sum(0) - A.sum(0)
    assert np.linalg.eigvalsh(lost).min() > -1e-6 * np.abs(lost).max()
    assert A.shape == (len(pairs), CHUNK, CHUNK) and b.shape == (len(pairs), CHUNK)


def test_by_edges_and_by_distances_the_same_pose_is_found() -> None:
    sequence = drive(8, frames=9, camera=SMALL, noise=Noise(edge_px=0.7))
    pairs = pair(sequence)
    start = State(sequence.start(4, 0.2), 0.0)
    work = SolverSettings(points=500, pixels=300, starts=2, rounds=3, averaged=2)
    found = [
        Solver(ps, sequence.K, start, work).solve() for ps in (pairs, [replace(p, silhouette=None) for p in pairs])
    ]
    true = State(sequence.truth.T_cam_lidar, sequence.truth.offset_s)
    off = [steps_between(state, true) for state in found]
    assert np.degrees(np.linalg.norm(off[0][:3])) < 0.3 and np.linalg.norm(off[0][3:6]) < 0.1 and abs(off[0][6]) < 0.02
    apart = steps_between(found[0], found[1])
    assert np.degrees(np.linalg.norm(apart[:3])) < 1.0 and np.linalg.norm(apart[3:6]) < 0.4


def test_a_constant_speed_measured_with_noise_is_one_speed() -> None:
    rng = np.random.default_rng(0)
    mask, points = np.zeros((4, 4), bool), np.zeros((1, 3))

    def twists(speeds: np.ndarray, turns: np.ndarray) -> np.ndarray:
        given = [np.array([0.0, 0.0, -v, 0.0, w, 0.0]) for v, w in zip(speeds, turns, strict=True)]
        return np.array([p.twist for p in steadied([Pair(mask, points, twist=t) for t in given])])

    noisy = 9.0 * (1 + 0.05 * rng.standard_normal(15))
    turning = np.linspace(-0.1, 0.1, 15)
    assert np.allclose(twists(noisy, turning)[:, 2], -noisy.mean())
    assert np.array_equal(twists(noisy, turning)[:, 4], turning)
    assert np.allclose(twists(noisy, 0.001 * rng.standard_normal(15)).std(0), 0)
    for speeds in (np.linspace(3, 11, 15), np.zeros(15) + (np.arange(15) > 4) * 6.0):
        assert np.array_equal(twists(speeds, turning)[:, 2], -speeds)
    assert steadied([Pair(mask, points)])[0].twist is None

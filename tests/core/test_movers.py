"""What moves by itself in the sweeps of a sensor that moves, too, and that the solver takes it for what it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from core.calibration.movers import Compared, compared, own_motions, rig_moved
from core.calibration.recording import pair
from core.calibration.residuals import Problem, State
from core.calibration.silhouette import silhouette
from core.calibration.synthetic import CLEAN, Pinhole, drive

SPEED, GAP_S = 9.0, 0.6
PARKED = [(-8.0, 6.0), (1.0, -6.0), (9.0, 6.2), (14.0, -6.1), (25.0, 5.9), (31.0, -6.0)]


def car(x: float, y: float) -> np.ndarray:
    """Points on the sides of a box 4 m by 1.8 m, 10 cm apart."""
    along, across = np.arange(-2.0, 2.01, 0.1), np.arange(-0.9, 0.91, 0.1)
    sides = [np.column_stack([along, np.full(len(along), side)]) for side in (-0.9, 0.9)]
    ends = [np.column_stack([np.full(len(across), end), across]) for end in (-2.0, 2.0)]
    xy = np.concatenate(sides + ends) + (x, y)
    return np.column_stack([xy, np.full(len(xy), -1.0)])


def sweeps(movers: list[tuple[float, float, float]], count: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per sweep: points of the class in the sensor's frame, and all points, a ring of walls far off with them. A mover
    is its x and y at the first sweep and its velocity along x."""
    angles = np.arange(-np.pi, np.pi, 0.004)
    wall = np.concatenate(
        [np.column_stack([80 * np.cos(angles), 80 * np.sin(angles), z * np.ones(len(angles))]) for z in (-5, -3, -1, 1)]
    )
    made = []
    for k in range(count):
        s = k * GAP_S
        cars = [car(x - SPEED * s, y) for x, y in PARKED] + [car(x + (v - SPEED) * s, y) for x, y, v in movers]
        points = np.concatenate(cars)
        made.append((points, np.concatenate([points, wall])))
    return made


def found(made: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    together: list[Compared] = []
    for k, (points, _) in enumerate(made):
        others = [(*made[j], (j - k) * GAP_S) for j in (k - 1, k + 1) if 0 <= j < len(made)]
        together.append(compared(points, others, 1.05 * SPEED))
    return own_motions(together, [k * GAP_S for k in range(len(made))])


def test_the_way_of_the_rig_is_found_without_its_direction() -> None:
    turn = np.array([[np.cos(0.02), -np.sin(0.02)], [np.sin(0.02), np.cos(0.02)]])
    here = np.concatenate([car(x, y)[:, :2] for x, y in PARKED])
    there = (here - (5.4, 0.3)) @ turn
    R, shift = rig_moved(here, there, 5.6)  # type: ignore[misc]
    assert np.allclose(R, turn, atol=1e-3) and np.allclose(shift, (5.4, 0.3), atol=0.02)
    assert rig_moved(here, there, 70.0) is None


def test_parked_cars_stand_and_others_have_their_velocity() -> None:
    made = sweeps([(20.0, 0.0, 8.0), (60.0, 3.0, -7.0)])
    count, known = len(car(0, 0)), {8: 0, -7: 0}
    for own, (points, _) in zip(found(made), made, strict=True):
        assert len(own) == len(points) and not own[: len(PARKED) * count].any()
        for number, v in enumerate(known):
            of_this = own[(len(PARKED) + number) * count :][:count]
            moving = of_this[np.isfinite(of_this).all(1) & of_this.any(1)]
            # Sides of a car that it drags over the place it had before may be taken for what stands.
            assert not len(moving) or np.abs(moving - (v, 0, 0)).max() < 0.6
            known[v] += len(moving)
    assert min(known.values()) > count


def test_parked_cars_that_are_seen_one_after_another_do_not_move() -> None:
    # A row of cars 6 m apart of which each sweep sees one, the others being hidden by a wall.
    made = []
    for k, (points, _) in enumerate(sweeps([])):
        one = car(18.0 + 6.0 * k - SPEED * GAP_S * k, 9.0)
        hidden = [car(18.0 + 6.0 * j - SPEED * GAP_S * k, 9.0) for j in range(5) if j != k]
        before = np.concatenate([0.8 * h for h in hidden])
        made.append((np.concatenate([points, one]), np.concatenate([points, one, before])))
    for own in found(made):
        last = own[-len(car(0, 0)) :]
        assert (np.isnan(last) | (last == 0)).all()


def test_what_is_found_in_a_drive_is_what_moves_there() -> None:
    sequence = drive(9103, "constant", noise=CLEAN, camera=Pinhole(414, 125, 240.5))
    pairs = pair(sequence)
    true = State(sequence.truth.T_cam_lidar, sequence.truth.offset_s)
    some = 0
    for k, p in enumerate(pairs):
        assert p.own is not None and len(p.own) == len(p.points)
        moving = np.flatnonzero(np.isfinite(p.own).all(1) & (p.own != 0).any(1))
        some += len(moving)
        if not len(moving):
            continue
        # Of the two boxes of each of the three vehicles, one is where the points are, and at its velocity.
        now = sequence._lidar_s[k]
        T_world_lidar = sequence.T_world_cam(now) @ true.T
        world = p.points[moving] @ T_world_lidar[:3, :3].T + T_world_lidar[:3, 3]
        here, later = sequence._solids(now).at[-6:], sequence._solids(now + 1e-3).at[-6:]
        nearest = np.argmin(np.linalg.norm(world[:, None, :2] - here[None, :, :2], axis=2), axis=1)
        velocity = ((later - here) / 1e-3)[nearest] @ T_world_lidar[:3, :3]
        assert np.median(np.linalg.norm((p.own[moving] - velocity)[:, :2], axis=1)) < 0.6
    assert some > 100


def test_points_move_with_what_they_belong_to_and_their_derivatives_are_exact() -> None:
    sequence = drive(7, frames=3)
    rng = np.random.default_rng(0)
    pairs = [replace(p, own=3.0 * rng.standard_normal(p.points.shape)) for p in pair(sequence)]
    problem, state = Problem(pairs, sequence.K), State(sequence.truth.T_cam_lidar, 0.05)
    s = problem.sample(rng, 60, 30, 0.5)
    uv, J, ahead = problem.project(state, s)
    for k in range(7):
        step = np.zeros(7)
        step[k] = 1e-6
        high, low = problem.project(state.stepped(step), s)[0], problem.project(state.stepped(-step), s)[0]
        assert np.allclose(((high - low) / 2e-6)[ahead], J[ahead][:, :, k], rtol=1e-3, atol=1e-2)
    # The plain twin: move the points, then project what stands.
    tau = state.offset_s + s.lag_s
    standing = replace(s, points=s.points + tau[:, None] * s.own, own=np.zeros_like(s.own))
    assert np.allclose(problem.project(state, standing)[0], uv)


def test_what_moves_in_an_unknown_way_has_no_say() -> None:
    pairs = pair(drive(7, frames=3))
    own = np.zeros_like(pairs[0].points)
    own[::2] = np.nan
    problem = Problem([replace(pairs[0], own=own)], np.eye(3))
    s = problem.sample(np.random.default_rng(0), 100_000, 10, 0.5)
    assert len(s.points) == (len(own)) // 2 and np.isfinite(s.own).all()
    # The published loss takes all points as they are.
    assert len(problem.sample(np.random.default_rng(0), 100_000, 10, 0.5, each_moves=False).points) == len(own)


def test_an_edge_moves_with_the_class_unless_something_nearer_hides_it() -> None:
    y, z = np.meshgrid(np.linspace(-0.3, 0.3, 31), np.linspace(-0.3, 0.3, 31))
    rays = np.stack([np.ones(y.size), y.ravel(), z.ravel()], 1)
    chosen = (np.abs(rays[:, 1:]) < 0.1).all(1)
    depth = np.where(chosen, 10.0, np.where(rays[:, 1] < 0, 5.0, 20.0))
    own = np.where(chosen[:, None], (3.0, 1.0, 0.0), 0.0)
    edge = silhouette(rays * depth[:, None], chosen, None, own)
    assert edge is not None
    hidden = edge.points[:, 0] < 6
    assert hidden.any() and not edge.own[hidden].any() and np.allclose(edge.own[~hidden], (3, 1, 0))
    own[chosen] = np.nan
    edge = silhouette(rays * depth[:, None], chosen, None, own)
    assert edge is not None and len(edge.points) == hidden.sum()

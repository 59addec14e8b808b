"""The published loss of SST-Calib (Kodaira et al., ITSC 2022, equations 3 to 9), as it is.

Squared distances both ways, L_p2i + w (n_p / n_i) L_i2p with w = 20, 1, 0.02 in turn; pixels thinned to 2 %; first the
pose from frames that stand still, then pose and offset from all frames, held to the first by lambda_t |t - t_s|^2 and
lambda_R |R R_s^-1 - I|^2. The optimiser is not known; here it is Levenberg-Marquardt on exact derivatives. Kept to
compare with: `core.calibration.solver` is what calibrates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.calibration.geometry import Floats, rotation_vector
from core.calibration.recording import Pair
from core.calibration.residuals import CHUNK, Problem, Samples, State

WEIGHTS = (20.0, 1.0, 0.02)
PIXEL_SHARE = 0.02
LAMBDA_T = 1e6
LAMBDA_R = 1e9
STANDING_M_S = 0.1
STEPS = 15


def _normal(problem: Problem, state: State, s: Samples, w: float, reverse: bool) -> tuple[float, Floats, Floats]:
    """Loss, J^T J and J^T r."""
    uv, J, ahead = problem.project(state, s)
    inside = problem.in_picture(uv, ahead)
    there = problem.outside(uv, J, inside, s)
    parts = [(1.0, there)]
    if reverse:
        # Only points in the picture count, for both directions.
        back = problem.uncovered(uv, J, inside, s)
        parts.append((w * len(there.r) / max(len(back.r), 1), back))
    cost = sum(weight * float(p.r @ p.r) for weight, p in parts)
    A = sum((weight * (p.J.T @ p.J) for weight, p in parts), np.zeros((CHUNK, CHUNK)))
    b = sum((weight * (p.J.T @ p.r) for weight, p in parts), np.zeros(CHUNK))
    return cost, A, b


def solve_published(
    pairs: Sequence[Pair],
    K: Floats,
    T_start: Floats,
    offset_s: float = 0.0,
    seed: int = 0,
    weights: Sequence[float] = WEIGHTS,
    reverse: bool = True,
    motion: bool = True,
    temporal: bool = True,
) -> State:
    """Pose and offset. `reverse=False` leaves out the pixel-to-point half, `motion=False` the velocity term (the offset
    stays), `temporal=False` stops after the spatial stage on all frames: the baselines of the benchmark."""
    problem = Problem(pairs, K)
    rng = np.random.default_rng(seed)
    pixels = max(50, round(PIXEL_SHARE * float(np.mean([len(f.area) for f in problem.fields]))))
    speed = [np.inf if p.twist is None else float(np.linalg.norm(p.twist[:3])) for p in pairs]
    standing = [k for k, v in enumerate(speed) if v < STANDING_M_S]
    still = standing if len(standing) >= 3 and temporal else None

    def run(state: State, frames: list[int] | None, free: Floats, anchor: State | None) -> State:
        s = problem.sample(rng, 1500, pixels, 0.0, frames, each_moves=False)
        for w in weights:
            damping = 1e-3

            def total(at: State, w: float = w) -> tuple[float, Floats, Floats]:
                cost, A, b = _normal(problem, at, s, w, reverse)
                if anchor is not None:
                    off = np.concatenate(
                        [rotation_vector(at.T[:3, :3] @ anchor.T[:3, :3].T), at.T[:3, 3] - anchor.T[:3, 3], [0.0]]
                    )
                    # |R - I|^2 of a small rotation is twice its angle squared.
                    pull = np.array([2 * LAMBDA_R] * 3 + [LAMBDA_T] * 3 + [0.0])
                    cost, A, b = cost + float(pull @ off**2), A + np.diag(pull), b + pull * off
                return cost, A, b

            cost, A, b = total(state)
            for _ in range(STEPS):
                some = np.flatnonzero(free)
                H = A[np.ix_(some, some)]
                step = np.zeros(CHUNK)
                step[some] = -np.linalg.solve(H + damping * np.diag(np.diag(H)) + 1e-9 * np.eye(len(some)), b[some])
                tried = total(state.stepped(step))
                if tried[0] < cost:
                    state, (cost, A, b), damping = state.stepped(step), tried, max(damping / 5, 1e-7)
                else:
                    damping *= 8
                    if damping > 1e6:
                        break
        return state

    spatial = np.array([1, 1, 1, 1, 1, 1, 0], bool)
    state = run(State(np.asarray(T_start, float), offset_s), still, spatial, None)
    if not temporal or not motion or not problem.knows_motion:
        return state
    return run(state, None, np.ones(CHUNK, bool), state if still else None)

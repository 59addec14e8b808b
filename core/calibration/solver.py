"""Pose and clock offset from pairs of masks and points: the loss of SST-Calib made robust.

What differs from the published loss, and why: distances count by Geman and McClure's function, since one missed object
outweighs all others when squared; most pixels are taken from the mask's edge, which is where the information is; fresh
samples in every round, and the mean over the last rounds, take away what a fixed sample would bias; pixels closer to a
point than the points are to each other count as covered; all frames are used at once, and there is no last stage with a
weight of 0.02, which shrinks the cloud into the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from core.calibration.geometry import Floats, rotation, rotation_vector
from core.calibration.recording import Pair
from core.calibration.residuals import CHUNK, Problem, Residuals, Samples, State

PRIOR = np.array([np.radians(10.0)] * 3 + [0.5] * 3 + [0.2])
"""How far the first guess may be off, as standard deviations."""
SCALES_PX = (10.0, 4.0, 2.0)
"""Scale of the robust function in the stages of the fine search. Labels bleed from an object onto what lies behind and
below it: points that are wrong by a few pixels and all on one side, which a wider function would believe."""
SCAN_DEG = 12.0
SCAN_STEP_DEG = 3.0
SCAN_OFFSETS_S = (-0.12, -0.06, 0.0, 0.06, 0.12)
"""Offsets that the search begins from: one that is wrong is made up for by a step along the motion, and from there the
loss falls neither way."""
ALIKE = np.array([0.005] * 3 + [0.03] * 3 + [0.005])
"""States closer than this in every unknown (radians, metres, seconds) are one."""
TRUST = 2.0
"""A frame that costs more than this many times the median is held to that: a false blob, or an object that one sensor
sees only half of, would outweigh all others."""
LEAST_GAIN = 1e-5
"""Share of the cost below which a step is not worth taking."""


@dataclass(frozen=True)
class SolverSettings:
    """How much work the solver does."""

    points: int = 1500
    pixels: int = 800
    starts: int = 4
    rounds: int = 6
    averaged: int = 4
    steps: int = 4
    sigma_px: float = 2.0
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """At one state: cost, normal matrix, gradient, the gradient of each frame for the covariance, and the cost of each
    frame both ways (frames,2) without regard to trust."""

    cost: float
    A: Floats
    b: Floats
    by_frame: Floats
    rms_px: float
    frame_cost: Floats

    def trust(self) -> Floats:
        """(frames,2): what each frame's measurements both ways are worth, up to 1."""
        typical = np.median(self.frame_cost, axis=0)
        return np.minimum(1.0, TRUST * typical / np.maximum(self.frame_cost, 1e-12) + (typical <= 0))

    def score(self) -> float:
        """For comparing states: the mean over frames of the logarithm of the cost, which no single frame decides."""
        return float(np.log(self.frame_cost.sum(1) + 1e-3).mean())


@dataclass(frozen=True)
class Weighting:
    """`scale_px` of the robust function, `reverse` weight of pixel to point, `band_px` within which a pixel counts as
    covered."""

    scale_px: float
    reverse: float
    band_px: float


def evaluate(
    problem: Problem, state: State, s: Samples, how: Weighting, sigma_px: float, trust: Floats | None = None
) -> Evaluation:
    """Mean robust loss both ways, in units of `sigma_px` and as if each frame held 50 independent measurements; frames
    weighted by `trust` (frames,2)."""
    uv, J, ahead = problem.project(state, s)
    inside = problem.in_picture(uv, ahead)
    there = problem.outside(uv, J, inside, s)
    back = problem.uncovered(uv, J, ahead, s)
    back = Residuals(np.maximum(back.r - how.band_px, 0.0), back.J * (back.r > how.band_px)[:, None], back.frame)
    frames = len(problem.pairs)
    worth = 50.0 * len(np.unique(s.frame)) / sigma_px**2
    A, b, cost, by_frame = np.zeros((CHUNK, CHUNK)), np.zeros(CHUNK), 0.0, np.zeros((frames, CHUNK))
    squares = []
    frame_cost = np.zeros((frames, 2))
    # Points that have left the picture still divide, so that leaving does not pay.
    ways = ((1.0, there, len(s.points)), (how.reverse, back, len(s.pixels)))
    for way, (weight, part, count) in enumerate(ways):
        q = 1.0 / (1.0 + (part.r / how.scale_px) ** 2)
        each = worth * weight / max(count, 1)
        paid = 0.5 * each * np.bincount(part.frame, q * part.r**2, frames)
        frame_cost[:, way] = paid
        cost += float(paid.sum() if trust is None else paid @ trust[:, way])
        w = each * q * q if trust is None else each * q * q * trust[part.frame, way]
        g = part.J * (w * part.r)[:, None]
        A += part.J.T @ (part.J * w[:, None])
        b += g.sum(0)
        np.add.at(by_frame, part.frame, g)
        squares.append(float((q * part.r**2).mean()) if len(part.r) else 0.0)
    if not inside.any():
        cost += worth * how.scale_px**2
    return Evaluation(cost, A, b, by_frame, float(np.sqrt(np.mean(squares))), frame_cost)


def steps_between(state: State, start: State) -> Floats:
    """(7,) the step that leads from `start` to `state`."""
    return np.concatenate(
        [
            rotation_vector(state.T[:3, :3] @ start.T[:3, :3].T),
            state.T[:3, 3] - start.T[:3, 3],
            [state.offset_s - start.offset_s],
        ]
    )


class Solver:
    """The search of one calibration from one first guess."""

    def __init__(
        self, pairs: Sequence[Pair], K: Floats, start: State, settings: SolverSettings, temporal: bool = True
    ) -> None:
        self.problem = Problem(pairs, K)
        self.start, self.settings = start, settings
        self.rng = np.random.default_rng(settings.seed)
        self.free = np.ones(CHUNK, bool)
        self.free[6] = temporal and self.problem.knows_motion
        self.trace: list[tuple[str, float]] = []
        """Stage and cost after every step, for the convergence plot."""

    def refined(self, state: State, s: Samples, how: Weighting, steps: int, left_out: Sequence[int] = ()) -> State:
        """After so many steps of Levenberg and Marquardt, or fewer, without the frames that are left out."""
        some = np.flatnonzero(self.free)
        pull = 1.0 / PRIOR**2
        trust = evaluate(self.problem, state, s, how, self.settings.sigma_px).trust()
        trust[list(left_out)] = 0.0

        def total(at: State) -> tuple[float, Floats, Floats]:
            e = evaluate(self.problem, at, s, how, self.settings.sigma_px, trust)
            off = steps_between(at, self.start)
            return e.cost + 0.5 * float(pull @ off**2), e.A + np.diag(pull), e.b + pull * off

        damping = 1e-3
        cost, A, b = total(state)
        for _ in range(steps):
            H = A[np.ix_(some, some)]
            step = np.zeros(CHUNK)
            step[some] = -np.linalg.solve(H + damping * np.diag(np.diag(H)), b[some])
            if -float(b @ step) < LEAST_GAIN * cost:
                break
            tried = total(state.stepped(step))
            if tried[0] < cost:
                gained = cost - tried[0]
                state, (cost, A, b), damping = state.stepped(step), tried, max(damping / 10, 1e-6)
                if gained < LEAST_GAIN * cost:
                    break
            else:
                damping *= 10
                if damping > 1e4:
                    break
            self.trace.append((f"{how.scale_px:g} px", cost))
        return state

    def band(self, state: State, s: Samples) -> float:
        """How far apart projected points are: the distance that most pixels inside the mask keep to a point."""
        uv, J, ahead = self.problem.project(state, s)
        back = self.problem.uncovered(uv, J, ahead, s)
        area = back.r[s.is_area > 0]
        return float(np.clip(np.quantile(area, 0.7), 1.0, 6.0)) if len(area) else 3.0

    def coarse(self) -> list[State]:
        """First guesses turned in yaw and pitch, the best ones first."""
        frames = np.unique(np.linspace(0, len(self.problem.pairs) - 1, 6).round().astype(int)).tolist()
        s = self.problem.sample(self.rng, 250, 120, 0.5, frames)
        turns = np.radians(np.arange(-SCAN_DEG, SCAN_DEG + 0.1, SCAN_STEP_DEG))
        scored: list[tuple[float, int, State]] = []
        for pitch in turns:
            for yaw in turns:
                T = self.start.T.copy()
                T[:3, :3] = rotation(np.array([pitch, yaw, 0.0])) @ T[:3, :3]
                state = State(T, self.start.offset_s)
                scored.append(
                    (evaluate(self.problem, state, s, Weighting(40.0, 1.0, 4.0), 2.0).cost, len(scored), state)
                )
        scored.sort(key=lambda entry: entry[:2])
        return [state for _, _, state in scored[: self.settings.starts]]

    def _best_turn(self, progress: Callable[[float], None]) -> State:
        s = self.problem.sample(self.rng, 500, 250, 0.5)
        best: tuple[float, State] | None = None
        seen: list[State] = []
        candidates = [*self.coarse(), self.start]
        for number, state in enumerate(candidates):
            state = self.refined(state, s, Weighting(60.0, 3.0, 4.0), 12)
            if any((np.abs(steps_between(state, other)) < ALIKE).all() for other in seen):
                continue
            seen.append(state)
            state = self.refined(state, s, Weighting(25.0, 2.0, 4.0), 12)
            cost = evaluate(self.problem, state, s, Weighting(15.0, 1.0, 4.0), self.settings.sigma_px).score()
            if best is None or cost < best[0]:
                best = (cost, state)
            progress((number + 1) / len(candidates))
        assert best is not None
        return best[1]

    def _best_offset(self, found: State) -> State:
        """The best of several offsets, each with the pose that goes with it."""
        if not self.free[6]:
            return found
        s = self.problem.sample(self.rng, self.settings.points // 3, self.settings.pixels // 3, 0.75)
        band = self.band(found, s)
        wide, how = Weighting(25.0, 1.0, band), Weighting(SCALES_PX[0], 1.0, band)
        scored: list[tuple[float, int, State]] = []
        for number, off_s in enumerate(SCAN_OFFSETS_S):
            state = State(found.T, self.start.offset_s + off_s)
            # The pose first: with the offset free as well, it would be back where it came from.
            self.free[6] = False
            state = self.refined(state, s, wide, 8)
            self.free[6] = True
            state = self.refined(state, s, how, 8)
            cost = evaluate(self.problem, state, s, how, self.settings.sigma_px).score()
            scored.append((cost, number, state))
        return min(scored, key=lambda entry: entry[:2])[2]

    def solve(self, progress: Callable[[float], None] = lambda share: None) -> State:
        """The whole search; `progress` is told the share done."""
        fine = self.settings
        state = self._best_offset(self._best_turn(lambda share: progress(0.2 * share)))
        progress(0.3)
        for stage, scale in enumerate(SCALES_PX):
            seen = []
            for turn in range(fine.rounds):
                s = self.problem.sample(self.rng, fine.points, fine.pixels, 0.75)
                band = self.band(state, s)
                state = self.refined(state, s, Weighting(scale, 1.0, band), fine.steps)
                seen.append(state)
                progress(0.3 + 0.7 * (stage + (turn + 1) / fine.rounds) / len(SCALES_PX))
            state = mean_state(seen[-fine.averaged :])
        return state


def mean_state(states: Sequence[State]) -> State:
    """The mean of states that are close together."""
    first = states[0]
    return first.stepped(np.mean([steps_between(s, first) for s in states], axis=0))

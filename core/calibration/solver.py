"""Pose and clock offset from pairs of masks and points: the loss of SST-Calib made robust.

Where scans show what surrounds the class, the search goes by the edges that the sensor sees (`refine`). Where only
points of the class are known, it goes by distances both ways. What differs there from the published loss, and why:
distances count by Geman and McClure's function, since one missed object outweighs all others when squared; most pixels
are taken from the mask's edge, which is where the information is; fresh samples in every round, and the mean over the
last rounds, take away what a fixed sample would bias; pixels closer to a point than the points are to each other count
as covered; all frames are used at once, and there is no last stage with a weight of 0.02, which shrinks the cloud into
the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.calibration.geometry import Floats, rotation
from core.calibration.recording import Pair
from core.calibration.refine import Refinement
from core.calibration.residuals import CHUNK, PRIOR, Problem, Residuals, Samples, State, steps_between

SCALES_PX = (10.0, 4.0, 2.0)
"""Scale of the robust function in the stages of the fine search. Labels bleed from an object onto what lies behind and
below it: points that are wrong by a few pixels and all on one side, which a wider function would believe."""
EDGE_SCALES_PX = (40.0, 20.0, 10.0, 4.0)
"""The same where the sensor's edges of the class are known, from every start."""
SEARCH_EDGES = 400
"""Edges of each picture in the search from many starts."""
EDGED = 0.5
"""Share of the pairs whose scan must show the class's edge for the search to go by edges."""
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


STEADY, STEADY_RAD_S = 0.075, 0.003
"""Speeds that differ by less (standard deviation, as a share), and turning rates, are one, measured with noise."""


def steadied(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with their mean velocity and turning rate where these are constant as far as can be known. The noise of
    one speed looks like many speeds that change nothing, and so like an offset of zero (errors in variables)."""
    known = [p.twist for p in pairs if p.twist is not None]
    if len(known) < max(len(pairs), 2):
        return list(pairs)
    mean = np.mean(known, axis=0)
    along = np.array([t[:3] @ mean[:3] for t in known]) / max(float(mean[:3] @ mean[:3]), 1e-12)
    if along.std(ddof=1) > STEADY:
        return list(pairs)
    turns = np.std([t[3:] for t in known], axis=0, ddof=1).max() > STEADY_RAD_S
    return [
        replace(p, twist=np.concatenate([mean[:3], t[3:] if turns else mean[3:]]))
        for p, t in zip(pairs, known, strict=True)
    ]


@dataclass(frozen=True)
class SolverSettings:
    """How much work the solver does."""

    points: int = 1500
    pixels: int = 800
    edges: int = 2000
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


class Solver:
    """The search of one calibration from one first guess."""

    def __init__(
        self, pairs: Sequence[Pair], K: Floats, start: State, settings: SolverSettings, temporal: bool = True
    ) -> None:
        self.problem = Problem(steadied(pairs), K)
        self.start, self.settings = start, settings
        self.rng = np.random.default_rng(settings.seed)
        self.free = np.ones(CHUNK, bool)
        self.free[6] = temporal and self.problem.knows_motion
        self.edges: Refinement | None = None
        """What the search goes by where scans show what surrounds the class."""
        if sum(p.silhouette is not None for p in pairs) >= EDGED * len(pairs):
            self.edges = Refinement(self.problem, start, settings.sigma_px, settings.edges, self.rng)
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

    def cost(self, state: State, found: State) -> float:
        """What a state costs when all are measured as is best for the one that was `found`."""
        if self.edges is not None:
            return float(self.edges.refined(state, EDGE_SCALES_PX[-1], np.zeros(CHUNK, bool), 3)[1].cost.sum())
        work = self.settings
        s = self.problem.sample(np.random.default_rng(work.seed + 1), work.points, work.pixels, 0.75)
        return evaluate(self.problem, state, s, Weighting(15.0, 1.0, self.band(found, s)), work.sigma_px).cost

    def scores(self, state: State, intrinsics: Sequence[Floats]) -> list[float]:
        """How badly masks and points fit with each of several intrinsics (3,3), once the pose has followed: the mean
        over frames of the logarithm of the cost."""
        problem, given, work = self.problem, self.problem.K, self.settings
        rng = np.random.default_rng(work.seed + 2)
        s = problem.sample(rng, work.points // 4, work.pixels // 4, 0.75)
        how = Weighting(10.0, 1.0, self.band(state, s))
        few = None if self.edges is None else Refinement(problem, self.start, work.sigma_px, SEARCH_EDGES, rng)
        found = []
        for problem.K in intrinsics:
            if few is None:
                found.append(evaluate(problem, self.refined(state, s, how, 12), s, how, work.sigma_px).score())
                continue
            there = state
            for scale in EDGE_SCALES_PX[1:]:
                there, fit = few.refined(there, scale, self.free, 12)
            found.append(float(np.log(fit.cost + 1e-3).mean()))
        problem.K = given
        return found

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
        return self._by_distances(progress) if self.edges is None else self._by_edges(self.edges, progress)

    def _by_edges(self, edges: Refinement, progress: Callable[[float], None]) -> State:
        few = Refinement(self.problem, self.start, self.settings.sigma_px, SEARCH_EDGES, self.rng)
        best: tuple[float, State] | None = None
        seen: list[State] = []
        candidates = [*self.coarse(), self.start]
        for number, state in enumerate(candidates):
            progress(0.8 * number / len(candidates))
            for scale in EDGE_SCALES_PX[:-1]:
                state, fit = few.refined(state, scale, self.free, 12)
                self.trace.append((f"{scale:g} px", float(fit.cost.sum())))
            if any((np.abs(steps_between(state, other)) < ALIKE).all() for other in seen):
                continue
            seen.append(state)
            state, fit = few.refined(state, EDGE_SCALES_PX[-1], self.free)
            self.trace.append((f"{EDGE_SCALES_PX[-1]:g} px", float(fit.cost.sum())))
            if best is None or fit.cost.sum() < best[0]:
                best = (float(fit.cost.sum()), state)
        progress(0.8)
        assert best is not None
        state, fit = edges.refined(best[1], EDGE_SCALES_PX[-1], self.free)
        self.trace.append((f"{EDGE_SCALES_PX[-1]:g} px", float(fit.cost.sum())))
        progress(1.0)
        return state

    def _by_distances(self, progress: Callable[[float], None]) -> State:
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

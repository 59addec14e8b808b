"""The fine search: edges of the class as the depth sensor sees them, against the edges of the masks.

A residual is the signed distance of a projected edge from the mask's edge, so that noise of either sign averages out,
where distances that are zero inside pull one way. By how much each mask is too large or too small is estimated with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.calibration.geometry import NEAR_M, Floats, moved, pixels
from core.calibration.residuals import CHUNK, PRIOR, Problem, Samples, State, steps_between
from core.opencv import opencv

ACROSS_PX = 2
"""The direction to the mask's edge is taken over so many pixels to either side: it is rough."""
SAME_WAY = 0.3
"""Cosine between the directions in which the class lies, as sensor and mask see it, below which edges do not belong
together."""
GROWN_PX = 1.0
"""By how much masks are too large or too small, as a standard deviation."""
WORTH = 50.0
"""Independent measurements per picture: neighbours along an edge are wrong together."""
LEAST_GAIN = 1e-7


@dataclass(frozen=True)
class Fit:
    """At one state, per picture: `cost` (frames,), normal matrix (frames,8,8) and gradient (frames,8) over the seven
    unknowns and the size of its mask. `rms_px`: of the robust residuals."""

    cost: Floats
    A: Floats
    b: Floats
    rms_px: float

    def reduced(self) -> tuple[Floats, Floats]:
        """Per picture (frames,7,7) and (frames,7), what is said of the unknowns when the mask's size is not known."""
        C = self.A[:, :CHUNK, CHUNK]
        share = C / self.A[:, CHUNK, CHUNK, None]
        return (
            self.A[:, :CHUNK, :CHUNK] - share[:, :, None] * C[:, None],
            self.b[:, :CHUNK] - share * self.b[:, CHUNK, None],
        )


class Refinement:
    """The edges of all pairs of one problem, and the first guess that the search is held back to."""

    def __init__(self, problem: Problem, start: State, sigma_px: float, most: int, rng: np.random.Generator) -> None:
        """At most so many edges of each picture; `sigma_px` is what one edge is off by."""
        cv2 = opencv()
        self.problem, self.start, self.sigma_px = problem, start, sigma_px
        points, inward, lag, own, frame = [], [], [], [], []
        for k, pair in enumerate(problem.pairs):
            edge = pair.silhouette
            if edge is None:
                continue
            some = rng.permutation(len(edge.points))[:most]
            points.append(edge.points[some])
            inward.append(edge.inward[some])
            lag.append(pair.lag_s + edge.ages_s[some])
            own.append(edge.own[some])
            frame.append(np.full(len(some), k))
        none = np.zeros((0, 3))
        self.inward = np.concatenate(inward) if points else none
        self.edges = Samples(
            np.concatenate(points) if points else none,
            np.concatenate(frame) if points else np.zeros(0, int),
            np.concatenate(lag) if points else np.zeros(0),
            np.concatenate(own) if points else none,
            none[:, :2],
            np.zeros(0, int),
            np.zeros(0),
        )
        self.frames_with_edges = len(points)
        inner = [
            cv2.distanceTransform(p.mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for p in problem.pairs
        ]
        # Positive outside, from the pixels' edges.
        self._signed = np.stack(
            [
                np.where(p.mask, 0.5 - d, f.distance)
                for p, d, f in zip(problem.pairs, inner, problem.fields, strict=True)
            ]
        ).astype(np.float32)

    def residuals(self, state: State, grown: Floats) -> tuple[Floats, Floats, Floats]:
        """Signed distances (n,) in pixels, derivative (n,8), and which count; `grown` (frames,) is by how many pixels
        each mask is too large."""
        problem, s = self.problem, self.edges
        uv, D, ahead = problem.project(state, s)
        ahead = problem.in_picture(uv, ahead)
        x = np.clip(uv[:, 0] - 0.5, 0, problem.width - 1.001)
        y = np.clip(uv[:, 1] - 0.5, 0, problem.height - 1.001)
        i, j = x.astype(int), y.astype(int)

        def at(dx: int, dy: int) -> Floats:
            return self._signed[
                s.frame, np.clip(j + dy, 0, problem.height - 1), np.clip(i + dx, 0, problem.width - 1)
            ].astype(float)

        a, b = x - i, y - j
        r = (1 - b) * ((1 - a) * at(0, 0) + a * at(1, 0)) + b * ((1 - a) * at(0, 1) + a * at(1, 1))
        slope = np.stack([at(ACROSS_PX, 0) - at(-ACROSS_PX, 0), at(0, ACROSS_PX) - at(0, -ACROSS_PX)], 1)
        slope /= 2 * ACROSS_PX
        # Which way the class lies in the picture.
        here = moved(state.T, s.points)
        here[:, 2] = np.maximum(here[:, 2], NEAR_M)
        inward = pixels(problem.K, here + self.inward @ state.T[:3, :3].T) - pixels(problem.K, here)
        along = -(inward * slope).sum(1)
        ahead &= along > SAME_WAY * np.linalg.norm(inward, axis=1) * np.linalg.norm(slope, axis=1)
        J = np.empty((len(r), CHUNK + 1))
        J[:, :CHUNK] = np.einsum("ni,nik->nk", slope, D)
        J[:, CHUNK] = 1.0
        return r + grown[s.frame], J, ahead

    def fit(self, state: State, grown: Floats, scale_px: float) -> Fit:
        """Robust cost (Geman and McClure), in units of `sigma_px` and as if each picture held `WORTH` measurements;
        edges that have no counterpart cost as much as the function can."""
        r, J, counts = self.residuals(state, grown)
        frame, frames = self.edges.frame, len(self.problem.pairs)
        each = WORTH * self.frames_with_edges / max(len(r), 1) / self.sigma_px**2
        q = np.where(counts, 1.0 / (1.0 + (r / scale_px) ** 2), 0.0)
        paid = np.where(counts, q * r**2, scale_px**2)
        cost = 0.5 * each * np.bincount(frame, paid, frames) + 0.5 * (grown / GROWN_PX) ** 2
        weight = each * q * q
        A, b = np.zeros((frames, CHUNK + 1, CHUNK + 1)), np.zeros((frames, CHUNK + 1))
        weighted = J * weight[:, None]
        for k in range(frames):
            rows = slice(*np.searchsorted(frame, [k, k + 1]))
            A[k], b[k] = J[rows].T @ weighted[rows], r[rows] @ weighted[rows]
        A[:, CHUNK, CHUNK] += 1.0 / GROWN_PX**2
        b[:, CHUNK] += grown / GROWN_PX**2
        rms_px = float(np.sqrt((q * r**2)[counts].mean())) if counts.any() else 0.0
        return Fit(cost, A, b, rms_px)

    def refined(
        self, state: State, scale_px: float, free: Floats, steps: int = 30, left_out: Sequence[int] = ()
    ) -> tuple[State, Fit]:
        """After so many steps of Levenberg and Marquardt, or fewer: the state, and the fit there. `free` bool (7,);
        pictures that are left out have no say."""
        some = np.flatnonzero(free)
        used = np.setdiff1d(np.arange(len(self.problem.pairs)), left_out)
        grown = np.zeros(len(self.problem.pairs))
        pull = 1.0 / PRIOR**2

        def total(at: State, grown: Floats) -> tuple[float, Fit]:
            fit = self.fit(at, grown, scale_px)
            off = steps_between(at, self.start)
            return float(fit.cost[used].sum()) + 0.5 * float(pull @ off**2), fit

        cost, fit = total(state, grown)
        damping = 1e-6
        for _ in range(steps):
            A, b = fit.reduced()
            H = A[used].sum(0) + np.diag(pull)
            g = b[used].sum(0) + pull * steps_between(state, self.start)
            H, step = H[np.ix_(some, some)], np.zeros(CHUNK)
            step[some] = -np.linalg.solve(H + damping * np.diag(np.diag(H)), g[some])
            grown_there = grown - (fit.b[:, CHUNK] + fit.A[:, CHUNK, :CHUNK] @ step) / fit.A[:, CHUNK, CHUNK]
            cost_there, fit_there = total(state.stepped(step), grown_there)
            if cost_there < cost:
                gained = cost - cost_there
                state, grown, cost, fit = state.stepped(step), grown_there, cost_there, fit_there
                damping = max(damping / 10, 1e-9)
                if gained < LEAST_GAIN * cost:
                    break
            else:
                damping *= 10
                if damping > 1e3:
                    break
        return state, fit

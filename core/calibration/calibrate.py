"""One calibration from pairs or from a recording to a `Rig`: what is refused or flagged, how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.calibration.geometry import Floats
from core.calibration.recording import Pair, Recording, pair
from core.calibration.residuals import CHUNK, PRIOR, Residuals, steps_between
from core.calibration.rig import PARAMETERS, Rig, check_camera, check_pose
from core.calibration.solver import EDGE_SCALES_PX, SCALES_PX, Solver, SolverSettings, State, Weighting, evaluate

DEFAULTS = SolverSettings()
FEWEST_PAIRS = 5
FEWEST_POINTS = 20
FEWEST_PIXELS = 100
SLOWEST_PX_S = 20.0
"""Below this motion of the class (root mean square) the offset is not determined."""
LARGEST_INFLATION = 25.0
LARGEST_SIGMA_MS = 33.0
LARGEST_SIGMA_DEG, LARGEST_SIGMA_M = 1.5, 0.2
LARGEST_POSE_INFLATION = 400.0
"""People who stay within a few metres of depth give some 35: turning and shifting the sensor look much alike."""
LENSES = (0.7, 0.85, 1.0, 1.18, 1.4)
"""Shares of the focal length that are tried: one that fits much better than that given means that it is wrong."""
LENS_GAIN, LENS_GAIN_BY_EDGES = 0.15, 0.05
"""How much lower the mean logarithm of the frames' costs must be for that, by distances and by edges: edges without a
counterpart cost the same whatever the lens. With the right lens the others cost 0.09 more at least."""
FIT_PX = 8.0
"""Points and pixels nearer than this to their counterpart fit."""
FEWEST_FIT = 0.6
GROUPS = 5
"""Stretches of the recording, each left out once."""
SPREAD = 8.0
"""The variances below understate the error, since masks, points and moving objects are wrong in ways that all frames
share. With this, nine tenths of the unknowns of twelve sequences (drives and rooms, seeds 9200 to 9202, which neither
the benchmark nor the tests use) lay within their 90 % interval."""
SPREAD_BY_EDGES = 2.0
"""The same where the search went by edges, from eleven drives and rooms (seeds 7000 to 7004). What is left there is the
spacing of the rays, which is the same in all frames of a rig that stands."""


class CalibrationError(ValueError):
    """Input from which nothing can be calibrated. The message says why and what to do."""


@dataclass(frozen=True)
class Calibration:
    """A rig and how it came about: `score_before` and `score_after` are the same robust cost, `trace` the stage and
    cost after each step, `fit` the share of points and pixels that fit."""

    rig: Rig
    start: State
    score_before: float
    score_after: float
    fit: float
    trace: list[tuple[str, float]]


def checked(pairs: Sequence[Pair], size: tuple[int, int]) -> tuple[list[Pair], list[str]]:
    """The pairs that can be used, without points that are not finite, and what to say of the rest.

    Raises `CalibrationError` when fewer than `FEWEST_PAIRS` are left.
    """
    good, flags, lost, total = [], [], 0, 0
    empty_masks = few_points = 0
    for p in pairs:
        if p.mask.shape != (size[1], size[0]):
            raise CalibrationError(
                f"a mask is {p.mask.shape[1]} x {p.mask.shape[0]} pixels and the camera {size[0]} x {size[1]}: "
                "use masks of the camera's size"
            )
        finite = np.asarray(np.isfinite(p.points).all(axis=1))
        total += len(finite)
        lost += int((~finite).sum())
        if not finite.all():
            ages, own = (None if x is None else x[finite] for x in (p.ages_s, p.own))
            p = replace(p, points=p.points[finite], ages_s=ages, own=own)
        for motion in (p.twist, p.flow):
            if motion is not None and not np.isfinite(motion).all():
                raise CalibrationError("the velocity or the flow holds values that are not finite: record it again")
        if p.mask.sum() < FEWEST_PIXELS or p.mask.mean() > 0.95:
            empty_masks += 1
        elif len(p.points) < FEWEST_POINTS:
            few_points += 1
        else:
            good.append(p)
    if len(good) < FEWEST_PAIRS:
        if len(pairs) < FEWEST_PAIRS:
            reason = f"there are only {len(pairs)} pairs of picture and scan: record some seconds more"
        elif empty_masks >= few_points:
            reason = f"{empty_masks} of {len(pairs)} masks are empty or full: check the segmentation of the pictures"
        else:
            reason = (
                f"{few_points} of {len(pairs)} scans have no points of the class: check the segmentation of the points"
            )
        raise CalibrationError(f"{reason} (at least {FEWEST_PAIRS} usable pairs are needed)")
    if lost:
        flags.append(f"{lost} of {total} points were not finite and were left out")
    if empty_masks or few_points:
        flags.append(f"{empty_masks + few_points} of {len(pairs)} pairs had no mask or no points and were left out")
    return good, flags


@dataclass(frozen=True)
class _Certainty:
    covariance: Floats
    inflation: dict[str, float]
    rms_px: float
    motion_px_s: float
    fit: float
    seen: float


def _jackknife(solver: Solver, state: State) -> Floats:
    """(7,7): how far the result moves when a fifth of the recording is left out, a stretch at a time (Tukey 1958). What
    is wrong in one stretch, such as a car that overtakes, is not seen by the curvature of the loss."""
    work = solver.settings
    groups = np.array_split(np.arange(len(solver.problem.pairs)), min(GROUPS, len(solver.problem.pairs)))
    if solver.edges is not None:
        edges = solver.edges
        found = [edges.refined(state, EDGE_SCALES_PX[-1], solver.free, 10, g.tolist())[0] for g in groups]
    else:
        s = solver.problem.sample(solver.rng, work.points // 2, work.pixels // 2, 0.75)
        how = Weighting(SCALES_PX[-1], 1.0, solver.band(state, s))
        found = [solver.refined(state, s, how, 10, g.tolist()) for g in groups]
    moved = np.array([steps_between(other, state) for other in found])
    moved = moved - moved.mean(0)
    return (len(groups) - 1) / len(groups) * (moved.T @ moved)


def _certainty(solver: Solver, state: State) -> _Certainty:
    """What the data say about the seven unknowns at the solution."""
    problem = solver.problem
    s = problem.sample(solver.rng, solver.settings.points, solver.settings.pixels, 0.75)
    band = solver.band(state, s)
    e = evaluate(problem, state, s, Weighting(5.0, 1.0, band), solver.settings.sigma_px)
    uv, J, ahead = problem.project(state, s)
    inside = problem.in_picture(uv, ahead)
    motion = float(np.sqrt((J[inside][:, :, 6] ** 2).sum(1).mean())) if inside.any() else 0.0
    there, back = problem.outside(uv, J, inside, s), problem.uncovered(uv, J, ahead, s)

    def fitting(part: Residuals, margin: float) -> float:
        return float((part.r < margin).mean()) if len(part.r) else 0.0

    some = np.flatnonzero(solver.free)
    A, g, rms_px = e.A, e.by_frame, e.rms_px
    if solver.edges is not None:
        _, fit = solver.edges.refined(state, EDGE_SCALES_PX[-1], np.zeros(CHUNK, bool), 3)
        by_frame, g = fit.reduced()
        A, rms_px = by_frame.sum(0), fit.rms_px
    A = A[np.ix_(some, some)]
    scale = np.sqrt(np.maximum(np.diag(A), 1e-12))
    unit = A / np.outer(scale, scale)
    inflation = np.diag(np.linalg.inv(unit + 1e-9 * np.eye(len(some))))
    inverse = np.linalg.inv(A + np.diag(1.0 / PRIOR[some] ** 2))
    g = g[:, some]
    g = g - g.mean(0)
    frames = len(g)
    scatter = inverse @ (g.T @ g) @ inverse * frames / max(frames - len(some), 1)
    covariance = np.diag(PRIOR**2)
    stretches = _jackknife(solver, state)[np.ix_(some, some)]
    spread = SPREAD if solver.edges is None else SPREAD_BY_EDGES
    covariance[np.ix_(some, some)] = spread * (scatter + inverse + stretches)
    return _Certainty(
        covariance,
        {PARAMETERS[k]: float(x) for k, x in zip(some, inflation, strict=True)},
        rms_px,
        motion,
        min(fitting(there, FIT_PX), fitting(back, FIT_PX + band)),
        float(inside.mean()),
    )


def _better_lens(solver: Solver, state: State) -> float | None:
    """The share of the focal length with which masks and points fit much better than as given; None when none does."""
    # An object that is seen larger is taken for nearer: the pose has to follow before the two can be compared.
    given = solver.problem.K
    scores = solver.scores(state, [given * np.array([[x, 1, 1], [1, x, 1], [1, 1, 1]]) for x in LENSES])
    best = int(np.argmin(scores))
    gain = LENS_GAIN if solver.edges is None else LENS_GAIN_BY_EDGES
    return LENSES[best] if scores[best] < scores[LENSES.index(1.0)] - gain else None


def calibrate(
    pairs: Sequence[Pair],
    K: Floats,
    size: tuple[int, int],
    T_start: Floats,
    offset_s: float = 0.0,
    settings: SolverSettings = DEFAULTS,
    temporal: bool = True,
    progress: Callable[[float], None] = lambda share: None,
) -> Calibration:
    """Find pose and clock offset from a first guess that is within some 12 degrees and 0.6 m.

    `K` (3,3) pixels; `T_start` (4,4) takes LiDAR points to the camera. Never gives back a result that fits worse than
    the first guess. Raises `RigError` for impossible intrinsics or poses, `CalibrationError` for data without content.
    """
    check_camera(K, size)
    check_pose(T_start)
    if not math.isfinite(offset_s):
        raise CalibrationError("the first guess of the offset is not finite: give seconds")
    good, flags = checked(pairs, size)
    start = State(np.asarray(T_start, float), offset_s)
    solver = Solver(good, K, start, settings, temporal)
    found = solver.solve(progress)
    sure = _certainty(solver, found)

    if temporal and not solver.problem.knows_motion:
        flags.append("the offset is not determined: there is neither flow nor velocity")
        offset_known = False
    else:
        offset_known = temporal and sure.motion_px_s >= SLOWEST_PX_S
        if temporal and not offset_known:
            flags.append("the offset is not determined: nothing of the class moves; let people walk, or drive")
            # An offset that nothing speaks for must not take part in the pose either.
            solver = Solver(good, K, start, settings, temporal=False)
            found = solver.solve(progress)
            sure = _certainty(solver, found)

    before, after = solver.cost(start, found), solver.cost(found, found)
    accepted = True
    if sure.seen < 0.1:
        accepted = False
        flags.append("camera and sensor do not see the same: hardly any point falls into the picture; check the guess")
    elif sure.fit < FEWEST_FIT:
        accepted = False
        flags.append(
            f"masks and points do not fit together (only {sure.fit:.0%} do): "
            "check that both show the same class, the intrinsics, and the first guess"
        )
    if after >= before:
        found = start
        flags.append("the first guess fits as well as anything found; it is kept")
    sigma_ms = 1e3 * math.sqrt(sure.covariance[6, 6])
    if offset_known and (sure.inflation["offset"] > LARGEST_INFLATION or sigma_ms > LARGEST_SIGMA_MS):
        flags.append(
            "weakly observable: offset and position along the motion can hardly be told apart; "
            "vary the speed, or stop and go"
        )
    lens = _better_lens(solver, found)
    if lens is not None:
        accepted = False
        flags.append(
            f"the intrinsics seem wrong: masks and points fit much better with {lens:g} times the focal length; "
            "check it, and that it is for pictures of this size"
        )
    turned_deg = math.degrees(math.sqrt(np.diag(sure.covariance)[:3].sum()))
    placed_m = math.sqrt(np.diag(sure.covariance)[3:6].sum())
    pose_inflation = max(x for name, x in sure.inflation.items() if name != "offset")
    if turned_deg > LARGEST_SIGMA_DEG or placed_m > LARGEST_SIGMA_M or pose_inflation > LARGEST_POSE_INFLATION:
        flags.append(
            "the pose is weakly determined: turning and shifting the sensor look alike here; "
            "show the class near and far, left and right"
        )
    rig = Rig(
        np.asarray(K, float),
        size,
        found.T,
        round(found.offset_s * 1e9) if offset_known else None,
        sure.covariance,
        sure.rms_px,
        sigma_ms if offset_known else math.nan,
        sure.inflation,
        tuple(flags),
        accepted,
    )
    return Calibration(rig, start, before, after, sure.fit, solver.trace)


def calibrate_recording(
    recording: Recording,
    T_start: Floats,
    offset_s: float = 0.0,
    count: int = 20,
    passes: int = 2,
    settings: SolverSettings = DEFAULTS,
    progress: Callable[[float], None] = lambda share: None,
    after_pass: Callable[[Rig], None] = lambda rig: None,
) -> Calibration:
    """`calibrate` on the pairs of a recording. In a second pass pictures and scans are paired anew by the offset found,
    so that the flow has to bridge less than one picture; `after_pass` is told what each pass found. Raises
    `ClockError`, too."""
    result: Calibration | None = None
    T, offset = np.asarray(T_start, float), offset_s
    for number in range(passes):

        def share(done: float, number: int = number) -> None:
            progress((number + done) / passes)

        pairs = pair(recording, offset, count)
        found = calibrate(pairs, recording.K, recording.size, T, offset, settings, progress=share)
        result = found if result is None else replace(found, start=result.start, trace=result.trace + found.trace)
        if not found.rig.accepted or found.rig.offset_ns is None:
            break
        after_pass(found.rig)
        T, offset = found.rig.T_cam_lidar, found.rig.offset_s
    assert result is not None and CHUNK == len(PARAMETERS)
    return result


def loss_curves(
    pairs: Sequence[Pair], rig: Rig, half_widths: Sequence[float], count: int = 41, settings: SolverSettings = DEFAULTS
) -> list[tuple[Floats, Floats]]:
    """Per unknown, steps (count,) up to `half_widths` (radians, metres, seconds) to either side of the rig, and the
    loss there without the other unknowns moving."""
    solver = Solver(pairs, rig.K, State(rig.T_cam_lidar, rig.offset_s), settings)
    s = solver.problem.sample(solver.rng, 600, 300, 0.75)
    how = Weighting(10.0, 1.0, solver.band(solver.start, s))
    curves = []
    for k, half in enumerate(half_widths):
        steps = np.linspace(-half, half, count)
        step = np.zeros(CHUNK)
        cost = []
        for step[k] in steps:
            cost.append(evaluate(solver.problem, solver.start.stepped(step), s, how, settings.sigma_px).cost)
        curves.append((steps, np.array(cost)))
    return curves

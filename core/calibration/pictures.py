"""What a calibration shows: points over pictures before and after, how the search went, how sharply the data speak."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.calibration.calibrate import Calibration
from core.calibration.footage import FootageError, Segmented
from core.calibration.geometry import NEAR_M, Floats
from core.calibration.recording import match, pair_at
from core.calibration.residuals import Problem, Samples, State
from core.calibration.rig import PARAMETERS
from core.opencv import opencv

Picture = NDArray[np.uint8]

BACKGROUND, GRID, INK = (250, 250, 250), (222, 222, 222), (40, 40, 40)
FIRST, SECOND, THIRD = (31, 119, 180), (214, 39, 40), (44, 160, 44)
FILM_FPS = 4.0
WIDEST_PX = 960
UNITS = ("deg",) * 3 + ("m",) * 3 + ("ms",)
PER_UNIT = (np.pi / 180,) * 3 + (1.0,) * 3 + (1e-3,)
HALF_WIDTHS = (2 * PER_UNIT[0],) * 3 + (0.3,) * 3 + (0.06,)
"""How far the loss is drawn to either side: radians, metres, seconds."""


def over(picture: Picture, mask: NDArray[np.bool_] | None, uv: Floats, depth_m: Floats) -> Picture:
    """RGB (H,W,3) with the mask's outline and the points, near ones warm and far ones cold."""
    cv2 = opencv()
    out = picture.copy()
    if mask is not None:
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(out, outlines, -1, (255, 255, 255), 1)
    height, width = picture.shape[:2]
    inside = (depth_m > NEAR_M) & (uv >= 0).all(1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    uv, depth_m = uv[inside], depth_m[inside]
    if not len(uv):
        return out
    near, far = np.quantile(1.0 / depth_m, [0.98, 0.02])
    warmth = np.clip((1.0 / depth_m - far) / max(near - far, 1e-6), 0, 1)
    colour = cv2.applyColorMap((255 * warmth).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    x, y = uv[:, 0].astype(int), uv[:, 1].astype(int)
    order = np.argsort(-depth_m)
    for dy in (0, 1):
        for dx in (0, 1):
            out[np.minimum(y + dy, height - 1)[order], np.minimum(x + dx, width - 1)[order]] = colour[order]
    return out


def _titled(picture: Picture, text: str) -> Picture:
    cv2 = opencv()
    out = picture.copy()
    cv2.rectangle(out, (0, 0), (out.shape[1], 24), (0, 0, 0), cv2.FILLED)
    cv2.putText(out, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return out


def before_and_after(recording: Segmented, result: Calibration, count: int = 40) -> Iterable[Picture]:
    """Pictures (H,W,3) in time order: the points of the class by the first guess, and by the result."""
    cv2 = opencv()
    rig = result.rig
    found = State(rig.T_cam_lidar, rig.offset_s)
    for picture, number, lag_s in match(recording.camera_ns, recording.lidar_ns, found.offset_s, count):
        here = pair_at(recording, picture, number, lag_s)
        problem = Problem([here], rig.K)
        ages = np.zeros(len(here.points)) if here.ages_s is None else here.ages_s
        nothing = np.zeros((0, 2))
        n = len(here.points)
        s = Samples(
            here.points, np.zeros(n, int), lag_s + ages, np.zeros((n, 3)), nothing, np.zeros(0, int), np.zeros(0, int)
        )
        halves = []
        seen = recording.footage.picture(picture)
        for title, state in (("before", result.start), ("after", found)):
            uv, _, ahead = problem.project(state, s)
            depth = np.where(ahead, (here.points @ state.T[2, :3]) + state.T[2, 3], 0.0)
            halves.append(_titled(over(seen, here.mask, uv, depth), title))
        wide = seen.shape[1] > seen.shape[0] * 1.6
        both = np.concatenate(halves, axis=0 if wide else 1)
        scale = min(1.0, WIDEST_PX / both.shape[1])
        # Even sides, as encoders want them.
        size = (round(both.shape[1] * scale) // 2 * 2, round(both.shape[0] * scale) // 2 * 2)
        yield cv2.resize(both, size, interpolation=cv2.INTER_AREA)


def write_film(path: Path, pictures: Iterable[Picture], fps: float = FILM_FPS) -> int:
    """Pictures of one size into an .mp4 (MPEG-4) or .avi (Motion JPEG); how many there were.

    Raises `FootageError` when it cannot be written.
    """
    cv2 = opencv()
    code = cv2.VideoWriter_fourcc(*("MJPG" if path.suffix.lower() == ".avi" else "mp4v"))
    writer, count = None, 0
    for picture in pictures:
        if writer is None:
            writer = cv2.VideoWriter(str(path), code, fps, (picture.shape[1], picture.shape[0]))
            if not writer.isOpened():
                raise FootageError(f"{path} cannot be written as a film; use a name that ends in .mp4 or .avi")
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        count += 1
    if writer is not None:
        writer.release()
    return count


# ---- plots ---------------------------------------------------------------------------------------------------------


class Plot:
    """Axes with lines in them, drawn with OpenCV."""

    def __init__(self, title: str, x_label: str, x: tuple[float, float], y: tuple[float, float], size=(420, 300)):  # type: ignore[no-untyped-def]
        self._x, self._y = x, y if y[1] > y[0] else (y[0], y[0] + 1.0)
        width, height = size
        self._box = (58, 30, width - 14, height - 40)
        self.picture = np.full((height, width, 3), BACKGROUND, np.uint8)
        left, top, right, bottom = self._box
        self._text(title, (left, 20), 0.45)
        self._text(x_label, (left + 4, height - 6), 0.4)
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            u, v = round(left + share * (right - left)), round(bottom - share * (bottom - top))
            self._line((u, top), (u, bottom), GRID)
            self._line((left, v), (right, v), GRID)
            self._text(f"{x[0] + share * (x[1] - x[0]):.3g}", (u - 12, bottom + 16), 0.35)
            self._text(f"{self._y[0] + share * (self._y[1] - self._y[0]):.3g}", (4, v + 4), 0.35)

    def _text(self, text: str, at: tuple[int, int], scale: float) -> None:
        cv2 = opencv()
        cv2.putText(self.picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, INK, 1, cv2.LINE_AA)

    def _line(self, a: tuple[int, int], b: tuple[int, int], colour: tuple[int, int, int], thick: int = 1) -> None:
        opencv().line(self.picture, a, b, colour, thick, opencv().LINE_AA)

    def _at(self, x: float, y: float) -> tuple[int, int]:
        left, top, right, bottom = self._box
        u = left + (x - self._x[0]) / (self._x[1] - self._x[0]) * (right - left)
        v = bottom - (y - self._y[0]) / (self._y[1] - self._y[0]) * (bottom - top)
        return round(float(np.clip(u, left, right))), round(float(np.clip(v, top, bottom)))

    def line(self, x: Sequence[float], y: Sequence[float], colour: tuple[int, int, int]) -> None:
        """One line through the points."""
        points = [self._at(a, b) for a, b in zip(x, y, strict=True)]
        for a, b in zip(points, points[1:], strict=False):
            self._line(a, b, colour, 2)

    def upright(self, x: float, colour: tuple[int, int, int]) -> None:
        """A vertical line."""
        u, _ = self._at(x, self._y[0])
        self._line((u, self._box[1]), (u, self._box[3]), colour)


def convergence(result: Calibration) -> Picture:
    """The cost over the steps of the search, logarithmic, stages in turn; within a stage it falls, between two the
    robust function grows narrower."""
    cost = np.log10(np.maximum([c for _, c in result.trace], 1e-9))
    stages = [stage for stage, _ in result.trace]
    plot = Plot(
        "cost (log10) over the steps of the search; vertical: a new stage",
        "step",
        (0.0, float(max(len(cost) - 1, 1))),
        (float(cost.min()), float(cost.max())),
        (840, 360),
    )
    starts = [0, *(k for k in range(1, len(stages)) if stages[k] != stages[k - 1])]
    for number, first in enumerate(starts):
        last = starts[number + 1] if number + 1 < len(starts) else len(stages)
        plot.upright(first, (190, 190, 190))
        plot.line(list(range(first, last)), cost[first:last].tolist(), (FIRST, SECOND, THIRD)[number % 3])
    return plot.picture


def losses(result: Calibration, loss_at: Sequence[tuple[Floats, Floats]]) -> Picture:
    """The loss along each unknown, the others held: a sharp valley is well determined, a flat one is not.

    `loss_at`: per unknown, steps from the result and the loss there, as `loss_curves` gives them.
    """
    tiles = []
    for k, (steps, loss) in enumerate(loss_at):
        shown = steps / PER_UNIT[k]
        plot = Plot(
            PARAMETERS[k].replace("_", " "), UNITS[k], (float(shown[0]), float(shown[-1])), (0.0, float(loss.max()))
        )
        plot.line(shown.tolist(), loss.tolist(), FIRST)
        plot.upright(0.0, SECOND)
        tiles.append(plot.picture)
    while len(tiles) < 8:
        tiles.append(np.full_like(tiles[0], BACKGROUND))
    return np.concatenate([np.concatenate(tiles[row : row + 4], axis=1) for row in (0, 4)], axis=0)


def write_picture(path: Path, picture: Picture) -> None:
    """Raises `FootageError` when it cannot be written."""
    if not opencv().imwrite(str(path), opencv().cvtColor(picture, opencv().COLOR_RGB2BGR)):
        raise FootageError(f"{path} cannot be written; give a folder of your own")

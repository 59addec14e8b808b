"""Curves as pictures, drawn by OpenCV: panels of lines with bands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.opencv import opencv

PANEL_PX = (460, 320)
MARGIN_PX = (64, 30, 16, 40)
"""Left, top, right, bottom."""
COLOURS_RGB = (
    *((40, 40, 40), (214, 39, 40), (31, 119, 180), (255, 127, 14)),
    *((44, 160, 44), (148, 103, 189), (140, 86, 75), (23, 190, 207)),
    *((188, 189, 34), (227, 119, 194)),
)


@dataclass(frozen=True)
class Line:
    """Points of a curve; low, high: a band about it, or nothing."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """Lines by name; y is shown as its logarithm where `log`."""

    title: str
    lines: Mapping[str, Line]
    x_label: str = "steps"
    log: bool = False


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = min((m * unit for m in (1.0, 2.0, 5.0, 10.0)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    return [t for t in found if low <= t <= high] or [low, high]


def _panel(panel: Panel, colours: Mapping[str, tuple[int, int, int]]) -> np.ndarray:
    cv = opencv()
    width, height = PANEL_PX
    left, top, right, bottom = MARGIN_PX
    picture = np.full((height, width, 3), 255, np.uint8)
    xs = [v for line in panel.lines.values() for v in line.x]
    ys = [v for line in panel.lines.values() for v in (*line.y, *line.low, *line.high) if math.isfinite(v)]
    if panel.log:
        ys = [v for v in ys if v > 0.0]
    cv.putText(picture, panel.title, (left, 20), cv.FONT_HERSHEY_SIMPLEX, 0.48, (0, 0, 0), 1, cv.LINE_AA)
    if not xs or not ys:
        return picture
    low, high = min(ys), max(ys)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    if not high > low:
        low, high = (low / 1.1, high * 1.1) if panel.log else (low - 0.5, high + 0.5)

    def place(x: float, y: float) -> tuple[int, int]:
        if panel.log:
            share = (math.log(max(y, low)) - math.log(low)) / (math.log(high) - math.log(low))
        else:
            share = (y - low) / (high - low)
        across = (x - x_low) / (x_high - x_low)
        return (
            round(left + across * (width - left - right)),
            round(height - bottom - min(1.0, max(0.0, share)) * (height - top - bottom)),
        )

    def text(words: str, x: int, y: int) -> None:
        cv.putText(picture, words, (x, y), cv.FONT_HERSHEY_SIMPLEX, 0.38, (90, 90, 90), 1, cv.LINE_AA)

    for tick in _log_ticks(low, high) if panel.log else _ticks(low, high):
        _, y = place(x_low, tick)
        cv.line(picture, (left, y), (width - right, y), (225, 225, 225), 1)
        text(f"{tick:.3g}", 6, y + 4)
    for tick in _ticks(x_low, x_high):
        x, _ = place(tick, low)
        text(f"{tick:g}", x - 10, height - bottom + 15)
    text(panel.x_label, width // 2, height - 8)
    for name, line in panel.lines.items():
        if line.low:
            edge = [place(x, y) for x, y in zip(line.x, line.high, strict=True)]
            edge += [place(x, y) for x, y in zip(reversed(line.x), reversed(line.low), strict=True)]
            band = picture.copy()
            cv.fillPoly(band, [np.array(edge, np.int32)], colours[name])
            picture = cv.addWeighted(band, 0.15, picture, 0.85, 0.0)
    for name, line in panel.lines.items():
        points = [place(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
        cv.polylines(picture, [np.array(points, np.int32)], False, colours[name], 2, cv.LINE_AA)
    return picture


def drawn(panels: Sequence[Panel], columns: int = 2) -> np.ndarray:
    """RGB uint8 (H, W, 3): the panels row by row, and below them which colour is which line."""
    cv = opencv()
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    colours = {name: COLOURS_RGB[i % len(COLOURS_RGB)] for i, name in enumerate(names)}
    blank = np.full((PANEL_PX[1], PANEL_PX[0], 3), 255, np.uint8)
    tiles = [_panel(panel, colours) for panel in panels]
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    width = rows[0].shape[1]
    legend = np.full((24 * -(-len(names) // (columns * 2)) + 12, width, 3), 255, np.uint8)
    for i, name in enumerate(names):
        across, down = i % (columns * 2), i // (columns * 2)
        x, y = 20 + across * (width // (columns * 2)), 18 + 24 * down
        cv.line(legend, (x, y), (x + 24, y), colours[name], 3)
        cv.putText(legend, name, (x + 32, y + 4), cv.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv.LINE_AA)
    return np.concatenate([*rows, legend], 0)


def save_picture(path: Path, picture_rgb: np.ndarray) -> None:
    """As PNG. Raises `OSError` where it cannot be written."""
    done, data = opencv().imencode(".png", np.ascontiguousarray(picture_rgb[..., ::-1]))
    assert done
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())

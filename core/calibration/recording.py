"""What a calibration is made from: pictures and scans with their own stamps, and pairs of the two.

A recording is anything with the attributes of `Recording`: a folder, two live channels, or a synthetic sequence. The
solver sees only `Pair`s.

Clock offset: `offset_s` is how much later a picture was taken than a scan that carries the same stamp, so a point
with stamp s shows in the picture with stamp s' as it was `s' - s + offset_s` seconds before that picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.calibration.geometry import Floats
from core.calibration.movers import APART_S, Compared, compared, own_motions
from core.calibration.silhouette import Silhouette, silhouette


@dataclass(frozen=True)
class Pair:
    """One picture and one scan.

    `mask` bool (H,W): pixels of the class. `points` float (n,3), metres, LiDAR frame: points of the class. `lag_s`:
    stamp of the picture minus stamp of the scan. `ages_s` (n,) or None: stamp of the scan minus the time of each
    point, on the sensor's clock. How things move is known in one of two ways, or not at all: `twist` (6,), velocity
    m/s then turning rate rad/s that static points have in the camera frame (a moving rig), or `flow` float (H,W,2),
    pixels per second that what is seen here moves (a fixed rig). `silhouette`: where the class ends in the scan, None
    where only the points of the class are known. `own` (n,3) or None, on a rig that moves: velocity over the ground of
    what each point belongs to, m/s in the LiDAR frame, NaN where it moves in a way that is not known.
    """

    mask: NDArray[np.bool_]
    points: Floats
    lag_s: float = 0.0
    ages_s: Floats | None = None
    twist: Floats | None = None
    flow: Floats | None = None
    silhouette: Silhouette | None = None
    own: Floats | None = None


@dataclass(frozen=True)
class Scan:
    """One sweep: `points` (n,3) metres in the LiDAR frame, `chosen` bool (n,) marks the class, `ages_s` as in Pair."""

    points: Floats
    chosen: NDArray[np.bool_]
    ages_s: Floats | None = None


class Recording(Protocol):
    """Pictures and scans that can be fetched by number; stamps in nanoseconds, each on its own clock."""

    K: Floats
    size: tuple[int, int]
    """Width and height in pixels."""
    camera_ns: Sequence[int]
    lidar_ns: Sequence[int]

    def mask(self, picture: int) -> NDArray[np.bool_]:
        """(H,W): the class in one picture."""
        ...

    def scan(self, number: int) -> Scan:
        """One sweep."""
        ...

    def flow(self, picture: int) -> Floats | None:
        """(H,W,2) pixels per second, or None on a rig that moves."""
        ...

    def twist(self, picture: int) -> Floats | None:
        """(6,) of static points in the camera frame, or None when unknown."""
        ...


class ClockError(ValueError):
    """Stamps that cannot be paired. The message says why and what to do."""


def check_clock(stamps_ns: Sequence[int], whose: str) -> None:
    """Raise `ClockError` when stamps run backwards or jump by more than ten of their own steps and a second."""
    steps = np.diff(np.asarray(stamps_ns, np.int64))
    if len(steps) and steps.min() <= 0:
        at = int(np.argmin(steps))
        raise ClockError(
            f"the {whose} clock runs backwards or stands at frame {at + 1}: record again without restarting the sensor"
        )
    if len(steps) > 1 and steps.max() > 1_000_000_000 and steps.max() > 10 * np.median(steps):
        at = int(np.argmax(steps))
        raise ClockError(
            f"the {whose} clock jumps by {steps[at] / 1e9:.1f} s at frame {at + 1}: "
            "record again, or cut the recording there"
        )


def match(
    camera_ns: Sequence[int], lidar_ns: Sequence[int], offset_s: float, count: int
) -> list[tuple[int, int, float]]:
    """Up to `count` evenly spread (picture, scan, lag in seconds); the picture is the one nearest to the scan when the
    clocks differ by `offset_s`. Each picture is used once.

    Raises `ClockError` for stamps that run backwards or jump, and when the two recordings do not overlap.
    """
    check_clock(camera_ns, "camera's")
    check_clock(lidar_ns, "sensor's")
    if not len(camera_ns) or not len(lidar_ns):
        raise ClockError("there are no pictures or no scans: record both at the same time")
    camera = np.asarray(camera_ns, np.int64)
    lidar = np.asarray(lidar_ns, np.int64)
    wanted = lidar - round(offset_s * 1e9)
    nearest = np.clip(np.searchsorted(camera, wanted), 1, max(len(camera) - 1, 1))
    if len(camera) > 1:
        nearest = nearest - (wanted - camera[nearest - 1] < camera[nearest] - wanted)
    else:
        nearest = np.zeros_like(nearest)
    gap = np.abs(camera[nearest] - wanted)
    step = np.median(np.diff(camera)) if len(camera) > 1 else 0.2e9
    usable = np.flatnonzero(gap <= max(step, 1e6))
    _, first = np.unique(nearest[usable], return_index=True)
    usable = usable[first]
    if not len(usable):
        apart = (int(camera[0]) - int(wanted[0])) / 1e9
        raise ClockError(
            f"pictures and scans do not overlap in time (their clocks are about {apart:.1f} s apart): "
            "give the rough offset, or stamp both on one machine"
        )
    kept = usable[np.unique(np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int))]
    return [(int(nearest[j]), int(j), float(camera[nearest[j]] - lidar[j]) * 1e-9) for j in kept]


def _own_motions(recording: Recording, found: Sequence[tuple[int, int, float]]) -> list[Floats] | None:
    """Per pair, what `Pair.own` says of all points of its scan (n,3), zero outside of the class; None on a rig that
    stands, or of which no velocity is known."""
    twists = [recording.twist(picture) for picture, _, _ in found]
    speeds = [float(np.linalg.norm(twist[:3])) for twist in twists if twist is not None and np.isfinite(twist).all()]
    if len(speeds) < len(found):
        return None
    times_s = (np.asarray(recording.lidar_ns, np.int64) - recording.lidar_ns[0]) * 1e-9
    scan = lru_cache(4)(recording.scan)

    def of_class(number: int) -> NDArray[np.bool_]:
        return scan(number).chosen & np.isfinite(scan(number).points).all(axis=1)

    sweeps: list[Compared] = []
    for (_, number, _), speed in zip(found, speeds, strict=True):
        away = times_s - times_s[number]
        neighbours = [int(np.argmin(np.abs(away - sign * APART_S))) for sign in (-1, 1)]
        others = []
        for k in neighbours:
            if 0.5 * APART_S < abs(away[k]) < 2 * APART_S:
                there = scan(k).points
                others.append((there[of_class(k)], there[np.isfinite(there).all(axis=1)], float(away[k])))
        sweeps.append(compared(scan(number).points[of_class(number)], others, speed))
    numbers = [number for _, number, _ in found]
    own = []
    for number, of_points in zip(numbers, own_motions(sweeps, times_s[numbers].tolist()), strict=True):
        whole = np.zeros_like(scan(number).points, float)
        whole[of_class(number)] = of_points
        own.append(whole)
    return own


def pair_at(recording: Recording, picture: int, number: int, lag_s: float, own: Floats | None = None) -> Pair:
    """One picture and one scan of a recording; `own` as `Pair.own`, of all points of the scan."""
    scan = recording.scan(number)
    ages = None if scan.ages_s is None else scan.ages_s[scan.chosen]
    return Pair(
        recording.mask(picture),
        scan.points[scan.chosen],
        lag_s,
        ages,
        recording.twist(picture),
        recording.flow(picture),
        silhouette(scan.points, scan.chosen, scan.ages_s, own),
        None if own is None else own[scan.chosen],
    )


def pair(recording: Recording, offset_s: float = 0.0, count: int = 20) -> list[Pair]:
    """Pairs of a recording when the clocks differ by about `offset_s`. Raises as `match`."""
    found = match(recording.camera_ns, recording.lidar_ns, offset_s, count)
    own = _own_motions(recording, found)
    return [pair_at(recording, *one, None if own is None else own[k]) for k, one in enumerate(found)]

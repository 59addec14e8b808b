"""The clips of `bench temporal`: scenes of the world with their own motion and depth; films with estimated motion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.motion import estimated_motion
from core.opencv import opencv
from core.tiny.evaluate import EVALUATION_SEED
from core.world import World

SIZE_PX, FPS = 128, 30.0
STYLES = ("neon", "toy", "comic", "pastel")
NOISE_LEVELS = 3.0
"""Standard deviation of the noise of the camera that films a still scene."""
PAN_PX = 2
FASTER = 4.0


@dataclass(frozen=True)
class Clip:
    """colour (N, H, W, 3) uint8, depth (N, H, W) metres, motion (N, H, W, 2) pixels back to the frame before, not a
    number where unknown, instance (N, H, W): what belongs together. cut: the first frame of another scene, or None."""

    kind: str
    style: str
    prompt: str
    colour: Tensor
    depth: Tensor
    motion: Tensor
    instance: Tensor
    cut: int | None = None

    def planes(self, at: int) -> dict[str, Tensor]:
        """What an engine sends beside a picture. mask: numbers of what belongs together, one byte each."""
        return {
            "motion": self.motion[at][None],
            "depth": self.depth[at][None],
            "mask": self.instance[at][None].to(torch.uint8),
        }


def _planes(world: World, time_s: float, dt_s: float, width: int = SIZE_PX) -> dict[str, Tensor]:
    out = world.render(time_s, width, SIZE_PX, planes=("colour", "depth", "motion", "instance"), motion_dt_s=dt_s)
    return {**out, "motion": -out["motion"]}


def _orbit(world: World, frames: int, noise: torch.Generator) -> list[dict[str, Tensor]]:
    """Camera and objects move as the scene has it."""
    return [_planes(world, 1.0 + n / FPS, 1.0 / FPS) for n in range(frames)]


def _pan(world: World, frames: int, noise: torch.Generator) -> list[dict[str, Tensor]]:
    """A still scene, and a view that glides over it."""
    wide = _planes(world, 1.0, 0.0, SIZE_PX + PAN_PX * frames)
    out = []
    for n in range(frames):
        seen = {name: plane[:, n * PAN_PX : n * PAN_PX + SIZE_PX] for name, plane in wide.items()}
        seen["motion"] = torch.tensor([float(PAN_PX), 0.0]).expand(SIZE_PX, SIZE_PX, 2)
        out.append(seen)
    return out


def _actor(world: World, frames: int, noise: torch.Generator) -> list[dict[str, Tensor]]:
    """A camera that stands still before objects that are several times as fast."""
    world.scenes.camera[:, 2] = 0.0
    world.scenes.orbit[..., 2] *= FASTER
    world.scenes.turn[..., 1] *= FASTER
    return _orbit(world, frames, noise)


def _watch(world: World, frames: int, noise: torch.Generator) -> list[dict[str, Tensor]]:
    """A camera that stands still, and one thing moves: the first object of the scene."""
    mover = int(world.scenes.present[0].nonzero()[0])
    others = torch.arange(world.scenes.present.shape[1]) != mover
    world.scenes.camera[:, 2] = 0.0
    world.scenes.orbit[:, others, 2] = 0.0
    world.scenes.turn[:, others, 1] = 0.0
    return _orbit(world, frames, noise)


def _still(world: World, frames: int, noise: torch.Generator) -> list[dict[str, Tensor]]:
    """Nothing moves; the camera adds noise."""
    planes = _planes(world, 1.0, 0.0)
    clean = planes["colour"].float()
    shaken = (clean + NOISE_LEVELS * torch.randn((frames, *clean.shape), generator=noise)).round().clamp(0, 255)
    return [{**planes, "colour": frame} for frame in shaken.to(torch.uint8)]


_KINDS: dict[str, Callable[[World, int, torch.Generator], list[dict[str, Tensor]]]] = {
    "orbit": _orbit,
    "pan": _pan,
    "actor": _actor,
    "watch": _watch,
    "still": _still,
    "cut": _orbit,
}
MOVING = ("orbit", "pan", "actor")
RESTING = ("still", "watch")
"""Those of a still camera, which is what work is reused for."""
KINDS = tuple(_KINDS)


def clip(kind: str, scene: int, frames: int) -> Clip:
    """A clip of scenes that nothing was trained on."""
    noise = torch.Generator().manual_seed(scene)
    world, other = World(EVALUATION_SEED + 500 + scene), World(EVALUATION_SEED + 700 + scene)
    taken = _KINDS[kind](world, frames, noise)
    cut = frames // 2 if kind == "cut" else None
    if cut is not None:
        taken[cut:] = _orbit(other, frames, noise)[cut:]
    planes: dict[str, list[Tensor]] = defaultdict(list)
    for frame in taken:
        for name, plane in frame.items():
            planes[name].append(plane)
    style = STYLES[scene % len(STYLES)]
    whole = {name: torch.stack(values) for name, values in planes.items()}
    return Clip(kind, style, world.caption(style), **whole, cut=cut)


def film(path: Path, style: str, frames: int) -> Clip:
    """The first frames of a film or of a folder of pictures in the order of their names, with estimated motion. Raises
    `ValueError` where fewer than two can be read."""
    cv2 = opencv()
    pictures: list[Tensor] = []
    source: Iterator[Any]
    if path.is_dir():
        source = (cv2.imread(str(file)) for file in sorted(path.iterdir()))
    else:
        capture = cv2.VideoCapture(str(path))
        source = iter(lambda: capture.read()[1], None)
    for picture in source:
        if picture is None:
            continue
        rgb = cv2.cvtColor(cv2.resize(picture, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        pictures.append(torch.from_numpy(rgb))
        if len(pictures) == frames:
            break
    if len(pictures) < 2:
        raise ValueError(f"{path}: fewer than two pictures can be read there; give a film or a folder of pictures")
    colour = torch.stack(pictures)
    motion = torch.cat((torch.zeros((1, SIZE_PX, SIZE_PX, 2)), estimated_motion(colour)))
    nothing: Any = torch.zeros(colour.shape[:3])
    return Clip("film", style, f"{style} style", colour, nothing + 1.0, motion, nothing)

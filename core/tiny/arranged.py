"""Where text-to-image puts what a prompt names: every kind of thing has a place of its own, before one camera.

A picture made in one step is the mean of all that the prompt leaves open. Of scenes with their things anywhere that is
a blur; of these it is one picture, which a prompt and a style describe in full.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from core.world.scene import SLOT_SHAPES, Scenes

_FIRST_SLOT = tuple(SLOT_SHAPES.index(kind) for kind in SLOT_SHAPES)
# Of sphere, box, cylinder and cone, from left to right: home (m), half extents (m), yaw (rad).
_HOMES = ((1.1, -1.3), (-1.5, -0.75), (1.0, 0.45), (-0.5, 1.75))
_SIZES = ((0.8, 0.8, 0.8), (0.85, 0.85, 0.85), (0.65, 0.65, 0.85), (0.9, 0.9, 1.2))
_YAWS = (0.0, 0.5, 0.0, 0.0)
_CAMERA = (0.0, 0.0, 0.0, 5.0, 3.9, 0.0, 0.6, 1.05)
_LIGHT = (0.49, -0.5, 0.714)


def arranged(scenes: Scenes) -> Scenes:
    """The same kinds of thing in the same colours, one of each, each in its place, at rest."""
    kinds = torch.tensor(SLOT_SHAPES)
    alone = torch.tensor([slot == first for slot, first in enumerate(_FIRST_SLOT)])
    rows = len(scenes)

    def every(values: object) -> torch.Tensor:
        return torch.tensor(values)[kinds].expand(rows, -1, *torch.tensor(values).shape[1:])

    still = torch.zeros_like(scenes.orbit)
    return replace(
        scenes,
        present=scenes.present & alone,
        size=every(_SIZES),
        home=every(_HOMES),
        orbit=still,
        bob=torch.zeros_like(scenes.bob),
        turn=torch.stack([every(_YAWS), still[..., 0]], -1),
        camera=torch.tensor(_CAMERA).expand(rows, -1),
        light=torch.tensor(_LIGHT).expand(rows, -1),
    )

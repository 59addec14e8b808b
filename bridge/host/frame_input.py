"""A ring's frame as what the stream reads. Importing it loads torch: only where a model is there already."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from bridge.ring import Frame, Kind, Origin
from bridge.ring.colour import rgb8
from core.input import Input
from core.pixels import as_tensor


def input_of(frame: Frame) -> Input:
    """A ring's frame, which has a colour plane where it lies."""
    colour, form = frame.planes[Kind.COLOUR], frame.formats[Kind.COLOUR]

    def upright(plane: Any) -> Any:
        rows = plane[::-1] if frame.origin == Origin.BOTTOM_LEFT else plane
        # `as_tensor` is for bytes; a plane of floats is copied, as memory of the ring cannot be written to.
        return as_tensor(np.ascontiguousarray(rows)) if rows.dtype == np.uint8 else torch.from_numpy(np.array(rows))

    def downwards(plane: Any) -> Any:
        """Motion is towards higher rows of the plane: of one that was turned over, y is, too."""
        plane = upright(plane)
        return plane * plane.new_tensor([1.0, -1.0]) if frame.origin == Origin.BOTTOM_LEFT else plane

    pose = frame.T_world_camera
    return Input(
        lambda: as_tensor(rgb8(colour, form, frame.origin, frame.colour_space)),
        as_tensor(colour if colour.ndim == 3 else colour[..., None]) if colour.dtype == np.uint8 else None,
        {
            k.name.lower(): partial(downwards if k == Kind.MOTION else upright, plane)
            for k, plane in frame.planes.items()
            if k != Kind.COLOUR
        },
        None if pose is None else torch.from_numpy(np.array(pose)),
        frame.intrinsics,
        frame.source_frame_id,
        frame.capture_ns,
        frame.sequence,
    )


def kept(frame: Frame, names: tuple[str, ...]) -> Input:
    """The same with memory of its own, so that it outlasts the client's; of the planes beside colour the named ones."""
    planes = {k: plane.copy() for k, plane in frame.planes.items() if k == Kind.COLOUR or k.name.lower() in names}
    return input_of(replace(frame, planes=planes))


def batched(planes: dict[str, Any]) -> dict[str, Any]:
    return {name: plane[None] for name, plane in planes.items()}

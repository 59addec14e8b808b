"""The procedural world as a source."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from bridge.ring.clock import now_ns
from bridge.ring.layout import Kind
from bridge.sources.source import Array, SourceError

PLANES = ("depth", "motion", "normal", "mask")
"""What the world can give beside colour."""


class WorldSource:
    """The procedural world in its flat grey look, as a game would send it; on request with what a game also knows."""

    def __init__(
        self, size: tuple[int, int], fps: float, seed: int = 0, planes: Sequence[str] = (), style: str = ""
    ) -> None:
        # One thread: the client shares the machine with the host, whose model needs the other cores. Read by torch at
        # its import, and a user's own setting stays in force.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        from core.world import STYLES, World

        if style and style not in STYLES:
            raise SourceError(f"no style {style!r} in the world; use one of {', '.join(STYLES)}")
        self._world = World(seed=seed)
        self._style = style or STYLES[0]
        self._size = size
        self._dt_s = 1.0 / fps
        self._extra = tuple(planes)
        self._rendered = ("colour", *("class" if p == "mask" else p for p in planes))

    def read(self, time_s: float) -> tuple[dict[Kind, Array], int]:
        width, height = self._size
        out = self._world.render(
            time_s=time_s, width=width, height=height, style=self._style, planes=self._rendered, motion_dt_s=self._dt_s
        )
        planes: dict[Kind, Array] = {Kind.COLOUR: out["colour"].numpy()}
        if "depth" in self._extra:
            planes[Kind.DEPTH] = out["depth"].numpy()
        if "motion" in self._extra:
            # The world says how far the surface has come, the ring how far back it was.
            planes[Kind.MOTION] = -out["motion"].numpy()
        if "normal" in self._extra:
            normal = np.zeros((height, width, 4), np.float16)
            normal[..., :3] = out["normal"].numpy()
            planes[Kind.NORMAL] = normal
        if "mask" in self._extra:
            planes[Kind.MASK] = out["class"].numpy()
        return planes, now_ns()

    def pose(self, time_s: float) -> tuple[Array, Array] | None:
        if not self._extra:
            return None
        k = self._world.intrinsics(*self._size).numpy()
        return self._world.T_world_cam(time_s).numpy(), np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]], np.float32)

    def close(self) -> None:
        pass

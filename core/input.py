"""What comes in: one frame of a client as the stream may ask for it.

Nothing is converted or copied before somebody asks. Shapes: H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True)
class Input:
    """One frame.

    read_colour: gives the picture, uint8 sRGB (H, W, 3 or 4), red first, row 0 at the top. look: pixels as the client
    wrote them, uint8 (H, W, C), that change when the picture does, where they can be had for nothing. planes: the
    others that the client sent, by name ("depth", "motion", "mask", ...), as it wrote them, row 0 at the top.
    T_world_camera (4, 4) and intrinsics (fx, fy, cx, cy in pixels): where they are known. source_frame_id, capture_ns:
    the client's. sequence: of the frame in its channel.
    """

    read_colour: Callable[[], Tensor]
    look: Tensor | None = None
    planes: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    T_world_camera: Tensor | None = None
    intrinsics: tuple[float, ...] | None = None
    source_frame_id: int = 0
    capture_ns: int = 0
    sequence: int = 0

    @cached_property
    def colour(self) -> Tensor:
        """The picture, converted at the first call. It may lie in the client's memory."""
        return self.read_colour()

    def read(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Those of the named planes that the client sent."""
        return {name: self.planes[name]() for name in names if name in self.planes}

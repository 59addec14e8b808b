"""Optical flow between pictures, and flow fields cleaned for use around a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.calibration.geometry import Floats
from core.opencv import opencv

INSIDE_PX = 4
"""Flow is read this far inside the mask: closer to its edge it is mixed with that of what lies behind."""


class Flow:
    """Dense inverse search of OpenCV between grey pictures (Kroeger et al., ECCV 2016)."""

    def __init__(self) -> None:
        cv2 = opencv()
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def between(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Floats:
        """uint8 (H,W) or RGB (H,W,3) twice to float32 (H,W,2): where the pixels of `first` went."""
        grey = [p if p.ndim == 2 else opencv().cvtColor(p, opencv().COLOR_RGB2GRAY) for p in (first, second)]
        flow: Floats = self._dis.calc(*grey, None)
        return flow

    def rate(
        self, before: NDArray[np.uint8], here: NDArray[np.uint8], after: NDArray[np.uint8], step_s: tuple[float, float]
    ) -> Floats:
        """Pixels per second at `here`, float32 (H,W,2), from its two neighbours, `step_s` seconds away each.

        The mean over both sides: what one side misses where it is covered the other one sees, and acceleration
        drops out.
        """
        forward = self.between(here, after) / np.float32(step_s[1])
        backward = self.between(here, before) / np.float32(step_s[0])
        return 0.5 * (forward - backward)


def around_mask(flow: Floats, mask: NDArray[np.bool_]) -> Floats:
    """The flow of the nearest pixel well inside the mask, for every pixel, float32 (H,W,2); zero for an empty mask.

    Parts of the mask that are too thin to have an inside keep the flow along their middle.
    """
    if not mask.any():
        return np.zeros_like(flow, np.float32)
    cv2 = opencv()
    solid = mask.astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(solid, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    ridge = cv2.dilate(depth, np.ones((2 * INSIDE_PX + 1,) * 2, np.uint8))
    inside = mask & ((depth >= INSIDE_PX) | (depth >= ridge))
    _, labels = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    smooth = np.stack([cv2.medianBlur(np.ascontiguousarray(flow[..., i], np.float32), 5) for i in range(2)], -1)
    of_label = np.zeros((int(labels.max()) + 1, 2), np.float32)
    of_label[labels[inside]] = smooth[inside]
    extended: Floats = of_label[labels]
    return extended

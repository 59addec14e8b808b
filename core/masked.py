"""A picture repainted where its mask says so, and left alone elsewhere.

The model paints the whole picture, so that what it paints inside fits what is around; outside the mask the client's own
pixels come back. They wait for the painting beside the frame.

Shapes: F frames, H W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as nnf
from torch import Tensor

from core.device import uploaded
from core.pixels import PixelError

PLANE = "mask"


class Behind(NamedTuple):
    """levels: of the picture that came in, float32 (F, 3, H, W), 0..255. share: of the painting that shows, float32
    (F, 1, H, W), 0..1."""

    levels_F3HW: Tensor
    share_F1HW: Tensor

    def behind(self, painted_F3HW: Tensor) -> Tensor:
        """The painting over the picture."""
        return self.levels_F3HW.lerp(painted_F3HW, self.share_F1HW)


def behind(frame_FHWC: Tensor, mask_FHW: Tensor, size: tuple[int, int], like: Tensor) -> Behind:
    """Of pictures and their masks as the client wrote them: levels, or shares of full, white for what is repainted.
    size: (height, width) in pixels of the painting. like: on its device. Raises `PixelError`."""
    if mask_FHW.dim() not in (3, 4):
        raise PixelError(f"a mask of shape {tuple(mask_FHW.shape[1:])} cannot be used; send (height, width)")
    mask = uploaded(mask_FHW, like.device)
    share = (mask if mask.dim() == 3 else mask[..., 0])[:, None].float()
    if not mask.dtype.is_floating_point:
        share = share / 255.0
    levels = uploaded(frame_FHWC, like.device)[..., :3].permute(0, 3, 1, 2).float()
    levels, share = (
        x if tuple(x.shape[-2:]) == size else nnf.interpolate(x, size, mode="bilinear", antialias=True)
        for x in (levels, share)
    )
    return Behind(levels, share.nan_to_num(0.0).clamp(0.0, 1.0))

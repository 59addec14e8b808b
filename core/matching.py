"""Which piece of the picture before is most like each piece of this one: nearest neighbours on the clean source, whose
answer is applied to what was painted.

StreamV2V (arXiv 2405.15757, section 3.3) looks for neighbours among features of the noisy pass; TokenFlow (arXiv
2307.10373) showed that those of the source are the better guide. Here pieces of the source itself are compared, so it
serves every network, and a picture shifted by part of a latent cell is found, too. No motion is known or assumed: each
piece chooses for itself.

Shapes: F pictures, h w small pixels, K places of the window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.around import by_steps
from core.opencv import opencv

REACH = 2
"""So many small pixels away, in each direction, a piece is looked for."""
_PIECE = 2
"""A piece is what lies so many small pixels around."""
_SIDE = range(-REACH, REACH + 1)
# The nearest first: of places that are equally alike it is taken.
PLACES = sorted(((y, x) for y in _SIDE for x in _SIDE), key=lambda place: (place[0] ** 2 + place[1] ** 2, place))
_CODES = 32
"""A whole number of differences times this, and the number of the place: what is smallest is both."""


def _neighbours(step_y: int, step_x: int) -> list[int]:
    """Of each place the number of the one a step on, or its own where it has none on one of both sides."""
    numbers = {place: number for number, place in enumerate(PLACES)}

    def of(y: int, x: int) -> int:
        there, back = (y + step_y, x + step_x), (y - step_y, x - step_x)
        return numbers[there if there in numbers and back in numbers else (y, x)]

    return [of(*place) for place in PLACES]


class Matching:
    """Finds pieces again, on one device."""

    def __init__(self, device: torch.device) -> None:
        self._codes = torch.arange(len(PLACES), dtype=torch.float32, device=device).view(1, -1, 1, 1)
        self._place_2K = torch.tensor([(float(x), float(y)) for y, x in PLACES], device=device).T.contiguous()
        steps = ((0, -1), (-1, 0), (0, 1), (1, 0))
        self._beside_4K = torch.tensor([_neighbours(*step) for step in steps], device=device)

    def back(self, now_Fhw: Tensor, before_Fhw: Tensor) -> Tensor:
        """(F, h, w, 2): from each pixel to the middle of the piece before that is most like the one around it, x to the
        right, y down, in parts of a pixel. Grey levels, whole numbers 0..255, float32."""
        cost_FKhw = differences(now_Fhw, before_Fhw)
        at_Fhw = torch.add(self._codes, cost_FKhw, alpha=_CODES).amin(1).remainder_(_CODES).long()
        best_F1hw = cost_FKhw.gather(1, at_Fhw[:, None])
        low_F2hw, high_F2hw = cost_FKhw.gather(1, _looked_up(self._beside_4K, at_Fhw)).chunk(2, 1)
        back_F2hw = _looked_up(self._place_2K, at_Fhw) + _lowest(low_F2hw, best_F1hw, high_F2hw)
        return back_F2hw.permute(0, 2, 3, 1)


def _looked_up(table_nK: Tensor, at_Fhw: Tensor) -> Tensor:
    """(F, n, h, w)"""
    return table_nK.index_select(1, at_Fhw.flatten()).unflatten(1, at_Fhw.shape).transpose(0, 1)


def small_grey(levels_F3HW: Tensor, size: tuple[int, int]) -> Tensor:
    """Grey levels (F, h, w) of a smaller size, whole numbers, float32."""
    three_FHW = levels_F3HW.sum(1)
    if levels_F3HW.device.type == "cpu":
        cv2 = opencv()
        small = [cv2.resize(one.numpy(), size[::-1], interpolation=cv2.INTER_AREA) for one in three_FHW]
        three_Fhw = torch.stack([torch.from_numpy(one) for one in small])
    else:
        three_Fhw = nnf.interpolate(three_FHW[:, None], size, mode="area")[:, 0]
    return three_Fhw.mul_(1.0 / 3.0).round_()


def differences(now_Fhw: Tensor, before_Fhw: Tensor) -> Tensor:
    """(F, K, h, w): sums of absolute differences over a piece, for each of `PLACES`; of whole numbers 0..255, and in
    float32, which holds them."""
    return _by_opencv(now_Fhw, before_Fhw) if now_Fhw.device.type == "cpu" else by_torch(now_Fhw, before_Fhw)


def _by_opencv(now_Fhw: Tensor, before_Fhw: Tensor) -> Tensor:
    """Bytes and one place after the other, which stay in the processor's nearest cache: in two fifths of the time."""
    cv2 = opencv()
    frames, height, width = now_Fhw.shape
    cost_FKhw = torch.empty((frames, len(PLACES), height, width))
    now, before = (grey.to(torch.uint8).numpy() for grey in (now_Fhw, before_Fhw))
    side, goes_on = 2 * _PIECE + 1, cv2.BORDER_REPLICATE
    for frame, cost_Khw in enumerate(cost_FKhw.numpy()):
        wide = cv2.copyMakeBorder(before[frame], REACH, REACH, REACH, REACH, goes_on)
        for (y, x), cost_hw in zip(PLACES, cost_Khw, strict=True):
            there = wide[REACH + y : REACH + y + height, REACH + x : REACH + x + width]
            apart = cv2.absdiff(there, now[frame])
            cv2.boxFilter(apart, cv2.CV_32F, (side, side), cost_hw, normalize=False, borderType=goes_on)
    return cost_FKhw


def by_torch(now_Fhw: Tensor, before_Fhw: Tensor) -> Tensor:
    """The plain twin of `differences`."""
    height, width = now_Fhw.shape[1:]
    wide = nnf.pad(before_Fhw[:, None], (REACH,) * 4, mode="replicate")[:, 0]
    there = [wide[:, REACH + y : REACH + y + height, REACH + x : REACH + x + width] for y, x in PLACES]
    return by_steps(torch.stack(there, 1).sub_(now_Fhw[:, None]).abs_(), _PIECE, torch.add)


def _lowest(low: Tensor, best: Tensor, high: Tensor) -> Tensor:
    """Where between its neighbours the parabola through three values is lowest, -0.5..0.5; 0 through equal ones."""
    return ((low - high) / (2.0 * (low + high - 2.0 * best)).clamp_min(1.0)).clamp_(-0.5, 0.5)

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

from core.around import around

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
        self._place_K2 = torch.tensor([(float(x), float(y)) for y, x in PLACES], device=device)
        steps = ((0, -1), (0, 1), (-1, 0), (1, 0))
        self._beside_4K = torch.tensor([_neighbours(*step) for step in steps], device=device)

    def back(self, now_Fhw: Tensor, before_Fhw: Tensor) -> Tensor:
        """(F, h, w, 2): from each pixel to the middle of the piece before that is most like the one around it, x to the
        right, y down, in parts of a pixel. Grey levels, float32 0..255."""
        cost_FKhw = differences(now_Fhw, before_Fhw)
        at_Fhw = (cost_FKhw * _CODES + self._codes).amin(1).remainder_(_CODES).long()
        best, left, right, above, below = (
            cost_FKhw.gather(1, number[:, None])[:, 0]
            for number in (at_Fhw, *(beside[at_Fhw] for beside in self._beside_4K))
        )
        return self._place_K2[at_Fhw] + torch.stack((_lowest(left, best, right), _lowest(above, best, below)), -1)


def differences(now_Fhw: Tensor, before_Fhw: Tensor) -> Tensor:
    """(F, K, h, w): sums of absolute differences over a piece, whole numbers, for each of `PLACES`."""
    height, width = now_Fhw.shape[1:]
    wide = nnf.pad(before_Fhw[:, None], (REACH,) * 4, mode="replicate")[:, 0]
    there = [wide[:, REACH + y : REACH + y + height, REACH + x : REACH + x + width] for y, x in PLACES]
    apart_FKhw = torch.stack(there, 1).sub_(now_Fhw[:, None]).abs_()
    return around(apart_FKhw, _PIECE, torch.add).round_()


def _lowest(low: Tensor, best: Tensor, high: Tensor) -> Tensor:
    """Where between its neighbours the parabola through three values is lowest, -0.5..0.5; 0 through equal ones."""
    return ((low - high) / (2.0 * (low + high - 2.0 * best)).clamp_min(1.0)).clamp(-0.5, 0.5)

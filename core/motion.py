"""Steady pictures from motion: what was painted before, carried along the motion of the scene.

A game engine knows where each pixel was in the frame before; without one, optical flow estimates it, or each piece of
the picture is found again by itself (the bank, `core.matching`). Three things are moved along: the source picture,
which says where that can be trusted, the finished picture, and, where asked for, each stage's estimate of the clean
latent before noise is added to it. Blending clean estimates keeps the noise level that a stage was trained for, which
blending noisy latents would lower; what is blended there shows in the pixels around, too.

Three threads take part, each with a state of its own: `Follower` while a frame is encoded, `Estimates` between the
stages, `Pictures` behind the decoder. What they share of a frame is its `Guide`, which nothing writes to. Whatever has
no frame just before it (the first, one after a gap, after a cut, or without motion) is left as it was painted.

Shapes: F frames, S stages, H W pixels, h w latent cells, c channels. Motion is in pixels, from a frame back to the one
before it, x to the right, y down.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.around import around
from core.matching import Matching, small_grey
from core.opencv import opencv
from core.params import Params
from core.pixels import PixelError

LONGEST_GAP = 4
"""The motion of one frame stands for that of so many when frames between were dropped; the source tells where not."""
DEPTH_TOLERANCE = 0.1
"""Share of its depth that a surface may come nearer or go away by in a frame."""
NOTHING = 1e6
"""Depth where there is none (0, negative, not finite): as far away as that of another pixel without."""
FLOW_PX = 128
"""Longest side of the pictures between which flow is estimated; small pictures are halved at most."""


class Warp(NamedTuple):
    """Where to read what was there before, and how far to trust it. grid (F, H, W, 2): as `grid_sample` wants it, -1..1
    across. weight (F, 1, H, W): 0..1. between: of the grid, see `between`; None where nothing asks for it."""

    grid: Tensor
    weight: Tensor
    between: Tensor | None = None


class Carrying(NamedTuple):
    """How what was there before is used: shares of the picture and of every stage's estimate, sharpening of what was
    read between pixels, and how the picture is read (`moved`)."""

    picture: float
    latent: float
    sharpen: float
    mode: str

    @classmethod
    def of(cls, params: Params) -> Carrying | None:
        """What the parameters ask for; None where nothing is carried."""
        if params.temporal == "bank":
            # Pieces come from whole pixels: nothing is blurred, and nothing has to be sharpened.
            return cls(params.bank_match, 0.0, 0.0, "nearest") if params.bank_match > 0.0 else None
        if params.temporal == "off":
            return None
        return cls(params.motion_share, params.motion_latent, params.motion_sharpen, "bicubic")


class Guide(NamedTuple):
    """What the frames of one turn know of those before them. serial: of the first of them; frames are numbered one by
    one as they are encoded. latent, picture: None where nothing is known. params: what they came in with.
    noise: at every stage, (S, F, c, h, w), where it moves with the world (`core.moving_noise`)."""

    serial: int
    frames: int
    latent: Warp | None
    picture: Warp | None
    params: Params
    noise: Tensor | None = None


def planes_of(params: Params) -> tuple[str, ...]:
    """The client's planes that are of use under these parameters."""
    return ("motion", "depth", "mask") if params.temporal == "engine" else ()


def identity_grid(height: int, width: int, device: torch.device) -> Tensor:
    """(1, H, W, 2): every pixel reads itself."""
    y = (torch.arange(height, device=device) + 0.5) * (2.0 / height) - 1.0
    x = (torch.arange(width, device=device) + 0.5) * (2.0 / width) - 1.0
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]


def moved(x_FcHW: Tensor, grid_FHW2: Tensor, mode: str = "bilinear") -> Tensor:
    """x read at the places of the grid."""
    return nnf.grid_sample(x_FcHW, grid_FHW2, mode=mode, padding_mode="border", align_corners=False)


def between(motion_FHW2: Tensor) -> Tensor:
    """(F, 1, H, W): how far from every pixel the places lie that motion comes from, 0 on one, 1 halfway between two.
    That much of what is read there is blurred; to sharpen the rest would sharpen what stands still anew in every frame.
    Not a number and infinite motion lie on one."""
    off = motion_FHW2.frac().abs_()
    across, down = torch.addcmul(off, off, off, value=-1.0).unbind(-1)
    return torch.maximum(across, down).mul_(4.0).nan_to_num_(0.0)[:, None]


class _Before(NamedTuple):
    """What is kept of a frame for the next one: source (1, 3, H, W), depth and mask (1, 1, H, W), grey for the flow,
    and the client's number."""

    source: Tensor
    depth: Tensor | None
    mask: Tensor | None
    grey: Tensor | None
    number: int


class Follower:
    """Makes guides of frames as they come. size, latent: (height, width) of pictures and latents."""

    def __init__(self, size: tuple[int, int], latent: tuple[int, int], device: torch.device) -> None:
        self._size = size
        self._latent = latent
        self._device = device
        self._here = identity_grid(*size, device)
        self._cells = identity_grid(*latent, device)
        # Written out, as a processor takes four times as long to spread two values over all pixels.
        self._scale = torch.tensor([2.0 / size[1], 2.0 / size[0]], device=device).expand_as(self._here).contiguous()
        self._flow = _Flow()
        self._matching = Matching(device)
        self._serial = 0
        self._before: _Before | None = None

    def forget(self) -> None:
        """The next frame has nothing before it."""
        self._before = None
        self._serial += 1

    def guide(self, frame_FHWC: Tensor, planes: Mapping[str, Tensor], numbers: Sequence[int], params: Params) -> Guide:
        """The guide of uint8 pictures (F, H, W, 3 or 4) and their planes (F, H, W, ...), each of any size.

        numbers: the client's, one a frame. Raises `PixelError` for planes of another shape.
        """
        frames = frame_FHWC.shape[0]
        # In planes, as everything that follows is several times as fast on them.
        planar = frame_FHWC[..., :3].to(self._device).permute(0, 3, 1, 2).contiguous()
        source = self._sized(planar.to(torch.float32), "bilinear")
        known = planes if params.temporal != "bank" else {}
        depth, mask = (self._single(known, name, frames) for name in ("depth", "mask"))
        if depth is not None:
            depth = torch.where((depth > 0.0) & (depth < NOTHING), depth, NOTHING)
        grey = self._grey(frame_FHWC, source, params)
        before, last = self._before, self._serial

        def kept(at: slice, number: int) -> _Before:
            own = [None if plane is None else plane[at] for plane in (depth, mask, grey)]
            return _Before(source[at], own[0], own[1], own[2], number)

        self._before = kept(slice(-1, None), numbers[-1])
        if before is None:
            before = kept(slice(0, 1), numbers[0])
        gaps = [b - a for a, b in zip((before.number, *numbers), numbers, strict=False)]
        usable = [0 < gap <= LONGEST_GAP for gap in gaps]
        # Frames that do not follow one another get serial numbers that do not, either.
        self._serial = last + frames
        motion = self._motion(planes, before.grey, grey, gaps, params)
        if motion is None or not any(usable):
            return Guide(last + 1, frames, None, None, params)
        grid = torch.addcmul(self._here, motion, self._scale)
        across, down = grid.abs().unbind(-1)
        # What is not a number is not inside.
        trusted = (torch.maximum(across, down) <= 1.0)[:, None]
        grid = grid.nan_to_num_(0.0, 2.0, -2.0)
        earlier = _shifted(before.source, source)
        how = Carrying.of(params) or Carrying(0.0, 0.0, 0.0, "bilinear")
        apart = source - moved(earlier, grid, "nearest" if how.mode == "nearest" else "bilinear")
        weight = _likeness(apart, params.motion_tolerance)
        # Pieces that are alike are found among strangers, too: whether the picture is another one, it tells itself. Of
        # what came from inside the picture alone: a fast pan is no cut.
        goes_on = torch.tensor(usable).to(self._device) & ~self._cut(
            source - earlier if params.temporal == "bank" else apart, trusted, source, params.cut_threshold
        )
        if depth is not None and before.depth is not None:
            trusted = trusted & _same_depth(depth, _shifted(before.depth, depth), grid)
        if mask is not None and before.mask is not None:
            trusted = trusted & _same_mask(mask, _shifted(before.mask, mask), grid)
        weight *= trusted & goes_on.view(-1, 1, 1, 1)
        cells = self._of_cells(grid, weight) if how.latent > 0.0 else None
        return Guide(
            last + 1, frames, cells, Warp(grid, weight, between(motion) if how.sharpen > 0.0 else None), params
        )

    @staticmethod
    def _cut(apart_F3HW: Tensor, inside_F1HW: Tensor, source_F3HW: Tensor, threshold: float) -> Tensor:
        """(F,) bool: whether pictures differ from those before by so large a share of what strangers do."""
        unlike = _mean_square((apart_F3HW * inside_F1HW).flatten(1))
        unlike /= inside_F1HW.flatten(1).to(torch.float32).mean(1).clamp_min(1e-3)
        return unlike > threshold * 2.0 * _variance(source_F3HW) + 1.0

    def _of_cells(self, grid_FHW2: Tensor, weight_F1HW: Tensor) -> Warp:
        """The same for latents: a cell moves as those of its pixels do that are trusted."""
        # Every second pixel of every second row tells as much.
        step, trusted = (grid_FHW2 - self._here)[:, ::2, ::2].permute(0, 3, 1, 2), weight_F1HW[..., ::2, ::2]
        pooled = nnf.adaptive_avg_pool2d(torch.cat((step * trusted, trusted), 1), self._latent)
        share = pooled[:, 2:]
        cells = (pooled[:, :2] / share.clamp_min(1e-6)).permute(0, 2, 3, 1)
        # A cell is seen in all pixels around it: one that is trusted in part would show what has gone.
        return Warp(self._cells + cells, share.square().square())

    def _sized(self, x_FcHW: Tensor, mode: str) -> Tensor:
        if x_FcHW.shape[-2:] == self._size:
            return x_FcHW
        more = {"antialias": True} if mode == "bilinear" else {}
        return nnf.interpolate(x_FcHW, self._size, mode=mode, **more)

    def _single(self, planes: Mapping[str, Tensor], name: str, frames: int) -> Tensor | None:
        """A plane of one channel, float32 (F, 1, H, W), where it came."""
        plane = planes.get(name)
        if plane is None:
            return None
        plane = plane.squeeze(-1) if plane.ndim == 4 else plane
        if plane.ndim != 3 or plane.shape[0] != frames:
            raise PixelError(f"{name} of shape {tuple(plane.shape)} cannot be used; send ({frames}, height, width)")
        return self._sized(plane.to(self._device, torch.float32)[:, None], "nearest-exact")

    def _motion(
        self, planes: Mapping[str, Tensor], old: Tensor | None, grey: Tensor | None, gaps: Sequence[int], params: Params
    ) -> Tensor | None:
        """(F, H, W, 2), pixels of this size; not finite where unknown."""
        if params.temporal != "engine":
            if old is None or grey is None or old.shape[1:] != grey.shape[1:] or old.dtype != grey.dtype:
                return None
            then = _shifted(old, grey)
            if params.temporal == "bank":
                small = self._matching.back(grey, then)
            else:
                small = torch.stack([self._flow.back(*pair) for pair in zip(grey, then, strict=True)]).to(self._device)
        else:
            if "motion" not in planes:
                return None
            small = planes["motion"]
            if small.ndim != 4 or small.shape[-1] != 2 or small.shape[0] != len(gaps):
                raise PixelError(
                    f"motion of shape {tuple(small.shape)} cannot be used; send ({len(gaps)}, height, width, 2)"
                )
            small = small.to(self._device, torch.float32)
            if max(gaps) > 1:
                small = small * torch.tensor([float(max(g, 1)) for g in gaps]).to(self._device).view(-1, 1, 1, 1)
        (height, width), (rows, columns) = self._size, small.shape[1:3]
        if (rows, columns) == (height, width):
            return small.round() if params.temporal == "bank" else small
        small = small * torch.tensor([width / columns, height / rows]).to(self._device)
        if params.temporal == "bank":
            small = small.round()
        mode = "bilinear" if params.temporal == "flow" else "nearest-exact"
        planes_F2hw = small.permute(0, 3, 1, 2).contiguous()
        return nnf.interpolate(planes_F2hw, self._size, mode=mode).permute(0, 2, 3, 1)

    def _grey(self, frame_FHWC: Tensor, source_F3HW: Tensor, params: Params) -> Tensor | None:
        """Small grey pictures (F, rows, columns) for what looks for motion or pieces in them."""
        if params.temporal == "flow":
            return self._flow.grey(frame_FHWC)
        if params.temporal == "bank":
            return small_grey(source_F3HW, small_size(*self._size))
        return None


def _shifted(before: Tensor, now_F: Tensor) -> Tensor:
    """(F, ...): of each of the newest frames the one before it; `before` (1, ...) is that of the first."""
    return before if len(now_F) == 1 else torch.cat((before, now_F[:-1]))


def small_size(height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of the pictures in which motion is looked for."""
    share = min(1.0, max(0.5, FLOW_PX / 2 / max(height, width)), FLOW_PX / max(height, width))
    return max(16, round(height * share)), max(16, round(width * share))


class _Flow:
    """Dense inverse search of OpenCV (Kroeger et al., ECCV 2016) between small grey pictures."""

    def __init__(self) -> None:
        self._search = None

    @staticmethod
    def grey(frame_FHWC: Tensor) -> Tensor:
        """uint8 (F, rows, columns), small, of pictures (F, H, W, 3 or 4)."""
        cv2 = opencv()
        rows, columns = small_size(*frame_FHWC.shape[1:3])
        small = [
            cv2.resize(
                cv2.cvtColor(f[..., :3].cpu().contiguous().numpy(), cv2.COLOR_RGB2GRAY),
                (columns, rows),
                interpolation=cv2.INTER_AREA,
            )
            for f in frame_FHWC
        ]
        return torch.stack([torch.from_numpy(s) for s in small])

    def back(self, now: Tensor, then: Tensor) -> Tensor:
        """(rows, columns, 2), pixels; not a number where the way there and back does not end where it began."""
        cv2 = opencv()
        if self._search is None:
            self._search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        back, forth = (
            torch.from_numpy(self._search.calc(a.numpy(), b.numpy(), None))  # type: ignore[attr-defined]
            for a, b in ((now, then), (then, now))
        )
        scale = torch.tensor([2.0 / now.shape[1], 2.0 / now.shape[0]])
        grid = identity_grid(now.shape[0], now.shape[1], torch.device("cpu")) + back[None] * scale
        round_trip = back + moved(forth.permute(2, 0, 1)[None], grid)[0].permute(1, 2, 0)
        # As in Sundaram et al., ECCV 2010, equation 5, with its constants.
        lost = round_trip.square().sum(-1) > 0.01 * (back.square().sum(-1) + forth.square().sum(-1)) + 0.5
        return back.masked_fill(lost[..., None], float("nan"))


def estimated_motion(frame_NHWC: Tensor) -> Tensor:
    """(N - 1, H, W, 2), pixels from each frame but the first back to the one before, by the optical flow that `temporal
    flow` uses, at full size; not a number where it is not consistent. frame: uint8 (N, H, W, 3)."""
    cv2 = opencv()
    grey = [torch.from_numpy(cv2.cvtColor(f.contiguous().numpy(), cv2.COLOR_RGB2GRAY)) for f in frame_NHWC]
    flow = _Flow()
    return torch.stack([flow.back(now, then) for then, now in itertools.pairwise(grey)])


def _likeness(difference_F3HW: Tensor, tolerance: float) -> Tensor:
    """(F, 1, H, W): 1 up to half the tolerance in levels (0..255), 0 from one and a half on, by each pixel and by the
    mean of 3 x 3, of the largest channel."""
    levels = torch.maximum(around(difference_F3HW, 1, torch.add).abs_().mul_(1.0 / 9.0), difference_F3HW.abs())
    return levels.amax(1, keepdim=True).mul_(-1.0 / tolerance).add_(1.5).clamp_(0.0, 1.0)


def _variance(x_FcHW: Tensor) -> Tensor:
    """(F,): of each picture, mean over its channels. From the mean square, which takes a tenth of the time of
    `torch.var` on a processor; for levels of 0..255 float32 holds it."""
    planes = x_FcHW.flatten(2)
    return (_mean_square(planes) - planes.mean(-1).square()).mean(1)


def _mean_square(x: Tensor) -> Tensor:
    """Over the last axis; by a norm, which writes nothing down on the way."""
    return torch.linalg.vector_norm(x, dim=-1).square_() / x.shape[-1]


def _same_depth(depth_F1HW: Tensor, before_F1HW: Tensor, grid_FHW2: Tensor) -> Tensor:
    """(F, 1, H, W) bool: whether the surface was about as far away."""
    there = moved(before_F1HW, grid_FHW2, "nearest")
    return (depth_F1HW - there).abs_() <= DEPTH_TOLERANCE * there


def _same_mask(mask_F1HW: Tensor, before_F1HW: Tensor, grid_FHW2: Tensor) -> Tensor:
    """(F, 1, H, W) bool: whether a value is that of the place that it came from. Masks: numbers of objects, which are
    the same or not, or mattes, of whose soft edges half a pixel makes about a quarter of the difference across."""
    lowest, highest = (around(before_F1HW, 1, choose) for choose in (torch.minimum, torch.maximum))
    there, across = moved(torch.cat((before_F1HW, highest - lowest), 1), grid_FHW2, "nearest").split(1, 1)
    return (mask_F1HW - there).abs_() <= 0.3 * across


def _bounded(before_FcHW: Tensor, now_FcHW: Tensor) -> Tensor:
    """What was there before, within twice the range of what is there now, over 5 x 5 pixels: a glow that lay on the
    ground goes with the object that it was painted around, although the ground itself stayed (as in temporal
    antialiasing: Karis, "High Quality Temporal Supersampling", SIGGRAPH 2014)."""
    low, high = (around(now_FcHW, 2, choose) for choose in (torch.minimum, torch.maximum))
    # Within the range itself lines would lose their peaks, which differ from frame to frame.
    more = (high - low).mul_(0.5)
    return before_FcHW.clamp(low.sub_(more), high.add_(more))


class _Carried:
    """What was made of the newest frame, and which one that was."""

    def __init__(self) -> None:
        self._serial = -1
        self._value: Tensor | None = None
        self._look: tuple[object, ...] = ()

    def blended(
        self,
        fresh_Fc: Tensor,
        guide: Guide,
        warp: Warp | None,
        share: float,
        sharpen: float,
        mode: str,
        bounded: bool = False,
    ) -> Tensor:
        """(F, c, ., .): `fresh` with `share` of what is known from before. Another prompt or seed begins anew: it would
        only show through slowly. bounded: see `_bounded`."""
        params = guide.params
        look = (params.prompt, params.negative_prompt, params.seed)
        if look != self._look:
            self._look, self._value = look, None
        out = []
        for place in range(fresh_Fc.shape[0]):
            now, serial = fresh_Fc[place : place + 1], guide.serial + place
            old = self._value
            if old is None or share == 0.0 or old.shape != now.shape:
                pass
            elif serial == self._serial:
                # The same frame once more, to bring others out or under other parameters.
                now = now + share * (old - now)
            elif serial == self._serial + 1 and warp is not None:
                grid = warp.grid[place : place + 1]
                there = moved(old, grid, mode)
                if sharpen and warp.between is not None:
                    detail = there - around(there, 1, torch.add) / 9.0
                    there = torch.addcmul(there, warp.between[place : place + 1], detail, value=sharpen)
                if bounded:
                    there = _bounded(there, now)
                now = torch.lerp(now, there, share * warp.weight[place : place + 1])
            self._serial, self._value = serial, now
            out.append(now)
        return torch.cat(out) if len(out) > 1 else out[0]


def _latent_share(params: Params) -> float:
    how = Carrying.of(params)
    return 0.0 if how is None else how.latent


class Estimates:
    """Steadies what the stages leave."""

    def __init__(self) -> None:
        self._stages: dict[int, _Carried] = {}

    def steadied(self, estimate_SFchw: Tensor, first: int, guides: Sequence[Guide | None]) -> Tensor:
        """The estimates of the stages from `first` on, whose frames have these guides."""
        shares = [0.0 if guide is None else _latent_share(guide.params) for guide in guides]
        if not any(shares):
            self._stages.clear()
            return estimate_SFchw
        out = list(estimate_SFchw)
        for i, (guide, share) in enumerate(zip(guides, shares, strict=True)):
            if guide is None or share == 0.0:
                self._stages.pop(first + i, None)
                continue
            carried = self._stages.setdefault(first + i, _Carried())
            out[i] = carried.blended(out[i], guide, guide.latent, share, 0.0, "bilinear")
        return torch.stack(out)


class Pictures:
    """Steadies finished pictures."""

    def __init__(self) -> None:
        self._carried = _Carried()

    def steadied(self, x_F3HW: Tensor, guide: Guide | None) -> Tensor:
        """Levels 0..255 (F, 3, H, W), not rounded, of frames with this guide."""
        if guide is None:
            self._carried = _Carried()
            return x_F3HW
        how = Carrying.of(guide.params)
        if how is None:
            return x_F3HW
        return self._carried.blended(x_F3HW, guide, guide.picture, how.picture, how.sharpen, how.mode, bounded=True)

"""A model that changes nothing: the picture comes back as it went in.

Of equal rank with the real ones: it shows whether the cabling works before a model is chosen, and what a frame costs
outside the model. It takes the same parameters and has the same timing in frames (a frame leaves after as many turns
as there are steps).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.codec import opaque
from core.guidance import GuidanceScales, active_guidance
from core.input import Input
from core.params import Params
from core.similarity import SimilarityFilter
from core.stream import Latents, Painted, Plan, StreamConfig, admit


class PassthroughModel:
    """Stands where a `core.model.Model` stands."""

    native_size = 512
    size_multiple = 1

    def fit(self, width: int, height: int, area: int | None = None) -> tuple[int, int]:
        """The size to work at: the picture's own, unless an area in pixels is asked for."""
        if area is None:
            return width, height
        scale = (area / (width * height)) ** 0.5
        return max(1, round(width * scale)), max(1, round(height * scale))

    def near(self, width: int, height: int) -> tuple[int, int]:
        """See `core.model.Model.near`."""
        return width, height

    def stream(self, config: StreamConfig) -> PassthroughStream:
        """A new stream."""
        return PassthroughStream(config)


class PassthroughStream:
    """Stands where a `core.stream.Stream` stands; its "latents" are the pictures themselves."""

    planes: tuple[str, ...] = ()

    def reads(self, plan: Plan) -> tuple[str, ...]:
        """See `Stream.reads`."""
        return ()

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.filter = SimilarityFilter()
        self._waiting: list[Latents[Any]] = []

    def plan(self, params: Params) -> Plan:
        """See `Stream.plan`."""
        guidance = active_guidance(params.guidance, params.guidance_scale)
        return Plan(params, len(params.stages()), (), guidance, GuidanceScales(params.guidance_scale, params.delta))

    def warm_up(self, plan: Plan) -> None:
        """See `Stream.warm_up`: there is nothing to warm."""

    def admit(self, given: Input, plan: Plan) -> bool:
        """See `Stream.admit`."""
        return admit(self.filter, given, plan)

    def encode(
        self,
        frame_FHWC: Tensor,
        planes: Mapping[str, Tensor] = MappingProxyType({}),
        plan: Plan | None = None,
        numbers: Sequence[int] = (),
    ) -> Tensor:
        """A copy of the picture at the stream's size, uint8 (F, H, W, 3 or 4)."""
        size = (self.config.height, self.config.width)
        if tuple(frame_FHWC.shape[1:3]) == size:
            return frame_FHWC.clone()
        moved = nnf.interpolate(frame_FHWC.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True)
        return moved.round().to(torch.uint8).permute(0, 2, 3, 1)

    def advance(self, latent_Fchw: Tensor, tag: Any, plan: Plan) -> Latents[Any] | None:
        """See `Stream.advance`."""
        self._waiting.append(Latents(latent_Fchw, tag))
        ready = None
        while len(self._waiting) > plan.depth:
            ready = self._waiting.pop(0)
        return ready

    def decode(self, finished: Latents[Any]) -> Painted[Any]:
        """See `Stream.decode`."""
        frame_FHWC = finished.latent_Fchw
        if frame_FHWC.shape[-1] == 3:
            return Painted(nnf.pad(frame_FHWC, (0, 1), value=255), finished.tag)
        return Painted(opaque(frame_FHWC.contiguous().view(torch.int32).squeeze(-1)), finished.tag)

    def step(self, frame_FHWC: Tensor, tag: Any, plan: Plan) -> Painted[Any] | None:
        """See `Stream.step`."""
        finished = self.advance(self.encode(frame_FHWC), tag, plan)
        return None if finished is None else self.decode(finished)

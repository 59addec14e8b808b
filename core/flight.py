"""The frames in flight: what travels with each of them from stage to stage.

Stream Batch (StreamDiffusion, arXiv 2312.12491, section 3.1): slot i holds what stage i reads, slot 0 the frame that
just came in. After a turn everything moves on by one slot.

Shapes: S stages, F frames per turn, c h w latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from core.tree import mapped

Tag = TypeVar("Tag")


class Carried(NamedTuple):
    """All that a stage reads of its frames and leaves for the next stage; every tensor is (S, F, ...).

    estimate: of the clean latent; what came in at the first stage. anchor: the latent that the virtual residual noise
    points from (`core.guidance`). noise: what the next stage adds to the estimate; None where every stage has noise of
    its own (`core.sampler`). marks: (S, F, 2), 1 where there is a frame, and 1 where it is the first after a cut.
    planes: what the denoiser reads of the client's planes (`core.denoiser`). guide: `core.motion.Guide` of frames that
    come in, or (); beyond that it goes with the tag. behind: `core.masked.Behind`, or (), likewise. draw: (S, F,
    stages), which draw of noise the frame takes at every stage (`core.matched`). history: what the sampler knows of the
    stages before, its own tree (`core.sampler`).
    """

    estimate: Tensor
    anchor: Tensor
    noise: Tensor | None = None
    marks: Tensor | None = None
    planes: Mapping[str, Tensor] = {}
    guide: Any = ()
    draw: Tensor | None = None
    history: Any = ()
    behind: Any = ()


class Flight(Generic[Tag]):
    """Slots for so many stages, and the tag of the frames in each.

    example: what one stage carries, (1, F, ...) each.
    """

    def __init__(self, capacity: int, example: Carried) -> None:
        self._slots = mapped(lambda leaf: torch.zeros_like(leaf).repeat(capacity, *(1,) * (leaf.dim() - 1)), example)
        self._scratch = mapped(torch.zeros_like, self._slots)
        # In a tuple, so that whatever the caller takes for a tag differs from a slot without a frame.
        self._tags: list[tuple[Tag] | None] = [None] * capacity
        self._stages = 1

    def enter(self, stages: int, tag: Tag, frames: Carried) -> Carried:
        """New frames take slot 0, and those in flight their place among so many stages. Returns what these read."""
        self._retime(stages)
        self._tags[0] = (tag,)
        mapped(lambda slots, new: slots[:1].copy_(new), self._slots, frames)
        return mapped(lambda slots: slots[:stages], self._slots)

    def move_on(self, after: Carried) -> tuple[Tag] | None:
        """Slot i + 1 takes what stage i left; its tensors may be those that `enter` gave. Returns the tag of the frames
        that have passed all stages, or None where no frames were."""
        n = self._stages
        leaving, self._tags[:n] = self._tags[n - 1], [None, *self._tags[: n - 1]]

        def moved(slots: Tensor, scratch: Tensor, values: Tensor) -> Tensor:
            # By way of the scratch, as the values may lie in the slots themselves.
            return slots[1:n].copy_(scratch[: n - 1].copy_(values[:-1]))

        if n > 1:
            mapped(moved, self._slots, self._scratch, after)
        return leaving

    @property
    def tags(self) -> list[tuple[Tag] | None]:
        """The tags of the frames that the stages work on, in a tuple each; None for a slot without frames."""
        return self._tags[: self._stages]

    def clear(self) -> None:
        """Give up the frames in flight."""
        self._tags = [None] * len(self._tags)

    def _retime(self, stages: int) -> None:
        """Give the frames in flight their place among a changed number of stages: the oldest still leaves next.

        With fewer stages the younger ones give way to frames newer still; with more, the gap fills from behind.
        """
        by = stages - self._stages
        if by == 0:
            return
        old = range(1, self._stages)
        for i in reversed(old) if by > 0 else old:
            tag, self._tags[i] = self._tags[i], None
            if i + by >= 1:
                self._tags[i + by] = tag
                mapped(lambda slots, i=i: slots[i + by].copy_(slots[i]), self._slots)
        if self._slots.marks is not None:
            for i, held in enumerate(self._tags):
                if held is None:
                    self._slots.marks[i].zero_()
        self._stages = stages

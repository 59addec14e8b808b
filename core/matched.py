"""Matched noise at run time: a take begins with the noise that suits its first picture best, and keeps it until a cut.

Networks trained with paired noise (`core.pairing`) know pictures with noise that lies near them; a stream's noise is
drawn blindly. Here each stage takes the best of k draws by the rule of `nearest_centred`. What is common to all
pictures is not known, so each channel's own mean stands for it: noise is never chosen for its brightness.

Shapes: k draws, S stages, F frames per turn, c h w latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.pairing import best_draw


@dataclass(frozen=True)
class Draws:
    """The draws of neighbouring stages, (k, S, F, c, h, w). stage_S, slot_S1, frame_1F: number of each stage in the
    whole run; indices."""

    noise_kSFchw: Tensor
    stage_S: Tensor
    slot_S1: Tensor
    frame_1F: Tensor

    @classmethod
    def of(cls, stages: range, noise_kSFchw: Tensor) -> Draws:
        """Of some of the stages that there is noise for."""
        device = noise_kSFchw.device
        cut = noise_kSFchw[:, stages.start : stages.stop]
        slot_S1 = torch.arange(len(stages), device=device)[:, None]
        frame_1F = torch.arange(cut.shape[2], device=device)[None]
        return cls(cut, torch.arange(stages.start, stages.stop, device=device), slot_S1, frame_1F)

    def chosen(self, draw_SFs: Tensor) -> Tensor:
        """(S, F, c, h, w): what each frame takes. draw: which draw each frame takes at every stage of the run; one that
        is not there any more stands for the last."""
        pick_SF = draw_SFs[self.slot_S1[:, 0], :, self.stage_S].clamp(max=len(self.noise_kSFchw) - 1)
        return self.noise_kSFchw[pick_SF, self.slot_S1, self.frame_1F]


class Matcher:
    """What the present take has chosen. The device is never waited for."""

    def __init__(self) -> None:
        self._held_s: Tensor | None = None
        self._noise: Tensor | None = None

    def forget(self) -> None:
        """The next frame begins a take."""
        self._held_s = None

    def draw(self, latent_Fchw: Tensor, cut_F: Tensor, noise_kSFchw: Tensor) -> Tensor:
        """(F, S): which draw each frame takes at every stage. cut: True for a frame that begins a take. With other
        noise than before a take begins, too."""
        if noise_kSFchw is not self._noise:
            self._noise, self._held_s = noise_kSFchw, None
        centred = (latent_Fchw - latent_Fchw.mean((2, 3), keepdim=True)).flatten(1)
        best_FS = best_draw(noise_kSFchw.flatten(3), centred).T
        taken = []
        for best_s, cut in zip(best_FS, cut_F, strict=True):
            held = best_s if self._held_s is None else torch.where(cut, best_s, self._held_s)
            taken.append(held)
            self._held_s = held
        return torch.stack(taken)

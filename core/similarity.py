"""The similarity filter: lets the device rest while the picture stands still, and never leaves a change half shown.

Source: StreamDiffusion (arXiv 2312.12491) section 3.4, stochastic similarity filter. Unlike the published code the
decision knows how many stages are in flight: every frame that is run is followed by enough runs to bring it out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor


def skip_probability(similarity: float, threshold: float) -> float:
    """max(0, 1 - (1 - similarity) / (1 - threshold)); 0 for a threshold of 1 (equation 8 of the paper)."""
    if threshold >= 1.0:
        return 0.0
    return max(0.0, 1.0 - (1.0 - similarity) / (1.0 - threshold))


CHUNK = 1 << 16
"""Values compared at a time: as float32 they stay in the processor's cache, where a whole picture's would not."""


def _colours(picture: Tensor) -> Iterator[Tensor]:
    """The picture's values as float32, `CHUNK` by `CHUNK`, with 0 for alpha."""
    for part in picture.reshape(-1).split(CHUNK):
        values = part.to(torch.float32)
        if picture.shape[-1] == 4:
            values[3::4] = 0.0
        yield values


def similarity_of(first: Tensor, second: Tensor) -> float:
    """Likeness of two uint8 pictures of one shape (..., 3 or 4), 0..1: the cosine of the angle between them, over all
    pixels, times the ratio of their lengths. Alpha is ignored.

    The cosine alone (paper, equation 7) calls a picture and the same one at half its brightness equal, and with them
    any two flat colours of one hue: a scene that fades would stand still on the screen.
    """
    a_a = a_b = b_b = 0.0
    for a, b in zip(_colours(first), _colours(second), strict=True):
        a_a += float(torch.dot(a, a))
        a_b += float(torch.dot(a, b))
        b_b += float(torch.dot(b, b))
    longest = max(a_a, b_b)
    return 1.0 if longest == 0.0 else min(1.0, a_b / longest)


class SimilarityFilter:
    """Decides frame by frame whether the stream runs. Pictures stay on the CPU, so the device is never waited for."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._last: Tensor | None = None
        self._key: object = None
        self._flush = 0
        self._run_length = 0
        self.skipped = 0
        """Frames skipped since the start."""
        self.admitted = 0
        """Frames admitted since the start."""

    def changed(self) -> None:
        """Something other than the picture changed (a parameter, the source): the next frame runs."""
        self._last = None

    def admit(self, frame: Tensor, *, depth: int, threshold: float, max_skip: int, key: object = None) -> bool:
        """True when `frame` (uint8, CPU, any fixed shape (..., 3 or 4)) has to be run.

        depth: turns that a frame stays in flight after its own (stages - 1 in throughput mode, 0 in latency mode).
        max_skip: longest run of skipped frames; the frame after it runs. key: whatever else the picture depends on; a
        frame with another key than the one before it runs.
        """
        if key != self._key:
            self._key = key
            self.changed()
        if self._last is None or self._last.shape != frame.shape:
            return self._run(frame, depth)
        similarity = similarity_of(frame, self._last)
        similar = self._random.random() < skip_probability(similarity, threshold)
        if not similar:
            return self._run(frame, depth)
        if self._flush > 0:
            return self._run(frame, self._flush - 1)
        if self._run_length >= max_skip:
            return self._run(frame, depth)
        self._run_length += 1
        self.skipped += 1
        return False

    def _run(self, frame: Tensor, flush: int) -> bool:
        self._last = frame.clone()
        self._flush = flush
        self._run_length = 0
        self.admitted += 1
        return True

"""What `bench temporal` says of time: frames as the host runs them here, and a long run beside one that just began."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tests.bench.report import percentile
from tests.bench.temporal_clips import SIZE_PX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from core.model import Model
    from core.params import Params
    from tests.bench.temporal_clips import Clip

ROUNDS = 3
LONG_S = 60.0
"""A block of frames is never cut short in a benchmark."""


class Playing:
    """A stream that is fed by a clip: what `bridge.host.tuning` runs, with planes and numbers beside the pictures."""

    def __init__(self, model: Model, params: Params, clip: Clip) -> None:
        from core.motion import planes_of
        from core.stream import StreamConfig

        self.stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        self.plan = self.stream.plan(params.with_values(prompt=clip.prompt))
        self._clip = clip
        self._of_use = planes_of(self.plan.params)
        self._count = 0
        self.advance, self.decode = self.stream.advance, self.stream.decode

    def encode(self, at: int) -> Any:
        """What enters of the clip's frame."""
        self._count += 1
        planes = {name: plane for name, plane in self._clip.planes(at).items() if name in self._of_use}
        return self.stream.encode(self._clip.colour[at][None], planes, self.plan, (self._count,))

    def step(self, at: int) -> None:
        """The whole frame path with the clip's frame."""
        finished = self.advance(self.encode(at), at, self.plan)
        if finished is not None:
            self.decode(finished)


def host_way(model: Model, base: Params) -> tuple[Model, bool]:
    """The model and whether its stages overlap, as the host would run it here in this dtype: back end and threads as
    `bridge.host.tuning` measures them."""
    from bridge.host import tuning
    from core.backend import executions

    ways = executions(model.device, model.execution.backend, model.execution.dtype)
    if model.device.type != "cpu":
        return model, True
    tuned = tuning.tune(model, ways, (SIZE_PX, SIZE_PX), base, tuning.Cache(None))
    return tuned.model, tuned.overlap


def frame_ms(
    model: Model, overlap: bool, params: Mapping[str, Params], clips: Sequence[Clip]
) -> dict[str, list[float]]:
    """Milliseconds per frame by mode, block by block; modes take turns on each clip, so that what else happens on the
    machine meets all of them."""
    from bridge.host import tuning

    run = tuning.overlapped if overlap else tuning.serial
    took: dict[str, list[float]] = defaultdict(list)
    for clip in clips:
        playing = {mode: Playing(model, values, clip) for mode, values in params.items()}
        numbers = range(len(clip.colour))
        for round_ in range(ROUNDS + 1):
            for mode, stream in playing.items():
                fps = run(stream, stream.plan, numbers, LONG_S).fps
                if round_:  # the first warms up
                    took[mode].append(1e3 / fps)
    return took


def long_run(model: Model, params: Params, clip: Clip, frames: int) -> dict[str, float]:
    """Memory and time per turn of one run of so many frames, early and late. Late turns stand beside the early ones of
    a stream that begins when they are two fifths away: both take turns with the same frames, so that a machine that is
    slower later is slower for both. ratio: median of late over early, in processor time. growth_objects: that Python
    knows of, the second stream's own among them."""
    import resource

    fifth = frames // 5
    old, young = Playing(model, params, clip), None
    took: list[float] = []
    beside: list[float] = []
    peaks, objects = [], []

    def timed(stream: Playing, at: int, into: list[float]) -> None:
        started = time.process_time()
        stream.step(at)
        into.append((time.process_time() - started) * 1e3)

    for number in range(frames):
        at = number % len(clip.colour)
        if number == frames - 2 * fifth:
            young = Playing(model, params, clip)
        if number in (fifth, frames - 1):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            gc.collect()
            objects.append(len(gc.get_objects()))
        if young is not None and number % 2:
            timed(young, at, beside)
        timed(old, at, took)
        if young is not None and not number % 2:
            timed(young, at, beside)
    late, early = took[-fifth:], beside[-fifth:]
    return {
        "frames": frames,
        "growth_mb": peaks[1] - peaks[0],
        "growth_objects": objects[1] - objects[0],
        "first_ms": percentile(took[fifth : 2 * fifth], 50),
        "late_ms": percentile(late, 50),
        "early_beside_ms": percentile(early, 50),
        "ratio": percentile([a / b for a, b in zip(late, early, strict=True)], 50),
    }

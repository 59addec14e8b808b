"""What frames are run with, and its change: parameters, sizes and models become a finished plan off the frame path.

A model may come with a plain form of itself, for networks that take tens of seconds to be built for what is wanted now:
frames are run by the plain one meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from bridge.control.live import LiveParams
from bridge.host.config import HostConfig, HostError
from core.faults import GONE, is_permanent
from core.params import AS_STARTED, MAX_CONTROLS, Params, size_of
from core.references import PictureError

SETTLE_S = 0.3
"""A source whose pictures change their size is followed once they have kept the new one for so long. Until then they
are brought to the old size: whoever drags the edge of a window sees the picture move on."""
RECOVERABLE = (RuntimeError, ValueError, MemoryError, OSError)
"""What one frame or one change of parameters may meet (no memory, a device error) and the next may not."""


@dataclass(frozen=True)
class Work:
    """What a frame is run with: replaced as a whole, between two frames. plain: by the plain form of the model."""

    stream: Any
    plan: Any
    revision: int
    plain: bool = False


class Planner:
    """Keeps `work` up to date with the parameters, the size of the source and the model.

    model, plain: of `bridge.host.loading.Loaded`. complain(kind, message): for the user. `run`, and `build` where there
    may be a plain form, are to have a thread each; `use_model` and `use_size` may be called by any other one; the rest
    is called by the thread that takes frames.
    """

    def __init__(
        self,
        config: HostConfig,
        live: LiveParams,
        model: Any,
        complain: Callable[[str, str], None],
        plain: Any = None,
    ) -> None:
        self.work: Work | None = None
        self._config = config
        self._live = live
        self._model = model
        self._plain = plain
        self._complain = complain
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._to_build = threading.Event()
        self._built: set[tuple[Any, ...]] = set()
        """What the model has been built for, where it has a plain form."""
        self._planning = threading.Lock()
        self.size = live.current.size
        """`Params.size`, as far as it has been followed."""
        self._source_size: tuple[int, int] | None = None
        self._settled_at_s: float | None = None
        self._resizing = False
        self._asking = False
        if self._asked is not None:
            self._use_size()

    @property
    def _asked(self) -> tuple[int, int] | None:
        """(width, height) in pixels that frames are to be run at; None: one that follows the source."""
        return size_of(self.size) or self._config.size

    @property
    def building(self) -> bool:
        """Whether frames are run by the plain form of the model until the model itself has been built."""
        return self.work is not None and self.work.plain

    def stop(self) -> None:
        """Let `run` and `build` end."""
        self._stop.set()
        self._changed.set()
        self._to_build.set()

    def follow_source(self, width: int, height: int) -> Work:
        """What to run a frame of this size with now; a stream for its own size may follow later."""
        size = (width, height)
        if size != self._source_size:
            self._source_size = size
            if self._asked is None and (self.work is None or self._config.lossless):
                self._use_size()
            elif self._asked is None:
                self._settled_at_s = time.monotonic() + SETTLE_S
                self._changed.set()
        assert self.work is not None
        return self.work

    def outdated(self, work: Work) -> bool:
        """Whether a stream of another size is on its way, or there since."""
        # In this order: `run` sets the second before it clears the first, and swaps before it clears the second.
        return self._settled_at_s is not None or self._resizing or self._asking or self.work is not work

    def use_model(self, model: Any, plain: Any = None, *, before: Callable[[], None] = lambda: None) -> None:
        """Run frames by another model from now on; returns when it does. before: called just before that. Raises what
        building it meets; the old one goes on then."""
        first = model if plain is None else plain
        # Most of the work is done here, where it keeps nobody from planning.
        stream = (
            None
            if self.work is None
            else self._warm(first, wanted(self._live, self._config)[0], self._size(model, self._asked))
        )
        with self._planning:
            before()
            if self.work is not None:
                params, revision = wanted(self._live, self._config)
                size = self._size(model, self._asked)
                if stream is None or (stream.config.width, stream.config.height) != size:
                    stream = self._warm(first, params, size)
                self.work = Work(stream, self._planned(stream, params), revision, plain is not None)
            self._model, self._plain = model, plain
            self._built.clear()
        self._to_build.set()

    def use_size(self, size: tuple[int, ...]) -> None:
        """Run frames at this `Params.size` from now on; otherwise as `use_model`."""
        self._asking = True
        try:
            built = None
            if self.work is not None:
                params, _ = wanted(self._live, self._config)
                pixels = self._size(self._model, size_of(size) or self._config.size)
                model, _ = self._form(pixels, params)
                built = model, self._warm(model, params, pixels)
            with self._planning:
                before, self.size = self.size, size
                try:
                    self._use_size_in_lock(built)
                except BaseException:
                    self.size = before
                    raise
        finally:
            self._asking = False

    def run(self) -> None:
        """Until `stop`."""
        from bridge.host.cpu_threads import one_thread

        one_thread()
        unsubscribe = self._live.subscribe(lambda params, revision: self._changed.set())
        # What changed before that, nobody told.
        self._changed.set()
        try:
            while not self._stop.is_set():
                settled_at_s = self._settled_at_s
                self._changed.wait(None if settled_at_s is None else max(0.0, settled_at_s - time.monotonic()))
                self._changed.clear()
                self._catch_up(settled_at_s)
        finally:
            unsubscribe()

    def build(self) -> None:
        """Build the model for what its plain form runs, again and again until `stop`."""
        while not self._stop.is_set():
            self._to_build.wait()
            self._to_build.clear()
            while self.building and not self._stop.is_set():
                # On a thread that ends with it, as its CPU threads do then; see `bridge.host.cpu_threads.one_thread`.
                with ThreadPoolExecutor(1) as alone:
                    alone.submit(self._build_once).result()

    def _build_once(self) -> None:
        work, model = self.work, self._model
        assert work is not None
        try:
            self._build(work, model)
        except RECOVERABLE as error:
            if is_permanent(error):
                raise HostError(GONE.format(error=" ".join(str(error).split())[:200])) from error
            self._complain("build", f"the model's fast form could not be built, the plain one stays: {error}")
            self._give_up(model)

    def _build(self, work: Work, model: Any) -> None:
        key = _structure(work.stream.config, work.plan.params)
        stream = self._warm(model, work.plan.params, (work.stream.config.width, work.stream.config.height))
        with self._planning:
            if self._model is model:
                self._built.add(key)
                self._plan_in_lock(stream)

    def _give_up(self, model: Any) -> None:
        with self._planning:
            if self._model is model:
                self._model, self._plain = self._plain, None
                if self.work is not None:
                    self.work = replace(self.work, plain=False)

    def _catch_up(self, settled_at_s: float | None) -> None:
        try:
            if settled_at_s is not None and self._settled_at_s == settled_at_s and settled_at_s <= time.monotonic():
                self._resizing = True
                self._settled_at_s = None
                self._use_size()
            with self._planning:
                self._plan_in_lock()
        except RECOVERABLE as error:
            if is_permanent(error):
                raise HostError(GONE.format(error=" ".join(str(error).split())[:200])) from error
            self._complain("plan", f"the changed parameters or size could not be used, the old ones stay: {error}")
        finally:
            self._resizing = False

    def _size(self, model: Any, asked: tuple[int, int] | None) -> tuple[int, int]:
        """(width, height) in pixels for the model to work at."""
        if asked is not None:
            return model.near(*asked)
        if self._source_size is not None:
            return model.fit(*self._source_size)
        assert self.work is not None
        return model.near(self.work.stream.config.width, self.work.stream.config.height)

    def _use_size(self) -> None:
        with self._planning:
            self._use_size_in_lock()

    def _use_size_in_lock(self, built: tuple[Any, Any] | None = None) -> None:
        """Swap in a stream for the size that is wanted now; frames in flight in the old one leave no trace. built: a
        form of the model and a stream of it, which is taken if it serves."""
        if self._asked is None and self._source_size is None:
            return  # the first frame will say
        work = self.work
        size = self._size(self._model, self._asked)
        if work is not None and (work.stream.config.width, work.stream.config.height) == size:
            return
        params, revision = wanted(self._live, self._config)
        model, plain = self._form(size, params)
        if built is not None and built[0] is model and (built[1].config.width, built[1].config.height) == size:
            stream = built[1]
        else:
            stream = self._warm(model, params, size)
        self.work = Work(stream, self._planned(stream, params), revision, plain)
        if plain:
            self._to_build.set()

    def _form(self, size: tuple[int, int], params: Params) -> tuple[Any, bool]:
        """The model, or its plain form as long as the model has not been built for this; whether it is the latter."""
        from core.stream import StreamConfig

        plain = self._plain is not None and _structure(StreamConfig(*size), params) not in self._built
        return (self._plain if plain else self._model), plain

    def _warm(self, model: Any, params: Params, size: tuple[int, int]) -> Any:
        """A new stream, after one turn on nothing, so that compilers, allocators and caches are warm before the first
        frame."""
        from core.stream import StreamConfig

        config = StreamConfig(*size)
        stream = model.stream(config)
        model.stream(config).warm_up(self._planned(stream, params))
        return stream

    def _planned(self, stream: Any, params: Params) -> Any:
        """A stream's plan. A reference picture that cannot be used is taken back, and the one before stays."""
        try:
            return stream.plan(params)
        except PictureError as error:
            before = AS_STARTED if self.work is None else self.work.plan.params.reference
            self._complain("reference", f"{error}; {before} stays")
            self._live.adjust(lambda now: {"reference": before} if now.reference == params.reference else {})
            return stream.plan(params.with_values(reference=before))

    def _plan_in_lock(self, built: Any = None) -> None:
        """Bring the plan up to date. built: a stream of the model itself, to go on with if it serves."""
        work = self.work
        params, revision = wanted(self._live, self._config)
        if work is None or (work.revision == revision and built is None):
            return
        size = (work.stream.config.width, work.stream.config.height)
        model, plain = self._form(size, params)
        stream = work.stream
        if not plain and work.plain:
            same = built is not None and (built.config.width, built.config.height) == size
            stream = built if same else self._warm(model, params, size)
        elif plain and not work.plain:
            stream = self._warm(model, params, size)
        self.work = Work(stream, self._planned(stream, params), revision, plain)
        if plain:
            self._to_build.set()


def _structure(config: Any, params: Params) -> tuple[Any, ...]:
    """What networks are built for: whatever else changes, changes values alone."""
    guidance = params.guidance if params.guidance_scale > 1.0 else "none"
    banks = (params.bank, params.bank_frames, params.bank_sink, params.bank_sizes)
    turns = (len(params.stages()), guidance, params.mode, params.temporal, params.batch_attention)
    steered = any(any(params.control_strengths(stage, MAX_CONTROLS)) for stage in range(len(params.stages())))
    return (config.width, config.height, *turns, *banks, steered)


def wanted(live: LiveParams, config: HostConfig) -> tuple[Params, int]:
    """The parameters to run with. Lossless means that nothing is skipped and nothing left in flight at the end."""
    params, revision = live.latest()
    return (params.with_values(mode="latency", similarity_filter=False) if config.lossless else params), revision

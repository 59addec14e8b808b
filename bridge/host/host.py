"""The host: takes the newest frame of NAME.in, runs the stream, publishes to NAME.out.

The path of a frame is `_ingest`, `_turn`, `_publish`. The serial loop calls the three one after the other; the
overlapped loop runs each on a thread of its own, so that frame n + 1 is encoded and frame n - 1 decoded and published
while frame n is in the U-Net. Everything slow that a parameter change needs happens on a fourth thread, which replaces
one reference that `_ingest` reads once per frame.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.host.handoff import Closed, Handoff
from bridge.ring import Frame, PlaneSpec, RingError, RingReader, RingWriter, TruncatedSegment
from bridge.ring.layout import ColourSpace, Format, Kind, Origin, Policy
from bridge.ring.scheduling import short_slices, urgent
from core.params import Params

log = logging.getLogger("frameloom.host")

WAIT_S = 0.1
"""Longest wait for a frame before the loop looks at stop requests and changed parameters again."""
FLUSH_S = 0.15
"""After so long without a new frame the frames in flight are brought out by repeating the last one."""
SETTLE_S = 0.3
"""A source whose pictures change their size is followed once they have kept the new one for so long. Until then they
are brought to the old size: whoever drags the edge of a window sees the picture move on."""
COMPLAIN_S = 2.0
"""At most one message of a kind in so many seconds."""
GIVE_UP_FAILURES = 30
"""So many failed turns in a row, with none in between that succeeded, end the host."""
RECOVERABLE = (RuntimeError, ValueError, MemoryError, OSError)
"""What one frame or one change of parameters may meet (no memory, a device error) and the next may not."""
PACE_LIMIT_S = 0.25
PACE_MARGIN = 1.5
"""A frame is taken this many encode times before the U-Net will be free: not sooner, so that it is fresh."""


class HostError(Exception):
    """The host cannot start or go on; the message names the mend."""


@dataclass(frozen=True)
class Work:
    """What a frame is run with: replaced as a whole, between two frames."""

    stream: Any
    plan: Any
    revision: int


@dataclass(frozen=True)
class FrameTag:
    """What the output has to say about the frame it was made from. `number`: how many were encoded up to it. `again`: a
    repeat that only flushes the batch."""

    source_frame_id: int
    capture_ns: int
    revision: int
    number: int
    again: bool = False


@dataclass(frozen=True)
class Encoded:
    """Between `_ingest` and `_turn`."""

    work: Work
    latents: Any
    tag: FrameTag


@dataclass(frozen=True)
class Finished:
    """Between `_turn` and `_publish`."""

    work: Work
    latents: Any


class Host:
    """Runs one channel.

    channel: frames come from CHANNEL.in and go to CHANNEL.out. model: "embedded", "passthrough" or a folder in the
    diffusers layout. size: (width, height) in pixels to work at; None follows the frames' aspect at the model's own
    area. device, dtype: see `core.device`. backend: see `core.backend`. live: the parameters to follow. statistics:
    where times are recorded. lossless: take every frame and publish every result, waiting for both sides. overlap:
    False is the serial twin. threads: CPU threads of one network call. What of backend, dtype, overlap and threads is
    None is measured on a CPU (`bridge.host.tuning`). cache: a folder for what one start leaves to the next, or None.
    directory: a folder for file-backed rings. on_failure: called with a message when the host ends by itself.
    """

    def __init__(
        self,
        channel: str,
        *,
        model: str | Path = "embedded",
        size: tuple[int, int] | None = None,
        device: str | None = None,
        dtype: str | None = None,
        backend: str | None = None,
        params: Params | None = None,
        live: LiveParams | None = None,
        statistics: Statistics | None = None,
        lossless: bool = False,
        overlap: bool | None = None,
        threads: int | None = None,
        cache: Path | None = None,
        directory: str | None = None,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self.channel = channel
        self.live = live if live is not None else LiveParams(params)
        self.statistics = statistics if statistics is not None else Statistics()
        self.ready = threading.Event()
        """Set when the model is loaded and frames are being taken."""
        self.failure: str | None = None
        """Why the host ended by itself, if it did."""
        self.device_name = ""
        self.dtype_name = ""
        self.backend_name = ""
        self._model_name = model
        self._size = size
        self._device = device
        self._dtype = dtype
        self._backend = backend
        self._lossless = lossless
        self._overlap = overlap
        self._threads_wanted = threads
        self._cache = cache
        self._directory = directory
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._replan = threading.Event()
        self._planning = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._encoded: Handoff[Encoded] = Handoff(1)
        self._finished: Handoff[Finished] = Handoff(2, newest_wins=not lossless)
        self._model: Any = None
        self._work: Work | None = None
        self._source_size: tuple[int, int] | None = None
        self._settled_at_s: float | None = None
        self._resizing = False
        self._in_old_size: tuple[Any, int, int] | None = None
        self._seen = (0, 0)
        self._number = 0
        self._accounted = 0
        self._unseen: tuple[Any, int, int] | None = None
        self._last: Encoded | None = None
        self._repeats = 0
        self._last_frame_s = 0.0
        self._encode_s = 0.0
        self._turn_s = 0.0
        self._failures = 0
        self._complained: dict[str, float] = {}
        # Opened here and not on a thread, so that a second host on the channel is refused at once.
        self._writer = self._open_writer()
        try:
            self._reader = RingReader(f"{channel}.in", lossless=lossless, directory=directory)
        except BaseException:
            self._writer.close()
            raise

    # -- life ----------------------------------------------------------------------------------------------------

    def _open_writer(self) -> RingWriter:
        policy = Policy.LOSSLESS if self._lossless else Policy.NEWEST
        return RingWriter(f"{self.channel}.out", policy=policy, directory=self._directory)

    def start(self) -> None:
        """Load the model and run, on background threads. Returns at once; see `ready` and `failure`."""
        short_slices()
        self._spawn("host", self._run)

    def run(self) -> None:
        """Like `start`, but returns only after `stop`, and raises `HostError` when the host ended by itself."""
        self.start()
        self.join()
        if self.failure is not None:
            raise HostError(self.failure)

    def stop(self) -> None:
        """Ask all threads to end. May be called from anywhere, any number of times."""
        self._stop.set()
        self._replan.set()
        self._encoded.close()
        self._finished.close()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for all threads; False when `timeout_s` was over first."""
        if not self._threads:  # never started: nobody else closes these
            self._reader.close()
            self._writer.close()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in list(self._threads):
            # In small steps, so that the main thread still sees Ctrl-C on every system.
            while thread.is_alive() and (deadline is None or time.monotonic() < deadline):
                thread.join(0.2)
        return not any(thread.is_alive() for thread in self._threads)

    def _spawn(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def outermost() -> None:
            try:
                work()
            except Closed:
                pass
            except HostError as error:
                self._fail(str(error))
            except Exception as error:
                log.exception("thread %s ended", name)
                self._fail(f"{name}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=outermost, name=f"frameloom-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _fail(self, message: str) -> None:
        if self.failure is None:
            self.failure = message
            if self._on_failure is not None:
                self._on_failure(message)
        self.stop()

    def _run(self) -> None:
        unsubscribe: Callable[[], None] | None = None
        workers: list[threading.Thread] = []
        try:
            self._model = self._load()
            if self._stop.is_set():
                return
            unsubscribe = self.live.subscribe(lambda params, revision: self._replan.set())
            if self._size is not None:
                self._use_size(*self._model.fit(*self._size, self._size[0] * self._size[1]))
            workers.append(self._spawn("planner", self._planner))
            self.ready.set()
            if self._overlap:
                workers.append(self._spawn("ingest", self._ingest_loop))
                workers.append(self._spawn("publish", self._publish_loop))
                self._turn_loop()
            else:
                self._serial_loop()
        finally:
            self.stop()
            if unsubscribe is not None:
                unsubscribe()
            for worker in workers:
                worker.join()
            self._reader.close()
            self._writer.close()

    def _load(self) -> Any:
        if self._model_name == "passthrough":
            from core.passthrough import PassthroughModel

            self.device_name, self.dtype_name, self.backend_name = "none", "uint8", "passthrough"
            self._overlap = self._overlap is not False
            return PassthroughModel()
        import torch

        from bridge.host import tuning
        from core.backend import BackendError, executions
        from core.device import DeviceError, dtype_called, dtype_name, pick_device
        from core.model import ModelError, load_model
        from core.tiny import WEIGHTS

        everything = tuning.everything()
        folder = WEIGHTS if self._model_name == "embedded" else Path(self._model_name)
        store = None if self._cache is None else self._cache / "networks"
        try:
            device = pick_device(self._device)
            ways = executions(
                device, self._backend, dtype_called(self._dtype), threads=self._threads_wanted, store=store
            )
            if device.type == "cpu":
                # What is measured may differ in dtype: cast from float32, whichever wins.
                model = load_model(folder, device, torch.float32, "eager")
                size = self._size or (model.native_size, model.native_size)
                tuned = tuning.tune(
                    model,
                    ways,
                    model.fit(*size, size[0] * size[1]),
                    self._wanted()[0],
                    tuning.Memory(None if self._cache is None else self._cache / "tuning.json"),
                    overlap=self._overlap,
                    threads=self._threads_wanted,
                )
                model, self._overlap = tuned.model, tuned.overlap
            else:
                model = load_model(folder, device, ways[0].dtype, ways[0].backend)
                self._overlap = self._overlap is not False
        except (DeviceError, ModelError, BackendError) as error:
            raise HostError(str(error)) from None
        torch.set_num_threads(model.execution.torch_threads(everything))
        self.device_name, self.dtype_name = str(device), dtype_name(model.execution.dtype)
        self.backend_name = model.execution.backend
        return model

    # -- set-up: sizes and parameters ------------------------------------------------------------------------------

    def _use_size(self, width: int, height: int) -> None:
        """Build the stream for a size and swap it in; frames in flight in the old one leave no trace."""
        from core.stream import StreamConfig

        work = self._work
        if work is not None and (work.stream.config.width, work.stream.config.height) == (width, height):
            return
        with self._planning:
            stream = self._model.stream(StreamConfig(width, height))
            params, revision = self._wanted()
            plan = stream.plan(params)
            # One turn on nothing, so that compilers, allocators and caches are warm before the first frame.
            self._model.stream(StreamConfig(width, height)).warm_up(plan)
            self._work = Work(stream, plan, revision)

    def _wanted(self) -> tuple[Params, int]:
        """The parameters to run with. Lossless means that nothing is skipped and nothing left in flight at the end."""
        params, revision = self.live.latest()
        return (params.with_values(mode="latency", similarity_filter=False) if self._lossless else params), revision

    def _follow_source(self, frame: Frame) -> None:
        size = (frame.width, frame.height)
        if self._size is not None or size == self._source_size:
            return
        self._source_size = size
        if self._work is None or self._lossless:
            self._use_size(*self._model.fit(*size))
        else:
            self._settled_at_s = time.monotonic() + SETTLE_S
            self._replan.set()

    def _planner(self) -> None:
        """Turns changed parameters and sizes into a finished plan, off the frame path."""
        while not self._stop.is_set():
            settled_at_s = self._settled_at_s
            self._replan.wait(None if settled_at_s is None else max(0.0, settled_at_s - time.monotonic()))
            self._replan.clear()
            try:
                if settled_at_s is not None and self._settled_at_s == settled_at_s and settled_at_s <= time.monotonic():
                    self._resizing = True
                    self._settled_at_s = None
                    assert self._source_size is not None
                    self._use_size(*self._model.fit(*self._source_size))
                self._plan_anew()
            except RECOVERABLE as error:
                self._complain("plan", f"the changed parameters or size could not be used, the old ones stay: {error}")
            finally:
                self._resizing = False

    def _plan_anew(self) -> None:
        with self._planning:
            work = self._work
            params, revision = self._wanted()
            if work is not None and work.revision != revision:
                self._work = Work(work.stream, work.stream.plan(params), revision)

    # -- the path of a frame ---------------------------------------------------------------------------------------

    def _ingest(self) -> Encoded | None:
        """The newest frame, encoded; None when there is none to run now."""
        wait_s = FLUSH_S if self._repeats_due() else WAIT_S
        try:
            with self._reader.latest(timeout_s=wait_s) as frame:
                if frame is None:
                    # Whoever looks at NAME.out sees that the host is alive and has nothing new.
                    self._writer.beat()
                    return self._repeat()
                started_ns = time.monotonic_ns()
                encoded = self._take(frame, started_ns)
        except RingError as error:
            self._complain("ring", f"{self.channel}.in: {error}")
            self._stop.wait(WAIT_S)
            return None
        except RECOVERABLE as error:
            self.statistics.count("dropped")
            self._lost("encoding", error)
            return None
        self._last_frame_s = time.monotonic()
        if encoded is None:
            return None
        if not frame.valid:
            return None
        self._last, self._repeats = encoded, 0
        return encoded

    def _take(self, frame: Frame, started_ns: int) -> Encoded | None:
        from core.pixels import PixelError, as_tensor, to_rgb8

        generation, sequence = self._seen
        if generation == frame.generation:
            self.statistics.count("dropped", max(0, frame.sequence - sequence - 1))
        self._seen = (frame.generation, frame.sequence)
        self.statistics.count("frames_in")
        plane = frame.planes.get(Kind.COLOUR)
        if plane is None:
            self._complain("plane", f"{self.channel}.in: a frame without a colour plane; write Kind.COLOUR")
            return None
        try:
            pixels = to_rgb8(
                plane,
                blue_first=frame.formats.get(Kind.COLOUR) == Format.BGRA8,
                from_bottom=frame.origin == Origin.BOTTOM_LEFT,
                linear=frame.colour_space == ColourSpace.LINEAR,
            )
        except PixelError as error:
            self._complain("pixels", f"{self.channel}.in: {error}")
            self.statistics.count("dropped")
            return None
        self._follow_source(frame)
        work = self._work
        assert work is not None
        picture = as_tensor(pixels)
        if not work.stream.admit(picture, work.plan):
            self.statistics.count("skipped")
            self._unseen = (picture.clone(), frame.source_frame_id, frame.capture_ns)
            return None
        self._unseen = None
        encode_ns = time.monotonic_ns()
        latents = work.stream.encode(picture[None])
        done_ns = time.monotonic_ns()
        # In this order: the planner sets the second before it clears the first, and swaps before it clears the second.
        if self._settled_at_s is not None or self._resizing or self._work is not work:
            self._in_old_size = (picture.clone(), frame.source_frame_id, frame.capture_ns)
        self.statistics.record("ingest", encode_ns - started_ns)
        self.statistics.record("encode", done_ns - encode_ns)
        self._encode_s = _smooth(self._encode_s, (done_ns - started_ns) / 1e9)
        self._number += 1
        return Encoded(work, latents, FrameTag(frame.source_frame_id, frame.capture_ns, work.revision, self._number))

    def _repeats_due(self) -> bool:
        """Whether something has to run although no frame came: the last one was skipped, frames are in flight behind
        it, or the parameters changed since."""
        last, work = self._last, self._work
        if work is None or self._lossless or work.plan.params.paused:
            return False
        if self._unseen is not None:
            return True
        if last is None:
            return False
        if work.stream is not last.work.stream:
            # The last picture came before the new size was ready, and may have been the only one of it.
            self._unseen, self._in_old_size = self._in_old_size, None
            return self._unseen is not None
        if work.plan is not last.work.plan:
            self._repeats = 0
            return True
        return self._repeats < work.plan.depth

    def _repeat(self) -> Encoded | None:
        if not self._repeats_due() or time.monotonic() - self._last_frame_s < FLUSH_S:
            return None
        last, work = self._last, self._work
        assert work is not None
        if self._unseen is not None:
            picture, source_frame_id, capture_ns = self._unseen
            self._unseen, self._repeats = None, 0
            tag = FrameTag(source_frame_id, capture_ns, work.revision, self._number, again=True)
            self._last = Encoded(work, work.stream.encode(picture[None]), tag)
            return self._last
        assert last is not None
        if work.plan is last.work.plan:
            self._repeats += 1
        self._last = Encoded(work, last.latents, replace(last.tag, revision=work.revision, again=True))
        return self._last

    def _turn(self, encoded: Encoded) -> Finished | None:
        """One turn of the stream; None while nothing has passed all stages yet."""
        started_ns = time.monotonic_ns()
        try:
            latents = encoded.work.stream.advance(encoded.latents, encoded.tag, encoded.work.plan)
        except RECOVERABLE as error:
            self._lost("the U-Net", error)
            return None
        took_ns = time.monotonic_ns() - started_ns
        self.statistics.record("unet", took_ns)
        # Downwards at once: one slow turn must not hold back the frames behind it.
        self._turn_s = min(took_ns / 1e9, _smooth(self._turn_s, took_ns / 1e9))
        return None if latents is None else Finished(encoded.work, latents)

    def _publish(self, finished: Finished) -> None:
        """Decode, stamp, publish."""
        started_ns = time.monotonic_ns()
        tag: FrameTag = finished.latents.tag
        try:
            picture = finished.work.stream.decode(finished.latents)
            pixels = picture.frame_FHWC[-1].numpy(force=True)
        except RECOVERABLE as error:
            self._account(tag, published=False)
            self._lost("decoding", error)
            return
        self._failures = 0
        decoded_ns = time.monotonic_ns()
        height, width = pixels.shape[:2]
        try:
            with urgent(), self._writer.slot([PlaneSpec(Kind.COLOUR, Format.RGBA8, width, height)]) as slot:
                slot.planes[Kind.COLOUR][...] = pixels
                slot.source_frame_id = tag.source_frame_id
                slot.capture_ns = tag.capture_ns
                slot.param_revision = tag.revision
        except TruncatedSegment as error:
            self._complain("publish", f"{self.channel}.out: {error}; starting a new one")
            self._account(tag, published=False)
            self._writer.close()
            self._writer = self._open_writer()
            return
        except RingError as error:
            self._complain("publish", f"{self.channel}.out: {error}")
            self._account(tag, published=False)
            return
        now_ns = time.monotonic_ns()
        self.statistics.record("decode", decoded_ns - started_ns)
        self.statistics.record("publish", now_ns - decoded_ns)
        if not tag.again:
            self.statistics.record("capture_to_publish", now_ns - tag.capture_ns)
        self.statistics.count("frames_out")
        self._account(tag, published=True)

    def _account(self, tag: FrameTag, *, published: bool) -> None:
        """Count the frames that no result can show any more. Results leave in order, so that is whatever lies between
        this one's frame and the one before: overtaken by newer ones, lost to an error, or given up in flight when the
        steps, the mode or the size changed."""
        since = tag.number - self._accounted
        if since > 0:
            self.statistics.count("dropped", since - published)
            self._accounted = tag.number

    # -- loops -----------------------------------------------------------------------------------------------------

    def _serial_loop(self) -> None:
        while not self._stop.is_set():
            encoded = self._ingest()
            finished = self._turn(encoded) if encoded is not None else None
            if finished is not None:
                self._publish(finished)

    def _ingest_loop(self) -> None:
        while not self._stop.is_set():
            encoded = self._ingest()
            if encoded is not None:
                self._encoded.put(encoded)
                self._encoded.wait_taken(3600.0)
                if not self._lossless:
                    # The U-Net has just begun on this frame. A frame taken now would only wait for it, and grow old.
                    self._stop.wait(min(PACE_LIMIT_S, max(0.0, self._turn_s - PACE_MARGIN * self._encode_s)))

    def _turn_loop(self) -> None:
        while not self._stop.is_set():
            encoded = self._encoded.get()
            finished = self._turn(encoded)
            if finished is not None:
                self._finished.put(finished)

    def _publish_loop(self) -> None:
        while not self._stop.is_set():
            finished = self._finished.get()
            self._publish(finished)

    def _lost(self, where: str, error: Exception) -> None:
        """A frame was lost to an error that the next one may not meet: say so and go on, but not for ever."""
        self._failures += 1
        if self._failures >= GIVE_UP_FAILURES:
            raise HostError(
                f"{self._failures} frames in a row were lost ({where}: {error}); try a smaller size or another device"
            ) from error
        self._complain("lost", f"a frame was lost in {where}: {error}")

    def _complain(self, kind: str, message: str) -> None:
        now = time.monotonic()
        if now - self._complained.get(kind, -COMPLAIN_S) >= COMPLAIN_S:
            self._complained[kind] = now
            log.warning("%s", message)


def _smooth(old: float, new: float) -> float:
    return new if old == 0.0 else 0.8 * old + 0.2 * new

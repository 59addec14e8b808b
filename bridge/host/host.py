"""The host: takes the newest frame of NAME.in, runs the stream, publishes to NAME.out.

The path of a frame is `Ingest.next`, then `FramePath`. One thread takes frames and hands them over; the stages run on
lanes, so that frame n + 1 is encoded and frame n - 1 decoded and published while frame n is in the U-Net. With serial
lanes, the plain twin, the same thread does everything. Whatever slow a parameter change needs happens on a thread of
its own (`Planner`), which replaces one reference that is read once per frame.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bridge.control.limits import OncePer
from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.host.choice import Change, additions, choices
from bridge.host.config import HostConfig, HostError
from bridge.host.ingest import WAIT_S, Ingest, smooth
from bridge.host.lanes import Closed, ThreadLanes
from bridge.host.loading import Loaded, Models
from bridge.host.path import Dispatched, FramePath
from bridge.host.planner import Planner, wanted
from bridge.host.publish import Publisher
from bridge.ring import RingReader
from bridge.ring.scheduling import short_slices, short_turns
from core.faults import GONE, is_permanent
from core.lanes import Lanes, Mark, SerialLanes
from core.params import Spec, specs_for
from core.references import named
from core.words import Words

__all__ = ["Host", "HostConfig", "HostError"]

log = logging.getLogger("frameloom.host")

COMPLAIN_S = 2.0
"""At most one message of a kind in so many seconds."""
GIVE_UP_FAILURES = 30
"""So many failed turns in a row, with none in between that succeeded, end the host."""
THREADS = {"unet": "unet", "decode": "publish", "publish": "publish"}
"""The lanes that have a thread; encoding is done by the one that takes frames, which holds the slot meanwhile."""
STAGES = ("encode", "unet", "decode")
"""The lanes whose work a card does, where there is one."""
IN_FLIGHT = 3
"""Frames on their way from the U-Net to the ring, that one included."""
PACE_LIMIT_S = 0.25
PACE_MARGIN = 1.5
"""A frame is taken this many encode times before the U-Net will be free: not sooner, so that it is fresh."""


class Host:
    """Runs one channel.

    live: the parameters to follow. statistics: where times are recorded. models: what loads the model, which hosts may
    share. on_failure: called with a message when the host ends by itself. Raises `RingError` when the channel's rings
    cannot be had.
    """

    def __init__(
        self,
        config: HostConfig,
        *,
        live: LiveParams | None = None,
        statistics: Statistics | None = None,
        models: Models | None = None,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self.live = live if live is not None else LiveParams()
        self.statistics = statistics if statistics is not None else Statistics()
        self.ready = threading.Event()
        """Set when the model is loaded and frames are being taken."""
        self.failure: str | None = None
        """Why the host ended by itself, if it did."""
        self.loaded: Loaded | None = None
        self.planner: Planner | None = None
        self._models = models if models is not None else Models()
        self._running = config
        self._change: Change | None = None
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._turn_s = 0.0
        self._failures = 0
        self._once = OncePer(COMPLAIN_S)
        # Opened here and not on a thread, so that a second host on the channel is refused at once.
        self._publisher = Publisher(config, self.statistics, self._complain, self._lost, self._went_well)
        try:
            self._reader = RingReader(f"{config.channel}.in", lossless=config.lossless, directory=config.directory)
        except BaseException:
            self._publisher.close()
            raise

    @property
    def phase(self) -> str:
        """ "loading", "ready", or why the host ended."""
        return self.failure or ("ready" if self.ready.is_set() else "loading")

    @property
    def words(self) -> Words | None:
        """The words that the model knows; None before it is loaded, and where it does not say."""
        return None if self.loaded is None else self.loaded.words

    @property
    def specs(self) -> tuple[Spec, ...]:
        """The live parameters, as they act on this model; which one it is, only where there are others."""
        names = tuple(choices(self.config))
        running = self._running
        controls = [source for source, _ in running.controls]
        pictures = () if running.adapter is None else tuple(named(running.references, running.kept_references))
        specs = specs_for(str(running.model), running.lora_names, controls, pictures, additions(self.config))
        if len(names) == 1:
            return tuple(spec for spec in specs if spec.name != "model")
        return tuple(replace(spec, kind="choice", choices=names) if spec.name == "model" else spec for spec in specs)

    @property
    def lora_names(self) -> list[str]:
        """See `HostConfig.lora_names`, of those that change the model now."""
        return self._running.lora_names

    @property
    def model_name(self) -> str:
        """The model in a word: embedded, passthrough or the folder's name."""
        return Path(self._running.model).name

    @property
    def preparing(self) -> str:
        """What is being made ready while frames are painted without it, in words; nothing: ""."""
        if self._change is not None and self._change.preparing:
            return self._change.preparing
        if self.planner is not None and self.planner.building and self.loaded is not None:
            return f"building {self.loaded.backend_name}"
        return ""

    @property
    def device_name(self) -> str | None:
        """What the model runs on; None before it is loaded."""
        return None if self.loaded is None else self.loaded.device_name

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the model and run, on background threads. Returns at once; see `ready` and `failure`."""
        short_slices()
        short_turns()
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
        for part in (self.planner, self._change):
            if part is not None:
                part.stop()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for all threads; False when `timeout_s` was over first."""
        if not self._threads:  # never started: nobody else closes these
            self._reader.close()
            self._publisher.close()
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
        workers: list[threading.Thread] = []
        lanes: Lanes | None = None
        try:
            self.loaded = loaded = self._models.load(self.config, wanted(self.live, self.config)[0])
            if self._stop.is_set():
                return
            if loaded.torch_threads is not None:
                import torch

                torch.set_num_threads(loaded.torch_threads)
            self.planner = planner = Planner(self.config, self.live, loaded.model, self._refuse, loaded.plain)
            self._change = change = Change(
                self.config, self.live, self._models, loaded, planner, self._refuse, self._changed
            )
            lanes = ThreadLanes(THREADS) if loaded.overlap else SerialLanes()
            if loaded.card is not None:
                from core.cuda_lanes import cuda_lanes

                lanes = cuda_lanes(lanes, loaded.card, STAGES)
            ingest = Ingest(
                self.config,
                self._reader,
                planner,
                self.statistics,
                lanes,
                idle=self._publisher.beat,
                pause=self._stop.wait,
                complain=self._complain,
                lost=self._lost,
            )
            del loaded  # it goes when another one takes its place
            for name, work in (("planner", planner.run), ("build", planner.build), ("change", change.run)):
                workers.append(self._spawn(name, work))
            # Looking through all that a model is made of, for what nobody needs any more, takes a quarter of a second.
            gc.freeze()
            self._models.converter.busy.set()
            self.ready.set()
            self._loop(ingest, lanes)
        finally:
            self.stop()
            if lanes is not None:
                lanes.close()
            for worker in workers:
                worker.join()
            self._models.converter.close()
            self._reader.close()
            self._publisher.close()

    def _changed(self, loaded: Loaded, config: HostConfig) -> None:
        self._running, self.loaded = config, loaded
        log.info("%s runs on %s %s", self.model_name, loaded.backend_name, loaded.dtype_name)

    # -- the path of a frame ---------------------------------------------------------------------------------------

    def _loop(self, ingest: Ingest, lanes: Lanes) -> None:
        path = FramePath(lanes, self._out)
        turns: deque[Mark] = deque()
        published: deque[Mark] = deque()
        while not self._stop.is_set():
            encoded = ingest.next()
            if encoded is None:
                continue
            dispatched, leaves = path.dispatch(encoded)
            turns.append(dispatched.latents)
            published.append(leaves)
            # A mark keeps its result: what nobody needs any more makes room for the next frame.
            del encoded, dispatched, leaves
            # One frame in the U-Net, one encoded, some on their way out: whatever more came would only grow old.
            for mark in self._wait(turns, 1):
                took_s = mark.took_ns / 1e9
                # Downwards at once: one slow turn must not hold back the frames behind it.
                self._turn_s = min(took_s, smooth(self._turn_s, took_s))
            self._wait(published, IN_FLIGHT)
            if self.loaded is not None and self.loaded.overlap and not self.config.lossless:
                # The U-Net has just begun on this frame. A frame taken now would only wait for it, and grow old.
                self._stop.wait(min(PACE_LIMIT_S, max(0.0, self._turn_s - PACE_MARGIN * ingest.encode_s)))

    def _wait(self, marks: deque[Mark], most: int) -> list[Mark]:
        """Wait until so many at most are not done; takes those that are, and returns them."""
        while len(marks) > most and not (self._stop.is_set() or marks[-1 - most].wait(WAIT_S)):
            pass
        done = []
        while marks and marks[0].wait(0.0):
            done.append(marks.popleft())
        return done

    def _out(self, dispatched: Dispatched) -> None:
        """The end of a frame's way, on the lane "publish"; what it cannot bear ends the host."""
        try:
            self._publisher.publish(dispatched)
        except Closed:
            pass
        except HostError as error:
            self._fail(str(error))
        except Exception as error:
            log.exception("a frame ended the host")
            self._fail(f"{type(error).__name__}: {error}")

    def _went_well(self) -> None:
        self._failures = 0

    # -- trouble ---------------------------------------------------------------------------------------------------

    def _lost(self, where: str, error: Exception) -> None:
        """A frame was lost to an error that the next one may not meet: say so and go on, but not for ever."""
        if is_permanent(error):
            raise HostError(GONE.format(error=" ".join(str(error).split())[:200])) from error
        self._failures += 1
        if self._failures >= GIVE_UP_FAILURES:
            raise HostError(
                f"{self._failures} frames in a row were lost ({where}: {error}); try a smaller size or another device"
            ) from error
        self._complain("lost", f"a frame was lost in {where}: {error}")

    def _refuse(self, kind: str, message: str) -> None:
        """To whoever looks at the page, too."""
        self.statistics.refuse(message)
        self._complain(kind, message)

    def _complain(self, kind: str, message: str) -> None:
        if self._once.may(kind):
            log.warning("%s", message)

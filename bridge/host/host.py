"""The host: takes the newest frame of NAME.in, runs the stream, publishes to NAME.out.

The path of a frame is `Ingest.next`, `Host._turn`, `Publisher.publish`. The serial loop calls the three one after the
other; the overlapped loop runs each on a thread of its own, so that frame n + 1 is encoded and frame n - 1 decoded and
published while frame n is in the U-Net. Everything slow that a parameter change needs happens on a fourth thread
(`Planner`), which replaces one reference that is read once per frame.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from bridge.control.limits import OncePer
from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.host.config import HostConfig, HostError
from bridge.host.handoff import Closed, Handoff
from bridge.host.ingest import Encoded, Ingest, smooth
from bridge.host.loading import Loaded, Models
from bridge.host.planner import RECOVERABLE, Planner, wanted
from bridge.host.publish import Finished, Publisher
from bridge.ring import RingReader
from bridge.ring.clock import now_ns
from bridge.ring.scheduling import short_slices

__all__ = ["Host", "HostConfig", "HostError"]

log = logging.getLogger("frameloom.host")

COMPLAIN_S = 2.0
"""At most one message of a kind in so many seconds."""
GIVE_UP_FAILURES = 30
"""So many failed turns in a row, with none in between that succeeded, end the host."""
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
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._encoded: Handoff[Encoded] = Handoff(1)
        self._finished: Handoff[Finished] = Handoff(2, newest_wins=not config.lossless)
        self._turn_s = 0.0
        self._failures = 0
        self._once = OncePer(COMPLAIN_S)
        # Opened here and not on a thread, so that a second host on the channel is refused at once.
        self._publisher = Publisher(config, self.statistics, self._complain, self._lost)
        try:
            self._reader = RingReader(f"{config.channel}.in", lossless=config.lossless, directory=config.directory)
        except BaseException:
            self._publisher.close()
            raise

    # -- life ----------------------------------------------------------------------------------------------------

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
        if self.planner is not None:
            self.planner.stop()
        self._encoded.close()
        self._finished.close()

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
        workers: list[threading.Thread] = []
        try:
            self.loaded = loaded = self._models.load(self.config, wanted(self.live, self.config)[0])
            if self._stop.is_set():
                return
            if loaded.torch_threads is not None:
                import torch

                torch.set_num_threads(loaded.torch_threads)
            self.planner = planner = Planner(self.config, self.live, loaded.model, self._complain)
            ingest = Ingest(
                self.config,
                self._reader,
                planner,
                self.statistics,
                idle=self._publisher.beat,
                pause=self._stop.wait,
                complain=self._complain,
                lost=self._lost,
            )
            workers.append(self._spawn("planner", planner.run))
            self.ready.set()
            if loaded.overlap:
                workers.append(self._spawn("ingest", lambda: self._ingest_loop(ingest)))
                workers.append(self._spawn("publish", self._publish_loop))
                self._turn_loop()
            else:
                self._serial_loop(ingest)
        finally:
            self.stop()
            for worker in workers:
                worker.join()
            self._reader.close()
            self._publisher.close()

    # -- the path of a frame ---------------------------------------------------------------------------------------

    def _serial_loop(self, ingest: Ingest) -> None:
        while not self._stop.is_set():
            encoded = ingest.next()
            finished = self._turn(encoded) if encoded is not None else None
            if finished is not None:
                self._publish(finished)

    def _ingest_loop(self, ingest: Ingest) -> None:
        while not self._stop.is_set():
            encoded = ingest.next()
            if encoded is not None:
                self._encoded.put(encoded)
                self._encoded.wait_taken(3600.0)
                if not self.config.lossless:
                    # The U-Net has just begun on this frame. A frame taken now would only wait for it, and grow old.
                    self._stop.wait(min(PACE_LIMIT_S, max(0.0, self._turn_s - PACE_MARGIN * ingest.encode_s)))

    def _turn_loop(self) -> None:
        while not self._stop.is_set():
            finished = self._turn(self._encoded.get())
            if finished is not None:
                self._finished.put(finished)

    def _publish_loop(self) -> None:
        while not self._stop.is_set():
            self._publish(self._finished.get())

    def _turn(self, encoded: Encoded) -> Finished | None:
        """One turn of the stream; None while nothing has passed all stages yet."""
        started_ns = now_ns()
        try:
            latents = encoded.work.stream.advance(encoded.entering, encoded.tag, encoded.work.plan)
        except RECOVERABLE as error:
            self._lost("the U-Net", error)
            return None
        took_ns = now_ns() - started_ns
        self.statistics.record("unet", took_ns)
        # Downwards at once: one slow turn must not hold back the frames behind it.
        self._turn_s = min(took_ns / 1e9, smooth(self._turn_s, took_ns / 1e9))
        return None if latents is None else Finished(encoded.work, latents)

    def _publish(self, finished: Finished) -> None:
        if self._publisher.publish(finished):
            self._failures = 0

    # -- trouble ---------------------------------------------------------------------------------------------------

    def _lost(self, where: str, error: Exception) -> None:
        """A frame was lost to an error that the next one may not meet: say so and go on, but not for ever."""
        self._failures += 1
        if self._failures >= GIVE_UP_FAILURES:
            raise HostError(
                f"{self._failures} frames in a row were lost ({where}: {error}); try a smaller size or another device"
            ) from error
        self._complain("lost", f"a frame was lost in {where}: {error}")

    def _complain(self, kind: str, message: str) -> None:
        if self._once.may(kind):
            log.warning("%s", message)

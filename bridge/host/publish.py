"""The way out: results stamped and published in NAME.out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge.control.statistics import Statistics
from bridge.host.config import HostConfig
from bridge.host.ingest import FrameTag
from bridge.host.path import Dispatched
from bridge.host.planner import RECOVERABLE
from bridge.ring import Format, Kind, PlaneSpec, Policy, RingError, RingWriter, TruncatedSegment
from bridge.ring.clock import now_ns
from bridge.ring.scheduling import urgent


class Publisher:
    """Owns the writer of NAME.out, which is opened at once, so that a second host on the channel is refused at once.
    `publish` is for one thread. Raises `RingError`."""

    def __init__(
        self,
        config: HostConfig,
        statistics: Statistics,
        complain: Callable[[str, str], None],
        lost: Callable[[str, Exception], None],
        went_well: Callable[[], None],
    ) -> None:
        self._config = config
        self._statistics = statistics
        self._complain = complain
        self._lost = lost
        self._went_well = went_well
        self._accounted = 0
        self.writer = self._open()

    def _open(self) -> RingWriter:
        policy = Policy.LOSSLESS if self._config.lossless else Policy.NEWEST
        return RingWriter(f"{self._config.channel}.out", policy=policy, directory=self._config.directory)

    def beat(self) -> None:
        """Whoever looks at NAME.out sees that the host is alive and has nothing new."""
        self.writer.beat()

    def close(self) -> None:
        self.writer.close()

    def publish(self, dispatched: Dispatched) -> None:
        """Bring out what finished in a turn, or account for what was lost."""
        where, error = "the U-Net", None
        finished = picture = pixels = None
        try:
            finished = dispatched.latents.result()
            self._statistics.record("unet", dispatched.latents.took_ns)
            where = "decoding"
            picture = dispatched.picture.result()
            pixels = None if picture is None else picture.frame_FHWC[-1].numpy(force=True)
        except RECOVERABLE as caught:
            error = caught
        if error is not None:
            if finished is not None:
                self._account(finished.tag, published=False)
            self._lost(where, error)
        elif picture is not None:
            self._went_well()
            self._write(pixels, picture.tag, dispatched.picture.took_ns)

    def _write(self, pixels: Any, tag: FrameTag, decode_ns: int) -> None:
        started_ns = now_ns()
        height, width = pixels.shape[:2]
        try:
            with urgent(), self.writer.slot([PlaneSpec(Kind.COLOUR, Format.RGBA8, width, height)]) as slot:
                slot.planes[Kind.COLOUR][...] = pixels
                slot.source_frame_id = tag.source_frame_id
                slot.capture_ns = tag.capture_ns
                slot.param_revision = tag.revision
        except TruncatedSegment as error:
            self._complain("publish", f"{self._config.channel}.out: {error}; starting a new one")
            self._account(tag, published=False)
            self.writer.close()
            self.writer = self._open()
            return
        except RingError as error:
            self._complain("publish", f"{self._config.channel}.out: {error}")
            self._account(tag, published=False)
            return
        published_ns = now_ns()
        self._statistics.record("decode", decode_ns)
        self._statistics.record("publish", published_ns - started_ns)
        if not tag.again:
            self._statistics.record("capture_to_publish", published_ns - tag.capture_ns)
        self._statistics.count("frames_out")
        self._account(tag, published=True)

    def _account(self, tag: FrameTag, *, published: bool) -> None:
        """Count the frames that no result can show any more. Results leave in order, so that is whatever lies between
        this one's frame and the one before: overtaken by newer ones, lost to an error, or given up in flight when the
        steps, the mode or the size changed."""
        since = tag.number - self._accounted
        if since > 0:
            self._statistics.count("dropped", since - published)
            self._accounted = tag.number

"""Records a channel while it runs, beside it: a reader of its rings like any other, which nobody waits for.

A thread per ring copies and compresses the newest frame, another writes. Where the disk or the processor cannot follow,
the newest frames are left out and counted; neither the host nor its client notices. Knows nothing of command lines.
"""

from __future__ import annotations

import errno
import json
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bridge.page.picture import CannotShow
from bridge.recording.file import RecordingWriter, packed
from bridge.ring import Frame, RingError, RingReader
from bridge.ring.clock import now_ns

QUEUE_BYTES = 256 << 20
"""What may wait for the disk; frames that come while more waits are left out."""
MIN_FREE_BYTES = 256 << 20
"""A recording ends before it takes the last room of a disk that others need, too."""
LOOK_S = 0.1
TOLD_S = 1.0


class _Queue:
    """Messages on their way to the disk, by their bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[tuple[str, int, bytes, int]] = deque()
        self._bytes = 0
        self._change = threading.Condition()

    @property
    def full(self) -> bool:
        return self._bytes >= self._most

    def put(self, topic: str, at_ns: int, data: bytes, sequence: int = 0) -> None:
        with self._change:
            self._waiting.append((topic, at_ns, data, sequence))
            self._bytes += len(data)
            self._change.notify()

    def take(self, timeout_s: float) -> tuple[str, int, bytes, int] | None:
        with self._change:
            if not self._waiting:
                self._change.wait(timeout_s)
            return self._waiting[0] if self._waiting else None

    def done(self) -> None:
        """What was taken is on the disk."""
        with self._change:
            self._bytes -= len(self._waiting.popleft()[2])


class Recorder:
    """Records between `start` and `stop` into a new file.

    sides: of "in", "out". codec: of `bridge.recording.file.CODECS`. ended: is called when it ends by itself, on a
    thread of its own; `ending` then says why. Raises `RecordingError` when the file cannot be made.
    """

    def __init__(
        self,
        channel: str,
        path: Path,
        *,
        codec: str = "jpeg",
        sides: Iterable[str] = ("in", "out"),
        directory: str | None = None,
        queue_bytes: int = QUEUE_BYTES,
        min_free_bytes: int = MIN_FREE_BYTES,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.channel = channel
        self.path = path
        self.ending = ""
        self.recorded = dict.fromkeys(sides, 0)
        self.lost = dict.fromkeys(sides, 0)
        self._codec = codec
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self._ended = ended
        self._queue = _Queue(queue_bytes)
        self._stop = threading.Event()
        self._finished = threading.Event()
        self._writer = RecordingWriter(path, channel, codec)
        self._readers = [
            threading.Thread(target=self._read, args=(side,), name=f"record {channel}.{side}", daemon=True)
            for side in self.recorded
        ]
        self._disk = threading.Thread(target=self._write, name=f"record {channel}", daemon=True)

    @property
    def size_bytes(self) -> int:
        """Size of the file so far."""
        return self._writer.size_bytes

    def start(self) -> None:
        """Begin; rings that are not there yet are waited for."""
        for thread in (*self._readers, self._disk):
            thread.start()

    def params(self, values: dict[str, Any], revision: int) -> None:
        """Record the live parameters, of that revision, from now on. Any thread."""
        self._queue.put("params", now_ns(), json.dumps({"revision": revision, "values": values}).encode())

    def stop(self) -> None:
        """Write what is on its way, end the file and wait for that. Harmless when it has ended."""
        self._stop.set()
        for thread in (*self._readers, self._disk):
            if thread.ident is not None:
                thread.join()
        if self._disk.ident is None:
            self._writer.close()

    # -- threads

    def _read(self, side: str) -> None:
        ring, last = f"{self.channel}.{side}", (0, 0)
        while not self._stop.is_set():
            try:
                with RingReader(ring, directory=self._directory) as reader:
                    while not self._stop.is_set():
                        frame = reader.read(LOOK_S)
                        if frame is None:
                            continue
                        # Frames that came and went between two looks count as lost: somebody may count on all of them.
                        if frame.generation == last[0]:
                            self.lost[side] += max(0, frame.sequence - last[1] - 1)
                        last = (frame.generation, frame.sequence)
                        self._keep(side, frame)
            except RingError as error:
                self._end(f"{ring} cannot be read: {error}")
                return

    def _keep(self, side: str, frame: Frame) -> None:
        if self._queue.full:
            self.lost[side] += 1
            return
        try:
            self._queue.put(side, frame.publish_ns, packed(frame, self._codec), frame.sequence)
        except CannotShow as error:
            self._end(f"{error}; record it with the codec lossless")

    def _write(self) -> None:
        told_s, told = time.monotonic(), ""
        try:
            while True:
                message = self._queue.take(LOOK_S)
                if message is not None:
                    self._writer.write(*message)
                    self.recorded[message[0]] = self.recorded.get(message[0], 0) + 1
                    self._queue.done()
                elif self._stop.is_set() and not any(thread.is_alive() for thread in self._readers):
                    return
                now_s = time.monotonic()
                if now_s - told_s >= TOLD_S:
                    told_s = now_s
                    lost = json.dumps(self.lost)
                    if lost != told:
                        self._writer.write("lost", now_ns(), lost.encode())
                        told = lost
                    if shutil.disk_usage(self.path.parent).free < self._min_free_bytes:
                        self._end(f"the disk of {self.path.parent} is nearly full")
        except OSError as error:
            why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            self._end(f"{self.path} cannot be written any further: {why}")
        finally:
            try:
                self._writer.close()
            except OSError as error:
                self._end(f"{self.path} could not be ended properly ({error.strerror}); it can be read all the same")
            self._finished.set()
            if self.ending:
                self._ended()

    def _end(self, why: str) -> None:
        self.ending = self.ending or f"{why}; what was recorded before is kept"
        self._stop.set()

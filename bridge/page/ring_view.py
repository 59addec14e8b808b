"""One ring of a channel as its viewers see it: the newest frame, encoded once, when somebody waits for one.

A thread of its own reads the ring and encodes; what it has goes to a callback. Knows nothing of sockets.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from bridge.page.packet import Encoding
from bridge.page.picture import Packet, ShownPicture, encode, take
from bridge.ring import RingError, RingReader, State

_log = logging.getLogger(__name__)

SIDES = ("in", "out")

_POLL_S = 0.2
_RETRY_S = 0.5
_STATES = {State.NO_WRITER: "no-writer", State.LIVE: "live", State.WRITER_GONE: "writer-gone"}
_STATE_MESSAGES = {
    "no-writer": "no writer on {ring} yet",
    "live": "",
    "writer-gone": "the writer of {ring} is gone; the last frame stays",
    "error": "{ring} cannot be read",
}


class RingView:
    """One ring, channel.name, between `start()` and `stop()`.

    publish: called on this object's thread with the newest frame in every encoding that was made of it, and whenever
    the state changes. `state` is no-writer, live, writer-gone or error; `message` says it for people. `encoded` and
    `sent` count packets.
    """

    def __init__(self, channel: str, name: str, publish: Callable[[RingView, dict[Encoding, Packet]], None]) -> None:
        self.channel = channel
        self.name = name
        self.ring = f"{channel}.{name}"
        # Set by the loop's thread, read by the reader thread; one reference each, replaced whole.
        self.wanted: frozenset[Encoding] = frozenset()
        self.wake = threading.Event()
        # Set by the reader thread.
        self.state = "no-writer"
        self.message = ""
        self.encoded = 0
        # Touched by the loop's thread only.
        self.packets: dict[Encoding, Packet] = {}
        self.sent = 0
        self._publish = publish
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"gateway {self.ring}", daemon=True)
        self._describe("no-writer", "")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self.wake.set()
        self._thread.join()

    def report(self) -> dict[str, str]:
        """The state as the message that viewers get."""
        return {"type": "state", "side": self.name, "state": self.state, "message": self.message}

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with RingReader(self.ring) as reader:
                    self._read(reader)
            except RingError as error:
                self._describe("error", str(error))
                self._publish(self, {})
                self._stopping.wait(_RETRY_S)
            except Exception:
                _log.exception("gateway: reading %s failed; trying again", self.ring)
                self._describe("error", f"reading {self.ring} failed; the log of the host says why")
                self._publish(self, {})
                self._stopping.wait(_RETRY_S)

    def _read(self, reader: RingReader) -> None:
        picture: ShownPicture | None = None
        packets: dict[Encoding, Packet] = {}
        while not self._stopping.is_set():
            state = _STATES[reader.state]
            # The writer of an unreadable ring is alive too: only a picture taken says that it can be read again.
            if (state != "live" or self.state != "error") and self._describe(state, ""):
                self._publish(self, dict(packets))
            if not self.wanted:
                if state == "writer-gone" and (last := take(reader, 0.0)) is not None:
                    # Kept for viewers to come; and the reader follows a new writer only when nothing is left unread.
                    picture, packets = last, {}
                self.wake.wait(_POLL_S)
                self.wake.clear()
                continue
            newer = take(reader, 0.0)
            if newer is None:
                # A viewer that has just come, or asks again, gets the frame that the others have.
                if picture is not None:
                    self._encode(picture, packets)
                newer = take(reader, _POLL_S)
            if newer is not None:
                picture, packets = newer, {}
                self._describe("live", "")
                self._encode(picture, packets)

    def _encode(self, picture: ShownPicture, packets: dict[Encoding, Packet]) -> None:
        """Add what is wanted and not there yet, and hand everything to the viewers."""
        for codec in self.wanted:
            if codec not in packets:
                packets[codec] = encode(picture, codec)
                self.encoded += 1
        # Cleared before the hand-over: what the loop sets from here on is a new wish.
        self.wanted = frozenset()
        self._publish(self, dict(packets))

    def _describe(self, state: str, message: str) -> bool:
        """Note the ring's state for people; returns whether it changed."""
        if not message:
            message = _STATE_MESSAGES[state].format(ring=self.ring)
        changed = (state, message) != (self.state, self.message)
        self.message = message
        self.state = state
        return changed

"""Adaptors of other programs' shared memory: the table of them, and the pumps between them and a channel.

An adaptor never enters the host's frame path. A pump is a thread that copies new pictures of another program into
CHANNEL.in, or results of CHANNEL.out into another program's memory; for the host both are a client like any other.
A new adaptor is one file with `open_input` and `open_output`, and one line in `ADAPTORS`.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bridge.interop import streamdiffusiontd, td_native
from bridge.interop.adaptor import AdaptorError, InputEndpoint, Notices, OutputEndpoint
from bridge.interop.gate import Gate
from bridge.ring import RingError, RingReader, RingWriter
from bridge.ring.layout import Kind

log = logging.getLogger("frameloom.adaptors")

POLL_S = 0.003
"""How often another program's memory is looked at for the next picture."""
REST_S, REST_POLL_S = 1.0, 0.015
"""After so long without a new picture it is looked at this often, which costs less than a fiftieth of a core."""
WAIT_S = 0.1
FREE_S = 1 / 30
"""How often a picture is handed over where the host paints without one: it paints on, whatever comes."""
BEAT_S = 0.5
"""How often the heartbeat of CHANNEL.in is refreshed while nothing comes."""

Say = Callable[[str], None]
OnFrame = Callable[[str], None]


@dataclass(frozen=True)
class Adaptor:
    """One row of the table: how to write it on the command line, and what opens its two endpoints.

    Both take what stands after `scheme:` and a function that tells the user something; both raise AdaptorError.
    """

    usage: str
    open_input: Callable[[str, Say], InputEndpoint]
    open_output: Callable[[str, Say], OutputEndpoint]


ADAPTORS = {
    "td": Adaptor("td:NAME", td_native.open_input, td_native.open_output),
    "sdtd": Adaptor("sdtd:NAME:WIDTHxHEIGHT", streamdiffusiontd.open_input, streamdiffusiontd.open_output),
}


def find(endpoint: str) -> tuple[Adaptor, str]:
    """The adaptor of "scheme:rest", and the rest. Raises AdaptorError."""
    scheme, separator, rest = endpoint.partition(":")
    adaptor = ADAPTORS.get(scheme)
    if adaptor is None or not separator or not rest:
        raise AdaptorError(f"{endpoint!r}: write one of {', '.join(a.usage for a in ADAPTORS.values())}")
    return adaptor, rest


def channel_name(endpoint: str) -> str:
    """A channel name made from the name in "scheme:name:...", for a user who gave none."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", find(endpoint)[1].partition(":")[0]).lstrip("._-")[:40] or "host"


def open_pumps(
    source: str | None,
    sink: str | None,
    channel: str,
    say: Say,
    gate: Gate | None = None,
    on_frame: OnFrame | None = None,
    free: Callable[[], bool] = lambda: False,
) -> list[Pump]:
    """The pumps of a channel whose endpoints are written as on the command line, not started yet. gate: of both. free:
    of `InputPump`; on_frame: of `OutputPump`.

    Raises AdaptorError or RingError; nothing is left open then.
    """
    if source is not None and sink is not None and source.split(":")[:2] == sink.split(":")[:2]:
        raise AdaptorError(f"--input and --output are both {':'.join(sink.split(':')[:2])}; give them different names")
    pumps: list[Pump] = []
    try:
        if source is not None:
            adaptor, rest = find(source)
            pumps.append(InputPump(adaptor.open_input(rest, say), channel, say, gate, free))
        if sink is not None:
            adaptor, rest = find(sink)
            pumps.append(
                OutputPump(adaptor.open_output(rest, say), channel, say, on_frame, gate if source is not None else None)
            )
    except BaseException:
        for pump in pumps:
            pump.stop()
        raise
    return pumps


class Pump:
    """A thread between `start` and `stop` that closes its endpoint itself."""

    def __init__(self, name: str) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._outermost, name=f"frameloom-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it and wait; harmless when it never started or has ended."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._close()

    def _outermost(self) -> None:
        try:
            while not self._stop.is_set():
                self._turn()
        except Exception:
            log.exception("%s ended", self._thread.name)
        finally:
            self._close()

    def _turn(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class InputPump(Pump):
    """From an adaptor into CHANNEL.in, each new picture once.

    The capture time is the moment when the picture was seen to be new; its number counts the pictures. free: whether
    the host paints without a picture now (text to image): then one is handed over every `FREE_S` seconds, the last or a
    blank one where there is none. Raises RingError when somebody else writes the channel.
    """

    def __init__(
        self,
        source: InputEndpoint,
        channel: str,
        say: Say,
        gate: Gate | None = None,
        free: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__("input")
        self._source = source
        self._notices = Notices(say)
        self.gate = gate if gate is not None else Gate()
        self._free = free
        self._writer = RingWriter(f"{channel}.in")
        self._count = 0
        self._news_at = self._beat_at = time.monotonic()

    def _turn(self) -> None:
        name = self.gate.take_name()
        if name is not None:
            self._source.switch(name)
        again = not self.gate.is_open
        if again and not self.gate.take_step(WAIT_S):
            self._writer.beat()
            return
        now = time.monotonic()
        due = again or now - self._news_at >= FREE_S
        free = due and self._free()
        picture = self._source.poll(again or free)
        if picture is None and free:
            picture = self._source.blank()
        if again and picture is None:
            # Nothing there yet: the step is still owed.
            self.gate.step()
        if picture is None:
            if now - self._beat_at >= BEAT_S:
                self._beat_at = now
                self._writer.beat()
            # Not by the event: Windows wakes from that in steps of 16 ms, from this in fine ones.
            time.sleep(POLL_S if now - self._news_at < REST_S else REST_POLL_S)
            return
        self._news_at = now
        self._count += 1
        if again:
            self.gate.passes(self._count)
        try:
            self._writer.write(
                {Kind.COLOUR: picture.pixels},
                formats={Kind.COLOUR: picture.format},
                origin=picture.origin,
                colour_space=picture.colour_space,
                frame_id=self._count,
                source_frame_id=self._count,
            )
        except RingError as error:
            self._notices.tell(f"a picture could not be handed to the host: {error}")
            self._stop.wait(WAIT_S)

    def _close(self) -> None:
        self._source.close()
        self._writer.close()


class OutputPump(Pump):
    """From CHANNEL.out into an adaptor, each result once and the newest first.

    on_frame(name): called after each result that was handed over, with the name of the memory that holds it, on the
    pump's thread. gate: of the input whose results these are; a closed one shows the results it was stepped to only.
    """

    def __init__(
        self, sink: OutputEndpoint, channel: str, say: Say, on_frame: OnFrame | None = None, gate: Gate | None = None
    ) -> None:
        super().__init__("output")
        self._sink = sink
        self._notices = Notices(say)
        self._reader = RingReader(f"{channel}.out")
        self._on_frame = on_frame
        self._gate = gate
        if gate is not None:
            gate.watch()

    def _turn(self) -> None:
        number = 0
        try:
            with self._reader.latest(timeout_s=WAIT_S) as frame:
                handed = False
                if frame is not None and (self._gate is None or self._gate.shows(frame.source_frame_id)):
                    number = frame.source_frame_id
                    handed = self._sink.put(frame)
        except RingError as error:
            self._notices.tell(f"a result could not be taken: {error}")
            self._stop.wait(WAIT_S)
            return
        if not handed:
            return
        if self._gate is not None:
            self._gate.shown(number)
        if self._on_frame is not None:
            self._on_frame(self._sink.name)

    def _close(self) -> None:
        self._sink.close()
        self._reader.close()

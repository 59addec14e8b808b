"""Adaptors' common parts: what is new, what is told, the pumps to and from a channel, the words of the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from bridge.commands import host as host_command
from bridge.interop import adaptor, adaptors
from bridge.interop import gate as gate_module
from bridge.interop.adaptor import AdaptorError, Notices, Novelty, TakenPicture
from bridge.interop.adaptors import ADAPTORS, InputPump, OutputPump, channel_name, find, open_pumps
from bridge.interop.endpoints import parse_ports
from bridge.interop.gate import Gate
from bridge.ring import Frame, RingReader, RingWriter, WriterExists
from bridge.ring.layout import ColourSpace, Format, Kind, Origin
from tests.rings import fresh_channel, sweep
from tests.waiting import until

PATIENCE_S = 60.0


@pytest.fixture
def channel() -> Iterator[str]:
    name = fresh_channel()
    yield name
    sweep(name)


class Scripted:
    """An input that gives what was laid into it, once; with `again` the last one."""

    def __init__(self, *pictures: TakenPicture) -> None:
        self.pictures = list(pictures)
        self.last: TakenPicture | None = None
        self.switched: list[str] = []
        self.closed = 0

    def poll(self, again: bool = False) -> TakenPicture | None:
        if self.pictures:
            self.last = self.pictures.pop(0)
            return self.last
        return self.last if again else None

    def blank(self) -> TakenPicture | None:
        return picture(128)

    def switch(self, name: str) -> None:
        self.switched.append(name)

    def close(self) -> None:
        self.closed += 1


class Kept:
    """An output that keeps what it is given; refuses while `busy`."""

    def __init__(self) -> None:
        self.name = "kept"
        self.frames: list[np.ndarray] = []
        self.busy = False
        self.refused = 0
        self.closed = 0

    def put(self, frame: Frame) -> bool:
        if self.busy:
            self.refused += 1
            return False
        self.frames.append(frame.planes[Kind.COLOUR].copy())
        return True

    def close(self) -> None:
        self.closed += 1


def picture(value: int, form: Format = Format.RGBA8) -> TakenPicture:
    return TakenPicture(np.full((16, 24, 4), value, np.uint8), form, Origin.BOTTOM_LEFT, ColourSpace.LINEAR)


# ---- what is new -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 4096, 512 * 512 * 3 + 5])
def test_every_changed_byte_is_seen(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptor, "FULL_LOOK_S", 0.0)
    monkeypatch.setattr(adaptor, "FULL_LOOK_SHARE", float("inf"))
    novelty = Novelty()
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    assert novelty.changed("a", data)
    kept = novelty.keep("a", data)
    assert np.array_equal(kept, data)
    assert not novelty.changed("a", data)
    for at in {0, size // 3, size - 1}:
        data[at] ^= 1
        assert novelty.changed("a", data), at
        data[at] ^= 1
    assert novelty.changed("b", data)
    assert novelty.changed("a", data[:-1]) or size == 1


def test_a_look_between_two_full_ones_is_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptor, "FULL_LOOK_S", 1000.0)
    novelty = Novelty()
    data = np.zeros(512 * 512 * 4, np.uint8)
    novelty.keep("a", data)
    assert not novelty.changed("a", data)
    data[1] = 1
    assert not novelty.changed("a", data)
    data[:] = 1
    assert novelty.changed("a", data)


def test_each_thing_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    notices = Notices(said.append)
    for _ in range(100):
        notices.tell("a")
        notices.tell("b")
    assert said == ["a", "b"]
    for number in range(1000):
        notices.tell(f"frame {number}")
    assert len(said) == 1002
    later_s = time.monotonic() + adaptor.TELL_AGAIN_S
    monkeypatch.setattr("bridge.control.limits.time.monotonic", lambda: later_s)
    notices.tell("frame 999")
    assert said[-2:] == ["frame 999", "frame 999"]


# ---- pumps -----------------------------------------------------------------------------------------------------------


def test_pictures_reach_the_channel_as_they_are(channel: str) -> None:
    source = Scripted(picture(1), picture(2, Format.BGRA8))
    pump = InputPump(source, channel, print)
    with RingReader(f"{channel}.in") as reader:
        pump.start()
        frame = until(lambda: next((f for f in [reader.read(1.0)] if f and f.source_frame_id == 2), None))
        assert (frame.planes[Kind.COLOUR] == 2).all()
        assert frame.formats[Kind.COLOUR] == Format.BGRA8
        assert (frame.origin, frame.colour_space) == (Origin.BOTTOM_LEFT, ColourSpace.LINEAR)
        assert 0 < frame.capture_ns <= frame.publish_ns
        # An unchanged picture is no new frame.
        assert reader.read(timeout_s=0.05) is None
        pump.stop()
    assert source.closed == 1
    pump.stop()


def test_the_heartbeat_goes_on_while_nothing_comes(channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptors, "BEAT_S", 0.01)
    beats = []
    real = RingWriter.beat
    monkeypatch.setattr(RingWriter, "beat", lambda self: [beats.append(1), real(self)])
    pump = InputPump(Scripted(), channel, print)
    pump.start()
    until(lambda: len(beats) > 3)
    pump.stop()


def test_a_closed_gate_lets_single_pictures_pass(channel: str) -> None:
    source = Scripted(picture(1))
    gate = Gate()
    gate.close()
    pump = InputPump(source, channel, print, gate)
    with RingReader(f"{channel}.in") as reader:
        pump.start()
        assert reader.read(timeout_s=0.1) is None
        for wanted in (1, 2, 3):
            gate.step()
            # The same picture again: it was asked for.
            frame = until(lambda: reader.read(1.0))
            assert frame.source_frame_id == wanted
            assert reader.read(timeout_s=0.02) is None
        source.pictures = [picture(9)]
        gate.open()
        assert (until(lambda: reader.read(1.0)).planes[Kind.COLOUR] == 9).all()
        pump.stop()


def test_a_step_waits_for_its_picture(channel: str) -> None:
    source = Scripted()
    gate = Gate()
    gate.close()
    pump = InputPump(source, channel, print, gate)
    with RingReader(f"{channel}.in") as reader:
        pump.start()
        gate.step()
        assert reader.read(timeout_s=0.1) is None
        source.pictures = [picture(5)]
        assert until(lambda: reader.read(1.0)).source_frame_id == 1
        pump.stop()


def test_a_picture_too_large_for_a_ring_is_told_and_the_next_one_passes(channel: str) -> None:
    said: list[str] = []
    huge = TakenPicture(np.broadcast_to(np.zeros(4, np.uint8), (16384, 16385, 4)), Format.RGBA8)
    pump = InputPump(Scripted(huge, picture(3)), channel, said.append)
    with RingReader(f"{channel}.in") as reader:
        pump.start()
        assert (until(lambda: reader.read(1.0)).planes[Kind.COLOUR] == 3).all()
        pump.stop()
    assert len(said) == 1 and "could not be handed to the host" in said[0]


def test_results_are_handed_over_once_and_newest_first(channel: str) -> None:
    sink = Kept()
    told: list[str] = []
    pump = OutputPump(sink, channel, print, told.append)
    with RingWriter(f"{channel}.out", capacity_bytes=4096) as writer:
        pump.start()
        for value in (1, 2):
            writer.write({Kind.COLOUR: picture(value).pixels})
            until(lambda value=value: len(told) == value)
        sink.busy = True
        writer.write({Kind.COLOUR: picture(3).pixels})
        until(lambda: sink.refused)
        sink.busy = False
        writer.write({Kind.COLOUR: picture(4).pixels})
        until(lambda: len(told) == 3)
        pump.stop()
    assert [int(frame[0, 0, 0]) for frame in sink.frames] == [1, 2, 4]
    assert sink.closed == 1
    assert set(told) == {"kept"}


def test_a_single_frame_shows_its_own_result_once_and_the_next_one_waits_to_be_asked_for(
    channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results of a stream batch: the first ones after a step are of the pictures before it, the last ones repeat it."""
    monkeypatch.setattr(gate_module, "ACK_S", 1000.0)
    asked: list[int] = []

    class Watched(Gate):
        def shows(self, number: int) -> bool:
            asked.append(number)
            return super().shows(number)

    gate, sink = Watched(), Kept()
    told: list[str] = []
    source = InputPump(Scripted(picture(1)), channel, print, gate)
    output = OutputPump(sink, channel, print, told.append, gate)
    with RingReader(f"{channel}.in") as reader, RingWriter(f"{channel}.out", capacity_bytes=4096) as writer:

        def result(value: int, of: int) -> None:
            before = len(asked)
            writer.write({Kind.COLOUR: picture(value).pixels}, source_frame_id=of)
            until(lambda: len(asked) > before)

        source.start()
        output.start()
        assert until(lambda: reader.read(1.0)).source_frame_id == 1
        result(1, of=1)
        until(lambda: len(told) == 1)
        gate.close()
        result(1, of=1)
        gate.step()
        gate.step()
        assert until(lambda: reader.read(1.0)).source_frame_id == 2
        result(11, of=1)
        # An acknowledgement that comes before its result is none.
        gate.acknowledge()
        result(12, of=2)
        until(lambda: len(told) == 2)
        result(13, of=2)
        # The second step waits for the project's word.
        assert reader.read(timeout_s=0.1) is None
        gate.acknowledge()
        assert until(lambda: reader.read(1.0)).source_frame_id == 3
        result(14, of=3)
        until(lambda: len(told) == 3)
        # Without that word it goes on after a while.
        gate.step()
        assert not gate.take_step(0.0)
        gate.open()
        result(15, of=3)
        until(lambda: len(told) == 4)
        source.stop()
        output.stop()
    assert [int(frame[0, 0, 0]) for frame in sink.frames] == [1, 12, 14, 15]


def test_a_single_frame_goes_on_without_an_acknowledgement_or_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "ACK_S", 0.0)
    gate = Gate()
    gate.watch()
    gate.close()
    for _ in range(3):
        gate.step()
    assert gate.take_step(0.0)
    gate.passes(1)
    assert not gate.take_step(0.0)
    assert gate.shows(1) and not gate.shows(0)
    gate.shown(1)
    assert not gate.shows(1)
    assert gate.take_step(0.0)
    monkeypatch.setattr(gate_module, "RESULT_S", 0.0)
    gate.passes(2)
    assert gate.take_step(0.0)


def test_where_no_picture_is_needed_blank_ones_come_until_there_are_some(channel: str) -> None:
    source = Scripted()
    free = [False]
    pump = InputPump(source, channel, print, free=lambda: free[0])
    with RingReader(f"{channel}.in") as reader:
        pump.start()
        assert reader.read(timeout_s=0.1) is None
        free[0] = True
        for _ in range(3):
            assert (until(lambda: reader.read(1.0)).planes[Kind.COLOUR] == 128).all()
        source.pictures = [picture(7)]
        until(lambda: (reader.read(1.0).planes[Kind.COLOUR] == 7).all())
        # Painting goes on although that picture does not change.
        assert (until(lambda: reader.read(1.0)).planes[Kind.COLOUR] == 7).all()
        pump.gate.rename("other")
        until(lambda: source.switched == ["other"])
        pump.stop()


def test_a_pump_whose_end_fails_ends_tidily(channel: str, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Scripted):
        def poll(self, again: bool = False) -> TakenPicture | None:
            raise ZeroDivisionError("broken")

    source = Broken()
    pump = InputPump(source, channel, print)
    pump.start()
    until(lambda: source.closed)
    pump.stop()
    assert "input ended" in caplog.text and "broken" in caplog.text
    with RingWriter(f"{channel}.in", capacity_bytes=4096):
        pass


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["", "x", "td", "td:", "nothing:a", ":a", "TD:a"])
def test_words_that_name_no_adaptor(words: str) -> None:
    with pytest.raises(AdaptorError, match="write one of td:NAME, sdtd:NAME:WIDTHxHEIGHT"):
        find(words)


def test_a_channel_name_is_made_of_the_inputs_name() -> None:
    assert channel_name("td:my stage/1") == "my-stage-1"
    assert channel_name("sdtd:input_stream:512x512") == "input_stream"
    assert channel_name("td:...") == "host"
    assert len(channel_name("td:" + "x" * 99)) == 40


def test_ports() -> None:
    assert parse_ports("8247") == (8247, 8248)
    assert parse_ports("0:9") == (0, 9)
    for wrong in ("", "x", "1:2:3", "1:", "70000", "1:70000", "1:0", "-1"):
        with pytest.raises(Exception, match="write PORT:REPLY_PORT"):
            parse_ports(wrong)


def test_one_name_for_both_ends_is_refused(channel: str) -> None:
    for scheme, rest in (("td", ""), ("sdtd", ":8x8")):
        with pytest.raises(AdaptorError, match="give them different names"):
            open_pumps(f"{scheme}:same{rest}", f"{scheme}:same", channel, print)


def test_a_second_sender_on_the_channel_is_refused_and_nothing_stays_open(channel: str) -> None:
    with RingWriter(f"{channel}.in", capacity_bytes=4096), pytest.raises(WriterExists):
        open_pumps("td:a", "td:b", channel, print)
    with pytest.raises(AdaptorError):
        open_pumps("td:a", "td:b:v7", channel, print)
    # The channel's writer of the failed attempt is gone.
    RingWriter(f"{channel}.in", capacity_bytes=4096).close()


def test_every_row_of_the_table_opens_and_closes(channel: str) -> None:
    words = {"td": f"{channel}-x", "sdtd": f"{channel}-x:8x8"}
    assert set(words) == set(ADAPTORS)
    for scheme, each in ADAPTORS.items():
        each.open_input(words[scheme], print).close()
        each.open_output(words[scheme], print).close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--channel NAME is wanted, or --input of another program"),
        (["--output", "td:a"], "--channel NAME is wanted"),
        (["--input", "td:a", "--lossless"], "--lossless is for rings"),
        (["--channel", "a", "--sdtd-osc", "x"], "write PORT:REPLY_PORT"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        host_command.main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--input", "what:a"], "host: 'what:a': write one of td:NAME"),
        (["--input", "td:a", "--output", "td:a"], "host: --input and --output are both td:a"),
        (["--input", "sdtd:a:0x0"], "host: sdtd:a:0x0: write sdtd:NAME:WIDTHxHEIGHT"),
        (["--input", "sdtd:a:20000x20000"], "host: sdtd:a:20000x20000: write"),
        (["--input", "td:a/b"], "host: shared memory 'a/b': use a name"),
    ],
)
def test_mistakes_are_answered_at_once(
    words: list[str], said: str, channel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        host_command.main(["--channel", channel, "--model", "passthrough", "--no-page", "--osc-port", "0", *words]) == 1
    )
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert shown.count("\n") == 1

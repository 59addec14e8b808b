"""The host between two real rings: order, identity of frames, parameters, bad input, twins, restarts."""

from __future__ import annotations

import logging
import time
import uuid

import numpy as np
import pytest

from bridge.commands import channel_doctor
from bridge.control.live import LiveParams
from bridge.host.host import COMPLAIN_S, Host, HostConfig, HostError
from bridge.ring import RingReader, RingWriter, WriterExists, now_ns
from bridge.ring.layout import Format, Kind, Origin, Policy
from core.params import Params

PATIENCE_S = 60.0
SAME_WAY = {"device": "cpu", "dtype": "float32", "backend": "eager", "threads": 1}
"""Nothing is left to measure: two hosts that are to give the same bytes run their networks in the same way."""


@pytest.fixture
def channel():
    return f"test-host-{uuid.uuid4().hex[:8]}"


class Rig:
    """A host with a writer before it and a reader behind it."""

    def __init__(self, channel: str, params: Params | None = None, lossless: bool = False, **options):
        config = HostConfig(channel, lossless=lossless, **options)
        self.host = Host(config, live=LiveParams(params or Params(steps=1)))
        self.writer = RingWriter(f"{channel}.in", policy=Policy.LOSSLESS if lossless else Policy.NEWEST)
        self.reader = RingReader(f"{channel}.out", lossless=lossless)
        self.host.start()
        assert self.host.ready.wait(PATIENCE_S) or self.host.failure

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.host.stop()
        assert self.host.join(PATIENCE_S)
        self.writer.close()
        self.reader.close()

    def until(self, wanted, again=None):
        """The first output frame for which `wanted` holds; `again` is called while waiting."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if again is not None:
                again()
            frame = self.reader.read(timeout_s=0.1)
            if frame is not None and wanted(frame):
                return frame
        raise AssertionError(f"no such frame came out; host: {self.host.failure}, {self.host.statistics.snapshot()}")

    def wait(self, condition):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{self.host.failure}, {self.host.statistics.snapshot()}"
            time.sleep(0.001)


def picture(value: int, size=(64, 64), channels=4) -> np.ndarray:
    return np.full((size[1], size[0], channels), value % 256, np.uint8)


def test_a_frame_comes_back_with_its_source_and_stamps(channel):
    with Rig(channel, model="passthrough") as rig:
        stamp = now_ns()
        rig.writer.write({Kind.COLOUR: picture(77)}, source_frame_id=41, capture_ns=stamp)
        frame = rig.until(lambda f: True)
        assert frame.source_frame_id == 41
        assert frame.capture_ns == stamp
        assert frame.publish_ns >= stamp
        assert frame.formats[Kind.COLOUR] == Format.RGBA8
        assert np.array_equal(frame.planes[Kind.COLOUR][..., :3], picture(77)[..., :3])
        assert frame.planes[Kind.COLOUR][..., 3].min() == 255


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_overlapped_loop_equals_its_serial_twin(channel, steps):
    """Every frame, every byte, through the real model, lossless on both sides: none is kept back at the end."""
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(8)]
    outputs = []
    for overlap in (True, False):
        got = {}
        options = {"size": (64, 64), "overlap": overlap, **SAME_WAY}
        with Rig(f"{channel}-{overlap}", Params(steps=steps), lossless=True, model="embedded", **options) as rig:
            for number, pixels in enumerate(frames):
                rig.writer.write({Kind.COLOUR: pixels}, source_frame_id=number, timeout_s=PATIENCE_S)
                frame = rig.until(lambda f: True)
                got[frame.source_frame_id] = frame.planes[Kind.COLOUR].copy()
        outputs.append(got)
    overlapped, serial = outputs
    assert sorted(overlapped) == sorted(serial) == list(range(len(frames)))
    for number, pixels in serial.items():
        assert np.array_equal(overlapped[number], pixels)


def test_the_overlapped_stream_batch_equals_its_serial_twin(channel):
    """The same in throughput mode, newest wins, fed no faster than frames are taken."""
    random = np.random.default_rng(1)
    frames = [random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(8)]
    outputs = []
    for overlap in (True, False):
        got = {}
        options = {"size": (64, 64), "overlap": overlap, **SAME_WAY}
        with Rig(f"{channel}-{overlap}", Params(steps=3), model="embedded", **options) as rig:
            for number, pixels in enumerate(frames, 1):
                rig.writer.write({Kind.COLOUR: pixels}, source_frame_id=number)
                newest = 0
                while newest < number:
                    frame = rig.until(lambda f: True)
                    newest = frame.source_frame_id
                    got.setdefault(newest, frame.planes[Kind.COLOUR].copy())
        outputs.append(got)
    overlapped, serial = outputs
    assert {1, len(frames)} <= set(overlapped) & set(serial)
    for number in set(overlapped) & set(serial):
        assert np.abs(overlapped[number].astype(int) - serial[number]).max() <= 1


def test_frames_in_flight_come_out_when_the_source_pauses(channel):
    """Four steps and a source that stops: the last picture still arrives, none of the batch is kept back."""
    with Rig(channel, Params(steps=4), model="passthrough") as rig:
        for number in range(6):
            rig.writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
            time.sleep(0.02)
        rig.until(lambda f: f.source_frame_id == 5)


def test_output_never_goes_back_in_time(channel):
    with Rig(channel, Params(steps=3), model="passthrough") as rig:
        seen = []
        for number in range(150):
            rig.writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
            frame = rig.reader.read()
            if frame is not None:
                assert (frame.planes[Kind.COLOUR][..., :3] == frame.source_frame_id % 256).all()
                seen.append(frame.source_frame_id)
            time.sleep(0.002)
        rig.until(lambda f: f.source_frame_id == 149)
        assert seen == sorted(seen)


def test_parameters_are_live_even_on_a_still_picture(channel):
    with Rig(channel, Params(steps=1), model="embedded", size=(64, 64)) as rig:
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        rig.writer.write({Kind.COLOUR: pixels}, source_frame_id=1)
        before = rig.until(lambda f: True)
        rig.host.live.update({"prompt": "blueprint style, blue box", "strength": 1.0, "seed": 5})
        after = rig.until(lambda f: f.param_revision == rig.host.live.revision)
        assert after.source_frame_id == 1
        assert not np.array_equal(before.planes[Kind.COLOUR], after.planes[Kind.COLOUR])


def test_a_resize_and_every_format_are_followed(channel):
    with Rig(channel, model="passthrough") as rig:
        for number, (size, channels, dtype) in enumerate(
            [((64, 48), 4, np.uint8), ((32, 96), 3, np.uint8), ((200, 100), 4, np.float32), ((64, 64), 4, np.float16)]
        ):
            pixels = np.full((size[1], size[0], channels), 1.0 if dtype != np.uint8 else 255, dtype)
            rig.writer.write({Kind.COLOUR: pixels}, source_frame_id=number)
            frame = rig.until(
                lambda f, number=number, size=size: f.source_frame_id == number and (f.width, f.height) == size
            )
            assert frame.planes[Kind.COLOUR].min() == 255


def test_a_source_that_changes_its_size_all_the_time_is_shown_all_the_same(channel):
    """Whoever drags the edge of a window must not see the picture stand still."""
    with Rig(channel, Params(steps=2), model="passthrough") as rig:
        sent = [0]

        def drag():
            sent[0] += 1
            rig.writer.write({Kind.COLOUR: picture(sent[0], (64 + sent[0] % 7, 64))}, source_frame_id=sent[0])

        seen = {rig.until(lambda f: True, drag).source_frame_id for _ in range(20)}
        assert len(seen) >= 15


def test_bottom_left_origin_and_bgra_are_turned_round(channel):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[0] = (255, 0, 0, 255)
    with Rig(channel, model="passthrough") as rig:
        rig.writer.write(
            {Kind.COLOUR: pixels}, formats={Kind.COLOUR: Format.BGRA8}, origin=Origin.BOTTOM_LEFT, source_frame_id=1
        )
        out = rig.until(lambda f: True).planes[Kind.COLOUR]
        assert out[-1, 0].tolist() == [0, 0, 255, 255]
        assert out[0, 0].tolist() == [0, 0, 0, 255]


def test_bad_frames_are_named_and_the_host_goes_on(channel, caplog):
    with Rig(channel, model="passthrough") as rig, caplog.at_level(logging.WARNING, "frameloom.host"):
        rig.writer.write({Kind.DEPTH: np.ones((8, 8), np.float32)}, source_frame_id=1)
        time.sleep(0.3)
        nan = np.full((8, 8, 4), np.nan, np.float32)
        rig.writer.write({Kind.COLOUR: nan}, source_frame_id=2)
        frame = rig.until(lambda f: f.source_frame_id == 2)
        assert frame.planes[Kind.COLOUR][..., :3].max() == 0
        rig.writer.write({Kind.COLOUR: picture(9)}, source_frame_id=3)
        rig.until(lambda f: f.source_frame_id == 3)
        assert "without a colour plane" in caplog.text


def test_a_writer_that_leaves_and_comes_back_is_followed(channel):
    with Rig(channel, model="passthrough") as rig:
        rig.writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        rig.until(lambda f: f.source_frame_id == 1)
        rig.writer.close()
        rig.writer = RingWriter(f"{channel}.in")
        rig.until(
            lambda f: f.source_frame_id == 7,
            again=lambda: rig.writer.write({Kind.COLOUR: picture(7)}, source_frame_id=7),
        )


def test_a_second_host_on_the_channel_is_refused(channel):
    with Rig(channel, model="passthrough"):
        with pytest.raises(WriterExists):
            Host(HostConfig(channel, model="passthrough"))


def test_two_channels_do_not_disturb_each_other(channel):
    with Rig(f"{channel}a", model="passthrough") as one, Rig(f"{channel}b", model="passthrough") as two:
        one.writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        two.writer.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
        assert one.until(lambda f: True).source_frame_id == 1
        assert two.until(lambda f: True).source_frame_id == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "no/such/folder"}, "there is no model folder"),
        ({"model": "embedded", "device": "abacus"}, "use one of"),
        ({"model": "embedded", "dtype": "int3"}, "use one of"),
    ],
)
def test_a_host_that_cannot_start_says_why(channel, options, message):
    host = Host(HostConfig(channel, **options))
    with pytest.raises(HostError, match=message):
        host.run()


def test_paused_holds_the_picture(channel):
    with Rig(channel, model="passthrough") as rig:
        rig.writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        rig.until(lambda f: f.source_frame_id == 1)
        rig.host.live.set("paused", True)
        time.sleep(0.3)
        rig.writer.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
        assert rig.reader.read(timeout_s=0.5) is None
        assert rig.host.statistics.counter("skipped") >= 1
        # The frame that came while paused is the newest there is: it shows, although the source sends nothing more.
        rig.host.live.set("paused", False)
        rig.until(lambda f: f.source_frame_id == 2)
        rig.writer.write({Kind.COLOUR: picture(3)}, source_frame_id=3)
        rig.until(lambda f: f.source_frame_id == 3)


def test_a_similar_frame_that_was_skipped_shows_when_the_source_rests(channel):
    with Rig(channel, Params(steps=1, similarity_filter=True, similarity_threshold=0.5), model="passthrough") as rig:
        first = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        second = first.copy()
        second[:4, :4] ^= 1
        rig.writer.write({Kind.COLOUR: first}, source_frame_id=1)
        rig.until(lambda f: f.source_frame_id == 1)
        rig.writer.write({Kind.COLOUR: second}, source_frame_id=2)
        frame = rig.until(lambda f: f.source_frame_id == 2)
        assert np.array_equal(frame.planes[Kind.COLOUR][..., :3], second)


def test_frames_overtaken_in_the_ring_count_as_dropped(channel):
    with Rig(channel, model="passthrough", overlap=False) as rig:
        rig.writer.write({Kind.COLOUR: picture(0)}, source_frame_id=1)
        rig.until(lambda f: f.source_frame_id == 1)
        for number in range(2, 300):
            rig.writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
        rig.until(lambda f: f.source_frame_id == 299)
        count = rig.host.statistics.counter
        assert count("frames_in") + count("dropped") == 299
        assert count("dropped") > 0


@pytest.mark.parametrize("overlap", [False, True])
def test_every_frame_that_was_taken_is_shown_or_counted_as_dropped(channel, overlap):
    """Also those that are given up in flight when the steps change, and those that meet an error."""
    with Rig(channel, Params(steps=4, mode="throughput"), model="passthrough", overlap=overlap) as rig:
        shown: set[int] = set()
        publish = rig.host._publisher.publish

        def seen(dispatched):
            if (finished := dispatched.latents.result()) is not None:
                shown.add(finished.tag.source_frame_id)
            publish(dispatched)

        rig.host._publisher.publish = seen
        sent = 0
        for steps in (4, 1, 3, 2, 4, 1):
            for _ in range(5):
                sent += 1
                rig.writer.write({Kind.COLOUR: picture(sent)}, source_frame_id=sent)
                rig.wait(lambda taken=sent: rig.host.statistics.counter("frames_in") == taken)
            rig.host.live.set("steps", steps)
        rig.until(lambda f: f.source_frame_id == sent)
        rig.wait(lambda: len(shown) + rig.host.statistics.counter("dropped") == sent)
        assert rig.host.statistics.counter("dropped") > 0


@pytest.mark.parametrize("part", ["encode", "advance", "decode"])
def test_an_error_costs_one_frame_and_not_the_host(channel, part, caplog):
    with Rig(channel, model="passthrough") as rig, caplog.at_level(logging.WARNING, "frameloom.host"):
        rig.writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        rig.until(lambda f: f.source_frame_id == 1)
        stream = rig.host.planner.work.stream
        good = getattr(stream, part)

        def once(*args):
            setattr(stream, part, good)
            raise RuntimeError("out of memory, for instance")

        setattr(stream, part, once)
        rig.writer.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
        deadline = time.monotonic() + PATIENCE_S
        while "was lost" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        rig.writer.write({Kind.COLOUR: picture(3)}, source_frame_id=3)
        rig.until(lambda f: f.source_frame_id == 3)
        assert "out of memory, for instance" in caplog.text


@pytest.mark.parametrize("part", ["encode", "advance", "decode", "plan"])
def test_a_card_that_is_lost_for_good_ends_the_host_and_says_so(channel, part):
    with Rig(channel, model="passthrough") as rig:
        rig.writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        rig.until(lambda f: f.source_frame_id == 1)

        def fault(*args):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        setattr(rig.host.planner.work.stream, part, fault)
        if part == "plan":
            rig.host.live.set("seed", 9)
        else:
            rig.writer.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
        rig.wait(lambda: rig.host.failure is not None)
        assert rig.host.failure.startswith("the card cannot be used any more by this process (CUDA error: an illegal")
        assert "start it again" in rig.host.failure
        assert rig.host.join(PATIENCE_S)


def test_parameters_that_cannot_be_used_leave_the_old_ones(channel, caplog):
    with Rig(channel, model="passthrough", size=(64, 64)) as rig, caplog.at_level(logging.WARNING, "frameloom.host"):
        stream = rig.host.planner.work.stream
        good = stream.plan

        def refuse(params):
            raise RuntimeError("no memory for this prompt")

        stream.plan = refuse
        rig.host.live.set("seed", 9)
        deadline = time.monotonic() + PATIENCE_S
        while "old ones stay" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "no memory for this prompt" in caplog.text
        stream.plan = good
        rig.writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        rig.until(lambda f: f.source_frame_id == 1)


def test_a_cut_output_segment_is_replaced(channel):
    with Rig(channel, model="passthrough") as rig:
        rig.writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        rig.until(lambda f: f.source_frame_id == 1)
        rig.reader.close()
        with open(rig.host._publisher.writer.segment_path, "r+b") as segment:
            segment.truncate(4096)
        rig.reader = RingReader(f"{channel}.out")
        for number in range(2, 5):
            rig.writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
            time.sleep(0.1)
        rig.until(
            lambda f: f.source_frame_id == 9,
            again=lambda: rig.writer.write({Kind.COLOUR: picture(9)}, source_frame_id=9),
        )


def test_a_host_with_nothing_to_do_keeps_its_heart_beating(channel):
    with Rig(channel, model="passthrough"):
        started, deadline = now_ns(), time.monotonic() + PATIENCE_S
        look = channel_doctor._look(f"{channel}.out", "")
        while look.heartbeat_ns <= started and time.monotonic() < deadline:
            time.sleep(0.02)
            look = channel_doctor._look(f"{channel}.out", "")
        assert look.heartbeat_ns > started
        assert look.sequence == 0


def test_motion_of_a_frame_whose_first_row_is_the_lowest_is_turned_over_with_it(channel):
    from bridge.host.frame_input import input_of

    motion = np.zeros((2, 4, 2), np.float16)
    motion[0] = (3.0, 1.0)
    planes = {Kind.COLOUR: np.zeros((2, 4, 3), np.uint8), Kind.MOTION: motion}
    with RingWriter(f"{channel}.in") as writer, RingReader(f"{channel}.in") as reader:
        for origin, row, sign in ((Origin.TOP_LEFT, 0, 1.0), (Origin.BOTTOM_LEFT, 1, -1.0)):
            writer.write(planes, origin=origin)
            frame = reader.read(timeout_s=5.0)
            assert frame is not None
            read = input_of(frame).planes["motion"]()
            assert read[row, 0].tolist() == [3.0, sign] and read[1 - row].abs().max() == 0.0


@pytest.mark.parametrize("sent", [True, False])
def test_motion_that_is_wanted_and_not_sent_is_named(channel, sent, caplog):
    planes = {Kind.COLOUR: np.full((64, 64, 3), 90, np.uint8)}
    if sent:
        planes[Kind.MOTION] = np.zeros((64, 64, 2), np.float16)
    params = Params(steps=1, temporal="engine")
    with Rig(channel, params, size=(64, 64), **SAME_WAY) as rig, caplog.at_level(logging.WARNING, "frameloom.host"):
        started_s = time.monotonic()
        for number in range(1, 6):
            rig.writer.write(planes, frame_id=number, source_frame_id=number)
            assert rig.reader.read(timeout_s=PATIENCE_S) is not None
        assert ("without a motion plane" in caplog.text) != sent
        # On a busy machine five frames may take longer than it stays silent.
        most = 1 + (time.monotonic() - started_s) // COMPLAIN_S
        assert caplog.text.count("without a motion plane") <= most

"""The ring within one process: every format, both ways to write, three ways to read, growth, restarts, refusals."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import stat
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bridge import ring
from bridge.ring import (
    BufferMismatch,
    ColourSpace,
    Format,
    FrameTooLarge,
    InvalidChannel,
    InvalidFrame,
    Kind,
    NoSpace,
    Origin,
    PlaneSpec,
    Policy,
    ReaderExists,
    ReaderTimeout,
    RingClosed,
    RingReader,
    RingWriter,
    State,
    WriterExists,
    layout,
    segment,
)
from bridge.ring import attachment as ring_attachment
from bridge.ring import reader as ring_reader
from bridge.ring.header import WAKE_32
from bridge.ring.lock import Lock
from bridge.ring.wake import Naps
from tests.bridge.ring.ring_peer import number_of, picture

FORMATS = [(kind, f) for kind, formats in layout.ALLOWED_FORMATS.items() for f in formats]
DTYPES = {"u8": np.uint8, "f16": np.float16, "f32": np.float32}


def some_pixels(f: Format, height: int = 6, width: int = 10) -> np.ndarray:
    pixel = layout.PIXEL_FORMATS[f]
    shape = (height, width, pixel.channels) if pixel.channels > 1 else (height, width)
    return (np.arange(np.prod(shape)).reshape(shape) % 251).astype(DTYPES[pixel.component])


def in_child(act: Callable[..., object], *given: object) -> str:
    """What becomes of a call in a forked child: "done", or the name of the ring's error."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        said = "crashed"
        try:
            act(*given)
            said = "done"
        except ring.RingError as error:
            said = type(error).__name__
        finally:
            os.write(write_end, said.encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    with open(read_end) as answer:
        return answer.read()


@pytest.mark.parametrize(("kind", "f"), FORMATS)
def test_every_format_arrives_as_written(tmp_path: pathlib.Path, kind: Kind, f: Format) -> None:
    pixels = some_pixels(f)
    with RingWriter("a", 4096, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        writer.write({kind: pixels}, formats={kind: f})
        frame = reader.read()
        assert frame is not None
        assert frame.planes[kind].dtype == pixels.dtype
        assert np.array_equal(frame.planes[kind], pixels)
        assert (frame.width, frame.height) == (10, 6)


def test_all_planes_and_fields_arrive_together(tmp_path: pathlib.Path) -> None:
    planes = {kind: some_pixels(formats[0]) for kind, formats in layout.ALLOWED_FORMATS.items()}
    pose = np.arange(16, dtype=np.float32).reshape(4, 4)
    with RingWriter("a", 1 << 16, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        sequence = writer.write(
            planes,
            frame_id=77,
            source_frame_id=41,
            capture_ns=123,
            param_revision=9,
            flags=1 << 20,
            origin=Origin.BOTTOM_LEFT,
            colour_space=ColourSpace.LINEAR,
            T_world_camera=pose,
            intrinsics=(1.0, 2.0, 3.0, 4.0),
        )
        with reader.latest() as frame:
            assert frame is not None
            assert set(frame.planes) == set(Kind)
            for kind, pixels in planes.items():
                assert np.array_equal(frame.planes[kind], pixels)
                assert not frame.planes[kind].flags.writeable
            assert (frame.sequence, frame.frame_id, frame.source_frame_id) == (sequence, 77, 41)
            assert (frame.capture_ns, frame.param_revision) == (123, 9)
            assert frame.publish_ns <= ring.now_ns()
            assert frame.flags & 1 << 20
            assert (frame.origin, frame.colour_space) == (Origin.BOTTOM_LEFT, ColourSpace.LINEAR)
            assert np.array_equal(frame.T_world_camera, pose)  # type: ignore[arg-type]
            assert frame.intrinsics == (1.0, 2.0, 3.0, 4.0)
            assert frame.generation == writer.generation
        assert frame.valid


def test_a_frame_without_pose_after_one_with_pose_has_none(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 4096, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        for number in range(12):
            writer.write({Kind.COLOUR: some_pixels(Format.RGB8)}, T_world_camera=None if number % 2 else np.eye(4))
            frame = reader.read()
            assert frame is not None
            assert (frame.T_world_camera is None) == bool(number % 2)


def test_nan_and_infinite_pixels_pass_untouched(tmp_path: pathlib.Path) -> None:
    pixels = np.array([[np.nan, np.inf], [-np.inf, -0.0]], np.float32)
    with RingWriter("a", 4096, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        writer.write({Kind.DEPTH: pixels})
        frame = reader.read()
        assert frame is not None
        assert frame.planes[Kind.DEPTH].tobytes() == pixels.tobytes()


def test_strided_and_single_channel_inputs(tmp_path: pathlib.Path) -> None:
    wide = np.arange(20 * 20 * 4, dtype=np.uint8).reshape(20, 20, 4)
    with RingWriter("a", 4096, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        writer.write({Kind.COLOUR: wide[::-2, ::3, :3]})
        frame = reader.read()
        assert frame is not None and np.array_equal(frame.planes[Kind.COLOUR], wide[::-2, ::3, :3])
        writer.write({Kind.MASK: wide[:, :, :1]})
        frame = reader.read()
        assert frame is not None and np.array_equal(frame.planes[Kind.MASK], wide[:, :, 0])
        motion = np.linspace(-3, 3, 8).reshape(2, 2, 2).astype(np.float32)
        writer.write({Kind.MOTION: motion})
        frame = reader.read()
        assert frame is not None and np.array_equal(frame.planes[Kind.MOTION], motion.astype(np.float16))


def test_zero_copy_writing_publishes_on_exit_and_abandons_on_error(tmp_path: pathlib.Path) -> None:
    spec = [PlaneSpec(Kind.COLOUR, Format.RGBA8, 64, 48)]
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        with writer.slot(spec) as slot:
            slot.planes[Kind.COLOUR][:] = picture(5)
            slot.source_frame_id = 5
            assert reader.read() is None
        frame = reader.read()
        assert frame is not None and number_of(frame.planes[Kind.COLOUR]) == 5 == frame.source_frame_id
        with pytest.raises(ZeroDivisionError), writer.slot(spec) as slot:
            slot.planes[Kind.COLOUR][:] = 1
            raise ZeroDivisionError
        assert reader.read() is None
        writer.write({Kind.COLOUR: picture(6)}, source_frame_id=6)
        frame = reader.read()
        assert frame is not None and frame.source_frame_id == 6 and frame.sequence == 2


def test_newest_wins_and_nothing_is_delivered_twice(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        for number in range(1, 30):
            writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
        frame = reader.read()
        assert frame is not None and frame.source_frame_id == 29
        assert reader.read() is None
        assert not reader.wait(0.02)


def test_read_into(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        writer.write({Kind.COLOUR: picture(3)}, source_frame_id=3)
        for wrong in (np.zeros((2, 2), np.float32), bytes(48 * 64 * 4), bytearray(10), 17):
            with pytest.raises(BufferMismatch, match="shape"):
                reader.read_into(wrong)
        exact = np.zeros((48, 64, 4), np.uint8)
        frame = reader.read_into(exact)
        assert frame is not None and frame.planes[Kind.COLOUR] is exact and number_of(exact) == 3
        writer.write({Kind.COLOUR: picture(4)}, source_frame_id=4)
        loose = bytearray(48 * 64 * 4 + 100)
        frame = reader.read_into(loose)
        assert frame is not None and number_of(frame.planes[Kind.COLOUR]) == 4
        assert loose[:8] == (4).to_bytes(8, "little") and not any(loose[48 * 64 * 4 :])
        writer.write({Kind.MASK: np.ones((4, 4), np.uint8)})
        with pytest.raises(BufferMismatch, match="no colour plane"):
            reader.read_into(exact)


def test_a_buffer_is_not_refused_for_a_frame_that_is_being_overwritten(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RingWriter("a", 1 << 16, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        check = reader._check

        def meanwhile(*what: Any) -> Any:
            monkeypatch.setattr(reader, "_check", check)
            # The fourth comes into the slot whose description is read at this moment.
            for number, width in enumerate((64, 64, 64, 128, 64), 2):
                writer.write({Kind.COLOUR: picture(number, width)}, source_frame_id=number)
            return check(*what)

        monkeypatch.setattr(reader, "_check", meanwhile)
        frame = reader.read_into(np.zeros(64 * 48 * 4, np.uint8))
        assert frame is not None and frame.source_frame_id == 6


def test_a_larger_frame_makes_the_next_generation_and_readers_follow(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        with reader.latest() as held:
            assert held is not None
            first = writer.generation
            writer.write({Kind.COLOUR: picture(2, 640, 480)}, source_frame_id=2)
            assert writer.generation != first
            # Nobody unmaps under a running view.
            assert number_of(held.planes[Kind.COLOUR]) == 1
        assert held.valid
        frame = reader.read(5.0)
        assert frame is not None and number_of(frame.planes[Kind.COLOUR]) == 2
        assert frame.sequence == 2 and reader.generation == writer.generation
        assert len(list(tmp_path.glob("*.seg"))) == 1
        second = writer.generation
        writer.write({Kind.COLOUR: picture(3)}, source_frame_id=3)
        assert writer.generation == second, "a resize within the capacity costs nothing"


def test_growth_can_be_bounded(tmp_path: pathlib.Path) -> None:
    with (
        RingWriter("a", 12288, directory=tmp_path, max_capacity_bytes=12288) as writer,
        RingReader("a", directory=tmp_path) as reader,
    ):
        with pytest.raises(FrameTooLarge, match="max_capacity_bytes"):
            writer.write({Kind.COLOUR: picture(1, 640, 480)})
        with pytest.raises(FrameTooLarge), writer.slot([PlaneSpec(Kind.COLOUR, Format.RGBA8, 640, 480)]):
            pass
        writer.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
        frame = reader.read()
        assert frame is not None and frame.source_frame_id == 2


@pytest.mark.parametrize(
    "planes",
    [
        {},
        {Kind.COLOUR: np.zeros((0, 4, 4), np.uint8)},
        {Kind.COLOUR: np.zeros((4, 0, 4), np.uint8)},
        {Kind.COLOUR: np.zeros((4, 4, 4), np.int64)},
        {Kind.COLOUR: np.zeros((4, 4, 7), np.uint8)},
        {Kind.COLOUR: np.zeros((4,), np.uint8)},
        {Kind.COLOUR: [[1, 2], [3, 4]]},
        {Kind.COLOUR: None},
        {Kind.MOTION: np.zeros((4, 4, 4), np.float16)},
    ],
)
def test_impossible_frames_are_refused_and_the_ring_goes_on(tmp_path: pathlib.Path, planes: dict) -> None:
    with RingWriter("a", 4096, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        with pytest.raises(InvalidFrame):
            writer.write(planes)
        assert reader.read() is None
        writer.write({Kind.MASK: np.ones((4, 4), np.uint8)})
        assert reader.read() is not None


def test_wrong_format_or_bad_metadata_is_refused_and_the_slot_given_back(tmp_path: pathlib.Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    with RingWriter("a", 4096, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        with pytest.raises(InvalidFrame, match="MASK"):
            writer.write({Kind.MASK: pixels}, formats={Kind.MASK: Format.RGBA8})
        with pytest.raises(InvalidFrame, match="RGB8"):
            writer.write({Kind.COLOUR: pixels}, formats={Kind.COLOUR: Format.RGB8})
        for bad in ({"intrinsics": (1.0, 2.0)}, {"T_world_camera": np.eye(3)}, {"source_frame_id": -1}):
            with pytest.raises(InvalidFrame):
                writer.write({Kind.COLOUR: pixels}, **bad)  # type: ignore[arg-type]
        assert reader.read() is None
        for _ in range(8):
            writer.write({Kind.COLOUR: pixels})
            assert reader.read() is not None


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", ".a", "x" * 49, "é", "a\n"])
def test_channel_names_are_checked(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(InvalidChannel, match="letters"):
        RingWriter(name, 4096, directory=tmp_path)
    with pytest.raises(InvalidChannel, match="letters"):
        RingReader(name, directory=tmp_path)


def test_a_second_live_writer_is_refused_and_a_closed_one_succeeded(tmp_path: pathlib.Path) -> None:
    writer = RingWriter("a", 4096, directory=tmp_path)
    with pytest.raises(WriterExists, match=str(os.getpid())):
        RingWriter("a", 4096, directory=tmp_path)
    writer.close()
    writer.close()
    with pytest.raises(RingClosed):
        writer.write({Kind.MASK: np.ones((4, 4), np.uint8)})
    with RingWriter("a", 4096, directory=tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_states_of_the_writer_and_no_replay_of_its_last_picture(tmp_path: pathlib.Path) -> None:
    reader = RingReader("a", directory=tmp_path)
    assert reader.state is State.NO_WRITER
    assert reader.read() is None
    assert reader.generation == 0
    writer = RingWriter("a", 1 << 14, directory=tmp_path)
    assert reader.state is State.LIVE
    writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
    writer.close()
    assert reader.state is State.WRITER_GONE
    frame = reader.read()
    assert frame is not None and frame.source_frame_id == 1, "the last whole frame may still be taken, once"
    assert reader.read() is None
    writer = RingWriter("a", 1 << 14, directory=tmp_path)
    assert reader.read() is None, "a restart is no new picture"
    assert reader.state is State.LIVE
    assert reader.generation == writer.generation
    writer.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
    frame = reader.read()
    assert frame is not None and frame.source_frame_id == 2
    late = RingReader("a", directory=tmp_path)
    frame = late.read()
    assert frame is not None and frame.source_frame_id == 2
    writer.close()
    assert RingReader("a", directory=tmp_path).read() is None, "nobody attaches to what a dead writer left"
    reader.close()
    with pytest.raises(RingClosed):
        reader.read()


def test_wait_wakes_on_publication_on_resize_and_on_restart(tmp_path: pathlib.Path) -> None:
    reader = RingReader("a", directory=tmp_path)
    heard: list[int] = []

    def listen() -> None:
        while len(heard) < 3:
            frame = reader.read(timeout_s=20.0)
            assert frame is not None
            heard.append(frame.source_frame_id)

    listener = threading.Thread(target=listen)
    listener.start()
    writer = RingWriter("a", 1 << 14, directory=tmp_path)
    deadline = time.monotonic() + 20
    for number, size in ((1, 64), (2, 256), (3, 64)):
        if number == 3:
            writer.close()
            writer = RingWriter("a", 1 << 14, directory=tmp_path)
        writer.write({Kind.COLOUR: picture(number, size)}, source_frame_id=number)
        while len(heard) < number and time.monotonic() < deadline:
            time.sleep(0.005)
    listener.join(20)
    assert heard == [1, 2, 3]
    writer.close()


def test_pins_hold_while_the_writer_laps_and_extra_readers_get_copies(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, slots=4, directory=tmp_path) as writer:
        readers = [RingReader("a", directory=tmp_path) for _ in range(3)]
        blocks = []
        for number, reader in enumerate(readers, 1):
            writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
            block = reader.latest()
            blocks.append((block, block.__enter__()))
        for number in range(100, 200):
            writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
        for number, (_, frame) in enumerate(blocks, 1):
            assert frame is not None and number_of(frame.planes[Kind.COLOUR]) == number
        # Two of four slots can be pinned; the third reader owns its arrays.
        assert [f.planes[Kind.COLOUR].flags.owndata for _, f in blocks if f] == [False, False, True]
        for block, frame in blocks:
            block.__exit__(None, None, None)
            assert frame is not None and frame.valid
        for reader in readers:
            frame = reader.read()
            assert frame is not None and frame.source_frame_id == 199
            reader.close()


def test_a_view_that_a_rogue_writer_overwrites_is_not_valid(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        writer.write({Kind.COLOUR: picture(1)})
        with reader.latest() as frame:
            assert frame is not None
            writer._current.u64[writer._current.slot_words[writer._current.newest_slot]] += 1
        assert not frame.valid


def test_latest_does_not_nest(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        writer.write({Kind.COLOUR: picture(1)})
        with reader.latest() as frame:
            assert frame is not None
            with pytest.raises(RuntimeError, match="previous"), reader.latest():
                pass


def test_lossless_gives_every_frame_in_order(tmp_path: pathlib.Path) -> None:
    count = 60
    with RingWriter("a", 1 << 14, policy=Policy.LOSSLESS, directory=tmp_path, timeout_s=30) as writer:
        got: list[int] = []

        def listen() -> None:
            with RingReader("a", lossless=True, directory=tmp_path) as reader:
                while len(got) < count:
                    if len(got) % 2:
                        frame = reader.read(20.0)
                    else:
                        with reader.latest(20.0) as frame:
                            assert frame is not None
                            assert number_of(frame.planes[Kind.COLOUR]) == frame.source_frame_id
                    assert frame is not None
                    got.append(frame.source_frame_id)

        listener = threading.Thread(target=listen)
        listener.start()
        for number in range(1, count + 1):
            size = 64 if number < 20 else 128
            writer.write({Kind.COLOUR: picture(number, size)}, source_frame_id=number)
        listener.join(30)
        assert got == list(range(1, count + 1))


def test_lossless_refuses_a_second_reader_and_times_out_by_name(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, policy=Policy.LOSSLESS, directory=tmp_path, timeout_s=0.05) as writer:
        for number in range(1, 5):
            writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
        with pytest.raises(ReaderTimeout, match="reader"):
            writer.write({Kind.COLOUR: picture(5)}, source_frame_id=5)
        with RingReader("a", lossless=True, directory=tmp_path) as reader:
            frame = reader.read()
            assert frame is not None and frame.source_frame_id == 1, "no frame was lost by the timeout"
            with RingReader("a", lossless=True, directory=tmp_path) as second, pytest.raises(ReaderExists):
                second.read()
            writer.write({Kind.COLOUR: picture(5)}, source_frame_id=5)
            with pytest.raises(ReaderTimeout):
                writer.write({Kind.COLOUR: picture(6)}, source_frame_id=6)
        for number in range(6, 30):
            writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
        with RingReader("a", directory=tmp_path) as other:
            frame = other.read()
            assert frame is not None and frame.source_frame_id == 29


def test_a_lossless_reader_gets_every_frame_when_every_frame_outgrows_the_one_before(tmp_path: pathlib.Path) -> None:
    count = 12
    with RingWriter("a", 4096, policy=Policy.LOSSLESS, directory=tmp_path, timeout_s=30) as writer:
        got: list[int] = []

        def listen() -> None:
            with RingReader("a", lossless=True, directory=tmp_path) as reader:
                while len(got) < count and (frame := reader.read(20.0)) is not None:
                    got.append(frame.source_frame_id)

        listener = threading.Thread(target=listen)
        listener.start()
        for number in range(1, count + 1):
            writer.write({Kind.COLOUR: picture(number, 32 * number)}, source_frame_id=number)
        listener.join(60)
        assert got == list(range(1, count + 1))


def test_a_lossless_writer_that_grows_still_waits_for_its_first_reader(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 4096, policy=Policy.LOSSLESS, directory=tmp_path, timeout_s=0.05) as writer:
        for number in range(1, 5):
            writer.write({Kind.COLOUR: picture(number, 64)}, source_frame_id=number)
        with pytest.raises(ReaderTimeout):
            writer.write({Kind.COLOUR: picture(5, 64)}, source_frame_id=5)
        with pytest.raises(ReaderTimeout):
            writer.write({Kind.COLOUR: picture(5, 128)}, source_frame_id=5)
        with RingReader("a", lossless=True, directory=tmp_path) as reader:
            for number in range(1, 5):
                frame = reader.read()
                assert frame is not None and frame.source_frame_id == number


def test_a_lossless_reader_that_replaced_a_dead_one_is_waited_for_over_a_resize(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, policy=Policy.LOSSLESS, directory=tmp_path, timeout_s=0.05) as writer:
        with RingReader("a", lossless=True, directory=tmp_path) as reader:
            assert reader.read() is None
        for number in range(1, 7):
            writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
        with RingReader("a", lossless=True, directory=tmp_path) as reader:
            while reader.read() is not None:
                pass
            for number in range(7, 11):
                writer.write({Kind.COLOUR: picture(number, 128)}, source_frame_id=number)
            with pytest.raises(ReaderTimeout):
                writer.write({Kind.COLOUR: picture(11, 128)}, source_frame_id=11)
            for number in range(7, 11):
                frame = reader.read()
                assert frame is not None and frame.source_frame_id == number


@pytest.mark.skipif(sys.platform != "linux", reason="the default place is a folder of shared memory on Linux only")
def test_a_lossless_reader_that_comes_just_as_a_dead_one_is_let_go_loses_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RingWriter("a", 1 << 14, policy=Policy.LOSSLESS, directory=tmp_path, timeout_s=60) as writer:
        with RingReader("a", lossless=True, directory=tmp_path) as dead, contextlib.ExitStack() as stack:
            assert dead.read() is None and dead._at is not None
            dead._at._held[layout.LOSSLESS_ENTRY].abandon()
            for number in range(1, 5):
                writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
            lock = writer._reader_locks[-1]
            tested = lock.taken_elsewhere
            seen = []

            def meanwhile() -> bool:
                monkeypatch.setattr(lock, "taken_elsewhere", tested)
                alive = tested()
                second = stack.enter_context(RingReader("a", lossless=True, directory=tmp_path))
                seen.append((alive, second, second.read()))
                return alive

            monkeypatch.setattr(lock, "taken_elsewhere", meanwhile)
            writer.write({Kind.COLOUR: picture(5)}, source_frame_id=5)
            ((alive, second, first),) = seen
            assert not alive and first is not None and first.source_frame_id == 1
            with pytest.raises(ReaderTimeout):
                writer.write({Kind.COLOUR: picture(6)}, source_frame_id=6, timeout_s=0.05)
            assert [second.read().source_frame_id for _ in range(4)] == [2, 3, 4, 5]


def test_the_default_place_is_private_and_left_clean() -> None:
    channel = f"test-{uuid.uuid4().hex[:12]}"
    place = segment.place(channel)
    with RingWriter(channel, 4096) as writer, RingReader(channel) as reader:
        writer.write({Kind.MASK: np.ones((4, 4), np.uint8)})
        assert reader.read() is not None
        files = [place.record_path, place.segment_path(writer.generation), f"{place.folder}/{place.prefix}.lock"]
        for path in files:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert str(os.getuid()) in place.prefix
    assert not [p for p in files if os.path.exists(p)]


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_forked_child_neither_writes_nor_keeps_its_parents_lock_alive(tmp_path: pathlib.Path) -> None:
    writer = RingWriter("a", 4096, directory=tmp_path)
    ready, release = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            writer.write({Kind.MASK: np.ones((4, 4), np.uint8)})
            os.write(ready[1], b"bad")
        except RingClosed:
            os.write(ready[1], b"ok")
        os.read(release[0], 1)
        os._exit(0)
    assert os.read(ready[0], 3) == b"ok"
    writer.write({Kind.MASK: np.ones((4, 4), np.uint8)})
    writer.close()
    RingWriter("a", 4096, directory=tmp_path).close()
    os.write(release[1], b"x")
    os.waitpid(child, 0)
    for fd in ready + release:
        os.close(fd)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_forked_child_that_closes_its_parents_reader_leaves_the_parents_entry_alone(tmp_path: pathlib.Path) -> None:
    with (
        RingWriter("a", 1 << 14, policy=Policy.LOSSLESS, directory=tmp_path, timeout_s=0.05) as writer,
        RingReader("a", lossless=True, directory=tmp_path) as reader,
    ):
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        assert reader.read() is not None
        child = os.fork()
        if child == 0:
            try:
                reader.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        for number in range(2, 6):
            writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
        with pytest.raises(ReaderTimeout):
            writer.write({Kind.COLOUR: picture(6)}, source_frame_id=6)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_child_forked_while_its_parent_holds_a_view_or_a_slot_touches_neither(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        view = reader.latest()
        held = view.__enter__()
        assert held is not None and in_child(view.__exit__, None, None, None) == "done"
        for number in range(2, 8):
            writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
        assert number_of(held.planes[Kind.COLOUR]) == 1
        view.__exit__(None, None, None)
        assert held.valid
        # There is a newer frame; it is the parent's to take.
        assert in_child(reader.read) == in_child(reader.latest().__enter__) == "RingClosed"
        assert reader.read() is not None
        for left in ((None, None, None), (KeyError, KeyError(), None)):
            slot = writer.slot([PlaneSpec(Kind.COLOUR, Format.RGBA8, 64, 48)])
            slot.__enter__().planes[Kind.COLOUR][:] = picture(9)
            assert in_child(slot.__exit__, *left) == ("done" if left[0] else "RingClosed")
            assert writer._current.u64[writer._current.slot_words[writer._current.slot]] == 2 * writer.sequence + 1
            assert reader.read() is None
            slot.__exit__(None, None, None)
            frame = reader.read()
            assert frame is not None and number_of(frame.planes[Kind.COLOUR]) == 9


def test_a_view_that_outlives_its_reader_leaves_the_next_owner_of_the_entry_alone(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as other:
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        with RingReader("a", directory=tmp_path) as closed:
            view = closed.latest()
            view.__enter__()
        with other.latest() as held:
            assert held is not None
            view.__exit__(None, None, None)
            for number in range(2, 8):
                writer.write({Kind.COLOUR: picture(number)}, source_frame_id=number)
            assert number_of(held.planes[Kind.COLOUR]) == 1
        assert held.valid


def test_a_reader_that_comes_while_a_dead_writers_ring_is_taken_over_sees_no_old_picture(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = RingWriter("a", 1 << 14, directory=tmp_path)
    killed.write({Kind.COLOUR: picture(1)})
    killed._lock.abandon()
    attach = segment.attach
    seen: list[object] = []

    def meanwhile(*what: object) -> segment.Mapping:
        monkeypatch.setattr(segment, "attach", attach)
        with RingReader("a", directory=tmp_path) as reader:
            seen.append(reader.read())
        return attach(*what)

    monkeypatch.setattr(segment, "attach", meanwhile)
    with RingWriter("a", 1 << 14, directory=tmp_path):
        assert seen == [None]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at what Linux says is mapped")
def test_a_dead_writers_ring_is_taken_over_where_there_is_no_room_for_two(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = RingWriter("a", 1 << 14, directory=tmp_path)
    killed.write({Kind.COLOUR: picture(1)})
    generation = f"{killed.generation:016x}"
    killed._lock.abandon()
    reader = RingReader("a", directory=tmp_path)
    del killed
    create = segment.create

    def full(place: segment.Placement, number: int, size: int) -> segment.Mapping:
        if generation in pathlib.Path("/proc/self/maps").read_text():
            raise NoSpace("no room beside the other one")
        return create(place, number, size)

    monkeypatch.setattr(segment, "create", full)
    with RingWriter("a", 1 << 14, directory=tmp_path) as writer, reader:
        writer.write({Kind.COLOUR: picture(2)}, source_frame_id=2)
        frame = reader.read(10.0)
        assert frame is not None and frame.source_frame_id == 2


def test_a_lossless_reader_that_comes_while_a_generation_is_left_looks_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        RingWriter("a", 1 << 14, policy=Policy.LOSSLESS, directory=tmp_path) as writer,
        RingReader("a", lossless=True, directory=tmp_path) as reader,
    ):
        attach = segment.attach

        def meanwhile(*what: object) -> segment.Mapping:
            monkeypatch.setattr(segment, "attach", attach)
            mapped = attach(*what)
            writer.write({Kind.COLOUR: picture(1, 128)}, source_frame_id=1)
            return mapped

        monkeypatch.setattr(segment, "attach", meanwhile)
        assert reader.read() is None
        frame = reader.read()
        assert frame is not None and frame.source_frame_id == 1


def test_a_second_lossless_reader_is_refused_also_while_the_first_follows_the_writer(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        RingWriter("a", 1 << 14, policy=Policy.LOSSLESS, directory=tmp_path) as writer,
        RingReader("a", lossless=True, directory=tmp_path) as first,
        RingReader("a", lossless=True, directory=tmp_path) as second,
    ):
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=1)
        assert first.read() is not None
        acquire = ring_attachment.acquire_patiently

        def meanwhile(lock: Lock) -> bool:
            monkeypatch.setattr(ring_attachment, "acquire_patiently", acquire)
            assert not lock.acquire()
            writer.write({Kind.COLOUR: picture(2, 128)}, source_frame_id=2)
            assert first.read() is not None
            return acquire(lock)

        monkeypatch.setattr(ring_attachment, "acquire_patiently", meanwhile)
        assert second.read() is None
        with pytest.raises(ReaderExists):
            second.read()


def test_a_frame_that_comes_just_as_a_sleep_ends_is_no_sign_of_a_writer_that_cannot_wake(
    tmp_path: pathlib.Path,
) -> None:
    with RingWriter("a", 64, directory=tmp_path), RingReader("a", directory=tmp_path) as reader:
        assert not reader.wait(0.01)
        at = reader._at
        assert at is not None
        # To the end and in vain, not to the end, to the end and nothing came.
        for woken, changed in ((False, True), (None, True), (False, True), (False, False), (False, True)):
            at.slept(woken, changed)
            assert not isinstance(at._wake, Naps)
        at.slept(woken=False, changed=True)
        assert isinstance(at._wake, Naps)


def test_a_writer_that_woke_once_is_one_that_wakes(tmp_path: pathlib.Path) -> None:
    """Its frames come in the pace of the reader's sleeps, so that many end just as one comes."""
    with RingWriter("a", 64, directory=tmp_path), RingReader("a", directory=tmp_path) as reader:
        assert not reader.wait(0.01)
        at = reader._at
        assert at is not None
        at.slept(woken=True, changed=True)
        for _ in range(10):
            at.slept(woken=False, changed=True)
        assert not isinstance(at._wake, Naps)


@pytest.mark.skipif(sys.platform != "linux", reason="futexes")
def test_a_futex_tells_who_ended_a_sleep(tmp_path: pathlib.Path) -> None:
    with RingWriter("a", 64, directory=tmp_path) as writer, RingReader("a", directory=tmp_path) as reader:
        assert not reader.wait(0.0)
        at = reader._at
        assert at is not None
        wake, _ = at.waiter()
        seen = at.u32[WAKE_32]
        assert wake.wait(seen, 0.001) is False
        assert wake.wait(seen + 1, 10.0) is None
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asleep = pool.submit(wake.wait, seen, 60.0)
            while not asleep.done():
                writer._wake_readers()
            assert asleep.result() is True


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a reader without an event always looks by itself")
def test_a_reader_that_is_never_woken_looks_by_itself(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RingWriter, "_wake_readers", lambda self: None)
    monkeypatch.setattr("bridge.ring.reader.LOOK_S", 0.02)
    with RingWriter("c", 64, directory=tmp_path) as writer, RingReader("c", directory=tmp_path) as reader:
        picture = np.zeros((4, 4, 4), np.uint8)
        writer.write({Kind.COLOUR: picture})
        assert reader.read() is not None
        napping = False
        for _ in range(200):  # a frame that is there before the reader sleeps is not a late one
            soon = threading.Timer(0.005, writer.write, ({Kind.COLOUR: picture},))
            soon.start()
            assert reader.read(timeout_s=10.0) is not None
            soon.join()
            assert reader._at is not None
            napping = isinstance(reader._at._wake, Naps)
            if napping:
                break
        assert napping


def test_frames_back_to_back_are_looked_for_and_others_slept_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[float] = []
    look = RingReader._look
    monkeypatch.setattr(RingReader, "_look", lambda self, for_s: looked.append(for_s) or look(self, for_s))
    with RingWriter("c", 64, directory=tmp_path) as writer, RingReader("c", directory=tmp_path) as reader:
        picture = np.zeros((4, 4, 4), np.uint8)
        writer.write({Kind.COLOUR: picture})
        assert reader.read() is not None
        assert reader.read(timeout_s=0.01) is None and looked == []  # nothing is known of the writer's pace
        reader._waited_s = 0.0001  # as after a frame that came at once
        assert reader.read(timeout_s=0.01) is None and looked == [ring_reader.SHORT_S]
        assert reader.read(timeout_s=0.01) is None and len(looked) == 1  # that wait was long: no more looking
        reader._waited_s = 0.0001
        soon = threading.Timer(0.02, writer.write, ({Kind.COLOUR: picture},))
        soon.start()
        assert reader.read(timeout_s=10.0) is not None and len(looked) == 2  # looking in vain ends in sleep
        soon.join()
        reader._waited_s = 0.0001
        assert reader.read(timeout_s=0.0001) is None and looked[-1] == 0.0001  # never longer than asked for

"""Lanes on threads, and the frame path on lanes of every kind."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from bridge.host.ingest import Encoded, FrameTag
from bridge.host.lanes import Closed, ThreadLanes
from bridge.host.path import FramePath
from bridge.host.planner import Work
from core.lanes import Race, SerialLanes, VirtualLanes
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model

PATIENCE_S = 60.0
THREADS = {"unet": "one", "decode": "two", "publish": "two"}


@pytest.fixture
def lanes():
    made = ThreadLanes(THREADS)
    yield made
    made.close()


def test_lanes_run_side_by_side_and_each_in_order(lanes):
    gate, done = threading.Event(), []
    held = lanes.run("unet", lambda: gate.wait(PATIENCE_S) and done.append("unet"), reads=(), writes=())
    behind = lanes.run("unet", lambda: done.append("unet again"), reads=(), writes=())
    beside = lanes.run("decode", lambda: done.append("decode"), reads=(), writes=())
    here = lanes.run("encode", lambda: threading.current_thread(), reads=(), writes=())
    assert here.result() is threading.current_thread()
    assert beside.wait(PATIENCE_S) and not held.wait(0) and not behind.wait(0)
    later = lanes.run("publish", lambda: done.append("publish"), after=(behind,), reads=(), writes=())
    gate.set()
    assert later.wait(PATIENCE_S)
    assert done == ["decode", "unet", "unet again", "publish"]
    assert held.took_ns > 0


def test_an_error_is_the_result_of_its_work_and_ends_nothing(lanes):
    bad = lanes.run("unet", lambda: 1 // 0, reads=(), writes=())
    after = lanes.run("decode", lambda: bad.result(), after=(bad,), reads=(), writes=())
    for mark in (bad, after):
        with pytest.raises(ZeroDivisionError):
            mark.result()
    assert lanes.run("decode", lambda: 3, reads=(), writes=()).result() == 3


def test_closed_lanes_leave_nobody_waiting():
    lanes = ThreadLanes(THREADS)
    gate = threading.Event()
    begun = lanes.run("unet", lambda: gate.wait(PATIENCE_S), reads=(), writes=())
    waiting = [lanes.run(lane, lambda: 1, after=(begun,), reads=(), writes=()) for lane in ("unet", "decode")]
    closing = threading.Thread(target=lanes.close)
    closing.start()
    gate.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    late = lanes.run("publish", lambda: 1, reads=(), writes=())
    for mark in (*waiting, late):
        assert mark.wait(PATIENCE_S)
    for mark in (waiting[0], late):
        with pytest.raises(Closed):
            mark.result()
    lanes.close()


def test_lanes_closed_amid_work_answer_for_all_of_it():
    for number in range(100):
        lanes = ThreadLanes(THREADS)
        closing = threading.Thread(target=lanes.close)
        marks = []
        for i in range(12):
            if i == number % 12:
                closing.start()
            turn = lanes.run("unet", lambda i=i: i, reads=(), writes=())
            marks += [turn, lanes.run("decode", turn.result, after=(turn,), reads=(), writes=())]
        for i, mark in enumerate(marks):
            try:
                assert mark.result() == i // 2
            except Closed:
                pass
        closing.join(PATIENCE_S)
        assert not closing.is_alive()


def test_work_that_waits_for_another_lane_holds_its_own_back_in_order(lanes):
    gate, done = threading.Event(), []
    turn = lanes.run("unet", lambda: gate.wait(PATIENCE_S), reads=(), writes=())
    lanes.run("decode", lambda: done.append("first"), after=(turn,), reads=(), writes=())
    second = lanes.run("publish", lambda: done.append("second"), reads=(), writes=())
    assert not second.wait(0.05)
    gate.set()
    assert second.wait(PATIENCE_S)
    assert done == ["first", "second"]


def frames_by(lanes, count: int = 6) -> list[tuple[int, torch.Tensor]]:
    """(source frame id, picture) of what leaves the path when frames of a small random model go along it."""
    stream = random_model(backend="eager").stream(StreamConfig(SIZE_PX, SIZE_PX))
    work = Work(stream, stream.plan(Params(steps=2)), 0)
    out: list[tuple[int, torch.Tensor]] = []

    def leave(dispatched):
        picture = dispatched.picture.result()
        if picture is not None:
            out.append((picture.tag.source_frame_id, picture.frame_FHWC))

    path = FramePath(lanes, leave)
    ends = []
    for number, frame in enumerate(random_frames(count), 1):
        buffer = ("entering", number)
        entering = lanes.run("encode", lambda f=frame: stream.encode(f[None]), reads=("slot",), writes=(buffer,))
        entering.result()
        ends.append(path.dispatch(Encoded(work, entering, buffer, FrameTag(number, 0, 0, number)))[1])
    assert all(end.wait(PATIENCE_S) for end in ends)
    lanes.close()
    return out


def test_the_frame_path_gives_the_same_on_lanes_of_every_kind():
    """And nothing on it is read while it may still be written: the virtual lanes would have raised `Race`."""
    serial, threads, virtual = (frames_by(lanes) for lanes in (SerialLanes(), ThreadLanes(THREADS), VirtualLanes()))
    assert [number for number, _ in serial] == [1, 2, 3, 4, 5]
    for other in (threads, virtual):
        assert [number for number, _ in other] == [number for number, _ in serial]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(serial, other, strict=True))


@pytest.mark.parametrize("forgotten", ["unet", "decode", "publish"])
def test_a_mark_that_the_frame_path_forgot_would_be_found(forgotten):
    class Forgetful(VirtualLanes):
        def run(self, lane, work, *, after=(), reads, writes):
            return super().run(lane, work, after=() if lane == forgotten else after, reads=reads, writes=writes)

    with pytest.raises(Race, match=f"{forgotten} reads"):
        frames_by(Forgetful())


def test_a_pending_mark_lets_go_of_what_led_to_it(lanes):
    big = SimpleNamespace()
    first = lanes.run("unet", lambda: big, reads=(), writes=())
    last = lanes.run("decode", lambda: first.result() and 1, after=(first,), reads=(), writes=())
    assert last.result() == 1
    assert last._work is None and last._after == ()

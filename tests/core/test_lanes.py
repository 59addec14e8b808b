"""Lanes: the plain twin, and the one that finds a missing mark."""

from __future__ import annotations

import contextlib

import pytest
import torch

from core.cuda_lanes import DeviceLanes, cuda_place
from core.lanes import Race, SerialLanes, VirtualLanes


@pytest.mark.parametrize("kind", [SerialLanes, VirtualLanes])
def test_work_is_done_in_order_and_its_mark_knows_what_became_of_it(kind):
    lanes = kind()
    done = []
    first = lanes.run("a", lambda: done.append(1) or "one", reads=(), writes=("x",))
    second = lanes.run("b", lambda: 1 // 0, after=(first,), reads=("x",), writes=())
    assert done == [1] and first.wait(0) and first.result() == "one" and first.took_ns >= 0
    with pytest.raises(ZeroDivisionError):
        second.result()
    lanes.close()


def nothing():
    return None


def test_a_write_that_a_reader_is_not_behind_is_a_race():
    lanes = VirtualLanes()
    written = lanes.run("encode", nothing, reads=(), writes=("latents",))
    lanes.run("unet", nothing, after=(written,), reads=("latents",), writes=("x0",))
    with pytest.raises(Race, match=r"decode reads 'x0', which unet may still write"):
        lanes.run("decode", nothing, after=(written,), reads=("x0",), writes=())


def test_a_buffer_that_is_written_again_while_it_may_be_read_is_a_race():
    lanes = VirtualLanes()
    first = lanes.run("encode", nothing, reads=(), writes=("latents",))
    read = lanes.run("unet", nothing, after=(first,), reads=("latents",), writes=())
    lanes.run("encode", nothing, after=(read,), reads=(), writes=("latents",))
    with pytest.raises(Race, match=r"unet reads 'latents', which encode may still write"):
        lanes.run("unet", nothing, reads=("latents",), writes=())
    lanes = VirtualLanes()
    first = lanes.run("encode", nothing, reads=(), writes=("latents",))
    lanes.run("unet", nothing, after=(first,), reads=("latents",), writes=())
    with pytest.raises(Race, match=r"encode writes 'latents', which unet may still read"):
        lanes.run("encode", nothing, reads=(), writes=("latents",))


def test_marks_reach_through_other_lanes():
    """Behind decode is behind the U-Net that decode was behind."""
    lanes = VirtualLanes()
    turn = lanes.run("unet", nothing, reads=(), writes=("x0",))
    picture = lanes.run("decode", nothing, after=(turn,), reads=("x0",), writes=("picture",))
    lanes.run("encode", nothing, after=(picture,), reads=(), writes=("x0",))
    # On one lane order is enough.
    lanes.run("encode", nothing, reads=("x0",), writes=("x0",))


class Card:
    """Does what it is given when it is waited for, and not before."""

    def __init__(self) -> None:
        self.given = []

    @contextlib.contextmanager
    def place(self):
        try:
            yield
        finally:
            while self.given:
                self.given.pop(0)()


def test_work_on_a_device_is_done_when_the_device_has_done_it_and_errors_are_the_stages_own():
    card, seen = Card(), []
    lanes = DeviceLanes(SerialLanes(), {"unet": card.place})
    turn = lanes.run("unet", lambda: card.given.append(lambda: seen.append("latents")) or "x0", reads=(), writes=())
    assert seen == ["latents"] and turn.result() == "x0"

    def breaks():
        card.given.append(lambda: seen.append("half"))
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        lanes.run("unet", breaks, reads=(), writes=()).result()
    assert seen == ["latents", "half"]  # what had been given by then still read its inputs
    lanes.run("publish", lambda: card.given.append(lambda: seen.append("never")), reads=(), writes=())
    assert seen == ["latents", "half"]
    card.given.clear()
    fault = lanes.run("unet", lambda: card.given.append(lambda: 1 // 0), reads=(), writes=())
    with pytest.raises(ZeroDivisionError):
        fault.result()
    lanes.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card here")
def test_a_cuda_place_is_left_when_its_stream_is_done():
    place = cuda_place(torch.device("cuda"))
    with place():
        stream = torch.cuda.current_stream()
        assert stream != torch.cuda.default_stream()
        torch.randn(4096, 4096, device="cuda").square().sum()
    assert stream.query()

"""Lanes: the plain twin, and the one that finds a missing mark."""

from __future__ import annotations

import pytest

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

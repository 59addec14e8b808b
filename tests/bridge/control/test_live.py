import threading

import pytest

from bridge.control.live import LiveParams
from core.params import ParamError, Params


def test_starts_with_defaults_or_with_what_it_is_given():
    assert LiveParams().current == Params()
    mine = Params(steps=4)
    live = LiveParams(mine)
    assert live.current is mine
    assert live.latest() == (mine, 0)


def test_set_replaces_the_reference_and_leaves_the_old_value_alone():
    live = LiveParams()
    before = live.current
    after = live.set("steps", 4)
    assert live.current is after and after.steps == 4 and live.revision == 1
    assert before.steps == Params().steps


def test_update_is_all_or_nothing():
    live = LiveParams()
    before = live.current
    with pytest.raises(ParamError, match="guidance_scale"):
        live.update({"steps": 4, "guidance_scale": 1e9})
    assert live.current is before and live.revision == 0
    live.update({"steps": 4, "guidance_scale": 2.0})
    assert (live.current.steps, live.current.guidance_scale, live.revision) == (4, 2.0, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no_such", 1),
        ("self", 1),
        ("steps", 0),
        ("steps", "many"),
        ("steps", 1.5),
        ("strength", float("nan")),
        ("prompt", 7),
        ("prompt", "x" * 100_000),
        ("guidance", "fullest"),
        ("paused", "yes"),
        ("t_index", [30, 20]),
    ],
)
def test_a_bad_value_is_named_and_changes_nothing(name, value):
    live = LiveParams()
    with pytest.raises(ParamError, match=name):
        live.set(name, value)
    assert live.latest() == (Params(), 0)


def test_repeating_a_value_is_no_change():
    live = LiveParams()
    seen = []
    live.subscribe(lambda params, revision: seen.append(revision))
    live.set("seed", 9)
    live.set("seed", 9)
    live.update({})
    assert live.revision == 1 and seen == [1]


def test_subscribers_hear_each_change_until_they_leave():
    live = LiveParams()
    seen = []
    leave = live.subscribe(lambda params, revision: seen.append((revision, params.seed)))
    live.set("seed", 5)
    with pytest.raises(ParamError):
        live.set("seed", -7)
    leave()
    leave()
    live.set("seed", 6)
    assert seen == [(1, 5)]


def test_a_callback_may_set_again():
    live = LiveParams()
    live.subscribe(lambda params, revision: live.set("seed", 100))
    live.set("steps", 3)
    assert live.current.seed == 100 and live.current.steps == 3


def test_readers_never_see_half_an_update_and_no_change_is_lost():
    live = LiveParams(Params(seed=0, similarity_max_skip=0))
    stop = threading.Event()
    torn = []

    def read():
        last = 0
        while not stop.is_set():
            params, revision = live.latest()
            if params.seed != params.similarity_max_skip or revision < last:
                torn.append((params.seed, params.similarity_max_skip, revision, last))
            last = revision

    def write(offset):
        for i in range(200):
            live.update({"seed": offset + i, "similarity_max_skip": offset + i})

    reader = threading.Thread(target=read)
    reader.start()
    writers = [threading.Thread(target=write, args=(1 + 300 * n,)) for n in range(3)]
    for w in writers:
        w.start()
    for w in writers:
        w.join()
    stop.set()
    reader.join()
    assert torn == []
    assert live.revision == 600

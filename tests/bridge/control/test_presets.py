"""Presets of a running channel: recall, morph, and OSC; the page's are in tests/bridge/page/test_page_presets.py."""

import socket
import threading
import time

import pytest
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from bridge.control.live import LiveParams
from bridge.control.morph import EASINGS, between
from bridge.control.osc import OscServer
from bridge.control.preset_osc import preset_commands
from bridge.control.presets import COMMANDS, Glide, PresetError, Presets, from_fields, from_words
from bridge.control.shelf import Shelf
from bridge.control.statistics import Statistics
from core.params import SPECS, Params
from tests.waiting import until

DAWN = Params(prompt="red ball", strength=0.2, steps=1, seed=5, guidance="none")
DUSK = Params(prompt="blue box", strength=0.6, steps=3, seed=9, guidance="full", similarity_filter=True)


@pytest.fixture
def live():
    return LiveParams()


@pytest.fixture
def presets(live, tmp_path):
    presets = Presets(live, Shelf(tmp_path), lambda: b"\xff\xd8 picture \xff\xd9")
    presets.shelf.save("Dawn", DAWN)
    presets.shelf.save("Dusk", DUSK)
    yield presets
    presets.stop()


def all_of(params):
    return {name: getattr(params, name) for name in SPECS}


# ---- what lies between


@pytest.mark.parametrize("easing", EASINGS)
def test_easings_run_from_0_to_1_and_never_back(easing):
    ease = EASINGS[easing]
    along = [ease(i / 100) for i in range(101)]
    assert along[0] == 0.0 and along[-1] == 1.0 and along == sorted(along)


def test_the_ends_of_a_morph_are_the_two_looks():
    first, last = all_of(DAWN), all_of(DUSK)
    assert between(first, last, 1.0) == last
    start = between(first, last, 0.0)
    assert start == {**first, "prompt_to": "blue box", "seed_to": 9}  # of which 0 parts show


def test_numbers_glide_prompts_and_seeds_cross_fade_and_the_rest_changes_in_the_middle():
    early, late = (between(all_of(DAWN), all_of(DUSK), share) for share in (0.25, 0.75))
    assert early["strength"] == pytest.approx(0.3) and late["strength"] == pytest.approx(0.5)
    for values, share, side in ((early, 0.25, DAWN), (late, 0.75, DUSK)):
        assert (values["prompt"], values["prompt_to"], values["prompt_mix"]) == ("red ball", "blue box", share)
        assert (values["seed"], values["seed_to"], values["seed_mix"]) == (5, 9, share)
        for name in ("steps", "guidance", "similarity_filter"):
            assert values[name] == getattr(side, name)
        Params().with_values(**values)


def test_two_looks_of_the_same_two_prompts_glide_between_their_mixes():
    first, last = (all_of(Params(prompt="a", prompt_to="b", prompt_mix=mix)) for mix in (0.2, 0.6))
    assert between(first, last, 0.5)["prompt_mix"] == pytest.approx(0.4)
    assert between(first, last, 0.5)["prompt"] == "a"


def test_a_look_that_says_the_prompt_alone_leaves_no_mix_behind():
    first = all_of(DAWN)
    middle = between(first, {"prompt": "blue box"}, 0.5)
    assert middle == {"prompt": "red ball", "prompt_to": "blue box", "prompt_mix": 0.5}
    assert between(first, {"prompt": "blue box"}, 1.0) == {"prompt": "blue box", "prompt_to": "", "prompt_mix": 0.0}
    assert between(first, {"steps": 3}, 0.7) == {"steps": 3}


@pytest.mark.parametrize("first, last", [(-1, 4), (4, -1)])
def test_new_noise_in_every_frame_lies_next_to_no_seed(first, last):
    looks = [all_of(Params(seed=seed)) for seed in (first, last)]
    for share, seed in ((0.0, first), (0.4, first), (0.6, last), (1.0, last)):
        values = between(*looks, share)
        assert (values["seed"], values["seed_mix"]) == (seed, 0.0)
        Params().with_values(**values)


def test_what_somebody_sets_on_the_way_stays_theirs():
    live = LiveParams(DAWN)
    glide = Glide(DAWN, all_of(DUSK))
    for share in (0.0, 0.3):
        live.adjust(lambda now, share=share: glide.values(now, share))
    live.set("strength", 0.9)
    live.adjust(lambda now: glide.values(now, 0.6))
    assert live.current.strength == 0.9 and live.current.prompt_mix == 0.6
    live.set("prompt", "mine")
    for share in (0.8, 1.0):
        live.adjust(lambda now, share=share: glide.values(now, share))
    assert live.current == DUSK.with_values(strength=0.9, prompt="mine")


# ---- recall and morph


def test_a_recall_sets_everything_at_once(presets, live):
    seen = []
    live.set("paused", True)
    live.subscribe(lambda params, revision: seen.append(params))
    assert presets.recall("Dusk") == ""
    assert live.current == DUSK.with_values(paused=True)
    assert len(seen) == 1


def test_a_recall_tells_what_it_could_not_use(presets, live):
    (presets.shelf.folder / "x.toml").write_text("[values]\nglow = 3\nseed = 7\n")
    before = live.current
    assert "unknown parameter 'glow'" in presets.recall("x")
    assert live.current == before.with_values(seed=7)


def test_a_morph_arrives_exactly_and_passes_the_way(presets, live):
    seen = []
    live.subscribe(lambda params, revision: seen.append(params))
    presets.morph("Dawn", "Dusk", 0.4)
    until(lambda: not presets.morphing)
    assert live.current == DUSK
    assert seen[0] == DAWN and seen[-1] == DUSK
    shares = [params.prompt_mix for params in seen[1:-1]]
    assert shares == sorted(shares) and all(0.0 <= share < 1.0 for share in shares)


def test_a_morph_from_what_is_in_force_and_in_no_time(presets, live):
    presets.morph("", "Dusk", 0)
    until(lambda: not presets.morphing)
    assert live.current == DUSK


@pytest.mark.parametrize("end", ["recall", "morph", "stop"])
def test_a_recall_another_morph_and_stop_end_a_morph(presets, live, end):
    presets.morph("Dawn", "Dusk", 500.0)
    first = presets._thread
    if end == "recall":
        presets.recall("Dawn")
        assert live.current == DAWN and not presets.morphing
    elif end == "stop":
        presets.stop()
        assert not presets.morphing
    else:
        presets.morph("Dusk", "Dawn", 0)
        until(lambda: not presets.morphing)
        assert live.current == DAWN
    assert not first.is_alive()
    revision = live.revision
    time.sleep(0.1)
    assert live.revision == revision


# ---- from seed to seed


def test_a_travel_walks_from_seed_to_seed_without_a_jump(presets, live):
    """Where one leg ends the next begins: the noise that is left is the one that was reached."""
    seen = []
    live.update({"seed": 3, "seed_to": 8, "seed_mix": 0.5})  # left between two seeds
    live.subscribe(lambda params, revision: seen.append((params.seed, params.seed_to, params.seed_mix)))
    presets.travel(0.3)
    assert presets.travelling
    until(lambda: len({seed for seed, _, _ in seen}) > 4)
    presets.stop()
    assert not presets.travelling
    assert seen[0][:2] == (3, 8) and 0.5 <= seen[0][2] < 1.0
    at = 3
    for before, now in zip(seen, seen[1:], strict=False):
        if now[0] == before[0] and now[1] == before[1]:
            assert now[2] >= before[2]
        elif now[0] != before[0]:
            assert now[0] == before[1] and now[2] == 0.0
            at = now[0]
        else:
            assert before[2] == 0.0 and now[0] == at
    revision = live.revision
    time.sleep(0.1)
    assert live.revision == revision


@pytest.mark.parametrize("end", ["seed", "stop", "recall", "undo"])
def test_a_travel_ends_when_somebody_sets_a_seed(presets, live, end):
    before = live.current
    presets.travel(100.0)
    until(lambda: live.current.seed_mix > 0.0)
    if end == "seed":
        live.set("seed", 77)
    elif end == "undo":
        live.update(all_of(before))
    else:
        from_words(presets, end, {"stop": [], "recall": ["Dawn"]}[end])
    until(lambda: not presets.travelling)
    if end != "stop":
        assert (live.current.seed, live.current.seed_mix) == ({"seed": 77, "recall": 5, "undo": before.seed}[end], 0.0)


def test_a_travel_from_new_noise_begins_at_a_seed(presets, live):
    live.set("seed", -1)
    presets.travel(50)
    until(lambda: live.current.seed_mix > 0.0)
    assert live.current.seed >= 0


@pytest.mark.parametrize("seconds", [0, 0.1, -1, 601, "2", None, True, float("nan"), 10**400])
def test_a_travel_takes_no_senseless_time(presets, live, seconds):
    with pytest.raises(PresetError, match="travel: .* send a number from 0.2 to 600"):
        from_words(presets, "travel", [seconds])
    assert not presets.travelling and live.revision == 0


def test_a_save_has_a_thumbnail_and_what_is_in_force(presets, live):
    live.set("seed", 77)
    presets.save("Now")
    saved = presets.shelf.get("Now")
    assert saved.values["seed"] == 77 and saved.thumbnail.startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    "do, words, told",
    [
        ("morph", ("Dawn", "Dusk", -1.0), "from 0 to 600"),
        ("morph", ("Dawn", "Dusk", float("nan")), "from 0 to 600"),
        ("morph", ("Dawn", "Dusk", "long"), "from 0 to 600"),
        ("morph", ("Dawn", "Dusk", 1.0, "bouncy"), "use one of smooth, linear"),
        ("morph", ("Dawn",), "send START NAME SECONDS"),
        ("morph", ("Noon", "Dusk", 1.0), "no preset 'Noon'"),
        ("recall", (), "send NAME"),
        ("recall", (True,), "name of a preset, or its place"),
        ("recall", (7,), "there are 2"),
        ("rename", ("Dawn",), "send NAME TO"),
        ("reorder", (1, 2), "names of the presets"),
        ("stop", (1,), "send nothing"),
        ("fly", (), "use one of save, recall"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(presets, live, do, words, told):
    before, files = live.latest(), sorted(p.name for p in presets.shelf.folder.rglob("*"))
    with pytest.raises(PresetError, match=told):
        from_words(presets, do, words)
    assert live.latest() == before and files == sorted(p.name for p in presets.shelf.folder.rglob("*"))


def test_fields_by_name_are_the_same_commands(presets, live):
    assert from_fields(presets, "recall", {"name": "Dusk", "type": "preset", "id": 4}) == ""
    assert live.current == DUSK
    with pytest.raises(PresetError, match="send name, too"):
        from_fields(presets, "save", {"replaces": ""})
    with pytest.raises(PresetError, match="digest"):
        from_fields(presets, "save", {"name": "x", "replaces": 5})
    with pytest.raises(PresetError, match="use one of"):
        from_fields(presets, ["recall"], {})


# ---- OSC


def message(address, *values):
    builder = OscMessageBuilder(address)
    for value in values:
        builder.add_arg(value)
    return builder.build()


@pytest.fixture
def say(presets, live):
    """`say(address, values...)` gives all answers."""
    server = OscServer(live, Statistics(), port=0, commands=preset_commands(presets))
    server.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(60)

        def say(*messages):
            bundle = OscBundleBuilder(IMMEDIATELY)
            for words in messages:
                bundle.add_content(message(*words))
            udp.sendto(bundle.build().dgram, ("127.0.0.1", server.port))
            udp.sendto(message("/ping").dgram, ("127.0.0.1", server.port))
            answers = []
            while True:
                answer = OscMessage(udp.recv(65536))
                if answer.address == "/pong":
                    return answers
                answers.append((answer.address, *answer.params))

        yield say
    server.stop()


def test_osc_saves_recalls_and_lists(say, live, presets):
    assert say(("/preset/recall", "Dusk")) == [("/preset/done", "recall")]
    assert live.current == DUSK
    assert say(("/preset/recall", 1.0)) == [("/preset/done", "recall")]
    assert live.current == DAWN
    assert say(("/preset/save", "my", "look", 3)) == [("/preset/done", "save")]
    assert say(("/preset/list",)) == [
        ("/preset/name", 1, "Dawn"),
        ("/preset/name", 2, "Dusk"),
        ("/preset/name", 3, "my look 3"),
    ]
    say(("/preset/rename", "my look 3", "Noon"), ("/preset/reorder", "Noon", "Dusk"), ("/preset/delete", "Dawn"))
    assert [p.name for p in presets.shelf.contents().presets] == ["Noon", "Dusk"]
    assert presets.shelf.get("Noon").values["seed"] == DAWN.seed


def test_osc_morphs(say, live, presets):
    assert say(("/preset/morph", "Dawn", "Dusk", 0.1)) == [("/preset/done", "morph")]
    until(lambda: live.current == DUSK)
    say(("/preset/morph", "Dawn", 0.1))
    until(lambda: live.current == DAWN)


def test_what_osc_asks_for_in_vain_is_answered(say, live):
    before = live.latest()
    ((address, at, told),) = say(("/preset/recall", "Noon"))
    assert (address, at) == ("/error", "/preset/recall") and "no preset 'Noon'" in told
    ((address, at, told),) = say(("/preset/fly",))
    assert address == "/error" and "/preset/" in told
    ((address, at, told),) = say(("/pre",))
    assert address == "/error" and all(f"/preset/{do}" in told for do in COMMANDS)
    assert say(("/preset/done", "x"), ("/preset/name", 1, "y")) == []  # answers of a server like this one
    assert live.latest() == before


def test_a_bundle_acts_in_its_order(say, live):
    say(("/seed", 3), ("/preset/recall", "Dusk"), ("/steps", 2))
    assert live.current == DUSK.with_values(steps=2)


def test_setting_while_others_set_loses_nothing():
    """`adjust` reads and sets in one go, whoever else sets."""
    live = LiveParams(Params(seed=0))

    def count():
        for _ in range(500):
            live.adjust(lambda now: {"seed": now.seed + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert live.current.seed == 2000 == live.revision

"""LoRAs and ControlNets of a folder, taken while the host runs: the old model paints until the new one is ready."""

from __future__ import annotations

import re
import uuid

import numpy as np
import pytest

from bridge.host.choice import LOADED, equipped
from bridge.host.config import HostConfig, HostError
from bridge.host.loading import check
from core.params import AS_STARTED, CONTROL_NETS, LORA_FILES, NONE, Params
from tests.bridge.host.test_choice import OPTIONS, Painting
from tests.core import test_lora as loras
from tests.core.test_control import controlnet
from tests.tiny_pipelines import PIPELINES

BASE = Params(steps=1, strength=0.8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, two LoRAs for it in "loras" beside one of another family and what is none, ControlNets in "controls"."""
    folder = tmp_path_factory.mktemp("place")
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(folder / "model")
    (folder / "loras").mkdir()
    for number, name in enumerate(("glow", "mist")):
        loras.saved(loras.kohya(loras.layers(pipeline, number)), folder / "loras" / f"{name}.safetensors")
    other = PIPELINES["sdxl"]()
    loras.saved(loras.kohya(loras.layers(other, 1)), folder / "loras" / "other.safetensors")
    (folder / "loras" / "broken.safetensors").write_bytes(b"no weights")
    (folder / "loras" / "notes.txt").write_text("no LoRA")
    controlnet(pipeline, 31).save_pretrained(folder / "controls" / "colour" / "first")
    controlnet(other, 31).save_pretrained(folder / "controls" / "colour" / "strange")
    (folder / "controls" / "depth" / "empty").mkdir(parents=True)
    return folder


def start(place, params=BASE, **more):
    given = {"model": place / "model", "loras_folder": place / "loras", "controls_folder": place / "controls"}
    return Painting(f"test-additions-{uuid.uuid4().hex[:8]}", params, **{**OPTIONS, **given, **more})


def taken(rig, **values):
    """Paint until these are what the model is made of; how many pictures came meanwhile."""
    before = rig.host.loaded
    rig.host.live.update(values)
    painted = 0
    while rig.host.loaded is before:
        rig.paint()
        painted += 1
    return painted


def differs(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


def test_loras_are_taken_and_put_back_while_the_old_ones_paint(place):
    with start(place, loras=(place / "loras" / "mist.safetensors",), loras_folder=None) as rig:
        given = rig.colour()
    with start(place) as rig:
        choices = {spec.name: spec.choices for spec in rig.host.specs if spec.name in LORA_FILES}
        assert choices == dict.fromkeys(LORA_FILES, (AS_STARTED, NONE, "broken", "glow", "mist", "other"))
        bare = rig.colour()
        # In the second place, the first of which stays empty.
        assert taken(rig, lora_file_2="mist") > 0
        assert rig.host.lora_names == ["", "mist"]
        shown = {spec.name: spec.title for spec in rig.host.specs if spec.name in ("lora_1", "lora_2")}
        assert shown == {"lora_2": "LoRA mist"}
        assert np.array_equal(rig.colour(), given)
        rig.host.live.set("lora_2", 0.0)
        rig.wait(lambda: rig.host.planner.work.plan.params.lora_2 == 0.0)
        assert differs(rig.colour(), bare) < 0.5
        taken(rig, lora_file_1="glow", lora_2=1.0)
        both = rig.colour()
        assert rig.host.lora_names == ["glow", "mist"] and differs(both, given) > 0.5
        taken(rig, lora_file_1=NONE, lora_file_2=NONE)
        assert np.array_equal(rig.colour(), bare) and rig.host.preparing == ""
    # As a preset or --set has it from the start.
    with start(place, BASE.with_values(lora_file_1="glow", lora_file_2="mist")) as rig:
        rig.wait(lambda: rig.host.lora_names == ["glow", "mist"])
        assert np.array_equal(rig.colour(), both)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lora_file_1": "other"}, "lora_file_1 'other' cannot be used, as started goes on: .*LoRA"),
        ({"lora_file_3": "broken"}, "lora_file_3 'broken' cannot be used"),
        ({"lora_file_1": "rain"}, "none of that name; take as started, none, broken, glow, mist, other"),
        ({"lora_file_1": "../model"}, "none of that name"),
        ({"control_net_1": "colour/strange"}, "was made for another family"),
        ({"control_net_2": "colour/first"}, "counted without gaps; choose control_net_1 first"),
        ({"lora_file_1": "glow", "control_net_1": "depth/empty"}, "none of that name; take .*, colour/first, "),
    ],
)
def test_what_cannot_be_used_is_told_and_taken_back(place, values, words):
    with start(place) as rig:
        before = rig.colour()
        rig.host.live.update(values)
        rig.wait(lambda: all(getattr(rig.host.live.current, name) == AS_STARTED for name in LOADED))
        line = rig.host.statistics.snapshot()["last_refused"]
        assert re.search(words, line), line
        assert np.array_equal(rig.colour(), before)
        assert rig.host.failure is None and rig.host.preparing == ""


def test_a_controlnet_is_taken_and_put_back(place):
    with start(place, controls=(("colour", place / "controls" / "colour" / "first"),)) as rig:
        given = rig.colour()
        taken(rig, control_net_1=NONE)
        bare = rig.colour()
    with start(place) as rig:
        choices = {spec.name: spec.choices for spec in rig.host.specs if spec.name in CONTROL_NETS}
        assert choices["control_net_1"] == (AS_STARTED, NONE, "colour/first", "colour/strange")
        assert np.array_equal(rig.colour(), bare)
        assert taken(rig, control_net_1="colour/first") > 0
        assert {"control_1", "control_1_start"} <= {spec.name for spec in rig.host.specs}
        assert np.array_equal(rig.colour(), given) and differs(given, bare) > 0.5


def test_what_to_load_is_what_was_given_but_for_what_was_chosen(place, tmp_path):
    folder = place / "loras"
    nothing = dict.fromkeys(LOADED, AS_STARTED)
    given = (folder / "glow.safetensors", folder / "mist.safetensors")
    config = HostConfig("any", place / "model", loras=given, loras_folder=folder, models_folder=tmp_path)
    assert equipped(config, nothing) == config
    assert equipped(config, {**nothing, "lora_file_1": NONE}).loras == (None, given[1])
    assert equipped(config, {**nothing, "lora_file_2": NONE}).loras == given[:1]
    assert equipped(config, {**nothing, "lora_file_4": "mist"}).loras == (*given, None, given[1])
    # Another model has what was chosen, not what was given for the first.
    assert equipped(config, {**nothing, "model": "embedded", "lora_file_2": "glow"}).loras == (None, given[0])
    for values, words in (
        ({"control_net_1": "depth/x"}, "start the host with --controls FOLDER"),
        ({"model": "x"}, "take as started, embedded"),
    ):
        with pytest.raises(HostError, match=words):
            equipped(config, {**nothing, **values})
    with pytest.raises(HostError, match="--loras .*: there is no such folder"):
        check(HostConfig("any", loras_folder=tmp_path / "none"))

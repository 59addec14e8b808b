"""The reference picture of a host that runs: another one at any time, and what cannot be one is taken back."""

from __future__ import annotations

import shutil
import threading
import uuid

import numpy as np
import pytest
from safetensors.torch import save_file

from bridge.commands.host import references_of
from bridge.host.config import HostConfig, HostError
from bridge.host.loading import check
from core.params import AS_STARTED, Params
from core.references import PictureError
from core.tiny import WEIGHTS
from tests.bridge.host.test_choice import OPTIONS, Painting
from tests.bridge.host.test_host import PATIENCE_S
from tests.core.test_image_prompt import put, vectors_of
from tests.tiny_pipelines import PIPELINES


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, an adapter for it, and two pictures and what is none in "pictures"."""
    folder = tmp_path_factory.mktemp("place")
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(folder / "model")
    put(pipeline, folder)
    (folder / "pictures" / "words.png").write_text("no picture")
    return folder


def options(place, **more):
    given = {"model": place / "model", "adapter": place / "adapter.safetensors", "references": (place / "pictures",)}
    return {**OPTIONS, **given, **more}


def start(place, **more):
    params = Params(steps=1, strength=0.8, reference_scale=1.0)
    return Painting(f"test-reference-{uuid.uuid4().hex[:8]}", params, **options(place, **more))


def test_another_picture_paints_from_then_on_and_the_old_one_until_then(place, monkeypatch):
    with start(place) as rig:
        specs = {spec.name: spec for spec in rig.host.specs}
        assert specs["reference"].choices == (AS_STARTED, "dawn.png", "dusk.png", "words.png")
        assert specs["reference_scale"].main
        dawn = rig.colour()
        pictures, painted = rig.host.loaded.model.pictures, threading.Event()
        look = pictures._pixels

        def slow(path):
            assert painted.wait(PATIENCE_S)
            return look(path)

        monkeypatch.setattr(pictures, "_pixels", slow)
        rig.host.live.set("reference", "dusk.png")
        # Frames go on, with the picture of before, while the new one is being looked at.
        for _ in range(3):
            assert np.array_equal(rig.colour(), dawn)
        painted.set()
        rig.wait(lambda: rig.host.planner.work.plan.params.reference == "dusk.png")
        dusk = rig.colour()
        assert np.abs(dusk.astype(int) - dawn.astype(int)).mean() > 1.0
        rig.host.live.set("reference_scale", 0.0)
        rig.wait(lambda: rig.host.planner.work.plan.params.reference_scale == 0.0)
        assert np.abs(rig.colour().astype(int) - dusk.astype(int)).mean() > 1.0


@pytest.mark.parametrize(
    ("name", "words"),
    [("words.png", "words.png cannot be read as a picture"), ("noon.png", "no reference picture 'noon.png' here")],
)
def test_what_cannot_be_used_is_taken_back_and_told(place, name, words):
    with start(place) as rig:
        rig.host.live.set("reference", "dusk.png")
        rig.wait(lambda: rig.host.planner.work.plan.params.reference == "dusk.png")
        before = rig.colour()
        rig.host.live.set("reference", name)
        rig.wait(lambda: rig.host.live.current.reference == "dusk.png")
        line = rig.host.statistics.snapshot()["last_refused"]
        assert words in line and line.endswith("; dusk.png stays")
        assert np.array_equal(rig.colour(), before)
        # And other changes go through.
        rig.host.live.set("prompt", "glow")
        rig.wait(lambda: rig.host.planner.work.plan.params.prompt == "glow")
        assert rig.host.failure is None


def test_a_name_that_was_wrong_from_the_start_gives_way_to_the_first_picture(place):
    with start(place) as rig:
        expected = rig.colour()
    channel = f"test-reference-{uuid.uuid4().hex[:8]}"
    params = Params(steps=1, strength=0.8, reference_scale=1.0, reference="noon.png")
    with Painting(channel, params, **options(place)) as rig:
        assert np.array_equal(rig.colour(), expected)
        rig.wait(lambda: rig.host.live.current.reference == AS_STARTED)


def test_pictures_that_come_later_are_painted_by_and_stay_for_the_next_start(place, tmp_path):
    kept = tmp_path / "kept"
    with start(place, kept_references=kept) as rig:
        dawn = rig.colour()
        references = references_of(rig.host, kept)
        sent = references.add((place / "pictures" / "dusk.png").read_bytes(), "dusk.png")
        assert sent == "dusk.jpg"
        rig.wait(lambda: rig.host.planner.work.plan.params.reference == sent)
        dusk = rig.colour()
        assert np.abs(dusk.astype(int) - dawn.astype(int)).mean() > 1.0
        taken = references.take("in")
        rig.wait(lambda: rig.host.planner.work.plan.params.reference == taken)
        assert np.abs(rig.colour().astype(int) - dusk.astype(int)).mean() > 1.0
        choices = {spec.name: spec for spec in rig.host.specs}["reference"].choices
        assert choices == (AS_STARTED, "dawn.png", "dusk.png", "words.png", sent, taken)
        rig.host.live.set("reference", AS_STARTED)
        rig.wait(lambda: rig.host.planner.work.plan.params.reference == AS_STARTED)
        assert np.array_equal(rig.colour(), dawn)
    params = Params(steps=1, strength=0.8, reference_scale=1.0, reference=sent)
    channel = f"test-reference-{uuid.uuid4().hex[:8]}"
    with Painting(channel, params, **options(place, kept_references=kept)) as rig:
        assert np.array_equal(rig.colour(), dusk)


def test_a_model_without_an_adapter_is_sent_no_picture(tmp_path):
    with Painting(f"test-reference-{uuid.uuid4().hex[:8]}", model="passthrough", kept_references=tmp_path) as rig:
        with pytest.raises(PictureError, match="start the host with --ip-adapter FILE"):
            references_of(rig.host, tmp_path).take("in")


def test_another_model_has_neither_adapter_nor_words_of_the_first(place, tmp_path):
    shutil.copytree(WEIGHTS, tmp_path / "models" / "other")
    save_file({"emb_params": vectors_of("sd15")}, tmp_path / "mine.safetensors")
    with start(place, models_folder=tmp_path / "models", embeddings=(tmp_path / "mine.safetensors",)) as rig:
        # As many steps as such a model starts with, which those of the other one give way to again.
        rig.host.live.update({"prompt": "mine", "steps": 2})
        rig.wait(lambda: rig.host.planner.work.plan.params.prompt == "mine")
        first = rig.colour()
        rig.change("other")
        rig.colour()
        assert not {"reference", "reference_scale"} & {spec.name for spec in rig.host.specs}
        rig.host.live.set("model", AS_STARTED)
        rig.wait(lambda: rig.host.model_name == "model")
        assert np.array_equal(rig.colour(), first)


def test_what_cannot_be_is_told_at_the_start(place, tmp_path):
    (tmp_path / "empty").mkdir()
    good = {"adapter": place / "adapter.safetensors"}
    for given, words in (
        ({"adapter": tmp_path / "none.safetensors"}, "there is no IP-Adapter .*none.safetensors"),
        ({"references": (place / "pictures",)}, "give --ip-adapter too"),
        ({**good, "references": (tmp_path / "none.png",)}, "there is no picture .*none.png"),
        ({**good, "references": (place / "pictures" / "words.png",)}, "words.png cannot be read as a picture"),
        ({"embeddings": (tmp_path / "none.safetensors",)}, "there is no embedding file .*none.safetensors"),
        ({**good, "model": "passthrough"}, "passthrough has no model that reads pictures or words"),
    ):
        with pytest.raises(HostError, match=words):
            check(HostConfig("stage", **given))
    check(HostConfig("stage", **good, references=(tmp_path / "empty", place / "pictures")))

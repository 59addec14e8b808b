"""Another model or size while the host runs: the old one paints until the new one is ready, and stays if that fails."""

from __future__ import annotations

import gc
import shutil
import threading
import uuid
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bridge.host.choice import choices
from bridge.host.host import HostConfig
from bridge.host.loading import check
from bridge.ring import now_ns
from bridge.ring.layout import Kind
from core.backend import BACKENDS, Backend
from core.model import KEPT_SIZES
from core.params import AS_STARTED, ParamError, Params, params_for
from core.tiny import WEIGHTS
from tests.bridge.host.test_host import PATIENCE_S, SAME_WAY, Rig
from tests.core.test_model import save

SIZE = (64, 64)
FRAME = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
OPTIONS = {"size": SIZE, "overlap": False, **SAME_WAY}


@pytest.fixture
def channel():
    return f"test-choice-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def models(tmp_path):
    """A folder with a model of another look, one that cannot be loaded, and things that are none."""
    folder = tmp_path / "models"
    shutil.copytree(WEIGHTS, folder / "other")
    file = folder / "other" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({name: w * 0.9 if w.dim() == 4 else w for name, w in weights.items()}, file)
    shutil.copytree(WEIGHTS, folder / "damaged")
    (folder / "damaged" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("no model")
    return folder


class Painting(Rig):
    """A rig that always has a frame on its way."""

    number = 0

    def paint(self, wanted=lambda frame: True):
        """The next picture for which `wanted` holds, while frames keep coming."""

        def write():
            self.number += 1
            self.writer.write({Kind.COLOUR: FRAME}, source_frame_id=self.number, capture_ns=now_ns())

        return self.until(wanted, write)

    def colour(self):
        """What the model makes of the frame now: of one that was written after this was called."""
        first = self.number + 1
        frame = self.paint(lambda frame: frame.source_frame_id >= first + 2)
        return frame.planes[Kind.COLOUR].copy()

    def change(self, name):
        """Ask for a model, and paint until it is the one; how many pictures came meanwhile."""
        self.host.live.set("model", name)
        wanted, painted = (self.host.config.model if name == AS_STARTED else name), 0
        while self.host.model_name != wanted:
            self.paint()
            painted += 1
        return painted

    def resize(self, *size):
        """Ask for a size, and paint until it is the one; how many pictures came meanwhile."""
        self.host.live.set("size", size)
        sizes = [(0, 0)]
        while sizes[-1] != (size[0], size[-1]):
            frame = self.paint()
            sizes.append((frame.width, frame.height))
        return len(sizes) - 2


def test_the_choices_are_what_lies_in_the_folder_now(models):
    config = HostConfig("any", models_folder=models)
    assert list(choices(config)) == [AS_STARTED, "embedded", "damaged", "other"]
    shutil.rmtree(models / "damaged")
    assert list(choices(config)) == [AS_STARTED, "embedded", "other"]
    assert list(choices(HostConfig("any"))) == [AS_STARTED]
    with pytest.raises(Exception, match="no such folder"):
        check(HostConfig("any", models_folder=models / "nowhere"))


def test_another_model_paints_from_then_on_and_the_old_one_until_then(channel, models):
    with Painting(channel, model="embedded", models_folder=models, **OPTIONS) as rig:
        (spec,) = (spec for spec in rig.host.specs if spec.name == "model")
        assert spec.kind == "choice" and spec.choices == (AS_STARTED, "embedded", "damaged", "other")
        first = rig.colour()
        old = weakref.ref(rig.host.loaded)
        assert rig.change("other") > 0  # pictures came while it was loaded
        second = rig.colour()
        assert np.abs(first.astype(int) - second.astype(int)).mean() > 1.0
        gc.collect()
        assert old() is None  # and its weights are gone
        rig.change(AS_STARTED)
        assert np.array_equal(rig.colour(), first)
    with Painting(f"{channel}-2", model=models / "other", **OPTIONS) as rig:
        assert np.array_equal(rig.colour(), second)
        assert "model" not in [spec.name for spec in rig.host.specs]


@pytest.mark.parametrize(
    ("name", "told"), [("nothing", "take as started, embedded, damaged, other"), ("damaged", "damaged")]
)
def test_a_model_that_cannot_be_had_is_told_and_the_old_one_goes_on(channel, models, name, told):
    with Painting(channel, model="embedded", models_folder=models, **OPTIONS) as rig:
        first = rig.colour()
        rig.host.live.set("model", name)
        rig.wait(lambda: rig.host.live.current.model == AS_STARTED)
        line = rig.host.statistics.snapshot()["last_refused"]
        assert f"model '{name}' cannot be used, embedded goes on" in line and told in line
        assert np.array_equal(rig.colour(), first)
        assert rig.host.preparing == "" and rig.host.failure is None


def test_a_host_without_a_folder_says_how_to_have_one(channel):
    with Painting(channel, model="passthrough") as rig:
        rig.host.live.set("model", "other")
        rig.wait(lambda: rig.host.live.current.model == AS_STARTED)
        assert "--models FOLDER" in rig.host.statistics.snapshot()["last_refused"]


def test_what_still_is_as_the_old_model_starts_becomes_as_the_new_one_does(channel, tmp_path):
    folder = tmp_path / "models" / "usual"
    save(folder)
    usual = params_for(str(folder))
    assert usual.strength != Params().strength and usual.steps != Params().steps
    with Painting(channel, Params(steps=3, seed=9), model="embedded", models_folder=folder.parent, **OPTIONS) as rig:
        rig.paint()
        rig.change("usual")
        assert (rig.host.live.current.strength, rig.host.live.current.steps) == (usual.strength, 3)
        assert rig.host.live.current.seed == 9
        rig.colour()
        rig.change("embedded")
        assert rig.host.live.current.strength == Params().strength


def test_another_size_paints_from_then_on_and_the_old_one_until_then(channel):
    with Painting(channel, model="embedded", **OPTIONS) as rig:
        first = rig.colour()
        assert rig.resize(136, 200) > 0  # pictures came while it was prepared
        second = rig.colour()
        assert second.shape[:2] == (200, 136)
        rig.resize(128)
        rig.host.live.set("size", ())
        rig.paint(lambda frame: (frame.width, frame.height) == SIZE)
        assert np.array_equal(rig.colour(), first)
        assert rig.host.preparing == "" and rig.host.statistics.snapshot()["last_refused"] == ""
    for start in ({"params": Params(steps=1, size=(136, 200))}, {"size": (136, 200)}):
        with Painting(f"{channel}-2", model="embedded", **{**OPTIONS, **start}) as rig:
            assert np.array_equal(rig.colour(), second)


def test_a_size_that_cannot_be_had_is_told_and_the_old_one_goes_on(channel):
    with Painting(channel, model="embedded", **OPTIONS) as rig:
        first = rig.colour()
        for size in ((132,), (120,), (1032, 512), (256, 256, 256)):
            with pytest.raises(ParamError, match="size: .* 0 to 2 multiples of 8 from 128 to 1024$"):
                rig.host.live.set("size", size)

        def too_large(model, params, size):
            raise torch.OutOfMemoryError("Tried to allocate 20 GiB.\n1 GiB is free.")

        rig.host.planner._warm = too_large
        rig.host.live.set("size", (1024,))
        rig.wait(lambda: rig.host.live.current.size == ())
        line = rig.host.statistics.snapshot()["last_refused"]
        why = "Tried to allocate 20 GiB. 1 GiB is free."
        assert line == f"size 1024x1024 cannot be used, the size at the start goes on: {why}"
        assert np.array_equal(rig.colour(), first)
        assert rig.host.preparing == "" and rig.host.failure is None


def test_a_source_is_followed_again_when_no_size_is_asked_for_any_more(channel):
    with Painting(channel, model="passthrough") as rig:
        rig.paint(lambda frame: (frame.width, frame.height) == SIZE)
        rig.resize(128, 256)
        rig.writer.write({Kind.COLOUR: np.zeros((48, 80, 3), np.uint8)})
        rig.paint(lambda frame: (frame.width, frame.height) == (128, 256))
        rig.host.live.set("size", ())
        rig.paint(lambda frame: (frame.width, frame.height) == SIZE)


def test_a_size_that_is_given_up_before_the_first_frame_gives_way_to_that_of_the_source(channel):
    with Painting(channel, Params(steps=1, size=(128,)), model="passthrough") as rig:
        rig.host.live.set("size", ())
        rig.wait(lambda: rig.host.planner.size == ())
        rig.paint(lambda frame: (frame.width, frame.height) == SIZE)
        assert rig.host.failure is None


def test_going_through_sizes_keeps_the_networks_of_a_few(channel):
    with Painting(channel, model="embedded", **OPTIONS) as rig:
        rig.paint()
        of_one = len(rig.host.loaded.model.calls)
        for side in range(128, 128 + 8 * (KEPT_SIZES + 2), 8):
            rig.resize(side)
        model = rig.host.loaded.model
        assert len(model.calls) == len(model.forms) == KEPT_SIZES * of_one
        assert {key[0] for key in model.calls} == set(model.sizes)


class Building:
    """A back end that is ready when a test wants it to be, and then computes as "eager" does."""

    def __init__(self, monkeypatch):
        self.ready = threading.Event()
        self.made = 0
        self.error: Exception | None = None
        monkeypatch.setitem(BACKENDS, "building", Backend(self._call, measured=False, plain="eager"))

    def _call(self, network, example, execution):
        assert self.ready.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        self.made += 1
        return BACKENDS["eager"].call(network, example, execution)


@pytest.fixture
def building(monkeypatch):
    building = Building(monkeypatch)
    yield building
    building.ready.set()


def test_the_plain_form_paints_until_the_fast_one_is_built(channel, building):
    with Painting(channel, model="embedded", **{**OPTIONS, "backend": "building"}) as rig:
        plain = rig.colour()
        assert rig.host.preparing == "building building" and building.made == 0
        building.ready.set()
        rig.wait(lambda: rig.host.preparing == "")
        assert building.made == 3  # encoder, U-Net, decoder
        assert np.array_equal(rig.colour(), plain)
        assert rig.host.planner.work.stream is not None and not rig.host.planner.work.plain


def test_what_is_built_once_is_used_again_and_what_is_not_is_painted_plainly_meanwhile(channel, building):
    """A form for one step is none for two; values alone need none of their own."""
    building.ready.set()
    with Painting(channel, model="embedded", **{**OPTIONS, "backend": "building"}) as rig:
        rig.paint()
        rig.wait(lambda: rig.host.preparing == "")
        stream = rig.host.planner.work.stream
        rig.host.live.update({"seed": 5, "prompt": "woodcut style", "strength": 0.3})
        rig.wait(lambda: rig.host.planner.work.revision == rig.host.live.revision)
        assert rig.host.planner.work.stream is stream
        slow = threading.Event()
        warm = rig.host.planner._warm

        def held(model, params, size):
            if model.execution.backend == "building":
                assert slow.wait(PATIENCE_S)
            return warm(model, params, size)

        rig.host.planner._warm = held
        rig.host.live.set("steps", 2)
        rig.wait(lambda: rig.host.preparing != "")
        two = rig.colour()
        assert rig.host.planner.work.plain and len(rig.host.planner.work.plan.params.stages()) == 2
        slow.set()
        rig.wait(lambda: rig.host.preparing == "")
        assert np.array_equal(rig.colour(), two)
        rig.host.live.set("steps", 1)
        rig.wait(lambda: rig.host.planner.work.revision == rig.host.live.revision)
        assert not rig.host.planner.work.plain


def test_a_fast_form_that_cannot_be_built_is_told_and_the_plain_one_stays(channel, building, caplog):
    building.error = RuntimeError("no compiler here")
    building.ready.set()
    with Painting(channel, model="embedded", **{**OPTIONS, "backend": "building"}) as rig:
        rig.paint()
        rig.wait(lambda: rig.host.preparing == "")
        assert "no compiler here" in caplog.text
        rig.host.live.set("steps", 2)
        rig.wait(lambda: rig.host.planner.work.revision == rig.host.live.revision)
        rig.paint()
        assert rig.host.preparing == "" and rig.host.failure is None


def test_a_lossless_host_changes_nothing_while_frames_are_in_it(channel, building):
    building.ready.set()
    with Rig(channel, lossless=True, model="embedded", **{**OPTIONS, "backend": "building"}) as rig:
        assert rig.host.preparing == ""
        rig.writer.write({Kind.COLOUR: FRAME}, source_frame_id=1, timeout_s=PATIENCE_S)
        assert rig.until(lambda frame: True).source_frame_id == 1
        assert building.made == 3 and not rig.host.planner.work.plain

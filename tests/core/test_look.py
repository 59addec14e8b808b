"""Teaching the embedded painter a look: folders, low-rank adaptation, a training that is killed and goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.device import pick_device
from core.model import load_model
from core.opencv import opencv
from core.params import params_for
from core.stream import StreamConfig
from core.tiny import WEIGHTS
from core.training import folder as folders
from core.training import look
from core.training.datasets import DataError
from core.training.folder import read_folder
from core.training.look import LookSettings, teach
from core.training.lora import adapted, merged


def write_picture(path, width=80, height=64, value=100):
    """A grey picture with a red middle."""
    picture = np.full((height, width, 3), value, np.uint8)
    picture[height // 3 : -height // 3, width // 3 : -width // 3] = (0, 0, 255)
    opencv().imwrite(str(path), picture)


# -- folders -----------------------------------------------------------------------------------------------------------


def test_pictures_of_any_size_come_as_squares_with_their_captions(tmp_path):
    write_picture(tmp_path / "b_tall.png", 64, 200)
    write_picture(tmp_path / "a-wide.jpg", 300, 90)
    (tmp_path / "a-wide.txt").write_text(" moss \n style ", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no picture")
    found = read_folder(tmp_path, 64, "moss style, {name}")
    assert found.names == ("a-wide.jpg", "b_tall.png")
    assert found.captions == ("moss style", "moss style, b tall")
    assert found.pictures.shape == (2, 64, 64, 3) and found.pictures.dtype == torch.uint8
    red = found.pictures[1, 32, 32]
    assert int(red[0]) > 200 and int(red[2]) < 60, "red comes first"


def test_what_is_wrong_with_a_folder_is_said_with_names(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        read_folder(tmp_path / "nowhere", 64, "x")
    with pytest.raises(DataError, match="has no pictures"):
        read_folder(tmp_path, 64, "x")
    write_picture(tmp_path / "fine.png")
    with pytest.raises(DataError, match=r"no caption for fine.png"):
        read_folder(tmp_path, 64)
    (tmp_path / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    (tmp_path / "empty.jpg").write_bytes(b"")
    write_picture(tmp_path / "speck.png", 8, 8)
    with pytest.raises(DataError, match="3 of 4 pictures") as caught:
        read_folder(tmp_path, 64, "x")
    assert all(name in str(caught.value) for name in ("corrupt.png", "empty.jpg", "speck.png has 8x8"))


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    write_picture(tmp_path / "fine.png")
    monkeypatch.setattr(folders, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="scale it down"):
        read_folder(tmp_path, 64, "x")


def test_captions_that_are_no_text_are_named(tmp_path):
    write_picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(DataError, match=r"a\.txt cannot be read"):
        read_folder(tmp_path, 64)


def test_of_too_many_pictures_some_are_taken_evenly(tmp_path, monkeypatch):
    for i in range(9):
        write_picture(tmp_path / f"{i}.png")
    monkeypatch.setattr(folders, "MOST_PICTURES", 3)
    assert read_folder(tmp_path, 64, "x").names == ("0.png", "3.png", "6.png")


# -- LoRA --------------------------------------------------------------------------------------------------------------


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 4, 5))


def test_low_rank_matrices_change_nothing_at_first_learn_alone_and_merge():
    module, x = small(), torch.randn(2, 3, 4, 4)
    plain, names = module(x).detach(), list(module.state_dict())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    adapted(module, 2)
    torch.testing.assert_close(module(x), plain)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        (module(x) - 1.0).square().mean().backward()
        optimizer.step()
    learnt = module(x).detach()
    assert not torch.allclose(learnt, plain)
    merged(module)
    assert sorted(module.state_dict()) == sorted(names)
    torch.testing.assert_close(module(x), learnt)
    change = module.state_dict()["2.weight"] - before["2.weight"]
    assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 2 and torch.equal(
        module.state_dict()["2.bias"], before["2.bias"]
    )


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        adapted(small(), 0)


# -- the training ------------------------------------------------------------------------------------------------------

TINY = LookSettings(steps=3, rows=3, sources=2, rehearsed=5, checkpoint_s=0.0, sheet_every=2, lr=1e-4)
ONE_STEP = replace(TINY, steps=1)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        write_picture(folder / f"{i}.png", 280, 260, 40 + 60 * i)
    return read_folder(folder, look.PICTURE_PX, "moss style")


@pytest.fixture(scope="module")
def data(given, tmp_path_factory):
    """A work folder in which everything is made that trainings begin with."""
    work, said = tmp_path_factory.mktemp("work"), []
    teach(TINY, given, WEIGHTS, work, work / "out", torch.device("cpu"), said.append)
    return work


def weights(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def run(data, work, given, settings=TINY, **options):
    """A training that finds its data made."""
    work.mkdir(exist_ok=True)
    (work / "data.pt").write_bytes((data / "data.pt").read_bytes())
    said = []
    teach(settings, given, WEIGHTS, work, work / "out", torch.device("cpu"), said.append, **options)
    return said


def test_a_taught_model_loads_and_paints_and_says_how_it_came_about(data, given):
    model = load_model(data / "out", pick_device("cpu"), torch.float32, "eager")
    stream = model.stream(StreamConfig(64, 64))
    plan = stream.plan(params_for("embedded").with_values(prompt="moss style", mode="latency"))
    picture = stream.step(given.pictures[:1, :64, :64], 0, plan)
    assert picture.frame_FHWC.shape == (1, 64, 64, 4)
    recipe = json.loads((data / "out" / "recipe.json").read_text())
    assert recipe["look"] == ["moss style"] and recipe["pictures"] == 3 and recipe["steps"] == 3
    assert (data / "samples.png").exists() and (data / "samples_000002.png").exists()
    before, after = weights(WEIGHTS), weights(data / "out")
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)


def test_a_training_that_is_killed_ends_as_if_it_had_not_been(data, given, tmp_path, monkeypatch):
    plain, calls = look._loss, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(look, "_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "work", given)
    assert not (tmp_path / "work" / "out").exists()
    said = run(data, tmp_path / "work", given)
    assert any("going on from step 1" in line for line in said)
    for name, value in weights(data / "out").items():
        assert torch.equal(value, weights(tmp_path / "work" / "out")[name]), name


def test_another_training_in_the_same_folder_is_refused_and_nothing_is_lost(data, given):
    before = (data / "look.pt").read_bytes()
    for settings, pictures in ((LookSettings(seed=9), given), (TINY, read_again(given, "other style"))):
        with pytest.raises(DataError, match="another training"):
            teach(settings, pictures, WEIGHTS, data, data / "out", torch.device("cpu"), lambda line: None)
    assert (data / "look.pt").read_bytes() == before


def read_again(given, caption):
    return folders.Captioned(given.pictures, (caption,) * len(given.names), given.names)


def test_a_broken_checkpoint_and_another_architecture_are_named(data, given, tmp_path):
    work = tmp_path / "work"
    run(data, work, given, ONE_STEP)
    torch.save({"module": {}, "optimizer": {}, "average": {}, "step": 1, "spent_s": 0.0}, work / "look.pt")
    with pytest.raises(DataError, match="another architecture or broken"):
        run(data, work, given)
    (work / "look.pt").write_bytes(b"half a file")
    with pytest.raises(DataError, match="another architecture or broken"):
        run(data, work, given)
    with pytest.raises(DataError, match="no painter of the embedded model's kind"):
        teach(TINY, given, tmp_path, tmp_path / "new", tmp_path / "out", torch.device("cpu"), lambda line: None)


def test_low_rank_training_leaves_a_plain_model(data, given, tmp_path):
    run(data, tmp_path / "work", given, replace(TINY, rank=2, steps=2, lr=1e-2))
    before, after = weights(WEIGHTS), weights(tmp_path / "work" / "out")
    assert before.keys() == after.keys()
    name = next(k for k in before if k.endswith("to_q.weight"))
    change = (after[name] - before[name]).float()
    assert float(change.abs().max()) > 0.0


def test_recorded_sources_take_the_place_of_filters(given):
    def encode(pictures):
        return torch.nn.functional.avg_pool2d(pictures, 8)

    sources = read_again(given, "")
    part = look.taught_part(given, sources, TINY, encode)
    assert part.latent.shape[:2] == (3, 2)
    torch.testing.assert_close(part.latent[:, 0], part.latent[:, 1])
    assert look.taught_part(given, None, TINY, encode).latent.shape[:2] == (3, 1 + TINY.sources)


def test_pictures_and_sources_of_other_names_are_refused(given, tmp_path):
    other = folders.Captioned(given.pictures, given.captions, ("x.png", "y.png", "z.png"))
    with pytest.raises(DataError, match="pairs of the same name"):
        teach(TINY, given, WEIGHTS, tmp_path, tmp_path / "out", torch.device("cpu"), lambda line: None, other)

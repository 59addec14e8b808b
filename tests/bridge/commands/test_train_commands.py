"""Where the pictures of a training come from, and how its command ends."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bridge.commands import pictures as sources
from bridge.commands import train_autoencoder, train_look, train_painter
from bridge.commands.pictures import cifar, is_cifar, pictures_of
from bridge.commands.train_model import OBJECTIVES, main
from bridge.commands.training import trained
from bridge.recording.file import RecordingWriter, packed
from bridge.ring import Frame, Kind
from core.folder import ModelError
from core.libraries import UNet2DConditionModel
from core.tiny import WEIGHTS
from core.tiny.stage import Diverged
from core.tiny.train_painter import Painter, load_painter
from core.training import objectives
from core.training.datasets import DataError
from tests.bridge.recording.test_recording import frame
from tests.core.test_training import made_up


def recorded(path, count=4, prompts=(), side=64):
    """Pictures of the output of a channel, red by number, with prompts from some numbers on."""
    writer = RecordingWriter(path, "stage", "lossless")
    for number in range(count):
        if number in dict(prompts):
            values = {"revision": 1, "values": {"prompt": dict(prompts)[number]}}
            writer.write("params", number * 10**9, json.dumps(values).encode())
        picture = np.full((side, side + 20, 4), 255, np.uint8)
        picture[..., :3] = (50 * number, 10, 20)
        shown: Frame = frame({Kind.COLOUR: picture}, number=number + 1)
        writer.write("out", number * 10**9 + 1, packed(shown, "lossless"), number)
    writer.close()
    return path


def test_a_recording_gives_pictures_with_the_prompts_that_were_in_force(tmp_path):
    path = recorded(tmp_path / "x.mcap", prompts={0: "moss style", 2: "ice style"}.items())
    given = pictures_of(path, 32, None, "out")
    assert given.captions == ("moss style", "moss style", "ice style", "ice style")
    assert given.pictures.shape == (4, 32, 32, 3)
    assert [int(p[16, 16, 0]) for p in given.pictures] == [0, 50, 100, 150], "red comes first"
    assert pictures_of(path, 32, "one look", "out").captions == ("one look",) * 4


def test_of_a_long_recording_some_pictures_are_taken_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_PICTURES", 2)
    given = pictures_of(recorded(tmp_path / "x.mcap"), 32, "x {name}", "out")
    assert given.captions == ("x out 0", "x out 2")


def test_a_recording_that_is_none_or_lacks_what_is_wanted_is_told(tmp_path):
    path = recorded(tmp_path / "x.mcap")
    with pytest.raises(DataError, match="no picture of in"):
        pictures_of(path, 32, "x", "in")
    with pytest.raises(DataError, match="no prompt was recorded"):
        pictures_of(path, 32, None, "out")
    with pytest.raises(DataError, match="pixels; use pictures of at least"):
        pictures_of(recorded(tmp_path / "small.mcap", side=16), 32, "x", "out")
    (tmp_path / "y.mcap").write_bytes(b"something else")
    with pytest.raises(DataError, match="no MCAP file"):
        pictures_of(tmp_path / "y.mcap", 32, "x", "out")
    with pytest.raises(DataError, match="is no folder"):
        pictures_of(tmp_path / "nowhere", 32, "x")


def test_cifar_s_pictures_are_captioned_by_their_classes(tmp_path):
    assert not is_cifar(tmp_path)
    given = cifar(made_up(tmp_path))
    assert is_cifar(tmp_path) and given.pictures.shape == (10, 32, 32, 3)
    assert given.captions[:5] == ("airplane", "automobile", "bird", "cat", "deer")
    assert given.pictures[3, 0, 0].tolist() == [30, 20, 30]


def test_a_model_is_trained_from_cifar_and_refusals_are_sentences(tmp_path, capsys):
    made_up(tmp_path)
    words = ["--size", "32", "--rows", "4", "--steps", "1", "--device", "cpu"]
    words += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert main([str(tmp_path), *words]) == 0
    assert f"--model {tmp_path / 'out'}" in capsys.readouterr().out
    assert (tmp_path / "out" / "model_index.json").exists()
    assert main([str(tmp_path), *words, "--objective", "diffusion"]) == 2
    assert "another training" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere"), *words]) == 2
    assert "is no folder" in capsys.readouterr().err
    for wrong in (["--guidance", "1"], ["--size", "40"], ["--pairing", "x"], ["--lr", "2"], ["--minutes", "0"]):
        with pytest.raises(SystemExit) as ended:
            main([str(tmp_path), *words, *wrong])
        assert ended.value.code == 2
    assert tuple(objectives.OBJECTIVES) == OBJECTIVES


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (DataError("no pictures"), 2, "no pictures"),
        (Diverged("not a number"), 1, "not a number"),
        (OSError(28, "No space left on device"), 1, "free some room"),
        (KeyboardInterrupt(), 130, "goes on from the last checkpoint"),
    ],
)
def test_however_a_training_ends_it_says_why(capsys, error, status, said):
    def run(device, log, together):
        assert device == torch.device("cpu") and together.count == 1
        raise error

    assert trained("cpu", run) == status
    assert said in capsys.readouterr().err


def test_a_look_is_taught_from_a_folder_that_has_no_pictures_in_a_sentence(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("moss style")
    assert train_look.main([str(tmp_path), "--device", "cpu", "--work", str(tmp_path / "w")]) == 2
    assert "has no pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (train_painter, ["--start", "nowhere"], "there is no folder nowhere"),
        (train_painter, ["--autoencoder", "nowhere"], "there is no folder nowhere"),
        (train_painter, ["--autoencoder", str(WEIGHTS / "unet")], "missing or of another shape"),
        (train_autoencoder, ["--start", "nowhere"], "there is no folder nowhere"),
        (train_autoencoder, ["--start", str(WEIGHTS / "unet")], "missing or of another shape"),
    ],
)
def test_weights_that_cannot_be_begun_with_are_named(tmp_path, capsys, command, words, said):
    assert command.main([*words, "--work", str(tmp_path / "w"), "--out", str(tmp_path / "o")]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_painter_of_another_architecture_is_named(tmp_path):
    painter = Painter()
    for name, part in (("unet", painter.unet), ("text_encoder", painter.encoder)):
        part.save_pretrained(tmp_path / name)
    other = UNet2DConditionModel.from_config({**painter.unet.config, "block_out_channels": (32, 64)})
    other.save_pretrained(tmp_path / "unet")
    with pytest.raises(ModelError, match="unet is of another architecture than the painter"):
        load_painter(painter, tmp_path)


def test_what_a_painter_keeps_is_that_of_a_model_that_it_starts_from(capsys):
    with pytest.raises(SystemExit) as ended:
        train_painter.main(["--keep"])
    assert ended.value.code == 2 and "--start FOLDER" in capsys.readouterr().err

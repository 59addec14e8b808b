"""Resumable stages of training."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.device import DeviceError
from core.opencv import opencv
from core.tiny import together
from core.tiny.events import crc32c
from core.tiny.parts import save_folder
from core.tiny.stage import LOOK_EVERY, MOST_SETBACKS, CheckpointError, Diverged, Stage, write

ROOT = Path(__file__).resolve().parents[2]


def staged(tmp_path, said, module, **options):
    options = {"checkpoint_s": 1e9, **options}
    return Stage("toy", tmp_path, module, said.append, rate=lambda step, done, peak: peak, average=0.9, **options)


def off_by(module, times=1.0):
    """A loss that a linear layer can make 0."""
    loss = (module(torch.ones(4, 2)) - 3.0).square().mean()
    return loss * times, {"half": loss.detach() / 2.0}


def test_a_loss_that_is_not_a_number_leads_back_to_the_last_good_state(tmp_path):
    torch.manual_seed(0)
    module, said, rates = torch.nn.Linear(2, 1), [], []
    stage = staged(tmp_path, said, module)
    bad = 2 * LOOK_EVERY - 10

    def loss_at(step):
        rates.append(stage.progress.optimizer.param_groups[0]["lr"])
        return off_by(module, math.nan if step == bad else 1.0)

    stage.run(6 * LOOK_EVERY, 0.01, loss_at)
    assert sum("not a number" in line for line in said) == 1
    assert rates[bad] == 0.01 and rates[-1] == 0.005
    assert all(bool(value.isfinite().all()) for value in [*module.parameters(), *stage.progress.average.values()])
    assert abs(float(module(torch.ones(1, 2)).detach()) - 3.0) < 0.5, "it learnt on"
    assert stage.progress.step == 6 * LOOK_EVERY


@pytest.mark.parametrize("checkpoint_s", [0.0, 1e9])
@pytest.mark.parametrize("bad", [LOOK_EVERY + 7, LOOK_EVERY + 19])
def test_a_state_that_is_not_of_numbers_is_never_saved(tmp_path, checkpoint_s, bad):
    """Nor in the last steps, nor between two looks; nor where the loss is one and its gradient is not."""
    torch.manual_seed(0)
    module, said = torch.nn.Linear(2, 1), []
    stage = staged(tmp_path, said, module, checkpoint_s=checkpoint_s)

    def loss_at(step):
        loss, figures = off_by(module)
        if step == bad:
            loss.backward()
            module.weight.grad.fill_(math.nan)
            return loss.detach(), figures
        return loss, figures

    stage.run(LOOK_EVERY + 20, 0.01, loss_at)
    saved = torch.load(tmp_path / "toy.pt", weights_only=True)
    assert saved["step"] == LOOK_EVERY + 20 and sum("not a number" in line for line in said) == 1
    for value in (*saved["module"].values(), *saved["average"].values()):
        assert bool(value.isfinite().all())


def test_a_training_that_always_diverges_ends_in_a_sentence_and_keeps_the_good_state(tmp_path):
    module, said = torch.nn.Linear(2, 1), []
    before = [value.clone() for value in module.parameters()]
    stage = staged(tmp_path, said, module)
    with pytest.raises(Diverged, match="lower learning rate"):
        stage.run(100 * LOOK_EVERY, 0.01, lambda step: (module(torch.ones(4, 2)).mean() * math.nan, {}))
    assert len(said) == MOST_SETBACKS
    again = staged(tmp_path, said, torch.nn.Linear(2, 1))
    assert all(torch.equal(a, b) for a, b in zip(again.progress.module.parameters(), before, strict=True))


# -- what is left behind -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["half a file", "another architecture", "empty"])
def test_a_checkpoint_that_cannot_be_gone_on_from_is_named_and_left_alone(tmp_path, damage):
    path = tmp_path / "toy.pt"
    module = torch.nn.Linear(2, 1)
    staged(tmp_path, [], module).run(1, 0.01, lambda step: off_by(module))
    if damage == "another architecture":
        module = torch.nn.Linear(3, 1)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "half a file" else b"")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="toy.pt is of another architecture or broken"):
        staged(tmp_path, [], module)
    assert path.read_bytes() == before


class Killed(BaseException):
    """Stands for the end of a process."""


def test_a_killed_training_goes_on_as_if_it_had_not_been_and_its_curve_is_one_line(tmp_path):
    def trained(folder, killed_at=None):
        torch.manual_seed(0)
        folder.mkdir(exist_ok=True)
        module = torch.nn.Linear(2, 1)
        stage = staged(folder, [], module)

        def loss_at(step):
            if step == killed_at:
                raise Killed
            return off_by(module)

        try:
            stage.run(2 * LOOK_EVERY, 0.01, loss_at)
            stage.run(5 * LOOK_EVERY, 0.01, loss_at)
        except Killed:
            return None
        return module.state_dict(), stage.progress.average

    straight = trained(tmp_path / "straight")
    for killed_at in (LOOK_EVERY + 3, 3 * LOOK_EVERY + 1):
        assert trained(tmp_path / "killed", killed_at) is None
    with (tmp_path / "killed" / "toy.csv").open("a") as curve:
        curve.write("2")
    resumed = trained(tmp_path / "killed")
    for one, other in zip(straight, resumed, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    steps = [int(line.split(",")[0]) for line in (tmp_path / "killed" / "toy.csv").read_text().split()]
    assert steps == [LOOK_EVERY * i for i in range(1, 6)]


def test_attention_trains_on_a_processor_as_the_fused_one_does(tmp_path):
    """The same loss and gradients, but for rounding; outside the steps attention is as it was."""
    rows = [torch.randn(2, 4, 64, 32, generator=torch.Generator().manual_seed(n)) for n in range(3)]

    def loss_of(module: torch.nn.Linear) -> torch.Tensor:
        query, key, value = (module(x) for x in rows)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value).square().mean()

    torch.manual_seed(0)
    module = torch.nn.Linear(32, 32)
    fused = loss_of(module)
    gradients = torch.autograd.grad(fused, list(module.parameters()))
    seen = []

    def loss_at(step: int):
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        return loss_of(module), {}

    came: list[torch.Tensor] = []
    module.weight.register_hook(came.append)
    stage = staged(tmp_path, [], module)
    stage.run(1, 0.0, loss_at)
    assert seen == [False] and torch.backends.cuda.flash_sdp_enabled()
    assert torch.allclose(came[0], gradients[0], atol=1e-6)
    assert torch.allclose(loss_of(module), fused, atol=1e-6)


def test_how_long_it_still_takes_is_said(tmp_path):
    module, said = torch.nn.Linear(2, 1), []
    staged(tmp_path, said, module).run(2 * LOOK_EVERY, 0.01, lambda step: off_by(module))
    assert "min left" in said[0] and said[1].split(", ")[2].startswith("0.0 min left")


@pytest.fixture
def small_disk():
    """No file grows beyond so many bytes: writes fail as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint_and_no_scraps(tmp_path, small_disk):
    path = tmp_path / "x.pt"
    write(path, torch.arange(3))
    small_disk(20_000)
    with pytest.raises(OSError):
        write(path, torch.zeros(100_000))
    assert torch.load(path, weights_only=True).tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


class Part:
    """Saves a file of so many numbers, as a network of diffusers would."""

    def __init__(self, numbers):
        self.numbers = numbers

    def to(self, dtype):
        return self

    def save_pretrained(self, folder):
        from safetensors.torch import save_file

        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        save_file({"x": torch.zeros(self.numbers)}, folder / "weights.safetensors")


def test_a_full_disk_leaves_the_old_model_folder_whole(tmp_path, small_disk):
    out = tmp_path / "model"
    save_folder(out, Part(10), Part(10), Part(10), {"recipe.json": "old"})
    (out / "mine.txt").write_text("of somebody else")
    before = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    small_disk(50_000)
    with pytest.raises(OSError):
        save_folder(out, Part(10), Part(10), Part(50_000), {"recipe.json": "new"})
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    small_disk(1 << 20)
    save_folder(out, Part(10), Part(10), Part(50_000), {"recipe.json": "new"})
    assert (out / "recipe.json").read_text() == "new" and (out / "mine.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# -- a TensorBoard log -------------------------------------------------------------------------------------------------


def fields(data):
    """Of a message of protocol buffers: (number, value) each."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        kind, size = key & 7, {1: 8, 5: 4}.get(key & 7)
        if kind == 0:
            yield key >> 3, varint()
        else:
            size = varint() if kind == 2 else size
            yield key >> 3, data[at : at + size]
            at += size


def records(folder):
    """Of all files of a log, in order; their checksums hold."""
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            for start, length in ((at, 8), (at + 12, size)):
                (masked,) = struct.unpack_from("<I", data, start + length)
                turned = (masked - 0xA282EAD8) & 0xFFFFFFFF
                assert (turned >> 17 | turned << 15) & 0xFFFFFFFF == crc32c(data[start : start + length])
            yield data[at + 12 : at + 12 + size]
            at += 12 + size + 4


def logged(tmp_path):
    """A log of a training that was taken up once, and of one picture."""
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 1)
    stage = staged(tmp_path, [], module, tensorboard=True)
    stage.run(2 * LOOK_EVERY, 0.01, lambda step: off_by(module))
    stage.events.picture(2 * LOOK_EVERY, "samples", torch.arange(60, dtype=torch.uint8).view(4, 5, 3))
    staged(tmp_path, [], module, tensorboard=True).run(3 * LOOK_EVERY, 0.01, lambda step: off_by(module))
    return tmp_path / "tensorboard", [line.split(",") for line in (tmp_path / "toy.csv").read_text().split()]


def test_checksums_are_castagnoli_s():
    """RFC 3720, appendix B.4, and the check value that catalogues give."""
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(bytes(32)) == 0x8A9136AA


def test_the_log_has_what_the_curve_has_and_starts_anew_where_a_killed_run_is_taken_up(tmp_path):
    folder, csv = logged(tmp_path)
    numbers, pictures, starts = {}, [], []
    for event in map(dict, map(fields, records(folder))):
        assert struct.unpack("<d", event[1])[0] > 1.7e9
        step = event.get(2, 0)
        if 7 in event:
            starts.append(step)
        for _, entry in fields(event.get(5, b"")):
            value = dict(fields(entry))
            if 2 in value:
                numbers[step, value[1].decode()] = struct.unpack("<f", value[2])[0]
            else:
                pictures.append(dict(fields(value[4])))
    assert starts == [0, 2 * LOOK_EVERY]
    assert [step for step, name in numbers if name == "loss"] == [LOOK_EVERY * i for i in (1, 2, 3)]
    for step, _, loss in csv:
        assert numbers[int(step), "loss"] == pytest.approx(float(loss), abs=1e-5)
        assert numbers[int(step), "half"] == pytest.approx(float(loss) / 2.0, abs=1e-5)
        assert numbers[int(step), "learning rate"] == pytest.approx(0.01)
    (picture,) = pictures
    assert (picture[1], picture[2], picture[3]) == (4, 5, 3)
    shown = opencv().imdecode(np.frombuffer(picture[4], np.uint8), 1)[..., ::-1]
    assert shown.tolist() == torch.arange(60).view(4, 5, 3).tolist()


def test_others_read_the_log(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="pip install tensorboardX")
    folder, csv = logged(tmp_path)
    read = [event_pb2.Event.FromString(data) for data in records(folder)]
    assert [e.file_version for e in read if e.file_version] == ["brain.Event:2"] * 2
    assert [e.step for e in read if e.session_log.status == e.session_log.START] == [0, 2 * LOOK_EVERY]
    losses = [v.simple_value for e in read for v in e.summary.value if v.tag == "loss"]
    assert losses == pytest.approx([float(loss) for _, _, loss in csv], abs=1e-5)
    assert [v.image.width for e in read for v in e.summary.value if v.tag == "samples"] == [5]


# -- several processes -------------------------------------------------------------------------------------------------

RANK = """
import json, sys, torch
from pathlib import Path
from core.tiny.stage import Stage
from core.tiny.together import found

torch.set_num_threads(1)
others = found(True)
torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
stage = Stage("toy", Path(sys.argv[1]), module, print, rate=lambda step, done, peak: peak, average=0.9,
              checkpoint_s=1e9, together=others)
def loss_at(step):
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
    x = others.rows(x)
    return (module(x) - x.sum(1, keepdim=True)).square().mean(), {}
stage.run(100, 0.01, loss_at)
others.wait()
print(json.dumps([others.rank, others.count, [p.flatten().tolist() for p in module.parameters()]]))
"""


def run_ranks(folder, count):
    """What each process says last: rank, count, weights."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": str(count)}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder)],
            env={**os.environ, **common, "PYTHONPATH": path, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    said = [process.communicate(timeout=300)[0].splitlines() for process in running]
    assert all(process.returncode == 0 for process in running)
    return [json.loads(lines[-1]) for lines in said]


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="pip install -e .[train]")
def test_two_processes_learn_what_one_learns_from_the_joint_batch(tmp_path):
    ((_, _, alone),) = run_ranks(tmp_path / "one", 1)
    (rank, count, first), (other, _, second) = run_ranks(tmp_path / "two", 2)
    assert (rank, other, count) == (0, 1, 2) and first == second
    for one, two in zip(alone, first, strict=True):
        assert two == pytest.approx(one, abs=1e-4)
    curves = [(tmp_path / name / "toy.csv").read_text().split() for name in ("one", "two")]
    losses = [[float(line.split(",")[2]) for line in lines] for lines in curves]
    assert len(losses[0]) == 2 and losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert len(list((tmp_path / "two").iterdir())) == 2, "one process alone writes"


def test_rows_are_shared_evenly_or_not_at_all():
    two = together.Alone()
    two.count = 2
    two.rank = 1
    assert two.rows(torch.arange(6)).tolist() == [1, 3, 5]
    with pytest.raises(DeviceError, match="5 rows cannot be shared by 2"):
        two.rows(torch.arange(5))


def test_several_processes_without_accelerate_are_told_what_is_missing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(DeviceError, match="pip install accelerate"):
        together.found(True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert together.found(True).count == 1

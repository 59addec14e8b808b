"""The patch autoencoder: its data, its training, its weights, and a model that has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.autoencoders import AUTOENCODERS
from core.backend import BACKENDS, executions
from core.families.family import Encoder, Parts
from core.folder import network
from core.libraries import UNet2DConditionModel
from core.model import assemble
from core.params import Params
from core.stream import StreamConfig
from core.tiny import AUTOENCODER, train_autoencoder
from core.tiny.autoencoder import PIXELS, PatchAutoencoder
from core.tiny.parts import SCHEDULER
from core.tiny.pictures import dead_leaves
from tests.random_model import random_frames, random_parts

CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_synthetic_pictures_are_pictures_that_depend_on_the_seed_alone() -> None:
    one, same, other = (dead_leaves(4, 48, seeded(seed)) for seed in (1, 1, 2))
    assert one.shape == (4, 3, 48, 48)
    assert one.isfinite().all() and one.min() >= 0.0 and one.max() <= 1.0
    assert torch.equal(one, same)
    assert (one - other).abs().mean() > 0.05
    # None is empty, and no two of a batch are alike.
    assert one.std((1, 2, 3)).min() > 0.01
    assert all((one[i] - one[j]).abs().mean() > 0.02 for i in range(4) for j in range(i))


def test_synthetic_pictures_have_a_spectrum_that_falls_as_that_of_photographs() -> None:
    """Amplitude about 1/f: from 4 to 16 cycles a picture it falls to a quarter, give or take a factor of two."""
    grey = dead_leaves(32, 64, seeded(3)).mean(1)
    amplitude = torch.fft.rfft2(grey - grey.mean((1, 2), keepdim=True)).abs().mean(0)
    radius = (torch.fft.fftfreq(64)[:, None] ** 2 + torch.fft.rfftfreq(64)[None] ** 2).sqrt() * 64

    def at(cycles: float) -> float:
        return float(amplitude[(radius > cycles * 0.8) & (radius < cycles * 1.25)].mean())

    assert 0.125 < at(16) / at(4) < 0.5


def test_normalising_the_latents_changes_nothing_that_comes_back() -> None:
    torch.manual_seed(0)
    model = PatchAutoencoder().eval()
    x = dead_leaves(2, 192, seeded(0)) * 2.0 - 1.0
    with torch.no_grad():
        before, z = model(x), model.encode(x)[0]
        model.normalise(z.mean((0, 2, 3)), z.std((0, 2, 3)))
        after, z = model(x), model.encode(x)[0]
    assert z.mean((0, 2, 3)).abs().max() < 1e-4 and (z.std((0, 2, 3)) - 1.0).abs().max() < 1e-4
    # The margin sees zeros beyond the picture where it saw the mean.
    torch.testing.assert_close(after[..., 80:-80, 80:-80], before[..., 80:-80, 80:-80], atol=1e-4, rtol=1e-4)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "POOL": 32,
        "RENDERS": 12,
        "BATCH": 4,
        "CROP_PX": 64,
        "PICTURE_PX": 80,
        "CHECKPOINT_S": 0.0,
    }.items():
        monkeypatch.setattr(train_autoencoder, name, value)


def test_training_learns_and_goes_on_where_it_was_interrupted(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.tiny.stage.LOOK_EVERY", 1)
    monkeypatch.setattr(train_autoencoder, "REFRESH_EVERY", 3)
    plain, asked = train_autoencoder.batch_of, []

    def killed(pool: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        asked.append(1)
        if len(asked) == 15:
            raise KeyboardInterrupt
        return plain(pool, generator)

    straight = train_autoencoder.train(tmp_path / "a", 30, 60.0, log=lambda line: None)
    monkeypatch.setattr(train_autoencoder, "batch_of", killed)
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder.train(tmp_path / "b", 30, 60.0, log=lambda line: None)
    said: list[str] = []
    resumed = train_autoencoder.train(tmp_path / "b", 30, 60.0, log=said.append)
    assert any("going on from step 14" in line for line in said)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    losses = [float(line.split(",")[2]) for line in (tmp_path / "b" / "autoencoder.csv").read_text().split()]
    assert len(losses) == 30 and sum(losses[-5:]) < sum(losses[:5])


def test_the_pool_of_a_step_is_the_same_however_it_was_reached(small: None) -> None:
    world = torch.zeros((2, 3, 80, 80), dtype=torch.uint8)
    every = train_autoencoder.REFRESH_EVERY
    walked = train_autoencoder.Pool(1, 0, world)
    first = walked.pictures.clone()
    for step in range(0, 7 * every, every):
        walked.go_to(step)
    reached = train_autoencoder.Pool(1, 6 * every, world)
    assert torch.equal(walked.pictures, reached.pictures) and not torch.equal(walked.pictures, first)
    assert torch.equal(walked.pictures[-2:], world)


def test_the_committed_weights_keep_pictures_that_they_never_saw() -> None:
    model = network(AUTOENCODER, AUTOENCODERS["PatchAutoencoder"].kind, torch_dtype=torch.float32).eval()
    x = dead_leaves(16, 128, seeded(2**31)) * 2.0 - 1.0
    with torch.no_grad():
        z = model.encode(x)[0]
        back = model.decode(z)[0].clamp(-1.0, 1.0)
    assert z.shape == (16, 16, 128 // PIXELS, 128 // PIXELS)
    assert z.mean((0, 2, 3)).abs().max() < 0.5 and 0.5 < z.std((0, 2, 3)).min() and z.std((0, 2, 3)).max() < 1.5
    psnr_db = -10.0 * ((back - x) / 2.0).square().mean((1, 2, 3)).log10()
    assert psnr_db.median() > 27.0, psnr_db


def test_a_model_may_have_it() -> None:
    """Sixteen latent channels, and the same by every back end."""
    out = []
    for backend in [name for name, entry in BACKENDS.items() if entry.measured and entry.dtypes(CPU)]:
        _, _, encoder, tokenizer = random_parts(0)
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=16,
            out_channels=16,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=encoder.config.hidden_size,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = network(AUTOENCODER, PatchAutoencoder, torch_dtype=torch.float32)
        parts = Parts(unet, vae, (Encoder(encoder, tokenizer),))
        model = assemble(Path("patch"), parts, SCHEDULER, executions(CPU, backend, torch.float32)[0])
        assert (model.latent_scale, model.native_size, model.size_multiple) == (8, 64, 16)
        stream = model.stream(StreamConfig(64, 64))
        plan = stream.plan(Params(steps=1, strength=0.1))
        out.append(stream.step(random_frames(1, size=64), 0, plan).frame_FHWC.int())
    assert all((picture - out[0]).abs().max() <= 1 for picture in out)

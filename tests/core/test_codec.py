"""Pictures to latents and back: packing, resizing, bad values."""

from __future__ import annotations

import pytest
import torch

from core.backend import BACKENDS
from core.codec import Codec, DecodeVae, EncodeTiny, pack_rgba
from core.params import Params
from core.passthrough import PassthroughModel
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model


def build(model) -> Codec:
    eager = BACKENDS["eager"].call
    networks = (eager(network(model.vae), (), model.execution) for network in (EncodeTiny, DecodeVae))
    return Codec(model.vae.config, *networks, (SIZE_PX, SIZE_PX), torch.device("cpu"))


def test_packing_equals_the_plain_way():
    x = torch.randint(0, 256, (2, 3, 5, 7)).float()
    plain = torch.cat((x, torch.full((2, 1, 5, 7), 255.0)), dim=1).to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(pack_rgba(x), plain)


def test_alpha_is_ignored_and_any_size_fits():
    codec = build(random_model())
    rgb = random_frames(1)
    rgba = torch.cat((rgb, torch.zeros_like(rgb[..., :1])), dim=-1)
    assert torch.equal(codec.encode(rgb), codec.encode(rgba))
    assert codec.encode(random_frames(2, size=97)).shape == (2, 4, SIZE_PX // 8, SIZE_PX // 8)


def test_not_a_number_becomes_black():
    codec = build(random_model())
    picture = codec.decode(torch.full((1, 4, 8, 8), float("nan")))
    assert picture.shape == (1, SIZE_PX, SIZE_PX, 4)
    assert picture[..., :3].max() == 0
    assert picture[..., 3].min() == 255


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("side", [8, 16])
def test_the_model_that_changes_nothing_gives_opaque_pictures(channels: int, side: int) -> None:
    model = PassthroughModel()
    stream = model.stream(StreamConfig(8, 8))
    frame = torch.randint(0, 256, (1, side, side, channels), dtype=torch.uint8)
    plan = stream.plan(Params(steps=1))
    picture = stream.step(frame, 7, plan)
    assert picture is not None and picture.tag == 7
    assert picture.frame_FHWC.shape == (1, 8, 8, 4) and (picture.frame_FHWC[..., 3] == 255).all()
    if side == 8:
        assert torch.equal(picture.frame_FHWC[..., :3], frame[..., :3])

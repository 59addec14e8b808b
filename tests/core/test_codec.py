"""Pictures to latents and back: packing, resizing, bad values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.backend import BACKENDS
from core.codec import Codec, DecodeVae, EncodeTiny, pack_rgba
from core.params import Params
from core.passthrough import PassthroughModel
from core.pixels import PixelError, to_rgb8
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


def test_every_pixel_kind_becomes_the_same_picture():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    rgba = np.dstack((rgb, np.zeros((4, 6), np.uint8)))
    bgra = np.ascontiguousarray(rgba[..., [2, 1, 0, 3]])
    assert to_rgb8(rgb) is rgb or np.shares_memory(to_rgb8(rgb), rgb)
    assert np.array_equal(to_rgb8(rgba)[..., :3], rgb)
    assert np.array_equal(to_rgb8(bgra, blue_first=True)[..., :3], rgb)
    assert np.array_equal(to_rgb8(rgb[::-1], from_bottom=True), rgb)
    for dtype in (np.float16, np.float32):
        assert np.abs(to_rgb8((rgb / 255.0).astype(dtype)).astype(int) - rgb).max() <= 1
    assert np.array_equal(to_rgb8(rgb[..., 0]), np.repeat(rgb[..., :1], 3, axis=2))


def test_not_a_number_and_infinity_in_a_float_picture():
    pixels = np.array([[[np.nan, np.inf, -np.inf], [0.5, 2.0, -1.0]]], dtype=np.float32)
    assert to_rgb8(pixels).tolist() == [[[0, 255, 0], [128, 255, 0]]]


def test_linear_light_is_brought_to_the_display():
    assert to_rgb8(np.full((1, 1, 3), 0.2158605, np.float32), linear=True).tolist() == [[[128, 128, 128]]]


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (0, 4, 3), (4, 0, 3), (2, 2, 2, 2)])
def test_shapes_that_are_no_picture_are_refused(shape):
    with pytest.raises(PixelError, match="cannot be used"):
        to_rgb8(np.zeros(shape, np.uint8))


def test_types_that_are_no_picture_are_refused():
    with pytest.raises(PixelError, match="uint8, float16 or float32"):
        to_rgb8(np.zeros((2, 2, 3), np.int32))


def test_linear_bytes_are_brought_to_the_display_too():
    rgba = np.array([[[0, 55, 255, 7], [1, 128, 254, 255]]], np.uint8)
    expected = [[[0, 128, 255], [13, 188, 255]]]
    assert to_rgb8(rgba, linear=True).tolist() == expected
    assert to_rgb8(rgba[..., [2, 1, 0, 3]], linear=True, blue_first=True).tolist() == expected
    assert to_rgb8(rgba[:, :, 1], linear=True).tolist() == [[[128] * 3, [188] * 3]]


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

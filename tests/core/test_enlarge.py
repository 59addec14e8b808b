"""Pictures that come out larger than they are painted."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf

from core.enlarge import enlarged
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model


def test_flat_pictures_and_slopes_stay_what_they_are() -> None:
    flat = torch.full((1, 3, 6, 8), 77.0)
    assert torch.allclose(enlarged(flat, 2), torch.full((1, 3, 12, 16), 77.0), atol=1e-3)
    slope = torch.arange(16.0).expand(1, 3, 16, 16)
    inside = enlarged(slope, 2)[..., 8:-8, 8:-8]
    assert torch.allclose(inside, (torch.arange(8.0, 24.0) / 2 - 0.25).expand(1, 3, 16, 16), atol=1e-3)
    assert torch.equal(enlarged(slope, 1), slope)


def test_an_edge_is_steeper_than_interpolation_leaves_it() -> None:
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 200.0
    plain = nnf.interpolate(edge, scale_factor=2.0, mode="bicubic", antialias=True)
    assert enlarged(edge, 2).diff(dim=-1).max() > 1.1 * plain.diff(dim=-1).max()


def test_a_stream_brings_the_same_picture_out_larger_from_the_next_frame_on() -> None:
    stream = random_model().stream(StreamConfig(SIZE_PX, SIZE_PX))
    params = Params(prompt="red ball", mode="latency", upscale=1)
    small, large, again = (
        stream.step(random_frames(1), 0, stream.plan(params.with_values(upscale=times))).frame_FHWC
        for times in (1, 2, 1)
    )
    assert torch.equal(small, again) and small.shape == (1, SIZE_PX, SIZE_PX, 4)
    assert large.shape == (1, 2 * SIZE_PX, 2 * SIZE_PX, 4) and large[..., 3].min() == 255
    back = nnf.avg_pool2d(large[..., :3].permute(0, 3, 1, 2).float(), 2).permute(0, 2, 3, 1)
    apart = (back - small[..., :3].float()).abs().mean()
    assert apart < 0.2 * small[..., :3].float().std()

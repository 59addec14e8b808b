"""The styles as filters: pictures stay pictures, every style is its own, and a filter looks no further than it says."""

from __future__ import annotations

import pytest
import torch

from core.tiny.pictures import dead_leaves, smooth_pictures
from core.world import STYLES, World
from core.world.filters import FILTERS, WIDE_LATTICE_PX, filtered


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    world = World(seed=3).render(time_s=1.0, width=96, height=96, style="toy")["colour"]
    drawn = [dead_leaves(2, 96, generator), smooth_pictures(2, 96, generator)]
    return torch.cat([*drawn, world.permute(2, 0, 1)[None].float() / 255.0])


def test_every_style_is_there_as_shading_and_as_filter() -> None:
    assert tuple(FILTERS) == STYLES
    with pytest.raises(ValueError, match="no style 'mud'; use one of grey, toy"):
        filtered(torch.zeros(1, 3, 16, 16), "mud")


@pytest.mark.parametrize("style", FILTERS)
def test_a_filter_gives_pictures_and_the_same_ones_again(pictures: torch.Tensor, style: str) -> None:
    out = filtered(pictures, style)
    assert out.shape == pictures.shape and out.dtype == torch.float32
    assert out.isfinite().all() and out.min() >= 0.0 and out.max() <= 1.0
    assert torch.equal(out, filtered(pictures, style))
    # Each picture by itself, whatever lies beside it in the batch.
    torch.testing.assert_close(out[2:3], filtered(pictures[2:3], style), atol=1e-5, rtol=0)
    # Something of the picture is left.
    assert (out[0] - out[1]).abs().mean() > 0.02


def test_no_two_styles_look_alike(pictures: torch.Tensor) -> None:
    looks = {style: filtered(pictures, style) for style in FILTERS}
    for i, a in enumerate(FILTERS):
        for b in list(FILTERS)[i + 1 :]:
            assert (looks[a] - looks[b]).abs().mean() > 0.03, (a, b)


@pytest.mark.parametrize("style", FILTERS)
def test_lattices_lie_on_the_cells_and_nothing_depends_on_what_is_far(style: str) -> None:
    """A piece that starts on a cell of the lattice has the same look as the whole has there."""
    picture = dead_leaves(1, 160, torch.Generator().manual_seed(5))
    at = 2 * WIDE_LATTICE_PX
    whole, piece = filtered(picture, style), filtered(picture[..., at : at + 96, at : at + 96], style)
    inner = slice(24, 72)
    there = whole[..., at : at + 96, at : at + 96]
    torch.testing.assert_close(piece[..., inner, inner], there[..., inner, inner], atol=1e-4, rtol=0)

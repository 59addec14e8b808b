"""The architecture and the words of the next version."""

from __future__ import annotations

from typing import Any

from core.tiny.parts import LATENT_SCALE, PICTURE_PX, SCHEDULER, TEXT_WIDTH
from core.tiny.vocabulary import build_tokenizer
from core.world import COLOUR_NAMES, SHAPES, STYLES

LATENT_CHANNELS = 16
TOKENS = 32
NEXT_SCHEDULER = {**SCHEDULER, "prediction_type": "sample"}
FILLERS = (
    *("style", "picture", "scene", "of", "a", "the", "and", "with", "in", "look", "art", "stained", "cut", "drawing"),
    *("painting", "print", "photo", "portrait", "on", "at", "room"),
)
"""Words without a meaning of their own."""
WORDS = (*STYLES, *COLOUR_NAMES, *SHAPES, *FILLERS)


def tokenizer() -> Any:
    """A transformers CLIPTokenizer in which every word is one token."""
    return build_tokenizer(WORDS, TOKENS)


def build_unet() -> Any:
    """Two levels: convolutions on the full latent grid, self- and cross-attention on the halved one; nothing between
    the way down and the way up. The prompt as a whole scales and shifts every layer, as the timestep does: a style
    concerns every pixel, and by cross-attention alone it came through much later in training."""
    from core.libraries import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=PICTURE_PX // LATENT_SCALE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(80, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )

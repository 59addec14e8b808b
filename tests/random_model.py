"""A very small diffusers model with random weights, the same on every machine for one seed.

Every layer is scaled so that the network really answers to its input, its text and its timestep: equality tests on a
network that ignores its input would prove nothing.
"""

from __future__ import annotations

from typing import Any

import torch

SIZE_PX = 64
TOKENS = 16
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
}


def _fill(module: torch.nn.Module, seed: int, gain: float) -> None:
    """Weights from a closed formula of the seed: no dependence on a library's initialisation order."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.data.copy_(noise * gain / fan_in**0.5)
        elif name.endswith("weight"):
            parameter.data.copy_(1.0 + 0.05 * noise)
        else:
            parameter.data.copy_(0.05 * noise)


def random_text(width: int, heads: int, tokens: int, pooled: int = 0) -> tuple[Any, Any]:
    """(text encoder of two layers, tokenizer of letters), as transformers makes them. pooled: width of the projection
    of the whole text; 0 for an encoder without one."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    encoder = (CLIPTextModelWithProjection if pooled else CLIPTextModel)(
        CLIPTextConfig(
            **({"projection_dim": pooled} if pooled else {}),
            vocab_size=128,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=heads,
            max_position_embeddings=tokens,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.-"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    return encoder, CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=tokens)


def random_parts(seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """(unet, vae, text encoder, tokenizer), float32 on the CPU."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=SIZE_PX // 8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    encoder, tokenizer = random_text(width=32, heads=4, tokens=TOKENS)
    for offset, (part, gain) in enumerate(((unet, 1.0), (vae, 1.2), (encoder, 1.0))):
        _fill(part, seed + offset, gain)
        part.eval().requires_grad_(False)
    return unet, vae, encoder, tokenizer


def random_model(seed: int = 0, prediction: str = "epsilon", backend: str = "eager") -> Any:
    """The parts as a `core.model.Model` on the CPU."""
    from pathlib import Path

    from core.backend import executions
    from core.families.family import Encoder, Parts
    from core.model import assemble

    unet, vae, encoder, tokenizer = random_parts(seed)
    scheduler = {**SCHEDULER, "prediction_type": prediction}
    execution = executions(torch.device("cpu"), backend, torch.float32)[0]
    return assemble(Path("random"), Parts(unet, vae, (Encoder(encoder, tokenizer),)), scheduler, execution)


def random_frames(count: int, seed: int = 0, size: int = SIZE_PX) -> torch.Tensor:
    """Smooth coloured pictures, uint8 (count, size, size, 3), each different."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 5, 5), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

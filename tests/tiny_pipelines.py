"""Very small models of the published families, random but the same on every machine: as diffusers' own pipelines, as
folders, and as single files in the layout of Stability's own code.

The names of single files are written here by hand, from that layout: turning around what diffusers' converters do with
them would prove nothing of those.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.random_model import SCHEDULER, _fill

SIDE_PX = 64
TOKENS = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.-"


def _text(width: int, act: str, layers: int, pooled: int = 0, padding: str | None = None) -> tuple[Any, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    words = ["!", *LETTERS, *(letter + "</w>" for letter in LETTERS), "!</w>", "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        model_max_length=TOKENS,
        **({} if padding is None else {"pad_token": padding}),
    )
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=TOKENS,
        hidden_act=act,
        projection_dim=pooled or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config), tokenizer


def _unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIDE_PX // 8,
        **{
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            **more,
        },
    )


def _autoencoder(scaling_factor: float) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        scaling_factor=scaling_factor,
    )


def _filled(*modules: Any) -> None:
    for seed, module in enumerate(modules, 20):
        _fill(module, seed, 1.0)
        module.eval().requires_grad_(False)


def sd15() -> Any:
    """StableDiffusionImg2ImgPipeline shaped as Stable Diffusion 1.5: one CLIP, eight heads, convolutions in and out."""
    from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

    encoder, tokenizer = _text(64, "quick_gelu", 2)
    unet = _unet(block_out_channels=(32, 64), cross_attention_dim=64, attention_head_dim=8)
    vae = _autoencoder(0.18215)
    _filled(unet, vae, encoder)
    return StableDiffusionImg2ImgPipeline(
        vae, encoder, tokenizer, unet, DDIMScheduler.from_config(SCHEDULER), None, None, requires_safety_checker=False
    )


def sd21(prediction: str = "epsilon") -> Any:
    """The same shaped as Stable Diffusion 2.1 and SD-Turbo: an OpenCLIP read before its last layer, linear layers."""
    from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

    encoder, tokenizer = _text(128, "gelu", 2, padding="!")
    unet = _unet(
        block_out_channels=(64, 128), cross_attention_dim=128, attention_head_dim=(1, 2), use_linear_projection=True
    )
    vae = _autoencoder(0.18215)
    _filled(unet, vae, encoder)
    scheduler = DDIMScheduler.from_config({**SCHEDULER, "prediction_type": prediction})
    return StableDiffusionImg2ImgPipeline(
        vae, encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )


def sdxl() -> Any:
    """StableDiffusionXLImg2ImgPipeline shaped as Stable Diffusion XL: two encoders, two transformer blocks below."""
    from diffusers import DDIMScheduler, StableDiffusionXLImg2ImgPipeline

    first, tokenizer = _text(64, "quick_gelu", 3)
    second, tokenizer_2 = _text(128, "gelu", 3, pooled=96, padding="!")
    unet = _unet(
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=192,
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=96 + 6 * 8,
    )
    vae = _autoencoder(0.13025)
    _filled(unet, vae, first, second)
    return StableDiffusionXLImg2ImgPipeline(
        vae, first, second, tokenizer, tokenizer_2, unet, DDIMScheduler.from_config(SCHEDULER), add_watermarker=False
    )


PIPELINES = {"sd15": sd15, "sd21": sd21, "sdxl": sdxl}


@torch.no_grad()
def theirs(pipeline: Any, latent: Tensor, params: Any, timesteps: list[int], **more: Any) -> Tensor:
    """The latents that diffusers' own pipeline makes of `latent` with the LCM scheduler, drawing its noise from the
    seed as `core.stream.seeded_noise` does. params: prompts, scale of full guidance or none, and seed are read."""
    from diffusers import LCMScheduler

    kept = pipeline.scheduler
    pipeline.scheduler = LCMScheduler.from_config(kept.config)
    pipeline.set_progress_bar_config(disable=True)
    try:
        return pipeline(
            prompt=params.prompt,
            negative_prompt=params.negative_prompt,
            image=latent,
            strength=1.0,
            timesteps=timesteps,
            num_inference_steps=len(timesteps),
            guidance_scale=params.guidance_scale if params.guidance == "full" else 1.0,
            generator=torch.Generator().manual_seed(params.seed),
            output_type="latent",
            return_dict=False,
            **more,
        )[0]
    finally:
        pipeline.scheduler = kept


# ---- single files --------------------------------------------------------------------------------------------------

_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_name(name: str, blocks: int, attention_above: bool) -> str:
    """diffusers' name of a U-Net's weight in the original layout. blocks: residual blocks per level.
    attention_above: whether the level has attention, before the layer that makes it larger."""
    stem, _, end = name.rpartition(".")
    if stem in _UNET:
        return f"{_UNET[stem]}.{end}"

    def residual(rest: str) -> str:
        first, _, last = rest.partition(".")
        return f"{_RESIDUAL[first]}.{last}"

    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, number, rest = match.groups()
        return f"middle_block.1.{rest}" if kind == "attentions" else f"middle_block.{2 * int(number)}.{residual(rest)}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", name)
    assert match, name
    way, level, kind, number, rest = match.groups()
    if way == "down":
        first = 1 + int(level) * (blocks + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + blocks}.0.op.{rest.removeprefix('conv.')}"
        block = f"input_blocks.{first + int(number)}"
    else:
        first = int(level) * (blocks + 1)
        if kind == "upsamplers":
            return f"output_blocks.{first + blocks}.{2 if attention_above else 1}.{rest}"
        block = f"output_blocks.{first + int(number)}"
    return f"{block}.1.{rest}" if kind == "attentions" else f"{block}.0.{residual(rest)}"


def _unet_weights(unet: Any) -> dict[str, Tensor]:
    def attention(name: str) -> bool:
        match = re.match(r"up_blocks\.(\d)", name)
        return bool(match) and "CrossAttn" in unet.config.up_block_types[int(match[1])]

    blocks = unet.config.layers_per_block
    return {
        "model.diffusion_model." + unet_name(name, blocks, attention(name)): weight
        for name, weight in unet.state_dict().items()
    }


def _autoencoder_weights(vae: Any) -> dict[str, Tensor]:
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    levels = len(vae.config.block_out_channels)
    weights = {}
    for name, weight in vae.state_dict().items():
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(\w+)", name):
            name = f"{match[1]}.mid.attn_1.{attention[match[2]]}.{match[3]}"
            weight = weight[..., None, None] if weight.dim() == 2 else weight
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
        weights["first_stage_model." + name] = weight
    return weights


def _clip_weights(encoder: Any, prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": weight
        for name, weight in encoder.state_dict().items()
    }


def _open_clip_weights(encoder: Any, prefix: str, unread: int) -> dict[str, Tensor]:
    """unread: layers at the end that the encoder in diffusers' layout lacks."""
    held = {name.removeprefix("text_model."): weight for name, weight in encoder.state_dict().items()}
    weights = {
        "positional_embedding": held["embeddings.position_embedding.weight"],
        "token_embedding.weight": held["embeddings.token_embedding.weight"],
        "ln_final.weight": held["final_layer_norm.weight"],
        "ln_final.bias": held["final_layer_norm.bias"],
        "text_projection": (
            held["text_projection.weight"].T
            if "text_projection.weight" in held
            else torch.eye(encoder.config.hidden_size)
        ),
        "logit_scale": torch.tensor(4.6),
    }
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    layers = encoder.config.num_hidden_layers
    for layer in range(layers + unread):
        of = {
            name.removeprefix(f"encoder.layers.{min(layer, layers - 1)}."): weight
            for name, weight in held.items()
            if name.startswith(f"encoder.layers.{min(layer, layers - 1)}.")
        }
        block = f"transformer.resblocks.{layer}."
        for end in ("weight", "bias"):
            weights |= {f"{block}{new}.{end}": of[f"{old}.{end}"] for old, new in inner.items()}
            weights[f"{block}attn.out_proj.{end}"] = of[f"self_attn.out_proj.{end}"]
            weights[f"{block}attn.in_proj_{end}"] = torch.cat([of[f"self_attn.{x}_proj.{end}"] for x in "qkv"])
    return {prefix + name: weight for name, weight in weights.items()}


def single_file(name: str, pipeline: Any, path: Path, **notes: str) -> Path:
    """Write a pipeline of `PIPELINES` as one file, and the vocabulary beside it."""
    from safetensors.torch import save_file

    weights = {**_unet_weights(pipeline.unet), **_autoencoder_weights(pipeline.vae)}
    if name == "sd15":
        weights |= _clip_weights(pipeline.text_encoder, "cond_stage_model.transformer.")
        weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
    elif name == "sd21":
        weights |= _open_clip_weights(pipeline.text_encoder, "cond_stage_model.model.", unread=1)
    else:
        weights |= _clip_weights(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        weights |= _open_clip_weights(pipeline.text_encoder_2, "conditioner.embedders.1.model.", unread=0)
    weights["betas"] = torch.linspace(0.0, 1.0, 10)
    weights["model_ema.decay"] = torch.tensor(0.99)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: weight.contiguous().clone() for n, weight in weights.items()}, path, metadata=notes or None)
    tokenizer_to(pipeline, path.parent)
    return path


def tokenizer_to(pipeline: Any, folder: Path) -> None:
    """vocab.json and merges.txt, as every repository of Stable Diffusion has them."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(pipeline.tokenizer.get_vocab()), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")

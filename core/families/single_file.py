"""Whole models in a single .safetensors file, as ComfyUI and the model sites pass them on: the layout of Stability's
own code. diffusers' converters turn the names around; how large the networks are is read from their weights, and what
no weight tells (heads, activations) is the layout's.

Such a file holds no vocabulary and does not say how large pictures it was trained on, nor always what it predicts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.families.family import Encoder, Family, Parts, autoencoder_dtype
from core.families.stable_diffusion import check_shape
from core.folder import SENSELESS, ModelError, part
from core.hub import cache_folder
from core.libraries import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    UNet2DConditionModel,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)

HEAD_WIDTH = 64
"""Of CLIP's attention, and of the U-Net's from Stable Diffusion 2 on."""
CLIP_WORDS = 49_408
"""Words of the one vocabulary that all of these models have (CLIP, arXiv 2103.00020)."""
WORDS_FROM = "openai/clip-vit-large-patch14"
"""On the hub: the model whose vocabulary it is."""
UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."


class _Clip(NamedTuple):
    """A text encoder. open_clip: named as OpenCLIP does. unread: layers at its end whose output nothing reads. padding:
    the word after the end of a text; None is the end word itself. projection: of the whole text."""

    prefix: str
    open_clip: bool
    unread: int = 0
    padding: str | None = None
    projection: bool = False


@dataclass(frozen=True)
class Layout:
    """family: key of `core.families.FAMILIES`. clips: its text encoders. heads(width): of a U-Net level's attention, as
    diffusers has it. scaling_factor: of the latents. prediction: key of `core.denoiser.PREDICTIONS`, None where its
    models differ. sides_px: the pictures that it was trained on, by what it predicts."""

    name: str
    family: str
    clips: tuple[_Clip, ...]
    heads: Callable[[int], int]
    scaling_factor: float
    prediction: str | None
    sides_px: Mapping[str, int]

    @property
    def prefixes(self) -> tuple[str, ...]:
        return (UNET, AUTOENCODER, *(clip.prefix for clip in self.clips))


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "Stable Diffusion XL",
        "stable-diffusion-xl",
        (
            _Clip("conditioner.embedders.0.transformer.", open_clip=False),
            _Clip("conditioner.embedders.1.model.", open_clip=True, padding="!", projection=True),
        ),
        lambda width: width // HEAD_WIDTH,
        0.13025,
        "epsilon",
        {"epsilon": 1024, "v_prediction": 1024},
    ),
    Layout(
        "Stable Diffusion 2.x",
        "stable-diffusion",
        (_Clip("cond_stage_model.model.", open_clip=True, unread=1, padding="!"),),
        lambda width: width // HEAD_WIDTH,
        0.18215,
        None,
        {"epsilon": 512, "v_prediction": 768},
    ),
    Layout(
        "Stable Diffusion 1.x",
        "stable-diffusion",
        (_Clip("cond_stage_model.transformer.", open_clip=False),),
        lambda width: 8,
        0.18215,
        "epsilon",
        {"epsilon": 512, "v_prediction": 512},
    ),
)

# Beside the networks: constants of the noise schedule, a running average of the weights, and what CLIP has besides.
_HARMLESS = (
    "model_ema.",
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_alphas_cumprod",
    "posterior_",
    "lvlb_weights",
    "logvar",
    "global_step",
    "denoiser.sigmas",
    "v_pred",
)
_HARMLESS_ENDS = (".position_ids", ".logit_scale", ".attn_mask")


@dataclass(frozen=True)
class Contents:
    """What a file says before its weights are read: the shape of every tensor, and the notes of who wrote it."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    notes: Mapping[str, str]

    @classmethod
    def of(cls, path: Path) -> Contents:
        """Raises `ModelError`."""
        try:
            with safe_open(path, framework="pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
                return cls(path, shapes, file.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is a damaged .safetensors file ({error}); get it again") from None

    def layout(self) -> Layout:
        """Raises `ModelError` for a file that is not of one of the `LAYOUTS`, or not whole."""
        for layout in LAYOUTS:
            if self._has(layout.clips[-1].prefix):
                break
        else:
            raise ModelError(
                f"{self.path} is a single file that holds a U-Net and no text encoder that is known here; give a whole"
                " model of Stable Diffusion 1.x, 2.x or XL"
            )
        lacking = [prefix for prefix in layout.prefixes if not self._has(prefix)]
        if lacking:
            raise ModelError(
                f"{self.path} looks like {layout.name} and holds nothing named {lacking[0]}*; get the whole model"
            )
        unknown = [
            name
            for name in self.shapes
            if not name.startswith((*layout.prefixes, *_HARMLESS)) and not name.endswith(_HARMLESS_ENDS)
        ]
        if unknown:
            raise ModelError(
                f"{self.path} holds {len(unknown)} weights that {layout.name} does not have ({unknown[0]}), so they"
                " would not be used; use a model without"
            )
        channels = self.shapes.get(UNET + "input_blocks.0.0.weight", (0, 0))[1]
        latent = self.shapes.get(AUTOENCODER + "decoder.conv_in.weight", (0, 0))[1]
        if channels != latent:
            raise ModelError(
                f"{self.path} reads {channels} channels where a latent has {latent}: models for inpainting and editing"
                " are not supported; use the plain one"
            )
        return layout

    def _has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.shapes)

    def prediction(self, layout: Layout, declared: str | None) -> str:
        """What the U-Net predicts: as the user or the file says, or the layout's. Raises `ModelError`."""
        note = self.notes.get("modelspec.prediction_type", "")
        if declared is not None:
            return declared
        if "v_pred" in self.shapes or note in ("v", "v_prediction"):
            return "v_prediction"
        if note in ("epsilon", "eps"):
            return "epsilon"
        if layout.prediction is None:
            raise ModelError(
                f"{self.path} does not say what its U-Net predicts, and {layout.name} has both kinds: give --prediction"
                " epsilon (SD-Turbo and the 512-pixel models) or --prediction v_prediction (the 768-pixel ones)"
            )
        return layout.prediction

    def side_px(self, layout: Layout, prediction: str) -> int:
        """Of the pictures that it was trained on: as the file says, or the layout's."""
        side = self.notes.get("modelspec.resolution", "").partition("x")[0]
        return int(side) if side.isdecimal() and 64 <= int(side) <= 2048 else layout.sides_px.get(prediction, 512)


def check(path: Path, prediction: str | None = None) -> str:
    """The key of the family of a file, told from its beginning. prediction: as the user says. Raises `ModelError`."""
    contents = Contents.of(path)
    layout = contents.layout()
    contents.prediction(layout, prediction)
    _vocabulary(path)
    return layout.family


def load(
    path: Path, dtype: torch.dtype, families: Mapping[str, Family], prediction: str | None = None
) -> tuple[Family, Parts, dict[str, Any]]:
    """(family, parts, scheduler's settings) of a file. Raises `ModelError`."""
    contents = Contents.of(path)
    layout = contents.layout()
    predicts = contents.prediction(layout, prediction)
    # A single file does not say whether Stable Diffusion XL's autoencoder was replaced in it.
    overflows = layout.family == "stable-diffusion-xl"
    weights = _Weights(contents, layout.name, dtype)
    # The vocabulary first: it is what most machines lack.
    words = _vocabulary(path)
    unet = weights.into(
        UNet2DConditionModel, _unet_config(contents, layout, predicts), UNET, convert_ldm_unet_checkpoint
    )
    vae = _Weights(contents, layout.name, autoencoder_dtype(dtype, overflows)).into(
        AutoencoderKL, _autoencoder_config(contents, layout), AUTOENCODER, convert_ldm_vae_checkpoint
    )
    encoders = [_encoder(contents, weights, clip, words) for clip in layout.clips]
    check_shape(path, unet, vae, encoders, layout.name)
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": predicts,
    }
    return families[layout.family], Parts(unet, vae, tuple(encoders), overflows), scheduler


class _Weights:
    """The weights of a file, part by part. what: that they should be, in words."""

    def __init__(self, contents: Contents, what: str, dtype: torch.dtype) -> None:
        self._contents = contents
        self._what = what
        self._dtype = dtype

    def of(self, prefix: str) -> dict[str, Tensor]:
        names = [n for n in self._contents.shapes if n.startswith(prefix) and not n.endswith(_HARMLESS_ENDS)]
        with safe_open(self._contents.path, framework="pt") as file:
            return {name: file.get_tensor(name).to(self._dtype) for name in names}

    def into(self, kind: Any, config: dict[str, Any], prefix: str, convert: Callable[..., dict[str, Tensor]]) -> Any:
        """A network of diffusers, with every weight from the file, and with every weight of the file."""
        held = self.of(prefix)
        with self._named(prefix):
            # Without memory of its own: it takes the tensors that were read.
            with torch.device("meta"):
                module = kind.from_config(config)
            converted = convert(dict(held), config)
            if len(converted) != len(held):
                raise ValueError(f"{len(held) - len(converted)} of its weights would not be used")
            return self.filled(module, converted)

    def filled(self, module: Any, weights: Mapping[str, Tensor]) -> Any:
        wanted = module.state_dict()
        lacking, unused = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
        if lacking or unused:
            raise ValueError(f"{len(lacking)} weights are missing, {len(unused)} too many ({min(lacking | unused)})")
        module.load_state_dict(weights, assign=True)
        if not all(bool(weight.isfinite().all()) for weight in module.state_dict().values()):
            raise ValueError("the weights hold values that are no numbers")
        return module

    def _named(self, prefix: str) -> _Named:
        return _Named(f"{self._contents.path}: what is named {prefix}* is not laid out as {self._what}'s")


class _Named:
    """What the libraries raise inside for weights that do not make sense becomes `ModelError`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, SENSELESS) and not isinstance(error, ModelError):
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{self._what} ({reason}); get it again, or use a model of that layout") from error


def _count(shapes: Mapping[str, Any], pattern: str) -> int:
    """How many names there are of a pattern with a place for a number, counted from 0."""
    number = 0
    while pattern.format(number) in shapes:
        number += 1
    return number


def _unet_config(contents: Contents, layout: Layout, prediction: str) -> dict[str, Any]:
    """Of a U-Net whose levels are as many residual blocks each, with as many transformer blocks in each of a level."""
    shapes = {name.removeprefix(UNET): shape for name, shape in contents.shapes.items() if name.startswith(UNET)}
    with _Named(f"{contents.path}: what is named {UNET}* is not laid out as {layout.name}'s"):
        widths: list[int] = []
        depths: list[int] = []
        blocks: list[int] = []
        number = 1
        while any(name.startswith(f"input_blocks.{number}.") for name in shapes):
            block = f"input_blocks.{number}."
            number += 1
            if f"{block}0.op.weight" in shapes:
                blocks.append(0)
                continue
            blocks = blocks or [0]
            if blocks[-1] == 0:
                widths.append(shapes[f"{block}0.out_layers.3.weight"][0])
                depths.append(_count(shapes, block + "1.transformer_blocks.{}.norm1.weight"))
            blocks[-1] += 1
        middle = _count(shapes, "middle_block.1.transformer_blocks.{}.norm1.weight")
        if len(set(blocks)) != 1 or not middle:
            raise ValueError(f"levels of {blocks} blocks, {middle} transformer blocks in the middle")
        inner = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
        config: dict[str, Any] = {
            "sample_size": contents.side_px(layout, prediction) // 8,
            "in_channels": shapes["input_blocks.0.0.weight"][1],
            "out_channels": shapes["out.2.weight"][0],
            "block_out_channels": widths,
            "layers_per_block": blocks[0],
            "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
            "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
            # diffusers takes the last level's number for the middle, which has one where that level has none.
            "transformer_layers_per_block": [*(depth or 1 for depth in depths[:-1]), depths[-1] or middle],
            "cross_attention_dim": shapes[inner][1],
            "use_linear_projection": len(shapes["middle_block.1.proj_in.weight"]) == 2,
            "attention_head_dim": [layout.heads(width) for width in widths],
        }
        told = shapes.get("label_emb.0.0.weight")
        if told is not None:
            pooled = contents.shapes[layout.clips[-1].prefix + "text_projection"][1]
            config |= {
                "addition_embed_type": "text_time",
                "projection_class_embeddings_input_dim": told[1],
                # Height and width of original, crop and picture.
                "addition_time_embed_dim": (told[1] - pooled) // 6,
            }
        return config


def _autoencoder_config(contents: Contents, layout: Layout) -> dict[str, Any]:
    shapes = {n.removeprefix(AUTOENCODER): shape for n, shape in contents.shapes.items() if n.startswith(AUTOENCODER)}
    with _Named(f"{contents.path}: what is named {AUTOENCODER}* is not laid out as {layout.name}'s"):
        levels = _count(shapes, "encoder.down.{}.block.0.conv2.weight")
        widths = [shapes[f"encoder.down.{level}.block.0.conv2.weight"][0] for level in range(levels)]
        return {
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "block_out_channels": widths,
            "layers_per_block": _count(shapes, "encoder.down.0.block.{}.conv2.weight"),
            "latent_channels": shapes["decoder.conv_in.weight"][1],
            "scaling_factor": layout.scaling_factor,
            "use_quant_conv": "quant_conv.weight" in shapes,
            "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        }


def _encoder(contents: Contents, weights: _Weights, clip: _Clip, words: Path) -> Encoder:
    held = weights.of(clip.prefix)
    with weights._named(clip.prefix):
        tower = clip.prefix + ("" if clip.open_clip else "text_model.embeddings.")
        layer = clip.prefix + ("transformer.resblocks.{}." if clip.open_clip else "text_model.encoder.layers.{}.")
        first_norm = "ln_1.weight" if clip.open_clip else "layer_norm1.weight"
        layers = _count(held, layer + first_norm) - clip.unread
        length, width = held[
            clip.prefix + "positional_embedding" if clip.open_clip else tower + "position_embedding.weight"
        ].shape
        inner = (layer + ("mlp.c_fc.weight" if clip.open_clip else "mlp.fc1.weight")).format(0)
        options: dict[str, Any] = {} if clip.padding is None else {"pad_token": clip.padding}
        tokenizer = part(words, CLIPTokenizer, model_max_length=length, **options)
        projected = clip.prefix + "text_projection"
        config = CLIPTextConfig(
            vocab_size=len(held[tower + "token_embedding.weight"]),
            hidden_size=width,
            intermediate_size=len(held[inner]),
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // HEAD_WIDTH),
            max_position_embeddings=length,
            hidden_act="gelu" if clip.open_clip else "quick_gelu",
            projection_dim=held[projected].shape[1] if clip.projection else width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        network = (CLIPTextModelWithProjection if clip.projection else CLIPTextModel)(config)
        unread = tuple(layer.format(layers + i) for i in range(clip.unread))
        held = {name: weight for name, weight in held.items() if not name.startswith(unread or ("\0",))}
        if clip.open_clip:
            if not clip.projection:
                held.pop(projected, None)
            # By a name of this file's own: the converter leaves out, by name, the layer that it takes for unread.
            renamed = {"open_clip." + name.removeprefix(clip.prefix): weight for name, weight in held.items()}
            converted = convert_open_clip_checkpoint(network, renamed, prefix="open_clip.")
        else:
            converted = convert_ldm_clip_checkpoint(held)
        if not hasattr(network, "text_model"):
            converted = {name.removeprefix("text_model."): weight for name, weight in converted.items()}
        return Encoder(weights.filled(network, converted), tokenizer)


def _vocabulary(path: Path) -> Path:
    """A folder with the words: beside the file, or CLIP's in the hub's cache. Raises `ModelError`."""
    for folder in (path.parent / "tokenizer", path.parent):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return folder
    for pattern in ("models--*/snapshots/*/tokenizer/vocab.json", "models--*/snapshots/*/vocab.json"):
        for found in sorted(cache_folder().glob(pattern)):
            if (found.parent / "merges.txt").is_file() and _words_in(found) == CLIP_WORDS:
                return found.parent
    raise ModelError(
        f"{path} needs CLIP's vocabulary, which no single file holds: python3 run.py fetch {WORDS_FROM} gets it (1.5"
        " MB), or put vocab.json and merges.txt of any Stable Diffusion model beside the file"
    )


def _words_in(path: Path) -> int:
    try:
        return len(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return 0

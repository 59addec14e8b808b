"""LoRA files: small changes of a model's weights, any number at once, each with a weight that is live.

Hu et al. (arXiv 2106.09685), section 4.1: a layer's weight W becomes W + s (alpha / r) B A. Here A and B stay apart
from W, and s comes with the rows of a call, among what they read of their prompt. So a weight changes between two
frames, rows of one call may differ in it, and whatever records, converts or compiles a network sees no change of it.

Shapes: R rows, L LoRAs, r rank; K the ranks of all LoRAs of a layer together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from core.folder import ModelError, weights_of
from core.params import MAX_LORAS
from core.text import Embedding, Text

LORA = "lora"
"""Among an embedding's others: the weights of the LoRAs, (L,)."""

_PARTS: Mapping[str, tuple[str, ...]] = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
"""The networks of a model that a LoRA may change, as diffusers names them, and what kohya's trainer writes before."""
# The two matrices and the number that scales them, by the names of kohya's trainer, of PEFT and of older diffusers.
_ENDS = re.compile(
    r"\.(?:(?P<down>lora_down|lora_A|lora\.down|lora_linear_layer\.down|down)"
    r"|(?P<up>lora_up|lora_B|lora\.up|lora_linear_layer\.up|up))(?:\.default)?\.weight$|\.(?P<alpha>alpha)$"
)
_OTHER_KINDS = {
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "oft_": "an OFT",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "lora_mid": "a LoCon in Tucker form",
}


class Scales(local):
    """The weights of the LoRAs for the rows that a network is called with: (R, L), or None. Each thread has its own, as
    several may call one network at once."""

    now: Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Copied, and in another process: what a thread has of its own stays with it.
        return Scales, ()


@contextmanager
def scaled(scales: Scales | None, weights_RL: Tensor | None) -> Iterator[None]:
    """While open, a network's layers are changed by so much. scales: of the network; None for one without LoRAs."""
    if scales is None:
        yield
        return
    scales.now = weights_RL
    try:
        yield
    finally:
        scales.now = None


class _Change(NamedTuple):
    """What one LoRA does to a layer. number: of the LoRA. down (r, in, ...), up (out, r, ...), scaled by alpha / r."""

    number: int
    down: Tensor
    up: Tensor


class Changed(nn.Module):
    """A linear layer or a convolution with the changes of some LoRAs, of `count` that there are."""

    down: Tensor
    up: Tensor
    pick_LK: Tensor

    def __init__(self, base: nn.Module, changes: Sequence[_Change], count: int, scales: Scales) -> None:
        super().__init__()
        self.base = base
        self.scales = scales
        self.down: Tensor
        self.up: Tensor
        self.pick_LK: Tensor
        like: Tensor = base.weight  # type: ignore[assignment]
        down = torch.cat([change.down for change in changes]).to(like)
        # One column per rank, and in it the LoRA that it is of.
        pick_LK = torch.zeros(count, len(down)).to(like)
        begin = 0
        for change in changes:
            pick_LK[change.number, begin : begin + len(change.down)] = 1.0
            begin += len(change.down)
        self.register_buffer("down", down)
        self.register_buffer("up", torch.cat([change.up for change in changes], 1).to(like))
        self.register_buffer("pick_LK", pick_LK)

    @property
    def weight(self) -> Tensor:
        """Of the layer itself: other layers ask for its dtype."""
        return self.base.weight  # type: ignore[return-value]

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        """As the layer, of inputs (R, ...)."""
        out: Tensor = self.base(x, *more)
        if self.scales.now is None:
            return out
        weights_RK = self.scales.now.to(x.dtype) @ self.pick_LK
        if isinstance(self.base, nn.Conv2d):
            base = self.base
            low = nnf.conv2d(x, self.down, None, base.stride, base.padding, base.dilation)  # type: ignore[arg-type]
            return out + nnf.conv2d(low * weights_RK[:, :, None, None], self.up)
        low = nnf.linear(x, self.down)
        # Not by a view of so many rows, whose number whatever records this would take for fixed.
        for _ in range(low.dim() - 2):
            weights_RK = weights_RK.unsqueeze(1)
        return out + nnf.linear(low * weights_RK, self.up)


def scales_of(network: nn.Module) -> Scales | None:
    """Of a network whose layers LoRAs change; None for one without."""
    return next((part.scales for part in network.modules() if isinstance(part, Changed)), None)


@dataclass(frozen=True)
class LoraFile:
    """What a file says. layers: the matrices "down" (r, in, ...) and "up" (out, r, ...) and, where it has one, the
    number "alpha", by the name of their layer as it stands in the file."""

    path: Path
    layers: Mapping[str, Mapping[str, Tensor]]

    @property
    def name(self) -> str:
        return self.path.stem

    @classmethod
    def none(cls) -> LoraFile:
        """In the place of one that is not there."""
        return cls(Path(), {})

    @classmethod
    def of(cls, path: Path) -> LoraFile:
        """Raises `ModelError` for a file that cannot be read and for what is no LoRA."""
        if path.is_dir():
            found = path / "pytorch_lora_weights.safetensors"
            if not found.is_file():
                raise ModelError(f"{path} is a folder without {found.name}; give the LoRA's .safetensors file")
            path = found
        weights, notes = weights_of(path, "LoRA")
        layers: dict[str, dict[str, Tensor]] = {}
        for name, weight in weights.items():
            for word, kind in _OTHER_KINDS.items():
                if word in name:
                    raise ModelError(f"{path} is {kind} ({name}), which is not supported; use a plain LoRA")
            match = _ENDS.search(name)
            if match is None:
                raise ModelError(f"{path} is no LoRA that is known here: nothing is known of {name}; use a plain LoRA")
            kind = next(kind for kind, found in match.groupdict().items() if found)
            layers.setdefault(name[: match.start()], {})[kind] = weight.to(torch.float32)
        # By the layer's own name, with or without "lora" at its end.
        alphas = {name: of.pop("alpha") for name, of in list(layers.items()) if set(of) == {"alpha"}}
        layers = {name: of for name, of in layers.items() if of}
        for name, alpha in alphas.items():
            for layer in (name, name.replace("_lora", "") + "_lora"):
                if layer in layers:
                    layers[layer].setdefault("alpha", alpha)
                    break
            else:
                raise ModelError(f"{path} has a scale for {name} and no matrices; get it again")
        for name, of in layers.items():
            if not {"down", "up"} <= set(of):
                raise ModelError(f"{path} has one of the two matrices of {name}; get it again")
            if not all(bool(weight.isfinite().all()) for weight in of.values()):
                raise ModelError(f"{path}: the weights of {name} hold values that are no numbers; get it again")
            if len(of["down"]) != of["up"].shape[1]:
                raise ModelError(
                    f"{path}: the matrices of {name} have different ranks ({len(of['down'])} and {of['up'].shape[1]});"
                    " get it again"
                )
        if not layers:
            raise ModelError(f"{path} holds nothing; get it again")
        return cls(path, _with_noted_alpha(path, layers, notes))


def _with_noted_alpha(
    path: Path, layers: Mapping[str, dict[str, Tensor]], notes: Mapping[str, str]
) -> Mapping[str, Mapping[str, Tensor]]:
    """diffusers notes the scale of what PEFT trained beside the matrices."""
    try:
        told = json.loads(notes.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        told = {}
    for name, value in told.items():
        part, _, setting = name.partition(".")
        if setting in ("use_dora", "use_rslora", "lora_bias", "alpha_pattern", "rank_pattern") and value:
            raise ModelError(f"{path} notes {setting} {value!r}, which is not supported; use a plain LoRA")
        if setting == "lora_alpha" and isinstance(value, (int, float)):
            for layer, of in layers.items():
                if layer.startswith(part + "."):
                    of.setdefault("alpha", torch.tensor(float(value)))
    return layers


def _names(part: str, path: str, first_blocks: int) -> Iterator[str]:
    """The names that a layer of a network may have in a file. first_blocks: residual blocks of a level of the U-Net."""
    before = path
    if part != "unet" and path.split(".")[0] not in ("text_model", "text_projection"):
        before = "text_model." + path
    for one in dict.fromkeys((path, before)):
        yield f"{part}.{one}"
        # The attention processors of older diffusers.
        processed = re.sub(r"(attn\d)\.(to_[qkv])$", r"\1.processor.\2_lora", one)
        processed = re.sub(r"(attn\d)\.to_out\.0$", r"\1.processor.to_out_lora", processed)
        processed = re.sub(r"self_attn\.([qkv])_proj$", r"self_attn.to_\1_lora", processed)
        yield f"{part}.{re.sub(r'self_attn.out_proj$', 'self_attn.to_out_lora', processed)}"
        for prefix in _PARTS[part]:
            yield prefix + one.replace(".", "_")
            if part == "unet":
                yield prefix + original_name(one, first_blocks).replace(".", "_")


_RESIDUAL = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
}


def original_name(path: str, blocks: int) -> str:
    """A layer of a diffusers U-Net by its name in Stability's own code, which trainers for Stable Diffusion XL write.
    blocks: residual blocks per level."""
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    where, _, rest = path.partition(".attentions.")
    kind, number = "attentions", rest.partition(".")[0]
    for other in ("resnets", "downsamplers", "upsamplers"):
        if not rest and f".{other}." in path:
            where, _, rest = path.partition(f".{other}.")
            kind, number = other, rest.partition(".")[0]
    inner = rest.partition(".")[2]
    if not number.isdecimal():
        return path
    if kind == "resnets":
        inner = _RESIDUAL.get(inner, inner)
    if where == "mid_block":
        return f"middle_block.1.{inner}" if kind == "attentions" else f"middle_block.{2 * int(number)}.{inner}"
    way, _, level = where.partition(".")
    first = int(level) * (blocks + 1)
    if way == "down_blocks":
        first += 1
        if kind == "downsamplers":
            return f"input_blocks.{first + blocks}.0.op"
        return f"input_blocks.{first + int(number)}.{1 if kind == 'attentions' else 0}.{inner}"
    if kind == "upsamplers":
        # The third of its block where that has attention; trainers know no other model.
        return f"output_blocks.{first + blocks}.2.{inner}"
    return f"output_blocks.{first + int(number)}.{1 if kind == 'attentions' else 0}.{inner}"


def apply(files: Sequence[LoraFile], networks: Mapping[str, nn.Module]) -> None:
    """Let LoRAs change networks of a model, in place. networks: by the keys of `_PARTS`. Raises `ModelError` for a file
    that was made for another model."""
    if len(files) > MAX_LORAS:
        raise ModelError(f"{len(files)} LoRAs are given; {MAX_LORAS} at once is the most")
    left = [dict(file.layers) for file in files]
    for part, network in networks.items():
        blocks = int(network.config.layers_per_block) if part == "unet" else 0  # type: ignore[union-attr, arg-type]
        scales = Scales()
        found = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
        for path, layer in found:
            changes: list[_Change] = []
            for number, file in enumerate(files):
                names = [name for name in dict.fromkeys(_names(part, path, blocks)) if name in left[number]]
                changes += (_change(file, number, name, layer, left[number].pop(name)) for name in names)
            if changes:
                owner, _, name = path.rpartition(".")
                changed = Changed(layer, changes, len(files), scales).requires_grad_(False)
                setattr(network.get_submodule(owner), name, changed)
    for file, others in zip(files, left, strict=True):
        if others:
            raise ModelError(
                f"{file.path} changes {len(others)} of {len(file.layers)} layers that this model does not have"
                f" ({next(iter(others))}); use a LoRA that was made for its family"
            )


def _change(file: LoraFile, number: int, name: str, layer: nn.Module, of: Mapping[str, Tensor]) -> _Change:
    down, up = of["down"], of["up"]
    weight: Tensor = layer.weight  # type: ignore[assignment]
    # What is a convolution of one pixel for some is a linear layer for others.
    down, up = (_like(matrix, weight) for matrix in (down, up))
    if up.dim() == 4 and up.shape[2:] != (1, 1):
        raise ModelError(f"{file.path}: the second matrix of {name} is no convolution of one pixel; use a plain LoRA")
    if down.shape[1:] != weight.shape[1:] or len(up) != len(weight):
        raise ModelError(
            f"{file.path} was made for another model: {name} takes {tuple(down.shape[1:])} to {len(up)}, where this"
            f" model's layer takes {tuple(weight.shape[1:])} to {len(weight)}; use a LoRA of its family"
        )
    return _Change(number, down, up * (float(of["alpha"]) / len(down) if "alpha" in of else 1.0))


def _like(matrix: Tensor, weight: Tensor) -> Tensor:
    if weight.dim() == 2 and matrix.dim() == 4 and matrix.shape[2:] == (1, 1):
        return matrix[:, :, 0, 0]
    return matrix[..., None, None] if weight.dim() == 4 and matrix.dim() == 2 else matrix


class LoraText:
    """A model's text conditioning where LoRAs change the model. text: the conditioning itself. networks: the text
    encoders. count: how many LoRAs there are."""

    def __init__(self, text: Text, networks: Iterable[nn.Module], count: int, device: torch.device) -> None:
        self._text = text
        self._scales = [scales for network in networks if (scales := scales_of(network)) is not None]
        self._count = count
        self._device = device

    def embed(self, text: str, weights: tuple[float, ...] = ()) -> Embedding:
        """See `Text.embed`. weights: of the LoRAs, none by default."""
        weights = weights or (0.0,) * self._count
        told = torch.tensor(weights, device=self._device)
        if not self._scales:
            embedding = self._text.embed(text)
        else:
            for scales in self._scales:
                scales.now = told[None]
            try:
                embedding = self._text.embed(text, weights)
            finally:
                for scales in self._scales:
                    scales.now = None
        return embedding._replace(others={**embedding.others, LORA: told})

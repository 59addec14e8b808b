"""IP-Adapters: a picture as a second prompt; which one, and how much it counts, is live.

IP-Adapter (arXiv 2308.06721), section 3.2.2: every cross-attention layer gets keys and values of a few tokens of the
picture beside those of the text, and what it reads of them is added, times a weight, to what it reads of the text. Keys
and values come with the rows of a call, the values times the weight: whatever records, converts or compiles a network
sees no change of either.

Shapes: T tokens of the picture, C width of cross-attention, D width of what the image encoder says.
"""

from __future__ import annotations

import logging
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from core.families.settings import IMAGE_ENCODER, check_settings
from core.folder import ModelError, check_weights, network, read_json, weights_of
from core.guidance import POSITIVE, ROLES
from core.libraries import CLIPVisionModelWithProjection
from core.pillow import pillow
from core.references import PictureError, named, read

log = logging.getLogger("frameloom.pictures")

CACHED_PICTURES = 32
HEAD_WIDTH = 64
"""Of the resampler's attention, in every published adapter."""
MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours of the pictures that CLIP was trained on (arXiv 2103.00020), 0..1."""
ENCODER = "image_encoder"
"""The folder of the image encoder in the published repository: beside the adapter, or beside the other adapters."""
_BESIDE = ("", "models", "sdxl_models")
_USUAL = ("ip-adapter_sd15.safetensors", "ip-adapter_sdxl.safetensors")
_LAYER = re.compile(r"(\d+)\.(to_k_ip|to_v_ip)\.weight")
_FACES = re.compile(r"_lora\.(down|up)\.|^image_proj\.(perceiver_resampler|norm)\.")
_PICKLED_FACES = re.compile(r"_lora\.(down|up)\.|^perceiver_resampler\.|^proj\.0\.weight$")
"""Likewise of the names in the two parts of a pickle."""
PICKLED_BYTES = 1 << 24
_NO_FACES = (
    "{path} is an IP-Adapter FaceID, which is not supported: it reads faces as insightface's models do, which are for"
    " non-commercial use alone; use a plain, plus or full one"
)


class Pooled(nn.Module):
    """Tokens of the whole picture's embedding (the plain adapter, section 3.2.1): (1, D) to (1, T, C)."""

    def __init__(self, weights: Mapping[str, Tensor], width: int) -> None:
        super().__init__()
        count, given = weights["proj.weight"].shape
        self.given = given
        self.proj = nn.Linear(given, count)
        self.norm = nn.LayerNorm(width)

    def forward(self, said: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(said).unflatten(-1, (-1, self.norm.normalized_shape[0])))
        return tokens


class Full(nn.Module):
    """Every patch of the picture as a token (the "full" adapters): (1, N, D) to (1, N, C)."""

    def __init__(self, weights: Mapping[str, Tensor], width: int) -> None:
        super().__init__()
        self.given = weights["proj.0.weight"].shape[1]
        self.proj = nn.Sequential(
            nn.Linear(self.given, self.given), nn.GELU(), nn.Linear(self.given, width), nn.LayerNorm(width)
        )

    def forward(self, said: Tensor) -> Tensor:
        tokens: Tensor = self.proj(said)
        return tokens


class _Perceiver(nn.Module):
    """Learnt tokens that read the patches and themselves: (1, T, I), (1, N, I) to (1, T, I)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: Tensor, patches: Tensor) -> Tensor:
        tokens = self.norm2(tokens)
        key, value = self.to_kv(torch.cat((self.norm1(patches), tokens), 1)).chunk(2, -1)
        query, key, value = (x.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for x in (self.to_q(tokens), key, value))
        out: Tensor = self.to_out(nnf.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return out


class Resampler(nn.Module):
    """A few learnt tokens that have read the patches (the "plus" adapters; Flamingo's resampler, arXiv 2204.14198):
    (1, N, D) to (1, T, C)."""

    def __init__(self, weights: Mapping[str, Tensor], width: int) -> None:
        super().__init__()
        _, count, inside = weights["latents"].shape
        self.given = weights["proj_in.weight"].shape[1]
        self.latents = nn.Parameter(torch.empty(1, count, inside))
        self.proj_in = nn.Linear(self.given, inside)
        self.proj_out = nn.Linear(inside, width)
        self.norm_out = nn.LayerNorm(width)
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
        inner, hidden = len(weights["layers.0.0.to_q.weight"]), len(weights["layers.0.1.1.weight"])
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    _Perceiver(inside, inner),
                    nn.Sequential(
                        nn.LayerNorm(inside),
                        nn.Linear(inside, hidden, bias=False),
                        nn.GELU(),
                        nn.Linear(hidden, inside, bias=False),
                    ),
                )
            )
            for _ in range(depth)
        )

    def forward(self, said: Tensor) -> Tensor:
        patches, tokens = self.proj_in(said), self.latents
        for layer in self.layers:
            attention, feed_forward = layer.children()
            tokens = tokens + attention(tokens, patches)
            tokens = tokens + feed_forward(tokens)
        out: Tensor = self.norm_out(self.proj_out(tokens))
        return out


PROJECTIONS: Mapping[str, type[Pooled] | type[Full] | type[Resampler]] = {
    "proj.weight": Pooled,
    "proj.3.weight": Full,
    "latents": Resampler,
}
"""Kinds of adapters, each by a weight that it alone has."""


class ImagePrompt:
    """An adapter and the pictures that it may be shown.

    layers: to_k_ip and to_v_ip (H D, C) of every cross-attention layer, in the U-Net's order. given, kept: files and
    folders of pictures, see `core.references.named`. Pictures are encoded once. Several threads may ask for them: what
    is kept is replaced as a whole, and a picture that two ask for at once is encoded twice.
    """

    def __init__(
        self,
        path: Path,
        projection: nn.Module,
        layers: Sequence[tuple[Tensor, Tensor]],
        encoder: Any,
        given: Sequence[Path],
        kept: Path | None = None,
    ) -> None:
        self.name = path.stem
        self.layers = layers
        self._projection = projection
        self._encoder = encoder
        self._given = given
        self._kept = kept
        self._seen: dict[Path, tuple[int, Tensor]] = {}
        self._nothing: Tensor | None = None
        self.encodings = 0
        """Number of pictures that the image encoder has been shown."""

    def attach(self, unet: Any) -> None:
        """Give the adapter's layers to those of a U-Net."""
        for attn, weights in zip(cross_attention(unet), self.layers, strict=True):
            for name, weight in zip(("to_k_ip", "to_v_ip"), weights, strict=True):
                layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                layer.weight = nn.Parameter(weight.to(attn.to_k.weight), requires_grad=False)
                setattr(attn, name, layer)

    def to(self, device: torch.device) -> None:
        """Move the networks that look at pictures."""
        for part in (self._projection, self._encoder):
            part.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def tokens(self, reference: str) -> Tensor:
        """(2, T, C): for each of `core.guidance.ROLES`, what rows of it read, of a picture by its name; zeros where
        there is none. Raises `PictureError`."""
        there = named(self._given, self._kept)
        if reference not in there:
            hint = f"use one of {', '.join(there)}" if len(there) > 1 else "start the host with --reference FILE"
            raise PictureError(f"there is no reference picture {reference!r} here; {hint}")
        path = there[reference]
        nothing = self._nothing
        if nothing is None:
            nothing = self._nothing = self._projected(None)
        if path is None:
            return torch.zeros_like(nothing).expand(len(ROLES), -1, -1).contiguous()
        seen = self._seen
        of_ns, tokens = seen.get(path, (-1, nothing))
        changed_ns = path.stat().st_mtime_ns if path.exists() else of_ns
        if of_ns < 0 or of_ns != changed_ns:
            tokens = self._encoded(path, nothing, tokens if of_ns >= 0 else None)
        others = [(other, kept) for other, kept in seen.items() if other != path]
        self._seen = dict([*others, (path, (changed_ns, tokens))][-CACHED_PICTURES:])
        return tokens

    def _encoded(self, path: Path, nothing: Tensor, before: Tensor | None) -> Tensor:
        """nothing: (1, T, C) of no picture. before: what the file was until it changed; it stays where the file is no
        picture any more, or not yet."""
        try:
            pixels = self._pixels(path)
        except PictureError as error:
            if before is None:
                raise
            log.warning("%s; the picture that it was stays", error)
            return before
        self.encodings += 1
        seen = self._projected(pixels)
        return torch.cat([seen if role == POSITIVE else nothing for role in ROLES])

    def _projected(self, pixels: Tensor | None) -> Tensor:
        """(1, T, C) of a picture, or of none as classifier-free guidance was trained with it."""
        like = self._projection.get_parameter(next(name for name, _ in self._projection.named_parameters()))
        if isinstance(self._projection, Pooled):
            if pixels is None:
                said = like.new_zeros(1, self._projection.given)
            else:
                said = self._encoder(pixels).image_embeds
        else:
            side = self._encoder.config.image_size
            shown = like.new_zeros(1, 3, side, side) if pixels is None else pixels
            said = self._encoder(shown, output_hidden_states=True).hidden_states[-2]
        tokens: Tensor = self._projection(said)
        return tokens

    def _pixels(self, path: Path) -> Tensor:
        """(1, 3, side, side) as CLIP's pictures are: the shorter side made to fit, the middle cut out."""
        image = read(path)
        side = self._encoder.config.image_size
        shorter = min(image.size)
        size = tuple(max(side, int(side * length / shorter)) for length in image.size)
        left, top = ((length - side) // 2 for length in size)
        image = image.resize(size, pillow().Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
        levels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255.0
        mean, spread = (torch.tensor(values)[:, None, None] for values in (MEAN, SPREAD))
        weight = next(self._encoder.parameters())
        return ((levels - mean) / spread)[None].to(weight)


def cross_attention(unet: Any) -> list[Any]:
    """A U-Net's cross-attention layers, in its own order, by which adapters count theirs."""
    return [module for name, module in unet.named_modules() if name.endswith(".attn2")]


def load(path: Path, unet: Any, dtype: torch.dtype, pictures: Sequence[Path], kept: Path | None = None) -> ImagePrompt:
    """An adapter for that U-Net from a file, or from a folder of the published repository. pictures, kept: those that
    it may be shown, see `core.references.named`. Raises `ModelError`."""
    width = int(unet.config.cross_attention_dim)
    path = _file(path, width)
    if any(_PICKLED_FACES.search(name) for name in _pickled_names(path)):
        raise ModelError(_NO_FACES.format(path=path))
    weights, _ = weights_of(path, "IP-Adapter")
    if "image_proj.proj.weight" not in weights and any(_FACES.search(name) for name in weights):
        raise ModelError(_NO_FACES.format(path=path))
    other = next((name for name in weights if not name.startswith(("image_proj.", "ip_adapter."))), None)
    if other is not None or not weights:
        raise ModelError(f"{path} is no IP-Adapter that is known here ({other or 'it is empty'}); use a published one")
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise ModelError(f"{path}: the weights of {name} hold values that are no numbers; get it again")
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, weight in weights.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = weight.to(dtype)
    layers = _layers(path, parts["ip_adapter"], unet)
    projection = _projection(path, parts["image_proj"], width).to(dtype)
    encoder = _encoder(path, projection, dtype)
    return ImagePrompt(path, projection, layers, encoder, tuple(pictures), kept)


def _file(path: Path, width: int) -> Path:
    """The adapter's file: of a folder the plain adapter for cross-attention of that width, or the only one in it."""
    if not path.is_dir():
        return path
    there = [file for folder in _BESIDE for file in sorted((path / folder).glob("*.safetensors"))]
    usual = [file for file in there if file.name in _USUAL and _width(file) == width]
    if len(usual or there) == 1:
        return (usual or there)[0]
    if not there:
        raise ModelError(f"{path} holds no IP-Adapter (a .safetensors file); give its file")
    names = ", ".join(str(file.relative_to(path)) for file in there)
    raise ModelError(f"{path} holds several IP-Adapters, none the plain one for this model; give one of {names}")


def _pickled_names(path: Path) -> list[str]:
    """The strings in a pickle of torch's, which is looked through and not run: adapters for faces are published as such
    alone, and it would be in vain to get them in another form. None of anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as pickled:
                said = pickled.read(PICKLED_BYTES)
        return [said for _, said, _ in pickletools.genops(said) if isinstance(said, str)]
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, NotImplementedError, RuntimeError):
        return []


def _width(file: Path) -> int:
    weights, _ = weights_of(file, "IP-Adapter")
    return next((weight.shape[1] for name, weight in weights.items() if name.endswith("to_k_ip.weight")), 0)


def _layers(path: Path, weights: Mapping[str, Tensor], unet: Any) -> list[tuple[Tensor, Tensor]]:
    there = cross_attention(unet)
    # Counted with the self-attention layers between them.
    wanted = [f"{2 * i + 1}.{name}.weight" for i in range(len(there)) for name in ("to_k_ip", "to_v_ip")]
    unknown = next((name for name in weights if not _LAYER.fullmatch(name)), None)
    if unknown is not None:
        raise ModelError(f"{path} is no IP-Adapter that is known here (ip_adapter.{unknown}); use a published one")
    if set(weights) != set(wanted):
        raise ModelError(
            f"{path} was made for another family: it has {len(weights) // 2} cross-attention layers, this model"
            f" {len(there)}; use an IP-Adapter of the model's family"
        )
    pairs = [(weights[k], weights[v]) for k, v in zip(wanted[::2], wanted[1::2], strict=True)]
    for attn, pair in zip(there, pairs, strict=True):
        ours = tuple(attn.to_k.weight.shape)
        theirs = next((tuple(weight.shape) for weight in pair if tuple(weight.shape) != ours), ours)
        if theirs != ours:
            raise ModelError(
                f"{path} was made for another family: its layers take {theirs[1]} values to {theirs[0]}, this model's"
                f" {ours[1]} to {ours[0]}; use an IP-Adapter of the model's family"
            )
    return pairs


def _projection(path: Path, weights: Mapping[str, Tensor], width: int) -> Pooled | Full | Resampler:
    kind = next((PROJECTIONS[name] for name in PROJECTIONS if name in weights), None)
    if kind is None:
        raise ModelError(f"{path} is no IP-Adapter that is known here (its image_proj); use a published one")
    try:
        projection = kind(weights, width)
        projection.load_state_dict(weights)
    except (RuntimeError, LookupError, ValueError) as error:
        raise ModelError(
            f"{path} is no whole IP-Adapter ({' '.join(str(error).split())[:200]}); get it again"
        ) from None
    return projection


def _encoder(path: Path, projection: Pooled | Full | Resampler, dtype: torch.dtype) -> Any:
    """The image encoder that the adapter was trained with, from where the published repository has it."""
    of = "projection_dim" if isinstance(projection, Pooled) else "hidden_size"
    folders = [path.parent / ENCODER, *(path.parent.parent / beside / ENCODER for beside in _BESIDE)]
    there = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    found = [(folder, read_json(folder / "config.json")) for folder in there]
    fitting = next(((folder, config) for folder, config in found if config.get(of) == projection.given), None)
    if fitting is None:
        wrong = ", ".join(f"{folder} gives {config.get(of)}" for folder, config in found) or "there is none"
        raise ModelError(
            f"{path} wants an image encoder of {of} {projection.given} in a folder {ENCODER} beside it ({wrong});"
            " get it from where the IP-Adapter comes from"
        )
    folder, config = fitting
    check_settings(folder / "config.json", config, IMAGE_ENCODER)
    check_weights(folder)
    return network(folder, CLIPVisionModelWithProjection, dtype=dtype)

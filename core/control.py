"""ControlNets: networks that steer the U-Net by a picture of depth, edges, normals or a mask, one or several at once.

ControlNet (arXiv 2302.05543), section 3: what a copy of the U-Net's first half makes of the picture is added to the
U-Net's own residuals. Here it is weighed row by row, so strength and the stages in which it acts change between two
frames; with all at 0 the U-Net alone is called. The picture comes with the frame, from a plane that the client sent or
from its colours, and travels with it from stage to stage.

Shapes: R rows, F frames, n ControlNets, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from core.denoiser import PlaneInput
from core.device import uploaded
from core.families.settings import CONTROL, check_settings
from core.folder import ModelError, check_weights, network, read_json
from core.libraries import ControlNetModel
from core.params import CONTROL_SOURCES, MAX_CONTROLS
from core.pixels import PixelError

PICTURE_LEVELS = 4
"""Of the network that brings a picture to the latent's size, each half as large as the one before."""
GAUSS = 1.0
"""Of the blur before edges are looked for, in pixels."""
EDGE_LOW, EDGE_HIGH = 100.0, 200.0
"""Sobel gradients, in levels, that may be an edge next to one, and that are one: the thresholds that are usual."""
EDGE_REACH = 16
"""Pixels that an edge is followed where it is weak."""


@dataclass(frozen=True)
class Control:
    """source: key of `SOURCES`, where its picture comes from."""

    source: str
    network: Any
    name: str

    def cast(self, dtype: torch.dtype) -> Control:
        """The same with a copy of its weights."""
        import copy

        return replace(self, network=nn.Module.to(copy.deepcopy(self.network), dtype))


class Controls(NamedTuple):
    """What the rows of a call read of all ControlNets. pictures: (R, 4, H, W) each, 0..1 in three channels and, in the
    fourth, whether there is one. strengths: (R, n)."""

    pictures: tuple[Tensor, ...]
    strengths: Tensor


def load(source: str, folder: Path, unet: Any, dtype: torch.dtype) -> Control:
    """From a folder in the diffusers layout. unet: that it is to steer. Raises `ModelError`."""
    if source not in SOURCES:
        raise ModelError(f"{source!r} is no picture for a ControlNet; use one of {', '.join(SOURCES)}")
    if folder.is_file():
        raise ModelError(f"{folder} is a file; give a ControlNet's folder in the diffusers layout")
    config = read_json(folder / "config.json")
    if config.get("_class_name") != "ControlNetModel":
        raise ModelError(f"{folder} is a {config.get('_class_name')}; give the folder of a ControlNetModel")
    check_settings(folder / "config.json", config, CONTROL)
    check_weights(folder)
    net = network(folder, ControlNetModel, torch_dtype=dtype, low_cpu_mem_usage=False)
    names = (
        "in_channels block_out_channels layers_per_block down_block_types cross_attention_dim addition_embed_type"
        " projection_class_embeddings_input_dim"
    )
    for name in names.split():
        ours, theirs = (getattr(config, name) for config in (net.config, unet.config))
        if _plain(ours) != _plain(theirs):
            raise ModelError(
                f"{folder} was made for another family: its {name} is {_plain(ours)}, this model's {_plain(theirs)};"
                " use a ControlNet of the model's family"
            )
    if len(net.config.conditioning_embedding_out_channels) != PICTURE_LEVELS:
        raise ModelError(f"{folder} does not take pictures of 8 pixels per latent cell; use another ControlNet")
    return Control(source, net.eval().requires_grad_(False), folder.name)


def load_all(given: Sequence[tuple[str, Path]], unet: Any, dtype: torch.dtype) -> tuple[Control, ...]:
    """Raises `ModelError`."""
    if len(given) > MAX_CONTROLS:
        raise ModelError(f"{len(given)} ControlNets are given; {MAX_CONTROLS} at once is the most")
    return tuple(load(source, Path(folder), unet, dtype) for source, folder in given)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


class ControlledCall(nn.Module):
    """A `core.denoiser.UnetCall` with ControlNets beside it."""

    def __init__(self, call: Any, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.call = call
        self.networks = nn.ModuleList(networks)

    def forward(
        self,
        x_Rchw: Tensor,
        t_R: Tensor,
        embedding: Any,
        keys_values: Any,
        control: Controls,
        bank: Any = None,
    ) -> Tensor:
        """As `UnetCall.forward`."""
        added = self.call.added(x_Rchw, embedding)
        total: list[Tensor] = []
        for i, net in enumerate(self.networks):
            picture = control.pictures[i].to(x_Rchw.dtype)
            strength = control.strengths[:, i, None, None, None].to(x_Rchw.dtype) * picture[:, 3:, :1, :1]
            down, middle = net(
                x_Rchw,
                t_R,
                encoder_hidden_states=embedding.tokens,
                controlnet_cond=picture[:, :3],
                added_cond_kwargs=added,
                return_dict=False,
            )
            mine = [residual * strength for residual in (*down, middle)]
            total = [a + b for a, b in zip(total, mine, strict=True)] if total else mine
        residuals = (tuple(total[:-1]), total[-1])
        out: Tensor = self.call(x_Rchw, t_R, embedding, keys_values, bank, residuals)
        return out


def planes_of(controls: Sequence[Control], size: tuple[int, int], device: torch.device) -> Mapping[str, PlaneInput]:
    """What a denoiser with these ControlNets reads of a frame. size: (height, width) in pixels of their pictures."""

    def reader(source: ControlSource) -> Callable[[Tensor], Tensor]:
        def read(plane_FHW: Tensor) -> Tensor:
            picture = source.picture(_channels_first(uploaded(plane_FHW, device)))
            if picture.shape[-2:] != size:
                picture = nnf.interpolate(picture, size, mode="bilinear", antialias=True)
            return nnf.pad(picture, (0, 0, 0, 0, 0, 1), value=1.0)

        return read

    return {
        f"control {number}": PlaneInput((4, *size), reader(SOURCES[control.source]), SOURCES[control.source].plane)
        for number, control in enumerate(controls)
    }


# ---- pictures for ControlNets --------------------------------------------------------------------------------------


class ControlSource(NamedTuple):
    """plane: of the frame that is read; "colour" is the picture itself. picture: (F, C, H, W), as the client wrote it,
    to (F, 3, H, W) in 0..1."""

    plane: str
    picture: Callable[[Tensor], Tensor]


def _channels_first(plane_FHW: Tensor) -> Tensor:
    if plane_FHW.dim() not in (3, 4):
        raise PixelError(f"a plane of shape {tuple(plane_FHW.shape[1:])} cannot be used; send (height, width) or more")
    return plane_FHW[:, None] if plane_FHW.dim() == 3 else plane_FHW.permute(0, 3, 1, 2)


def _three(x_FCHW: Tensor) -> Tensor:
    return x_FCHW[:, :3] if x_FCHW.shape[1] >= 3 else x_FCHW[:, :1].expand(-1, 3, -1, -1)


def as_it_is(x_FCHW: Tensor) -> Tensor:
    """Levels, or shares of full."""
    x = x_FCHW.to(torch.float32)
    return _three(torch.nan_to_num(x / 255.0 if x_FCHW.dtype == torch.uint8 else x).clamp(0.0, 1.0))


def nearness(x_FCHW: Tensor) -> Tensor:
    """Depth in metres as those ControlNets know it: 1 over depth, the nearest point of the frame white; what has no
    depth is as far as can be. Levels are taken as they are."""
    if x_FCHW.dtype == torch.uint8:
        return as_it_is(x_FCHW)
    depth = x_FCHW[:, :1].to(torch.float32)
    near = torch.where(depth.isfinite() & (depth > 0.0), 1.0 / depth.clamp_min(1e-6), torch.zeros_like(depth))
    return _three(near / near.amax((1, 2, 3), keepdim=True).clamp_min(1e-12))


def directions(x_FCHW: Tensor) -> Tensor:
    """Normals of length 1 as colours, 0 in the middle. Levels are taken as they are."""
    if x_FCHW.dtype == torch.uint8:
        return as_it_is(x_FCHW)
    return as_it_is(x_FCHW.to(torch.float32) * 0.5 + 0.5)


def edges(x_FCHW: Tensor) -> Tensor:
    """White edges on black (Canny, IEEE PAMI 8(6), 1986): a blur, Sobel's gradients, their ridges one pixel wide, and
    of those the strong ones and the weak ones that hang on to them."""
    levels = _three(x_FCHW).to(torch.float32)
    grey = (levels * levels.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    taps = torch.arange(-2, 3, device=grey.device, dtype=torch.float32)
    taps = torch.exp(-0.5 * (taps / GAUSS) ** 2)
    taps = taps / taps.sum()
    grey = nnf.conv2d(nnf.pad(grey, (2, 2, 2, 2), mode="replicate"), (taps[:, None] * taps)[None, None])
    sobel = grey.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    gx, gy = nnf.conv2d(nnf.pad(grey, (1, 1, 1, 1), mode="replicate"), torch.stack((sobel, sobel.T))[:, None]).split(
        1, 1
    )
    size = gx.abs() + gy.abs()
    beside = nnf.pad(size, (1, 1, 1, 1))
    height, width = size.shape[-2:]

    def at(dy: int, dx: int) -> Tensor:
        return beside[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    # Which neighbours the gradient points at: within 22.5 degrees of an axis those along it, otherwise across.
    steep, flat = gy.abs() > gx.abs() * 2.4142136, gy.abs() < gx.abs() * 0.4142136
    falling = gx * gy > 0.0
    along = torch.where(flat, at(0, -1), torch.where(steep, at(-1, 0), torch.where(falling, at(-1, -1), at(-1, 1))))
    against = torch.where(flat, at(0, 1), torch.where(steep, at(1, 0), torch.where(falling, at(1, 1), at(1, -1))))
    ridge = (size > along) & (size >= against)
    weak = ridge & (size > EDGE_LOW)
    found = (ridge & (size > EDGE_HIGH)).to(torch.float32)
    for _ in range(EDGE_REACH):
        found = nnf.max_pool2d(found, 3, 1, 1) * weak
    return _three(found)


SOURCES: Mapping[str, ControlSource] = {
    "depth": ControlSource("depth", nearness),
    "normal": ControlSource("normal", directions),
    "mask": ControlSource("mask", as_it_is),
    "canny": ControlSource("colour", edges),
    "colour": ControlSource("colour", as_it_is),
}
assert tuple(SOURCES) == CONTROL_SOURCES

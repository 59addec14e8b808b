"""A model folder in the diffusers layout, loaded, and the streams that run it.

Importing it costs seconds, so it is imported where a model is about to be loaded and nowhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from core import image_prompt
from core.autoencoders import AUTOENCODERS, Autoencoder
from core.backend import BACKENDS, Call, Execution, executions
from core.bank import Layer, Read
from core.codec import Codec, DecodeVae
from core.control import Control, ControlledCall, Controls, load_all, planes_of
from core.denoiser import PICTURE, PICTURE_SCALE, SCALE, BankedCall, Banks, Steering, UnetDenoiser, prepared
from core.device import memory_format
from core.families import single_file
from core.families.family import Family, Parts, autoencoder_dtype
from core.families.folders import check_folder
from core.families.table import FAMILIES, family_of
from core.folder import ModelError, read_json, steady
from core.image_prompt import ImagePrompt
from core.inversion import EmbeddingFile, teach
from core.lora import LoraFile, LoraText, apply
from core.params import AS_STARTED
from core.reuse import Window, window_sizes
from core.schedule import NoiseSchedule, ScheduleError
from core.stream import NoiseSource, Stream, StreamConfig, seeded_noise
from core.text import Text
from core.tree import mapped

__all__ = ["Model", "ModelError", "assemble", "check_folder", "load_model"]

KEPT_SIZES = 4
"""So many sizes keep their networks: to go back to one costs nothing, and to go through all of them fills no memory."""


@dataclass(frozen=True)
class Model:
    """The loaded parts. Streams of any size can be built from one model, one after another or side by side."""

    folder: Path
    unet: Any
    vae: Any
    text: Text
    noise: NoiseSchedule
    prediction: str
    execution: Execution
    family: Family
    call: Any
    controls: tuple[Control, ...] = ()
    loras: tuple[str, ...] = ()
    """The names of the LoRAs that change it, in the order of their parameters."""
    pictures: ImagePrompt | None = None
    """The IP-Adapter."""
    overflows: bool = False
    """The autoencoder does so in float16: see `core.families.family.autoencoder_dtype`."""
    forms: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """The networks as back ends convert them, by latent size, back end, kind and shapes; shared by all that share the
    weights."""
    calls: dict[tuple[Any, ...], Call] = field(default_factory=dict)
    """The networks as this execution runs them, likewise."""
    sizes: dict[tuple[int, int], None] = field(default_factory=dict)
    """The latent sizes that there are networks for, the one asked for last at the end."""

    @property
    def device(self) -> torch.device:
        return self.execution.device

    def run_by(self, execution: Execution) -> Model:
        """The same model run in another way, on the same device. Weights are shared unless they have to be cast; cast
        them from float32 only."""
        if execution.weights_dtype == self.execution.weights_dtype:
            return replace(self, execution=execution, calls={})
        # By torch's own `to`: that of diffusers warns of layers to be kept in float32, of which there are none here.
        unet = nn.Module.to(copy.deepcopy(self.unet), execution.weights_dtype)
        vae = nn.Module.to(copy.deepcopy(self.vae), self._for_autoencoder(execution).weights_dtype)
        return replace(
            self,
            unet=unet,
            vae=vae,
            execution=execution,
            call=self.family.call(unet),
            controls=tuple(control.cast(execution.weights_dtype) for control in self.controls),
            forms={},
            calls={},
        )

    def _for_autoencoder(self, execution: Execution) -> Execution:
        return replace(execution, dtype=autoencoder_dtype(execution.dtype, self.overflows))

    @property
    def native_size(self) -> int:
        """Side in pixels of the square pictures that the model was trained on."""
        return int(self.unet.config.sample_size) * self.latent_scale

    @property
    def latent_scale(self) -> int:
        """Pixels per latent cell."""
        return self._autoencoder.pixels(self.vae.config)

    @property
    def _autoencoder(self) -> Autoencoder:
        return AUTOENCODERS[type(self.vae).__name__]

    @property
    def size_multiple(self) -> int:
        """Width and height in pixels suit the U-Net best as multiples of this, and have to be multiples of
        `latent_scale`."""
        return self.latent_scale * 2 ** (len(self.unet.config.block_out_channels) - 1)

    def fit(self, width: int, height: int, area: int | None = None) -> tuple[int, int]:
        """The (width, height) to work at for pictures of that shape: same aspect, about `area` pixels (default the
        native area), both multiples of `size_multiple`."""
        area = area or self.native_size**2
        scale = (area / (width * height)) ** 0.5
        step = self.size_multiple
        w, h = (max(step, round(side * scale / step) * step) for side in (width, height))
        # A very long and thin picture keeps to the area, not to its shape: the codec resizes what does not fit.
        w = min(w, max(step, 2 * area // h // step * step))
        return w, min(h, max(step, 2 * area // w // step * step))

    def near(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) to work at where that one is asked for."""
        scale = self.latent_scale
        return max(1, round(width / scale)) * scale, max(1, round(height / scale)) * scale

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(c, h, w) of the latents of pictures of that size. A U-Net may read channels beside these."""
        return int(self.vae.config.latent_channels), height // self.latent_scale, width // self.latent_scale

    def stream(
        self,
        config: StreamConfig,
        *,
        cache_text: bool = True,
        noise_source: NoiseSource = seeded_noise,
    ) -> Stream[Any]:
        """A new stream. Raises `ModelError` when the size does not suit the model."""
        step = self.latent_scale
        if config.width % step or config.height % step or config.width < step or config.height < step:
            raise ModelError(f"size {config.width}x{config.height} does not suit this model: use multiples of {step}")
        _, rows, columns = latent = self.latent_shape(config.width, config.height)
        size = (rows, columns)
        self._make_room(size)

        def blank(*shape: int) -> Tensor:
            return torch.zeros(shape, device=self.device)

        codec = Codec(
            self.vae.config,
            self._encoder(size, blank(1, 3, config.height, config.width)),
            self._decoder(size, blank(1, *latent)),
            (config.height, config.width),
            self.device,
            self.latent_scale,
            self._autoencoder.halo,
            lambda: self._windows(rows, columns),
        )
        codec.prepare(config.frame_buffer)
        denoiser = self.denoiser(latent, cache_text=cache_text)
        return Stream(
            config, denoiser, codec, self.text, self.noise, latent, self.device, noise_source, loras=len(self.loras)
        )

    def _windows(self, rows: int, columns: int) -> tuple[list[Window], list[Window]]:
        """Encoder and decoder for parts of pictures of so many latent cells."""
        channels, scale = int(self.unet.config.in_channels), self.latent_scale
        encoders, decoders = [], []
        for high, wide in window_sizes(rows, columns):
            picture = torch.zeros((1, 3, high * scale, wide * scale), device=self.device)
            latent = torch.zeros((1, channels, high, wide), device=self.device)
            encoders.append(Window(high, wide, self._encoder((rows, columns), picture)))
            decoders.append(Window(high, wide, self._decoder((rows, columns), latent)))
            for window in (encoders[-1], decoders[-1]):
                window.call.prepare(1)
        return encoders, decoders

    def denoiser(self, latent: tuple[int, int, int], *, cache_text: bool = True) -> UnetDenoiser:
        """The U-Net for latents of shape (c, h, w)."""
        dtype = self.execution.weights_dtype
        embedding = mapped(lambda leaf: leaf.to(dtype).expand(2, *leaf.shape), self.text.embed(""))
        scale_width = int(self.unet.config.time_cond_proj_dim or 0)
        if scale_width:
            told = torch.zeros(2, scale_width, dtype=dtype, device=self.device)
            embedding = embedding._replace(others={**embedding.others, SCALE: told})
        planes = self.family.planes(self.unet, latent)
        seen = {name: torch.zeros(2, *plane.shape, dtype=dtype, device=self.device) for name, plane in planes.items()}
        embedding = embedding._replace(others={**embedding.others, **seen})
        if self.pictures is not None:
            tokens = self.pictures.tokens(AS_STARTED).to(dtype)
            picture = {PICTURE: tokens, PICTURE_SCALE: torch.zeros(2, 1, dtype=dtype, device=self.device)}
            embedding = embedding._replace(others={**embedding.others, **picture})
        pairs = prepared(self.call.cross, embedding, self.call.loras) if cache_text else ()
        if cache_text:
            # Keys and values stand for the picture, as they do for the text.
            others = {name: leaf for name, leaf in embedding.others.items() if name not in (PICTURE, PICTURE_SCALE)}
            embedding = embedding._replace(others=others)
        t = torch.zeros(2, dtype=torch.long, device=self.device)
        example = (torch.zeros(2, *latent, device=self.device), t, embedding, pairs)
        steered = ControlledCall(self.call, [control.network for control in self.controls])
        _, *size = latent

        def call(network: nn.Module, *example: Any) -> Call:
            return self._call(self.execution, tuple(size), network, *example)

        return UnetDenoiser(
            call(self.call, *example),
            self.call.cross,
            self.noise,
            self.prediction,
            self.device,
            dtype,
            cache_text=cache_text,
            scale_width=scale_width,
            planes=planes,
            loras=self.call.loras,
            banks=lambda: Banks(
                self._layers(example),
                lambda bank, *control: call(BankedCall(steered if control else self.call), *example, bank, *control),
            ),
            steering=self._steering(call, steered, example) if self.controls else None,
            pictures=None if self.pictures is None else self.pictures.tokens,
        )

    def _steering(self, call: Callable[..., Call], steered: ControlledCall, example: tuple[Any, ...]) -> Steering:
        height, width = (side * self.latent_scale for side in example[0].shape[-2:])
        planes = planes_of(self.controls, (height, width), self.device)
        pictures = tuple(torch.zeros(2, *plane.shape, device=self.device) for plane in planes.values())
        control = Controls(pictures, torch.zeros(2, len(planes), device=self.device))
        return Steering(planes, control, lambda: call(steered, *example, control), Controls)

    @torch.inference_mode()
    def _layers(self, example: tuple[Any, ...]) -> tuple[Layer, ...]:
        """The self-attention layers that can read a bank, as a call like the example finds them."""
        count = len(self.call.banked)
        nothing = Read(
            torch.zeros(2, 1, device=self.device), torch.ones(2, 1, device=self.device), (), *[((),) * count] * 2
        )
        x = example[0].to(self.execution.weights_dtype)
        _, fresh = BankedCall(self.call)(x, *example[1:], nothing)
        return tuple(Layer(name, *made[0].shape[1:]) for name, made in zip(self.call.banked, fresh, strict=True))

    def _make_room(self, size: tuple[int, int]) -> None:
        """For networks of this size: those of sizes that were asked for longest ago go, unless a stream has them."""
        self.sizes.pop(size, None)
        self.sizes[size] = None
        for old in list(self.sizes)[:-KEPT_SIZES]:
            self.sizes.pop(old, None)
            for made in (self.forms, self.calls):
                for key in [key for key in list(made) if key[0] == old]:
                    made.pop(key, None)

    def _encoder(self, size: tuple[int, int], picture: Tensor) -> Call:
        return self._call(self._for_autoencoder(self.execution), size, self._autoencoder.encode(self.vae), picture)

    def _decoder(self, size: tuple[int, int], latent: Tensor) -> Call:
        return self._call(self._for_autoencoder(self.execution), size, DecodeVae(self.vae), latent)

    def _call(self, execution: Execution, size: tuple[int, ...], network: nn.Module, *example: Any) -> Call:
        """The network as the back end runs it, made once per latent size and kind of network."""
        backend = BACKENDS[execution.backend]
        key = (size, execution.backend, type(network).__name__, *(tuple(leaf.shape) for leaf in tree_leaves(example)))
        if key not in self.forms:
            self.forms[key] = backend.convert(network, example, execution.store, execution.elsewhere)
        if key not in self.calls:
            call = backend.call(self.forms[key], example, execution)
            self.calls[key] = call if execution.shared is None else execution.shared(call)
        return self.calls[key]


def load_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
    *,
    store: Path | None = None,
    prediction: str | None = None,
    loras: Sequence[Path | None] = (),
    controls: Sequence[tuple[str, Path]] = (),
    adapter: Path | None = None,
    references: Sequence[Path] = (),
    kept_references: Path | None = None,
    embeddings: Sequence[Path] = (),
) -> Model:
    """Load a model folder in the diffusers layout, or a single file, from disk; nothing is downloaded.

    dtype, backend, store: see `core.backend.executions`; the first of them is taken. prediction: see `check_folder`.
    loras: files of LoRAs that change it, None for a weight without one. controls: folders of ControlNets, each with
    what it is shown (`core.control.SOURCES`). adapter: file or folder of an IP-Adapter. references: files and folders
    of the pictures that it may be shown, the first at the start; kept_references: a folder of those that come later.
    embeddings: files of words by textual inversion. Raises `ModelError`, and `BackendError` for what is not available.
    """
    execution = executions(device, backend, dtype, store=store)[0]
    folder = Path(folder)
    with steady([folder, *(Path(path) for path in (*loras, *(net for _, net in controls), *embeddings) if path)]):
        check_folder(folder, prediction)
        files = [LoraFile.none() if path is None else LoraFile.of(Path(path)) for path in loras]
        if folder.is_file():
            family, parts, scheduler = single_file.load(folder, execution.weights_dtype, FAMILIES, prediction)
        else:
            family, parts, scheduler = _load_folder(folder, execution.weights_dtype)
        nets = load_all(controls, parts.unet, execution.weights_dtype)
        parts = replace(parts, encoders=teach([EmbeddingFile.of(Path(path)) for path in embeddings], parts.encoders))
        pictures = None
        if adapter is not None:
            pictures = image_prompt.load(
                Path(adapter), parts.unet, execution.weights_dtype, references, kept_references
            )
    try:
        return assemble(folder, parts, scheduler, execution, family, files, nets, pictures)
    except ScheduleError as error:
        raise ModelError(f"{folder}: {error}") from None


def _load_folder(folder: Path, dtype: torch.dtype) -> tuple[Family, Parts, dict[str, Any]]:
    family = family_of(folder)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    return family, family.load(folder, dtype), scheduler


def assemble(
    folder: Path,
    parts: Parts,
    scheduler: dict[str, Any],
    execution: Execution,
    family: Family | None = None,
    loras: Sequence[LoraFile] = (),
    controls: Sequence[Control] = (),
    pictures: ImagePrompt | None = None,
) -> Model:
    """Put parts of the execution's `weights_dtype` together: moved to its device, frozen.

    scheduler: what scheduler_config.json holds. family: Stable Diffusion's when None. loras: that change the parts.
    controls: of the dtype of the others. pictures: of an IP-Adapter for this U-Net. Raises `ScheduleError`, and
    `ModelError` for what was made for another model.
    """
    family = family or FAMILIES["stable-diffusion"]
    encoders = [encoder.network for encoder in parts.encoders]
    if loras:
        apply(loras, {"unet": parts.unet, **dict(zip(("text_encoder", "text_encoder_2"), encoders, strict=False))})
    if pictures is not None:
        pictures.attach(parts.unet)
        pictures.to(execution.device)
    for network in (parts.unet, parts.vae, *encoders, *(control.network for control in controls)):
        network.to(execution.device).eval().requires_grad_(False)
        if execution.device.type == "cuda":
            nn.Module.to(network, memory_format=memory_format(execution.device))  # type: ignore[call-overload]
    text = family.text(parts.encoders, execution.device)
    call = family.call(parts.unet)
    if pictures is not None and len(call.cross) < len(pictures.layers):
        raise ModelError(f"{folder}: attention with norms of its own reads no pictures; leave the IP-Adapter out")
    return Model(
        folder=folder,
        unet=parts.unet,
        vae=parts.vae,
        text=LoraText(text, encoders, len(loras), execution.device) if loras else text,
        loras=tuple(file.name for file in loras),
        controls=tuple(controls),
        pictures=pictures,
        overflows=parts.overflows,
        noise=NoiseSchedule.from_config(scheduler),
        prediction=scheduler.get("prediction_type", "epsilon"),
        execution=execution,
        family=family,
        call=call,
    )

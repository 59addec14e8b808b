"""A model folder in the diffusers layout, opened and checked; everybody else gets diffusers and transformers from here.

Importing it costs seconds, so it is imported where a model is about to be loaded and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from core.backend import BACKENDS, pick_backend
from core.codec import Codec, DecodeVae, EncodeKl, EncodeTiny
from core.denoiser import PREDICTIONS, Spread, UnetCall, UnetDenoiser, keys_values
from core.schedule import NoiseSchedule, ScheduleError
from core.stream import NoiseSource, Stream, StreamConfig, seeded_noise
from core.text import TextConditioner

__all__ = [
    "AutoencoderKL",
    "AutoencoderTiny",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTokenizer",
    "Model",
    "ModelError",
    "UNet2DConditionModel",
    "assemble",
    "check_folder",
    "load_model",
]

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_CODECS: dict[str, tuple[Any, Any]] = {
    "AutoencoderTiny": (AutoencoderTiny, EncodeTiny),
    "AutoencoderKL": (AutoencoderKL, EncodeKl),
}


class ModelError(RuntimeError):
    """A model folder that cannot be used; the message names the file and the mend."""


@dataclass(frozen=True)
class Model:
    """The loaded parts. Streams of any size can be built from one model, one after another or side by side."""

    folder: Path
    unet: Any
    vae: Any
    text: TextConditioner
    noise: NoiseSchedule
    prediction: str
    device: torch.device
    dtype: torch.dtype
    backend: str
    call: UnetCall
    recordings: dict[tuple[Any, ...], Callable[..., Tensor]] = field(default_factory=dict)

    @property
    def native_size(self) -> int:
        """Side in pixels of the square pictures that the model was trained on."""
        return int(self.unet.config.sample_size) * self.latent_scale

    @property
    def latent_scale(self) -> int:
        """Pixels per latent cell."""
        blocks = self.vae.config.get("block_out_channels") or self.vae.config.encoder_block_out_channels
        return 2 ** (len(blocks) - 1)

    @property
    def size_multiple(self) -> int:
        """Width and height in pixels have to be multiples of this."""
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

    def stream(
        self,
        config: StreamConfig,
        *,
        cache_text: bool = True,
        noise_source: NoiseSource = seeded_noise,
        spread: Spread | None = None,
    ) -> Stream[Any]:
        """A new stream. spread: see `core.denoiser.UnetDenoiser`; used where calls are recorded. Raises `ModelError`
        when the size does not suit the model."""
        step = self.size_multiple
        if config.width % step or config.height % step or config.width < step or config.height < step:
            raise ModelError(f"size {config.width}x{config.height} does not suit this model: use multiples of {step}")
        rows, columns = config.height // self.latent_scale, config.width // self.latent_scale
        latent = (int(self.unet.config.in_channels), rows, columns)
        format_ = torch.channels_last if self.device.type != "mps" else torch.contiguous_format

        def blank(*shape: int) -> Tensor:
            return torch.zeros(shape, device=self.device, dtype=self.dtype).contiguous(memory_format=format_)

        codec = Codec(
            self.vae.config,
            self._recorded(_CODECS[type(self.vae).__name__][1](self.vae), blank(1, 3, config.height, config.width)),
            self._recorded(DecodeVae(self.vae), blank(1, *latent)),
            (config.height, config.width),
            self.device,
            self.dtype,
        )
        plain = self.call
        call: Callable[..., Tensor] = plain
        if cache_text:
            embedding = self.text.embed("").to(self.dtype).expand(2, -1, -1)
            prepared = tuple(keys_values(attn, embedding) for attn in plain.cross)
            t = torch.zeros(2, dtype=torch.long, device=self.device)
            call = self._recorded(plain, blank(2, *latent), t, embedding, prepared)
        denoiser = UnetDenoiser(
            call,
            plain.cross,
            self.noise,
            self.prediction,
            self.device,
            self.dtype,
            cache_text=cache_text,
            # The plain call is Python: its halves would wait for each other at the interpreter's lock.
            spread=None if isinstance(call, UnetCall) else spread,
        )
        return Stream(config, denoiser, codec, self.text, self.noise, latent, self.device, noise_source)

    def _recorded(self, call: nn.Module, picture: Tensor, *others: Any) -> Callable[..., Tensor]:
        """The back end's form of a call, made once per kind of call and size."""
        key = (type(call).__name__, *picture.shape)
        if key not in self.recordings:
            self.recordings[key] = BACKENDS[self.backend].record(call, (picture, *others))
        return self.recordings[key]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; restore the model folder (git checkout, or download it again)") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); restore the model folder") from None


def _check_weights(folder: Path) -> None:
    """Open every weights file, so that a damaged one is named before anything is built from it."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file; restore the model folder, or convert its .bin weights")
    for path in files:
        try:
            with safe_open(path, framework="pt") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} is damaged ({error}); restore the file (git checkout, or download it again)"
            ) from None


def check_folder(folder: Path) -> None:
    """Raise `ModelError` unless `folder` is a whole diffusers model folder."""
    if not folder.is_dir():
        raise ModelError(f"there is no model folder {folder}; name a folder in the diffusers layout, or 'embedded'")
    for part in PARTS:
        if not (folder / part).is_dir():
            raise ModelError(f"{folder} has no folder {part!r}; it is not a whole model in the diffusers layout")
    for part in ("unet", "vae", "text_encoder"):
        _read_json(folder / part / "config.json")
        _check_weights(folder / part)


def load_model(folder: Path, device: torch.device, dtype: torch.dtype, backend: str | None = None) -> Model:
    """Load a model folder in the diffusers layout from disk; nothing is downloaded.

    backend: key of `core.backend.BACKENDS`, or None for the one that suits the device. Raises `ModelError`, and
    `BackendError` for a back end that cannot be had.
    """
    folder = Path(folder)
    check_folder(folder)
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ModelError(f"prediction_type {prediction!r} is not supported; use one of {', '.join(PREDICTIONS)}")
    kind = _read_json(folder / "vae" / "config.json").get("_class_name", "AutoencoderKL")
    if kind not in _CODECS:
        raise ModelError(f"autoencoder {kind!r} is not supported; use one of {', '.join(_CODECS)}")
    options: dict[str, Any] = {"torch_dtype": dtype, "low_cpu_mem_usage": False, "local_files_only": True}
    try:
        unet = UNet2DConditionModel.from_pretrained(str(folder / "unet"), **options)
        vae = _CODECS[kind][0].from_pretrained(str(folder / "vae"), **options)
        encoder = CLIPTextModel.from_pretrained(str(folder / "text_encoder"), dtype=dtype, local_files_only=True)
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"{folder} cannot be loaded ({str(error).splitlines()[0]}); restore the model folder"
        ) from error
    shapes = (unet.config.in_channels, unet.config.cross_attention_dim)
    if unet.config.addition_embed_type is not None or shapes != (
        vae.config.latent_channels,
        encoder.config.hidden_size,
    ):
        raise ModelError(f"{folder} is not shaped like Stable Diffusion 1.x or 2.x; use a model of that shape")
    try:
        return assemble(folder, unet, vae, encoder, tokenizer, scheduler, device, dtype, backend)
    except ScheduleError as error:
        raise ModelError(f"{folder}: {error}") from None


def assemble(
    folder: Path,
    unet: Any,
    vae: Any,
    encoder: Any,
    tokenizer: Any,
    scheduler: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    backend: str | None = None,
) -> Model:
    """Put parts of `dtype` together: moved to `device`, frozen, given to the back end."""
    backend = pick_backend(device, backend)
    for part in (unet, vae, encoder):
        part.to(device).eval().requires_grad_(False)
    for network in (unet, vae.encoder, vae.decoder):
        BACKENDS[backend].prepare(network)
    return Model(
        folder=folder,
        unet=unet,
        vae=vae,
        text=TextConditioner(tokenizer, encoder, device),
        noise=NoiseSchedule.from_config(scheduler),
        prediction=scheduler.get("prediction_type", "epsilon"),
        device=device,
        dtype=dtype,
        backend=backend,
        call=UnetCall(unet),
    )

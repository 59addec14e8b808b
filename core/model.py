"""A model folder in the diffusers layout, opened and checked; everybody else gets diffusers and transformers from here.

Importing it costs seconds, so it is imported where a model is about to be loaded and nowhere else.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from core.backend import BACKENDS, Call, Execution, executions
from core.codec import Codec, DecodeVae, EncodeKl, EncodeTiny
from core.denoiser import PREDICTIONS, UnetCall, UnetDenoiser, keys_values
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
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
# Settings of a U-Net that wants more than latent, timestep and text: SDXL, unCLIP, upscalers.
_OTHER_INPUTS = (
    "addition_embed_type",
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
)
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
    execution: Execution
    call: UnetCall
    forms: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """The networks as back ends convert them, by back end, kind and size; shared by all that share the weights."""
    calls: dict[tuple[Any, ...], Call] = field(default_factory=dict)
    """The networks as this execution runs them, by kind and size."""

    @property
    def device(self) -> torch.device:
        return self.execution.device

    def run_by(self, execution: Execution) -> Model:
        """The same model run in another way, on the same device. Weights are shared unless they have to be cast; cast
        them from float32 only."""
        if execution.weights_dtype == self.execution.weights_dtype:
            return replace(self, execution=execution, calls={})
        # By torch's own `to`: that of diffusers warns of layers to be kept in float32, of which there are none here.
        unet, vae = (nn.Module.to(copy.deepcopy(part), execution.weights_dtype) for part in (self.unet, self.vae))
        return replace(self, unet=unet, vae=vae, execution=execution, call=UnetCall(unet), forms={}, calls={})

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
    ) -> Stream[Any]:
        """A new stream. Raises `ModelError` when the size does not suit the model."""
        step = self.size_multiple
        if config.width % step or config.height % step or config.width < step or config.height < step:
            raise ModelError(f"size {config.width}x{config.height} does not suit this model: use multiples of {step}")
        rows, columns = config.height // self.latent_scale, config.width // self.latent_scale
        latent = (int(self.unet.config.in_channels), rows, columns)

        def blank(*shape: int) -> Tensor:
            return torch.zeros(shape, device=self.device)

        codec = Codec(
            self.vae.config,
            self._call(_CODECS[type(self.vae).__name__][1](self.vae), blank(1, 3, config.height, config.width)),
            self._call(DecodeVae(self.vae), blank(1, *latent)),
            (config.height, config.width),
            self.device,
        )
        codec.prepare(config.frame_buffer)
        denoiser = self.denoiser(latent, cache_text=cache_text)
        return Stream(config, denoiser, codec, self.text, self.noise, latent, self.device, noise_source)

    def denoiser(self, latent: tuple[int, int, int], *, cache_text: bool = True) -> UnetDenoiser:
        """The U-Net for latents of shape (c, h, w)."""
        dtype = self.execution.weights_dtype
        embedding = self.text.embed("").to(dtype).expand(2, -1, -1)
        prepared = tuple(keys_values(attn, embedding) for attn in self.call.cross) if cache_text else ()
        t = torch.zeros(2, dtype=torch.long, device=self.device)
        call = self._call(self.call, torch.zeros(2, *latent, device=self.device), t, embedding, prepared)
        return UnetDenoiser(
            call, self.call.cross, self.noise, self.prediction, self.device, dtype, cache_text=cache_text
        )

    def _call(self, network: nn.Module, *example: Any) -> Call:
        """The network as the back end runs it, made once per kind of network and size."""
        execution = self.execution
        backend = BACKENDS[execution.backend]
        key = (execution.backend, type(network).__name__, *(tuple(leaf.shape) for leaf in tree_leaves(example)))
        if key not in self.forms:
            self.forms[key] = backend.convert(network, example, execution.store)
        if key not in self.calls:
            self.calls[key] = backend.call(self.forms[key], example, execution)
        return self.calls[key]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; restore the model folder (git checkout, or download it again)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}); restore the model folder") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no settings; restore the model folder")
    return values


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
    _read_json(folder / "scheduler" / "scheduler_config.json")
    # A tokenizer without its words loads as an empty one, and every prompt would mean nothing.
    if not any(all((folder / "tokenizer" / name).is_file() for name in names) for names in _VOCABULARIES):
        raise ModelError(f"{folder / 'tokenizer'} holds no vocabulary; restore the model folder")


# What diffusers, transformers and the parsers below them raise for files that are whole but do not make sense.
_SENSELESS = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    StrictDataclassError,
)


def _part(folder: Path, kind: Any, **options: Any) -> Any:
    """One part by its class's own loader. Raises `ModelError`."""
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except _SENSELESS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{folder} cannot be loaded ({reason}); restore the model folder") from error


def _network(folder: Path, kind: Any, **options: Any) -> Any:
    """One network with every weight from its files: the loaders fill what is missing with random values."""
    network, report = _part(folder, kind, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    wrong = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    if wrong:
        raise ModelError(
            f"{folder}: {len(wrong)} of the weights that its config.json asks for are missing or of another shape"
            f" ({wrong[0]}); restore the model folder"
        )
    if not all(bool(weight.isfinite().all()) for weight in network.state_dict().values()):
        raise ModelError(f"{folder}: the weights hold values that are no numbers; restore the model folder")
    return network


def _check_shape(folder: Path, unet: Any, vae: Any, encoder: Any, tokenizer: Any) -> None:
    """Raise `ModelError` for parts that this project cannot run, or that do not belong together."""
    config = unet.config
    fits = (
        config.in_channels == config.out_channels == vae.config.latent_channels
        and config.cross_attention_dim == encoder.config.hidden_size
        and len(tokenizer) <= encoder.config.vocab_size
        and isinstance(tokenizer.model_max_length, int)
        and isinstance(config.sample_size, int)
    )
    if not fits or any(config[name] is not None for name in _OTHER_INPUTS):
        raise ModelError(f"{folder} is not shaped like Stable Diffusion 1.x or 2.x; use a model of that shape")
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor
    if not isinstance(scale, (int, float)) or not scale > 0 or not isinstance(shift, (int, float, type(None))):
        raise ModelError(f"{folder / 'vae'}: scaling_factor {scale!r}, shift_factor {shift!r} are no scale; restore it")


def load_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
    *,
    store: Path | None = None,
) -> Model:
    """Load a model folder in the diffusers layout from disk; nothing is downloaded.

    dtype, backend, store: see `core.backend.executions`; the first of them is taken. Raises `ModelError`, and
    `BackendError` for what cannot be had.
    """
    execution = executions(device, backend, dtype, store=store)[0]
    folder = Path(folder)
    check_folder(folder)
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in tuple(PREDICTIONS):
        raise ModelError(f"prediction_type {prediction!r} is not supported; use one of {', '.join(PREDICTIONS)}")
    kind = _read_json(folder / "vae" / "config.json").get("_class_name", "AutoencoderKL")
    if kind not in tuple(_CODECS):
        raise ModelError(f"autoencoder {kind!r} is not supported; use one of {', '.join(_CODECS)}")
    weights_dtype = execution.weights_dtype
    unet = _network(folder / "unet", UNet2DConditionModel, torch_dtype=weights_dtype, low_cpu_mem_usage=False)
    vae = _network(folder / "vae", _CODECS[kind][0], torch_dtype=weights_dtype, low_cpu_mem_usage=False)
    encoder = _network(folder / "text_encoder", CLIPTextModel, dtype=weights_dtype)
    tokenizer = _part(folder / "tokenizer", CLIPTokenizer)
    _check_shape(folder, unet, vae, encoder, tokenizer)
    try:
        return assemble(folder, unet, vae, encoder, tokenizer, scheduler, execution)
    except ScheduleError as error:
        raise ModelError(f"{folder}: {error}") from None


def assemble(
    folder: Path,
    unet: Any,
    vae: Any,
    encoder: Any,
    tokenizer: Any,
    scheduler: dict[str, Any],
    execution: Execution,
) -> Model:
    """Put parts of the execution's `weights_dtype` together: moved to its device, frozen.

    scheduler: what scheduler_config.json holds. Raises `ScheduleError`.
    """
    for part in (unet, vae, encoder):
        part.to(execution.device).eval().requires_grad_(False)
    return Model(
        folder=folder,
        unet=unet,
        vae=vae,
        text=TextConditioner(tokenizer, encoder, execution.device),
        noise=NoiseSchedule.from_config(scheduler),
        prediction=scheduler.get("prediction_type", "epsilon"),
        execution=execution,
        call=UnetCall(unet),
    )

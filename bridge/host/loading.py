"""Models from disk, each in the fastest way that was asked for; hosts that want the same one share it."""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bridge.host.config import HostConfig, HostError
from bridge.host.converting import Converter
from core.params import AS_STARTED, CONTROL_SOURCES, MAX_CONTROLS, MAX_LORAS, Params, size_of
from core.words import Words


@dataclass(frozen=True)
class Loaded:
    """A model (`core.model.Model`, or what stands in its place), whether its stages are to overlap, and in words what
    it runs on. torch_threads: CPU threads of torch's own operations, None where it has none. card: the CUDA device,
    None on any other. words: those that the model knows, where it says so. plain: a form of the model that is ready at
    once, where this one takes tens of seconds to be built. execution: of the model, None where it has none."""

    model: Any
    overlap: bool
    device_name: str
    dtype_name: str
    backend_name: str
    torch_threads: int | None = None
    card: Any = None
    words: Words | None = None
    plain: Any = None
    execution: Any = None


class Models:
    """Loads models. Hosts that are given the same object and want the same model, run in the same way at the same
    size, share one copy of its weights, which goes with the last of them. May be called by several threads; one loads
    at a time.

    channels: how many hosts there will be. On a card their calls of a network are answered together
    (`bridge.host.shared_call`); on a processor, which takes as long for the rows of two channels in one call as in two,
    they are not. together: overrides that."""

    preparing = threading.Lock()
    """Of `core.backend.Locks`, for all models of the process."""

    def __init__(self, channels: int = 1, together: bool | None = None) -> None:
        self._channels = channels
        self._together = together
        self.converter = Converter()
        self._loaded: weakref.WeakValueDictionary[HostConfig, Loaded] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def load(self, config: HostConfig, params: Params, beside: Any = None) -> Loaded:
        """The model for a host. params: what it is measured with, where something has to be. beside: the `Execution`
        of the model that paints meanwhile. Raises `HostError`."""
        key = replace(config, channel="", directory=None, models_folder=None, loras_folder=None, controls_folder=None)
        with self._lock:
            loaded = self._loaded.get(key)
            if loaded is None:
                loaded = self._loaded[key] = self._shared(_load(config, params, self.converter, beside), config)
            return loaded

    def _shared(self, loaded: Loaded, config: HostConfig) -> Loaded:
        if self._channels == 1 or config.model == "passthrough":
            return loaded
        if loaded.card is None and config.overlap is None and self._channels >= (os.cpu_count() or 1):
            # Other channels' stages fill the cores already; more threads would only wait longer for one.
            loaded = replace(loaded, overlap=False)
        if self._together if self._together is not None else loaded.card is not None:
            from bridge.host.shared_call import SharedCall

            shared = partial(SharedCall, callers=self._channels)
            model, plain = (
                None if form is None else form.run_by(replace(form.execution, shared=shared))
                for form in (loaded.model, loaded.plain)
            )
            loaded = replace(loaded, model=model, plain=plain)
        return loaded


def check(config: HostConfig) -> None:
    """What can be told of a host's settings before anything is loaded. Raises `HostError` for a model that is none, and
    for a device, dtype or back end that is not available: only where one is asked for by name, as that takes torch."""
    for option in ("models", "loras", "controls"):
        folder = getattr(config, f"{option}_folder")
        if folder is not None and not folder.is_dir():
            raise HostError(f"--{option} {folder}: there is no such folder")
    if len(config.loras) > MAX_LORAS:
        raise HostError(f"{len(config.loras)} LoRAs are given; {MAX_LORAS} at once is the most")
    for path in config.loras:
        if path is not None and not path.exists():
            raise HostError(f"there is no LoRA file {path}; give a .safetensors file")
    if len(config.controls) > MAX_CONTROLS:
        raise HostError(f"{len(config.controls)} ControlNets are given; {MAX_CONTROLS} at once is the most")
    for source, folder in config.controls:
        if source not in CONTROL_SOURCES:
            raise HostError(f"{source!r} is no picture for a ControlNet; use one of {', '.join(CONTROL_SOURCES)}")
        if not folder.is_dir():
            raise HostError(f"there is no folder {folder} of a ControlNet; give one in the diffusers layout")
    _check_additions(config)
    if config.model == "passthrough":
        if config.controls:
            raise HostError("passthrough has no model that a ControlNet could steer; give --model too")
        if any(config.loras):
            raise HostError("passthrough has no model that a LoRA could change; give --model too, or leave out --lora")
        if config.adapter is not None or config.embeddings:
            raise HostError("passthrough has no model that reads pictures or words; give --model too")
        return
    from core.families.folders import check_folder
    from core.folder import ModelError
    from core.hub import located

    try:
        if config.model != "embedded":
            check_folder(located(str(config.model)), config.prediction)
    except ModelError as error:
        raise HostError(str(error)) from None
    if any(name not in (None, "auto") for name in (config.device, config.dtype, config.backend)):
        _ways(config)


def _check_additions(config: HostConfig) -> None:
    from core.references import PictureError, named, read

    for path in config.embeddings:
        if not path.is_file():
            raise HostError(f"there is no embedding file {path}; give a .safetensors file")
    if config.adapter is None:
        if config.references:
            raise HostError("reference pictures are read by an IP-Adapter; give --ip-adapter too")
        return
    if not config.adapter.exists():
        raise HostError(f"there is no IP-Adapter {config.adapter}; give its .safetensors file, or its folder")
    for path in config.references:
        if not path.exists():
            raise HostError(f"there is no picture {path}; give a file, or a folder of pictures")
    first = named(config.references)[AS_STARTED]
    try:
        if first is not None:
            read(first)
    except PictureError as error:
        raise HostError(str(error)) from None


def _ways(config: HostConfig, converter: Converter | None = None) -> tuple[Any, list[Any]]:
    """The device, and the executions on it to choose from. Raises `HostError`."""
    from core.backend import BackendError, executions
    from core.device import DeviceError, dtype_called, pick_device

    store = None if config.cache is None else config.cache / "networks"
    try:
        device = pick_device(config.device)
        dtype = dtype_called(config.dtype)
        return device, executions(
            device, config.backend, dtype, threads=config.threads, store=store, elsewhere=converter
        )
    except (DeviceError, BackendError) as error:
        raise HostError(str(error)) from None


def _load(config: HostConfig, params: Params, converter: Converter, beside: Any) -> Loaded:
    if config.model == "passthrough":
        from core.passthrough import PassthroughModel

        return Loaded(PassthroughModel(), config.overlap is not False, "none", "uint8", "passthrough")
    import torch

    from bridge.host import tuning
    from core.backend import BACKENDS, BackendError, Locks
    from core.device import dtype_name
    from core.folder import read_words
    from core.hub import located
    from core.model import ModelError, load_model
    from core.tiny import WEIGHTS
    from core.tiny.vocabulary import words_of

    everything = tuning.default_threads()
    folder = WEIGHTS if config.model == "embedded" else located(str(config.model))
    device, ways = _ways(config, converter)
    names = ("prediction", "loras", "controls", "adapter", "references", "kept_references", "embeddings")
    given: dict[str, Any] = {name: getattr(config, name) for name in names}
    try:
        words = words_of(folder) if config.model == "embedded" else read_words(folder)
        if device.type == "cpu":
            # What is measured may differ in dtype: cast from float32, whichever wins.
            model = load_model(folder, device, torch.float32, "eager", **given)
            size = size_of(params.size) or config.size or (model.native_size, model.native_size)
            tuned = tuning.tune(
                model,
                ways,
                model.near(*size),
                params,
                tuning.Cache(None if config.cache is None else config.cache / "tuning.json"),
                overlap=config.overlap,
                threads=config.threads,
                beside=beside,
            )
            model, overlap = tuned.model, tuned.overlap
        else:
            # Pictures of one size come again and again: worth the moment that looking for the fastest algorithm takes.
            torch.backends.cudnn.benchmark = device.type == "cuda"
            way = _built_on_card(device, config) or ways[0]
            model = load_model(folder, device, way.dtype, way.backend, **given)
            # Hosts that share the model call it from threads of their own.
            model = model.run_by(replace(model.execution, locks=Locks(threading.Lock, Models.preparing)))
            overlap = config.overlap is not False
    except (ModelError, BackendError) as error:
        raise HostError(str(error)) from None
    execution = model.execution
    plain = BACKENDS[execution.backend].plain
    return Loaded(
        model,
        overlap,
        str(device),
        dtype_name(execution.dtype),
        execution.backend,
        execution.torch_threads(everything),
        device if device.type == "cuda" else None,
        words,
        # Lossless, no frame may be lost in the change from one to the other.
        None if plain is None or config.lossless else model.run_by(replace(execution, backend=plain)),
        execution,
    )


def _built_on_card(device: Any, config: HostConfig) -> Any:
    """The fastest execution of a CUDA card, whose plain form plays while it is being built; None where another one is
    asked for, and where there is no Triton to build it."""
    from core.backend import executions
    from core.device import dtype_called

    if device.type != "cuda" or config.backend not in (None, "auto") or config.lossless or not can_compile():
        return None
    return executions(device, "compiled+graphs", dtype_called(config.dtype))[0]


def can_compile() -> bool:
    """Whether torch can compile for the card: Triton is not there on every system."""
    from torch.utils._triton import has_triton

    return has_triton()

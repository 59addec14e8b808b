"""What a host is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class HostError(Exception):
    """The host cannot start or go on; the message says how to fix it."""


@dataclass(frozen=True)
class HostConfig:
    """All that stays while a host runs.

    channel: frames come from CHANNEL.in and go to CHANNEL.out. model: "embedded", "passthrough", a folder in the
    diffusers layout, or a single .safetensors file; prediction: what such a file's U-Net predicts, where the file does
    not say so. loras: files of LoRAs that change it, None for a weight without one. controls: folders of ControlNets,
    each with what it is shown. adapter: file or folder of an IP-Adapter, or None; references: files and folders of the
    pictures that it may be shown; kept_references: a folder of those that come while the host runs, or None.
    embeddings: files of words by textual inversion. size: (width, height) in pixels to work at; None follows the
    frames' aspect at the model's own area. device, dtype: see `core.device`. backend: see `core.backend`. lossless:
    take every frame and publish every result, waiting for both sides. overlap: False is the serial twin. threads: CPU
    threads of one network call. What of backend, dtype, overlap and threads is None is measured on a CPU
    (`bridge.host.tuning`). models_folder, loras_folder, controls_folder: with further models, LoRAs and ControlNets to
    change to while the host runs (`bridge.host.choice`), or None. cache: a folder for what one start leaves to the
    next, or None. directory: a folder for file-backed rings.
    """

    channel: str
    model: str | Path = "embedded"
    size: tuple[int, int] | None = None
    device: str | None = None
    dtype: str | None = None
    backend: str | None = None
    lossless: bool = False
    overlap: bool | None = None
    threads: int | None = None
    models_folder: Path | None = None
    loras_folder: Path | None = None
    controls_folder: Path | None = None
    cache: Path | None = None
    directory: str | None = None
    prediction: str | None = None
    loras: tuple[Path | None, ...] = ()
    controls: tuple[tuple[str, Path], ...] = ()
    adapter: Path | None = None
    references: tuple[Path, ...] = ()
    kept_references: Path | None = None
    embeddings: tuple[Path, ...] = ()

    @property
    def lora_names(self) -> list[str]:
        """What people call the LoRAs, in their order; "" for a weight without one."""
        return ["" if path is None else path.stem for path in self.loras]

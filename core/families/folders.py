"""The model families as folders: which is whose, and whether it is whole. Nothing is loaded, and no library that loads
anything, so that a mistake is told at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.families.settings import AUTOENCODERS, SCHEDULER, TEXT_ENCODER, UNET, UNET_XL, Settings, check_settings
from core.folder import ModelError, check_weights, read_json
from core.layouts import refuse_other_layouts

_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


@dataclass(frozen=True)
class FamilyFolder:
    """module: where the family's `FAMILY` is. claims(folder): whether a folder is of this family. unet: the settings
    that its U-Net may have. encoders: the folders of the text encoders, each with that of its tokenizer."""

    module: str
    claims: Callable[[Path], bool]
    unet: Settings
    encoders: Mapping[str, str]

    def check(self, folder: Path) -> None:
        """Raise `ModelError` unless `folder` is a whole diffusers model folder of this family."""
        for name in ("unet", "vae", *self.encoders, *self.encoders.values(), "scheduler"):
            if not (folder / name).is_dir():
                raise ModelError(f"{folder} has no folder {name!r}; it is not a whole model in the diffusers layout")
        for name, settings in (("unet", self.unet), ("vae", None), *((name, TEXT_ENCODER) for name in self.encoders)):
            path = folder / name / "config.json"
            config = read_json(path)
            check_settings(path, config, settings or _settings_of_autoencoder(config))
            check_weights(folder / name)
        path = folder / "scheduler" / "scheduler_config.json"
        check_settings(path, read_json(path), SCHEDULER)
        # A tokenizer without its words loads as an empty one, and every prompt would mean nothing.
        for tokenizer in self.encoders.values():
            if not any(all((folder / tokenizer / name).is_file() for name in names) for names in _VOCABULARIES):
                raise ModelError(f"{folder / tokenizer} holds no vocabulary; restore the model folder")


def _settings_of_autoencoder(config: dict[str, Any]) -> Settings:
    """The settings that the kind of autoencoder may have. Raises `ModelError` for a kind that is not supported."""
    kind = config.get("_class_name", "AutoencoderKL")
    if kind not in tuple(AUTOENCODERS):
        raise ModelError(f"autoencoder {kind!r} is not supported; use one of {', '.join(AUTOENCODERS)}")
    return AUTOENCODERS[kind]


FOLDERS: Mapping[str, FamilyFolder] = {
    "stable-diffusion-xl": FamilyFolder(
        "core.families.stable_diffusion_xl",
        lambda folder: (folder / "text_encoder_2").is_dir(),
        UNET_XL,
        {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    ),
    "stable-diffusion": FamilyFolder(
        "core.families.stable_diffusion", lambda folder: True, UNET, {"text_encoder": "tokenizer"}
    ),
}
"""Every family. The first that claims a folder has it; the last one claims any."""


def family_name_of(folder: Path) -> str:
    """The family that a model folder belongs to, by its name in `FOLDERS`."""
    return next(name for name, family in FOLDERS.items() if family.claims(folder))


def check_folder(folder: Path, prediction: str | None = None) -> None:
    """Raise `ModelError` unless `folder` is a whole model of one of the families, or such a model in a single file.

    prediction: what its U-Net predicts, for a file that does not say so.
    """
    refuse_other_layouts(folder)
    if folder.is_file():
        from core.families import single_file  # and with it the libraries that convert one

        single_file.check(folder, prediction)
    elif prediction is not None:
        raise ModelError(f"{folder} is a folder, which says itself what its model predicts; leave out --prediction")
    else:
        FOLDERS[family_name_of(folder)].check(folder)

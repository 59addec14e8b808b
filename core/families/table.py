"""The model families, one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from core.families import stable_diffusion, stable_diffusion_xl
from core.families.family import Family
from core.families.folders import family_folder_of

FAMILIES: Mapping[str, Family] = {
    "stable-diffusion-xl": stable_diffusion_xl.FAMILY,
    "stable-diffusion": stable_diffusion.FAMILY,
}


def family_of(folder: Path) -> Family:
    """The family of a model folder."""
    found = family_folder_of(folder)
    return next(family for family in FAMILIES.values() if family.folder is found)

"""The model families, one table: a file and a line each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from core.families import stable_diffusion, stable_diffusion_xl
from core.families.family import Family

FAMILIES: Mapping[str, Family] = {
    "stable-diffusion-xl": stable_diffusion_xl.FAMILY,
    "stable-diffusion": stable_diffusion.FAMILY,
}
"""The first that claims a folder has it; the last one claims any."""


def family_of(folder: Path) -> Family:
    """The family of a model folder."""
    return next(family for family in FAMILIES.values() if family.claims(folder))

"""The model families of `folders.FOLDERS`, loaded: importing this imports the libraries that they need."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from core.families.family import Family
from core.families.folders import FOLDERS, family_name_of

FAMILIES: Mapping[str, Family] = {
    name: importlib.import_module(folder.module).FAMILY for name, folder in FOLDERS.items()
}


def family_of(folder: Path) -> Family:
    """The family of a model folder."""
    return FAMILIES[family_name_of(folder)]

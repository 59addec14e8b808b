"""Loads the component's code from this checkout, as the files are now. Run by the extension DAT that `build.py` writes.

TouchDesigner's Python lives as long as TouchDesigner. So modules of an earlier build are not reused, compiled files are
neither read nor written, nothing is left on the module path, and modules of the same names that belong to the project
stay what they are for everybody else.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
_NAMES = ("frameloom_td", "bridge", "core")


def fresh(name: str) -> ModuleType:
    """Import one of our modules, with all of ours that it needs, anew."""

    def ours() -> list[str]:
        return [module for module in sys.modules if module.partition(".")[0] in _NAMES]

    aside = {module: sys.modules.pop(module) for module in ours()}
    before = sys.path[:], sys.dont_write_bytecode, sys.pycache_prefix
    sys.path[:0] = [str(HERE), str(CHECKOUT)]
    # A folder that does not exist: what was compiled on another day is not found.
    sys.dont_write_bytecode, sys.pycache_prefix = True, str(HERE / "no-cache")
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:], sys.dont_write_bytecode, sys.pycache_prefix = before
        for module in ours():
            del sys.modules[module]
        sys.modules.update(aside)


def start(comp: Any) -> Any:
    """The extension object for a component."""
    return fresh("frameloom_td.component").FrameloomExt(comp, CHECKOUT)

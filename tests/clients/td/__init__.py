"""A stand-in for TouchDesigner's `td` module, for tests without TouchDesigner.

It does what the documentation (docs.derivative.ca, build 2025.32280) says of the few operators and members that the
component needs, and refuses everything else: an attribute that is not written here raises `Undocumented`, and so do
uses that the documentation warns of (touching operators from another thread, filling a Script operator outside its
cook). Where the documentation is silent the stand-in is strict: arrays from `numpyArray` cannot be written to and turn
to garbage at the next call, `copyNumpyArray` wants a contiguous writable array.

What tests do to it begins with an underscore: `_reset`, `_frames`, `_source`, `_paint`.
"""

from __future__ import annotations

import tempfile
from typing import Any

from tests.clients.td.operators import (
    COMP,
    Undocumented,
    baseCOMP,
    constantTOP,
    executeDAT,
    inTOP,
    outCHOP,
    outTOP,
    parameterexecuteDAT,
    scriptCHOP,
    scriptTOP,
    tdError,
    textDAT,
    world,
)
from tests.clients.td.parameters import ParMode

__all__ = [
    "ParMode",
    "baseCOMP",
    "constantTOP",
    "executeDAT",
    "inTOP",
    "outCHOP",
    "outTOP",
    "parameterexecuteDAT",
    "scriptCHOP",
    "scriptTOP",
    "tdError",
    "textDAT",
]


class _AbsTime:
    """absTime."""

    @property
    def frame(self) -> float:
        return float(world.frame)

    @property
    def seconds(self) -> float:
        return world.frame / 60.0


class _App:
    """app."""

    binFolder = "/opt/touchdesigner/bin"


class _Project:
    """project."""

    folder = tempfile.gettempdir()


absTime = _AbsTime()
app = _App()
project = _Project()


def op(path: str) -> Any:
    """The operator at an absolute path, or None."""
    return world.root.op(path)


def __getattr__(name: str) -> Any:
    if name == "root":
        return world.root
    raise Undocumented(f"td.{name} is not known to the stand-in")


def _reset(folder: str) -> None:
    """An empty project with /project1, saved in `folder`."""
    world.reset({"absTime": absTime, "app": app, "project": project})
    project.folder = folder
    world.root.create(baseCOMP, "project1")


def _frames(count: int = 1) -> None:
    """Let so many frames pass."""
    for _ in range(count):
        world.pass_frame()


def _exit() -> None:
    """TouchDesigner quits."""
    world.call_execute_dats("exit", "onExit")


def _source(parent: COMP, name: str = "source") -> Any:
    """A TOP whose picture the test sets by `_paint`."""
    return parent.create(constantTOP, name)


def _paint(top: Any, pixels: Any, pixel_format: str = "rgba8fixed") -> None:
    """Give a `_source` its picture: float32 (height, width, 4), bottom row first."""
    top._picture = pixels
    top._format = pixel_format

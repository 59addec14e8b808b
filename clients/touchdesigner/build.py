"""Builds the frameloom component, or renews it in place, parameters and wires kept. In TouchDesigner's textport:

    import runpy; _ = runpy.run_path(r'CHECKOUT/clients/touchdesigner/build.py')

CHECKOUT is the folder that frameloom was cloned into. The component appears in /project1 (or at the root); give
`runpy.run_path(path, {'into': op('/somewhere')})` for another place. Nothing is installed into TouchDesigner's Python.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import td

HERE = Path(__file__).resolve().parent
NAME = "frameloom"

# What lives inside the component is only this; everything else stays in the checkout.
EXTENSION = '''\
import os
import runpy
import sys


class FrameloomExt:
    """Stands in when the code cannot be loaded: says why, and does nothing."""

    def __init__(self, comp, why):
        self.comp = comp
        comp.par.Status = why

    def FrameStart(self):
        pass

    def FrameEnd(self):
        pass

    def CookOutput(self, script):
        pass

    def CookInfo(self, script):
        script.clear()

    def ParChanged(self, par):
        if par.name == 'Checkout':
            self.comp.par.reinitextensions.pulse()

    def ParPulsed(self, par):
        pass

    def Close(self):
        pass


def make(comp):
    path = os.path.join(comp.par.Checkout.eval(), 'clients', 'touchdesigner', 'load.py')
    if sys.version_info < (3, 11):
        return FrameloomExt(comp, 'this needs TouchDesigner 2023 or newer (Python 3.11)')
    if not os.path.isfile(path):
        return FrameloomExt(comp, 'checkout not found: set Checkout to the folder that frameloom was cloned into')
    try:
        return runpy.run_path(path)['start'](comp)
    except Exception as error:
        # Whatever it is: without an extension every callback would fail, sixty times a second.
        return FrameloomExt(comp, f'the checkout is damaged or of another version: {type(error).__name__}: {error}')
'''

FRAMES = """\
def onFrameStart(frame):
    parent().ext.FrameloomExt.FrameStart()


def onFrameEnd(frame):
    parent().ext.FrameloomExt.FrameEnd()


def onExit():
    parent().ext.FrameloomExt.Close()
"""

PARAMETERS = """\
def onValueChange(par, prev=None, older=None):  # older builds call it with (par, val, prev)
    parent().ext.FrameloomExt.ParChanged(par)


def onPulse(par):
    parent().ext.FrameloomExt.ParPulsed(par)
"""

PICTURE = """\
def onCook(scriptOp):
    parent().ext.FrameloomExt.CookOutput(scriptOp)
"""

INFO = """\
def onCook(scriptOp):
    parent().ext.FrameloomExt.CookInfo(scriptOp)
"""

_PLACES = {
    "in1": (0, 0),
    "picture": (200, 0),
    "out1": (400, 0),
    "info": (200, -150),
    "out2": (400, -150),
    "ext": (0, -300),
    "frames": (200, -300),
    "parameters": (400, -300),
    "picture_callbacks": (200, -450),
    "info_callbacks": (400, -450),
}


def build(into: Any) -> Any:
    """Build the component inside a COMP; returns it. One that is there already is renewed."""
    comp = into.op(NAME) or into.create(td.baseCOMP, NAME)
    for extension in comp.extensions:
        # The code that runs now lets go of rings, sockets and its host before other code takes its place. One that
        # failed to load stands there as None, or as something without a Close.
        close = getattr(extension, "Close", None)
        try:
            if close is not None:
                close()
        except Exception as error:
            print(f"frameloom: the code that ran until now did not end well ({error}); the new one takes its place")
    parameters = runpy.run_path(str(HERE / "load.py"))["fresh"]("frameloom_td.parameters")
    parameters.add_pages(comp, td.ParMode)
    comp.par.Checkout = str(HERE.parents[1])

    for name, style in (("in1", td.inTOP), ("picture", td.scriptTOP), ("out1", td.outTOP)):
        _child(comp, name, style)
    for name, style in (("info", td.scriptCHOP), ("out2", td.outCHOP)):
        _child(comp, name, style)
    comp.op("out1").inputConnectors[0].connect(comp.op("picture"))
    comp.op("out2").inputConnectors[0].connect(comp.op("info"))
    comp.op("picture").par.outputresolution = "custom"

    for name, text in (("ext", EXTENSION), ("picture_callbacks", PICTURE), ("info_callbacks", INFO)):
        _child(comp, name, td.textDAT).text = text
    for name in ("picture", "info"):
        comp.op(name).par.callbacks = f"{name}_callbacks"

    frames = _child(comp, "frames", td.executeDAT)
    frames.text = FRAMES
    frames.par.framestart = frames.par.frameend = frames.par.exit = True
    watch = _child(comp, "parameters", td.parameterexecuteDAT)
    watch.text = PARAMETERS
    watch.par.op = ".."
    watch.par.pars = " ".join(par.name for par in comp.customPars if par.name != parameters.STATUS)
    watch.par.valuechange = watch.par.onpulse = watch.par.custom = True
    watch.par.builtin = False

    comp.seq.ext.numBlocks = 1
    comp.par.ext0object = "op('./ext').module.make(me)"
    comp.par.ext0promote = True
    comp.initializeExtensions()
    comp.par.opviewer = "./out1"
    comp.viewer = True
    return comp


def _child(comp: Any, name: str, style: Any) -> Any:
    child = comp.op(name)
    if child is None:
        child = comp.create(style, name)
        # TouchDesigner docks a DAT with empty callbacks to a new Script operator; ours are written below.
        for docked in child.docked:
            docked.destroy()
        child.nodeX, child.nodeY = _PLACES[name]
    return child


if __name__ == "<run_path>":
    built = build(globals().get("into") or td.op("/project1") or td.root)
    print(f"frameloom: built {built.path}; connect a TOP to it and pulse Start Host")

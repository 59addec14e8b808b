"""Operators of the stand-in and the world that they live in: networks, cooking, callbacks, extensions."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.clients.td.parameters import Page, Par, ParCollection, Strict, Undocumented

FORMATS = ("useinput", "rgba8fixed", "srgba8fixed", "rgba16float", "rgba32float")


class tdError(Exception):
    """An operator that is no more, or a path that leads nowhere."""


class World:
    """One running TouchDesigner: its root, its frame number, what waits for the next step of a frame."""

    def __init__(self) -> None:
        self.reset({})

    def reset(self, names: dict[str, Any]) -> None:
        """An empty root. names: what DAT scripts and expressions see beside op, parent and me."""
        self.frame = 0
        self.names = names
        self.changes: list[tuple[Par, Any]] = []
        self.started: list[Any] = []
        self.stalls = 0
        self.older = False
        """An older build: three arguments of onValueChange, no pixelFormatName."""
        self.root: Any = baseCOMP(None, "")

    def everywhere(self, top: Any = None) -> Iterator[Any]:
        """All operators, in alphanumeric order."""
        for _, child in sorted((self.root if top is None else top)._children.items()):
            yield child
            yield from self.everywhere(child)

    def pass_frame(self) -> None:
        """One frame: start callbacks, changed parameters, end callbacks."""
        self.frame += 1
        self.call_execute_dats("framestart", "onFrameStart", self.frame)
        changes, self.changes = self.changes, []
        last = {(id(par._owner), par._name): (par, before) for par, before in reversed(changes)}
        for par, before in reversed(list(last.values())):
            for dat in self._watchers(par, "valuechange"):
                dat.module.onValueChange(par, *([par.eval()] if self.older else []), before)
        self.call_execute_dats("frameend", "onFrameEnd", self.frame)
        started, self.started = self.started, []
        for extension in started:
            if "onInitTD" in dir(extension):
                extension.onInitTD()

    def call_execute_dats(self, condition: str, function: str, *words: Any) -> None:
        """Call what is switched on in all Execute DATs."""
        for dat in list(self.everywhere()):
            if type(dat) is executeDAT and dat.par.active.eval() and dat.par[condition].eval():
                vars(dat.module)[function](*words)

    def pulsed(self, par: Par) -> None:
        """Tell the Parameter Execute DATs."""
        for dat in self._watchers(par, "onpulse"):
            dat.module.onPulse(par)

    def _watchers(self, par: Par, condition: str) -> list[Any]:
        return [
            dat
            for dat in self.everywhere()
            if type(dat) is parameterexecuteDAT
            and dat.par.active.eval()
            and dat.par[condition].eval()
            and dat.par["custom" if par.isCustom else "builtin"].eval()
            and dat._find(dat.par.op.eval()) is par._owner
            and par._name in dat.par.pars.eval().split()
        ]


class Connector(Strict):
    """The end of a wire."""

    def __init__(self, owner: Any, index: int, is_input: bool) -> None:
        self._owner, self._index, self._is_input = owner, index, is_input
        self._connections: list[Connector] = []

    @property
    def owner(self) -> Any:
        return self._owner

    @property
    def index(self) -> int:
        return self._index

    @property
    def connections(self) -> list[Connector]:
        return list(self._connections)

    def connect(self, target: Any) -> None:
        if not isinstance(target, Connector):
            target = (target.outputConnectors if self._is_input else target.inputConnectors)[0]
        ours, theirs = (self, target) if self._is_input else (target, self)
        assert ours._is_input and not theirs._is_input, "a wire goes from an output to an input"
        ours.disconnect()
        ours._connections.append(theirs)
        theirs._connections.append(ours)

    def disconnect(self) -> None:
        for other in self._connections:
            other._connections.remove(self)
        self._connections.clear()


class Ext(Strict):
    """op.ext: looks for an extension here and further up."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        at = self._owner
        while at is not None:
            for extension in at._extensions:
                if type(extension).__name__ == name:
                    return extension
            at = at._parent
        raise Undocumented(f"no extension {name} here or above")


class OP(Strict):
    """What all operators have in common. `_builtin` lists (name, style, default, menu) of the parameters."""

    _builtin: tuple[tuple[Any, ...], ...] = ()
    _input_count = 0

    def __init__(self, parent: Any, name: str) -> None:
        self._parent, self._name = parent, name
        self._children: dict[str, Any] = {}
        self._extensions: list[Any] = []
        self._docked: list[Any] = []
        self._valid = True
        self._cooking = False
        self._cooks = 0
        self._pars = {b[0]: Par(self, *b) for b in self._builtin}
        self._place = [0, 0]
        self._viewer = False
        self._inputs = [Connector(self, i, True) for i in range(self._input_count)]
        self._outputs = [Connector(self, 0, False)]

    def __getattribute__(self, name: str) -> Any:
        if name[:1] != "_" and name != "valid" and not self._valid:
            raise tdError(f"the operator {self._name} has been deleted")
        return super().__getattribute__(name)

    @property
    def valid(self) -> bool:
        return self._valid

    @property
    def name(self) -> str:
        return self._name

    @property
    def path(self) -> str:
        return "/" if self._parent is None else self._parent.path.rstrip("/") + "/" + self._name

    @property
    def par(self) -> ParCollection:
        return ParCollection(self._pars)

    @property
    def customPars(self) -> list[Par]:
        return [par for par in self._pars.values() if par._custom]

    @property
    def ext(self) -> Ext:
        return Ext(self)

    @property
    def docked(self) -> list[Any]:
        return list(self._docked)

    @property
    def inputConnectors(self) -> list[Connector]:
        return self._inputs

    @property
    def outputConnectors(self) -> list[Connector]:
        return self._outputs

    @property
    def inputs(self) -> list[Any]:
        return [c._connections[0]._owner for c in self.inputConnectors if c._connections]

    @property
    def isTOP(self) -> bool:
        return isinstance(self, TOP)

    @property
    def isCOMP(self) -> bool:
        return isinstance(self, COMP)

    @property
    def totalCooks(self) -> int:
        return self._cooks

    @property
    def nodeX(self) -> int:
        return self._place[0]

    @nodeX.setter
    def nodeX(self, x: int) -> None:
        self._place[0] = x

    @property
    def nodeY(self) -> int:
        return self._place[1]

    @nodeY.setter
    def nodeY(self, y: int) -> None:
        self._place[1] = y

    @property
    def viewer(self) -> bool:
        return self._viewer

    @viewer.setter
    def viewer(self, on: bool) -> None:
        self._viewer = on

    def op(self, path: str) -> Any:
        return self._find(path)

    def _find(self, path: str) -> Any:
        at: Any = world.root if path.startswith("/") else self
        for part in path.strip("/").split("/"):
            if part == "..":
                at = at._parent
            elif part not in (".", ""):
                at = at._children.get(part)
            if at is None:
                return None
        return at

    def parent(self, levels: int = 1) -> Any:
        at = self
        for _ in range(levels):
            at = at._parent
        return at

    def cook(self, force: bool = False) -> None:
        if force:
            self._cook()

    def _cook(self) -> None:
        self._cooks += 1

    def destroy(self) -> None:
        for child in list(self._children.values()):
            child.destroy()
        for connector in (*self._inputs, *self._outputs):
            connector.disconnect()
        del self._parent._children[self._name]
        self._valid = False

    def _changed(self, par: Par, before: Any) -> None:
        if self._valid:
            world.changes.append((par, before))

    def _pulsed(self, par: Par) -> None:
        world.pulsed(par)

    def _scope(self) -> dict[str, Any]:
        """What a script or expression of this operator sees."""
        return {**world.names, "me": self, "op": self._relative, "parent": self.parent}

    def _relative(self, path: str) -> Any:
        return self._find(path) if path.startswith(("./", "../", "/")) else self._parent._find(path)


class DAT(OP):
    """Text, and its functions."""

    def __init__(self, parent: Any, name: str) -> None:
        super().__init__(parent, name)
        self._text = ""
        self._module: tuple[str, types.ModuleType] | None = None

    @property
    def text(self) -> str:
        return self._text

    @text.setter
    def text(self, text: str) -> None:
        self._text = text

    @property
    def module(self) -> types.ModuleType:
        if self._module is None or self._module[0] != self._text:
            module = types.ModuleType(self._name)
            vars(module).update(self._scope())
            exec(compile(self._text, self.path, "exec"), vars(module))
            self._module = self._text, module
        return self._module[1]


class textDAT(DAT):
    """Text DAT."""


class executeDAT(DAT):
    """Execute DAT."""

    _builtin = (
        ("active", "Toggle", True),
        *((name, "Toggle", False) for name in ("start", "create", "exit", "framestart", "frameend")),
    )


class parameterexecuteDAT(DAT):
    """Parameter Execute DAT."""

    _builtin = (
        ("active", "Toggle", True),
        ("op", "Str", ""),
        ("pars", "Str", "*"),
        *((name, "Toggle", name == "valuechange") for name in ("valuechange", "valueschanged", "onpulse")),
        ("custom", "Toggle", True),
        ("builtin", "Toggle", True),
    )


class TOP(OP):
    """An image; row 0 of its arrays is the bottom one."""

    _builtin: tuple[tuple[Any, ...], ...] = (
        ("format", "Menu", "useinput", list(FORMATS)),
        ("outputresolution", "Menu", "useinput", ["useinput", "custom"]),
        ("resolutionw", "Int", 128),
        ("resolutionh", "Int", 128),
    )

    def __init__(self, parent: Any, name: str) -> None:
        super().__init__(parent, name)
        self._picture = np.zeros((128, 128, 4), np.float32)
        self._format = "rgba8fixed"
        self._waiting: Any = None
        self._given: Any = None
        self._nothing_for = 0
        self._downloads: list[bool] = []
        self._kept: Any = (None, "", None)

    def _image(self) -> Any:
        return self._picture

    def _stored(self) -> Any:
        """The image as the TOP's own pixel format holds it."""
        image, kind = self._image(), self._format_in_force()
        if self._kept[0] is not image or self._kept[1] != kind:
            stored = image
            if kind.endswith("8fixed") and image.size:
                stored = np.rint(np.nan_to_num(image, nan=0.0).clip(0, 1) * 255) / np.float32(255)
            self._kept = image, kind, stored.astype(np.float32)
        return self._kept[2]

    def _size(self) -> tuple[int, int]:
        """Height and width; known without computing the image."""
        return self._picture.shape[:2]

    @property
    def width(self) -> int:
        return int(self._size()[1])

    @property
    def height(self) -> int:
        return int(self._size()[0])

    @property
    def pixelFormatName(self) -> str:
        if world.older:
            raise Undocumented("pixelFormatName is not known to older builds")
        return self._format_in_force()

    def _format_in_force(self) -> str:
        wanted = self.par.format.eval()
        return self._source_format() if wanted == "useinput" else str(wanted)

    def _source_format(self) -> str:
        return self._format

    def numpyArray(self, delayed: bool = False, writable: bool = False) -> Any:
        self._downloads.append(delayed)
        if self._given is not None:
            # The memory belongs to TouchDesigner, which uses it again.
            self._given[...] = np.float32(7e9)
        present = self._stored().copy()
        if not delayed:
            world.stalls += 1
            result = present
        elif self._nothing_for > 0:
            self._nothing_for -= 1
            result, self._waiting = None, present
        else:
            result, self._waiting = self._waiting, present
        self._given = result
        if result is None:
            return None
        shown = result.view()
        shown.flags.writeable = writable
        return shown


class constantTOP(TOP):
    """A generator; tests give it its picture."""


class inTOP(TOP):
    """In TOP: what is wired to its component."""

    def _wired(self) -> Any:
        siblings = sorted(name for name, child in self._parent._children.items() if type(child) is inTOP)
        connections = self._parent.inputConnectors[siblings.index(self._name)]._connections
        return connections[0]._owner if connections else None

    def _image(self) -> Any:
        source = self._wired()
        if source is None:
            return self._picture
        return source._stored() if source.isTOP else source._out()._image()

    def _size(self) -> tuple[int, int]:
        source = self._wired()
        if source is None:
            return super()._size()
        return (source if source.isTOP else source._out())._size()

    def _source_format(self) -> str:
        source = self._wired()
        return source._format_in_force() if source is not None and source.isTOP else self._format


class outTOP(TOP):
    """Out TOP."""

    _input_count = 1

    def _image(self) -> Any:
        return self.inputs[0]._image() if self.inputs else self._picture

    def _size(self) -> tuple[int, int]:
        return self.inputs[0]._size() if self.inputs else super()._size()


class _Scripted(OP):
    """What Script operators share: a DAT with callbacks."""

    def __init__(self, parent: Any, name: str) -> None:
        super().__init__(parent, name)
        docked = textDAT(parent, f"{name}_callbacks")
        docked.text = "def onCook(scriptOp):\n\treturn\n"
        parent._children[docked._name] = docked
        self._docked = [docked]
        self._pars["callbacks"].val = docked._name

    @property
    def docked(self) -> list[Any]:
        return [dat for dat in self._docked if dat._valid]

    def _cook(self) -> None:
        super()._cook()
        self._cooking = True
        try:
            self._parent._find(self._pars["callbacks"].eval()).module.onCook(self)
        finally:
            self._cooking = False

    def _must_cook(self) -> None:
        if not self._cooking:
            raise Undocumented("outside the onCook callback this may cause unexpected results")


class scriptTOP(_Scripted, TOP):
    """Script TOP."""

    _builtin = (*TOP._builtin, ("callbacks", "Str", ""))

    def __init__(self, parent: Any, name: str) -> None:
        super().__init__(parent, name)
        self._uploads: list[tuple[int, ...]] = []

    def copyNumpyArray(self, numpyArray: Any) -> None:
        self._must_cook()
        if numpyArray.dtype not in (np.uint8, np.uint16, np.float32):
            raise TypeError(f"{numpyArray.dtype}: the data type must be uint8, uint16 or float32")
        if numpyArray.ndim != 3 or not 1 <= numpyArray.shape[2] <= 4:
            raise TypeError(f"{numpyArray.shape}: the shape must be (h, w, numComponents)")
        if not numpyArray.flags.c_contiguous or not numpyArray.flags.writeable:
            raise Undocumented("only plain arrays are known to be taken")
        if self.par.outputresolution.eval() == "custom":
            size = (self.par.resolutionh.eval(), self.par.resolutionw.eval())
            if size != numpyArray.shape[:2]:
                raise Undocumented(f"an array of {numpyArray.shape[:2]} for a resolution of {size} would be scaled")
        scale = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[numpyArray.dtype.type]
        rgba = np.ones((*numpyArray.shape[:2], 4), np.float32)
        channels = numpyArray.shape[2]
        rgba[..., :channels] = numpyArray / np.float32(scale)
        if channels == 1:
            rgba[..., :3] = rgba[..., :1]
        self._picture = rgba
        self._uploads.append(numpyArray.shape)


class Channel(Strict):
    """One channel of a CHOP."""

    def __init__(self, owner: Any, name: str) -> None:
        self._owner, self._name, self._vals = owner, name, [0.0] * owner._samples

    @property
    def name(self) -> str:
        return self._name

    @property
    def vals(self) -> list[float]:
        return list(self._vals)

    @vals.setter
    def vals(self, vals: list[float]) -> None:
        self._owner._must_cook()
        if len(vals) != self._owner._samples:
            raise ValueError(f"{len(vals)} values for {self._owner._samples} samples")
        # Samples are 32-bit floats.
        self._vals = [float(np.float32(v)) for v in vals]

    def __getitem__(self, index: int) -> float:
        return self._vals[index]


class scriptCHOP(_Scripted):
    """Script CHOP."""

    _builtin = (("callbacks", "Str", ""),)

    def __init__(self, parent: Any, name: str) -> None:
        super().__init__(parent, name)
        self._channels: dict[str, Channel] = {}
        self._samples = 1

    def __getitem__(self, name: str) -> Channel:
        return self._channels[name]

    @property
    def numSamples(self) -> int:
        return self._samples

    @numSamples.setter
    def numSamples(self, count: int) -> None:
        self._must_cook()
        self._samples = count

    def clear(self) -> None:
        self._must_cook()
        self._channels.clear()

    def appendChan(self, name: str) -> Channel:
        self._must_cook()
        channel = self._channels[name] = Channel(self, name)
        return channel


class outCHOP(OP):
    """Out CHOP."""

    _input_count = 1


class _Sequence(Strict):
    """A sequence of parameters: its number of blocks."""

    def __init__(self) -> None:
        self._count = 1

    @property
    def numBlocks(self) -> int:
        return self._count

    @numBlocks.setter
    def numBlocks(self, count: int) -> None:
        self._count = count


class _Sequences(Strict):
    """comp.seq"""

    def __init__(self) -> None:
        self._ext = _Sequence()

    @property
    def ext(self) -> _Sequence:
        return self._ext


class COMP(OP):
    """A component: a network of its own, custom parameters, extensions."""

    _builtin = (
        ("reinitextensions", "Pulse"),
        ("ext0object", "Str", ""),
        ("ext0name", "Str", ""),
        ("ext0promote", "Toggle", False),
        ("opviewer", "Str", ""),
    )

    def __init__(self, parent: Any, name: str) -> None:
        super().__init__(parent, name)
        self._seq = _Sequences()

    @property
    def seq(self) -> _Sequences:
        return self._seq

    @property
    def extensions(self) -> list[Any]:
        return list(self._extensions)

    @property
    def inputConnectors(self) -> list[Connector]:
        count = sum(type(child) is inTOP for child in self._children.values())
        while len(self._inputs) < count:
            self._inputs.append(Connector(self, len(self._inputs), True))
        return self._inputs

    def _out(self) -> Any:
        return next(child for _, child in sorted(self._children.items()) if type(child) is outTOP)

    def create(self, opType: Any, name: str) -> Any:
        style = globals()[opType] if isinstance(opType, str) else opType
        number, free = 1, name
        while free in self._children:
            free = f"{name}{number}"
            number += 1
        child = self._children[free] = style(self, free)
        return child

    def appendCustomPage(self, name: str) -> Page:
        return Page(self, name)

    def destroyCustomPars(self) -> int:
        custom = [par._name for par in self.customPars]
        for name in custom:
            del self._pars[name]
        return len(custom)

    def initializeExtensions(self) -> None:
        self._drop_extensions()
        expression = self._pars["ext0object"].eval()
        if expression:
            # As in TouchDesigner a failure here is for the textport only; tests want to see it.
            extension = eval(expression, self._scope())
            self._extensions = [extension]
            world.started.append(extension)

    def _drop_extensions(self) -> None:
        for extension in self._extensions:
            if "onDestroyTD" in dir(extension):
                extension.onDestroyTD()
        self._extensions = []

    def _pulsed(self, par: Par) -> None:
        if par._name == "reinitextensions":
            self.initializeExtensions()
        else:
            super()._pulsed(par)

    def destroy(self) -> None:
        self._drop_extensions()
        super().destroy()

    def save(self, filepath: str) -> str:
        """A .tox of the stand-in's own kind: values and texts, no Python objects."""
        with open(filepath, "w", encoding="utf-8") as file:
            json.dump(_pack(self), file)
        return filepath

    def loadTox(self, filepath: str) -> Any:
        with open(filepath, encoding="utf-8") as file:
            comp = _unpack(self, json.load(file))
        comp.initializeExtensions()
        return comp


class baseCOMP(COMP):
    """Base COMP."""


def _pack(op: Any) -> dict[str, Any]:
    pars = [
        {"name": p._name, "style": p._style, "value": p._value, "custom": p._custom, "about": p._about}
        for p in op._pars.values()
    ]
    wires = [c._connections[0]._owner._name if c._connections else None for c in op._inputs]
    text = op._text if isinstance(op, DAT) else None
    children = [_pack(child) for child in op._children.values()]
    return {"type": type(op).__name__, "name": op._name, "pars": pars, "wires": wires, "text": text, "ops": children}


def _unpack(parent: Any, saved: dict[str, Any]) -> Any:
    op = parent._children.get(saved["name"]) or parent.create(saved["type"], saved["name"])
    for p in saved["pars"]:
        par = op._pars[p["name"]] = Par(op, p["name"], p["style"], p["value"], custom=p["custom"])
        par._about = p["about"]
    if saved["text"] is not None:
        op._text = saved["text"]
    for child in saved["ops"]:
        _unpack(op, child)
    for child in saved["ops"]:
        for index, source in enumerate(child["wires"]):
            if source is not None and child["type"] != "baseCOMP":
                op._children[child["name"]].inputConnectors[index].connect(op._children[source])
    return op


world = World()

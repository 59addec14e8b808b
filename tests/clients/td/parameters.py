"""Parameters of the stand-in: built-in ones by a table, custom ones by the pages' appendXxx methods."""

from __future__ import annotations

import enum
import re
import threading
from typing import Any

_CUSTOM_NAME = re.compile(r"[A-Z][a-z0-9]*")


class Undocumented(AttributeError):
    """Something that the documentation does not name, or warns of."""


class ParMode(enum.Enum):
    """How a parameter gets its value."""

    CONSTANT = 0
    EXPRESSION = 1
    EXPORT = 2
    BIND = 3


class Strict:
    """Public attributes are those that the class defines; anything else is refused. The main thread only."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Undocumented(f"{type(self).__name__}.{name} is not known to the stand-in")

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and threading.current_thread() is not threading.main_thread():
            raise Undocumented(f"{type(self).__name__}.{name} was touched from another thread")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            found = vars(type(self)).get(name) or next(
                (vars(c)[name] for c in type(self).__mro__ if name in vars(c)), None
            )
            if not isinstance(found, property) or found.fset is None:
                raise Undocumented(f"{type(self).__name__}.{name} cannot be set")
        object.__setattr__(self, name, value)


def _plain(name: str, custom_only: bool = True) -> property:
    """A member that can be read and set and has no effect of its own."""

    def read(self: Any) -> Any:
        return self._about.get(name)

    def write(self: Any, value: Any) -> None:
        if custom_only and not self._custom:
            raise Undocumented(f"Par.{name} can only be set on custom parameters")
        self._about[name] = value

    return property(read, write)


class Par(Strict):
    """One parameter."""

    def __init__(self, owner: Any, name: str, style: str, value: Any = None, menu: Any = None, custom: bool = False):
        self._owner, self._name, self._style, self._custom = owner, name, style, custom
        self._mode, self._expr, self._bind_expr = ParMode.CONSTANT, "", ""
        self._about: dict[str, Any] = {"menuNames": menu, "label": name, "help": "", "readOnly": False}
        if value is None:
            value = {"Str": "", "Float": 0.0, "Int": 0, "Toggle": False, "Menu": "", "StrMenu": ""}.get(style, "")
        self._value = value
        self._about["default"] = value

    label = _plain("label")
    default = _plain("default")
    min = _plain("min")
    max = _plain("max")
    clampMin = _plain("clampMin")
    clampMax = _plain("clampMax")
    normMin = _plain("normMin")
    normMax = _plain("normMax")
    menuLabels = _plain("menuLabels")
    help = _plain("help")
    readOnly = _plain("readOnly", custom_only=False)

    @property
    def menuNames(self) -> Any:
        return self._about["menuNames"]

    @menuNames.setter
    def menuNames(self, names: list[str]) -> None:
        if not self._custom or self._style not in ("Menu", "StrMenu"):
            raise Undocumented(f"{self._name} has no menu to set")
        self._about["menuNames"] = list(names)

    @property
    def name(self) -> str:
        return self._name

    @property
    def owner(self) -> Any:
        return self._owner

    @property
    def style(self) -> str:
        return self._style

    @property
    def isPulse(self) -> bool:
        return self._style == "Pulse"

    @property
    def isMenu(self) -> bool:
        return self._style == "Menu"

    @property
    def isCustom(self) -> bool:
        return self._custom

    @property
    def val(self) -> Any:
        return self._value

    @val.setter
    def val(self, value: Any) -> None:
        self._mode = ParMode.CONSTANT
        before = self._value
        self._value = self._fit(value)
        if self._value != before:
            self._owner._changed(self, before)

    def _fit(self, value: Any) -> Any:
        if self._style == "Toggle":
            return bool(value)
        if self._style in ("Int", "Float"):
            number = int(value) if self._style == "Int" else float(value)
            if self._about.get("clampMin"):
                number = max(number, self._about["min"])
            if self._about.get("clampMax"):
                number = min(number, self._about["max"])
            return number
        if self._style == "Menu" and value not in (self._about["menuNames"] or []):
            raise TypeError(f"{self._name}: {value!r} is not in the menu {self._about['menuNames']}")
        return value if self._style == "OP" else str(value)

    @property
    def mode(self) -> ParMode:
        return self._mode

    @mode.setter
    def mode(self, mode: ParMode) -> None:
        self._mode = mode

    @property
    def expr(self) -> str:
        return self._expr

    @expr.setter
    def expr(self, expression: str) -> None:
        self._mode, self._expr = ParMode.EXPRESSION, expression

    @property
    def bindExpr(self) -> str:
        return self._bind_expr

    @bindExpr.setter
    def bindExpr(self, expression: str) -> None:
        self._bind_expr = expression

    def eval(self) -> Any:
        if self._mode is ParMode.EXPRESSION:
            return self._fit(eval(self._expr, self._owner._scope()))
        return self._value

    def pulse(self) -> None:
        if not self.isPulse:
            raise Undocumented(f"{self._name} is no pulse; the stand-in pulses nothing else")
        self._owner._pulsed(self)


class ParGroup(Strict):
    """Parameters of one line; here always one."""

    def __init__(self, par: Par) -> None:
        self._par = par

    def __getitem__(self, index: int) -> Par:
        return [self._par][index]


class ParCollection:
    """op.par"""

    def __init__(self, pars: dict[str, Par]) -> None:
        object.__setattr__(self, "_pars", pars)

    def __getattr__(self, name: str) -> Par:
        if name not in self._pars:
            raise Undocumented(f"no parameter {name}; there are {', '.join(self._pars)}")
        found: Par = self._pars[name]
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        self.__getattr__(name).val = value.eval() if isinstance(value, Par) else value

    def __getitem__(self, name: str) -> Par | None:
        return self._pars.get(name)


class Page(Strict):
    """A page of custom parameters."""

    def __init__(self, owner: Any, name: str) -> None:
        self._owner, self._name = owner, name

    @property
    def name(self) -> str:
        return self._name

    def _append(self, style: str, name: str, label: str | None) -> ParGroup:
        if not _CUSTOM_NAME.fullmatch(name):
            raise ValueError(f"{name}: a custom parameter is a capital followed by small letters and digits")
        par = Par(self._owner, name, style, menu=[] if "Menu" in style else None, custom=True)
        par._about["label"], par._about["page"] = label or name, self._name
        self._owner._pars[name] = par
        return ParGroup(par)

    def appendStr(self, name: str, label: str | None = None) -> ParGroup:
        return self._append("Str", name, label)

    def appendFloat(self, name: str, label: str | None = None) -> ParGroup:
        return self._append("Float", name, label)

    def appendInt(self, name: str, label: str | None = None) -> ParGroup:
        return self._append("Int", name, label)

    def appendToggle(self, name: str, label: str | None = None) -> ParGroup:
        return self._append("Toggle", name, label)

    def appendMenu(self, name: str, label: str | None = None) -> ParGroup:
        return self._append("Menu", name, label)

    def appendStrMenu(self, name: str, label: str | None = None) -> ParGroup:
        return self._append("StrMenu", name, label)

    def appendPulse(self, name: str, label: str | None = None) -> ParGroup:
        return self._append("Pulse", name, label)

    def appendFolder(self, name: str, label: str | None = None) -> ParGroup:
        return self._append("Folder", name, label)

    def appendFile(self, name: str, label: str | None = None) -> ParGroup:
        return self._append("File", name, label)

"""The component's custom parameters: two pages made from the list of live parameters, one for the component itself."""

from __future__ import annotations

from typing import Any

from core.params import SPECS, Spec

STATUS = "Status"
LIVE = {"".join(name.split("_")).capitalize(): spec for name, spec in SPECS.items()}
"""The live parameters by their name in TouchDesigner, which wants a capital and then small letters and digits."""

_OWN: tuple[tuple[str, str, str, Any, str], ...] = (
    ("Str", STATUS, "Status", "", "What the component sees of the host. Written by the component."),
    ("Toggle", "Active", "Active", True, "Send the input and show what comes back."),
    ("Str", "Channel", "Channel", "stage", "The host reads CHANNEL.in and writes CHANNEL.out."),
    ("Pulse", "Starthost", "Start Host", None, "Start a host for this channel in its own process."),
    ("Pulse", "Stophost", "Stop Host", None, "End the host that this component started."),
    ("StrMenu", "Model", "Model", "embedded", "Of a host started here: embedded, passthrough, or a diffusers folder."),
    ("Str", "Hostoptions", "Host Options", "", "More options for a host started here, such as --device cuda."),
    ("Str", "Preset", "Preset", "", "The preset that Recall and Save mean, by its name."),
    ("Float", "Presetseconds", "Preset Seconds", 0.0, "How long a recall takes: 0 changes at once, more fades over."),
    (
        "Pulse",
        "Recallpreset",
        "Recall Preset",
        None,
        "Set the host to the preset; the parameters here stay as they are.",
    ),
    ("Pulse", "Savepreset", "Save Preset", None, "Save what the host shows as the preset; an older one is kept aside."),
    ("Str", "Newname", "New Name", "", "What Rename Preset calls the preset."),
    ("Pulse", "Renamepreset", "Rename Preset", None, "Give the preset its new name."),
    ("Pulse", "Firstpreset", "Preset First", None, "Move the preset to the front of the list, where key 1 recalls it."),
    ("Pulse", "Deletepreset", "Delete Preset", None, "Take the preset out of the list; Restore Preset brings it back."),
    ("Pulse", "Restorepreset", "Restore Preset", None, "Bring back the preset of this name that was deleted last."),
    (
        "Folder",
        "Presetfolder",
        "Preset Folder",
        "",
        "Where a host started here keeps presets, such as beside the project; empty: the user's own folder.",
    ),
    ("Int", "Oscport", "OSC Port", 9000, "UDP port of the host's OSC server on this machine."),
    (
        "Toggle",
        "Linearinput",
        "Linear Input",
        False,
        "Send floats as linear light (HDR, sRGB textures) instead of 8 bit.",
    ),
    (
        "Toggle",
        "Cudainput",
        "CUDA Input",
        False,
        "Fetch the input by CUDA instead of numpyArray. Not tried on hardware.",
    ),
    ("Folder", "Checkout", "Checkout", "", "The folder that frameloom was cloned into."),
    ("File", "Python", "Python", "", "The Python that starts the host; empty: the checkout's own, else the system's."),
    ("Pulse", "Savetox", "Save .tox", None, "Save the component as frameloom.tox beside the project."),
)
OWN = tuple(name for _, name, _, _, _ in _OWN)
_STYLES = {"str": "Str", "float": "Float", "int": "Int", "bool": "Toggle", "choice": "Menu", "ints": "Str"}
_OSC_PORT_RANGE = (1, 65535)
_MORPH_S = 600.0
"""The longest that the host takes."""


def add_pages(comp: Any, modes: Any) -> None:
    """Append the pages to a COMP; what parameters of the same name had as value, expression or binding is kept.

    modes: TouchDesigner's `ParMode`.
    """
    before = {p.name: (p.mode, p.val, p.expr, p.bindExpr) for p in comp.customPars if not p.isPulse}
    comp.destroyCustomPars()
    page = comp.appendCustomPage("Frameloom")
    for style, name, label, default, help in _OWN:
        par = _append(page, style, name, label, help)
        if default is not None:
            par.default = par.val = default
    comp.par.Status.readOnly = True
    comp.par.Model.menuNames = comp.par.Model.menuLabels = ["embedded", "passthrough"]
    _bound(comp.par.Oscport, *_OSC_PORT_RANGE)
    _bound(comp.par.Presetseconds, 0.0, _MORPH_S)
    for title, main in (("Paint", True), ("More", False)):
        page = comp.appendCustomPage(title)
        for name, spec in LIVE.items():
            if spec.main == main:
                _add_live(page, name, spec)
    for par in comp.customPars:
        if par.name in before and par.name != STATUS:
            _restore(par, modes, *before[par.name])


def _restore(par: Any, modes: Any, mode: Any, value: Any, expression: str, binding: str) -> None:
    if not par.isMenu or value in par.menuNames:
        par.val = value
    if mode == modes.EXPRESSION:
        par.expr = expression
    elif mode == modes.BIND:
        par.bindExpr = binding
        par.mode = mode


def _append(page: Any, style: str, name: str, label: str, help: str) -> Any:
    makers = {
        "Str": page.appendStr,
        "Float": page.appendFloat,
        "Int": page.appendInt,
        "Toggle": page.appendToggle,
        "Menu": page.appendMenu,
        "StrMenu": page.appendStrMenu,
        "Pulse": page.appendPulse,
        "Folder": page.appendFolder,
        "File": page.appendFile,
    }
    par = makers[style](name, label=label)[0]
    par.help = help
    return par


def _add_live(page: Any, name: str, spec: Spec) -> None:
    label = spec.name.replace("_", " ").title() + (f" ({spec.unit})" if spec.unit else "")
    par = _append(page, _STYLES[spec.kind], name, label, spec.help)
    if spec.kind == "choice":
        par.menuNames = par.menuLabels = list(spec.choices)
    if spec.kind in ("float", "int"):
        _bound(par, spec.low, spec.high)
    par.default = par.val = ",".join(map(str, spec.default)) if spec.kind == "ints" else spec.default


def _bound(par: Any, low: float | None, high: float | None) -> None:
    par.min = par.normMin = low
    par.max = par.normMax = high
    par.clampMin = par.clampMax = True


def live_value(par: Any) -> Any:
    """The value of a live parameter as the host takes it."""
    kind = LIVE[par.name].kind
    value = par.eval()
    if kind == "bool":
        return bool(value)
    return {"float": float, "int": int}.get(kind, str)(value)


def settings(comp: Any) -> list[str]:
    """The present live parameters as options of `run.py host`."""
    words = []
    for name, spec in LIVE.items():
        value = live_value(comp.par[name])
        words += ["--set", f"{spec.name}={int(value) if spec.kind == 'bool' else value}"]
    return words

"""FrameloomParams.cs from core/params.py, and a .meta file for every asset of the Unity package that lacks one.

Identifiers in .meta files are derived from the asset's path once and never changed afterwards, because scenes refer to
them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_SLIDER_SPAN = 10_000
"""A range wider than this is no slider."""


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _pascal(name: str) -> str:
    return "".join(part[0].upper() + part[1:] for part in name.replace("-", "_").split("_"))


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _number(value: float, whole: bool) -> str:
    return str(int(value)) if whole else f"{value:g}f"


def params_source() -> str:
    """The C# class with a field for every live parameter: default, range and tooltip as in `SPECS`."""
    from core.params import SPECS

    fields, names, enums, all_lines, change_lines, copy_lines = [], [], [], [], [], []
    for spec in SPECS.values():
        name, address = _camel(spec.name), _text(f"/{spec.name}")
        about = [f"Tooltip({_text(spec.help + (f' In {spec.unit}.' if spec.unit else ''))})"]
        value, differs, copied = name, f"{name} != sent.{name}", f"other.{name}"
        if spec.kind == "str":
            kind, default = "string", _text(spec.default)
            about.append("TextArea")
        elif spec.kind in ("float", "int"):
            assert spec.low is not None and spec.high is not None
            whole = spec.kind == "int"
            kind, default = spec.kind, _number(spec.default, whole)
            low, high = _number(spec.low, whole), _number(spec.high, whole)
            about.append(f"Range({low}, {high})" if spec.high - spec.low <= _SLIDER_SPAN else f"Min({low})")
        elif spec.kind == "bool":
            kind, default = "bool", str(spec.default).lower()
        elif spec.kind == "choice":
            kind = "Frameloom" + _pascal(spec.name)
            default = f"{kind}.{_pascal(spec.default)}"
            enums += [f"    /// <summary>{spec.help}</summary>", f"    public enum {kind}", "    {"]
            enums += [f"        {_pascal(choice)}," for choice in spec.choices]
            enums += ["    }", ""]
            words = ", ".join(map(_text, spec.choices))
            names.append(f"        private static readonly string[] {_pascal(spec.name)}Words = {{ {words} }};")
            value = f"{_pascal(spec.name)}Words[(int){name}]"
        else:
            assert spec.kind == "ints"
            kind, default = "int[]", "{ " + ", ".join(map(str, spec.default)) + " }"
            default = "new int[0]" if not spec.default else default
            differs, copied = f"!Same({name}, sent.{name})", f"(int[])other.{name}.Clone()"
        fields += ["", f"        [{', '.join(about)}]", f"        public {kind} {name} = {default};"]
        all_lines.append(f"            to.Add({address}, {value});")
        change_lines += [f"            if ({differs})", f"                to.Add({address}, {value});"]
        copy_lines.append(f"            {name} = {copied};")
    return "\n".join(
        [
            "// Generated from core/params.py by `python3 run.py generate`: change that file, not this one.",
            "",
            "using System;",
            "using UnityEngine;",
            "",
            "namespace Frameloom",
            "{",
            *enums,
            "    /// <summary>Every live parameter of a host, with its range and default.</summary>",
            "    [Serializable]",
            "    public sealed class FrameloomParams",
            "    {",
            *names,
            *fields,
            "",
            "        public void AddAll(OscBundle to)",
            "        {",
            *all_lines,
            "        }",
            "",
            "        /// <summary>Add what differs from what was `sent`.</summary>",
            "        public void AddChanges(FrameloomParams sent, OscBundle to)",
            "        {",
            *change_lines,
            "        }",
            "",
            "        public void CopyFrom(FrameloomParams other)",
            "        {",
            *copy_lines,
            "        }",
            "",
            "        private static bool Same(int[] one, int[] other)",
            "        {",
            "            bool same = one.Length == other.Length;",
            "            for (int i = 0; i < one.Length && same; i++)",
            "                same = one[i] == other[i];",
            "            return same;",
            "        }",
            "    }",
            "}",
            "",
        ]
    )


def assets(package: Path) -> list[Path]:
    """Every file and folder of the package that Unity keeps a .meta file for."""
    found = []
    for path in sorted(package.rglob("*")):
        hidden = any(part.endswith("~") or part.startswith(".") for part in path.relative_to(package).parts)
        if not hidden and path.suffix != ".meta":
            found.append(path)
    return found


def assets_without_meta(package: Path) -> list[Path]:
    """Those that lack theirs."""
    return [asset for asset in assets(package) if not meta_path(asset).exists()]


def meta_path(asset: Path) -> Path:
    return asset.with_name(asset.name + ".meta")


def write_meta(package: Path, asset: Path) -> None:
    """Write the .meta file of an asset."""
    meta_path(asset).write_text(_meta(package, asset), encoding="utf-8", newline="\n")


def _meta(package: Path, asset: Path) -> str:
    guid = hashlib.md5(asset.relative_to(package.parent).as_posix().encode(), usedforsecurity=False).hexdigest()
    lines = ["fileFormatVersion: 2", f"guid: {guid}"]
    common = ["  externalObjects: {}"]
    end = ["  userData: ", "  assetBundleName: ", "  assetBundleVariant: "]
    if asset.is_dir():
        lines += ["folderAsset: yes", "DefaultImporter:", *common, *end]
    elif asset.suffix == ".cs":
        script = ["  serializedVersion: 2", "  defaultReferences: []", "  executionOrder: 0", "  icon: {instanceID: 0}"]
        lines += ["MonoImporter:", *common, *script, *end]
    elif asset.suffix == ".shader":
        lines += ["ShaderImporter:", *common, "  defaultTextures: []", "  nonModifiableTextures: []", *end]
    elif asset.suffix == ".asmdef":
        lines += ["AssemblyDefinitionImporter:", *common, *end]
    elif asset.name == "package.json":
        lines += ["PackageManifestImporter:", *common, *end]
    else:
        lines += ["TextScriptImporter:", *common, *end]
    return "\n".join(lines) + "\n"

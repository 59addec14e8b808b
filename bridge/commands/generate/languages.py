"""The binary contract in C, C# and JavaScript, from bridge/ring/layout.py and bridge/page/packet.py."""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag

from bridge.page import packet
from bridge.ring import layout

_NOTE = "Generated from bridge/ring/layout.py by `python3 run.py generate`: change that file, not this one."

_ENUMS: tuple[tuple[str, str, type[IntEnum] | type[IntFlag]], ...] = (
    ("KIND", "PlaneKind", layout.Kind),
    ("FORMAT", "PixelFormat", layout.Format),
    ("ORIGIN", "Origin", layout.Origin),
    ("COLOUR_SPACE", "ColourSpace", layout.ColourSpace),
    ("POLICY", "Policy", layout.Policy),
    ("STATE", "SegmentState", layout.SegmentState),
    ("READER", "ReaderKind", layout.ReaderKind),
    ("FLAG", "SlotFlag", layout.SlotFlag),
)
"""Every enumeration: its prefix in C and its name in C#."""

_TABLES = (
    ("RECORD", "Record", layout.RECORD),
    ("HEADER", "Header", layout.HEADER),
    ("ENTRY", "Entry", layout.READER),
    ("SLOT", "Slot", layout.SLOT),
    ("PLANE", "Plane", layout.PLANE),
)
"""Every table: its prefix in C and its class in C#."""

_LIMITS = (
    ("VERSION_MAJOR", layout.VERSION_MAJOR, "u32"),
    ("VERSION", layout.VERSION, "u32"),
    ("MAGIC", int.from_bytes(layout.MAGIC, "little"), "u64"),
    ("RECORD_MAGIC", int.from_bytes(layout.RECORD_MAGIC, "little"), "u64"),
    ("PAGE", layout.PAGE, "u32"),
    ("PLANE_ALIGNMENT", layout.PLANE_ALIGNMENT, "u32"),
    ("PLANE_TABLE_OFFSET", layout.PLANE_TABLE_OFFSET, "u32"),
    ("READER_TABLE_OFFSET", layout.READER_TABLE_OFFSET, "u32"),
    ("READER_ENTRIES", layout.READER_ENTRIES, "u32"),
    ("LOSSLESS_ENTRY", layout.LOSSLESS_ENTRY, "u32"),
    ("WRITER_LOCK_OFFSET", layout.WRITER_LOCK_OFFSET, "u32"),
    ("MIN_SLOTS", layout.MIN_SLOTS, "u32"),
    ("MAX_SLOTS", layout.MAX_SLOTS, "u32"),
    ("MAX_PLANES", layout.MAX_PLANES, "u32"),
    ("MAX_CHANNEL_BYTES", layout.MAX_CHANNEL_BYTES, "u32"),
    ("MAX_SIDE", layout.MAX_SIDE, "u32"),
    ("MAX_SEGMENT_BYTES", layout.MAX_SEGMENT_BYTES, "u64"),
)
"""Constants that fit 32 or 64 unsigned bits. The magics are the eight bytes read as one little-endian word."""


def _bytes_per_pixel() -> list[int]:
    """Bytes per pixel by the number of the format; 0 where there is no such format."""
    known = {int(f): p.bytes_per_pixel for f, p in layout.PIXEL_FORMATS.items()}
    return [known.get(number, 0) for number in range(max(known) + 1)]


def _allowed_formats() -> list[int]:
    """By the number of the kind: a word whose bit f is set when format f is allowed for it."""
    known = {int(k): sum(1 << f for f in formats) for k, formats in layout.ALLOWED_FORMATS.items()}
    return [known.get(number, 0) for number in range(max(known) + 1)]


def c_header() -> str:
    """clients/native/frameloom_layout.h: preprocessor constants, usable from C and C++."""
    lines = [
        f"/* {_NOTE}",
        " * FRAMELOOM_AT_<table>_<field> is a field's byte offset in its table, FRAMELOOM_BYTES_<table> its size.",
        " * Should match with bridge/ring/layout.py, RingLayout.cs and bridge/PROTOCOL.md. */",
        "#ifndef FRAMELOOM_LAYOUT_H",
        "#define FRAMELOOM_LAYOUT_H",
        "",
    ]
    for name, value, kind in _LIMITS:
        lines.append(f"#define FRAMELOOM_{name} " + (f"{value}u" if kind == "u32" else f"0x{value:016x}ull"))
    for prefix, _, table in _TABLES:
        lines += ["", f"#define FRAMELOOM_BYTES_{prefix} {table.size}u"]
        for f in table.fields:
            kind = f"{f.type}[{f.count}]" if f.count > 1 else f.type
            lines.append(f"#define FRAMELOOM_AT_{prefix}_{f.name.upper()} {f.offset}u /* {kind}: {f.help} */")
    for prefix, _, members in _ENUMS:
        lines.append("")
        lines += [f"#define FRAMELOOM_{prefix}_{name} {int(m)}u" for name, m in members.__members__.items()]
    lines += [
        "",
        "/* Initialisers: bytes per pixel by format; by kind a word whose bit f is set when format f is allowed. */",
        f"#define FRAMELOOM_BYTES_PER_PIXEL {{{', '.join(map(str, _bytes_per_pixel()))}}}",
        f"#define FRAMELOOM_ALLOWED_FORMATS {{{', '.join(f'0x{word:x}u' for word in _allowed_formats())}}}",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _pascal(name: str) -> str:
    """A name of C or Python as C# spells it; a name with digits is that of a pixel format and stays."""
    return name if re.search(r"\d", name) else "".join(p[0].upper() + p[1:].lower() for p in name.split("_"))


def c_sharp() -> str:
    """RingLayout.cs: constants and enumerations, C# 7.2, no Unity API."""
    lines = [
        f"// {_NOTE}",
        "// Each constant of a nested class is a field's byte offset in its table; Bytes is the table's size.",
        "// Should match with bridge/ring/layout.py, frameloom_layout.h and bridge/PROTOCOL.md.",
        "using System;",
        "",
        "namespace Frameloom",
        "{",
    ]
    for _, enum, members in _ENUMS:
        lines += ["    [Flags]"] if issubclass(members, IntFlag) else []
        lines += [f"    public enum {enum} : uint", "    {"]
        lines += [f"        {_pascal(name)} = {int(m)}," for name, m in members.__members__.items()]
        lines += ["    }", ""]
    lines += ["    public static class RingLayout", "    {"]
    for name, value, kind in _LIMITS:
        spelled = f"uint {_pascal(name)} = {value}" if kind == "u32" else f"ulong {_pascal(name)} = 0x{value:016x}"
        lines.append(f"        public const {spelled};")
    lines += [
        "",
        "        /// <summary>Bytes per pixel by the number of the format; 0 where there is no such format.</summary>",
        f"        public static readonly uint[] BytesPerPixel = {{ {', '.join(map(str, _bytes_per_pixel()))} }};",
        "",
        "        /// <summary>By the number of the kind: bit f is set when format f is allowed for it.</summary>",
        "        public static readonly uint[] AllowedFormats = "
        f"{{ {', '.join(f'0x{word:x}' for word in _allowed_formats())} }};",
    ]
    for _, name, table in _TABLES:
        lines += ["", f"        public static class {name}", "        {"]
        lines.append(f"            public const int Bytes = {table.size};")
        for f in table.fields:
            kind = f"{f.type}[{f.count}]" if f.count > 1 else f.type
            lines.append(f"            public const int {_pascal(f.name)} = {f.offset}; // {kind}: {f.help}")
        lines.append("        }")
    lines += ["    }", "}"]
    return "\n".join(lines) + "\n"


def javascript() -> str:
    """clients/web/ring_layout.js: the header before every frame of the gateway, as an ES module."""
    note = _NOTE.replace("ring/layout.py", "page/packet.py")
    return f"// {note}\nexport {packet.javascript()}"

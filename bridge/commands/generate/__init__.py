"""`frameloom generate`: everything in other languages that is made from a definition here.

The files are committed, and a test compares. One table: what is generated, and by what.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bridge.commands.generate import languages, protocol, unity
from bridge.page import packet
from bridge.terminal import PROGRAM

ROOT = Path(__file__).resolve().parents[3]
UNITY = ROOT / "clients" / "unity" / "Packages" / "org.frameloom.unity"


@dataclass(frozen=True)
class Generated:
    """A file, and what makes its text of the text it has now."""

    path: Path
    make: Callable[[str], str]


def _whole(make: Callable[[], str]) -> Callable[[str], str]:
    return lambda text: make()


def _blocks(make: Callable[[], dict[str, str]]) -> Callable[[str], str]:
    """Only what stands between `<!-- generated: NAME -->` and `<!-- end -->`."""

    def filled(text: str) -> str:
        for name, block in make().items():
            pattern = re.compile(rf"(<!-- generated: {re.escape(name)} -->\n).*?(\n<!-- end -->)", re.DOTALL)
            found = list(pattern.finditer(text))
            assert len(found) == 1, f"the block {name} is there {len(found)} times, instead of once"
            text = text[: found[0].end(1)] + block + text[found[0].start(2) :]
        return text

    return filled


GENERATED = (
    Generated(ROOT / "bridge" / "PROTOCOL.md", _blocks(protocol.blocks)),
    Generated(ROOT / "clients" / "native" / "frameloom_layout.h", _whole(languages.c_header)),
    Generated(UNITY / "Runtime" / "Ring" / "RingLayout.cs", _whole(languages.c_sharp)),
    Generated(UNITY / "Runtime" / "FrameloomParams.cs", _whole(unity.params_source)),
    Generated(ROOT / "clients" / "web" / "ring_layout.js", _whole(languages.javascript)),
    Generated(ROOT / "clients" / "web" / "README.md", _blocks(lambda: {"packet": packet.markdown().rstrip()})),
)


def main(arguments: list[str] | None = None) -> int:
    """Write what has changed, and the .meta files that the Unity package lacks; returns the exit status."""
    if arguments:
        print(f"{PROGRAM} generate takes no arguments; it writes the generated files", file=sys.stderr)
        return 0 if arguments[0] in ("-h", "--help") else 2
    for generated in GENERATED:
        before = generated.path.read_text(encoding="utf-8") if generated.path.exists() else ""
        text = generated.make(before)
        if text != before:
            generated.path.write_text(text, encoding="utf-8", newline="\n")
            print("wrote", generated.path.relative_to(ROOT).as_posix())
    for asset in unity.assets_without_meta(UNITY):
        unity.write_meta(UNITY, asset)
        print("wrote", unity.meta_path(asset).relative_to(ROOT).as_posix())
    return 0

"""The README's tree is the tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is where")[1].split("```")[1]
COLUMN = 23
"""Where the descriptions begin."""


def named() -> Iterator[Path]:
    """The files and folders that begin a line of the tree; a line that is indented by two is in the folder above."""
    above = ROOT
    for line in TREE.strip("\n").splitlines():
        indent = len(line) - len(line.lstrip())
        if indent > 2:
            continue
        # A list of names may take the whole line; else what they are begins in the next column.
        words = line.split()
        names = words if all(re.search(r"[./]", word) for word in words) else line[:COLUMN].split()
        for name in names:
            yield (above if indent else ROOT) / name
        if not indent:
            above = ROOT / names[0]


def test_what_the_tree_names_is_there() -> None:
    for path in named():
        assert path.exists(), f"{path.relative_to(ROOT)}: the README names it; correct its tree"


def test_what_is_there_is_in_the_tree() -> None:
    known = set(named())
    here = {path for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("*.py"))} - {ROOT / ".venv"}
    here |= {path for path in (ROOT / "clients").iterdir() if path.is_dir()} - {ROOT / "clients" / "__pycache__"}
    for folder in (ROOT / "core", ROOT / "bridge"):
        here |= {path for path in folder.glob("*.py") if not path.name.startswith("__")}
        here |= {path.parent for path in folder.glob("*/__init__.py")}
    here = {path for path in here if not path.name.startswith(".")} - {ROOT / "clients"}
    missing = {str(path.relative_to(ROOT)) for path in here - known}
    assert not missing, "add them to the tree in README.md"

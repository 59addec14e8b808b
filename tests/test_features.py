"""docs/FEATURES.md: every yes of ours names a test, and that test is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "FEATURES.md").read_text(encoding="utf-8")
PROJECT = ("licence",)
"""Rows that are no matter of a test."""


def test_every_yes_names_a_test_that_is_there() -> None:
    tests = {int(number): name for number, name in re.findall(r"^(\d+)\. `(.+)`$", TEXT, re.MULTILINE)}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line[:1] == "|"]
    named = set()
    for name, ours, *others in rows[2:]:
        assert len(others) == len(rows[0]) - 2, name
        found = [int(number) for number in re.findall(r"\[(\d+)\]", ours)]
        assert found or ours[0] not in "YP" or name.startswith(PROJECT), f"{name}: {ours} names no test"
        named.update(found)
    assert named == set(tests)
    for test in tests.values():
        path, _, function = test.partition("::")
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert function in functions, test

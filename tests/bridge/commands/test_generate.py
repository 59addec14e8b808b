"""The committed copies of the layout are those that bridge/commands/generate.py makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.commands import generate


@pytest.mark.parametrize(("path", "make"), generate.COPIES, ids=lambda c: c.name if isinstance(c, Path) else "")
def test_a_copy_is_current(path: Path, make: Callable[[], str]) -> None:
    assert path.read_text(encoding="utf-8") == make(), "run python -m bridge.commands.generate"

"""One line of the doctor's report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LEVELS = ("ok", "warn", "bad")


@dataclass(frozen=True)
class Check:
    """One line of the report. level is one of `LEVELS`; fix is empty when there is nothing to do."""

    level: str
    name: str
    said: str
    fix: str = ""


Report = Iterator[Check]

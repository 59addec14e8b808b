"""Files that are there as a whole or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.atomic import replacing


def test_the_draft_takes_the_place_of_the_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old" and draft.parent == tmp_path
    assert path.read_text() == "new" and [*tmp_path.iterdir()] == [path]


def test_what_is_broken_off_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as draft:
        draft.write_text("half")
        raise OSError("full")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass  # nothing was written
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_many_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"

    def write(number: int) -> None:
        with replacing(path) as draft:
            draft.write_text(f"{number}" * 10_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(10, 60)))
    text = path.read_text()
    assert text == text[:2] * 10_000 and [*tmp_path.iterdir()] == [path]

"""The contact sheet shows what it was given, and is whole or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridge.commands.contact_sheet import MARGIN_PX, TILE_PX, Pair, write_sheet

RED = np.full((64, 64, 3), (200, 10, 10), np.uint8)
BLUE = np.full((32, 32, 4), (10, 10, 200, 255), np.uint8)


def test_inputs_are_above_their_outputs(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "sheet.png"
    write_sheet(path, [Pair(RED, BLUE, "first"), Pair(BLUE[..., :3], RED, "second, \u96ea " * 30)], "two pairs")
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet)
    height, width = pixels.shape[:2]
    assert width == MARGIN_PX + 2 * (TILE_PX + MARGIN_PX)
    lower = height - MARGIN_PX - TILE_PX // 2
    upper = lower - TILE_PX - MARGIN_PX
    left = MARGIN_PX + TILE_PX // 2
    right = left + TILE_PX + MARGIN_PX
    assert pixels[upper, left].tolist() == [200, 10, 10]
    assert pixels[lower, left].tolist() == [10, 10, 200]
    assert pixels[upper, right].tolist() == [10, 10, 200]
    assert pixels[lower, right].tolist() == [200, 10, 10]
    # The label is drawn: the strip above the pictures is not empty.
    assert pixels[: upper - TILE_PX // 2].max() > 100
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(("name", "kind"), [("a.webp", "WEBP"), ("a.JPG", "JPEG"), ("a", "PNG")])
def test_the_suffix_names_the_format(tmp_path: Path, name: str, kind: str) -> None:
    write_sheet(tmp_path / name, [Pair(RED, BLUE, "")], "")
    with Image.open(tmp_path / name) as sheet:
        assert sheet.format == kind


def test_a_suffix_of_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.txt file; use \.png"):
        write_sheet(tmp_path / "a.txt", [Pair(RED, BLUE, "")], "")
    assert not list(tmp_path.iterdir())


def test_no_pairs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        write_sheet(tmp_path / "sheet.png", [], "none")


def test_a_path_that_cannot_be_is_an_os_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OSError):
        write_sheet(tmp_path / "file" / "sheet.png", [Pair(RED, BLUE, "")], "")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError):
        write_sheet(tmp_path / "folder.png", [Pair(RED, BLUE, "")], "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]

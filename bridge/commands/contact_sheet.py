"""A picture of what the stream did: inputs above their outputs, each pair under its label.

Knows nothing of rings.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.atomic import replacing
from core.pillow import pillow

Array = np.ndarray[Any, np.dtype[Any]]

TILE_PX = 176
"""Pictures narrower than this are enlarged, so that a label fits above them."""
WIDEST_PX = 384
MARGIN_PX = 8
FONT_PX = 13
LABEL_LINES = 3
FORMATS = {"": "PNG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
BACKGROUND = (24, 24, 28)
INK = (228, 228, 232)


@dataclass(frozen=True)
class Pair:
    """One frame and what became of it: uint8 (height, width, 3) RGB each, sizes may differ. more: what goes below."""

    input: Array
    output: Array
    label: str
    more: tuple[Array, ...] = ()


def write_sheet(path: Path, pairs: Sequence[Pair], title: str) -> None:
    """Write a picture with one column per pair, in the format that the path's suffix names; a PNG where it has none.
    The file is whole or not there at all.

    Raises OSError when it cannot be written and ValueError without any pair or for a suffix of no picture.
    """
    if not pairs:
        raise ValueError("a contact sheet needs at least one pair")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"a sheet cannot be a {path.suffix} file; use {', '.join(filter(None, FORMATS))}")
    tall, wide = pairs[0].input.shape[:2]
    scale = max(1.0, TILE_PX / wide)
    scale = min(scale, WIDEST_PX / wide)
    tile = (max(1, round(wide * scale)), max(1, round(tall * scale)))
    pil = pillow()
    font = pil.ImageFont.load_default(FONT_PX)
    line_px = FONT_PX + 3
    head_px = MARGIN_PX + line_px + MARGIN_PX
    label_px = LABEL_LINES * line_px
    width = MARGIN_PX + len(pairs) * (tile[0] + MARGIN_PX)
    rows = 2 + max(len(pair.more) for pair in pairs)
    height = head_px + label_px + rows * (tile[1] + MARGIN_PX)
    sheet = pil.Image.new("RGB", (width, height), BACKGROUND)
    draw = pil.ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, MARGIN_PX), _printable(title), INK, font)
    for number, pair in enumerate(pairs):
        x = MARGIN_PX + number * (tile[0] + MARGIN_PX)
        # A character of this font is about 0.55 of its height wide.
        lines = textwrap.wrap(_printable(pair.label), max(8, int(tile[0] / (0.55 * FONT_PX))))[:LABEL_LINES]
        for at, line in enumerate(lines):
            draw.text((x, head_px + at * line_px), line, INK, font)
        for at, picture in enumerate((pair.input, pair.output, *pair.more)):
            image = pil.Image.fromarray(np.ascontiguousarray(picture[..., :3]))
            y = head_px + label_px + at * (tile[1] + MARGIN_PX)
            sheet.paste(image.resize(tile, pil.Image.Resampling.BICUBIC), (x, y))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        sheet.save(draft, format=kind)


def _printable(text: str) -> str:
    """The built-in font has Latin letters only."""
    return text.encode("latin-1", "replace").decode("latin-1")

"""Pillow, loaded on first use; the only file that imports it."""

from __future__ import annotations

from typing import Any


def pillow() -> Any:
    """The package, with those of its modules that are used here: Image, ImageDraw, ImageFont, ImageOps."""
    import PIL
    from PIL import Image, ImageDraw, ImageFont, ImageOps  # noqa: F401

    return PIL

"""The pictures that an IP-Adapter may be shown, by name, and how they are read.

Only those that the host was started with can be named, so that nobody on the page or by OSC has the host open a file of
their choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.params import AS_STARTED
from core.pillow import pillow

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")
MAX_PICTURES = 200
MAX_PIXELS = 100_000_000
"""A file of a few bytes can announce gigabytes."""


class PictureError(RuntimeError):
    """A picture that cannot be used; the message says how to fix it."""


def named(given: Sequence[Path]) -> dict[str, Path | None]:
    """Pictures by the names that `Params.reference` may have: the first as started, None where there is none, then all
    by their file names. given: files, and folders, whose pictures are those that are in them now."""
    found: dict[str, Path | None] = {}
    for path in given:
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        for file in files[:MAX_PICTURES]:
            found.setdefault(file.name, file)
    return {AS_STARTED: next(iter(found.values()), None), **found}


def read(path: Path) -> Any:
    """As Pillow has it, RGB: upright as its EXIF says, over black where it is transparent. Raises `PictureError`."""
    import numpy as np

    pil = pillow()
    if not path.is_file():
        raise PictureError(f"there is no picture {path}; give a {' or '.join(SUFFIXES[:3])} file")
    try:
        with pil.Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(f"{path} has {image.width} x {image.height} pixels; make it smaller")
            upright = pil.ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                upright = pil.Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            seen = upright.convert("RGBA")
    # What Pillow's many parsers raise.
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, pil.Image.DecompressionBombError) as error:
        raise PictureError(f"{path} cannot be read as a picture ({' '.join(str(error).split())[:200]})") from None
    black = pil.Image.new("RGBA", seen.size, (0, 0, 0, 255))
    return pil.Image.alpha_composite(black, seen).convert("RGB")

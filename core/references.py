"""The pictures that an IP-Adapter may be shown, by name, and how they are read and kept.

Only those that the host was started with, and those that were sent to it since and are kept in a folder of their own,
can be named, so that nobody on the page or by OSC has the host open a file of their choice.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from core.atomic import replacing
from core.params import AS_STARTED
from core.pillow import pillow

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")
MAX_PICTURES = 200
MAX_PIXELS = 100_000_000
"""A file of a few bytes can announce gigabytes."""
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "TIFF")
"""Of Pillow's. It knows others whose reading starts other programs."""
MAX_KEPT = 100
KEPT_SIDE_PX = 1024
"""Of the longer side of a picture that is kept: image encoders look at 224 to 336 pixels."""
KEPT_OF_A_RING = 8
MAX_STEM_CHARS = 60


class PictureError(RuntimeError):
    """A picture that cannot be used; the message says how to fix it."""


def named(given: Sequence[Path], kept: Path | None = None) -> dict[str, Path | None]:
    """Pictures by the names that `Params.reference` may have: the first as started, None where there is none, then all
    by their file names. given: files, and folders, whose pictures are those that are in them now. kept: a folder with
    pictures that came since, which need not exist; none of them is the first."""
    found: dict[str, Path | None] = {}
    for path in given:
        for file in _pictures_in(path) if path.is_dir() else [path]:
            found.setdefault(file.name, file)
    names = {AS_STARTED: next(iter(found.values()), None), **found}
    if kept is not None and kept.is_dir():
        for file in _pictures_in(kept):
            names.setdefault(file.name, file)
    return names


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)[:MAX_PICTURES]


def read(path: Path) -> Any:
    """As Pillow has it, RGB: upright as its EXIF says, over black where it is transparent. Raises `PictureError`."""
    if not path.is_file():
        raise PictureError(f"there is no picture {path}; give a {' or '.join(SUFFIXES[:3])} file")
    return _read(path, str(path))


def _read(source: Path | IO[bytes], name: str) -> Any:
    import numpy as np

    pil = pillow()
    pil.Image.init()
    try:
        with pil.Image.open(source, formats=[form for form in FORMATS if form in pil.Image.OPEN]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(f"{name} has {image.width} x {image.height} pixels; make it smaller")
            upright = pil.ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                upright = pil.Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            seen = upright.convert("RGBA")
    # What Pillow's many parsers raise.
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, pil.Image.DecompressionBombError) as error:
        raise PictureError(f"{name} cannot be read as a picture ({' '.join(str(error).split())[:200]})") from None
    black = pil.Image.new("RGBA", seen.size, (0, 0, 0, 255))
    return pil.Image.alpha_composite(black, seen).convert("RGB")


def keep(data: bytes, name: str, folder: Path, others: Collection[str] = ()) -> str:
    """Keep a picture that was sent as a file of one of `FORMATS`, made as small as `KEPT_SIDE_PX`, in a folder that is
    made with the first; returns the name that it has from then on. name: what the sender calls it, which may be
    anything. others: names that it may not have. Raises `PictureError`."""
    stem = _stem(name)
    made = _jpeg(data, stem)
    with _told(stem, folder):
        there = {file.name.casefold(): file for file in folder.iterdir()}
        for number in range(1, MAX_KEPT + len(others) + 2):
            free = f"{stem}.jpg" if number == 1 else f"{stem} {number}.jpg"
            before = there.get(free.casefold())
            if free in others:
                continue
            if before is None:
                break
            if before.read_bytes() == made:
                return before.name
        if len(there) >= MAX_KEPT:
            raise PictureError(f"{folder} holds {MAX_KEPT} pictures, which is the most; remove some of them")
        _write(folder / free, made)
    return free


def keep_newest(data: bytes, name: str, folder: Path, used: str, others: Collection[str] = ()) -> str:
    """The same for pictures that come again and again: the newest `KEPT_OF_A_RING` of a name stay, and the one in use,
    by its name."""
    stem = _stem(name)
    made = _jpeg(data, stem)
    numbered = [f"{stem} {number}.jpg" for number in range(1, KEPT_OF_A_RING + len(others) + 1)]
    names = [one for one in numbered if one not in others][:KEPT_OF_A_RING]
    with _told(stem, folder):
        free = next((one for one in names if not (folder / one).exists()), None)
        if free is None:
            free = min((one for one in names if one != used), key=lambda one: (folder / one).stat().st_mtime_ns)
        _write(folder / free, made)
    return free


def _stem(name: str) -> str:
    """Of a file, whatever the sender calls it."""
    known = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else " " for c in name[: 2 * MAX_STEM_CHARS])
    suffix = next((suffix for suffix in SUFFIXES if known.lower().endswith(suffix)), "")
    words = " ".join(known[: len(known) - len(suffix)].split())
    return words.strip(". ")[:MAX_STEM_CHARS].strip(". ") or "picture"


def _jpeg(data: bytes, name: str) -> bytes:
    image = _read(io.BytesIO(data), name)
    image.thumbnail((KEPT_SIDE_PX, KEPT_SIDE_PX))
    made = io.BytesIO()
    image.save(made, "JPEG", quality=95)
    return made.getvalue()


@contextlib.contextmanager
def _told(name: str, folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise PictureError(f"{name} cannot be kept in {folder}: {error.strerror or error}") from None


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as draft:
        draft.write_bytes(data)

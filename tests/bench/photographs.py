"""Photographs to judge by, of packages that bring some: for evaluation only, nothing is ever trained on them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

PHOTOGRAPH_PX = 256
# Photographs and scans that the scikit-image and scikit-learn packages bring, and how many pieces of each.
SCIKIT_IMAGE = {
    **{"astronaut.png": 3, "coffee.png": 3, "chelsea.png": 2, "rocket.jpg": 2, "camera.png": 2},
    **{"motorcycle_left.png": 2, "motorcycle_right.png": 1, "coins.png": 1, "hubble_deep_field.jpg": 1, "ihc.png": 1},
    **{"retina.jpg": 1, "moon.png": 1, "brick.png": 1, "gravel.png": 1, "grass.png": 1, "clock_motion.png": 1},
}
SCIKIT_LEARN = {"china.jpg": 3, "flower.jpg": 2}


def pieces(path: Path, count: int, side_px: int = PHOTOGRAPH_PX) -> list[Tensor]:
    """Squares (side, side, 3), uint8, of a picture: the largest one, then ones of two thirds of it, left and right."""
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    whole = min(width, height)
    part = whole * 2 // 3
    corners = [((width - whole) // 2, (height - whole) // 2, whole), (0, 0, part), (width - part, 0, part)]
    cut = [picture.crop((x, y, x + side, y + side)) for x, y, side in corners[:count]]
    resized = [c.resize((side_px, side_px), Image.Resampling.LANCZOS) for c in cut]
    return [torch.frombuffer(bytearray(r.tobytes()), dtype=torch.uint8).view(side_px, side_px, 3) for r in resized]


def photographs() -> tuple[Tensor, list[str]]:
    """(N, 3, side, side) in 0..1 and their names, of those of the packages that are installed. Raises `ImportError`
    where none is."""
    import importlib.util

    found: list[tuple[str, Tensor]] = []
    for package, folder, names in (("skimage", "data", SCIKIT_IMAGE), ("sklearn", "datasets/images", SCIKIT_LEARN)):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        place = Path(spec.submodule_search_locations[0]) / folder
        for name, count in names.items():
            if (place / name).is_file():
                found += [(name, piece) for piece in pieces(place / name, count)]
    if not found:
        raise ImportError("no photographs to judge by; install scikit-image and scikit-learn")
    stacked = torch.stack([piece for _, piece in found]).permute(0, 3, 1, 2).float() / 255.0
    return stacked, [name for name, _ in found]

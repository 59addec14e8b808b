"""Models that lie in the Hugging Face hub's cache on this machine, by the names that they have on the hub.

Other programs (ComfyUI's diffusers nodes, StreamDiffusionTD, any Python script) have put them there already. Nothing is
asked of the network here, and nothing imported that would.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""The name of a model on the hub."""
_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:/.*)?(?:[?#].*)?")
"""The address of its page there."""


def cache_folder() -> Path:
    """Where the hub's own library keeps what it has downloaded, by the variables that it reads itself."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or home) / "hub").expanduser()


def cached(name: str) -> Path:
    """Where the cache has a model of the hub, whether there is one or not."""
    return cache_folder() / f"models--{name.replace('/', '--')}"


def hub_name(text: str) -> str:
    """ORG/NAME of the address of a model's page on the hub; any other text as it is."""
    page = _PAGE.fullmatch(text.strip())
    return page[1] if page else text


def located(name: str) -> Path:
    """The folder that a name for a model stands for: of the hub's cache, the snapshot in it; of a name on the hub, the
    same, where that model is in the cache, and so does the address of its page. Anything else is taken for a folder's
    path."""
    name = hub_name(name)
    path = _at_home(Path(name))
    if not path.exists() and HUB_ID.fullmatch(path.as_posix()):
        path = cached(path.as_posix())
    return _snapshot(path) or _at_home(Path(name))


def _at_home(path: Path) -> Path:
    """With "~" put in: shells leave it in words such as --model=~/models/turbo."""
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user
        return path


def _snapshot(folder: Path) -> Path | None:
    """The snapshot that was downloaded under the name "main", or else the last whole one; None where there is none."""
    try:
        main = folder / "snapshots" / (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        main = folder / "none"
    if (main / "unet").is_dir():
        return main
    whole = [path for path in folder.glob("snapshots/*") if (path / "unet").is_dir()]
    return max(whole, key=lambda path: path.stat().st_mtime, default=None)

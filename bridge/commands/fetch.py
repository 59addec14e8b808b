"""`frameloom fetch ORG/NAME`: a model from the Hugging Face hub, for `--model ORG/NAME`.

The one command that asks anything of the network, and only when it is typed. It takes of a repository what this project
reads: settings, tokenizers and safetensors weights, of those the half-precision ones where there are any. An
interrupted download goes on where it was.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser
from bridge.terminal import PROGRAM, say
from core.hub import HUB_ID, cache_folder, cached, hub_name, located

NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
_SETTINGS = re.compile(
    r"model_index\.json|(?:scheduler|tokenizer|tokenizer_2)/.+|[a-z_0-9]+/[\w.-]*config\.json|[\w.-]+index[\w.]*\.json"
)
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?(?:\.(?P<late>\w+))?\.safetensors"
)
_WORDS = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
"""Of a repository of CLIP alone: what single files lack (`core.families.single_file`)."""
MARGIN = 1.05
"""Of the size of what is to come, what has to be free on the disk."""


def wanted(files: Iterable[str]) -> list[str]:
    """Of a repository's files, those to download."""
    files = sorted(files)
    if "model_index.json" not in files and set(_WORDS[:2]) <= set(files):
        return [name for name in files if name in _WORDS]
    chosen = [name for name in files if _SETTINGS.fullmatch(name)]
    for network in NETWORKS:
        variants: dict[str, list[str]] = {}
        for name in files:
            folder, _, rest = name.rpartition("/")
            match = _WEIGHTS.fullmatch(rest)
            if folder == network and match:
                variants.setdefault(match["variant"] or match["late"] or "", []).append(name)
        if variants:
            variant = "fp16" if "fp16" in variants else "" if "" in variants else min(variants)
            chosen += variants[variant]
            # What tells in which file of several a weight lies.
            chosen += [
                n for n in files if n.startswith(f"{network}/") and n.endswith(".index.json") and n not in chosen
            ]
    return sorted(set(chosen))


def _megabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _reason(error: Exception, name: str) -> str:
    """What went wrong, in a sentence that says how to fix it."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return f"{name} wants its terms accepted: do so on its page, then set HF_TOKEN to a token of yours"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub has no model {name}, or it is private (then set HF_TOKEN); look at the name again"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {cache_folder()} is full; make room, and the same command goes on with it"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it to download"
    return f"the download did not end well ({' '.join(str(error).split())[:200]}); the same command goes on with it"


def fetch(name: str) -> Path:
    """Download a model and return its folder. Raises `FetchError`."""
    from httpx2 import HTTPError  # what the hub's library asks the network with, and does not wrap everywhere
    from huggingface_hub import HfApi, snapshot_download

    try:
        about = HfApi().model_info(name, files_metadata=True)
        sizes: Mapping[str, int] = {file.rfilename: file.size or 0 for file in about.siblings or ()}
        files = wanted(sizes)
        whole = "model_index.json" in files and any(file.endswith(".safetensors") for file in files)
        if not whole and not _is_vocabulary(files):
            raise FetchError(
                f"{name} is no whole model in the diffusers layout with safetensors weights, which is what is read here"
            )
        there = _there(cached(name), about.sha or "", sizes)
        to_come = sum(sizes[file] for file in files if file not in there)
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        say(f"{name}: {len(files)} files, {_megabytes(to_come)} to download to {cache}")
        if to_come * MARGIN > free:
            raise FetchError(f"only {_megabytes(free)} are free there; make room, or set HF_HOME to another disk")
        snapshot_download(name, revision=about.sha, allow_patterns=files)
        # Under its name the newest is found the next time.
        refs = cached(name) / "refs"
        refs.mkdir(parents=True, exist_ok=True)
        (refs / "main").write_text(about.sha or "", encoding="utf-8")
    except FetchError:
        raise
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise FetchError(_reason(error, name)) from error
    return cached(name) / "snapshots" / (about.sha or "") if _is_vocabulary(files) else located(name)


def _is_vocabulary(files: Iterable[str]) -> bool:
    return _WORDS[0] in files


class FetchError(RuntimeError):
    """A model could not be had; the message says how to fix that."""


def _there(folder: Path, revision: str, sizes: Mapping[str, int]) -> set[str]:
    """Files of a revision that are there already."""
    snapshot = folder / "snapshots" / revision
    return {name for name, size in sizes.items() if _size(snapshot / name) == size}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def main(argv: list[str] | None = None) -> int:
    """Download one model; 1 when that did not succeed."""
    parser = Parser(
        "fetch",
        description="Download a model of the Hugging Face hub, for --model ORG/NAME. Nothing else asks the network.",
    )
    parser.add_argument(
        "name", type=hub_name, metavar="ORG/NAME", help="such as stabilityai/sd-turbo, or the address of its page"
    )
    args = parser.parse_args(argv)
    if not HUB_ID.fullmatch(args.name):
        parser.error(f"{args.name}: give ORG/NAME, as the model's page on the hub shows it")
    # Its reports of use; the file transfer library is asked for by name where it is there.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from core.folder import ModelError

    try:
        folder = fetch(args.name)
        if (folder / _WORDS[0]).is_file():
            say(f"ready: the vocabulary for single files, such as {PROGRAM} demo --model FILE.safetensors")
            return 0
        _check(folder)
    except (FetchError, ModelError) as error:
        say(f"fetch: {error}")
        return 1
    except KeyboardInterrupt:
        say("fetch: stopped; the same command goes on with it")
        return 130
    say(f"ready: {PROGRAM} demo --model {args.name}")
    return 0


def _check(folder: Any) -> None:
    from core.families.folders import check_folder

    check_folder(folder)

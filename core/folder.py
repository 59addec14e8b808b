"""Parts of a model folder in the diffusers layout, opened and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from core.words import Words

if TYPE_CHECKING:  # torch costs seconds, and looking at a folder needs none of it
    from torch import Tensor


class ModelError(RuntimeError):
    """A model folder that cannot be used; the message names the file and says how to fix it."""


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; restore the model folder (git checkout, or download it again)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}); restore the model folder") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no settings; restore the model folder")
    return values


@contextmanager
def steady(paths: Iterable[Path]) -> Iterator[None]:
    """What is loaded from files and folders while this is open is of one version of them. Raises `ModelError` where it
    is not: half of an old model and half of a new one may fit each other, and paint nonsense."""
    paths = tuple(paths)
    before = _stamps(paths)
    try:
        yield
    except ModelError as error:
        if _stamps(paths) == before:
            raise
        raise ModelError(_CHANGED.format(f" ({error})")) from None
    if (after := _stamps(paths)) != before:
        names = sorted(str(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        raise ModelError(_CHANGED.format(f" ({names[0]})"))


_CHANGED = "what was being loaded changed meanwhile{}; load it again when whatever writes it is done"
_READ = (".safetensors", ".json", ".txt")


def _stamps(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    found = {}
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else (path,):
            try:
                about = file.stat()
            except OSError:  # gone since it was listed
                continue
            if file.suffix in _READ:
                found[file] = (about.st_size, about.st_mtime_ns)
    return found


def check_weights(folder: Path) -> None:
    """Open every weights file, so that a damaged one is named before anything is built from it."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file; restore the model folder, or convert its .bin weights")
    for path in files:
        try:
            with safe_open(path, framework="pt") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} is damaged ({error}); restore the file (git checkout, or download it again)"
            ) from None


def weights_of(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file by their names, and the notes beside them. what: the file is to be. Raises
    `ModelError` for a file that cannot be read; a pickle may run whatever its maker wanted, so none is opened."""
    if not path.is_file():
        raise ModelError(f"there is no {what} file {path}; give a .safetensors file")
    if path.suffix != ".safetensors":
        raise ModelError(f"{path} is no .safetensors file, the only kind of {what} that is read; get it as one")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is a damaged .safetensors file ({error}); get it again") from None


# What diffusers, transformers and the parsers below them raise for files that are whole but do not make sense.
SENSELESS = (
    SafetensorError,
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)


def part(folder: Path, kind: Any, **options: Any) -> Any:
    """One part by its class's own loader. Raises `ModelError`."""
    # Here, so that looking at a folder costs no library.
    from core.libraries import StrictDataclassError

    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}; give one in the diffusers layout")
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except (*SENSELESS, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{folder} cannot be loaded ({reason}); restore the model folder") from error


# Positions counted through, which older versions of transformers kept; what a whole CLIP has beside its text encoder.
_HARMLESS_WEIGHTS = re.compile(r"(^|\.)position_ids$|^(text_projection|visual_projection|vision_model)\.|^logit_scale$")


_PLAIN = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors")
_VARIANT = re.compile(r"(?:diffusion_pytorch_model|model)(?:-\d+-of-\d+)?\.(\w+?)(?:-\d+-of-\d+)?\.safetensors")


def variant_of(folder: Path) -> str | None:
    """The variant of the weights to load: None for the plain ones where they are there, otherwise fp16's or, failing
    that, the first by name."""
    names = [path.name for path in folder.glob("*.safetensors")]
    if any(_PLAIN.fullmatch(name) for name in names):
        return None
    variants = sorted({match[1] for name in names if (match := _VARIANT.fullmatch(name))})
    return "fp16" if "fp16" in variants else next(iter(variants), None)


def network(folder: Path, kind: Any, **options: Any) -> Any:
    """One network with every weight from its files: the loaders fill what is missing with random values."""
    options["variant"] = variant_of(folder)
    module, report = part(folder, kind, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    wrong = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    if wrong:
        raise ModelError(
            f"{folder}: {len(wrong)} of the weights that its config.json asks for are missing or of another shape"
            f" ({wrong[0]}); restore the model folder"
        )
    unused = [name for name in report["unexpected_keys"] if not _HARMLESS_WEIGHTS.search(name)]
    if unused:
        raise ModelError(
            f"{folder} holds {len(unused)} weights that its config.json does not ask for ({unused[0]}), so they would"
            " not be used; restore the config.json that belongs to them"
        )
    if not all(bool(weight.isfinite().all()) for weight in module.state_dict().values()):
        raise ModelError(f"{folder}: the weights hold values that are no numbers; restore the model folder")
    return module


def read_words(folder: Path) -> Words | None:
    """What `words.json` in a model folder says of its words, optional: {"groups": {"styles": ["neon", ...], ...},
    "fillers": ["of", ...]}; None where it says nothing, as models do that know nearly all.

    Raises `ModelError` for a file that cannot be understood.
    """
    path = folder / "words.json"
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        groups = {str(name): tuple(map(str, words)) for name, words in told["groups"].items()}
        return Words(groups, tuple(map(str, told.get("fillers", ()))))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f'{path}: {error}; write {{"groups": {{"styles": ["neon"]}}, "fillers": []}}') from None

"""What people give for a model folder and is none: named, with what to do. Nothing here is loaded."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from core.folder import ModelError
from core.hub import HUB_ID

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_OTHERS = {".gguf": "a GGUF file", ".onnx": "an ONNX file", ".engine": "a TensorRT engine", ".zip": "an archive"}
_LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json")
_WHOLE = "a whole model in a single file"


def refuse_other_layouts(path: Path) -> None:
    """Raise `ModelError` for a file that is no whole model, a LoRA, the hub's cache, a hub name, a part of a model, a
    family that is not supported, and whatever else is no folder in the diffusers layout; a part that such a folder
    lacks, its family names."""
    if path.is_file():
        what = _file(path)
        if what != _WHOLE:
            raise ModelError(f"{path} is {what}")
        return
    if not path.exists():
        if path.suffix in (".safetensors", *_PICKLES, *_OTHERS):
            raise ModelError(f"there is no {path}; a model is a folder in the diffusers layout, or 'embedded'")
        if HUB_ID.fullmatch(path.as_posix()):
            raise ModelError(
                f"there is no folder {path}; if that is a model's name on the Hugging Face hub, download it first:"
                f" python3 run.py fetch {path.as_posix()}"
            )
        raise ModelError(f"there is no model folder {path}; name a folder in the diffusers layout, or 'embedded'")
    if (path / "unet").is_dir():
        return
    snapshots = sorted(p for p in path.glob("snapshots/*") if p.is_dir())
    if snapshots or (path / "blobs").is_dir() or (path / "refs").is_dir():
        raise ModelError(f"{path} is the hub's cache of a model, and none in it is whole; download it again")
    if any((path / name).is_file() for name in _LORA_FILES):
        raise ModelError(f"{path} is a LoRA: it changes a model and is none; merge it into one, or give a whole model")
    if (path / "transformer").is_dir():
        raise ModelError(
            f"{path} is a model with a transformer (Flux, SD 3, ...), which is not supported; use Stable Diffusion 1.x,"
            " 2.x or XL"
        )
    if (path / "config.json").is_file() and (path.parent / "model_index.json").is_file():
        raise ModelError(f"{path} is one part of a model; give the folder above it: {path.parent}")
    files = sorted(p for p in path.glob("*") if p.suffix in (".safetensors", *_PICKLES, *_OTHERS))
    if files:
        whole = next((file for file in files if _file(file) == _WHOLE), None)
        if whole is not None:
            raise ModelError(f"{path} is no model in the diffusers layout; in it, {whole.name} is {_WHOLE}: give that")
        raise ModelError(f"{path} is no model in the diffusers layout; in it, {files[0].name} is {_file(files[0])}")
    raise ModelError(f"{path} has no folder 'unet'; it is not a whole model in the diffusers layout")


def _file(path: Path) -> str:
    """What a file is, and what to do with it; goes on after "is"."""
    if path.suffix in _PICKLES:
        return (
            "a single file of Python pickles, which can run programs when it is read and is refused; get it as "
            ".safetensors"
        )
    if path.suffix in _OTHERS:
        return f"{_OTHERS[path.suffix]}, which is not supported; give a folder in the diffusers layout"
    if path.suffix != ".safetensors":
        return "a file and no model folder; give a folder in the diffusers layout, or 'embedded'"
    try:
        with safe_open(path, framework="pt") as weights:
            names = list(weights.keys())
    except (SafetensorError, OSError):
        return "a damaged .safetensors file; get it again"
    if any("lora" in name.lower() for name in names):
        return "a LoRA file: it changes a model and is none; merge it into one, or give a whole model"
    if any(name.startswith("model.diffusion_model.") for name in names):
        return _WHOLE
    return "a single file of weights, a part of a model; give the whole folder in the diffusers layout"

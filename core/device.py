"""Which device and which dtype: decided once, from one argument each."""

from __future__ import annotations

import os

import torch

DEVICES = ("cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class DeviceError(RuntimeError):
    """The device or dtype asked for cannot be had here; the message names what can."""


def available_devices() -> tuple[str, ...]:
    """The devices of `DEVICES` that this machine can use, best first."""
    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return (*found, "cpu")


def pick_device(name: str | None = None) -> torch.device:
    """The device called `name` ("cuda:1" counts as cuda), or the best available one for None or "auto".

    Raises `DeviceError` when it is unknown or absent.
    """
    here = available_devices()
    if name is None or name == "auto":
        return torch.device(here[0])
    kind = name.partition(":")[0]
    if kind not in here:
        raise DeviceError(f"device {name!r} is not available here; use one of {', '.join(here)}")
    return torch.device(name)


def cpu_has_fast_bf16() -> bool:
    """True when the processor multiplies bfloat16 natively (AMX tiles or AVX-512 BF16; FEAT_BF16 on Arm)."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("amx_tile", "amx_bf16", "avx512_bf16", "bf16"))


def pick_dtype(device: torch.device, name: str | None = None) -> torch.dtype:
    """The dtype called `name`, or the one that is fastest on `device` without harm to the picture.

    Raises `DeviceError` for an unknown name.
    """
    if name is not None and name != "auto":
        if name not in DTYPES:
            raise DeviceError(f"dtype {name!r} is unknown; use one of auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if cpu_has_fast_bf16() else torch.float32


def host_threads(device: torch.device) -> int | None:
    """CPU threads that one tensor operation should use in a host whose three stages run at once; None: torch's choice.

    On a CPU the stages share its cores: half of them each is faster than all three taking all of them in turn, since
    small operations gain little from a second thread.
    """
    if device.type != "cpu":
        return None
    return max(1, (os.cpu_count() or 2) // 2)

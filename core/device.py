"""Which device, and which dtypes it computes in as fast as it can."""

from __future__ import annotations

from typing import Any

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# The names that torch.cpu.get_capabilities gives to multiplication in a dtype, on x86 and on Arm.
_NATIVE = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16", "fp16"),
}


class DeviceError(RuntimeError):
    """The device or dtype asked for is not available here; the message names what is."""


def available_devices() -> tuple[str, ...]:
    """Those of cuda, mps and cpu that this machine can use, best first."""
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
    kind, colon, number = name.partition(":")
    if kind not in here:
        raise DeviceError(f"device {name!r} is not available here; use one of {', '.join(here)}")
    if colon and kind == "cuda" and not (number.isdecimal() and int(number) < torch.cuda.device_count()):
        cards = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
        raise DeviceError(f"device {name!r} is not available here; use one of {', '.join(cards)}")
    return torch.device(name)


def memory_format(device: torch.device) -> torch.memory_format:
    """How pictures and latents (R, c, h, w) lie in memory where a network reads them; on CUDA, where a library would
    otherwise rearrange them in every call, its weights too."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def uploaded(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host's memory on `device`. On CUDA nobody waits for it, by way of page-locked memory, which torch
    keeps and gives out again once the copy is done."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def downloaded(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in the host's memory. Of a card's it is filled when the work of the current CUDA stream is done, in
    page-locked memory."""
    return tensor.to("cpu", non_blocking=True)


def given(device: torch.device) -> Any:
    """Stands for what this thread has given to a card so far; None elsewhere."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def after(event: Any, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that was made on another CUDA stream before the event of `given`, for this thread's. What it gives to
    the card from now on comes after that."""
    if event is not None:
        stream = torch.cuda.current_stream(tensor.device)
        stream.wait_event(event)
        tensor.record_stream(stream)
    return tensor


def settle(device: torch.device) -> None:
    """Wait until `device` has done what this thread has given to it: then any other thread may read it."""
    if device.type == "cuda":
        done = torch.cuda.Event(blocking=True)
        done.record(torch.cuda.current_stream(device))
        done.synchronize()


def dtype_called(name: str | None) -> torch.dtype | None:
    """The dtype called `name`; None for None or "auto". Raises `DeviceError` for an unknown name."""
    if name is None or name == "auto":
        return None
    if name not in DTYPES:
        raise DeviceError(f"dtype {name!r} is unknown; use one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype as `DTYPES` has it."""
    return str(dtype).removeprefix("torch.")


def native_dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    """The dtypes that `device` multiplies in hardware, the likely fastest first; float32 is always one of them.

    A processor that lacks one computes in it all the same, about a hundred times slower, or not at all.
    """
    if device.type == "cuda":
        # float16 first: as fast as bfloat16, and three bits more of every value. Older cards only emulate bfloat16.
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.float16, *((torch.bfloat16,) if has_bfloat16 else ()), torch.float32)
    if device.type == "mps":
        return (torch.float16, torch.float32)
    capabilities = torch.cpu.get_capabilities()
    # ATen held to an older instruction set (ATEN_CPU_CAPABILITY) still reports what the processor has.
    held = torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT") and "avx2" in capabilities
    has = {d for d, names in _NATIVE.items() if not held and any(capabilities.get(name) for name in names)}
    return tuple(d for d in (torch.bfloat16, torch.float32, torch.float16) if d in has or d == torch.float32)

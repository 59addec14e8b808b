"""Errors after which a device cannot be used again by this process."""

from __future__ import annotations

GONE = "the card cannot be used any more by this process ({error}); end it and start it again"

_CODES = (214, 700, 702, 710, 714, 715, 716, 717, 718, 719)
"""Of CUDA's runtime: uncorrectable memory error, illegal address, time-out, assertion, and other faults of a kernel,
all of which "leave the process in an inconsistent state" (CUDA Runtime API, cudaError)."""
_WORDS = (
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "illegal instruction",
    "misaligned address",
    "hardware stack error",
    "uncorrectable ecc",
    "launch timed out",
)


def is_permanent(error: BaseException) -> bool:
    """Whether `error`, or what it came from, has left the card's context unusable: every later call in this process
    fails with the same error, whatever it asks for."""
    seen: BaseException | None = error
    while seen is not None:
        said = str(seen).lower()
        if getattr(seen, "error_code", None) in _CODES or ("cuda" in said and any(words in said for words in _WORDS)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False

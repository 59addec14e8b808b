"""An array that knows how often its pixels were gone through."""

from __future__ import annotations

from typing import Any

import numpy as np

WHOLE = 20_000
"""Operations on fewer elements than this are looks at some pixels, not passes over the picture."""


class Counted(np.ndarray):  # type: ignore[type-arg]
    """A view of an array; `Counted.passes` grows with every numpy operation that reads a whole one."""

    passes = 0

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **how: Any) -> Any:
        return _counted(vars(np.ufunc)[method].__get__(ufunc), inputs, how)

    def __array_function__(self, function: Any, types: Any, inputs: Any, how: Any) -> Any:
        return _counted(function, inputs, how)


def _counted(function: Any, inputs: Any, how: dict[str, Any]) -> Any:
    if any(isinstance(i, Counted) and i.size > WHOLE for i in inputs):
        Counted.passes += 1
    return function(*(np.asarray(i) if isinstance(i, Counted) else i for i in inputs), **how)

"""The live parameters of a running host: one `Params` reference that OSC and the page replace and the loop reads.

Knows nothing of who sets values, of sockets or of frames. Standard library and `core.params` only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from core.params import Params

Callback = Callable[[Params, int], None]


class LiveParams:
    """Holds the current `Params`; any thread may set, any thread may read.

    A reader takes one reference and never sees half an update. `revision` counts the changes, from 0; setting a
    value that is already there changes nothing, so a controller that repeats itself at 60 Hz costs nobody anything.
    """

    def __init__(self, params: Params | None = None) -> None:
        # One tuple, replaced whole: the reference swap is atomic in CPython, so readers need no lock.
        self._state: tuple[Params, int] = (params if params is not None else Params(), 0)
        self._writing = threading.Lock()
        self._callbacks: tuple[Callback, ...] = ()

    @property
    def current(self) -> Params:
        """The parameters in force now. Lock-free."""
        return self._state[0]

    @property
    def revision(self) -> int:
        """How many changes were made since the start. Lock-free."""
        return self._state[1]

    def latest(self) -> tuple[Params, int]:
        """The parameters and the revision that belongs to them, read together. Lock-free."""
        return self._state

    def set(self, name: str, value: Any) -> Params:
        """Replace one field; see `update`."""
        return self.update({name: value})

    def update(self, values: Mapping[str, Any]) -> Params:
        """Replace the named fields, all or none, and return the parameters then in force.

        Raises `core.params.ParamError` for an unknown name, a wrong type or a value out of range; nothing has
        changed then. Callbacks run in the calling thread before this returns.
        """
        return self.adjust(lambda _: values)

    def adjust(self, change: Callable[[Params], Mapping[str, Any]]) -> Params:
        """Like `update`, with values that `change` makes of the parameters in force; nobody sets any in between. It
        must be quick and must not set any itself."""
        with self._writing:
            old, revision = self._state
            new = old.with_values(**change(old))
            if new == old:
                return old
            self._state = (new, revision + 1)
            callbacks = self._callbacks
        for callback in callbacks:
            callback(new, revision + 1)
        return new

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call `callback(params, revision)` after every change; returns a function that ends the subscription.

        The callback runs in the thread that made the change and must be quick and must not raise. Two threads that
        set at once may deliver out of order: a callback that keeps the values keeps those of the higher revision.
        """
        with self._writing:
            self._callbacks = (*self._callbacks, callback)

        def unsubscribe() -> None:
            with self._writing:
                self._callbacks = tuple(c for c in self._callbacks if c is not callback)

        return unsubscribe

"""Pictures that are sent to a host as it runs, for its IP-Adapter: from the page, or what a ring carries just now.

By OSC: /reference/take [in | out | CHANNEL] keeps the picture that the channel's input, its output or the input of
another channel shows now, and makes it the reference; answered by /reference/taken NAME.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from bridge.control.live import LiveParams
from bridge.control.osc import Alias, Answer
from bridge.control.osc_messages import OscRefused
from core.references import PictureError, keep, keep_newest

MAX_PICTURE_BYTES = 32 << 20


class References:
    """Keeps pictures in `folder` and makes them the reference of the channel whose parameters are `live`.

    given: the names of the pictures that the host was started with. wanted: whether the model that runs is shown any.
    look: a picture that a ring shows now, as a JPEG, or nothing where there is none. Any thread may call; all raise
    `PictureError` with a sentence, and nothing has changed then.
    """

    def __init__(
        self,
        channel: str,
        live: LiveParams,
        folder: Path,
        given: Callable[[], Collection[str]],
        wanted: Callable[[], bool],
        look: Callable[[str], bytes],
    ) -> None:
        self._channel = channel
        self._live = live
        self._folder = folder
        self._given = given
        self._wanted = wanted
        self._look = look

    def add(self, data: bytes, name: str) -> str:
        """Keep a picture, a file as it was sent under that name; returns the name that it has here."""
        self._check()
        if len(data) > MAX_PICTURE_BYTES:
            raise PictureError(f"a picture may have {MAX_PICTURE_BYTES >> 20} MB; make it smaller")
        kept = keep(data, name, self._folder, self._given())
        self._live.set("reference", kept)
        return kept

    def take(self, of: str = "in") -> str:
        """Keep what a ring shows now. of: "in" or "out" of this channel, or another channel, whose input it is."""
        self._check()
        channel, side = (self._channel, of) if of in ("in", "out") else (of, "in")
        data = self._look(f"{channel}.{side}")
        if not data:
            raise PictureError(f"there is no picture on {channel}.{side} now; start what writes it")
        kept = keep_newest(data, f"{channel} {side}", self._folder, self._live.current.reference, self._given())
        self._live.set("reference", kept)
        return kept

    def _check(self) -> None:
        if not self._wanted():
            raise PictureError("no IP-Adapter looks at pictures here; start the host with --ip-adapter FILE")


def reference_commands(references: References) -> Mapping[str, Alias]:
    """What `bridge.control.osc.OscServer` does with the address."""

    def take(address: str, arguments: list[Any]) -> Answer:
        if len(arguments) > 1 or not all(isinstance(argument, str) for argument in arguments):
            raise OscRefused(address, "send in, out or the name of another channel, or nothing, which is in")
        try:
            return Answer(replies=(("/reference/taken", references.take(*arguments)),))
        except PictureError as error:
            raise OscRefused(address, str(error)) from None

    return {"/reference/take": take}

"""The path of an encoded frame: U-Net, decode, publish, each on its lane."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bridge.host.ingest import Encoded
from core.lanes import Lanes, Mark


@dataclass(frozen=True)
class Dispatched:
    """One frame's way, as marks: what became of the frames that finished in its turn."""

    encoded: Encoded
    latents: Mark
    picture: Mark


class FramePath:
    """Hands frames over, one after the other; for one thread.

    out(dispatched): the end of the way of each, in order, on the lane "publish".
    """

    def __init__(self, lanes: Lanes, out: Callable[[Dispatched], None]) -> None:
        self._lanes = lanes
        self._out = out
        self._numbers = itertools.count()

    def dispatch(self, encoded: Encoded) -> tuple[Dispatched, Mark]:
        """Returns at once, or when it is done, as the lanes have it; the second mark is that of the end."""
        number = next(self._numbers)
        stream, plan = encoded.work.stream, encoded.work.plan

        def turn() -> Any:
            return stream.advance(encoded.entering.result(), encoded.tag, plan)

        def decode() -> Any:
            finished = latents.result()
            return None if finished is None else stream.decode(finished).on_host()

        latents = self._lanes.run(
            "unet", turn, after=(encoded.entering,), reads=(encoded.buffer,), writes=("flight", ("latents", number))
        )
        picture = self._lanes.run(
            "decode", decode, after=(latents,), reads=(("latents", number),), writes=(("picture", number),)
        )
        dispatched = Dispatched(encoded, latents, picture)
        end = self._lanes.run(
            "publish", lambda: self._out(dispatched), after=(picture,), reads=(("picture", number),), writes=("ring",)
        )
        return dispatched, end

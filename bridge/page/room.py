"""A channel as the page's server knows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.page.ring_view import RingView


@dataclass(frozen=True)
class Channel:
    """One channel that a gateway shows: the rings name.in and name.out, which need not exist yet.

    live, statistics: of its host, when that runs in this process; without them the pictures are shown and the
    parameters are not. examples: prompts that the page offers.
    """

    name: str
    live: LiveParams | None = None
    statistics: Statistics | None = None
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Room:
    """One channel while it is served."""

    about: Channel
    sides: dict[str, RingView]

    def params(self) -> dict[str, Any]:
        """The message with the values in force; without a host in this process there are none."""
        if self.about.live is None:
            return {"type": "params", "revision": 0, "values": {}}
        params, revision = self.about.live.latest()
        return {"type": "params", "revision": revision, "values": asdict(params)}

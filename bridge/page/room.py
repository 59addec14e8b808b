"""A channel as the page's server knows it."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from bridge.control.live import LiveParams
from bridge.control.morph import EASINGS
from bridge.control.presets import Presets
from bridge.control.references import References
from bridge.control.statistics import Statistics
from bridge.page.ring_view import RingView
from core.params import SPECS, Spec
from core.words import Words


class RunningHost(Protocol):
    """What a page shows of a host beside its pictures."""

    @property
    def phase(self) -> str:
        """ "loading", "ready", or why it ended."""

    @property
    def words(self) -> Words | None:
        """Those that the model knows, where it says so."""

    @property
    def specs(self) -> Sequence[Spec]:
        """The live parameters, as they act on the model."""

    @property
    def model_name(self) -> str:
        """The model in a word."""

    @property
    def preparing(self) -> str:
        """What is being made ready while frames are painted without it, in words; nothing: ""."""


class Recordings(Protocol):
    """What records a channel; see `bridge.recording.process`."""

    def start(self) -> None:
        """Raises an exception whose text says why not."""

    def stop(self) -> None:
        """Waits for the file."""

    def state(self) -> dict[str, Any]:
        """active, file, seconds, message."""


@dataclass(frozen=True)
class Channel:
    """One channel that a gateway shows: the rings name.in and name.out, which need not exist yet.

    live, statistics: of its host, when that runs in this process; without them the pictures are shown and the
    parameters are not. examples: prompts that the page offers. host: the host itself, in this process.
    presets: of its host; None where none are kept. recordings: what records it; None where nothing does.
    references: what keeps pictures for an IP-Adapter; None without a host in this process.
    """

    name: str
    live: LiveParams | None = None
    statistics: Statistics | None = None
    examples: tuple[str, ...] = ()
    host: RunningHost | None = None
    presets: Presets | None = None
    recordings: Recordings | None = None
    references: References | None = None


@dataclass(frozen=True)
class Room:
    """One channel while it is served."""

    about: Channel
    views: dict[str, RingView]
    session: str = field(default_factory=lambda: secrets.token_hex(8))
    """Another one after every start: a page then knows that its settings are gone."""

    @property
    def phase(self) -> str:
        """ "loading", "ready", why the host ended, or "elsewhere" when it is no part of this process."""
        if self.about.live is None:
            return "elsewhere"
        return "ready" if self.about.host is None else self.about.host.phase

    def specs(self) -> list[dict[str, Any]]:
        """The live parameters as JSON-able values; none without a host in this process."""
        if self.about.live is None:
            return []
        specs = SPECS.values() if self.about.host is None else self.about.host.specs
        return [asdict(spec) for spec in specs]

    def model(self) -> dict[str, Any]:
        """What paints, and what is being made ready; nothing without a host in this process."""
        host = self.about.host
        return {} if host is None else {"model": host.model_name, "preparing": host.preparing}

    def words(self) -> dict[str, Any] | None:
        """The words that the model knows, as JSON-able values."""
        words = None if self.about.host is None else self.about.host.words
        return None if words is None else {"groups": dict(words.groups), "fillers": words.fillers}

    def presets(self) -> dict[str, Any]:
        """The presets in order, as JSON-able values; {"presets": None} where none are kept. Reads files."""
        kept = self.about.presets
        if kept is None:
            return {"presets": None}
        contents = kept.shelf.contents()
        return {
            "presets": [
                {
                    "name": preset.name,
                    "digest": preset.digest,
                    "saved": preset.saved,
                    "prompt": preset.values.get("prompt", ""),
                    "notes": preset.notes,
                    "thumbnail": base64.b64encode(preset.thumbnail).decode(),
                }
                for preset in contents.presets
            ],
            "problems": contents.problems,
            "folder": str(kept.shelf.folder),
            "easings": list(EASINGS),
        }

    def params(self) -> dict[str, Any]:
        """The message with the values in force; without a host in this process there are none."""
        if self.about.live is None:
            return {"type": "params", "revision": 0, "values": {}}
        params, revision = self.about.live.latest()
        return {"type": "params", "revision": revision, "values": asdict(params)}

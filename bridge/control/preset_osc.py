"""Presets by OSC:

/preset/save NAME, /preset/recall NAME-or-NUMBER, /preset/morph A B SECONDS [EASING], /preset/morph B SECONDS,
/preset/travel SECONDS, /preset/stop, /preset/rename NAME NEW, /preset/delete NAME, /preset/restore NAME,
/preset/reorder NAME NAME ...
                      each answered by /preset/done <command>
/preset/list          answered by /preset/name <number> <name>, one message per preset, in order
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.control.osc import Alias, Answer
from bridge.control.osc_messages import OscRefused
from bridge.control.presets import COMMANDS, PresetError, Presets, from_words


def preset_commands(presets: Presets) -> Mapping[str, Alias]:
    """What `bridge.control.osc.OscServer` does with each of the addresses."""

    def run(address: str, arguments: list[Any]) -> Answer:
        do = address.rsplit("/", 1)[1]
        try:
            note = from_words(presets, do, arguments)
        except PresetError as error:
            raise OscRefused(address, str(error)) from None
        return Answer(replies=(("/preset/done", do),), error=note)

    def listed(address: str, arguments: list[Any]) -> Answer:
        names = [preset.name for preset in presets.shelf.contents().presets]
        return Answer(replies=tuple(("/preset/name", place, name) for place, name in enumerate(names, 1)))

    return {"/preset/list": listed, **{f"/preset/{do}": run for do in COMMANDS}}

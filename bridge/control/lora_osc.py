"""The weights of LoRAs by OSC: /lora/NAME WEIGHT, by the name of the file without its ending, or /lora/1 to /lora/4.

They are the parameters lora_1 to lora_4, whose numbers change where the files are given in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge.control.osc import Alias, Answer
from bridge.control.osc_messages import OscRefused, value_of
from core.params import LORAS, SPECS

PREFIX = "/lora/"


def lora_aliases(names: Callable[[], Sequence[str]]) -> Mapping[str, Alias]:
    """What `bridge.control.osc.OscServer` does with the addresses. names: those of the LoRAs now, in their order; ""
    for a weight without one."""

    def weight(address: str, arguments: list[Any]) -> Answer:
        there = {number: name for number, name in enumerate(names(), 1) if name}
        # Of two of one name the first is found; the other one has its number.
        known = {name: LORAS[number - 1] for number, name in reversed(there.items())}
        known |= {str(number): LORAS[number - 1] for number in there if str(number) not in known}
        parameter = known.get(address.removeprefix(PREFIX))
        if parameter is None:
            known_here = ", ".join(PREFIX + name for name in there.values())
            hint = f"use one of {known_here}" if there else "start the host with --lora FILE"
            raise OscRefused(address, f"no such LoRA here; {hint}")
        return Answer({parameter: value_of(SPECS[parameter], arguments)})

    return {PREFIX: weight}

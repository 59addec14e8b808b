"""LoRAs by their names over OSC."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge.control.live import LiveParams
from bridge.control.lora_osc import lora_aliases
from bridge.control.osc import OscServer
from bridge.control.osc_messages import OscRefused
from bridge.control.statistics import Statistics
from core.params import Params, specs_for
from tests.bridge.control.test_osc import Peer


@pytest.fixture
def live() -> LiveParams:
    return LiveParams()


@pytest.fixture
def peer(live: LiveParams) -> Iterator[Peer]:
    server = OscServer(live, Statistics(), port=0, aliases=lora_aliases(lambda: ["water colour", "glow", "glow", "2"]))
    server.start()
    peer = Peer(server.port)
    yield peer
    peer.socket.close()
    server.stop()


@pytest.mark.parametrize(
    ("address", "parameter"),
    [
        ("/lora/water colour", "lora_1"),
        ("/lora/glow", "lora_2"),
        ("/lora/1", "lora_1"),
        ("/lora/2", "lora_4"),
        ("/lora/3", "lora_3"),
        ("/lora_2", "lora_2"),
    ],
)
def test_a_name_or_a_number_sets_its_parameter(peer: Peer, live: LiveParams, address: str, parameter: str) -> None:
    peer.send(address, 0.25)
    assert peer.settle() == []
    assert live.current == Params().with_values(**{parameter: 0.25})


@pytest.mark.parametrize(
    ("address", "value", "words"),
    [
        ("/lora/mist", 1.0, "use one of /lora/water colour, /lora/glow"),
        ("/lora/glow", 9.0, "a number from -2 to 2"),
        ("/lora/glow", float("nan"), "a number from -2 to 2"),
        ("/lora/glow", "much", "a number from -2 to 2"),
        ("/lora/", 1.0, "no such LoRA"),
    ],
)
def test_what_cannot_be_is_answered(peer: Peer, live: LiveParams, address: str, value: object, words: str) -> None:
    peer.send(address, value)
    (answer,) = peer.settle()
    assert answer[0] == "/error" and words in str(answer)
    assert live.current == Params()


def test_a_host_shows_those_that_it_has_by_their_names() -> None:
    shown = {spec.name: spec for spec in specs_for("embedded", ["glow"])}
    assert shown["lora_1"].title == "LoRA glow" and shown["lora_1"].main
    assert "lora_2" not in shown
    assert not any(name.startswith("lora_") for name in (spec.name for spec in specs_for("embedded")))


def test_the_names_are_those_of_now(live: LiveParams) -> None:
    names: list[str] = []
    weight = lora_aliases(lambda: names)["/lora/"]
    with pytest.raises(OscRefused, match="start the host with --lora FILE"):
        weight("/lora/glow", [0.5])
    names += ["", "glow"]
    assert weight("/lora/glow", [0.5]).values == {"lora_2": 0.5}
    assert weight("/lora/2", [0.5]).values == {"lora_2": 0.5}
    with pytest.raises(OscRefused, match="use one of /lora/glow"):
        weight("/lora/1", [0.5])

"""Reference pictures that come while a host runs: sent, or taken from a ring by OSC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bridge.control.live import LiveParams
from bridge.control.osc import OscServer
from bridge.control.references import MAX_PICTURE_BYTES, References, reference_commands
from bridge.control.statistics import Statistics
from bridge.page.thumbnail import still_of
from bridge.ring import Kind, RingWriter
from core.params import AS_STARTED
from core.references import PictureError, read
from tests.bridge.control.test_osc import Peer
from tests.core.test_references import RED
from tests.rings import fresh_channel, sweep


class Stage:
    """References of a channel in a folder; wanted: whether the model looks at them."""

    def __init__(self, folder: Path) -> None:
        self.channel = fresh_channel()
        self.live = LiveParams()
        self.folder = folder
        self.wanted = True
        self.references = References(self.channel, self.live, folder, tuple, lambda: self.wanted, still_of)


@pytest.fixture
def stage(tmp_path: Path):
    stage = Stage(tmp_path / "kept")
    yield stage
    sweep(stage.channel)


def test_a_picture_that_is_sent_becomes_the_reference(stage: Stage) -> None:
    assert stage.references.add(RED, "sun.png") == "sun.jpg"
    assert stage.live.current.reference == "sun.jpg"


def test_what_cannot_be_is_refused_and_nothing_has_changed(stage: Stage) -> None:
    for data, words in ((b"words", "sun cannot be read"), (bytes(MAX_PICTURE_BYTES + 1), "may have 32 MB")):
        with pytest.raises(PictureError, match=words):
            stage.references.add(data, "sun.png")
    for ring in ("in", "out", "no such channel", "../x", ""):
        with pytest.raises(PictureError, match="there is no picture on .* now; start what writes it"):
            stage.references.take(ring)
    stage.wanted = False
    for call in (lambda: stage.references.add(RED, "sun.png"), stage.references.take):
        with pytest.raises(PictureError, match="no IP-Adapter looks at pictures here"):
            call()
    assert stage.live.current.reference == AS_STARTED
    assert not stage.folder.exists()


def test_osc_takes_what_a_ring_shows(stage: Stage) -> None:
    server = OscServer(stage.live, Statistics(), port=0, commands=reference_commands(stage.references))
    server.start()
    peer = Peer(server.port)
    try:
        colours = {f"{stage.channel}.in": (250, 40, 40), f"{stage.channel}.out": (40, 250, 40)}
        for (ring, colour), arguments in zip(colours.items(), ([], ["out"]), strict=True):
            with RingWriter(ring) as writer:
                writer.write({Kind.COLOUR: np.full((32, 48, 3), colour, np.uint8)})
                peer.send("/reference/take", *arguments)
                (heard,) = peer.settle()
            assert heard[0] == "/reference/taken"
            name = heard[1]
            assert stage.live.current.reference == name and ring.rsplit(".", 1)[1] in name
            assert np.abs(np.asarray(read(stage.folder / name)).astype(int) - colour).max() < 12
        for arguments, words in (
            (["in"], "there is no picture on"),
            ([3.0], "send in, out or the name of another channel"),
            (["in", "out"], "send in, out or the name of another channel"),
        ):
            peer.send("/reference/take", *arguments)
            (heard,) = peer.settle()
            assert heard[:2] == ("/error", "/reference/take") and words in heard[2]
    finally:
        peer.socket.close()
        server.stop()


def test_another_channels_input_is_taken_by_its_name(stage: Stage) -> None:
    with RingWriter(f"{stage.channel}-look.in") as writer:
        writer.write({Kind.COLOUR: np.full((8, 8, 4), 90, np.uint8)})
        assert stage.references.take(f"{stage.channel}-look") == f"{stage.channel}-look in 1.jpg"

"""StreamDiffusionTD's raw memory and its OSC addresses, from the side of a project that points at this host."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.interop import streamdiffusiontd, streamdiffusiontd_osc
from bridge.interop.adaptor import AdaptorError
from bridge.interop.gate import Gate
from bridge.interop.named_memory import create_memory, open_memory
from bridge.interop.streamdiffusiontd import SdtdInput, SdtdOutput, open_input, open_output
from bridge.interop.streamdiffusiontd_osc import ABSENT, StreamDiffusionTd
from bridge.ring import Frame
from bridge.ring.layout import ColourSpace, Format, Kind, Origin
from tests.rings import fresh_channel, sweep
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path("/dev/shm")
PATIENCE_S = 60.0

memory_here = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm, where these bytes are exercised")


def noise(seed: int, height: int = 24, width: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def name() -> Iterator[str]:
    name = f"sdtd-{uuid.uuid4().hex[:10]}"
    yield name
    for path in FOLDER.glob(f"{name}*") if FOLDER.is_dir() else ():
        path.unlink()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def source(name: str, said: list[str]) -> Iterator[SdtdInput]:
    source = SdtdInput(name, 32, 24, said.append)
    yield source
    source.close()


class Project:
    """The project's side: memory made by Python's own class in a process of its own, as StreamDiffusionTD makes it."""

    SCRIPT = """
import sys, numpy as np
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(name=sys.argv[1], create=True, size=int(sys.argv[2]))
print("made", flush=True)
sys.stdin.readline()
memory.close()
memory.unlink()
"""

    def __init__(self, name: str, size: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT, name, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "made\n"

    def end(self) -> None:
        self._child.communicate("\n", timeout=PATIENCE_S)

    def kill(self) -> None:
        self._child.kill()
        self._child.communicate(timeout=PATIENCE_S)


def write(name: str, pixels: np.ndarray) -> None:
    memory = open_memory(name)
    assert memory is not None
    memory.bytes[: pixels.size] = pixels.reshape(-1)
    memory.close()


@memory_here
def test_each_new_picture_of_a_project_is_seen_once(source: SdtdInput, name: str, said: list[str]) -> None:
    assert source.poll() is None
    assert len(said) == 1 and f"waiting for shared memory {name}" in said[0]
    project = Project(name, 32 * 24 * 3)
    write(name, noise(1))
    got = until(source.poll)
    assert (got.format, got.origin) == (Format.RGB8, Origin.TOP_LEFT)
    assert np.array_equal(got.pixels, noise(1))
    for _ in range(50):
        assert source.poll() is None
    assert np.array_equal(source.poll(again=True).pixels, noise(1))
    write(name, noise(2))
    assert np.array_equal(until(source.poll).pixels, noise(2))
    # Our closing takes nothing away from the project, whose memory it is.
    source.close()
    assert (FOLDER / name).exists()
    project.end()
    assert not (FOLDER / name).exists()


@memory_here
def test_a_project_that_is_started_anew(source: SdtdInput, name: str) -> None:
    first = Project(name, 32 * 24 * 3)
    write(name, noise(1))
    until(source.poll)
    first.end()
    for _ in range(20):
        assert source.poll() is None
    second = Project(name, 32 * 24 * 3)
    write(name, noise(2))
    last = until(source.poll)
    while not np.array_equal(last.pixels, noise(2)):
        last = until(source.poll)
    second.end()


@memory_here
def test_a_project_that_vanishes_leaves_its_last_picture_and_no_new_ones(source: SdtdInput, name: str) -> None:
    project = Project(name, 32 * 24 * 3)
    write(name, noise(1))
    until(source.poll)
    project.kill()
    for _ in range(50):
        assert source.poll() is None


@memory_here
def test_memory_of_another_size(name: str, said: list[str]) -> None:
    small = create_memory(name, 100)
    source = SdtdInput(name, 32, 24, said.append)
    assert source.poll() is None
    assert len(said) == 1 and "has 100 bytes, too few for 32x24 RGB" in said[0]
    small.remove()
    large = create_memory(name, 512 * 512 * 3)
    assert until(source.poll).pixels.shape == (24, 32, 3)
    assert len(said) == 2 and "more than the size given needs" in said[1]
    source.close()
    large.remove()


@memory_here
def test_at_rest_the_memory_is_let_go_and_a_change_is_still_seen(
    source: SdtdInput, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamdiffusiontd, "REST_S", 0.0)
    monkeypatch.setattr(streamdiffusiontd, "LOOK_S", 0.01)
    memory = create_memory(name, 32 * 24 * 3)
    until(source.poll)
    opened = []
    real = streamdiffusiontd.open_memory
    monkeypatch.setattr(streamdiffusiontd, "open_memory", lambda name: [opened.append(1), real(name)][1])
    while len(opened) < 4:
        assert source.poll() is None
    memory.bytes[:] = 7
    assert (until(source.poll).pixels == 7).all()
    memory.remove()


def frame(pixels: np.ndarray, form: Format = Format.RGBA8, origin: Origin = Origin.TOP_LEFT) -> Frame:
    height, width = pixels.shape[:2]
    about = (1, 1, 1, 0, 0, 0, 0, origin, ColourSpace.SRGB, width, height, 1)
    return Frame({Kind.COLOUR: pixels}, *about, formats={Kind.COLOUR: form})


def read(name: str, height: int = 24, width: int = 32) -> np.ndarray:
    """As a project reads: by Python's own class."""
    memory = shared_memory.SharedMemory(name=name)
    pixels = np.frombuffer(memory.buf, np.uint8, height * width * 3).reshape(height, width, 3).copy()
    # Its tracker would take the memory away from its owner.
    from multiprocessing import resource_tracker

    resource_tracker.unregister(memory._name, "shared_memory")  # type: ignore[attr-defined]
    memory.close()
    return pixels


@memory_here
def test_results_are_what_a_project_reads(name: str, said: list[str]) -> None:
    sink = SdtdOutput(name, None, said.append)
    assert sink.put(frame(noise(1, channels=4)))
    assert np.array_equal(read(name), noise(1, channels=4)[..., :3])
    assert sink.put(frame(noise(2), Format.RGB8, Origin.BOTTOM_LEFT))
    assert np.array_equal(read(name), noise(2)[::-1])
    assert sink.name == name and said == []
    # Who has the old memory open would not see that it was made anew, so a larger picture makes memory of another name.
    for number, seed in ((1, 3), (2, 4)):
        height, width = 48 * number, 64
        assert sink.put(frame(noise(seed, height, width)))
        assert sink.name == f"{name}_{number}"
        assert np.array_equal(read(f"{name}_{number}", height, width), noise(seed, height, width))
        assert f"results are in shared memory {name}_{number} now" in said[-1]
    # A smaller one stays there.
    assert sink.put(frame(noise(5)))
    assert sink.name == f"{name}_2" and len(said) == 2
    sink.close()
    assert not list(FOLDER.glob(f"{name}*"))


@memory_here
def test_results_go_into_memory_that_the_project_made(name: str, said: list[str]) -> None:
    project = Project(name, 32 * 24 * 3)
    sink = SdtdOutput(name, (32, 24), said.append)
    assert sink.put(frame(noise(1)))
    assert np.array_equal(read(name), noise(1))
    assert not sink.put(frame(noise(1, 48, 64)))
    assert (
        len(said) == 1 and "results are 64x48, the project expects 32x24; start the host with --size 32x24" in said[0]
    )
    sink.close()
    assert (FOLDER / name).exists()
    # A host that was started anew with a larger size, while the project keeps its memory of before.
    sink = SdtdOutput(name, None, said.append)
    also_taken = create_memory(f"{name}_1", 100)
    assert sink.put(frame(noise(1, 48, 64)))
    assert sink.name == f"{name}_2"
    assert np.array_equal(read(f"{name}_2", 48, 64), noise(1, 48, 64))
    sink.close()
    also_taken.remove()
    assert (FOLDER / name).exists()
    project.end()


@memory_here
def test_other_memory_is_read_on_request(source: SdtdInput, name: str) -> None:
    first, second = create_memory(name, 32 * 24 * 3), create_memory(f"{name}-b", 32 * 24 * 3)
    second.bytes[:] = 9
    assert (until(source.poll).pixels == 0).all()
    source.switch(f"{name}-b")
    assert (until(source.poll).pixels == 9).all()
    # An equal picture of other memory is a new one.
    first.bytes[:] = 9
    source.switch(name)
    assert (until(source.poll).pixels == 9).all()
    assert source.blank().pixels.shape == (24, 32, 3)
    source.close()
    first.remove()
    second.remove()


@memory_here
def test_results_that_are_no_8_bit_colour(name: str, said: list[str]) -> None:
    sink = SdtdOutput(name, None, said.append)
    assert not sink.put(frame(np.zeros((4, 4, 4), np.float16), Format.RGBA16F))
    assert not sink.put(frame(np.zeros((4, 4), np.uint8), Format.R8))
    assert len(said) == 1 and "only 8-bit RGB results" in said[0]
    sink.close()


@pytest.mark.parametrize("words", ["a", "a:", "a:x", "a:0x5", "a:5x0", "a:9000x1", "a:1x-1", "a:1x1x1", "a: 1x1"])
def test_words_without_a_size(words: str) -> None:
    with pytest.raises(AdaptorError):
        open_input(words, print)
    if ":" in words:
        with pytest.raises(AdaptorError):
            open_output(words, print)


# ---- OSC -------------------------------------------------------------------------------------------------------------


class Peer:
    """A project's OSC: sends to one port, listens on another."""

    def __init__(self) -> None:
        self.port = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(PATIENCE_S)
        self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    @property
    def reply_port(self) -> int:
        return int(self.socket.getsockname()[1])

    def send(self, address: str, *values: Any) -> None:
        builder = OscMessageBuilder(address)
        for value in values:
            builder.add_arg(value)
        self._out.sendto(builder.build().dgram, ("127.0.0.1", self.port))

    def receive(self) -> tuple[Any, ...]:
        message = OscMessage(self.socket.recv(65536))
        return (message.address, *message.params)

    def until(self, address: str) -> tuple[Any, ...]:
        while True:
            got = self.receive()
            if got[0] == address:
                return got

    def settle(self) -> list[tuple[Any, ...]]:
        """All answers to what was sent before, without the reports that come by themselves."""
        self.send("/ping")
        seen = []
        while True:
            got = self.receive()
            if got == ("/pong",):
                return seen
            if got[0] not in ("/server_active", "/stream-info/output-name"):
                seen.append(got)

    def close(self) -> None:
        self.socket.close()
        self._out.close()


@pytest.fixture
def live() -> LiveParams:
    return LiveParams()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def server(live: LiveParams, gate: Gate) -> Iterator[tuple[StreamDiffusionTd, Peer]]:
    peer = Peer()
    server = StreamDiffusionTd(
        live, Statistics(), port=0, reply_port=peer.reply_port, gate=gate, output_name="sd_to_td_1"
    )
    server.start()
    peer.port = server.server.port
    yield server, peer
    server.stop()
    peer.close()


@pytest.fixture
def peer(server: tuple[StreamDiffusionTd, Peer]) -> Peer:
    return server[1]


def test_addresses_that_mean_the_same_here(peer: Peer, live: LiveParams) -> None:
    peer.send("/prompt", "comic style, red sphere")
    peer.send("/negative_prompt", "grey")
    peer.send("/seed", 7)
    peer.send("/guidance_scale", 1.5)
    peer.send("/delta", 0.5)
    peer.send("/sdmode", "txt2img")
    assert peer.settle() == [("/mode_status", "txt2img")]
    now = live.current
    assert (now.prompt, now.negative_prompt, now.seed) == ("comic style, red sphere", "grey", 7)
    assert (now.guidance_scale, now.delta, now.task) == (1.5, 0.5, "txt2img")


def test_weighted_lists_are_blended(peer: Peer, live: LiveParams) -> None:
    for weight in (0.2, 0.25):
        peer.send("/prompt_list", json.dumps([["one", weight], ['two "x"', 1.0 - weight], ["off", 0.0]]))
        peer.send("/seed_list", json.dumps([[11, 1.0 - weight], [12, weight]]))
    assert peer.settle() == []
    assert live.current.prompt == """("one", "two 'x'").blend(0.25, 0.75)"""
    assert (live.current.seed, live.current.seed_to, live.current.seed_mix) == (11, 12, 0.25)
    peer.send("/prompt_list", json.dumps([["alone", 1.0], ["off", 0.0]]))
    peer.send("/seed_list", json.dumps([[5, 1e300]]))
    assert peer.settle() == []
    assert (live.current.prompt, live.current.seed, live.current.seed_mix) == ("alone", 5, 0.0)
    peer.send("/prompt_list", json.dumps([["x", 0.0], ["y", -1.0]]))
    assert peer.settle() == []
    assert live.current.prompt == "x"


def test_of_too_many_the_heaviest_are_taken_and_it_is_said_once(peer: Peer, live: LiveParams) -> None:
    for _ in range(3):
        peer.send("/prompt_list", json.dumps([[f"p{i}", 1 + i] for i in range(20)]))
        peer.send("/seed_list", json.dumps([[1, 0.5], [2, 0.2], [3, 0.5]]))
    answers = peer.settle()
    assert [answer[1:] for answer in answers] == [
        ("/prompt_list", "the 16 heaviest are blended"),
        ("/seed_list", "the two heaviest are mixed"),
    ]
    assert live.current.prompt.startswith('("p4", "p5"') and '"p19"' in live.current.prompt
    assert (live.current.seed, live.current.seed_to, live.current.seed_mix) == (1, 3, 0.5)
    peer.send("/prompt_list", json.dumps([["a" * 1500, 2.0], ["b" * 1500, 1.0]]))
    peer.settle()
    assert live.current.prompt == "a" * 1500


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (1,),
        ("",),
        ("not json",),
        ("{}",),
        ('"text"',),
        ("[1, 2]",),
        ('[["a"]]',),
        ('[["a", "b"]]',),
        ('[["a", true]]',),
        ('[["a", NaN]]',),
        ('[["a", 1e999]]',),
        ("[[null, 1]]",),
        ("[[[1], 1]]",),
        ("[" * 5000,),
        (json.dumps([["x", 1]] * 65),),
        ('[["a", 1]]', '[["b", 1]]'),
    ],
)
@pytest.mark.parametrize("address", ["/prompt_list", "/seed_list"])
def test_malformed_lists_are_refused_and_nothing_changes(
    address: str, arguments: tuple[Any, ...], peer: Peer, live: LiveParams
) -> None:
    before = live.current
    peer.send(address, *arguments)
    answers = peer.settle()
    assert len(answers) == 1 and answers[0][:2] == ("/error", address), answers
    assert live.current == before


@pytest.mark.parametrize(
    ("sent", "seed"),
    [
        (("/seed", 2**31), 0),
        (("/seed", "4294967301"), 2**31 - 1 & 4294967301),
        (("/seed", 2**40 + 9), 9),
        (("/seed", 2**31 - 1), 2**31 - 1),
        (("/seed", -1), -1),
        (("/seed_list", "[[4294967299, 1.0]]"), 3),
        (("/seed_list", '[["2147483653", 1.0]]'), 5),
    ],
)
def test_large_seeds_are_taken(sent: tuple[Any, ...], seed: int, peer: Peer, live: LiveParams) -> None:
    peer.send(*sent)
    assert peer.settle() == []
    assert live.current.seed == seed


def test_what_the_projects_own_server_takes_is_taken(peer: Peer, live: LiveParams) -> None:
    before = live.current
    for empty in (("/prompt_list", "[]"), ("/seed_list", "[]"), ("/t_list",)):
        peer.send(*empty)
    assert peer.settle() == []
    assert live.current == before
    peer.send("/prompt", "x" * 5000)
    assert peer.settle() == []
    assert live.current.prompt == "x" * 2000
    peer.send("/prompt_list", json.dumps([["y" * 5000, 1.0]]))
    assert peer.settle() == []
    assert live.current.prompt == "y" * 2000
    for _ in range(3):
        peer.send("/delta", 5.0)
    assert peer.settle() == [("/error", "/delta", "2 is used, the largest there is here")]
    assert live.current.delta == 2.0
    peer.send("/latent_feedback_strength", 0.25)
    assert peer.settle() == []
    assert live.current.feedback == 0.25
    peer.send("/latent_feedback_strength", 1.0)
    assert peer.settle() == [("/error", "/latent_feedback_strength", "0.95 is used, the largest there is here")]
    assert live.current.feedback == 0.95


def test_the_projects_picture_prompt_is_the_reference_picture(peer: Peer, live: LiveParams) -> None:
    for address, sent, scale in (
        ("/ipadapter_scale", 0.4, 0.4),
        ("/ipadapter/scale", 1, 1.0),
        ("/ipadapter_enable", 0, 0.0),
        ("/ipadapter_enable", 0, 0.0),
        ("/ipadapter_enable", 1, 1.0),
        ("/ipadapter_enable", True, 1.0),
        ("/ipadapter_scale", 0.25, 0.25),
        ("/ipadapter_enable", False, 0.0),
        ("/ipadapter_enable", 1.0, 0.25),
    ):
        peer.send(address, sent)
        assert peer.settle() == []
        assert live.current.reference_scale == scale, address
    peer.send("/ipadapter_scale", 2.0)
    assert peer.settle() == [("/error", "/ipadapter_scale", "1.5 is used, the largest there is here")]
    peer.send("/reference", "dusk.png")
    assert peer.settle() == [] and live.current.reference == "dusk.png"
    for sent in ("on", "much"):
        peer.send("/ipadapter_enable", sent)
        assert peer.settle() == [("/error", "/ipadapter_enable", "send 0 or 1")]


def test_stages_count_on_the_projects_grid(peer: Peer, live: LiveParams) -> None:
    peer.send("/t_list", 18, 26, 35)
    assert peer.settle() == []
    assert live.current.t_index == (18, 26, 35)
    peer.send("/num_inference_steps", 50)
    assert peer.settle() == []
    assert live.current.t_index == (18, 26, 35)
    # Out of order and doubled, as faders leave them; on a grid of 100 points they stand for half.
    peer.send("/num_inference_steps", 100)
    peer.send("/t_list", 80, 40, 40)
    assert peer.settle() == []
    assert live.current.t_index == (20, 40)
    for wrong in [("/t_list", "a"), ("/t_list", 1, "b"), ("/t_list", -5), ("/num_inference_steps", 0)]:
        peer.send(*wrong)
        answers = peer.settle()
        assert [answer[:2] for answer in answers] == [("/error", wrong[0])], wrong
    peer.send("/num_inference_steps", "many")
    assert peer.settle()[0][:2] == ("/error", "/num_inference_steps")
    assert live.current.t_index == (20, 40)


def test_pause_and_single_frames(peer: Peer, live: LiveParams, gate: Gate) -> None:
    peer.send("/process_frame", 1)
    (answer,) = peer.settle()
    assert answer[:2] == ("/error", "/process_frame") and "send /pause first" in answer[2]
    peer.send("/pause", 1)
    assert peer.settle() == [("/streaming_status", "paused")]
    assert not gate.is_open and not live.current.paused
    peer.send("/process_frame", 1)
    peer.send("/frame_ack", 1)
    assert peer.settle() == []
    assert gate.take_step(0.0) and not gate.take_step(0.0)
    peer.send("/get_status", 1)
    ((address, status),) = peer.settle()
    assert address == "/status"
    assert json.loads(status) == {"streaming": False, "paused": True, "fps": 0.0, "frame_count": 0}
    peer.send("/play", 1)
    assert peer.settle() == [("/streaming_status", "resumed")]
    assert gate.is_open
    peer.send("/stop", 1)
    answers = peer.settle()
    assert answers[0] == ("/streaming_status", "stopped")
    assert answers[1][:2] == ("/error", "/stop") and "Ctrl-C" in answers[1][2]
    assert not gate.is_open
    peer.send("/start_streaming", 1)
    assert peer.settle() == [("/streaming_status", "started")]
    assert gate.is_open


def test_without_an_input_of_the_host_pause_is_a_parameter(live: LiveParams) -> None:
    peer = Peer()
    server = StreamDiffusionTd(live, Statistics(), port=0, reply_port=peer.reply_port)
    server.start()
    try:
        peer.port = server.server.port
        peer.send("/pause")
        assert peer.settle() == [("/streaming_status", "paused")]
        assert live.current.paused
        peer.send("/process_frame")
        assert "--input" in peer.settle()[0][2]
        peer.send("/play")
        assert peer.settle() == [("/streaming_status", "resumed")]
        assert not live.current.paused
    finally:
        server.stop()
        peer.close()


@pytest.mark.parametrize("address", sorted(ABSENT))
def test_what_is_not_there_is_said_once_and_switching_it_off_is_no_error(address: str, peer: Peer) -> None:
    sent = f"{address}feedback/strength" if address.endswith("/") else address
    for off in (0, 0.0, False, "", "[]"):
        peer.send(sent, off)
    assert peer.settle() == []
    for _ in range(20):
        peer.send(sent, 1)
    (answer,) = peer.settle()
    assert answer == ("/error", sent, ABSENT[address])


def test_an_interpolation_that_happens_anyway_is_no_error(peer: Peer) -> None:
    peer.send("/prompt_interpolation_method", "linear")
    peer.send("/seed_interpolation_method", "slerp")
    assert peer.settle() == []
    peer.send("/prompt_interpolation_method", "slerp")
    peer.send("/seed_interpolation_method", "linear")
    assert [answer[1:] for answer in peer.settle()] == [(a, ABSENT[a]) for a in ABSENT if a.endswith("_method")]


def test_unknown_addresses_and_wrong_types_never_end_it(peer: Peer, live: LiveParams) -> None:
    before = live.current
    for sent in [("/no_such_thing", "{}"), ("/seed", "seven"), ("/guidance_scale", "x"), ("/delta",), ("/prompt",)]:
        peer.send(*sent)
        (answer,) = peer.settle()
        assert answer[:2] == ("/error", sent[0])
    for sent in [("/sdmode",), ("/sdmode", "vid2vid"), ("/sdmode", 1), ("/sdmode", "img2img", 1)]:
        peer.send(*sent)
        (answer,) = peer.settle()
        assert answer[:2] == ("/error", "/sdmode")
    assert live.current == before


def test_weights_that_are_no_numbers_are_refused(peer: Peer) -> None:
    for weight in ("1" + "0" * 400, "1e400", "NaN", "true", '"1"'):
        peer.send("/prompt_list", f'[["one", {weight}]]')
        (answer,) = peer.settle()
        assert answer[:2] == ("/error", "/prompt_list") and "a pair [item, weight]" in answer[2]


def test_reports_come_by_themselves(server: tuple[StreamDiffusionTd, Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamdiffusiontd_osc, "HEARTBEAT_S", 0.02)
    reports, peer = server
    assert peer.until("/server_active") == ("/server_active", 1)
    assert peer.until("/stream-info/output-name") == ("/stream-info/output-name", "sd_to_td_1")
    for number in (1, 2, 3):
        reports.frame_sent("sd_to_td_1")
        assert peer.until("/framecount") == ("/framecount", number)
        assert peer.until("/frame_updated") == ("/frame_updated", 1)
        assert peer.until("/frame_ready") == ("/frame_ready", number)
        assert peer.until("/stream-info/fps")[1] >= 0.0
    # Results have moved: a project hears of it before it is told to look.
    reports.frame_sent("sd_to_td_1_1")
    seen = []
    while (got := peer.receive())[0] != "/frame_ready":
        seen.append(got)
    assert ("/stream-info/output-name", "sd_to_td_1_1") in seen
    reports.stop()
    assert peer.until("/application_status") == ("/application_status", "stopping")
    assert peer.until("/server_active") == ("/server_active", 0)


class Shown:
    """A host as far as it is reported."""

    failure: str | None = None
    phase = "loading"
    model_name = "embedded"
    device_name: str | None = None


def test_the_hosts_state_is_reported_with_each_heartbeat(
    live: LiveParams, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamdiffusiontd_osc, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(streamdiffusiontd_osc, "STREAMING_S", 1000.0)
    peer, host = Peer(), Shown()
    reports = StreamDiffusionTd(
        live, Statistics(), port=0, reply_port=peer.reply_port, gate=gate, output_name="o", reported=host
    )
    reports.start()

    def until_state(state: str) -> list[tuple[Any, ...]]:
        seen = []
        while (got := peer.receive()) != ("/stream-info/state", state):
            seen.append(got)
        return seen

    try:
        until_state("local_starting_server")
        until_state("local_loading_models")
        host.phase = "ready"
        seen = until_state("local_ready")
        assert seen.count(("/engine/stage", "building_engine")) == 1
        assert peer.until("/engine/stage") == ("/engine/stage", "complete")
        assert peer.receive() == ("/engine/model", "embedded")
        reports.frame_sent("o")
        until_state("local_streaming")
        gate.close()
        until_state("local_ready")
        gate.open()
        until_state("local_streaming")
        host.failure = host.phase = "the card went away"
        seen = until_state("local_error")
        assert seen.count(("/stream-info/error", "the card went away")) == 1
        assert [got[0] for got in seen[-2:]] == ["/stream-info/error", "/stream-info/error-time"]
        # Milliseconds since 1970, which need more than 32 bits.
        assert 10**12 < seen[-1][1] < 10**14
    finally:
        reports.stop()
        peer.close()


def test_a_host_that_ends_says_so(live: LiveParams) -> None:
    peer, host = Peer(), Shown()
    reports = StreamDiffusionTd(live, Statistics(), port=0, reply_port=peer.reply_port, reported=host)
    reports.start()
    peer.until("/stream-info/state")
    reports.stop()
    peer.until("/application_status")
    assert peer.receive() == ("/stream-info/state", "local_offline")
    assert peer.receive() == ("/server_active", 0)
    peer.close()


def test_the_input_is_switched_by_its_name(peer: Peer, gate: Gate) -> None:
    peer.send("/td_buffer_name", "other_memory")
    assert peer.settle() == []
    assert gate.take_name() == "other_memory"
    for wrong in ((), (1,), ("a/b",), ("a", "b")):
        peer.send("/td_buffer_name", *wrong)
        ((address, refused, _),) = peer.settle()
        assert (address, refused) == ("/error", "/td_buffer_name")
    assert gate.take_name() is None


# ---- the whole host --------------------------------------------------------------------------------------------------


@memory_here
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_an_existing_project_points_at_this_host(name: str) -> None:
    channel = fresh_channel()
    peer = Peer()
    project = Project(name, 32 * 24 * 3)
    write(name, noise(1))
    words = ["--channel", channel, "--input", f"sdtd:{name}:32x24", "--output", f"sdtd:{name}-out"]
    words += ["--sdtd-osc", f"0:{peer.reply_port}", "--osc-port", "0", "--no-page", "--model", "passthrough"]
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "host", *words], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as host:
        try:
            assert host.stderr is not None
            line = ""
            while not line.startswith("StreamDiffusionTD's OSC: port "):
                line = host.stderr.readline()
                assert line, "the host ended"
            peer.port = int(line.split()[3].rstrip(","))
            assert peer.until("/stream-info/output-name")[1] == f"{name}-out"
            peer.until("/frame_ready")
            assert np.array_equal(read(f"{name}-out"), noise(1))
            write(name, noise(2))
            until(lambda: np.array_equal(read(f"{name}-out"), noise(2)))
            peer.send("/pause")
            assert peer.until("/streaming_status")[1] == "paused"
            write(name, noise(3))
            for _ in range(3):
                peer.send("/process_frame")
                count = peer.until("/frame_ready")[1]
                assert np.array_equal(read(f"{name}-out"), noise(3))
                # The batch is flushed by repeats of that frame; they announce nothing.
                peer.send("/frame_ack", count)
            host.send_signal(signal.SIGINT)
            assert host.wait(PATIENCE_S) == 0
        finally:
            host.kill()
            peer.close()
            sweep(channel)
    assert not (FOLDER / f"{name}-out").exists()
    assert (FOLDER / name).exists()
    project.end()


@memory_here
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_a_taken_port_of_the_dialect(name: str) -> None:
    channel = fresh_channel()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "bridge", "host", "--channel", channel, "--input", f"sdtd:{name}:8x8"]
            + ["--sdtd-osc", f"{port}", "--osc-port", "0", "--no-page", "--model", "passthrough"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=PATIENCE_S,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"host: UDP port {port} for StreamDiffusionTD's OSC is taken: end its own server")
    assert not list(FOLDER.glob(f"*{channel}*"))

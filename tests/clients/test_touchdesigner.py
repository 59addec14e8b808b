"""The TouchDesigner component in the stand-in (`tests.clients.td`), against real rings, OSC servers and hosts."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bridge.control.live import LiveParams
from bridge.control.osc import OscServer
from bridge.control.preset_osc import preset_commands
from bridge.control.presets import Presets
from bridge.control.shelf import Shelf
from bridge.control.statistics import Statistics
from bridge.host.host import Host, HostConfig
from bridge.ring import RingReader, RingWriter, State, WriterExists, now_ns, segment
from bridge.ring.header import VERSION_32
from bridge.ring.layout import Format, Kind, Origin
from core.params import SPECS, Params
from tests.clients import td
from tests.clients.counted import Counted
from tests.clients.td.operators import world
from tests.clients.td.parameters import Undocumented
from tests.conformance.peers import build, find_tool
from tests.rings import fresh_channel, sweep
from tests.test_imports import closure, imports
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "clients" / "touchdesigner" / "README.md"
PATIENCE_S = 60.0
FORMATS = (Format.RGBA8, Format.BGRA8, Format.RGB8, Format.R8, Format.RGBA16F, Format.RGBA32F)


def one_line() -> str:
    """The line that the README tells people to paste."""
    found = re.search(r"^ +(import runpy; .*)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1].replace("CHECKOUT", str(ROOT))


def free_port() -> int:
    """A UDP port that nobody uses, from where the system takes none for those who want just any."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
            udp.bind(("127.0.0.1", port))
            return port


class Show:
    """A project with the component in it, and a TOP wired to it."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.port = free_port()
        exec(one_line(), {})
        self.project = td.op("/project1")
        self.comp = td.op("/project1/frameloom")
        self.comp.par.Channel = channel
        self.comp.par.Oscport = self.port
        self.comp.par.Steps = 1
        self.source = td._source(self.project)
        self.comp.inputConnectors[0].connect(self.source)
        td._frames()

    @property
    def status(self) -> str:
        return str(self.comp.par.Status.eval())

    @property
    def out(self) -> Any:
        return self.comp.op("picture")

    def info(self, name: str) -> float:
        return float(self.comp.op("info")[name].vals[0])

    def run(self, until: Callable[[], Any], why: str = "") -> None:
        """Let frames pass until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < deadline, f"{why or 'it did not come about'}; status: {self.status}"
            td._frames()
            time.sleep(0.005)

    def says(self, text: str) -> None:
        """Let frames pass until the status contains a text."""
        self.run(lambda: text in self.status, f"the status never said {text!r}")


@pytest.fixture(autouse=True)
def touchdesigner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "td", td)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    td._reset(str(tmp_path))
    yield
    for child in list(world.root._children.values()):
        child.destroy()


@pytest.fixture
def show() -> Iterator[Show]:
    show = Show(fresh_channel())
    yield show
    if show.comp.valid:
        show.comp.destroy()
    settle(show.channel)


def settle(channel: str) -> None:
    """Wait until what the component's errands still do is done, then see that nothing of the input ring is left."""
    deadline = time.monotonic() + PATIENCE_S
    place = segment.place(f"{channel}.in")
    while any(name.startswith(place.prefix) for name in os.listdir(place.folder)):
        assert time.monotonic() < deadline, "files of the input ring are left"
        time.sleep(0.02)
    sweep(channel)


@contextlib.contextmanager
def hosting(show: Show, folder: Path | None = None, **settings: Any) -> Iterator[Host]:
    """A real host with its OSC server, on threads of this process. folder: of its presets."""
    live, statistics = LiveParams(Params(steps=1)), Statistics()
    host = Host(HostConfig(show.channel, model="passthrough", **settings), live=live, statistics=statistics)
    presets = None if folder is None else Presets(live, Shelf(folder))
    osc = OscServer(live, statistics, port=show.port, commands=presets and preset_commands(presets))
    host.start()
    osc.start()
    try:
        yield host
    finally:
        host.stop()
        host.join()
        osc.stop()
        if presets is not None:
            presets.stop()


@contextlib.contextmanager
def host_process(show: Show) -> Iterator[subprocess.Popen[bytes]]:
    """A real host in a process of its own."""
    words = ["--channel", show.channel, "--osc-port", str(show.port), "--no-page", "--model", "passthrough"]
    host = subprocess.Popen(
        [sys.executable, "-m", "bridge", "host", *words], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield host
    finally:
        host.kill()
        host.wait()


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random opaque colours that 8 bits hold exactly, float32, bottom row first."""
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 4)).astype(np.float32)
    levels[..., 3] = 255
    return levels / np.float32(255)


# -- building ----------------------------------------------------------------------------------------------------------


def test_one_line_builds_the_component(show: Show) -> None:
    kinds = {child.name: type(child).__name__ for child in show.comp._children.values()}
    assert kinds == {
        "in1": "inTOP",
        "picture": "scriptTOP",
        "out1": "outTOP",
        "info": "scriptCHOP",
        "out2": "outCHOP",
        "ext": "textDAT",
        "picture_callbacks": "textDAT",
        "info_callbacks": "textDAT",
        "frames": "executeDAT",
        "parameters": "parameterexecuteDAT",
    }
    assert show.comp.op("out1").inputs == [show.out]
    show.says("no host")


def test_pages_come_from_the_live_parameters(show: Show) -> None:
    pars = {par.label: par for par in show.comp.customPars}
    for spec in SPECS.values():
        label = spec.name.replace("_", " ").title() + (f" ({spec.unit})" if spec.unit else "")
        par = pars[label]
        assert par._about["page"] == ("Paint" if spec.main else "More")
        assert par.help == spec.help
        if spec.kind in ("float", "int"):
            assert (par.min, par.max, par.clampMin, par.clampMax) == (spec.low, spec.high, True, True)
            par.val = spec.high + 1
            assert par.eval() == spec.high
        if spec.kind == "choice":
            assert par.menuNames == list(spec.choices)
        if spec.kind != "ints":
            assert par.default == spec.default


def test_building_again_keeps_values_and_wires(show: Show) -> None:
    show.comp.par.Prompt = "ice style, green cone"
    show.comp.par.Guidance = "full"
    show.comp.par.Strength.expr = "0.1 + 0.2"
    show.comp.par.Seed.bindExpr = "op('slider').par.value0"
    show.comp.par.Seed.mode = td.ParMode.BIND
    before = show.comp.ext.FrameloomExt
    exec(one_line(), {})
    assert show.comp.par.Strength.expr == "0.1 + 0.2" and show.comp.par.Strength.eval() == 0.1 + 0.2
    assert show.comp.par.Seed.mode == td.ParMode.BIND
    assert show.comp.par.Seed.bindExpr == "op('slider').par.value0"
    assert td.op("/project1/frameloom") is show.comp
    assert show.comp.par.Prompt.eval() == "ice style, green cone"
    assert show.comp.par.Guidance.eval() == "full"
    assert show.comp.par.Channel.eval() == show.channel
    assert show.comp.inputs == [show.source]
    assert show.comp.ext.FrameloomExt is not before
    assert type(show.comp.ext.FrameloomExt) is not type(before), "the code was not loaded afresh"
    with hosting(show):
        td._paint(show.source, picture())
        show.says("live")


class Careless:
    """An extension that does not end well."""

    def Close(self) -> None:
        raise RuntimeError("it broke")


@pytest.mark.parametrize("stands", [None, object(), Careless()], ids=["none", "no Close", "Close fails"])
def test_a_component_is_renewed_over_any_extension(show: Show, stands: Any) -> None:
    show.comp.ext.FrameloomExt.Close()
    show.comp._extensions = [stands]
    exec(one_line(), {})
    with hosting(show):
        td._paint(show.source, picture())
        show.says("live")


def test_code_that_fails_to_start_is_said_and_no_callback_fails(show: Show, tmp_path: Path) -> None:
    damaged = tmp_path / "clients" / "touchdesigner"
    damaged.mkdir(parents=True)
    (damaged / "load.py").write_text("def start(comp):\n    raise RuntimeError('not today')\n")
    show.comp.par.Checkout = str(tmp_path)
    td._frames(3)
    assert show.status == "the checkout is damaged or of another version: RuntimeError: not today"
    show.comp.par.Checkout = str(ROOT)
    show.says("no host")


def test_an_older_build_of_touchdesigner(show: Show) -> None:
    """Its callback for changed parameters takes the value, too, and its TOPs do not tell their format."""
    world.older = True
    with hosting(show) as host:
        td._paint(show.source, picture())
        show.says("live")
        show.comp.par.Prompt = "gold style"
        show.run(lambda: host.live.current.prompt == "gold style")


def test_loading_leaves_the_projects_own_modules_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "core.py").write_text("mine = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.partition(".")[0] == "core"]:
        monkeypatch.delitem(sys.modules, name)
    import core

    path, known = sys.path[:], set(sys.modules)
    exec(one_line(), {})
    assert sys.modules["core"] is core and core.mine  # type: ignore[attr-defined]
    assert sys.path == path
    assert not {name for name in set(sys.modules) - known if name.startswith(("frameloom_td", "bridge", "core"))}
    assert not list((ROOT / "clients" / "touchdesigner").rglob("no-cache"))


def test_a_saved_component_lives_again(show: Show, tmp_path: Path) -> None:
    show.comp.par.Prompt = "gold style, white sphere"
    show.comp.par.Savetox.pulse()
    show.comp.destroy()
    show.comp = td.op("/project1").loadTox(str(tmp_path / "frameloom.tox"))
    show.comp.inputConnectors[0].connect(show.source)
    assert show.comp.par.Prompt.eval() == "gold style, white sphere"
    with hosting(show) as host:
        td._paint(show.source, picture())
        show.says("live")
        show.run(lambda: host.live.current.prompt == "gold style, white sphere")


def test_a_moved_checkout_is_named_and_found_again(show: Show, tmp_path: Path) -> None:
    show.comp.par.Checkout = str(tmp_path)
    td._frames(2)
    show.says("checkout not found")
    show.comp.par.Starthost.pulse()
    show.comp.par.Checkout = str(ROOT)
    show.says("no host")


# -- frames ------------------------------------------------------------------------------------------------------------


def test_pixels_and_orientation_survive_the_round_trip(show: Show) -> None:
    pixels = picture()
    with hosting(show), RingReader(f"{show.channel}.out") as reader:
        td._paint(show.source, pixels)
        show.says("live")
        show.run(lambda: np.array_equal(show.out._image(), pixels), "the exact picture never came")
        assert np.array_equal(show.comp.op("out1")._image(), pixels)
        frame = reader.read()
    assert frame is not None and frame.origin == Origin.TOP_LEFT
    assert np.array_equal(frame.planes[Kind.COLOUR][0], (pixels[-1] * 255).round().astype(np.uint8)), "top row first"
    assert show.out.par.resolutionw.eval() == 64 and show.out.par.resolutionh.eval() == 48
    assert set(show.comp.op("in1")._downloads) == {True} and world.stalls == 0


def test_every_level_passes_exactly(show: Show) -> None:
    levels = np.broadcast_to((np.arange(256) / 255).astype(np.float32)[:, None, None], (256, 8, 4))
    td._paint(show.source, levels)
    with RingReader(f"{show.channel}.in") as reader:
        show.run(lambda: show.info("sent") > 3, "nothing was sent")
        frame = reader.read()
    assert frame is not None
    assert frame.origin == Origin.BOTTOM_LEFT and frame.formats[Kind.COLOUR] == Format.RGBA8
    assert (frame.planes[Kind.COLOUR] == np.arange(256)[:, None, None]).all()


def test_a_level_passes_although_the_card_rounds_it_otherwise(part: Callable[[str], Any]) -> None:
    levels = (np.arange(256) / 255).astype(np.float32)
    out = np.empty(256, np.uint8)
    for towards in (0.0, 1.0):
        part("frames").to_bytes(np.nextafter(levels, np.float32(towards)).clip(0, 1), out)
        assert np.array_equal(out, np.arange(256))


def test_a_resize_reaches_the_output(show: Show) -> None:
    with hosting(show):
        for seed, size in enumerate(((32, 48), (1200, 2000), (40, 24))):
            pixels = picture(*size, seed=seed)
            td._paint(show.source, pixels)
            show.run(lambda pixels=pixels: np.array_equal(show.out._image(), pixels), f"{size} never came")


def test_only_the_newest_picture_is_shown_and_only_once(show: Show) -> None:
    with RingWriter(f"{show.channel}.out") as writer:
        show.run(lambda: show.comp.ext.FrameloomExt._receiver.generation == writer.generation)
        for number in range(1, 6):
            pixels = np.full((4, 6, 4), number, np.uint8)
            writer.write({Kind.COLOUR: pixels}, source_frame_id=number)
        td._frames(10)
        assert len(show.out._uploads) == 1
        assert show.info("source_frame") == 5 and show.info("received") == 1
        assert (show.out._image() == np.float32(5) / np.float32(255)).all()
        show.out.cook(force=True)
        assert len(show.out._uploads) == 1


def test_any_colour_format_is_shown(show: Show) -> None:
    with RingWriter(f"{show.channel}.out") as writer:
        show.run(lambda: show.comp.ext.FrameloomExt._receiver.generation == writer.generation)
        for seed, (form, origin) in enumerate(itertools.product(FORMATS, Origin)):
            rgba = picture(5, 7, seed)
            alike = {Format.RGB8: rgba[..., :3], Format.R8: rgba[..., 0], Format.BGRA8: rgba[..., [2, 1, 0, 3]]}
            stored = alike.get(form, rgba)
            if form not in (Format.RGBA16F, Format.RGBA32F):
                stored = (stored * 255).round().astype(np.uint8)
            if origin == Origin.TOP_LEFT:
                stored = stored[::-1]
            writer.write({Kind.COLOUR: stored}, formats={Kind.COLOUR: form}, origin=origin)
            td._frames()
            wanted = np.repeat(rgba[..., :1], 3, axis=2) if form == Format.R8 else rgba[..., :3]
            assert np.allclose(show.out._image()[..., :3], wanted, atol=1e-3), (form, origin)
    assert len(show.out._uploads) == 2 * len(FORMATS)


def test_info_channels_tell_the_source_frame_and_the_delay(show: Show) -> None:
    td._paint(show.source, picture())
    with hosting(show):
        show.says("live")
        show.run(lambda: show.info("host_fps") > 0, "the host's figures never came")
        sent_at = show.info("source_frame")
        assert 0 < sent_at < td.absTime.frame
        assert show.info("delay_frames") >= 1
        assert show.info("latency_ms") > 0 and show.info("fps") > 0
        assert show.info("sent") >= show.info("received") > 0
    assert re.search(r"live \d+ fps \d+ ms", show.status)


def test_a_sent_frame_carries_the_time_and_number_of_its_own_capture(show: Show) -> None:
    seen: dict[int, tuple[float, int]] = {}
    with RingReader(f"{show.channel}.in") as reader:
        for number in range(1, 400):
            td._paint(show.source, np.full((4, 4, 4), (number % 256) / 255, np.float32))
            before = now_ns()
            td._frames()
            seen[int(td.absTime.frame)] = ((number % 256) / 255, before)
            frame = reader.read()
            if frame is not None:
                break
            time.sleep(0.01)
    assert frame is not None
    value, captured_after_ns = seen[frame.source_frame_id]
    assert (frame.planes[Kind.COLOUR] == round(value * 255)).all(), "the number belongs to another picture"
    assert frame.capture_ns >= captured_after_ns
    assert frame.source_frame_id == td.absTime.frame - 1


def test_a_cook_that_takes_a_second_leaves_no_backlog(show: Show) -> None:
    with RingWriter(f"{show.channel}.out") as writer, RingReader(f"{show.channel}.in") as reader:
        show.run(lambda: show.comp.ext.FrameloomExt._receiver.generation == writer.generation)
        show.run(lambda: show.info("sent") > 0)
        sent, deadline, number = show.comp.ext.FrameloomExt._sender.sent, time.monotonic() + 1.0, 0
        while time.monotonic() < deadline:  # TouchDesigner hangs in some operator while the host goes on
            number += 1
            writer.write({Kind.COLOUR: np.full((4, 4, 4), number % 256, np.uint8)}, source_frame_id=number)
            time.sleep(0.01)
        td._frames(2)
        assert len(show.out._uploads) == 1
        assert show.comp.ext.FrameloomExt._receiver.frame.source_frame_id == number
        assert (show.out._image() == np.float32(number % 256) / np.float32(255)).all()
        frame = reader.read()
        assert show.comp.ext.FrameloomExt._sender.sent == sent + 2
        assert frame is not None and frame.source_frame_id == td.absTime.frame - 1


def test_missing_downloads_are_waited_for_without_stalling(show: Show) -> None:
    show.comp.op("in1")._nothing_for = 5
    td._paint(show.source, picture())
    with RingReader(f"{show.channel}.in") as reader:
        show.run(lambda: reader.read() is not None)
    assert set(show.comp.op("in1")._downloads) == {True}


# -- odd pictures ------------------------------------------------------------------------------------------------------


def test_hdr_and_nan_are_clamped_and_said(show: Show) -> None:
    pixels = picture(8, 8)
    pixels[0, 0, :3] = 7.5
    pixels[1, 1, :3] = -3.0
    pixels[2, 2, :3] = np.nan
    td._paint(show.source, pixels, "rgba32float")
    with RingReader(f"{show.channel}.in") as reader:
        for by_hand in (False, True):
            if by_hand:  # somebody opened the component and changed the In TOP: values are clamped all the same
                show.comp.op("in1").par.format = "useinput"
            sent = show.info("sent")
            show.run(lambda sent=sent: show.info("sent") > sent + 3)
            frame = reader.read()
            assert frame is not None
            colour = frame.planes[Kind.COLOUR]
            assert (colour[0, 0, :3] == 255).all() and (colour[1, 1, :3] == 0).all() and (colour[2, 2, :3] == 0).all()
            assert np.array_equal(colour[3], (pixels[3] * 255).round().astype(np.uint8))
            show.says("NaN" if by_hand else "values above 1 are clamped")


def test_linear_input_sends_light_that_the_host_turns_into_colours(show: Show) -> None:
    td._paint(show.source, np.full((8, 8, 4), 0.5, np.float32), "srgba8fixed")
    show.says("sRGB texture")
    show.comp.par.Linearinput = True
    with hosting(show):
        show.says("live")
        show.run(lambda: abs(show.out._image()[0, 0, 0] - 188 / 255) < 0.01, "linear 0.5 is sRGB 188")
        assert "sRGB" not in show.status


def test_a_transparent_input_is_said(show: Show) -> None:
    pixels = picture()
    pixels[..., 3] = 0
    td._paint(show.source, pixels)
    show.says("transparent (alpha 0)")
    td._paint(show.source, picture())
    show.run(lambda: "transparent" not in show.status)


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (np.zeros((0, 0, 4), np.float32), "input is empty (0 x 0)"),
        (np.broadcast_to(np.float32(0), (20000, 20000, 4)), "20000 x 20000 is too large"),
    ],
    ids=["0x0", "20000x20000"],
)
def test_impossible_sizes_are_refused_without_a_download(show: Show, pixels: Any, text: str) -> None:
    td._paint(show.source, pixels)
    show.says(text)
    downloads = len(show.comp.op("in1")._downloads)
    td._frames(5)
    assert len(show.comp.op("in1")._downloads) == downloads
    td._paint(show.source, picture())
    show.run(lambda: show.info("sent") > 0)


def test_without_a_wire_nothing_is_sent(show: Show) -> None:
    show.comp.inputConnectors[0].disconnect()
    show.says("no input: connect a TOP")
    td._frames(5)
    assert show.info("sent") == 0


# -- parameters --------------------------------------------------------------------------------------------------------


def test_parameters_reach_the_hosts_live_values(show: Show) -> None:
    with hosting(show) as host:
        show.run(lambda: host.live.current.prompt == show.comp.par.Prompt.eval())
        for name, value, field, wanted in (
            ("Prompt", 'comic style, "blå" sphere', "prompt", 'comic style, "blå" sphere'),
            ("Strength", 0.36, "strength", 0.36),
            ("Steps", 3, "steps", 3),
            ("Guidance", "self-negative", "guidance", "self-negative"),
            ("Tindex", "18, 26", "t_index", (18, 26)),
            ("Similarityfilter", True, "similarity_filter", True),
            ("Seed", 2**31 - 1, "seed", 2**31 - 1),
        ):
            show.comp.par[name].val = value
            show.run(
                lambda field=field, wanted=wanted: vars(host.live.current)[field] == wanted, f"{name} never arrived"
            )


def test_presets_are_saved_and_recalled_by_their_pulses(show: Show, tmp_path: Path) -> None:
    with hosting(show, folder=tmp_path) as host:
        par, ext = show.comp.par, show.comp.ext.FrameloomExt
        show.run(lambda: host.live.current.prompt == par.Prompt.eval())
        par.Seed = 5
        show.run(lambda: host.live.current.seed == 5)
        par.Preset = "Dawn"
        ext.ParPulsed(par.Savepreset)
        show.run(lambda: [p.name for p in Shelf(tmp_path).contents().presets] == ["Dawn"])
        par.Seed, par.Strength = 6, 0.9
        show.run(lambda: (host.live.current.seed, host.live.current.strength) == (6, 0.9))
        ext.ParPulsed(par.Recallpreset)
        show.run(lambda: host.live.current.seed == 5)
        par.Steps = 2  # what is moved afterwards is sent, and nothing else
        show.run(lambda: host.live.current.steps == 2)
        assert host.live.current.seed == 5
        par.Presetseconds = 0.2
        ext.ParPulsed(par.Recallpreset)
        show.run(lambda: host.live.current.steps == 1)
        par.Preset = "Dusk"
        par.Presetseconds = 0.0
        ext.ParPulsed(par.Recallpreset)
        show.says("no preset 'Dusk'")


def test_presets_are_renamed_put_first_deleted_and_restored_by_their_pulses(show: Show, tmp_path: Path) -> None:
    def names() -> list[str]:
        return [preset.name for preset in Shelf(tmp_path).contents().presets]

    with hosting(show, folder=tmp_path) as host:
        par, ext = show.comp.par, show.comp.ext.FrameloomExt
        show.run(lambda: host.live.current.prompt == par.Prompt.eval())
        for name in ("Dawn", "Dusk"):
            par.Preset = name
            ext.ParPulsed(par.Savepreset)
        show.run(lambda: names() == ["Dawn", "Dusk"])
        par.Newname = "Night fall"
        ext.ParPulsed(par.Renamepreset)
        show.run(lambda: names() == ["Dawn", "Night fall"])
        par.Preset = "Night fall"
        ext.ParPulsed(par.Firstpreset)
        show.run(lambda: names() == ["Night fall", "Dawn"])
        ext.ParPulsed(par.Deletepreset)
        show.run(lambda: names() == ["Dawn"])
        ext.ParPulsed(par.Restorepreset)
        show.run(lambda: set(names()) == {"Night fall", "Dawn"})
        par.Newname = "Dawn"
        ext.ParPulsed(par.Renamepreset)
        show.says("there is a preset 'Dawn' already")


def test_what_the_host_refuses_is_on_the_status_line(show: Show) -> None:
    with hosting(show) as host:
        show.run(lambda: show.comp.ext.FrameloomExt._link.up)
        show.comp.par.Tindex = "26,18"
        show.says("t_index")
        assert host.live.current.t_index == ()


def test_a_host_that_comes_up_later_gets_every_value(show: Show) -> None:
    show.comp.par.Prompt = "noir style, purple cylinder"
    for _ in range(2):
        with hosting(show) as host:
            show.run(lambda host=host: host.live.current.prompt == "noir style, purple cylinder")
        show.run(lambda: not show.comp.ext.FrameloomExt._link.up)


# -- hosts of our own --------------------------------------------------------------------------------------------------


def scratch_checkout(folder: Path, body: str) -> Path:
    """A folder that looks like a checkout to the process part: its run.py does what the test wants."""
    (folder / "run.py").write_text(textwrap.dedent(body))
    return folder


REAL_HOST = f"""
    import os, sys
    assert "PYTHONPATH" not in os.environ and "PYTHONHOME" not in os.environ, "TouchDesigner's Python leaks in"
    os.chdir({str(ROOT)!r})
    os.execv(sys.executable, [sys.executable, "-P", "-m", "bridge", *sys.argv[1:]])
"""


def test_start_and_stop_a_host(show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/opt/touchdesigner/python")
    monkeypatch.setenv("PYTHONHOME", "/opt/touchdesigner/python")
    extension = show.comp.ext.FrameloomExt
    extension.checkout = scratch_checkout(tmp_path, REAL_HOST)
    show.comp.par.Python = sys.executable
    show.comp.par.Model = "passthrough"
    show.comp.par.Prompt = "neon style; 'two words' & $HOME"
    td._paint(show.source, picture())
    show.comp.par.Starthost.pulse()
    show.says("warming up")
    show.says("live")
    show.run(lambda: np.array_equal(show.out._image(), picture()))
    show.comp.par.Stophost.pulse()
    with RingReader(f"{show.channel}.out") as reader:
        show.run(lambda: reader.state is not State.LIVE, "the host did not stop")
    show.says("writer gone")
    show.comp.par.Starthost.pulse()
    show.says("live")
    generation = extension._receiver.generation
    show.comp.par.Stophost.pulse()
    show.comp.par.Starthost.pulse()
    show.run(lambda: extension._receiver.generation != generation, "stopped and started at once, nothing came back")
    show.says("live")
    td._exit()
    with RingReader(f"{show.channel}.out") as reader:
        deadline = time.monotonic() + PATIENCE_S
        while reader.state is State.LIVE:
            assert time.monotonic() < deadline, "the host outlived TouchDesigner"
            time.sleep(0.02)


def test_a_host_that_cannot_start_says_why(show: Show, tmp_path: Path) -> None:
    extension = show.comp.ext.FrameloomExt
    extension.checkout = scratch_checkout(tmp_path, "raise SystemExit('host: no such model')")
    show.comp.par.Python = sys.executable
    show.comp.par.Starthost.pulse()
    show.says("host ended: host: no such model")
    show.comp.par.Python = str(tmp_path / "no-python")
    show.comp.par.Starthost.pulse()
    show.says("host could not be started")
    show.comp.par.Hostoptions = "'open"
    show.comp.par.Starthost.pulse()
    show.says("Host Options: No closing quotation")
    show.comp.destroy()
    until(lambda: not list(tmp_path.glob("frameloom-host-*")))


def test_the_host_ends_when_touchdesigner_is_killed(tmp_path: Path) -> None:
    scratch_checkout(
        tmp_path,
        """
        import os, time
        with open("pid.tmp", "w") as file:
            file.write(str(os.getpid()))
        os.rename("pid.tmp", "pid")
        time.sleep(600)
        """,
    )
    owner = textwrap.dedent(f"""
        import sys, time
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path
        sys.path.insert(0, {str(ROOT / "clients" / "touchdesigner")!r})
        from frameloom_td.process import HostProcess
        host = HostProcess(ThreadPoolExecutor(1))
        host.start(Path({str(tmp_path)!r}), sys.executable, [], "/nowhere")
        time.sleep(600)
    """)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    touchdesigner = subprocess.Popen([sys.executable, "-c", owner], env=environment)
    try:
        until((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
    finally:
        touchdesigner.send_signal(signal.SIGKILL)
        touchdesigner.wait()
    until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has collected yet does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- trouble -----------------------------------------------------------------------------------------------------------


def test_two_senders_on_one_channel(show: Show) -> None:
    show.comp.inputConnectors[0].disconnect()
    with RingWriter(f"{show.channel}.in"):
        show.comp.inputConnectors[0].connect(show.source)
        show.says("already has a live writer")
        assert show.info("sent") == 0
    show.run(lambda: show.info("sent") > 0, "the channel was not taken when it became free")
    show.run(lambda: "live writer" not in show.status)
    with pytest.raises(WriterExists):
        RingWriter(f"{show.channel}.in")


def test_a_host_that_dies_and_comes_back(show: Show) -> None:
    td._paint(show.source, picture())
    with host_process(show) as host:
        show.says("live")
        host.send_signal(signal.SIGKILL)
        host.wait()
        show.says("writer gone")
        shown = show.out._image().copy()
        td._frames(10)
        assert np.array_equal(show.out._image(), shown), "the last picture stays"
    with hosting(show):
        last = picture(seed=5)
        td._paint(show.source, last)
        show.says("live")
        show.run(lambda: np.array_equal(show.out._image(), last))


def test_a_component_deleted_while_writing(show: Show) -> None:
    td._paint(show.source, picture())
    with hosting(show), RingReader(f"{show.channel}.in") as reader:
        show.says("live")
        assert reader.state is State.LIVE
        show.comp.destroy()
        td._frames(3)
        assert reader.state is not State.LIVE
        assert not show.comp.valid
    settle(show.channel)


def test_touchdesigner_killed_while_writing(show: Show) -> None:
    """The ring of a killed sender is known as gone at once, and the next component takes the channel over."""
    show.comp.par.Active = False
    td._frames()
    script = textwrap.dedent(f"""
        import runpy, sys, time
        import numpy as np
        from tests.clients import td
        sys.modules["td"] = td
        td._reset(".")
        runpy.run_path({str(ROOT / "clients" / "touchdesigner" / "build.py")!r})
        comp = td.op("/project1/frameloom")
        comp.par.Channel = {show.channel!r}
        source = td._source(td.op("/project1"))
        td._paint(source, np.full((600, 600, 4), 0.5, np.float32))
        comp.inputConnectors[0].connect(source)
        while True:
            td._frames()
    """)
    other = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        with RingReader(f"{show.channel}.in") as reader:
            until(lambda: reader.read() is not None and reader.read(timeout_s=1.0) is not None)
            other.kill()
            other.wait()
            assert reader.state is State.WRITER_GONE
            show.comp.par.Active = True
            td._paint(show.source, picture())
            show.run(lambda: (frame := reader.read()) is not None and frame.width == 64)
    finally:
        other.kill()
        other.wait()


def test_a_component_deleted_while_its_ring_is_being_made(show: Show) -> None:
    td._paint(show.source, picture(2000, 2000))
    td._frames(2)
    show.comp.destroy()
    settle(show.channel)


def test_a_renamed_channel(show: Show) -> None:
    td._paint(show.source, picture())
    show.run(lambda: show.info("sent") > 0)
    other = fresh_channel()
    try:
        with RingReader(f"{show.channel}.in") as before, RingReader(f"{other}.in") as after:
            assert before.state is State.LIVE
            show.comp.par.Channel = other
            show.run(lambda: after.read() is not None)
            assert before.state is not State.LIVE
        show.comp.par.Channel = "not a channel!"
        show.says("not a channel!")
        show.comp.par.Active = False
        show.says("off")
    finally:
        settle(other)


def test_another_protocol_version_and_a_half_written_segment(show: Show) -> None:
    with RingWriter(f"{show.channel}.out") as writer:
        for version, text in ((2 << 16, "speaks ring version 2.0"), (0, "never finished by its writer")):
            show.comp.par.Active = False
            td._frames()
            good = writer._current.mapping.u32[VERSION_32]
            writer._current.mapping.u32[VERSION_32] = version
            show.comp.par.Active = True
            show.says(text)
            writer._current.mapping.u32[VERSION_32] = good
            show.says("warming up")


def test_a_frame_without_colours_is_said(show: Show) -> None:
    with RingWriter(f"{show.channel}.out") as writer:
        show.run(lambda: show.comp.ext.FrameloomExt._receiver.generation == writer.generation)
        writer.write({Kind.DEPTH: np.zeros((4, 4), np.float32)})
        show.says("without a colour plane")


# -- what a frame costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", [False, True])
def test_sending_touches_every_pixel_once_and_allocates_no_picture(
    show: Show, monkeypatch: pytest.MonkeyPatch, linear: bool
) -> None:
    show.comp.par.Linearinput = linear
    td._paint(show.source, picture(400, 600))
    show.run(lambda: show.info("sent") > 3)
    extension = show.comp.ext.FrameloomExt
    given = show.comp.op("in1").numpyArray(delayed=True).copy().view(Counted)
    monkeypatch.setattr(type(show.comp.op("in1")), "numpyArray", lambda self, delayed: given if delayed else None)
    sent = extension._sender.sent
    extension.FrameEnd()
    Counted.passes = 0
    tracemalloc.start()
    try:
        for _ in range(5):
            extension.FrameEnd()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert extension._sender.sent == sent + 6
    assert Counted.passes == 5
    assert peak < 100_000, "a picture of 960,000 bytes was allocated"


def test_receiving_allocates_no_picture(show: Show) -> None:
    pixels = np.zeros((400, 600, 4), np.uint8)
    with RingWriter(f"{show.channel}.out") as writer:
        extension = show.comp.ext.FrameloomExt
        show.run(lambda: extension._receiver.generation == writer.generation)
        for _ in range(3):
            writer.write({Kind.COLOUR: pixels})
            td._frames()
        buffer = extension._receiver.picture
        writer.write({Kind.COLOUR: pixels})
        tracemalloc.start()
        try:
            assert extension._receiver.take()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert extension._receiver.picture is buffer
        assert peak < 100_000


def test_no_call_in_a_frame_waits(show: Show) -> None:
    """Not the ring's sleeps, not its patience with a lock, not a thread: without a host, with one, at a resize."""
    waits: list[str] = []
    patient = {"_sleep", "wait", "acquire_patiently", "_await_reader", "join"}

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        where = Path(code.co_filename)
        if (
            event == "call"
            and code.co_name in patient
            and (where.name == "threading.py" or where.parent.parent.name == "bridge")
        ):
            waits.append(f"{code.co_name} in {where}")
        if event == "c_call" and argument.__name__ in ("sleep", "select", "poll"):
            waits.append(f"{argument.__name__} called by {code.co_name} in {where}")

    def frames() -> None:
        for _ in range(40):
            sys.setprofile(watch)
            try:
                td._frames()
            finally:
                sys.setprofile(None)
            time.sleep(0.005)

    td._paint(show.source, picture())
    frames()
    with hosting(show):
        frames()
        td._paint(show.source, picture(500, 700))
        show.comp.par.Prompt = "ice style, blue box"
        frames()
        show.says("live")
    frames()
    sent = show.info("sent")
    with RingWriter(f"{show.channel}x.in"):
        show.comp.par.Channel = f"{show.channel}x"
        frames()
    assert sent > 0 and waits == []
    assert world.stalls == 0 and set(show.comp.op("in1")._downloads) == {True}


# -- parts -------------------------------------------------------------------------------------------------------------


def test_the_component_needs_numpy_alone() -> None:
    """TouchDesigner's Python has the standard library and numpy; `td` is TouchDesigner itself."""
    files = [p for p in (ROOT / "clients" / "touchdesigner").rglob("*.py")]
    assert len(files) > 8
    named = {name for path in files for name in imports(path)}
    project = {name for name in named if name.startswith(("bridge.", "core."))}
    assert {name.rpartition(".")[0] for name in project} == {"bridge.ring", "bridge.ring.colour", "core.params"}
    behind = {
        name
        for module in ("bridge.ring", "bridge.ring.colour", "core.params")
        for names in closure(module).values()
        for name in names
    }
    allowed = {*sys.stdlib_module_names, "numpy", "td", "frameloom_td", "bridge", "core"}
    assert {name.split(".")[0] for name in named | behind} <= allowed


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Loads one module of the component by its name."""
    import runpy

    fresh = runpy.run_path(str(ROOT / "clients" / "touchdesigner" / "load.py"))["fresh"]
    return lambda name: fresh(f"frameloom_td.{name}")


def test_osc_agrees_with_python_osc(part: Callable[[str], Any]) -> None:
    from pythonosc.osc_message import OscMessage
    from pythonosc.osc_message_builder import OscMessageBuilder

    osc = part("osc")
    values = ["text", "", "blå 😀", 0, -1, 2**31, 0.1, 1e300, True, False]
    read = OscMessage(osc.encode("/some/address", *values))
    assert (read.address, read.params) == ("/some/address", values)
    builder = OscMessageBuilder("/stats/fps")
    for value in values:
        builder.add_arg(value, "h" if value == 2**31 else "d" if isinstance(value, float) else None)
    assert osc.decode(builder.build().dgram) == [("/stats/fps", values)]
    both = osc.bundle([osc.encode("/a", 1), osc.bundle([osc.encode("/b", "x")])])
    assert osc.decode(both) == [("/a", [1]), ("/b", ["x"])]


def test_osc_refuses_what_is_none(part: Callable[[str], Any]) -> None:
    osc = part("osc")
    whole = osc.bundle([osc.encode("/error", "where", "what"), osc.encode("/stats/fps", 1.5)])
    for end in range(len(whole)):
        with contextlib.suppress(ValueError):
            osc.decode(whole[:end])
    for bad in (b"", b"x", b"/a", b"/a\0\0,q\0\0", b"#bundle\0" + bytes(8) + b"\xff\xff\xff\xf0", b"/a\0\0,i\0\0\0"):
        with pytest.raises(ValueError):
            osc.decode(bad)
    with pytest.raises(TypeError):
        osc.encode("/a", [1])


def test_answers_of_strangers_and_garbage_change_nothing(part: Callable[[str], Any]) -> None:
    link_module, osc = part("link"), part("osc")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host,
        contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as stranger,
    ):
        host.bind(("127.0.0.1", 0))
        host.settimeout(PATIENCE_S)
        link = link_module.HostLink(host.getsockname()[1])
        with contextlib.closing(link):
            assert link.poll() is False
            subscribe, us = host.recvfrom(100)
            assert osc.decode(subscribe) == [("/subscribe", [])]
            stranger.sendto(osc.encode("/error", "/x", "of a stranger"), us)
            for garbage in (b"", b"\0" * 50, b"#bundle\0", osc.encode("/error"), osc.encode("/stats/fps", "x")):
                host.sendto(garbage, us)
            host.sendto(osc.encode("/subscribed", 1, 60.0), us)
            until(link.poll)
            assert link.error == "" and link.stats == {} and link.up
            host.sendto(osc.encode("/error", "/prompt", "too long"), us)
            host.sendto(osc.encode("/stats/fps", 24.5), us)
            until(lambda: not link.poll() and link.stats == {"fps": 24.5})
            assert link.error == "/prompt: too long"


def test_the_hosts_environment_is_its_own(part: Callable[[str], Any], tmp_path: Path) -> None:
    process = part("process")
    inherited = {
        "PATH": os.pathsep.join(["/usr/bin", str(tmp_path), str(tmp_path / "sub"), "/opt"]),
        "PYTHONPATH": "x",
        "PYTHONHOME": "x",
        "PythonStartup": "x",
        "VIRTUAL_ENV": "x",
        "HOME": "/home/artist",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    assert process.clean_environment(inherited, str(tmp_path)) == {
        "PATH": os.pathsep.join(["/usr/bin", "/opt"]),
        "HOME": "/home/artist",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    assert process.find_python(tmp_path, str(tmp_path)) == []
    own = tmp_path / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    own.parent.mkdir(parents=True)
    own.touch()
    assert process.find_python(tmp_path, "") == [str(own)]


def test_cuda_input_refuses_with_a_reason_and_the_arrays_go_on(show: Show) -> None:
    td._paint(show.source, picture())
    show.comp.par.Cudainput = True
    show.says("CUDA Input: ")
    show.comp.par.Cudainput = False
    show.run(lambda: show.info("sent") > 0)


class CudaTop:
    """A TOP with CUDA memory: an array, or a torch tensor on a card."""

    def __init__(self, address: int, height: int, width: int, components: int = 4) -> None:
        self.width, self.height = width, height
        self.streams: list[int | None] = []
        shape = SimpleNamespace(width=width, height=height, numComps=components, depth=1, dataType=np.uint8)
        self._memory = SimpleNamespace(ptr=address, size=height * width * components, shape=shape)

    def cudaMemory(self, stream: int | None = None) -> Any:
        self.streams.append(stream)
        return self._memory


@pytest.fixture
def cuda_library(tmp_path: Path) -> str:
    """The stand-in for the driver's library, built."""
    compiler = find_tool("gcc", "clang")
    if compiler is None or sys.platform == "win32":
        pytest.skip("needs gcc or clang, and POSIX")
    source, out = Path(td.__file__).with_name("cuda_driver.c"), tmp_path / "libcuda.so"
    build([compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", str(source), "-o", str(out)])
    return str(out)


def capture_frames(cuda: ModuleType, driver: Any, top: CudaTop, bgra: Any) -> None:
    """Two frames of a TOP go through a driver into a ring; nothing is published before its copy is done."""
    channel = fresh_channel()
    with ThreadPoolExecutor(1) as errands, RingReader(f"{channel}.in") as reader:
        sender = cuda.Sender(f"{channel}.in", errands)
        capture = cuda.Capture(sender, driver)
        until(lambda: [capture.frame_end(top, 1234, 56), sender.sent][1])
        frame = reader.read()
        assert frame is not None and sender.sent == 1
        assert (frame.source_frame_id, frame.capture_ns, frame.origin) == (56, 1234, Origin.BOTTOM_LEFT)
        assert frame.formats[Kind.COLOUR] == Format.BGRA8
        assert np.array_equal(frame.planes[Kind.COLOUR], bgra)
        # The first picture only told on which card it lies.
        assert top.streams[0] is None and set(top.streams[1:]) == {driver.stream} and driver.stream
        # The second is under way when everything is closed.
        capture.close()
        assert reader.read() is None, "a slot that nobody called whole was published"
        refused = cuda.Capture(sender, driver)
        with pytest.raises(cuda.CudaRefused, match="not 4 of uint8"):
            refused.frame_end(CudaTop(top._memory.ptr, 4, 6, components=1), 1, 1)
        refused.close()
        sender.close()
    settle(channel)


def test_cuda_frames_are_published_when_their_copy_is_done(part: Callable[[str], Any], cuda_library: str) -> None:
    # One load for both modules: they must share their classes.
    cuda = part("cuda")
    bgra = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    library = ctypes.CDLL(cuda_library)
    capture_frames(cuda, cuda.Driver(cuda_library), CudaTop(bgra.ctypes.data, 4, 6), bgra)
    # TouchDesigner's main thread had no current context and has none again.
    assert (library.held(), library.contexts()) == (0, 0)


def test_cuda_frames_on_a_card(part: Callable[[str], Any]) -> None:
    """The real driver, called from a thread without a current context, as TouchDesigner's is."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA card")
    cuda = part("cuda")
    bgra = np.random.default_rng(0).integers(0, 256, (720, 1280, 4), dtype=np.uint8)
    tensor = torch.from_numpy(bgra).cuda()
    torch.cuda.synchronize()
    with ThreadPoolExecutor(1) as fresh_thread:
        top = CudaTop(tensor.data_ptr(), 720, 1280)
        fresh_thread.submit(capture_frames, cuda, cuda.Driver(), top, bgra).result()


# -- the stand-in itself -----------------------------------------------------------------------------------------------


def test_the_stand_in_refuses_what_the_documentation_does_not_name(show: Show) -> None:
    import threading

    for wrong in (
        lambda: show.comp.makeCoffee(),
        lambda: show.comp.par.Nosuchparameter,
        lambda: td.noSuchGlobal,
        lambda: show.out.copyNumpyArray(np.zeros((4, 4, 4), np.uint8)),
        lambda: show.comp.op("info").appendChan("x"),
        lambda: setattr(show.comp, "width", 3),
        lambda: setattr(show.out.par.format, "min", 3),
    ):
        with pytest.raises(Undocumented):
            wrong()
    with pytest.raises(ValueError, match="capital"):
        show.comp.appendCustomPage("x").appendFloat("guidance_scale")
    caught: list[Exception] = []

    def elsewhere() -> None:
        try:
            show.comp.par.Status.eval()
        except Undocumented as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(caught) == 1
    show.out._cooking = True
    for array in (np.zeros((4, 4, 4), np.float16), np.zeros((4, 4), np.uint8)):
        with pytest.raises(TypeError):
            show.out.copyNumpyArray(array)
    show.out._cooking = False

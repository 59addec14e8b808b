"""The Unity package compiled against a stand-in UnityEngine and played by mono: what it sends, shows, sets and says.

No Unity editor is needed, and none was run: what the stand-in does is what the scripting reference says, not more. The
other side is our own ring, our own OSC server and the real host's process.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge.commands.generate import unity
from bridge.control.live import LiveParams
from bridge.control.osc import OscServer
from bridge.control.preset_osc import preset_commands
from bridge.control.presets import Presets
from bridge.control.shelf import Shelf
from bridge.control.statistics import Statistics
from bridge.ring import Frame, RingReader, RingWriter, State, segment
from bridge.ring.layout import HEADER, PLANE, PLANE_TABLE_OFFSET, RECORD, SLOT, ColourSpace, Format, Kind, Origin
from core.params import SPECS
from tests.rings import fresh_channel, sweep

ROOT = Path(__file__).resolve().parent.parent.parent
UNITY = ROOT / "clients" / "unity"
PACKAGE = UNITY / "Packages" / "org.frameloom.unity"
STUB = Path(__file__).with_name("unity")
PATIENCE_S = 240
"""The slowest machine is far within it; nothing waits so long that works."""
W, H = 20, 12

COMPILER, RUNTIME = shutil.which("mcs"), shutil.which("mono")
needs_mono = pytest.mark.skipif(
    not (COMPILER and RUNTIME), reason="needs Mono: install mono-devel and mono-mcs to compile and play the package"
)


# Without mono


def test_every_asset_has_one_identifier() -> None:
    metas = set(PACKAGE.rglob("*.meta"))
    assert {unity.meta_path(asset) for asset in unity.assets(PACKAGE)} == metas
    found = [re.findall(r"^guid: ([0-9a-f]{32})$", meta.read_text(encoding="utf-8"), re.M) for meta in metas]
    assert all(len(one) == 1 for one in found)
    assert len({one[0] for one in found}) == len(found) > 30


def test_the_package_describes_itself() -> None:
    package = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    assert package["name"] == PACKAGE.name and package["unity"] == "2022.3"
    assert all((PACKAGE / sample["path"]).is_dir() for sample in package["samples"])
    changes = (PACKAGE / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"[{package['version']}]" in changes
    runtime = json.loads((PACKAGE / "Runtime" / "Frameloom.Runtime.asmdef").read_text(encoding="utf-8"))
    assert runtime["allowUnsafeCode"] and runtime["versionDefines"][0]["define"] == "FRAMELOOM_HAS_SRP"
    editor = json.loads((PACKAGE / "Editor" / "Frameloom.Editor.asmdef").read_text(encoding="utf-8"))
    assert editor["includePlatforms"] == ["Editor"] and editor["references"] == [runtime["name"]]
    folder = PACKAGE / "Runtime" / "Universal"
    universal = json.loads((folder / "Frameloom.Universal.asmdef").read_text(encoding="utf-8"))
    # Without URP it is not compiled; its name is the one that the runtime shows its insides to.
    defines = {one["define"]: (one["name"], one["expression"]) for one in universal["versionDefines"]}
    urp = "com.unity.render-pipelines.universal"
    assert universal["defineConstraints"] == ["FRAMELOOM_URP"]
    assert defines == {"FRAMELOOM_URP": (urp, "14.0.0"), "FRAMELOOM_RENDER_GRAPH": (urp, "17.0.0")}
    assert runtime["name"] in universal["references"]
    shown = (PACKAGE / "Runtime" / "AssemblyInfo.cs").read_text(encoding="utf-8")
    assert f'InternalsVisibleTo("{universal["name"]}")' in shown


def test_the_readme_explains_every_field() -> None:
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    names = []
    for source in PACKAGE.glob("Runtime/*.cs"):
        names += re.findall(r"SerializeField.*\]\s+private \S+ _(\w+)", source.read_text(encoding="utf-8"))
    assert len(names) > 15
    for name in names:
        label = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name[0].upper() + name[1:])
        assert f"**{label}**" in readme, f"{label} is not explained in the README"


@pytest.mark.parametrize(("side", "source"), [("W", "RingWriter.cs"), ("R", "RingReader.cs")])
def test_every_sync_point_is_named(side: str, source: str) -> None:
    text = (PACKAGE / "Runtime" / "Ring" / source).read_text(encoding="utf-8")
    for number in range(1, 6):
        assert f"SYNC POINT {side}{number}:" in text


def test_the_ring_knows_nothing_of_unity() -> None:
    for source in (PACKAGE / "Runtime" / "Ring").glob("*.cs"):
        assert "Unity" not in source.read_text(encoding="utf-8"), source.name


# With mono


def compile_c_sharp(sources: list[Path], out: Path, *words: str) -> Path:
    assert COMPILER
    kind = [] if out.suffix == ".exe" else ["-t:library"]
    # 649: fields that only the editor sets.
    rules = ["-unsafe", "-langversion:7.2", "-optimize+", "-debug", "-nologo", "-warnaserror", "-nowarn:649"]
    line = [COMPILER, *rules, *kind, *words, f"-lib:{out.parent}", f"-out:{out}", *sorted(map(str, sources))]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-in, package, inspectors, sample and player, compiled; the player."""
    out = tmp_path_factory.mktemp("unity")
    compile_c_sharp(list(STUB.glob("UnityEngine/*.cs")), out / "UnityEngine.dll", "-d:STUB_SRP")
    compile_c_sharp([STUB / "UnityEditor.cs"], out / "UnityEditor.dll", "-r:UnityEngine.dll")
    universal = list(PACKAGE.glob("Runtime/Universal/*.cs"))
    package = [source for source in PACKAGE.glob("Runtime/**/*.cs") if source not in universal]
    engine = "-r:UnityEngine.dll"
    # As a project without a scriptable pipeline and a player without safety checks compile it.
    compile_c_sharp(package, out / "Plain.dll", engine)
    checks = "-d:FRAMELOOM_HAS_SRP;ENABLE_UNITY_COLLECTIONS_CHECKS"
    compile_c_sharp(package, out / "Frameloom.Runtime.dll", engine, checks)
    runtime = "-r:UnityEngine.dll,Frameloom.Runtime.dll"
    for version, words in (("urp14", ()), ("urp17", ("-d:FRAMELOOM_RENDER_GRAPH",))):
        # One name, as the asmdef says: the package shows its insides to that.
        (out / version).mkdir()
        compile_c_sharp(universal, out / version / "Frameloom.Universal.dll", f"-lib:{out}", runtime, *words)
    compile_c_sharp(list(PACKAGE.glob("Editor/*.cs")), out / "Frameloom.Editor.dll", runtime + ",UnityEditor.dll")
    compile_c_sharp(list(PACKAGE.glob("Samples~/Mirror/*.cs")), out / "Sample.dll", runtime)
    return compile_c_sharp([STUB / "Play.cs"], out / "Play.exe", runtime + ",UnityEditor.dll,Sample.dll")


class Player:
    """The player's process: one command, one answer, never an endless wait."""

    def __init__(self, program: Path) -> None:
        assert RUNTIME
        self.process = subprocess.Popen(
            [RUNTIME, "--debug", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Mono keeps a file in shared memory, which a killed one would leave behind.
            env=os.environ | {"MONO_DISABLE_SHARED_AREA": "1"},
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._answers.put(line.rstrip("\n"))
        self._answers.put("")

    def do(self, *words: object) -> Any:
        """Play one command; its answer, read as JSON where it is."""
        assert self.process.stdin
        line = "\t".join(map(str, words)) if any(" " in str(word) for word in words[1:]) else " ".join(map(str, words))
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self._answers.get(timeout=PATIENCE_S)
        assert answer, f"{line}: {self.process.communicate()[1]}"
        if answer == "ok":
            return None
        assert answer[0] in "[{n", answer
        return json.loads(answer)

    def until(self, holds: Callable[[dict[str, Any]], Any], pause_ms: int = 3) -> dict[str, Any]:
        """Play frames, `pause_ms` apart, until the state is as wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.do("frames", 3, pause_ms)
            state = self.do("state")
            if holds(state):
                return state
            assert time.monotonic() < deadline, state

    def warning(self, component: str, said: str) -> dict[str, Any]:
        """Play until a component says so: in its inspector, and once in the console."""
        state = self.until(lambda state: said in state[component]["warning"])
        assert sum(said in line for line in state["console"]) == 1
        rows = self.do("inspect", component)
        assert any(row.startswith("Warning: ") and said in row for row in rows)
        return state

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None and self.process.stdin:
            self.process.stdin.close()
            assert self.process.wait(PATIENCE_S) == 0, self.process.stderr and self.process.stderr.read()


@pytest.fixture
def play(program: Path) -> Iterator[Callable[[], Player]]:
    players: list[Player] = []

    def start() -> Player:
        players.append(Player(program))
        return players[-1]

    try:
        yield start
        for player in players:
            player.close()
    finally:
        for player in players:
            player.kill()
            for pipe in (player.process.stdin, player.process.stdout, player.process.stderr):
                assert pipe
                pipe.close()


@pytest.fixture
def channel() -> Iterator[str]:
    name = fresh_channel()
    yield name
    sweep(name)


def picture(n: int, width: int = W, height: int = H) -> np.ndarray:
    """Frame n of the player's scene, first row on top."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 7 + n * 13, y * 11 + n, (x ^ y) + n * 5], axis=-1)
    return rgb.astype(np.uint8)


def next_frame(player: Player, reader: RingReader) -> Frame:
    """The next frame that the player's sender publishes."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        player.do("frames", 1, 1)
        frame = reader.read(0.05)
        if frame is not None:
            return frame
        assert time.monotonic() < deadline, player.do("state")


@needs_mono
@pytest.mark.parametrize(
    ("source", "gpu"),
    [
        ("texture", "uv=top"),
        ("texture", "uv=bottom"),
        ("screen", "uv=top"),
        ("screen", "uv=bottom"),
        ("camera", "uv=top"),
        ("camera", "uv=bottom"),
        ("texture", "direct=no"),
    ],
)
def test_what_a_sender_writes(play: Callable[[], Player], tmp_path: Path, source: str, gpu: str) -> None:
    player = play()
    player.do("gpu", gpu, "pipeline=srp")
    player.do("source", source, W, H)
    player.do("sender", "channel=a.in", f"directory={tmp_path}")
    with RingReader("a.in", directory=tmp_path) as reader:
        last = 0
        for _ in range(3):
            frame = next_frame(player, reader)
            assert frame.formats == {Kind.COLOUR: Format.RGBA8}
            assert (frame.origin, frame.colour_space) == (Origin.TOP_LEFT, ColourSpace.SRGB)
            assert last < frame.source_frame_id
            last = frame.source_frame_id
            assert np.array_equal(frame.planes[Kind.COLOUR][..., :3], picture(last))
            assert (frame.planes[Kind.COLOUR][..., 3] == 255).all()
            assert 0 <= frame.publish_ns - frame.capture_ns < 60_000_000_000
    state = player.do("state")
    copied = [line for line in state["console"] if "copied once more" in line]
    assert len(copied) == (gpu == "direct=no") and len(state["console"]) == len(copied)


@needs_mono
def test_a_sender_follows_size_channel_and_flip(play: Callable[[], Player], tmp_path: Path) -> None:
    player = play()
    player.do("source", "texture", W, H)
    player.do("sender", "channel=a.in", f"directory={tmp_path}")
    with RingReader("a.in", directory=tmp_path) as reader:
        assert next_frame(player, reader).generation == reader.generation
        first = reader.generation
        player.do("sender", "flipVertically=true")
        player.do("frames", 6)
        frame = next_frame(player, reader)
        assert frame.generation == first
        assert np.array_equal(frame.planes[Kind.COLOUR][::-1, :, :3], picture(frame.source_frame_id))
        # Larger than the slots: the next generation, while slots of the old one are in the hands of the GPU.
        player.do("sender", "size=300x200", "flipVertically=false")
        deadline = time.monotonic() + PATIENCE_S
        while frame.width != 300 and time.monotonic() < deadline:
            frame = next_frame(player, reader)
        assert (frame.width, frame.height) == (300, 200) and frame.generation != first
        # Renamed: the old ring is gone in order, the new one works.
        player.do("sender", "channel=b.in")
        player.do("frames", 3)
        deadline = time.monotonic() + PATIENCE_S
        while reader.state is State.LIVE and time.monotonic() < deadline:
            time.sleep(0.01)
        assert reader.state is State.WRITER_GONE
    with RingReader("b.in", directory=tmp_path) as reader:
        assert next_frame(player, reader).width == 300
    player.do("disable", "sender")
    player.do("frames", 5)
    assert player.do("state")["safety_handles"] == 0
    assert not list(tmp_path.iterdir())
    player.do("enable", "sender")
    with RingReader("b.in", directory=tmp_path) as reader:
        assert next_frame(player, reader).width == 300
        sent = player.do("state")["sender"]
        player.do("frames", 10)
        now = player.do("state")["sender"]
        assert now["frame"] - sent["frame"] + now["dropped"] - sent["dropped"] == 10


@needs_mono
@pytest.mark.parametrize("pipeline", ["srp", "none"])
def test_depth_and_motion_go_along(play: Callable[[], Player], tmp_path: Path, pipeline: str) -> None:
    player = play()
    player.do("gpu", f"pipeline={pipeline}")
    player.do("source", "camera", W, H)
    player.do("source", "texture", W, H)
    player.do("sender", "channel=a.in", f"directory={tmp_path}", "sendDepth=true", "sendMotion=true")
    with RingReader("a.in", directory=tmp_path) as reader:
        frame = next_frame(player, reader)
    assert frame.formats == {Kind.COLOUR: Format.RGBA8, Kind.DEPTH: Format.R32F, Kind.MOTION: Format.RG16F}
    assert np.array_equal(frame.planes[Kind.COLOUR][..., :3], picture(frame.source_frame_id))
    y, x = np.mgrid[0:H, 0:W]
    assert np.array_equal(frame.planes[Kind.DEPTH], 1 + x + 100 * y)
    assert np.allclose(frame.planes[Kind.MOTION].astype(np.float32), scene_motion(), atol=0.01)
    assert player.do("state")["console"] == []


def scene_motion() -> np.ndarray:
    """One to the right and two down came from one to the left and two higher rows up; a corner rests."""
    motion = np.full((H, W, 2), (-1, -2), np.float32)
    motion[-1, :4] = 0
    return motion


@needs_mono
@pytest.mark.parametrize("version", ["urp14", "urp17"])
def test_urp_renders_depth_and_motion_because_the_package_asks(
    play: Callable[[], Player], program: Path, tmp_path: Path, version: str
) -> None:
    player = play()
    player.do("load", program.parent / version / "Frameloom.Universal.dll")
    player.do("gpu", f"pipeline={version}")
    player.do("source", "camera", W, H)
    player.do("source", "texture", W, H)
    player.do("sender", "channel=a.in", f"directory={tmp_path}", "sendDepth=true", "sendMotion=true")
    y, x = np.mgrid[0:H, 0:W]
    with RingReader("a.in", directory=tmp_path) as reader:
        for size in ((W, H), (2 * W, 2 * H), (0, 0)):
            # Planes have the size of the picture; a new one is there a frame or two later.
            player.do("sender", f"size={size[0]}x{size[1]}")
            frame = next_frame(player, reader)
        while frame.width != W:
            frame = next_frame(player, reader)
        assert np.array_equal(frame.planes[Kind.DEPTH], 1 + x + 100 * y)
        assert np.allclose(frame.planes[Kind.MOTION].astype(np.float32), scene_motion(), atol=0.01)
        # Motion alone, and none of it any more.
        player.do("sender", "sendDepth=false")
        while Kind.DEPTH in frame.planes:
            frame = next_frame(player, reader)
        assert np.allclose(frame.planes[Kind.MOTION].astype(np.float32), scene_motion(), atol=0.01)
        player.do("sender", "sendMotion=false")
        while Kind.MOTION in frame.planes:
            frame = next_frame(player, reader)
    player.do("frames", 20, 1)
    assert player.do("state")["console"] == []


@needs_mono
def test_urp_17_without_render_graph_is_not_asked(play: Callable[[], Player], program: Path, tmp_path: Path) -> None:
    """Its Compatibility Mode executes no such pass: what another asked for is taken, and what is missing is said."""
    player = play()
    player.do("load", program.parent / "urp17" / "Frameloom.Universal.dll")
    player.do("gpu", "pipeline=urp17", "compatible=yes")
    player.do("source", "camera", W, H)
    player.do("source", "texture", W, H)
    player.do("sender", "channel=a.in", f"directory={tmp_path}", "sendDepth=true", "sendMotion=true")
    player.warning(
        "sender", "camera eye delivers no depth; the package asks the built-in pipeline and URP for it; in URP 17 turn "
    )
    player.do("gpu", "asked=yes")
    with RingReader("a.in", directory=tmp_path) as reader:
        frame = next_frame(player, reader)
    assert np.allclose(frame.planes[Kind.MOTION].astype(np.float32), scene_motion(), atol=0.01)
    state = player.until(lambda state: not state["sender"]["warning"])
    assert len(state["console"]) == 1


@needs_mono
def test_planes_that_are_the_same_everywhere_are_told(play: Callable[[], Player], tmp_path: Path) -> None:
    """As black ones are that a pipeline binds in place of textures it did not render (URP 17 without our assembly)."""
    player = play()
    player.do("gpu", "pipeline=urp17")
    player.do("source", "camera", W, H)
    player.do("source", "texture", W, H)
    player.do("sender", "channel=a.in", f"directory={tmp_path}", "sendDepth=true")
    player.warning(
        "sender", "the depth plane has been the same everywhere for a while; if the scene is not, the package asks "
    )
    player.do("gpu", "pipeline=none")
    player.until(lambda state: not state["sender"]["warning"])
    player.do("sender", "sendMotion=true")
    player.do("scene", "still")
    player.warning("sender", "the motion plane has been the same everywhere for a while; ")
    player.do("scene", "moving")
    player.until(lambda state: not state["sender"]["warning"])


@needs_mono
def test_bright_light_is_sent_when_asked_for(play: Callable[[], Player], tmp_path: Path) -> None:
    player = play()
    player.do("source", "texture", W, H, "half")
    player.do("sender", "channel=a.in", f"directory={tmp_path}")
    player.warning("sender", "light above 1 is cut; tone-map it first or tick High Dynamic Range")
    player.do("sender", "highDynamicRange=true")
    with RingReader("a.in", directory=tmp_path) as reader:
        frame = next_frame(player, reader)
        while frame.formats[Kind.COLOUR] != Format.RGBA16F:
            frame = next_frame(player, reader)
    assert frame.colour_space is ColourSpace.LINEAR
    wanted = picture(frame.source_frame_id) / 127.5
    assert np.allclose(frame.planes[Kind.COLOUR][..., :3], wanted, atol=0.002) and wanted.max() > 1.2


def pixels_of(shown: dict[str, Any], channels: str = "u1") -> np.ndarray:
    """A texture of the player as an array, first row on top."""
    flat = np.frombuffer(bytes.fromhex(shown["pixels"]), channels)
    return flat.reshape(shown["height"], shown["width"], 4)[::-1]


@needs_mono
def test_a_receiver_shows_every_format(play: Callable[[], Player], tmp_path: Path) -> None:
    player = play()
    player.do("receiver", "channel=a.out", f"directory={tmp_path}", f"target={W * 2}x{H * 2}")
    rgb = picture(5)
    alpha = np.full((H, W, 1), 200, np.uint8)
    rgba = np.concatenate([rgb, alpha], axis=2)
    floats = rgba.astype(np.float32) / 255
    cases: list[tuple[np.ndarray, Format, str, np.ndarray]] = [
        (rgba, Format.RGBA8, "R8G8B8A8", rgba),
        (rgba[..., [2, 1, 0, 3]], Format.BGRA8, "B8G8R8A8", rgba[..., [2, 1, 0, 3]]),
        (rgb, Format.RGB8, "R8G8B8A8", np.concatenate([rgb, np.full_like(alpha, 255)], axis=2)),
        (rgb[..., 0], Format.R8, "R8G8B8A8", np.dstack([rgb[..., 0]] * 3 + [np.full((H, W), 255, np.uint8)])),
        (floats.astype(np.float16), Format.RGBA16F, "R16G16B16A16_SFloat", floats.astype(np.float16)),
        (floats, Format.RGBA32F, "R32G32B32A32_SFloat", floats),
    ]
    number = 0
    with RingWriter("a.out", directory=tmp_path) as writer:
        for given, form, texture, wanted in cases:
            for origin in Origin:
                for colours in ColourSpace:
                    number += 1
                    writer.write(
                        {Kind.COLOUR: given[::-1] if origin is Origin.BOTTOM_LEFT else given},
                        formats={Kind.COLOUR: form},
                        origin=origin,
                        colour_space=colours,
                        source_frame_id=number,
                    )
                    state = player.until(lambda state: state["receiver"]["source"] == number)  # noqa: B023
                    assert state["receiver"]["on_renderer"] and state["receiver"]["writer"] == "Live"
                    shown = player.do("shown")
                    assert shown["format"].startswith(texture)
                    if form in (Format.RGBA8, Format.BGRA8, Format.RGB8, Format.R8):
                        assert shown["format"].endswith("SRGB" if colours is ColourSpace.SRGB else "UNorm")
                    assert np.array_equal(pixels_of(shown, wanted.dtype.str), wanted), (form, origin)
                    if form in (Format.RGBA8, Format.BGRA8) and colours is ColourSpace.SRGB:
                        target = pixels_of(player.do("target"))
                        assert np.array_equal(target, rgba.repeat(2, axis=0).repeat(2, axis=1))
        player.warning("receiver", "sRGB-encoded floats, which a linear project shows too bright")
        player.do("gpu", "colours=gamma")
        writer.write({Kind.COLOUR: rgba}, colour_space=ColourSpace.LINEAR)
        player.warning("receiver", "linear light, which a gamma project shows too dark")
        assert writer.write({Kind.DEPTH: np.ones((H, W), np.float32)}, source_frame_id=99)
        player.warning("receiver", "no colour plane; let the writer send one")
        writer.write({Kind.COLOUR: np.zeros((2, 20_000, 4), np.uint8)})
        too_large = "20000 x 2 pixels, this GPU shows sides up to 16384; let the writer"
        player.warning("receiver", too_large)
        player.do("frames", 4, 400)  # longer than from one look at the writer to the next
        assert too_large in player.do("state")["receiver"]["warning"]


class HostProcess:
    """The real host in a process of its own."""

    def __init__(self, channel: str, *words: str) -> None:
        line = [sys.executable, "-m", "bridge", "host", "--channel", channel, "--no-page", "--osc-port", "0", *words]
        self.process = subprocess.Popen(
            line,
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(PATIENCE_S)


@needs_mono
@pytest.mark.skipif(sys.platform == "win32", reason="kills the host with SIGKILL")
def test_the_round_trip_through_the_real_host(play: Callable[[], Player], channel: str) -> None:
    player = play()
    player.do("source", "texture", 32, 24, "clear")
    player.do("sender", f"channel={channel}.in")
    player.do("receiver", f"channel={channel}.out")
    player.warning(
        "receiver", f"nobody writes channel {channel}.out; start the host (python3 run.py host --channel {channel})"
    )
    host = HostProcess(channel, "--model", "passthrough")
    try:
        trip = player.do("trip", 60, PATIENCE_S - 60)
        assert trip["shown"] == 60 and trip["wrong"] == 0 and trip["older"] == 0
        state = player.until(lambda state: not state["receiver"]["warning"])
        # The scene's alpha is zero: told where it can be changed, and the result is opaque all the same.
        assert "alpha is zero everywhere" in state["sender"]["warning"]
        assert (pixels_of(player.do("shown"))[..., 3] == 255).all()
        assert 0 < state["receiver"]["latency_ms"] < 60_000
        host.end(signal.SIGKILL)
        player.warning("receiver", "has ended and the picture is its last; start it again")
        host = HostProcess(channel, "--model", "passthrough")
        trip = player.do("trip", 20, PATIENCE_S - 60)
        assert trip["shown"] == 20 and trip["wrong"] == 0
        # As linear half floats: the host brings them back to sRGB bytes.
        player.do("sender", "highDynamicRange=true")
        trip = player.do("trip", 20, PATIENCE_S - 60, 1)
        assert trip["shown"] == 20 and trip["wrong"] == 0
        player.until(lambda state: not state["receiver"]["warning"])
    finally:
        host.end(signal.SIGTERM)


@needs_mono
def test_the_embedded_model_paints_what_unity_sends(play: Callable[[], Player], channel: str) -> None:
    player = play()
    player.do("source", "texture", 64, 64)
    player.do("sender", f"channel={channel}.in")
    player.do("receiver", f"channel={channel}.out")
    host = HostProcess(channel, "--size", "64", "--set", "steps=1", "--set", "strength=0.4")
    try:
        state = player.until(lambda state: state["receiver"]["frames"] >= 3, pause_ms=30)
        shown = pixels_of(player.do("shown"))
        assert shown.shape == (64, 64, 4) and (shown[..., 3] == 255).all() and shown[..., :3].std() > 1
        assert not np.array_equal(shown[..., :3], picture(state["receiver"]["source"], 64, 64))
        assert 0 < state["receiver"]["source"] <= state["sender"]["frame"]
    finally:
        host.end(signal.SIGTERM)


@needs_mono
def test_the_host_takes_what_the_control_sets(play: Callable[[], Player]) -> None:
    live = LiveParams()
    live.set("prompt", "before")
    server = OscServer(live, Statistics(), port=0)
    server.start()
    port = server.port
    player = play()
    try:
        # All of it at the first answer, so that the inspector is what holds.
        player.do("control", f"port={port}", "prompt=neon style, naïve sphere", "strength=0.5", "guidance=SelfNegative")
        player.until(lambda state: state["control"]["answers"])
        player.until(lambda state: live.current.prompt == "neon style, naïve sphere")
        assert (live.current.strength, live.current.guidance) == (0.5, "self-negative")
        changes = {"steps": 4, "tIndex": "18,26", "similarityFilter": "true", "seed": -1, "guidanceScale": 2.35}
        player.do("control", *(f"{name}={value}" for name, value in changes.items()))
        player.until(lambda state: live.current.steps == 4)
        now = live.current
        assert (now.t_index, now.similarity_filter, now.seed, now.guidance_scale) == ((18, 26), True, -1, 2.35)
        # Nothing changed, nothing sent.
        revision = live.revision
        player.do("frames", 30)
        assert live.revision == revision
        player.do("control", "tIndex=26,18")
        player.warning("control", "the host refused /t_index: ")
        assert live.current.t_index == (18, 26)
    finally:
        server.stop()
    player.warning("control", f"no host answers at 127.0.0.1, port {port}; start it")
    # A host that comes later, and knows nothing of us, gets everything.
    later = LiveParams()
    server = OscServer(later, Statistics(), port=port)
    server.start()
    try:
        player.do("control", "tIndex=")
        player.until(lambda state: later.current.prompt == "neon style, naïve sphere" and state["control"]["answers"])
        assert (later.current.steps, later.current.t_index) == (4, ())
    finally:
        server.stop()
    rows = player.do("inspect", "control")
    assert [row for row in rows if not row.startswith(("_", "Info", "Warning"))] == [
        re.sub(r"_(\w)", lambda m: m[1].upper(), name) for name in SPECS
    ]
    player.do("control", "port=70000")
    player.warning("control", "port 70000 is none; set Port to 1 to 65535")


@needs_mono
def test_presets_are_saved_and_recalled_from_a_script(play: Callable[[], Player], tmp_path: Path) -> None:
    live = LiveParams()
    presets = Presets(live, Shelf(tmp_path))
    server = OscServer(live, Statistics(), port=0, commands=preset_commands(presets))
    server.start()
    player = play()
    try:
        player.do("control", f"port={server.port}", "seed=5", "prompt=comic style")
        player.until(lambda state: live.current.seed == 5)
        player.do("control", "seed=6")
        player.do("save", "Dämmerung")  # with what was changed just before
        player.until(lambda state: len(presets.shelf.contents().presets) == 1)
        assert presets.shelf.get("Dämmerung").values["seed"] == 6
        player.do("control", "seed=7", "strength=0.9")
        player.until(lambda state: live.current.strength > 0.8)
        player.do("recall", "Dämmerung")
        player.until(lambda state: live.current.seed == 6)
        revision = live.revision
        player.do("frames", 30)
        assert live.revision == revision  # the component does not take the recall back
        player.do("control", "steps=3")
        player.until(lambda state: live.current.steps == 3)
        player.do("recall", "Dämmerung", 0.1)
        player.until(lambda state: live.current.steps == 1)
        player.do("recall", "nothing")
        player.warning("control", "the host refused /preset/recall: no preset 'nothing'")

        def names() -> list[str]:
            return [preset.name for preset in presets.shelf.contents().presets]

        player.do("save", "Nacht")
        player.until(lambda state: names() == ["Dämmerung", "Nacht"])
        player.do("rename", "Dämmerung", "Morgen")
        player.until(lambda state: names() == ["Morgen", "Nacht"])
        player.do("reorder", "Nacht", "Morgen")
        player.until(lambda state: names() == ["Nacht", "Morgen"])
        player.do("delete", "Nacht")
        player.until(lambda state: names() == ["Morgen"])
        player.do("restore", "Nacht")
        player.until(lambda state: set(names()) == {"Nacht", "Morgen"})
    finally:
        presets.stop()
        server.stop()


@needs_mono
def test_two_senders_on_one_channel(play: Callable[[], Player], tmp_path: Path) -> None:
    first, second = play(), play()
    for player in (first, second):
        player.do("source", "texture", W, H)
        player.do("sender", "channel=a.in", f"directory={tmp_path}")
        player.do("frames", 3)
    second.warning("sender", f"already has a live writer (process {first.process.pid}); stop it or use another channel")
    with RingReader("a.in", directory=tmp_path) as reader:
        assert next_frame(first, reader).sequence
        # The first leaves, the second takes over by itself.
        first.do("disable", "sender")
        state = second.until(lambda state: state["sender"]["frame"] > 3 and not state["sender"]["warning"])
        assert state["sender"]["frame"] and next_frame(second, reader).width == W


@needs_mono
def test_sizes_that_cannot_be(play: Callable[[], Player], tmp_path: Path) -> None:
    player = play()
    player.do("source", "texture", W, H)
    player.do("sender", "channel=a.in", f"directory={tmp_path}")
    for width, height, said in (
        (0, 0, "the source is 0 x 0 pixels; give it a size"),
        (20_000, 20_000, "a picture of 20000 x 20000 pixels is too large (sides up to 16384, 1024 MiB in all)"),
    ):
        player.do("sender", "size=0x0")
        player.do("report", width, height)
        player.warning("sender", said)
    assert not list(tmp_path.glob("*.seg"))


@needs_mono
@pytest.mark.parametrize(
    ("word", "value", "said"),
    [
        ("channel", "no such/name", "use 1 to 48 letters, digits, dots, dashes or underscores"),
        ("directory", "/nowhere/at/all", "make the folder first or give an existing one"),
        ("captureMethod", "Camera", "there is no camera to capture; set Source Camera"),
    ],
)
def test_settings_that_cannot_be(play: Callable[[], Player], tmp_path: Path, word: str, value: str, said: str) -> None:
    player = play()
    player.do("source", "texture", W, H)
    player.do("sender", "channel=a.in", f"directory={tmp_path}")
    player.do("sender", f"{word}={value}")
    player.warning("sender", said)
    # Mended: it goes on by itself.
    player.do("sender", "channel=a.in", f"directory={tmp_path}", "captureMethod=Texture")
    player.until(lambda state: state["sender"]["frame"] > 3 and not state["sender"]["warning"])


@needs_mono
def test_the_camera_method_needs_a_pipeline(play: Callable[[], Player], tmp_path: Path) -> None:
    player = play()
    player.do("source", "camera", W, H)
    player.do("sender", "channel=a.in", f"directory={tmp_path}")
    player.warning("sender", "the Camera method needs URP or HDRP; use Game View")


@needs_mono
def test_a_ring_of_another_version_or_half_written(play: Callable[[], Player], tmp_path: Path) -> None:
    player = play()
    player.do("receiver", "channel=a.out", f"directory={tmp_path}")
    place = segment.place("a.out", tmp_path)
    lock = place.writer_lock()
    assert lock.acquire()
    record = Path(place.record_path)
    try:
        record.write_bytes(
            RECORD.pack(magic=b"FLPOINT\n", version=2 << 16, record_size=64, generation=7, segment_size=1 << 16)
        )
        player.warning(
            "receiver", "speaks ring version 2.0, this program 1; run the same major version of frameloom on both sides"
        )
        record.write_bytes(b"FLPOINT\n" + bytes(10))
        player.warning("receiver", "has 18 of 64 bytes; remove it and start the writer again")
        record.write_bytes(b"something else entirely")
        player.warning("receiver", "is not a ring record; remove it and start the writer again")
        record.write_bytes(
            RECORD.pack(magic=b"FLPOINT\n", version=1 << 16, record_size=64, generation=7, segment_size=1 << 16)
        )
        half = Path(place.segment_path(7))
        half.write_bytes(b"FLRING\r\n" + bytes(8184))
        player.warning("receiver", "was never finished by its writer; start the writer again")
        half.write_bytes(b"FLRING\r\n" + struct.pack("<I", 1 << 16) + bytes(500))
        player.warning("receiver", "of 4096 header bytes; start the writer again")
        half.write_bytes(b"FLRING\r\n" + struct.pack("<I", 1 << 16) + bytes(8180))
        player.warning("receiver", "under another name; start the writer again")
    finally:
        lock.remove()
    with RingWriter("a.out", directory=tmp_path) as writer:
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=41)
        player.until(lambda state: state["receiver"]["source"] == 41 and not state["receiver"]["warning"])
        # Cut off while it is mapped: said, not a crash; and the next writer is followed.
        path = writer.segment_path
        assert path
        os.truncate(path, 4096)
        player.warning("receiver", "its segment was cut by somebody; start the writer again")
    with RingWriter("a.out", directory=tmp_path) as writer:
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=42)
        player.until(lambda state: state["receiver"]["source"] == 42 and not state["receiver"]["warning"])


@needs_mono
@pytest.mark.skipif(sys.platform == "win32", reason="writes into a mapped segment's file")
def test_slots_that_describe_what_cannot_be(play: Callable[[], Player], tmp_path: Path) -> None:
    player = play()
    player.do("receiver", "channel=a.out", f"directory={tmp_path}")
    planes = {Kind.COLOUR: picture(1), Kind.DEPTH: np.ones((H, W), np.float32)}
    extremes = [0, 7, (1 << 24) + 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]
    patches = [
        (table + f.offset, f.size, value)
        for table, fields in (
            (PLANE_TABLE_OFFSET, PLANE.fields),
            (PLANE_TABLE_OFFSET + PLANE.size, PLANE.fields),
            (0, [SLOT[name] for name in ("origin", "colour_space", "plane_count")]),
        )
        for f in fields
        for value in extremes
        if value < 1 << 8 * f.size
    ]
    with RingWriter("a.out", directory=tmp_path) as writer:
        assert writer.segment_path
        with open(writer.segment_path, "r+b", buffering=0) as file:
            for at, size, value in patches:
                sequence = writer.write(planes, source_frame_id=1)
                newest = struct.unpack("<Q", os.pread(file.fileno(), 8, HEADER.offset("newest")))[0]
                assert newest >> 8 == sequence
                stride = (writer.segment_size - HEADER.size) // writer.slots
                start = HEADER.size + (newest & 0xFF) * stride
                sound = os.pread(file.fileno(), size, start + at)
                os.pwrite(file.fileno(), value.to_bytes(size, "little"), start + at)
                player.do("frames", 1, 0)
                # The writer does not write a description again that it believes to be there.
                os.pwrite(file.fileno(), sound, start + at)
            console = player.do("state")["console"]
            assert len(console) > 50 and all("malformed slot: " in line for line in console)
            os.pwrite(file.fileno(), struct.pack("<Q", writer.sequence + 1 << 8 | 200), HEADER.offset("newest"))
            player.warning("receiver", "newest frame in slot 200; start the writer again")
        writer.write(planes, source_frame_id=2)
        player.until(lambda state: state["receiver"]["source"] == 2 and not state["receiver"]["warning"])


@needs_mono
@pytest.mark.skipif(sys.platform == "win32", reason="kills the player with SIGKILL")
def test_a_player_that_dies_while_it_writes(play: Callable[[], Player], tmp_path: Path) -> None:
    player = play()
    player.do("source", "texture", W, H)
    player.do("sender", "channel=a.in", f"directory={tmp_path}")
    with RingReader("a.in", directory=tmp_path) as reader:
        next_frame(player, reader)
        # At the end of a frame slots are in the hands of the GPU, marked as being written.
        player.do("frames", 5, 0)
        player.kill()
        assert reader.state is State.WRITER_GONE
        frame = reader.read()
        assert frame is not None and np.array_equal(frame.planes[Kind.COLOUR][..., :3], picture(frame.source_frame_id))
        again = play()
        again.do("source", "texture", W, H)
        again.do("sender", "channel=a.in", f"directory={tmp_path}")
        frame = next_frame(again, reader)
        assert np.array_equal(frame.planes[Kind.COLOUR][..., :3], picture(frame.source_frame_id))


@needs_mono
def test_a_transparent_picture_and_a_renamed_channel(play: Callable[[], Player], tmp_path: Path) -> None:
    player = play()
    player.do("receiver", "channel=a.out", f"directory={tmp_path}")
    with RingWriter("a.out", directory=tmp_path) as writer:
        writer.write({Kind.COLOUR: np.zeros((H, W, 4), np.uint8)})
        player.warning("receiver", "alpha of zero everywhere; show them with an opaque material")
        player.do("receiver", "channel=b.out")
        player.warning("receiver", "nobody writes channel b.out; start the host (python3 run.py host --channel b)")
        player.do("receiver", "channel=a.out")
        writer.write({Kind.COLOUR: picture(1)}, source_frame_id=7)
        player.until(lambda state: state["receiver"]["source"] == 7 and not state["receiver"]["warning"])


@needs_mono
def test_the_sample_plays(play: Callable[[], Player], channel: str) -> None:
    player = play()
    player.do("sample", channel, 9)
    with RingReader(f"{channel}.in") as reader:
        assert next_frame(player, reader).width == 512
    with RingWriter(f"{channel}.out") as writer:
        writer.write({Kind.COLOUR: picture(3)}, source_frame_id=3)
        state = player.until(lambda state: state["receiver"]["source"] == 3)
    assert state["receiver"]["on_renderer"]
    player.warning("control", "no host answers at 127.0.0.1, port 9; start it")

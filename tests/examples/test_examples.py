"""Every example, run as its user runs it: against a host, without one, and as README prints the first.

The passthrough model stands for a real one: it is part of the program, and what comes out is what went in.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from bridge.commands.host import ChannelHost
from bridge.ring import Format, Kind, Origin, RingReader
from core.params import Params
from tests.conformance.peers import NATIVE, STRICT, build, find_tool
from tests.rings import fresh_channel, sweep

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE_S = 240.0
NO_PANDA3D = importlib.util.find_spec("panda3d") is None
needs_panda3d = pytest.mark.skipif(NO_PANDA3D, reason="needs Panda3D, the extra 'examples' of pyproject.toml")


class Demo:
    """A host, and where its examples find it."""

    def __init__(self) -> None:
        self.channel = fresh_channel()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.osc_port = free.getsockname()[1]
        self.running = ChannelHost(self.channel, Params(), port=0, osc_port=self.osc_port, model="passthrough")
        self.running.listen(page=False)
        self.running.start()
        assert self.running.host.ready.wait(PATIENCE_S)

    def stop(self) -> None:
        self.running.stop()
        sweep(self.channel)


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    started = Demo()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> str:
    """06, built without a complaint."""
    compiler = find_tool("gcc", "clang")
    if compiler is None or sys.platform == "win32":
        pytest.skip("needs gcc or clang, and POSIX")
    out = tmp_path_factory.mktemp("c") / "06_client"
    build([compiler, "-std=c11", *STRICT, f"-I{NATIVE}", str(EXAMPLES / "06_client.c"), "-o", str(out)])
    return str(out)


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """The example in `folder`, where its results go; a name that ends in .py is one of examples/."""
    if command[0].endswith(".py"):
        command = (sys.executable, str(EXAMPLES / command[0]), *command[1:])
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=env)


def run(folder: Path, *command: str, typed: str = "") -> tuple[int, str, str]:
    """Status, standard output, standard error of an example that ends by itself."""
    with start(folder, *command) as child:
        try:
            out, err = child.communicate(typed, timeout=PATIENCE_S)
        finally:
            child.kill()
    return child.returncode, out, err


def check_client(out: str) -> None:
    """300 results in order, every one with the number of a frame that was written before and how old that is."""
    told = re.findall(r"^result (\d+): frame (\d+), (\d+\.\d) ms after it was written, .*192", out, re.MULTILINE)
    numbers = [int(number) for number, _, _ in told]
    sources = [int(source) for _, source, _ in told]
    assert numbers == list(range(1, 301))
    assert sources == sorted(sources) and sources[0] >= 1
    assert all(float(age_ms) > 0 for _, _, age_ms in told)


# ---- with a host ---------------------------------------------------------------------------------------------------


def test_01_a_client_in_python(demo: Demo, tmp_path: Path) -> None:
    status, out, err = run(tmp_path, "01_client.py", demo.channel)
    assert (status, err) == (0, "")
    check_client(out)


def test_02_pictures_of_a_video_are_shown_beside_their_own_results(demo: Demo, tmp_path: Path) -> None:
    levels = np.linspace(20, 230, 40).astype(np.uint8)
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (96, 64))
    for level in levels:
        video.write(np.full((64, 96, 3), level, np.uint8))
    video.release()
    status, out, err = run(tmp_path, "02_camera.py", "clip.mp4", "--channel", demo.channel, "--size", "64")
    assert (status, err) == (0, "") and "before_after.mp4" in out
    saved = cv2.VideoCapture(str(tmp_path / "out" / "before_after.mp4"))
    seen = []
    while True:
        there, picture = saved.read()
        if not there:
            break
        assert picture.shape == (64, 128, 3)
        # Neighbouring pictures of the clip differ by five levels.
        assert abs(float(picture[:, 4:60].mean()) - float(picture[:, 68:124].mean())) < 2.5
        seen.append(picture[:, 4:60].mean())
    assert seen[0] < 60 and seen[-1] > 180
    # Saved at the rate of the clip, one for every picture that was read after the first result.
    assert abs(len(seen) - len(levels)) <= 1


def test_03_the_planes_of_a_world(demo: Demo, tmp_path: Path) -> None:
    pairs = []
    with (
        RingReader(f"{demo.channel}.in") as reader,
        start(tmp_path, "03_planes.py", "--channel", demo.channel, "--frames", "60") as child,
    ):
        try:
            before = None
            while child.poll() is None:
                frame = reader.read(timeout_s=0.2)
                if frame is None or Kind.MOTION not in frame.planes:
                    continue
                if before is not None and frame.source_frame_id == before.source_frame_id + 1:
                    pairs.append((before, frame))
                before = frame
            out, err = child.communicate(timeout=PATIENCE_S)
        finally:
            child.kill()
    assert (child.returncode, err) == (0, "")
    assert "60 frames written" in out
    assert all(f"{name} " in out for name in ("COLOUR", "DEPTH", "MOTION", "MASK"))
    # Motion leads back to the picture before: read from there, that one looks like this one; not the other way.
    y, x = np.mgrid[0:192, 0:192].astype(np.float32)
    error = {1: 0.0, -1: 0.0}
    for old, new in pairs:
        back = new.planes[Kind.MOTION].astype(np.float32)
        for sign in error:
            then = cv2.remap(
                old.planes[Kind.COLOUR], x + sign * back[..., 0], y + sign * back[..., 1], cv2.INTER_LINEAR
            )
            error[sign] += np.abs(then[4:-4, 4:-4].astype(float) - new.planes[Kind.COLOUR][4:-4, 4:-4]).mean()
    assert pairs and error[1] < 0.8 * error[-1]
    last = pairs[-1][1]
    assert last.T_world_camera is not None
    assert set(np.unique(last.planes[Kind.MASK])) == {0, 255}
    assert 0.5 < np.nanmin(last.planes[Kind.DEPTH]) < 10.0


def test_04_a_show_over_osc(demo: Demo, tmp_path: Path) -> None:
    prompts: list[str] = []
    stop = demo.running.live.subscribe(lambda params, _: prompts.append(params.prompt))
    status, out, err = run(tmp_path, "04_show.py", "--port", str(demo.osc_port), "--speed", "8")
    stop()
    assert (status, err) == (0, "")
    styles = [prompt.split()[0] for prompt in dict.fromkeys(prompts)]
    assert styles == ["comic", "blueprint", "neon", "sunset", "watercolour"]
    now = demo.running.live.current
    assert (now.seed, now.strength) == (7, 0.1)
    assert "refused" not in out and "frames per second" in out


@needs_panda3d
def test_05_a_scene_shows_itself_on_its_wall(demo: Demo, tmp_path: Path) -> None:
    command = ("05_panda3d.py", "--offscreen", "--channel", demo.channel, "--results", "20")
    sent, painted = [], []
    with (
        RingReader(f"{demo.channel}.in") as inputs,
        RingReader(f"{demo.channel}.out") as outputs,
        start(tmp_path, *command) as child,
    ):
        try:
            while child.poll() is None:
                painted += filter(None, [outputs.read(timeout_s=0.1)])
                sent += filter(None, [inputs.read()])
            out, err = child.communicate(timeout=PATIENCE_S)
        finally:
            child.kill()
    assert child.returncode == 0, err
    assert "20 results" in out
    frame = sent[-1]
    assert (frame.origin, frame.formats[Kind.COLOUR]) == (Origin.BOTTOM_LEFT, Format.BGRA8)
    # The floor, of which the first row sees the nearest part, by the camera's place and slope; the last row sees sky.
    assert frame.intrinsics is not None
    slope = np.radians(10) - np.arctan((np.arange(0, 80, 10) - 95.5) / frame.intrinsics[1])
    floor_m = 2.0 / np.sin(slope) * np.cos(slope - np.radians(10))
    np.testing.assert_allclose(frame.planes[Kind.DEPTH][0:80:10, 96], floor_m, rtol=0.02)
    assert np.isinf(frame.planes[Kind.DEPTH][-1]).all()
    # The part of the wall that no shape stands before, and the same part of one of the last results.
    view = cv2.imread(str(tmp_path / "out" / "wall.png"))
    wall = cv2.cvtColor(view[34:300, 196:572], cv2.COLOR_BGR2GRAY)
    alike = []
    for result in painted[-10:]:
        picture = cv2.cvtColor(result.planes[Kind.COLOUR][3:133, 4:188], cv2.COLOR_RGBA2GRAY)
        alike.append(np.corrcoef(cv2.resize(picture, wall.shape[::-1]).ravel(), wall.ravel())[0, 1])
    assert max(alike) > 0.9


def test_06_a_client_in_c(demo: Demo, tmp_path: Path, c_client: str) -> None:
    (tmp_path / "build").mkdir()
    status, out, err = run(tmp_path, c_client, demo.channel)
    assert (status, err) == (0, "")
    check_client(out)
    picture = cv2.imread(str(tmp_path / "build" / "06_result.ppm"))
    assert picture.shape == (192, 192, 3)
    assert set(np.unique(picture[:, :, 0])) == {100, 210}  # blue of the ground and of the square


# ---- without one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("01_client.py", "{channel}"),
        ("02_camera.py", "clip.avi", "--channel", "{channel}"),
        ("03_planes.py", "--channel", "{channel}"),
        ("04_show.py", "--port", "{port}"),
        pytest.param(("05_panda3d.py", "--offscreen", "--channel", "{channel}"), marks=needs_panda3d),
        ("{c_client}", "{channel}"),
    ],
    ids=lambda command: command[0],
)
def test_without_a_host_an_example_ends_with_a_sentence(
    tmp_path: Path, command: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    clip = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 64))
    clip.write(np.zeros((64, 64, 3), np.uint8))
    clip.release()
    channel = fresh_channel()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        known = {"channel": channel, "port": str(silent.getsockname()[1])}
        if "{c_client}" in command:
            known["c_client"] = request.getfixturevalue("c_client")
        status, _, err = run(tmp_path, *(word.format(**known) for word in command))
    sweep(channel)
    assert status == 1
    assert err.startswith("no host ") and err.count("\n") == 1
    assert "start one with  python3 run.py " in err


def test_a_host_that_ends_ends_the_client(tmp_path: Path) -> None:
    ours = Demo()
    try:
        with start(tmp_path, "03_planes.py", "--channel", ours.channel) as child:
            try:
                assert child.stdout is not None and child.stdout.readline().startswith("COLOUR")
                ours.running.stop()
                _, err = child.communicate(timeout=PATIENCE_S)
            finally:
                child.kill()
        assert (child.returncode, err.count("\n")) == (1, 1)
        assert err.startswith("no host is there")
    finally:
        ours.stop()


# ---- what README says of them --------------------------------------------------------------------------------------


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_prints_the_first_example() -> None:
    text = (EXAMPLES / "01_client.py").read_text(encoding="utf-8")
    _, docstring, program = text.split('"""', 2)
    assert docstring and program.strip() in re.findall(r"```python\n(.*?)\n```", README, re.DOTALL)


def test_readme_s_example_works_when_pasted(demo: Demo, tmp_path: Path) -> None:
    """Line by line into an interactive Python, where an empty line ends a block."""
    program = (EXAMPLES / "01_client.py").read_text(encoding="utf-8").split('"""', 2)[2]
    named = f"import sys; sys.argv = ['', {demo.channel!r}]"
    status, out, err = run(tmp_path, sys.executable, "-i", "-q", "-c", named, typed=program + "\n")
    assert status == 0 and "Error" not in err, err
    check_client(out)


def test_readme_lists_every_example_with_a_picture() -> None:
    names = sorted(path.name for path in EXAMPLES.iterdir() if path.is_file())
    assert len(names) >= 6
    pictures = []
    for name in names:
        row = next(line for line in README.splitlines() if line.startswith("|") and f"(examples/{name})" in line)
        pictures += re.findall(r"docs/examples/[a-z0-9_]+\.jpg", row)
    assert len(pictures) == len(names) == len(set(pictures))
    assert sum((ROOT / picture).stat().st_size for picture in pictures) < 300_000

"""calibrate and project: what they write, what they refuse and why, and that the depth drives the stream."""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bridge.commands import calibrate, cli, project
from bridge.commands import footage as live
from bridge.commands.footage import record
from bridge.ring import Kind, Origin, RingError, RingReader, RingWriter
from core.calibration.footage import FootageError, RecordedFootage
from core.calibration.geometry import T_CAMERA_AXES, angle_deg, rigid
from core.calibration.rig import Rig, load_rig
from core.calibration.synthetic import Pinhole, Sequence, drive
from core.motion import Follower
from core.opencv import opencv
from core.params import Params
from tests.core.kitti_folder import write_odometry
from tests.rings import fresh_channel, sweep


@functools.cache
def driven() -> Sequence:
    return drive(12, frames=9, camera=Pinhole(414, 125, 240.5))


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_odometry(driven(), tmp_path_factory.mktemp("kitti"))


def said(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, object], str]:
    shown = capsys.readouterr()
    document: dict[str, object] = json.loads(shown.out.splitlines()[-1])
    return document, shown.err


def test_a_kitti_sequence_gives_a_rig_a_film_and_plots(
    kitti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "car.json"
    words = ["--kitti", str(kitti), "--mask", f"labels:{kitti / 'masks'}", "--mask-values", "26", "--passes", "1"]
    assert cli.main(["calibrate", *words, "--out", str(out)]) == 0
    document, told = said(capsys)
    rig, true = load_rig(out), driven().truth
    assert angle_deg(rig.T_cam_lidar[:3, :3] @ true.T_cam_lidar[:3, :3].T) < 1.0
    assert abs(rig.offset_s - true.offset_s) < 0.05
    assert document["accepted"] and document["rig"] == str(out) and document["flags"] == list(rig.flags)
    shares = [int(share) for share in re.findall(r"solving, (\d+) %", told)]
    assert shares == sorted(shares) and len(shares) > 2 and shares[-1] == 100 and "motion by rig" in told
    film = opencv().VideoCapture(str(out.parent / "car-points.mp4"))
    pictures = [film.read()[1] for _ in range(9)]
    # Before above after; the points are elsewhere in the two.
    assert pictures[0].shape == (250, 414, 3)
    halves = [np.abs(p[30:125].astype(int) - p[155:]).mean() for p in pictures]
    assert max(halves) > 1.0
    for name in ("loss", "search"):
        drawn = opencv().imread(str(out.parent / f"car-{name}.png"))
        assert drawn is not None and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--recording", "nowhere"], "holds no recording"),
        (["--kitti", "nowhere"], "neither a raw drive"),
        (["--kitti", "KITTI", "--mask", "plane"], "came without a mask plane"),
        (["--kitti", "KITTI", "--mask", "labels:MASKS", "--mask-values", "99"], "masks are empty"),
        (
            ["--kitti", "KITTI", "--mask", "labels:MASKS", "--mask-values", "26", "--class", "bus"],
            "no points of the class",
        ),
        (["--kitti", "KITTI", "--mask", "labels:MASKS", "--mask-values", "26", "--offset-ms", "1e9"], "do not overlap"),
        (["--kitti", "KITTI", "--mask", "labels:MASKS", "--frames", "3"], "only 3 pairs"),
        (["--kitti", "KITTI", "--mask", "no.such.module:f"], "No module named"),
        (["--kitti", "KITTI", "--mask", "labels:MASKS", "--start", "RIG"], "mirrors"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_with_the_reason(
    words: list[str], reason: str, kitti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirrored = Rig(driven().K, driven().size, np.diag([1.0, -1.0, 1.0, 1.0]))
    mirrored.save(tmp_path / "mirrored.json")
    places = {"KITTI": str(kitti), "MASKS": str(kitti / "masks"), "RIG": str(tmp_path / "mirrored.json")}
    words = [functools.reduce(lambda w, p: w.replace(*p), places.items(), word) for word in words]
    out = tmp_path / "rig.json"
    assert calibrate.main([*words, "--out", str(out)]) == 1
    document, told = said(capsys)
    assert reason in told and reason in str(document["refused"]) and not out.exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "give --camera and --points"),
        (["--camera", "a"], "belong together"),
        (["--kitti", "a", "--recording", "b"], "give --camera and --points"),
        (["--kitti", "a", "--record", "b"], "--record keeps"),
        (["--kitti", "a", "--position", "1,2"], "use 3 numbers"),
        (["--kitti", "a", "--position", "1,2,nan"], "use 3 numbers"),
        (["--kitti", "a", "--fov", "200"], "field of view"),
    ],
)
def test_words_that_make_no_sense_are_answered_at_once(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        calibrate.main(words)
    assert ended.value.code == 2 and reason in capsys.readouterr().err


# ---- live ----------------------------------------------------------------------------------------------------------


def test_a_recording_ends_by_the_pictures_own_time_and_is_upright(tmp_path: Path) -> None:
    name = fresh_channel()
    stop, playing = threading.Event(), threading.Event()
    rows = np.arange(24, dtype=np.uint8)

    def play() -> None:
        with RingWriter(f"{name}.in", capacity_bytes=1 << 16) as writer:
            k = 0
            while not stop.wait(0.01):
                writer.write(
                    {
                        Kind.COLOUR: np.repeat(np.repeat(rows[:, None, None], 32, 1), 3, 2) * 10,
                        Kind.MASK: np.repeat(rows[:, None], 32, 1),
                        Kind.MOTION: np.full((24, 32, 2), (1.0, 2.0), np.float16),
                        Kind.POINTS: np.array([[[1, 2, 3, 0.5], [np.nan, 0, 0, 0]]], np.float32),
                    },
                    # A clock of its own, a hundred times as fast.
                    capture_ns=10**12 + k * 10**9 // 10,
                    origin=Origin.BOTTOM_LEFT,
                    intrinsics=(30.0, 30.0, 16.0, 12.0),
                )
                k += 1
                playing.set()

    thread = threading.Thread(target=play)
    thread.start()
    try:
        assert playing.wait(10)
        # One channel may carry both.
        record(name, name, 2.0, tmp_path / "recording", threading.Event())
    finally:
        stop.set()
        thread.join()
        sweep(name)
    read = RecordedFootage(tmp_path / "recording")
    assert read.size == (32, 24) and read.K[0, 0] == 30.0
    assert (read.camera_ns[-1] - read.camera_ns[0]) * 1e-9 >= 2.0
    assert np.array_equal(read.classes(0)[:, 0], rows[::-1])
    assert abs(int(read.picture(0)[0, 5, 0]) - 230) < 8
    # Turned over, motion points down where it pointed up; pixels back per tenth of a second of the camera's clock.
    assert np.allclose(read.motion(1), (-10.0, 20.0), rtol=1e-3)
    assert np.array_equal(read.cloud(0).points[0], [1, 2, 3]) and read.cloud(0).extra[0] == 0.5


def test_channels_through_which_nothing_comes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FIRST_FRAME_S", 0.2)
    camera, points = fresh_channel(), fresh_channel()
    with RingWriter(f"{camera}.in", capacity_bytes=4096) as writer:
        writer.write({Kind.COLOUR: np.zeros((8, 8, 3), np.uint8)})
        with pytest.raises(RingError, match=rf"nothing comes through {points}\.in; start"):
            record(camera, points, 1.0, tmp_path / "a", threading.Event())
    sweep(camera)
    # A folder without pictures says so, too.
    with pytest.raises(FootageError, match="no picture came|no cloud came"):
        RecordedFootage(tmp_path / "a")


def wall_and_square() -> np.ndarray:
    """A wall at 4 m and before it a square at 2 m, as a cloud in the sensor's axes."""
    y, z = np.meshgrid(np.linspace(-2, 2, 160), np.linspace(-2, 2, 120))
    wall = np.stack([np.full_like(y, 4.0), y, z, np.zeros_like(y)], -1).reshape(-1, 4)
    square = wall[(np.abs(wall[:, 1]) < 0.6) & (np.abs(wall[:, 2]) < 0.6)] * (0.5, 0.5, 0.5, 1)
    return np.concatenate([wall, square]).astype(np.float32)[None]


def test_project_gives_each_frame_the_depth_of_its_own_moment_and_that_drives_the_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, size = fresh_channel(), (64, 48)
    K = np.array([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]])
    # Pictures are stamped 300 s later than scans of the same moment.
    rig = Rig(K, size, rigid(T_CAMERA_AXES, np.zeros(3)), offset_ns=-300_000_000_000)
    rig.save(tmp_path / "rig.json")
    stop = threading.Event()
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)

    def play() -> None:
        with (
            RingWriter(f"{name}-a.in", capacity_bytes=1 << 16) as camera,
            RingWriter(f"{name}-b.in", capacity_bytes=1 << 20) as sensor,
        ):
            k = 0
            while not stop.wait(0.02):
                sensor.write({Kind.POINTS: wall_and_square()}, capture_ns=10**12 + k * 40_000_000)
                camera.write(
                    {Kind.COLOUR: picture},
                    capture_ns=10**12 + k * 40_000_000 + 300_000_000_000,
                    source_frame_id=k + 1,
                )
                k += 1

    got = []

    def watch() -> None:
        with RingReader(f"{name}-c.in") as reader:
            until = time.monotonic() + 60
            while time.monotonic() < until and not (got and stop.is_set()):
                frame = reader.read(0.2)
                if frame is not None:
                    got.append(frame)

    threads = [threading.Thread(target=play), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    try:
        words = ["--rig", str(tmp_path / "rig.json"), "--camera", f"{name}-a", "--points", f"{name}-b"]
        assert project.main([*words, "--channel", f"{name}-c", "--frames", "25"]) == 0
        document, _ = said(capsys)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for part in "abc":
            sweep(f"{name}-{part}")
    assert document["frames"] == 25
    frames = [f for f in got if (f.planes[Kind.DEPTH] > 0).any()]
    assert len(frames) >= 2
    depth = frames[-1].planes[Kind.DEPTH]
    assert depth.shape == (48, 64) and depth[24, 32] == pytest.approx(2.0, rel=1e-3)
    assert depth[24, 5] == pytest.approx(4.0, rel=1e-3) and (depth > 0).mean() > 0.8
    assert frames[-1].source_frame_id > 0 and frames[-1].intrinsics == (50.0, 50.0, 32.0, 24.0)
    assert np.array_equal(frames[-1].planes[Kind.COLOUR], picture)
    # The stream follows these planes: nothing moves, so what was painted stays, all over the picture.
    follower, params = Follower((48, 64), (6, 8), torch.device("cpu")), Params(temporal="engine")
    for frame in frames[-2:]:
        planes = {k.name.lower(): torch.from_numpy(np.array(p))[None] for k, p in frame.planes.items()}
        guide = follower.guide(planes.pop("colour"), planes, [frame.source_frame_id], params)
    assert guide.picture is not None and guide.picture.weight.mean() > 0.8


def test_project_refuses_rigs_it_cannot_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rig", str(tmp_path / "rig.json"), "--camera", "a", "--points", "b", "--channel", "c"]
    assert project.main(words) == 1
    assert "cannot be read" in capsys.readouterr().err
    Rig(driven().K, driven().size, driven().truth.T_cam_lidar, accepted=False).save(tmp_path / "rig.json")
    assert project.main(words) == 1
    assert "not accepted" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        project.main([*words[:-1], "a"])
    Rig(np.array([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]]), (64, 48), np.eye(4)).save(tmp_path / "rig.json")
    name = fresh_channel()
    with RingWriter(f"{name}.in", capacity_bytes=1 << 14) as writer:
        stop = threading.Event()

        def play() -> None:
            while not stop.wait(0.02):
                writer.write({Kind.COLOUR: np.zeros((32, 32, 3), np.uint8)})

        thread = threading.Thread(target=play)
        thread.start()
        try:
            words = ["--rig", str(tmp_path / "rig.json"), "--camera", name, "--points", name, "--channel", f"{name}-c"]
            assert project.main(words) == 1
        finally:
            stop.set()
            thread.join()
    sweep(name)
    sweep(f"{name}-c")
    assert "32x32 pixels and the rig is for 64x48" in capsys.readouterr().err

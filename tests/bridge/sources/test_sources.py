"""The clients that feed a channel: what they write, how they keep time, and what they say when they cannot."""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from bridge import sources
from bridge.commands.arguments import parse_size
from bridge.commands.source import feed
from bridge.ring import Frame, Kind, RingReader, RingWriter, State
from bridge.sources import PictureSource, SourceError, StreamSource, VideoSource, WorldSource, fit, media, open_source

ROOT = Path(__file__).resolve().parents[3]
SIZE = (32, 24)


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A channel name of this process and test alone."""
    return f"test-sources-{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"


@contextlib.contextmanager
def client(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A client process that does not outlive the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "bridge.commands.source", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def first_frame(reader: RingReader, child: subprocess.Popen[str]) -> Frame:
    """The first frame of a client that may take its time to start."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        frame = reader.read(timeout_s=0.5)
        if frame is not None:
            return frame
        assert child.poll() is None, child.communicate()[1]
    raise AssertionError("no frame within two minutes")


def flat(colour_bgr: tuple[int, int, int], width: int = 40, height: int = 30) -> np.ndarray:
    return np.full((height, width, 3), colour_bgr, np.uint8)


def colour_of(planes: dict[Kind, np.ndarray]) -> list[int]:
    """The middle pixel, RGB."""
    plane = planes[Kind.COLOUR]
    assert plane.shape == (SIZE[1], SIZE[0], 3) and plane.dtype == np.uint8
    return [int(c) for c in plane[SIZE[1] // 2, SIZE[0] // 2]]


# ---- the world -----------------------------------------------------------------------------------------------------


def test_the_world_moves_and_is_the_same_every_time() -> None:
    one, two = WorldSource(SIZE, 30.0, seed=3), WorldSource(SIZE, 30.0, seed=3)
    early = one.read(0.0)[0][Kind.COLOUR]
    late = one.read(1.0)[0][Kind.COLOUR]
    assert early.shape == (SIZE[1], SIZE[0], 3) and early.dtype == np.uint8
    assert not np.array_equal(early, late)
    assert np.array_equal(late, two.read(1.0)[0][Kind.COLOUR])


def test_the_world_sends_other_planes_only_when_asked() -> None:
    plain = WorldSource(SIZE, 30.0)
    assert set(plain.read(0.5)[0]) == {Kind.COLOUR}
    assert plain.pose(0.5) is None
    full = WorldSource(SIZE, 30.0, planes=sources.PLANES)
    planes, _ = full.read(0.5)
    shapes = {kind: plane.shape for kind, plane in planes.items()}
    assert shapes == {
        Kind.COLOUR: (24, 32, 3),
        Kind.DEPTH: (24, 32),
        Kind.MOTION: (24, 32, 2),
        Kind.NORMAL: (24, 32, 4),
        Kind.MASK: (24, 32),
    }
    pose = full.pose(0.5)
    assert pose is not None
    T_world_camera, intrinsics = pose
    assert T_world_camera.shape == (4, 4)
    assert intrinsics[2:].tolist() == [16.0, 12.0]


def test_motion_leads_back_to_the_previous_frame() -> None:
    """The ring's rule: pixel plus motion is the place in the previous frame, so the classes agree there."""
    source = WorldSource((128, 128), 4.0, seed=1, planes=("motion", "mask"))
    before = source.read(1.0)[0][Kind.MASK]
    planes, _ = source.read(1.25)
    mask, motion = planes[Kind.MASK], planes[Kind.MOTION]
    y, x = np.mgrid[0:128, 0:128]

    def agreement(sign: float) -> float:
        at_x = np.clip(np.rint(x + sign * motion[..., 0]), 0, 127).astype(int)
        at_y = np.clip(np.rint(y + sign * motion[..., 1]), 0, 127).astype(int)
        return float(np.mean(mask == before[at_y, at_x]))

    assert agreement(+1.0) > agreement(0.0) > agreement(-1.0)


# ---- pictures and video --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(200, 50, 3), (50, 200, 3), (7, 5, 3), (24, 32, 3), (60, 60, 4), (60, 60)])
def test_any_shape_is_cropped_to_the_middle(shape: tuple[int, ...]) -> None:
    picture = np.zeros(shape, np.uint8)
    picture[shape[0] // 2 - 2 : shape[0] // 2 + 3, shape[1] // 2 - 2 : shape[1] // 2 + 3] = 200
    out = fit(picture, SIZE)
    assert out.shape == (24, 32, 3) and out.dtype == np.uint8
    assert out[12, 16].max() > 100


def test_colours_arrive_as_rgb() -> None:
    assert fit(flat((255, 0, 10)), SIZE)[5, 5].tolist() == [10, 0, 255]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 2 (blue), 10 (green), and two that are none."""
    cv2.imwrite(str(tmp_path / "shot10.png"), flat((0, 255, 0)))
    cv2.imwrite(str(tmp_path / "shot2.png"), flat((255, 0, 0)))
    (tmp_path / "broken3.png").write_bytes(b"\x89PNG nothing more")
    (tmp_path / "empty4.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    return tmp_path


def test_a_folder_is_shown_in_the_order_of_its_numbers(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = open_source(str(folder), SIZE, 30.0, hold_s=1.0)
    seen = [colour_of(source.read(t)[0]) for t in (0.0, 0.9, 1.0, 1.9, 2.0, 3.5)]
    blue, green = [0, 0, 255], [0, 255, 0]
    assert seen == [blue, blue, green, green, blue, green]
    notes = capfd.readouterr().err
    assert "broken3.png left out: it cannot be read as a picture" in notes
    assert "empty4.jpg left out" in notes
    assert notes.count("left out") == 2


def test_pictures_can_be_one_frame_each(folder: Path) -> None:
    source = open_source(str(folder), SIZE, 30.0, hold_s=0.0)
    seen = [colour_of(source.read(0.0)[0])[2] for _ in range(4)]
    assert seen == [255, 0, 255, 0]


def test_a_picture_that_vanishes_is_left_out(folder: Path) -> None:
    source = PictureSource([folder / "shot2.png", folder / "gone.png"], SIZE, 1.0)
    assert colour_of(source.read(0.0)[0]) == [0, 0, 255]
    assert colour_of(source.read(1.0)[0]) == [0, 0, 255]


def test_no_readable_picture_is_an_error(folder: Path) -> None:
    with pytest.raises(SourceError, match="none of the pictures can be read"):
        PictureSource([folder / "broken3.png"], SIZE, 1.0).read(0.0)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Ten frames at 10 per second, ever brighter."""
    path = tmp_path / "clip.avi"
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    assert out.isOpened()
    for level in range(10):
        out.write(flat((level * 25, level * 25, level * 25), 64, 48))
    out.release()
    return path


def test_a_video_keeps_its_speed_and_starts_again(video: Path) -> None:
    source = open_source(str(video), SIZE, 30.0)
    assert isinstance(source, VideoSource)
    levels = [round(colour_of(source.read(t)[0])[0] / 25) for t in (0.0, 0.05, 0.1, 0.5, 0.9, 1.0, 1.3, 2.2)]
    assert levels == [0, 0, 1, 5, 9, 0, 3, 2]
    source.close()


def test_a_film_without_a_rate_keeps_its_own_times(video: Path) -> None:
    """As browsers record: pictures at 0, 0.1, 0.25, 0.3 and 0.8 s, and no rate that could be believed."""
    source = VideoSource(video, SIZE)
    stamps = iter([0.1, 0.25, 0.3, 0.8])
    real = source._video

    class Stamped:
        def get(self, what: int) -> float:
            return next(stamps, 0.8) * 1000.0

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    source._video = Stamped()
    levels = [round(colour_of(source.read(t)[0])[0] / 25) for t in (0.0, 0.09, 0.11, 0.24, 0.26, 0.31, 0.79)]
    assert levels == [0, 0, 1, 1, 2, 3, 3]


def test_a_film_that_is_decoded_too_slowly_drops_time_and_keeps_coming(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = VideoSource(video, SIZE)
    grabbed = 0
    real, clock = source._video, [0.0]

    class Slow:
        def grab(self) -> bool:
            nonlocal grabbed
            grabbed += 1
            clock[0] += 0.3
            return bool(real.grab())

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    source._video = Slow()
    monkeypatch.setattr("bridge.sources.media.time.monotonic", lambda: clock[0])
    levels = []
    for moment in (0.0, 0.3, 0.7, 1.5, 3.0):
        before = grabbed
        levels.append(round(colour_of(source.read(moment)[0])[0] / 25))
        assert grabbed - before <= 2, "it decodes what it missed"
    assert levels == sorted(levels) and levels[-1] > levels[0]


@pytest.mark.parametrize("name", ["cut.png", "cut.webp"])
def test_what_is_transparent_is_not_seen(tmp_path: Path, name: str) -> None:
    picture = np.zeros((24, 32, 4), np.uint8)
    picture[..., :3] = np.random.default_rng(0).integers(0, 256, (24, 32, 3))
    picture[8:16, 8:16] = (20, 200, 250, 255)
    cv2.imwrite(str(tmp_path / name), picture, [cv2.IMWRITE_WEBP_QUALITY, 101])
    shown = open_source(str(tmp_path / name), SIZE, 30.0).read(0.0)[0][Kind.COLOUR]
    assert shown[10:14, 10:14].reshape(-1, 3).tolist() == [[250, 200, 20]] * 16
    assert shown[0].max() == 0 and shown[:, -1].max() == 0


@pytest.mark.parametrize("name", ["moving.webp", "moving.gif", "moving.png"])
def test_animated_pictures_move_in_their_own_time(tmp_path: Path, name: str) -> None:
    animation = cv2.Animation()
    animation.frames = [np.full((24, 32, 4), (level, level, level, 255), np.uint8) for level in (10, 120, 230)]
    animation.durations = np.array([200, 100, 300], np.int32)
    assert cv2.imwriteanimation(str(tmp_path / name), animation, [cv2.IMWRITE_WEBP_QUALITY, 101])
    source = open_source(str(tmp_path / name), SIZE, 30.0)
    levels = [colour_of(source.read(t)[0])[0] for t in (0.0, 0.15, 0.25, 0.35, 0.55, 0.65)]
    # A GIF has few colours.
    assert np.abs(np.array(levels) - [10, 10, 120, 230, 230, 10]).max() <= (16 if name.endswith("gif") else 3)
    alone = tmp_path / "folder"
    alone.mkdir()
    (tmp_path / name).rename(alone / name)
    assert abs(colour_of(open_source(str(alone), SIZE, 30.0).read(0.0)[0])[0] - 10) <= 16


@pytest.mark.parametrize("name", ["long.webp", "long.png"])
def test_a_long_animation_is_decoded_in_parts_and_bounded_in_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    levels = list(range(10, 240, 23))
    animation = cv2.Animation()
    animation.frames = [np.full((24, 32, 4), (level, level, level, 255), np.uint8) for level in levels]
    animation.durations = np.full(len(levels), 100, np.int32)
    assert cv2.imwriteanimation(str(tmp_path / name), animation, [cv2.IMWRITE_WEBP_QUALITY, 101])
    for decoded in (1, 24 * 32 * 4 * 3, 1 << 20):
        monkeypatch.setattr(media, "DECODED_BYTES", decoded)
        source = open_source(str(tmp_path / name), SIZE, 30.0)
        shown = [colour_of(source.read(0.05 + 0.1 * k)[0])[0] for k in range(len(levels) + 1)]
        assert np.abs(np.array(shown) - [*levels, levels[0]]).max() <= 3
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(media, "KEPT_BYTES", 4 * 3 * SIZE[0] * SIZE[1])
    source = open_source(str(tmp_path / name), SIZE, 30.0)
    assert abs(colour_of(source.read(0.45)[0])[0] - levels[0]) <= 3
    assert "its first 4 pictures are shown; make a video of it" in capfd.readouterr().err


def test_linear_light_is_shown_as_light(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "half.hdr"), np.full((24, 32, 3), 0.2140, np.float32))
    shown = colour_of(open_source(str(tmp_path / "half.hdr"), SIZE, 30.0).read(0.0)[0])
    assert np.abs(np.array(shown) - 128).max() <= 1
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((24, 32, 3), 0x8000, np.uint16))
    assert colour_of(open_source(str(tmp_path / "deep.png"), SIZE, 30.0).read(0.0)[0]) == [128, 128, 128]


class Phone(http.server.BaseHTTPRequestHandler):
    """A camera in the network, that shows ever brighter pictures and hangs up after some."""

    pictures = 8

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
        self.end_headers()
        with contextlib.suppress(OSError):
            for k in range(self.pictures):
                jpeg = cv2.imencode(".jpg", flat((20 + 10 * k,) * 3, 64, 48))[1].tobytes()
                head = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                self.wfile.write(head + jpeg + b"\r\n")
                time.sleep(0.02)

    def log_message(self, *about: object) -> None:
        pass


def test_a_network_camera_is_shown_and_opened_again(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.sources.media.RETRY_S", 0.05)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Phone)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = open_source(f"http://who:secret@127.0.0.1:{server.server_port}/video", SIZE, 30.0)
    try:
        assert isinstance(source, StreamSource)
        said, came, until = "", 0, time.monotonic() + 60
        while ("is back" not in said or came < 5) and time.monotonic() < until:
            frame = source.read(0.0)
            came += frame is not None
            if frame is not None:
                assert frame[0][Kind.COLOUR].shape == (24, 32, 3)
            said += capfd.readouterr().err
        assert came >= 5
        assert "gives no more pictures; trying again" in said and "is back" in said and "secret" not in said
    finally:
        source.close()
        server.shutdown()
        server.server_close()


def test_a_film_in_the_network_keeps_its_own_speed_however_fast_it_comes(video: Path) -> None:
    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *about: object) -> None:
            super().__init__(*about, directory=str(video.parent))  # type: ignore[arg-type]

        def log_message(self, *about: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        near = open_source(f"http://127.0.0.1:{server.server_port}/{video.name}", SIZE, 30.0)
        here = open_source(str(video), SIZE, 30.0)
        for time_s in (0.0, 0.05, 0.12, 0.5, 0.55, 1.31):
            assert np.array_equal(near.read(time_s)[0][Kind.COLOUR], here.read(time_s)[0][Kind.COLOUR])
        near.close()
    finally:
        server.shutdown()
        server.server_close()


def test_a_stream_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(SourceError, match="^http://127.0.0.1:9/video gives no video; check") as refused:
        open_source("http://who:secret@127.0.0.1:9/video", SIZE, 30.0)
    assert "secret" not in str(refused.value)


# ---- what cannot be opened -----------------------------------------------------------------------------------------


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"no video" * 100)
    (tmp_path / "none").mkdir()
    for what, words in (
        ("no-such-file.mp4", "no source 'no-such-file.mp4'"),
        (str(junk), "cannot be read as a video or a picture; convert it"),
        (str(tmp_path / "none"), "no pictures in the folder"),
        ("camera:97", "no camera 97; plug one in"),
        ("camera:x", "no source 'camera:x'"),
        ("camera:\N{SUPERSCRIPT TWO}", "no source 'camera:"),
        ("camera:99999999999999999999", "no source 'camera:9999"),
        ("~no-such-user-here/clip.mp4", "~no-such-user-here/clip.mp4"),
        ("x" * 5000, "give a file or folder that you may read"),
    ):
        with pytest.raises(SourceError, match=words):
            open_source(what, SIZE, 30.0)
    if os.name == "posix":
        strange = tmp_path / "clip\udcff.mp4"
        strange.write_bytes(junk.read_bytes())
        with pytest.raises(SourceError, match="rename the file"):
            open_source(str(strange), SIZE, 30.0)
    with pytest.raises(SourceError, match="no style 'mud' in the world; use one of grey"):
        open_source("world", SIZE, 30.0, style="mud")
    with pytest.raises(SourceError, match="only the world knows depth"):
        open_source(str(junk), SIZE, 30.0, planes=("depth",))


def test_sizes_are_read_and_refused() -> None:
    assert parse_size("128") == (128, 128)
    assert parse_size("640x360") == (640, 360)
    for wrong in ("", "0", "x", "12x", "100000", "-5x5", "64x64x64"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_size(wrong)


# ---- feeding -------------------------------------------------------------------------------------------------------


class Ticking:
    """A source of one grey value per frame that notes the moments it was asked for; slow if told so."""

    def __init__(self, slow_s: float = 0.0) -> None:
        self.moments: list[float] = []
        self.slow_s = slow_s

    def read(self, time_s: float) -> tuple[dict[Kind, np.ndarray], int]:
        time.sleep(self.slow_s)
        self.moments.append(time_s)
        return {Kind.COLOUR: np.full((8, 8, 3), len(self.moments), np.uint8)}, 1000 + len(self.moments)

    def pose(self, time_s: float) -> None:
        return None

    def close(self) -> None:
        pass


def test_frames_are_numbered_and_stamped(channel: str) -> None:
    source = Ticking()
    with RingReader(f"{channel}.in") as reader, RingWriter(f"{channel}.in", capacity_bytes=4096) as writer:
        assert feed(source, writer, 1000.0, (8, 8), 5, True, threading.Event()) == 5
        frame = reader.read()
        assert frame is not None
        assert frame.planes[Kind.COLOUR].shape == (8, 8, 4)
        assert frame.planes[Kind.COLOUR][0, 0].tolist() == [5, 5, 5, 255]
        assert frame.capture_ns == 1005
        assert frame.frame_id == frame.source_frame_id == round(source.moments[-1] * 1000) + 1


def test_a_slow_source_leaves_moments_out_and_keeps_its_speed(channel: str) -> None:
    source = Ticking(slow_s=0.05)
    started = time.monotonic()
    with RingWriter(f"{channel}.in", capacity_bytes=4096) as writer:
        feed(source, writer, 100.0, (8, 8), 6, False, threading.Event())
    took_s = time.monotonic() - started
    assert all(later > earlier for earlier, later in zip(source.moments, source.moments[1:], strict=False))
    assert source.moments[-1] >= 0.15
    assert source.moments[-1] <= took_s


def test_a_stop_ends_the_feeding(channel: str) -> None:
    stop = threading.Event()
    stop.set()
    with RingWriter(f"{channel}.in", capacity_bytes=4096) as writer:
        assert feed(Ticking(), writer, 0.01, (8, 8), None, False, stop) == 0


def test_the_client_feeds_the_channel_and_ends_with_json(channel: str) -> None:
    words = ("world", "--channel", channel, "--size", "48x32", "--fps", "60", "--frames", "12")
    with RingReader(f"{channel}.in") as reader, client(*words) as child:
        frame = first_frame(reader, child)
        assert (frame.width, frame.height) == (48, 32)
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        told = json.loads(out.splitlines()[-1])
        assert told["frames"] == 12
        assert told["peak_memory_mb"] > 0
        assert reader.state is State.WRITER_GONE


@pytest.mark.parametrize("way", ["signal", "parent"])
def test_the_client_ends_tidily_when_told(way: str, channel: str) -> None:
    words = ("world", "--channel", channel, "--size", "32", "--with-parent")
    with RingReader(f"{channel}.in") as reader, client(*words) as child:
        first_frame(reader, child)
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        if way == "parent":
            child.stdin.close()
        else:
            child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
        assert json.loads(child.stdout.read())["frames"] >= 1
        assert "Traceback" not in child.stderr.read()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["no-such-file"], 1, "source: no source 'no-such-file'"),
        (["world", "--channel", "a/b"], 2, "argument --channel: 'a/b': use 1 to 44 letters"),
    ],
)
def test_the_client_says_what_is_wrong(words: list[str], code: int, line: str, channel: str) -> None:
    with client("--channel", channel, *words) as child:
        out, err = child.communicate(timeout=120)
    assert (child.returncode, out) == (code, "")
    assert line in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_a_second_client_of_one_channel_is_refused(channel: str) -> None:
    words = ("world", "--channel", channel, "--frames", "1")
    with RingWriter(f"{channel}.in", capacity_bytes=4096), client(*words) as child:
        _, err = child.communicate(timeout=120)
    assert child.returncode == 1
    assert "already has a live writer" in err

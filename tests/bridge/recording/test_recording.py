"""Recordings: bit-equal when lossless, readable however they ended, and nobody waits for them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from mcap.reader import make_reader

from bridge.commands.cli import main as frameloom
from bridge.control.live import LiveParams
from bridge.control.osc import OscServer
from bridge.control.statistics import Statistics
from bridge.page.gateway import Channel, Gateway
from bridge.recording.export import export
from bridge.recording.file import CODECS, Entry, RecordingError, RecordingReader, RecordingWriter, packed, unpacked
from bridge.recording.recorder import Recorder
from bridge.recording.replay import in_order, replay
from bridge.ring import ColourSpace, Format, Kind, Origin, Policy, RingReader, RingWriter
from bridge.ring.clock import now_ns
from core.params import Params
from tests.rings import fresh_channel, sweep
from tests.waiting import until

PATIENCE_S = 60


@pytest.fixture
def channel():
    name = fresh_channel()
    yield name
    sweep(name)


def random_planes(rng, layout, height=24, width=32):
    """A colour plane of a format, with every other kind that a client may send."""
    channels = {Format.R8: 1, Format.RGB8: 3, Format.RGBA8: 4, Format.BGRA8: 4}.get(layout, 4)
    if layout in (Format.RGBA16F, Format.RGBA32F):
        colour = rng.normal(size=(height, width, 4)).astype(np.float16 if layout == Format.RGBA16F else np.float32)
    else:
        colour = rng.integers(0, 256, (height, width, channels), np.uint8)
    return {
        Kind.COLOUR: colour if channels > 1 else colour[..., 0],
        Kind.DEPTH: rng.normal(size=(height, width)).astype(np.float32),
        Kind.MOTION: rng.normal(size=(height // 2, width // 2, 2)).astype(np.float16),
        Kind.MASK: rng.integers(0, 2, (height, width), np.uint8),
    }


def frame(planes=None, number=1, **about):
    """A frame as a reader gives it, by way of a real ring."""
    name = fresh_channel()
    given = {"origin": Origin.BOTTOM_LEFT, "flags": 3, "param_revision": 9, "source_frame_id": 77, **about}
    try:
        with RingWriter(name, capacity_bytes=1 << 20) as writer, RingReader(name) as reader:
            planes = {Kind.COLOUR: np.full((8, 8, 4), number, np.uint8)} if planes is None else planes
            writer.write(planes, frame_id=number, **given)
            return reader.read(1.0)
    finally:
        sweep(name)


def same(a, b):
    """Whether two frames are equal to the last bit, times of publication apart."""
    assert set(a.planes) == set(b.planes) and a.formats == b.formats
    for kind, plane in a.planes.items():
        assert plane.dtype == b.planes[kind].dtype and plane.tobytes() == b.planes[kind].tobytes()
        assert plane.shape == b.planes[kind].shape
    for name in ("frame_id", "source_frame_id", "param_revision", "flags", "origin", "colour_space", "width", "height"):
        assert getattr(a, name) == getattr(b, name), name
    assert a.intrinsics == b.intrinsics
    assert (a.T_world_camera is None) == (b.T_world_camera is None)
    if a.T_world_camera is not None:
        assert a.T_world_camera.tobytes() == b.T_world_camera.tobytes()
    return True


POSE = {"T_world_camera": np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32), "intrinsics": (0.1, 2, 3, 4)}


@pytest.mark.parametrize("codec", ["lossless", "raw"])
@pytest.mark.parametrize("layout", [Format.RGBA8, Format.BGRA8, Format.RGB8, Format.R8, Format.RGBA16F, Format.RGBA32F])
def test_lossless_is_lossless_for_every_format_and_plane(codec, layout):
    planes = random_planes(np.random.default_rng(1), layout)
    before = frame(planes, formats={Kind.COLOUR: layout}, colour_space=ColourSpace.LINEAR, **POSE)
    after = unpacked(packed(before, codec))
    assert same(before, after)
    assert (after.capture_ns, after.publish_ns, after.sequence, after.generation) == (
        before.capture_ns,
        before.publish_ns,
        before.sequence,
        before.generation,
    )


@pytest.mark.parametrize("origin", Origin)
def test_jpeg_keeps_the_way_up_and_leaves_other_planes_exact(origin):
    colour = np.zeros((32, 48, 4), np.uint8)
    colour[:16] = (250, 30, 30, 255)
    depth = np.random.default_rng(0).normal(size=(32, 48)).astype(np.float32)
    before = frame({Kind.COLOUR: colour, Kind.DEPTH: depth}, origin=origin)
    after = unpacked(packed(before, "jpeg"))
    assert after.origin == origin and after.formats[Kind.COLOUR] == Format.RGB8
    np.testing.assert_allclose(after.planes[Kind.COLOUR][[4, 28]], colour[[4, 28], :, :3], atol=6)
    assert after.planes[Kind.DEPTH].tobytes() == depth.tobytes()


@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_frame_is_told_and_takes_no_memory(codec):
    message = packed(frame({Kind.COLOUR: np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)}), codec)
    for cut in (0, 3, 4, 40, len(message) // 2, len(message) - 1):
        with pytest.raises(RecordingError, match="damaged"):
            unpacked(message[:cut])
    for wrong in (b'"shape": [60000, 60000, 4]', b'"shape": [-1, 16, 4]', b'"shape": "x"', b'"shape": []'):
        start = message.index(b'"shape"')
        end = message.index(b"]", start) + 1
        forged = message[4:start] + wrong + message[end:]
        size = int.from_bytes(message[:4], "little") + len(wrong) - (end - start)
        with pytest.raises(RecordingError, match="damaged"):
            unpacked(size.to_bytes(4, "little") + forged)


# ---- files


def recording(path, frames=20, codec="lossless", close=True):
    writer = RecordingWriter(path, "stage", codec)
    for number in range(1, frames + 1):
        shown = frame(number=number)
        writer.write("in", number * 100_000_000, packed(shown, codec), number)
        if number == 3:
            writer.write("params", number * 100_000_000, json.dumps({"revision": 1, "values": {"seed": 4}}).encode())
    if close:
        writer.close()
    return writer


def test_other_mcap_readers_read_it(tmp_path):
    recording(tmp_path / "x.mcap")
    with open(tmp_path / "x.mcap", "rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary.statistics.message_count == 21
        seen = [(schema.name, channel.topic) for schema, channel, _ in reader.iter_messages()]
    assert seen.count(("frameloom.Frame", "in")) == 20 and ("frameloom.Text", "params") in seen


def test_every_cut_leaves_all_whole_messages_before_it(tmp_path):
    recording(tmp_path / "x.mcap", frames=6)
    data = (tmp_path / "x.mcap").read_bytes()
    whole = [entry.data for entry in RecordingReader(tmp_path / "x.mcap")]
    ends = []
    at = 0
    for message in whole:
        at = data.index(message, at) + len(message)
        ends.append(at)
    short = tmp_path / "short.mcap"
    for cut in range(data.index(whole[0]), len(data), 7):
        short.write_bytes(data[:cut])
        reader = RecordingReader(short)
        good = []
        for entry in reader:
            if entry.topic == "in":
                try:
                    unpacked(entry.data)
                except RecordingError:
                    continue
            good.append(entry.data)
        wanted = sum(end <= cut for end in ends)
        assert good[:wanted] == whole[:wanted]
        assert "cut off" in reader.ending or cut >= len(data) - 8  # the last eight bytes say nothing


@pytest.mark.parametrize(
    "data, told",
    [
        (b"", "no MCAP file"),
        (b"not a film" * 100, "no MCAP file"),
        (b"\x89MCAP0\r\n", "no recording of frameloom|no MCAP file"),
        (b"\x89MCAP0\r\n" + b"\x01" + b"\xff" * 40, "no recording of frameloom|no MCAP file"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path, data, told):
    (tmp_path / "x.mcap").write_bytes(data)
    with pytest.raises(RecordingError, match=told):
        RecordingReader(tmp_path / "x.mcap")
    with pytest.raises(RecordingError, match="cannot be read"):
        RecordingReader(tmp_path / "missing.mcap")


def test_a_recording_of_another_version_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("bridge.recording.file.FORMAT", "2")
    recording(tmp_path / "x.mcap")
    monkeypatch.undo()
    with pytest.raises(RecordingError, match="has format 2; this version reads 1: update frameloom"):
        RecordingReader(tmp_path / "x.mcap")


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_damage_in_the_middle_ends_there_or_loses_a_frame(tmp_path, at):
    recording(tmp_path / "x.mcap")
    data = bytearray((tmp_path / "x.mcap").read_bytes())
    place = int(len(data) * at)
    data[place : place + 200] = os.urandom(200)
    (tmp_path / "x.mcap").write_bytes(data)
    reader = RecordingReader(tmp_path / "x.mcap")
    writers = {"in": RingWriter(fresh_channel(), capacity_bytes=1 << 16)}
    with writers["in"]:
        played = replay(reader, writers, threading.Event(), speed=0.0)
    assert played.frames["in"] >= int(20 * at) - 2
    assert played.frames["in"] == 20 or played.damaged or reader.ending, "frames were lost without a word"


def test_an_existing_file_is_never_overwritten(tmp_path):
    (tmp_path / "x.mcap").write_text("mine")
    with pytest.raises(RecordingError, match="there already"):
        RecordingWriter(tmp_path / "x.mcap", "stage", "raw")
    with pytest.raises(RecordingError, match="cannot be written"):
        RecordingWriter(tmp_path / "no folder" / "x.mcap", "stage", "raw")
    assert (tmp_path / "x.mcap").read_text() == "mine"


# ---- recorder


def test_what_is_recorded_is_replayed_bit_equal_in_its_order(channel, tmp_path):
    rng = np.random.default_rng(5)
    recorder = Recorder(channel, tmp_path / "x.mcap", codec="lossless")
    recorder.start()
    sent = {"in": [], "out": []}
    with RingWriter(f"{channel}.in") as first, RingWriter(f"{channel}.out") as second:
        for number in range(1, 13):
            for side, ring in (("in", first), ("out", second)):
                planes = random_planes(rng, Format.RGBA8)
                ring.write(planes, frame_id=number, source_frame_id=number, capture_ns=now_ns() - 5_000_000, **POSE)
                sent[side].append(planes)
            until(lambda number=number: min(recorder.recorded.values()) == number)
        recorder.params({"seed": 4}, 7)
        recorder.stop()
    assert recorder.lost == {"in": 0, "out": 0} and recorder.ending == ""
    again = fresh_channel()
    got = {"in": [], "out": []}
    with (
        RingWriter(f"{again}.in", policy=Policy.LOSSLESS, timeout_s=PATIENCE_S) as first,
        RingWriter(f"{again}.out", policy=Policy.LOSSLESS, timeout_s=PATIENCE_S) as second,
        RingReader(f"{again}.in", lossless=True) as one,
        RingReader(f"{again}.out", lossless=True) as two,
    ):
        told = []
        playing = threading.Thread(
            target=lambda: replay(
                RecordingReader(tmp_path / "x.mcap"),
                {"in": first, "out": second},
                threading.Event(),
                speed=0.0,
                on_params=told.append,
            )
        )
        playing.start()
        for side, ring in (("in", one), ("out", two)) * 12:
            seen = ring.read(PATIENCE_S)
            got[side].append(seen)
        playing.join()
    assert told == [{"seed": 4}]
    for side in got:
        for number, (planes, seen) in enumerate(zip(sent[side], got[side], strict=True), 1):
            assert seen.frame_id == seen.source_frame_id == number
            for kind, plane in planes.items():
                assert seen.planes[kind].tobytes() == plane.tobytes()
            assert 4_000_000 < seen.publish_ns - seen.capture_ns < 2_000_000_000
            assert seen.T_world_camera.tobytes() == POSE["T_world_camera"].tobytes()
    sweep(again)


def test_a_replay_keeps_the_times(tmp_path):
    """Never sooner than recorded; how much later is up to the machine."""
    path = tmp_path / "x.mcap"
    writer = RecordingWriter(path, "stage", "raw")
    times_ns = (0, 120_000_000, 150_000_000, 400_000_000)
    for number, at_ns in enumerate(times_ns, 1):
        writer.write("in", 10**9 + at_ns, packed(frame(number=number), "raw"))
    writer.close()
    name = fresh_channel()
    stamps = []

    class Seen(RingWriter):
        def write(self, *planes, **about):
            stamps.append(time.monotonic_ns())
            return super().write(*planes, **about)

    for speed in (1.0, 4.0):
        stamps.clear()
        with Seen(name, capacity_bytes=1 << 16) as ring:
            before_ns = time.monotonic_ns()
            played = replay(RecordingReader(path), {"in": ring}, threading.Event(), speed=speed)
        assert played.frames == {"in": 4}
        for stamp, at_ns in zip(stamps, times_ns, strict=True):
            assert stamp - before_ns >= at_ns / speed - 1_000_000
        assert (
            played.late_s * 1e9
            >= max(stamp - before_ns - at_ns / speed for stamp, at_ns in zip(stamps, times_ns, strict=True))
            - 50_000_000
        )
    sweep(name)


def test_messages_out_of_order_are_put_right():
    entries = [Entry("in", at, b"") for at in (5, 3, 4, 10, 8, 9, 20)]
    assert [entry.at_ns for entry in in_order(iter(entries))] == [3, 4, 5, 8, 9, 10, 20]
    assert list(in_order(iter([]))) == []


def test_a_slow_disk_loses_frames_and_holds_up_nobody(channel, tmp_path, monkeypatch):
    go = threading.Event()
    real = RecordingWriter.write

    def slow(self, *message):
        assert go.wait(PATIENCE_S)
        return real(self, *message)

    monkeypatch.setattr(RecordingWriter, "write", slow)
    recorder = Recorder(channel, tmp_path / "x.mcap", codec="raw", sides=("in",), queue_bytes=100_000)
    recorder.start()
    with RingWriter(f"{channel}.in") as ring:
        for number in range(1, 201):
            ring.write({Kind.COLOUR: np.full((64, 64, 4), number % 251, np.uint8)}, frame_id=number)
            time.sleep(0.002)
            if number == 100:
                until(lambda: recorder.lost["in"] > 0)
        assert recorder.recorded["in"] == 0
        go.set()
        until(lambda: recorder.recorded["in"] > 3)
        recorder.stop()
    numbers = [unpacked(entry.data).frame_id for entry in RecordingReader(tmp_path / "x.mcap") if entry.topic == "in"]
    assert numbers == sorted(numbers) and len(numbers) == recorder.recorded["in"]
    assert len(numbers) + recorder.lost["in"] >= numbers[-1] - 1
    assert any(entry.topic == "lost" for entry in RecordingReader(tmp_path / "x.mcap")) or recorder.lost["in"] > 0


FULL = """
import resource, signal, sys, threading
from pathlib import Path
import numpy as np
from bridge.recording.recorder import Recorder
from bridge.ring import Kind, RingWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
channel, path = sys.argv[1:]
done = threading.Event()
recorder = Recorder(channel, Path(path), codec="raw", sides=("in",), ended=done.set)
recorder.start()
with RingWriter(channel + ".in") as ring:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # what a full disk does: a write that ends early
    number = 0
    while not done.wait(0.005):
        number += 1
        ring.write({Kind.COLOUR: np.full((32, 32, 4), number % 251, np.uint8)}, frame_id=number)
    recorder.stop()
print(recorder.recorded["in"], recorder.ending)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_ends_the_recording_with_a_sentence_and_a_whole_file(channel, tmp_path):
    path = tmp_path / "x.mcap"
    command = [sys.executable, "-c", FULL, channel, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    count, ending = done.stdout.strip().split(" ", 1)
    assert "cannot be written any further" in ending and "what was recorded before is kept" in ending, done.stderr
    frames = [unpacked(entry.data) for entry in RecordingReader(path) if entry.topic == "in"]
    assert len(frames) == int(count) > 10


def test_a_nearly_full_disk_ends_it_before(channel, tmp_path, monkeypatch):
    monkeypatch.setattr("bridge.recording.recorder.TOLD_S", 0.0)
    ended = threading.Event()
    recorder = Recorder(channel, tmp_path / "x.mcap", min_free_bytes=1 << 62, ended=ended.set)
    recorder.start()
    assert ended.wait(PATIENCE_S)
    recorder.stop()
    assert "nearly full" in recorder.ending
    assert RecordingReader(tmp_path / "x.mcap").about["channel"] == channel


# ---- commands


FEED = """
import sys, time
import numpy as np
from bridge.ring import Kind, RingWriter
with RingWriter(sys.argv[1] + ".in") as a, RingWriter(sys.argv[1] + ".out") as b:
    number = 0
    while True:
        number += 1
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 4), np.uint8)
        for ring in (a, b):
            ring.write({Kind.COLOUR: pixels}, frame_id=number, source_frame_id=number)
        if number == 1:
            print("writing", flush=True)
        time.sleep(0.01)
"""


@pytest.fixture
def feed(channel):
    process = subprocess.Popen([sys.executable, "-c", FEED, channel], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def record(channel, path, *words, **options):
    command = [sys.executable, "-m", "bridge", "record", channel, str(path), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options)


def test_killed_recorders_leave_what_they_recorded(channel, feed, tmp_path):
    for number in range(3):
        path = tmp_path / f"{number}.mcap"
        process = record(channel, path, "--codec", "lossless", "--page", "127.0.0.1:1")
        try:
            until(lambda path=path, number=number: path.exists() and path.stat().st_size > 200_000 * (number + 1))
            size = path.stat().st_size
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        frames = []
        reader = RecordingReader(path)
        for entry in reader:
            try:
                shown = unpacked(entry.data)
            except RecordingError:
                assert not frames or entry.at_ns >= frames[-1].publish_ns
                continue
            frames.append(shown)
            wanted = np.random.default_rng(shown.frame_id).integers(0, 256, (48, 64, 4), np.uint8)
            assert shown.planes[Kind.COLOUR].tobytes() == wanted.tobytes()
        assert reader.ending
        # All that the file had grown to before it was killed, but for one message.
        assert sum(len(packed(shown, "raw")) for shown in frames) > size * 0.9 - 30_000


def test_record_hears_the_parameters_and_replay_sets_them(channel, feed, tmp_path, capsys):
    live = LiveParams(Params(seed=3))
    gateway = Gateway([Channel(channel, live, Statistics())], port=0, token="a-word-of-the-stage")
    gateway.start()
    path = tmp_path / "show.mcap"
    process = record(
        channel, path, "--with-parent", stdin=subprocess.PIPE, env={**os.environ, "FRAMELOOM_PAGE": gateway.url}
    )
    try:
        until(lambda: path.exists() and any(e.topic == "params" for e in RecordingReader(path)))
        live.update({"seed": 9, "t_index": (18, 26), "prompt": "blå"})
        until(lambda: sum(e.topic == "params" for e in RecordingReader(path)) == 2)
        process.stdin.close()
        summary = json.loads(process.stdout.read())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        gateway.stop()
    assert summary["params"] == 2 and summary["ending"] == "" and min(summary["frames"].values()) > 0
    other = LiveParams()
    server = OscServer(other, Statistics(), port=0)
    server.start()
    again = fresh_channel()
    try:
        words = ["replay", str(path), "--channel", again, "--speed", "20", "--osc-port", str(server.port)]
        assert frameloom(words) == 0
        until(lambda: other.current.seed == 9)
        assert (other.current.t_index, other.current.prompt) == ((18, 26), "blå")
    finally:
        server.stop()
        sweep(again)
    played = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert played["frames"]["in"] == summary["frames"]["in"] and played["ending"] == ""


def test_parameters_of_another_version_are_told_once_and_keep_back_nothing_else(tmp_path, capsys):
    path = tmp_path / "show.mcap"
    writer = RecordingWriter(path, "stage", "lossless")
    for number, seed in ((1, 3), (2, 9)):
        values = {"glow": 1, "strength": 7.5, "guidance": ["full"], "seed": seed, "t_index": [18, 26]}
        writer.write("params", number * 1_000_000, json.dumps({"values": values}).encode())
    writer.close()
    live = LiveParams()
    server = OscServer(live, Statistics(), port=0)
    server.start()
    channel = fresh_channel()
    try:
        assert frameloom(["replay", str(path), "--channel", channel, "--osc-port", str(server.port)]) == 0
        until(lambda: live.current.seed == 9)
        assert live.current.t_index == (18, 26) and live.current.strength == Params().strength
    finally:
        server.stop()
        sweep(channel)
    told = capsys.readouterr().err
    for what in ("unknown parameter 'glow'", "strength", "guidance"):
        assert sum(what in line and "left out" in line for line in told.splitlines()) == 1, told


def test_ctrl_c_ends_a_recording_properly(channel, feed, tmp_path):
    path = tmp_path / "x.mcap"
    process = record(channel, path, "--page", "127.0.0.1:1")
    until(lambda: path.exists() and path.stat().st_size > 100_000)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    summary = json.loads(out.strip().splitlines()[-1])
    reader = RecordingReader(path)
    counts = {side: sum(entry.topic == side for entry in reader) for side in ("in", "out")}
    assert counts == summary["frames"] and reader.ending == ""


@pytest.mark.parametrize(
    "words, told",
    [
        (["replay", "missing.mcap"], "cannot be read"),
        (["record", "stage", "no folder/x.mcap"], "cannot be written"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert frameloom(words) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["record", "x", "y", "--codec", "mp3"], ["record", "x/y", "new.mcap"], ["replay", "x", "--sides", "up"]],
)
def test_words_that_are_none_are_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        frameloom(words)
    assert ended.value.code == 2 and "use" in capsys.readouterr().err


# ---- films


def test_a_film_without_ffmpeg_says_what_to_install(tmp_path, monkeypatch):
    recording(tmp_path / "x.mcap")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RecordingError, match="install it"):
        export(RecordingReader(tmp_path / "x.mcap"), "in", tmp_path / "x.mp4", threading.Event())
    with pytest.raises(RecordingError, match=".mp4 or .webm"):
        export(RecordingReader(tmp_path / "x.mcap"), "in", tmp_path / "x.gif", threading.Event())


STAND_IN = """#!%s
import sys
data = sys.stdin.buffer.read()
open(sys.argv[-1], "wb").write(data)
sys.exit(0 if data else 3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for ffmpeg")
def test_a_film_shows_every_picture_for_its_time(tmp_path, monkeypatch):
    """ffmpeg's place is taken by a program that keeps the raw pictures, so that they can be counted."""
    recording(tmp_path / "x.mcap", frames=20)  # 10 a second
    (tmp_path / "ffmpeg").write_text(STAND_IN % sys.executable)
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    count = export(RecordingReader(tmp_path / "x.mcap"), "in", tmp_path / "x.mp4", threading.Event())
    pictures = np.fromfile(tmp_path / "x.mp4", np.uint8).reshape(-1, 8 * 8 * 3)
    assert len(pictures) == count == 58
    assert [int(picture[0]) for picture in pictures] == [*np.repeat(range(1, 20), 3), 20]
    with pytest.raises(RecordingError, match="holds no picture of out"):
        export(RecordingReader(tmp_path / "x.mcap"), "out", tmp_path / "y.mp4", threading.Event())


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on this machine")
@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_ffmpeg_makes_the_film(tmp_path, ending):
    recording(tmp_path / "x.mcap", frames=20)
    film = tmp_path / f"x{ending}"
    assert export(RecordingReader(tmp_path / "x.mcap"), "in", film, threading.Event()) == 58
    ffprobe = ["ffprobe", "-v", "error", "-count_frames", "-of", "csv=p=0"]
    asked = [*ffprobe, "-show_entries", "stream=width,height,nb_read_frames,r_frame_rate", film]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert sorted(done.stdout.strip().split(",")) == sorted(["8", "8", "30/1", "58"])

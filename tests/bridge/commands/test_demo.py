"""The demo: what it leaves, what it prints, and that nothing survives it whichever process is killed.

The passthrough model stands for a real one: it is part of the program, and what comes out is what went in.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bridge.commands import demo, show
from bridge.commands.contact_sheet import MARGIN_PX, TILE_PX, Pair
from bridge.commands.demo import Pairing, StyleWalk
from bridge.commands.show import MAX_RESTARTS, PAIRS, Client, Measured, captions
from bridge.control.live import LiveParams
from bridge.ring import Kind, RingReader, RingWriter, State
from bridge.ring.leftovers import clear, sweep
from bridge.ring.segment import place
from tests import waiting

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 240.0

until = partial(waiting.until, patience_s=PATIENCE_S)
POSIX = os.name == "posix"
SMALL = ("--model", "passthrough", "--size", "32", "--no-browser", "--port", "0", "--osc-port", "0")


def leftovers(channel: str) -> list[str]:
    placement = place(f"{channel}.in")
    head = placement.prefix.removesuffix(".in")
    return sorted(p.name for p in Path(placement.folder).glob(f"{head}.*"))


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"test-demo-{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"
    yield name
    for side in ("in", "out"):
        clear(f"{name}.{side}")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """A source that starts sooner than the world does."""
    path = tmp_path / "picture.png"
    Image.fromarray(np.full((48, 48, 3), (200, 90, 30), np.uint8)).save(path)
    return str(path)


@contextlib.contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "demo", *SMALL, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def seen_on_a_terminal(said: str) -> list[str]:
    """The lines as they stand in the end, with what was written over gone; of a terminal wide enough for them all."""
    lines = []
    for line in said.replace("\r\n", "\n").split("\n"):
        shown = ""
        for written in line.split("\r"):
            shown = written + shown[len(written) :]
        lines.append(shown.rstrip())
    return lines


def read_until(child: subprocess.Popen[str], start: str) -> None:
    assert child.stderr is not None
    lines = []
    while not (lines and lines[-1].startswith(start)):
        lines.append(child.stderr.readline())
        assert lines[-1], "".join(lines)


# ---- the whole of it -----------------------------------------------------------------------------------------------


def test_a_demo_with_an_end(tmp_path: Path) -> None:
    sheet = tmp_path / "out" / "sheet.png"
    with socket.socket() as page, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as osc:
        # Both ports are taken by others, as they are for a second demo.
        page.bind(("127.0.0.1", 0))
        page.listen()
        osc.bind(("127.0.0.1", 0))
        ports = ("--port", str(page.getsockname()[1]), "--osc-port", str(osc.getsockname()[1]))
        with running("--frames", "40", "--sheet", str(sheet), "--set", "steps=1", *ports) as child:
            out, err = child.communicate(timeout=PATIENCE_S)
            assert child.returncode == 0, err
    told = json.loads(out.splitlines()[-1])
    assert told["frames_out"] >= 40
    # A change of the prompt repaints the last frame on a machine so busy that no new one comes.
    assert told["frames_in"] >= 2
    assert told["fps"] > 0
    assert 0 < told["first_output_s"] <= told["seconds"]
    assert 0 < told["p50_ms"] <= told["p95_ms"] <= told["p99_ms"]
    assert told["peak_memory_mb"] > 10 and told["client_memory_mb"] > 10
    assert (told["size"], told["steps"], told["client_restarts"]) == ([32, 32], 1, 0)
    assert (told["failure"], told["sheet"]) == (None, str(sheet))
    assert {"dropped", "skipped", "device", "dtype", "model", "source"} <= set(told)
    assert err.count("is taken") == 2
    assert "http://127.0.0.1:" in err
    assert not leftovers(f"demo-{child.pid}")
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture)
    # A pair per style, or fewer where the machine is so busy that pictures are missed; and the passthrough model gives
    # back just the frame it is paired with.
    pairs, rest = divmod(pixels.shape[1] - MARGIN_PX, TILE_PX + MARGIN_PX)
    assert 2 <= pairs <= PAIRS and rest == 0
    lower = pixels[-MARGIN_PX - TILE_PX : -MARGIN_PX]
    upper = pixels[-2 * (MARGIN_PX + TILE_PX) : -2 * MARGIN_PX - TILE_PX]
    assert np.array_equal(upper, lower)
    assert not np.array_equal(lower[:, MARGIN_PX : MARGIN_PX + TILE_PX], lower[:, -MARGIN_PX - TILE_PX : -MARGIN_PX])


def test_the_embedded_model_repaints_what_it_gets(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    words = ("--model", "embedded", "--size", "128", "--fps", "10", "--frames", "10", "--sheet", str(sheet))
    words += ("--temporal", "engine")
    with running("--prompt", "neon style, red sphere, blue box", "--set", "steps=1", *words) as child:
        out, err = child.communicate(timeout=2 * PATIENCE_S)
        assert child.returncode == 0, err
    told = json.loads(out.splitlines()[-1])
    assert (told["model"], told["failure"]) == ("embedded", None)
    assert told["device"] in ("cpu", "cuda", "mps")
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture).astype(int)
    # Input, single frames, steady ones, what changed in both.
    ends = [pixels.shape[0] - MARGIN_PX - n * (MARGIN_PX + TILE_PX) for n in (4, 3, 2, 1, 0)]
    rows = [pixels[end - TILE_PX : end, MARGIN_PX : MARGIN_PX + TILE_PX] for end in ends]
    # The world comes in flat grey; what goes out has colours.
    assert np.ptp(rows[0], axis=2).max() < 10
    assert np.ptp(rows[1], axis=2).mean() > 10 and np.ptp(rows[2], axis=2).mean() > 10
    assert np.abs(rows[1] - rows[2]).mean() < 30, "the same frame, painted in two ways"
    for change in rows[3:]:
        assert np.ptp(change, axis=2).max() == 0


@pytest.mark.skipif(not POSIX, reason="sends a POSIX signal")
def test_ctrl_c_ends_everything_and_still_reports(picture: str) -> None:
    with running("--source", picture, "--prompt", "a", "--prompt", "b") as child:
        read_until(child, "first picture after ")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 0
    assert json.loads(out.splitlines()[-1])["failure"] is None
    assert "Traceback" not in err
    assert not leftovers(f"demo-{child.pid}")


@pytest.mark.skipif(not POSIX, reason="needs a POSIX terminal")
def test_a_closed_terminal_ends_everything(picture: str) -> None:
    ours, theirs = os.openpty()
    # The first terminal that the leader of a session opens is the one whose end it is told.
    take_terminal = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup\n"
        "terminal = os.open(sys.argv[1], os.O_RDWR)\n"
        "for fd in range(3): os.dup2(terminal, fd)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])\n"
    )
    words = ["-m", "bridge", "demo", *SMALL, "--source", picture, "--prompt", "a"]
    command = [sys.executable, "-c", take_terminal, os.ttyname(theirs), *words]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as child:
        try:
            said = bytearray()

            def seen() -> bool:
                assert child.poll() is None, said
                if select.select([ours], [], [], 0.1)[0]:
                    said.extend(os.read(ours, 4096))
                return b"first picture after " in said

            until(seen, "a picture")
            with RingReader(f"demo-{child.pid}.in") as inputs:
                assert until(lambda: inputs.read(timeout_s=1.0), "an input frame")
                os.close(ours)
                child.wait(PATIENCE_S)
                assert inputs.state is State.WRITER_GONE
        finally:
            child.kill()
            os.close(theirs)
    assert not leftovers(f"demo-{child.pid}")


@pytest.mark.skipif(not POSIX, reason="sends a POSIX signal")
def test_a_second_ctrl_c_ends_a_demo_that_is_still_loading(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'core.model': time.sleep(600)\n"
        "sys.meta_path.insert(0, Slow())\n",
        encoding="utf-8",
    )
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "demo", "--no-browser", "--port", "0", "--osc-port", "0", "--prompt", "a"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as child:
        try:
            read_until(child, "loading the model")
            child.send_signal(signal.SIGINT)
            read_until(child, "stopping; once more ends it at once")
            time.sleep(1.0)  # a person's second one, and not a copy of the first
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 130
            # To the end of what its client says, too, which shares this pipe.
            assert child.stderr is not None and child.stderr.read() == ""
        finally:
            child.kill()
            child.communicate()
    until(lambda: [sweep("demo-"), not leftovers(f"demo-{child.pid}")][1], "the end of the client")


@pytest.mark.skipif(not POSIX, reason="closes a POSIX pipe")
def test_a_log_that_goes_away_ends_nothing(picture: str, tmp_path: Path) -> None:
    sheet = str(tmp_path / "sheet.png")
    with running("--source", picture, "--prompt", "a", "--frames", "40", "--sheet", sheet) as child:
        assert child.stderr is not None and child.stdout is not None
        child.stderr.readline()
        child.stderr.close()
        out = child.stdout.read()
        assert child.wait(PATIENCE_S) == 0
    assert json.loads(out.splitlines()[-1])["frames_out"] >= 40


@pytest.mark.skipif(not POSIX, reason="sends a POSIX signal")
def test_a_killed_demo_takes_its_client_along_and_the_next_one_cleans_up(picture: str) -> None:
    with running("--source", picture, "--prompt", "a") as child:
        channel = f"demo-{child.pid}"
        read_until(child, "first picture after ")
        with RingReader(f"{channel}.in") as inputs:
            assert until(lambda: inputs.read(timeout_s=1.0), "an input frame")
            child.kill()
            child.wait(60)
            until(lambda: inputs.state is State.WRITER_GONE, "the end of the client")
    assert leftovers(channel)
    sweep("demo-")
    assert not leftovers(channel)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--set", "stepz=3"), "demo: --set stepz=3: write NAME=VALUE with one of "),
        (("--prompt", "a sphere", "--prompt", "x" * 3000), "demo: prompt: got 3000 characters; send text of at most"),
    ],
)
def test_wrong_words_are_refused_before_anything_starts(
    words: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([*SMALL, *words]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(line)
    assert (shown.out, shown.err.count("\n")) == ("", 1)


@pytest.mark.parametrize("what", ["no-such-file", "empty", "camera:9999"])
def test_a_source_that_cannot_be_is_told_once(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    reason = {
        "no-such-file": "no source 'no-such-file': it is not world, not camera or camera:N, ",
        "empty": "no pictures in the folder empty; put ",
        # Only the client can find out; before it did, all else has begun.
        "camera:9999": "no camera 9999; plug one in, ",
    }[what]
    begun: list[object] = []
    if not what.startswith("camera"):
        monkeypatch.setattr(Client, "start", begun.append)
    assert demo.main([*SMALL, "--frames", "3", "--source", what, "--prompt", "x"]) == 1
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.count(reason) == 1 and f"demo: {reason}" in shown.err
    assert "Traceback" not in shown.err
    assert begun == []


def test_a_sheet_of_no_picture_format_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        demo.main([*SMALL, "--sheet", "sheet.gif"])
    assert end.value.code == 2 and "a sheet is one of .png, " in capsys.readouterr().err


@pytest.mark.skipif(not POSIX, reason="needs a POSIX terminal")
@pytest.mark.parametrize("asked", [False, True])
def test_on_a_terminal_one_line_tells_how_it_goes_and_json_comes_where_it_is_asked_for(
    asked: bool, picture: str, tmp_path: Path
) -> None:
    words = ("--source", picture, "--prompt", "a", "--sheet", str(tmp_path / "a.png"), *(["--json"] if asked else []))
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "bridge", "demo", *SMALL, *words]
    with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        try:
            with open(ours, "rb", buffering=0) as terminal:
                said = bytearray()
                # Two of them have come when one was written over.
                while said.count(b"frames per second") < 3:
                    said += terminal.read(4096)
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(OSError):  # how Linux tells the end
                    while more := terminal.read(4096):
                        said += more
            assert child.wait(PATIENCE_S) == 0
        finally:
            child.kill()
    lines = seen_on_a_terminal(said.decode())
    assert not any("frames per second" in line for line in lines)
    ended = next(i for i, line in enumerate(lines) if line.startswith("stopping; "))
    assert any(re.fullmatch(r"[0-9]+ pictures in [0-9]+ s, [0-9.]+ per second", line) for line in lines[ended:])
    told = [line for line in lines if line.startswith("{")]
    assert len(told) == asked and all(json.loads(line)["failure"] is None for line in told)


# ---- the client ----------------------------------------------------------------------------------------------------


def test_a_killed_client_is_started_again(channel: str, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(channel, [picture, "--size", "32"])
    client.start()
    try:
        with RingReader(f"{channel}.in") as reader:
            assert until(lambda: reader.read(timeout_s=0.5), "a frame")
            first = client.pid
            client.keep_alive(True)
            assert client.pid == first
            os.kill(first, signal.SIGTERM if not POSIX else signal.SIGKILL)

            def again() -> bool:
                client.keep_alive(True)
                return client.pid not in (0, first) and reader.read(timeout_s=0.1) is not None

            until(again, "a frame of the next client")
    finally:
        client.stop()
    assert client.restarts == 1
    assert client.killed
    assert client.failure is None
    assert client.peak_memory_mb is not None and client.peak_memory_mb > 10
    assert "the client ended (status" in capsys.readouterr().err


def test_a_client_that_keeps_dying_is_given_up(channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "RESTART_PAUSE_S", 0.0)
    client = Client(channel, ["--help"])
    client._command = [sys.executable, "-c", "raise SystemExit(3)"]
    client.start()

    def given_up() -> bool:
        client.keep_alive(True)
        return client.failure is not None

    until(given_up, "the end of patience")
    assert client.restarts == MAX_RESTARTS
    assert "(last status 3)" in str(client.failure)
    client.stop()


# ---- prompts and pairs ---------------------------------------------------------------------------------------------


def test_captions_name_a_style_each_and_the_objects_where_they_are_known() -> None:
    world = captions("world", 0, 8)
    assert len(set(world)) == 8
    assert all(" style, " in caption for caption in world)
    assert not any(caption.startswith("grey") for caption in world)
    assert captions("camera", 0, 3) == [caption.split(",")[0] for caption in world[:3]]


def test_the_walk_goes_through_all_prompts_by_frames() -> None:
    live = LiveParams()
    live.set("prompt", "a")
    walk = StyleWalk(SimpleNamespace(live=live), ["a", "b", "c"], 30)  # type: ignore[arg-type]
    seen = []
    for frame in range(30):
        walk.step(frame, 0.0)
        seen.append(live.current.prompt)
    assert seen == ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    assert list(walk.prompt_of_revision.values()) == ["a", "b", "c"]


def test_the_walk_goes_round_by_time_and_yields_to_a_user() -> None:
    live = LiveParams()
    live.set("prompt", "a")
    walk = StyleWalk(SimpleNamespace(live=live), ["a", "b"], None)  # type: ignore[arg-type]
    seen = []
    for at_s in (0.0, demo.STYLE_S - 0.1, demo.STYLE_S, 2 * demo.STYLE_S):
        walk.step(1, at_s)
        seen.append(live.current.prompt)
    assert seen == ["a", "a", "b", "a"]
    live.set("prompt", "mine")
    for at_s in (2.1 * demo.STYLE_S, 3 * demo.STYLE_S, 4 * demo.STYLE_S):
        walk.step(1, at_s)
    assert live.current.prompt == "mine"


def test_an_output_is_paired_with_the_frame_it_was_made_from(channel: str) -> None:
    pictures = [np.full((8, 8, 3), level, np.uint8) for level in (10, 20, 30)]
    pairing = Pairing(channel, [1, 3])
    try:
        with RingWriter(f"{channel}.in") as inputs, RingWriter(f"{channel}.out") as outputs:
            with RingReader(f"{channel}.out") as reader:
                for number, picture in enumerate(pictures, 1):
                    inputs.write({Kind.COLOUR: picture}, source_frame_id=number)
                    until(lambda number=number: number in pairing._inputs, "the input")

                def out(number: int, count: int) -> None:
                    outputs.write({Kind.COLOUR: 255 - pictures[number - 1]}, source_frame_id=number)
                    frame = reader.read(timeout_s=10)
                    assert frame is not None
                    pairing.offer(frame, count, f"prompt {number}")

                out(2, 1)
                out(3, 2)
                assert len(pairing.pairs) == 1, "the second pair is not due yet"
                out(3, 3)
                out(1, 4)
    finally:
        pairing.stop()
    assert [(p.input[0, 0, 0], p.output[0, 0, 0], p.label) for p in pairing.pairs] == [
        (20, 235, "prompt 2"),
        (30, 225, "prompt 3"),
    ]
    # Each with the output before it; the first has none but itself.
    assert [p.output[0, 0, 0] for p in pairing.before] == [235, 225]


def test_inputs_are_kept_within_bounds(channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "KEPT_INPUT_BYTES", 3 * 8 * 8 * 3)
    pairing = Pairing(channel, [1])
    try:
        with RingWriter(f"{channel}.in") as inputs:
            for number in range(1, 7):
                inputs.write({Kind.COLOUR: np.zeros((8, 8, 3), np.uint8)}, source_frame_id=number)
                until(lambda number=number: number in pairing._inputs, "the input")
        assert list(pairing._inputs) == [4, 5, 6]
    finally:
        pairing.stop()


def test_a_sheet_without_a_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    grey = np.full((8, 8, 3), 90, np.uint8)
    args = argparse.Namespace(size=(8, 8), source="world", sheet=Path(""))
    assert demo._sheet(args, [Pair(grey, grey, "x")], Measured(), "rows") is None
    assert "give another path with --sheet" in capsys.readouterr().err


def test_a_sheet_without_pictures_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(sheet=tmp_path / "sheet.png", size=(8, 8), source="world")
    measured = Measured()
    assert demo._sheet(args, [], measured, "rows") is None and "sheet" not in capsys.readouterr().err
    measured.note_output(1)
    assert demo._sheet(args, [], measured, "rows") is None
    assert "raise --frames" in capsys.readouterr().err


def test_a_sheet_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    args = argparse.Namespace(sheet=tmp_path / "file" / "sheet.png", size=(8, 8), source="world")
    picture = np.zeros((8, 8, 3), np.uint8)
    assert demo._sheet(args, [Pair(picture, picture, "")], Measured(), "rows") is None
    said = capsys.readouterr().err
    assert "cannot be written (" in said and "give another path with --sheet" in said
    assert said.count("\n") == 1


def test_the_rate_counts_from_the_first_picture_on() -> None:
    measured = Measured(started_s=time.monotonic() - 100.0)
    assert measured.fps() == 0.0
    measured.note_output(5)
    measured.note_output(25)
    assert measured.first_output_s is not None
    measured.last_output_s = measured.first_output_s + 2.0
    assert measured.fps() == 10.0


def test_the_rate_counts_from_the_start_where_all_had_come_at_the_first_look() -> None:
    measured = Measured(started_s=time.monotonic() - 8.0)
    measured.note_output(40)
    measured.note_output(40)
    assert 4.5 < measured.fps() <= 5.0


def test_a_file_named_like_a_module_in_the_current_folder_does_not_break_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bridge.commands.show import Client
    from bridge.ring import RingReader
    from tests.rings import fresh_channel, sweep

    for name in ("bridge.py", "core.py", "numpy.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file')")
    monkeypatch.chdir(tmp_path)
    channel = fresh_channel()
    client = Client(channel, ["world", "--fps", "30", "--size", "32x32", "--seed", "0"])
    client.start()
    try:
        with RingReader(f"{channel}.in") as reader:
            assert reader.read(timeout_s=60.0) is not None
    finally:
        client.stop()
        sweep(channel)

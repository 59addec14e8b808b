"""The scene's command: what it starts, what it prints, and that nothing of it stays."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bridge.commands import host as host_command
from bridge.commands import scene
from bridge.control.osc_messages import datagram
from bridge.ring import Kind, RingReader, RingWriter, State
from bridge.ring.segment import place
from tests import waiting
from tests.rings import fresh_channel, sweep

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 240.0

until = partial(waiting.until, patience_s=PATIENCE_S)
SMALL = ("--model", "passthrough", "--size", "32", "--no-browser", "--port", "0", "--osc-port", "0")


@pytest.fixture
def base():
    """The first part of the channels' names; nothing of them stays."""
    name = fresh_channel()
    yield name
    for end in ("world-1", "world-2", "guest"):
        sweep(f"{name}-{end}")


def left(base):
    placement = place(f"{base}-x")
    return sorted(p.name for p in Path(placement.folder).glob(placement.prefix.removesuffix("x") + "*"))


def launch(base, *words):
    command = [sys.executable, "-m", "bridge", "scene", *SMALL, "--channel", base, *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def address(child, start="scene: ", before=None):
    """The address that the scene says; the lines until then are put into `before`."""
    for line in child.stderr:
        if before is not None:
            before.append(line)
        if line.startswith(start):
            return line.removeprefix(start).strip()
    raise AssertionError(f"it ended with {child.wait()} and never said {start!r}")


@contextlib.contextmanager
def running(base, *words):
    child = launch(base, *words)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def test_two_worlds_are_painted_and_it_ends_by_itself(base):
    child = launch(base, "--frames", "4", "--prompt", "ink style", "--prompt", "wax style")
    out, told = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0, told
    summary = json.loads(out.splitlines()[-1])
    worlds = [f"{base}-world-1", f"{base}-world-2"]
    assert summary["channels"] == [*worlds, f"{base}-guest"] and summary["failure"] is None
    assert [world["channel"] for world in summary["worlds"]] == worlds
    assert [world["prompt"] for world in summary["worlds"]] == ["ink style", "wax style"]
    assert all(world["frames_out"] >= 4 and world["first_output_s"] > 0 for world in summary["worlds"])
    assert summary["all_screens_s"] == max(world["first_output_s"] for world in summary["worlds"])
    assert summary["url"].endswith("/scene/") and "scene: http://127.0.0.1:" in told
    assert left(base) == []


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT as a terminal does")
def test_the_room_is_served_and_a_visitors_pictures_are_painted(base):
    with running(base, "--hosts", "1", "--token", "a-word-of-the-stage", "--set", "steps=3") as child:
        said = []
        url = address(child, before=said)
        assert url.endswith("/scene/?token=a-word-of-the-stage")
        page = urllib.request.urlopen(url, timeout=PATIENCE_S).read().decode()
        assert 'src="scene.js"' in page
        channels = url.replace("scene/", "api/channels")
        about = json.load(urllib.request.urlopen(channels, timeout=PATIENCE_S))["channels"]
        assert [channel["name"] for channel in about] == [f"{base}-world-1", f"{base}-guest"]
        assert all(channel["host"] and channel["examples"] for channel in about)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(channels.split("?")[0], timeout=PATIENCE_S)
        # Each host has the parameters that were set, and hears OSC on a port of its own.
        ports = {line.split()[2][:-1]: int(line.split()[-1]) for line in said if line.startswith("OSC of ")}
        assert set(ports) == {f"{base}-world-1", f"{base}-guest"}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as desk:
            desk.sendto(datagram("/strength", 0.5), ("127.0.0.1", ports[f"{base}-guest"]))

        def values(end):
            answer = urllib.request.urlopen(url.replace("scene/", "api/params") + f"&channel={base}-{end}")
            return json.load(answer)["values"]

        until(lambda: values("guest")["strength"] == 0.5, "the visitors' host has heard it")
        assert values("world-1")["strength"] != 0.5 and values("world-1")["steps"] == values("guest")["steps"] == 3
        # What comes into the visitors' channel is painted by a host of its own.
        with RingWriter(f"{base}-guest.in", capacity_bytes=1 << 16) as ring, RingReader(f"{base}-guest.out") as reader:
            until(lambda: reader.state == State.LIVE, "the visitors' host is there")
            number = 0
            painted = None
            while painted is None:
                number += 1
                assert number < PATIENCE_S * 10, "never painted"
                ring.write({Kind.COLOUR: np.full((32, 32, 3), 90, np.uint8)}, source_frame_id=number)
                painted = reader.read(0.1)
            assert 0 < painted.source_frame_id <= number
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 0
        assert json.loads(out.splitlines()[-1])["failure"] is None
    assert left(base) == []


def test_a_busy_channel_is_refused_in_one_sentence(base):
    with RingWriter(f"{base}-world-2.out", capacity_bytes=1):
        child = launch(base)
        _, told = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 1 and "Traceback" not in told
    assert f"{base}-world-2.out" in told.splitlines()[-1]
    assert left(base) == []


def test_a_prompt_that_cannot_be_leaves_nothing_behind(base):
    child = launch(base, "--prompt", "a sphere", "--prompt", "x" * 3000)
    _, told = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 1 and "Traceback" not in told
    assert told.splitlines()[-1] == "scene: prompt: got 3000 characters; send text of at most 2000 characters"
    assert left(base) == []


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--listen", "0.0.0.0"], "give --token new"),
        (["--hosts", "0"], "give 1 to 8"),
        (["--hosts", "many"], "give 1 to 8"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_words_that_cannot_be_are_refused(words, fix, capsys):
    with pytest.raises(SystemExit) as end:
        scene.main(words)
    assert end.value.code == 2 and fix in capsys.readouterr().err


def test_a_host_beyond_loopback_wants_a_token_too(base, capsys):
    with pytest.raises(SystemExit) as end:
        host_command.main(["--channel", base, "--model", "passthrough", "--listen", "0.0.0.0"])
    assert end.value.code == 2 and "give --token new" in capsys.readouterr().err


def test_a_new_token_is_made_and_shown(base):
    with running(base, "--hosts", "1", "--listen", "0.0.0.0", "--token", "new") as child:
        near = address(child)
        far = address(child, "from other machines: ")
        token = near.split("?token=")[1]
        assert len(token) >= 20 and far.endswith(f"/scene/?token={token}")
        urllib.request.urlopen(near.replace("scene/", "api/channels"), timeout=PATIENCE_S).read()

"""The host's process: settings from the command line, ports, and what it says when something cannot be."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from bridge.commands import demo, host, scene, signals
from bridge.commands.host import ChannelHost, StartError, params_from
from bridge.commands.show import Client
from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.host import loading
from bridge.host.host import Host, HostConfig
from bridge.host.loading import Models
from bridge.host.shared_call import SharedCall
from bridge.ring import Kind, RingReader, RingWriter
from bridge.terminal import PROGRAM
from core.params import SPECS, ParamError, Params, params_for, specs_for
from core.tiny import WEIGHTS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    return f"test-serve-{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"


@pytest.mark.parametrize("made", [signals.Stop, signals.StopRequest])
def test_a_signal_that_comes_twice_at_once_is_one_request_and_a_later_one_ends_it_at_once(
    made: type[signals.Stop], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ended = [100.0], []
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    stop = made()
    try:
        stop.on_signal(signal.SIGTERM, None)
        stop.on_signal(signal.SIGTERM, None)
        assert stop.event.wait(60) and ended == []
        now[0] += signals.SAME_REQUEST_S
        stop.on_signal(signal.SIGINT, None)
        assert ended == [128 + signal.SIGINT]
    finally:
        if isinstance(stop, signals.StopRequest):
            stop.restore()


def test_a_signal_that_interrupts_the_wait_for_it_is_not_lost() -> None:
    """The handler runs on the thread that waits, also while that thread holds the event's own lock."""
    stop = signals.StopRequest()
    try:
        with stop.event._cond:
            stop.on_signal(signal.SIGTERM, None)
        assert stop.event.wait(60)
    finally:
        stop.restore()


def test_settings_become_parameters() -> None:
    words = [
        "steps=4",
        "prompt=a = b",
        "t_index=18, 26",
        "similarity_filter=on",
        "guidance=full",
        "delta=0.5",
        "paused=0",
    ]
    params = params_from(words, Params())
    assert (params.steps, params.prompt, params.t_index) == (4, "a = b", (18, 26))
    assert (params.similarity_filter, params.guidance, params.delta, params.paused) == (True, "full", 0.5, False)
    assert params_from([], Params(steps=3)).steps == 3


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps", "write NAME=VALUE with one of prompt, "),
        ("stepz=3", "write NAME=VALUE with one of prompt, "),
        ("steps=many", "steps: got 'many'; send a whole number from 1 to 8"),
        ("steps=2.5", "steps: got 2.5; send a whole number from 1 to 8"),
        ("strength=nan", "strength: got nan; "),
        ("t_index=18,x", "t_index: got "),
        ("paused=perhaps", "paused: got 'perhaps'; send 0 or 1"),
        ("guidance=hard", "guidance: got 'hard'; send one of none, "),
    ],
)
def test_wrong_settings_are_refused_with_the_fix(setting: str, said: str) -> None:
    with pytest.raises(ParamError) as refused:
        params_from([setting], Params())
    assert said in str(refused.value)


def test_a_host_serves_frames_page_and_osc(channel: str) -> None:
    running = ChannelHost(channel, Params(steps=1), examples=["a prompt"], port=0, osc_port=0, model="passthrough")
    running.listen()
    running.start()
    try:
        assert running.host.ready.wait(60)
        with RingWriter(f"{channel}.in") as writer, RingReader(f"{channel}.out") as reader:
            picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
            writer.write({Kind.COLOUR: picture}, source_frame_id=7)
            frame = reader.read(timeout_s=60)
            assert frame is not None
            assert frame.source_frame_id == 7
            assert np.array_equal(frame.planes[Kind.COLOUR][..., :3], picture)
        with urllib.request.urlopen(running.url, timeout=60) as page:
            assert b"<html" in page.read().lower()
    finally:
        running.stop()
    assert running.failure is None
    with pytest.raises(OSError):
        urllib.request.urlopen(running.url, timeout=5)


@pytest.mark.parametrize(("kind", "option"), [(socket.SOCK_STREAM, "port"), (socket.SOCK_DGRAM, "osc_port")])
def test_a_taken_port(kind: socket.SocketKind, option: str, channel: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, kind) as held:
        held.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            held.listen()
        taken = held.getsockname()[1]
        ports = {"port": 0, "osc_port": 0, option: taken}
        with pytest.raises(StartError, match=str(taken)):
            refused = ChannelHost(channel, Params(), model="passthrough", **ports)
            refused.listen()
        assert refused.host.join(60)
        running = ChannelHost(channel, Params(), any_port=True, model="passthrough", **ports)
        running.listen()
        running.start()
        running.stop()
    assert f"port {taken} is taken; " in capsys.readouterr().err


def test_a_second_host_on_one_channel_is_refused(channel: str, capsys: pytest.CaptureFixture[str]) -> None:
    with RingWriter(f"{channel}.out"):
        assert host.main(["--channel", channel, "--model", "passthrough"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("host: ") and "already has a live writer" in said
    assert said.count("\n") == 1


def test_a_model_that_is_not_there_ends_the_host_with_one_line(channel: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "host", "--channel", channel, "--model", str(tmp_path / "none"), "--no-page"]
        + ["--osc-port", "0"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"host: there is no model folder {tmp_path / 'none'}; ")


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_host_ends_tidily(number: signal.Signals, channel: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "host", "--channel", channel, "--model", "passthrough", "--no-page"]
        + ["--osc-port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        try:
            assert child.stderr is not None
            line = ""
            while not line.startswith("ready on "):
                line = child.stderr.readline()
                assert line, "the host ended before it was ready"
            child.send_signal(number)
            rest = child.stderr.read()
            assert child.wait(60) == 0
        finally:
            child.kill()
    assert rest == "stopping; once more ends it at once\nstopped\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model", "no/where/at/all"], "there is no model folder no/where/at/all; "),
        (["--model", "LORA"], "is a LoRA: "),
        (["--model", "HALF"], "has no folder 'tokenizer'"),
        (["--model", "DAMAGED"], "diffusion_pytorch_model.safetensors is damaged"),
        (["--model", "STRANGE"], "the setting 'quantum_width' is not known here"),
        (["--model", "https://huggingface.co/nobody/has-this"], "run.py fetch nobody/has-this"),
        (["--device", "vulkan"], "device 'vulkan' is not available here; use one of "),
        (["--backend", "magic"], "back end 'magic' is not available on "),
        (["--dtype", "float8"], "dtype 'float8' is unknown; use one of "),
        (["--osc-host", "192.0.2.1"], "192.0.2.1"),
        (["--set", "stepz=3"], "--set stepz=3: write NAME=VALUE with one of "),
    ],
)
@pytest.mark.parametrize("command", [host, demo, scene], ids=["host", "demo", "scene"])
def test_mistakes_are_told_before_anything_is_loaded(
    command: ModuleType,
    words: list[str],
    line: str,
    channel: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LORA", "HALF", "DAMAGED", "STRANGE"):
        shutil.copytree(WEIGHTS, tmp_path / name)
    shutil.rmtree(tmp_path / "LORA" / "unet")
    (tmp_path / "LORA" / "adapter_config.json").write_text("{}")
    shutil.rmtree(tmp_path / "HALF" / "tokenizer")
    os.truncate(tmp_path / "DAMAGED" / "unet" / "diffusion_pytorch_model.safetensors", 1000)
    config = tmp_path / "STRANGE" / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantum_width": 3}))
    begun: list[object] = []
    monkeypatch.setattr(loading, "_load", lambda *about: begun.append(about))
    monkeypatch.setattr(Client, "start", begun.append)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    words = [str(tmp_path / word) if (tmp_path / word).is_dir() else word for word in words]
    given = ["--channel", channel, "--port", "0", "--osc-port", "0", *words]
    assert command.main(given if command is host else [*given, "--no-browser"]) == 1
    shown = capfd.readouterr()
    mistake = shown.err.splitlines()[-1]
    assert mistake.startswith(f"{command.__name__.rpartition('.')[2]}: ") and line in mistake
    assert shown.err.count(line) == 1
    assert shown.out == ""
    assert begun == []


def test_a_taken_port_is_told_before_anything_is_loaded(
    channel: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[object] = []
    monkeypatch.setattr(loading, "_load", lambda *about: begun.append(about))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        taken = str(held.getsockname()[1])
        assert host.main(["--channel", channel, "--port", taken, "--osc-port", "0"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"host: port {taken} on 127.0.0.1 is taken")
    assert begun == []


@pytest.mark.parametrize("command", [host, demo, scene], ids=["host", "demo", "scene"])
def test_every_command_that_starts_a_host_takes_the_same_options(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    host.add_host_options(parser)
    with pytest.raises(SystemExit):
        command.main(["--help"])
    shown = capsys.readouterr().out
    for option in ("--model", "--backend", "--set", "--osc-port", "--listen", "--token", "--serial"):
        assert option in parser.format_help()
    for option in re.findall(r"--[a-z-]+", parser.format_help()):
        assert option in shown


@pytest.mark.parametrize(("option", "value"), [("--port", "65536"), ("--osc-port", "-1"), ("--port", "http")])
def test_a_port_that_cannot_be_is_refused_as_a_word(
    option: str, value: str, channel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        host.main(["--channel", channel, f"{option}={value}"])
    assert end.value.code == 2 and "from 0 (any that is free) to 65535" in capsys.readouterr().err


def test_ports_of_several_channels_end_where_ports_end(channel: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--channel", f"{channel}-a", "--channel", f"{channel}-b", "--osc-port", "65535", "--model", "passthrough"]
    assert host.main(words) == 1
    assert "ports end at 65535" in capsys.readouterr().err


def test_a_model_that_is_told_the_guidance_scale_starts_with_one_it_was_trained_with(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    config = tmp_path / "unet" / "config.json"
    for text, scale, acts in [
        ('{"time_cond_proj_dim": 256}', 8.0, None),
        ("{}", 1.2, "guidance"),
        ("[", 1.2, "guidance"),
    ]:
        config.write_text(text)
        assert params_for(str(tmp_path)).guidance_scale == scale
        specs = {spec.name: spec for spec in specs_for(str(tmp_path))}
        # All but those of LoRAs, ControlNets and an IP-Adapter, of which this host has none.
        assert list(specs) == [name for name in SPECS if not name.startswith(("lora_", "control_", "reference"))]
        assert specs["guidance_scale"].default == scale
        # What the page says of it: no effect without guidance, but where the model itself is told.
        assert (specs["guidance_scale"].acts_with or (None,))[0] == acts


def test_what_newer_frames_overtook_is_told_and_is_no_failure(channel: str) -> None:
    statistics = Statistics()
    running = SimpleNamespace(channel=channel, statistics=statistics)
    assert f"{PROGRAM} source world --channel {channel}" in host.status_line(running)  # type: ignore[arg-type]
    statistics.count("frames_in", 3)
    assert host.status_line(running) == "3 frames in, 0 out"  # type: ignore[arg-type]
    statistics.record("capture_to_publish", 20_000_000)
    statistics.count("frames_out", 2)
    assert host.status_line(running).endswith("p50 20 ms, p95 20 ms, 2 painted")  # type: ignore[arg-type]
    statistics.count("dropped", 7)
    statistics.count("skipped", 5)
    said = host.status_line(running)  # type: ignore[arg-type]
    assert said.endswith("2 painted, 7 overtaken by newer ones, 5 skipped, as nothing moved")


def test_another_model_starts_at_a_strength_that_changes_the_picture() -> None:
    assert params_for("embedded") == Params()
    assert params_for("some/folder").strength > 2 * Params().strength


def test_a_model_that_was_taught_a_look_starts_as_the_embedded_one_does() -> None:
    assert params_for(str(WEIGHTS)) == Params()


def test_one_host_serves_several_channels(channel: str) -> None:
    """Each with its own prompt by OSC, one page for all, one after the other in the statistics."""
    names = [f"{channel}-a", f"{channel}-b"]
    words = [word for name in names for word in ("--channel", name)]
    command = [sys.executable, "-m", "bridge", "host", *words, "--model", "passthrough", "--port", "0", "--osc-port"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    process = subprocess.Popen([*command, str(min(free, 65000))], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        said: list[str] = []
        assert process.stderr is not None
        while sum("ready on" in line for line in said) < 2:
            line = process.stderr.readline()
            assert line, said
            said.append(line)
        assert [sum(f"OSC of {name}:" in line for line in said) for name in names] == [1, 1]
        page = next(line.split()[-1] for line in said if "page:" in line)
        with urllib.request.urlopen(f"{page}api/channels", timeout=20) as answer:
            assert [entry["name"] for entry in json.load(answer)["channels"]] == names
        for number, name in enumerate(names):
            frame = np.full((16, 16, 4), 10 + number, np.uint8)
            frame[..., 3] = 255
            with RingReader(f"{name}.out") as results, RingWriter(f"{name}.in") as writer:
                writer.write({Kind.COLOUR: frame}, source_frame_id=number + 1)
                result = results.read(timeout_s=30)
                assert result is not None and result.source_frame_id == number + 1
                assert (result.planes[Kind.COLOUR][..., 0] == 10 + number).all()
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--channel", "a", "--channel", "a"], "a name of its own"),
        (["--channel", "a", "--channel", "b", "--input", "td:x"], "start a host of its own"),
    ],
)
def test_several_channels_that_cannot_be(words: list[str], fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        host.main(words)
    assert fix in capsys.readouterr().err


def test_channels_of_one_model_are_answered_together_where_that_is_asked_for(channel: str) -> None:
    """Two hosts, one set of weights, every call of both by way of `bridge.host.shared_call`."""
    models, names = Models(2, together=True), [f"{channel}-a", f"{channel}-b"]
    options = {"size": (64, 64), "backend": "eager", "dtype": "float32", "cache": None}
    hosts = [
        Host(HostConfig(name, **options), live=LiveParams(params_for("embedded")), models=models) for name in names
    ]
    try:
        for one in hosts:
            one.start()
        for one in hosts:
            assert one.ready.wait(120), one.failure
        for name in names:
            frame = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
            with RingReader(f"{name}.out") as results, RingWriter(f"{name}.in") as writer:
                writer.write({Kind.COLOUR: frame}, source_frame_id=5)
                result = results.read(timeout_s=60)
                assert result is not None and result.source_frame_id == 5
        first, second = (one.loaded for one in hosts)
        assert first is not None and second is not None and first.model is second.model
        calls = list(first.model.calls.values())
        assert calls and all(isinstance(call, SharedCall) and call.answered for call in calls)
    finally:
        for one in hosts:
            one.stop()
        assert all(one.join(30) for one in hosts)

"""The doctor: every kind of trouble with this machine gets its own line with a fix."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.commands import doctor
from bridge.commands.doctor import check_port, check_ring, check_shared_memory
from bridge.commands.report import LEVELS, Check
from bridge.ring.segment import place


def only(checks: Iterator[Check]) -> Check:
    (found,) = checks
    assert found.level in LEVELS
    assert bool(found.fix) == (found.level != "ok")
    return found


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_taken_port_is_named(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as held:
        held.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            held.listen()
        port = held.getsockname()[1]
        found = only(check_port("some port", port, kind, "--some-port"))
        assert found.level == "warn"
        assert f"port {port} cannot be used" in found.said
        assert "--some-port" in found.fix
    assert only(check_port("some port", port, kind, "--some-port")).level == "ok"


def test_the_ring_works_here_and_leaves_nothing() -> None:
    folder = Path(place("x").folder)
    found = only(check_ring())
    assert found.level == "ok", found
    assert not list(folder.glob(f"*doctor-{os.getpid()}*"))


@pytest.mark.parametrize(("free_mb", "level"), [(5, "bad"), (60, "warn"), (5000, "ok")])
def test_little_shared_memory_is_noticed(
    free_mb: int, level: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor, "SHM", tmp_path)
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 0, free_mb * 2**20))
    found = next(check_shared_memory())
    assert (found.name, found.level) == ("shared memory", level)


def test_the_report_fails_only_when_something_is_bad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [Check("ok", "a", "fine"), Check("warn", "b", "so so", "fix b")]
    monkeypatch.setattr(doctor, "examine", lambda channel: iter(checks))
    assert doctor.main([]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown[:3]] == [["ok", "a", "fine"], ["warn", "b", "so", "so"], ["->", "fix", "b"]]
    assert shown[-1] == "0 bad, 1 to know of"
    checks.append(Check("bad", "c", "broken", "fix c"))
    assert doctor.main(["--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["checks"][2] == {"level": "bad", "name": "c", "said": "broken", "fix": "fix c"}


def test_the_whole_examination_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Every check on the real machine; a channel that nobody serves makes it fail."""
    assert doctor.main(["--json", "--channel", f"test-nobody-{os.getpid()}"]) == 1
    checks = {f["name"]: f for f in json.loads(capsys.readouterr().out)["checks"]}
    assert {"python", "packages", "torch", "device", "compiler", "back ends", "speed", "model", "ring"} <= set(checks)
    assert checks["packages"]["level"] == "ok", checks["packages"]
    assert "computes in " in checks["device"]["said"]
    assert checks[f"test-nobody-{os.getpid()}.in"]["said"].startswith("no writer: ")


def test_a_damaged_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import core.tiny

    damaged = tmp_path / "weights"
    shutil.copytree(core.tiny.WEIGHTS, damaged)
    weights = next(damaged.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    monkeypatch.setattr(core.tiny, "WEIGHTS", damaged)
    found = only(doctor.check_weights())
    assert found.level == "bad"
    assert weights.name in found.said and "git checkout" in found.fix

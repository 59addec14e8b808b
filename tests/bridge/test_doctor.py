"""The doctor: every kind of trouble with a channel, a port or a file gets its own line with a mend."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bridge import doctor
from bridge.doctor import Finding, check_direction, check_port, check_ring, check_shared_memory
from bridge.ring import Kind, RingWriter, now_ns
from bridge.segment import place

PICTURE = np.zeros((24, 32, 3), np.uint8)


@pytest.fixture
def ring() -> Iterator[str]:
    """The name of one direction of a channel of this process alone."""
    name = f"test-doctor-{os.getpid()}.in"
    yield name
    placement = place(name)
    Path(placement.record_path).unlink(missing_ok=True)


def only(findings: Iterator[Finding]) -> Finding:
    (found,) = findings
    assert found.level in doctor.LEVELS
    assert bool(found.mend) == (found.level != "ok")
    return found


def test_nobody_writes(ring: str) -> None:
    found = only(check_direction(ring, "start the client for NAME"))
    assert (found.level, found.said) == ("bad", "no writer")
    assert found.mend == f"start the client for {ring.removesuffix('.in')}"


def test_a_live_writer_is_described(ring: str) -> None:
    with RingWriter(ring, capacity_bytes=4096) as writer:
        writer.write({Kind.COLOUR: PICTURE})
        found = only(check_direction(ring, "start"))
        assert found.level == "ok"
        assert found.said.startswith(f"32x24 colour, frame 1, generation {writer.generation:016x}, ")


def test_a_writer_that_never_wrote(ring: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE_S", 0.05)
    with RingWriter(ring, capacity_bytes=4096):
        found = only(check_direction(ring, "start"))
    assert found.level == "bad"
    assert "a writer is there and no frame came" in found.said


def test_a_writer_that_is_stuck(ring: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with RingWriter(ring, capacity_bytes=4096) as writer:
        writer.write({Kind.COLOUR: PICTURE})
        monkeypatch.setattr(doctor, "STALE_S", 0.0)
        found = only(check_direction(ring, "start"))
    assert found.level == "warn"
    assert "the newest frame is" in found.said


def test_a_client_with_another_clock(ring: str) -> None:
    with RingWriter(ring, capacity_bytes=4096) as writer:
        writer.write({Kind.COLOUR: PICTURE}, capture_ns=now_ns() + 10**12)
        found = only(check_direction(ring, "start"))
    assert found.level == "warn"
    assert "captured after it was published" in found.said


def test_a_channel_without_pictures(ring: str) -> None:
    with RingWriter(ring, capacity_bytes=4096) as writer:
        writer.write({Kind.DEPTH: np.zeros((8, 8), np.float32)})
        found = only(check_direction(ring, "start"))
    assert found.level == "bad"
    assert found.said.startswith("8x8 depth, ") and found.said.endswith(": no colour plane")


def test_a_writer_that_left(ring: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RingWriter(ring, capacity_bytes=4096)
    writer.write({Kind.COLOUR: PICTURE})

    class Late(doctor.RingReader):
        """Attached while the writer lived, asked afterwards."""

        def read(self, timeout_s: float = 0.0):  # type: ignore[no-untyped-def]
            frame = super().read(timeout_s)
            writer.close()
            return frame

    monkeypatch.setattr(doctor, "RingReader", Late)
    found = only(check_direction(ring, "start"))
    assert (found.level, found.mend) == ("bad", "start")
    assert found.said.startswith("its writer is gone (generation ")


@pytest.mark.skipif(os.name != "posix", reason="writes the rendezvous file where POSIX systems have it")
def test_something_else_under_the_name(ring: str) -> None:
    Path(place(ring).record_path).write_bytes(b"not a ring" * 10)
    found = only(check_direction(ring, "start"))
    assert found.level == "bad"
    assert "is not a ring record" in found.said


def test_a_name_that_cannot_be_one() -> None:
    found = only(check_direction("a/b.in", "start"))
    assert found.level == "bad"
    assert "use 1 to 48 letters" in found.said


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
        assert "--some-port" in found.mend
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
    findings = [Finding("ok", "a", "fine"), Finding("warn", "b", "so so", "mend b")]
    monkeypatch.setattr(doctor, "examine", lambda channel: iter(findings))
    assert doctor.main([]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown[:3]] == [["ok", "a", "fine"], ["warn", "b", "so", "so"], ["->", "mend", "b"]]
    assert shown[-1] == "0 bad, 1 to know of"
    findings.append(Finding("bad", "c", "broken", "mend c"))
    assert doctor.main(["--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["findings"][2] == {"level": "bad", "name": "c", "said": "broken", "mend": "mend c"}


def test_the_whole_examination_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Every check on the real machine; a channel that nobody serves makes it fail."""
    assert doctor.main(["--json", "--channel", f"test-nobody-{os.getpid()}"]) == 1
    findings = {f["name"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert {"python", "packages", "torch", "device", "compiler", "back ends", "model", "ring"} <= set(findings)
    assert findings["packages"]["level"] == "ok", findings["packages"]
    assert "dtype " in findings["device"]["said"]
    assert findings[f"test-nobody-{os.getpid()}.in"]["said"] == "no writer"


def test_a_damaged_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import core.tiny

    damaged = tmp_path / "weights"
    shutil.copytree(core.tiny.WEIGHTS, damaged)
    weights = next(damaged.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    monkeypatch.setattr(core.tiny, "WEIGHTS", damaged)
    found = only(doctor.check_weights())
    assert found.level == "bad"
    assert weights.name in found.said and "git checkout" in found.mend

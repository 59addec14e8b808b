"""The runs of the conformance matrix: each plays one situation with one writer and one reader language.

Every run returns how many frames were published and taken and raises AssertionError for a forbidden outcome: a torn
frame, a frame older than one already seen, a wrong description, a frame that a lossless reader missed, a hang, a crash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tests.conformance.peers import Peer, stage


class Count(NamedTuple):
    """What a run did: frames published by all its writers, frames taken and checked by all its readers."""

    published: int
    taken: int


def judge(result: dict[str, Any], what: str) -> int:
    """The frames that a reader took, having made sure that nothing forbidden happened."""
    assert result["status"] == 0, f"{what}: {result}"
    for name in ("torn", "wrong", "older", "missed"):
        assert result[name] == 0, f"{what}: {result}"
    assert not result["timeout"] and result["error"] is None, f"{what}: {result}"
    return int(result["taken"])


def _one_writer(writer: Peer, reader: Peer, directory: Path | None, frames: int, how: str, **words: object) -> Count:
    what = f"{writer.name} -> {reader.name} ({how}, {words})"
    with stage(directory) as at:
        taking = at.start(reader, "read", until=frames, how=how)
        taking.await_line("READY")
        writing = at.start(writer, "write", frames=frames, **words)
        writing.await_line("DONE")
        taken = taking.result()
        wrote = writing.leave()
    assert wrote["status"] == 0 and wrote["written"] == frames, f"{what}: {wrote}"
    if "grow" in words:
        assert wrote["generations"] > 1, f"{what}: the picture never outgrew its slot: {wrote}"
    return Count(frames, judge(taken, what))


def overrun(writer: Peer, reader: Peer, directory: Path | None, frames: int, how: str) -> Count:
    """A flat-out writer overruns the reader; size and format change every few frames within the capacity."""
    return _one_writer(writer, reader, directory, frames, how, vary="all")


def steady(writer: Peer, reader: Peer, directory: Path | None, frames: int, how: str) -> Count:
    """A flat-out writer of pictures that are always alike."""
    return _one_writer(writer, reader, directory, frames, how)


def generations(writer: Peer, reader: Peer, directory: Path | None, frames: int, how: str) -> Count:
    """The picture outgrows its slot again and again, so that the ring makes next generations."""
    return _one_writer(writer, reader, directory, frames, how, grow=max(1, frames // 6), capacity=64 * 48 * 4)


def lossless(writer: Peer, reader: Peer, directory: Path | None, frames: int) -> Count:
    """The one lossless reader gets every frame, over next generations too."""
    with stage(directory) as at:
        taking = at.start(reader, "read", until=frames, how="lossless")
        taking.await_line("READY")
        words = {"policy": "lossless", "grow": max(1, frames // 20), "capacity": 64 * 48 * 4, "timeout_ms": 60000}
        writing = at.start(writer, "write", frames=frames, **words)
        result = taking.result()
        wrote = writing.leave()
    what = f"{writer.name} -> {reader.name} (lossless)"
    assert wrote["status"] == 0, f"{what}: {wrote}"
    taken = judge(result, what)
    assert (taken, result["first"]) == (frames, 1), f"{what}: {result}"
    return Count(frames, taken)


def restarts(writer: Peer, reader: Peer, directory: Path | None, frames: int, how: str) -> Count:
    """One writer dies half way through a frame, the next leaves in order, a third goes on; the reader follows."""
    block = 1_000_000
    what = f"{writer.name} killed -> {reader.name} ({how})"
    # A pause, so that the reader is sure to see frames of each life.
    words = {"pause_us": 200, "vary": "size"}
    with stage(directory) as at:
        taking = at.start(reader, "read", until=2 * block + frames, how=how)
        taking.await_line("READY")
        dying = at.start(writer, "write", first=1, frames=frames, die=frames, **words)
        dying.await_line("READY")
        dying.died()
        leaving = at.start(writer, "write", first=block + 1, frames=frames, **words).leave()
        last = at.start(writer, "write", first=2 * block + 1, frames=frames, **words)
        result = taking.result()
        wrote = last.leave()
    for one in (leaving, wrote):
        assert one["status"] == 0 and one["written"] == frames, f"{what}: {one}"
    return Count(3 * frames - 1, judge(result, what))


def killed_reader(writer: Peer, reader: Peer, directory: Path | None, frames: int) -> Count:
    """Readers die with a pinned slot; the writer goes on and a later reader gets its frames."""
    what = f"{writer.name} -> {reader.name} killed"
    with stage(directory) as at:
        dying = [at.start(reader, "read", until=frames, how="latest", die=10 * (i + 1)) for i in range(3)]
        for one in dying:
            one.await_line("READY")
        writing = at.start(writer, "write", frames=frames, pause_us=200)
        for one in dying:
            one.died()
        taking = at.start(reader, "read", until=frames, how="latest")
        result = taking.result()
        wrote = writing.leave()
    assert wrote["status"] == 0 and wrote["written"] == frames, f"{what}: {wrote}"
    return Count(frames, judge(result, what))


def everything(writer: Peer, reader: Peer, directory: Path | None, frames: int) -> Count:
    """All of it at once, for the test suite: three lives of a flat-out writer with three readers at a time.

    The first writer changes size and format, outgrows its slots and dies half way through a frame; the second leaves in
    order; the third goes on. One reader copies, one keeps views, one dies with a pinned slot.
    """
    block = 1_000_000
    until = 2 * block + frames
    what = f"{writer.name} -> {reader.name}"
    with stage(directory) as at:
        taking = [at.start(reader, "read", until=until, how=how) for how in ("read", "latest")]
        dying = at.start(reader, "read", until=until, how="latest", die=1)
        for one in (*taking, dying):
            one.await_line("READY")
        at.start(
            writer, "write", frames=frames, die=frames, vary="all", grow=max(1, frames // 4), capacity=64 * 48 * 4
        ).died()
        leaving = at.start(writer, "write", first=block + 1, frames=frames, vary="size").leave()
        last = at.start(writer, "write", first=2 * block + 1, frames=frames, vary="all")
        dying.died()
        taken = sum(judge(one.result(), what) for one in taking)
        wrote = last.leave()
    for one in (leaving, wrote):
        assert one["status"] == 0 and one["written"] == frames, f"{what}: {one}"
    return Count(3 * frames - 1, taken)

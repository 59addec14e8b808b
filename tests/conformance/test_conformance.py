"""Every writer against every reader, in short; `frameloom bench conformance` plays it in full."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest

from bridge.ring import RingWriter
from bridge.ring.layout import HEADER, READER_ENTRIES
from tests.conformance import runs
from tests.conformance.peers import PATIENCE_S, Peer, stage

LANGUAGES = ("python", "c", "c#", "c on wine")
PAIRS = list(itertools.product(LANGUAGES, LANGUAGES))
FRAMES = {"python": 600, "c": 4000, "c#": 1500, "c on wine": 4000}
"""Enough, flat out, for a reader of any language to be overrun for a tenth of a second."""


def peer(built: dict[str, Peer], name: str) -> Peer:
    if built[name].missing:
        pytest.skip(f"{name}: {built[name].missing}")
    return built[name]


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_nothing_forbidden_over_three_lives_of_a_flat_out_writer(
    built: dict[str, Peer], tmp_path: Path, writer: str, reader: str
) -> None:
    runs.everything(peer(built, writer), peer(built, reader), tmp_path, FRAMES[writer])
    assert not list(tmp_path.glob("*.ring")), "a writer that leaves in order removes its record"


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_a_lossless_reader_gets_every_frame_over_resizes(
    built: dict[str, Peer], tmp_path: Path, writer: str, reader: str
) -> None:
    runs.lossless(peer(built, writer), peer(built, reader), tmp_path, 45)


def test_windows_programs_among_themselves_by_named_objects(built: dict[str, Peer]) -> None:
    wine = peer(built, "c on wine")
    runs.everything(wine, wine, None, FRAMES["c on wine"])
    runs.lossless(wine, wine, None, 200)


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_second_writer_is_refused_in_every_language(built: dict[str, Peer], tmp_path: Path, name: str) -> None:
    with stage(tmp_path) as at:
        first = at.start(peer(built, "python"), "write", frames=3)
        first.await_line("DONE")
        refused = at.start(peer(built, name), "write", frames=3).result()
        assert refused["status"] == 1 and refused["error"]["type"] == "WriterExists", refused
        assert str(first.process.pid) in refused["error"]["message"]
        assert "another channel" in refused["error"]["message"]
        first.leave()


@pytest.mark.parametrize("name", ["python", "c", "c#"])
def test_a_segment_cut_to_nothing_under_sleepers_is_an_error_and_no_crash(
    built: dict[str, Peer], tmp_path: Path, name: str
) -> None:
    def cut(word: int, count: int) -> None:
        """Cut the ring as soon as one of these words says that somebody sleeps, well before that sleep ends."""
        deadline = time.monotonic() + PATIENCE_S
        while not any(any(path.read_bytes()[word : word + 4 * count]) for path in tmp_path.glob("*.seg")):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.02)
        for path in tmp_path.glob("*.seg"):
            os.truncate(path, 0)

    for how in ("read", "latest", "lossless"):
        with RingWriter("a", 64 * 48 * 4, directory=tmp_path), stage(tmp_path) as at:
            reading = at.start(peer(built, name), "read", until=1, how=how)
            cut(HEADER.offset("waiting"), READER_ENTRIES)
            result = reading.result()
            assert result["status"] == 1 and result["error"]["type"] == "TruncatedSegment", result
    with stage(tmp_path) as at:
        writing = at.start(peer(built, name), "write", frames=9, policy="lossless")
        cut(HEADER.offset("writer_waiting"), 1)
        result = writing.result()
        assert result["status"] == 1 and result["error"]["type"] == "TruncatedSegment", result


@pytest.mark.parametrize("name", LANGUAGES)
def test_words_not_understood_are_refused(built: dict[str, Peer], name: str) -> None:
    for words in ({}, {"until": 3, "width": 4}):
        with stage(None) as at:
            said = at.start(peer(built, name), "read", **words).process
            assert said.wait(120) == 2


@pytest.mark.parametrize("name", LANGUAGES)
def test_what_a_reader_finds_wrong_it_says(built: dict[str, Peer], tmp_path: Path, name: str) -> None:
    """The judges are no rubber stamps: a frame whose pixels are not those of its number counts as torn, and so on."""
    import numpy as np

    from bridge.ring import Kind

    with RingWriter("a", 64 * 48 * 4, directory=tmp_path) as writer, stage(tmp_path) as at:
        reading = at.start(peer(built, name), "read", until=5, how="latest")
        reading.await_line("READY")
        while reading.process.poll() is None:
            for number in (3, 2, 5):
                writer.write({Kind.COLOUR: np.zeros((48, 64, 4), np.uint8)}, frame_id=number)
        result = reading.result()
        assert result["status"] == 3 and result["torn"] > 0 and result["wrong"] > 0, result

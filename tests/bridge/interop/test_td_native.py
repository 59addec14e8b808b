"""TouchDesigner's Shared Mem TOPs, played by a C program written from the layout facts, here and under Wine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bridge.interop import td_native
from bridge.interop.adaptor import AdaptorError, TakenPicture
from bridge.interop.named_memory import create_memory, open_lock, open_memory
from bridge.interop.td_format import (
    INFO_SIZE,
    INFO_SUPPORTED,
    Info,
    data_name,
    info_names,
    lock_name,
    pack_header,
    pack_info,
    parse_info,
)
from bridge.interop.td_native import TdInput, TdOutput
from bridge.ring.header import Frame
from bridge.ring.layout import ColourSpace, Format, Kind, Origin
from tests.bridge.interop.td_peers import FOLDER, PATIENCE_S, Peer, fresh_name, native_peer, sweep, wine_peer
from tests.rings import fresh_channel
from tests.rings import sweep as sweep_rings
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm, where these bytes are exercised")


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    found = native_peer(tmp_path_factory.mktemp("td"))
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    for found in wine_peer(tmp_path_factory.mktemp("td-wine")):
        if isinstance(found, str):
            pytest.skip(found)
        yield found


@pytest.fixture
def name() -> Iterator[str]:
    name = fresh_name()
    yield name
    sweep(name)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def source(name: str, said: list[str]) -> Iterator[TdInput]:
    source = TdInput(name, said.append)
    yield source
    source.close()


@pytest.fixture
def sink(name: str, said: list[str]) -> Iterator[TdOutput]:
    sink = TdOutput(name, said.append)
    yield sink
    sink.close()


def number_of(picture: TakenPicture) -> int:
    """Which frame of the C program this is; fails when it is torn."""
    data = picture.pixels.reshape(-1)
    first = int(data[0])
    assert np.array_equal(data, (np.arange(data.size) + first) % 251)
    return first


def frame(pixels: np.ndarray, form: Format = Format.RGBA8, origin: Origin = Origin.TOP_LEFT) -> Frame:
    height, width = pixels.shape[:2]
    planes = {Kind.COLOUR: pixels}
    about = (1, 1, 1, 0, 0, 0, 0, origin, ColourSpace.SRGB, width, height, 1)
    return Frame(planes, *about, formats={Kind.COLOUR: form})


def noise(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)


# ---- between our own two endpoints  ----


def test_what_is_put_is_polled_once(source: TdInput, sink: TdOutput) -> None:
    assert source.poll() is None
    assert sink.put(frame(noise(1)))
    got = until(source.poll)
    assert (got.format, got.origin) == (Format.RGBA8, Origin.BOTTOM_LEFT)
    assert np.array_equal(got.pixels[::-1], noise(1))
    for _ in range(50):
        assert source.poll() is None
    assert source.poll(again=True) is not None
    one_pixel = noise(1)
    one_pixel[11, 17, 1] ^= 1
    assert sink.put(frame(one_pixel))
    assert np.array_equal(until(source.poll).pixels[::-1], one_pixel)


def test_a_larger_picture_moves_to_another_postfix_and_is_followed(source: TdInput, sink: TdOutput, name: str) -> None:
    sink.put(frame(noise(1)))
    until(source.poll)
    sink.put(frame(noise(2, 200, 300)))
    info = open_memory(info_names(name)[0])
    assert info is not None
    postfix = parse_info(info.bytes[:INFO_SIZE].tobytes()).postfix
    assert len(postfix) == 31 and postfix.isalpha() and postfix.islower()
    got = until(source.poll)
    assert np.array_equal(got.pixels[::-1], noise(2, 200, 300))
    assert open_memory(data_name(name)) is None
    # A smaller one stays where it is.
    sink.put(frame(noise(3, 8, 8)))
    assert until(source.poll).pixels.shape == (8, 8, 4)
    assert parse_info(info.bytes[:INFO_SIZE].tobytes()).postfix == postfix
    info.close()


def test_both_info_names_are_there_and_nothing_is_left(sink: TdOutput, name: str, said: list[str]) -> None:
    sink.put(frame(noise(1)))
    made = {path.name for path in FOLDER.glob(f"*TouchSHM{name}*")}
    memories = {data_name(name), *info_names(name)}
    assert made == memories | {lock_name(memory) for memory in memories}
    sink.close()
    assert not list(FOLDER.glob(f"*TouchSHM{name}*"))
    sink.close()
    assert said == []


def test_an_owner_that_leaves_and_comes_back(source: TdInput, name: str, said: list[str]) -> None:
    for seed in (1, 2):
        sink = TdOutput(name, said.append)
        sink.put(frame(noise(seed)))
        assert np.array_equal(until(source.poll).pixels[::-1], noise(seed))
        sink.close()
        assert source.poll() is None


def test_leftovers_of_a_killed_owner_are_taken_over(source: TdInput, name: str, said: list[str]) -> None:
    killed = TdOutput(name, said.append)
    killed.put(frame(noise(1)))
    until(source.poll)
    again = TdOutput(name, said.append)
    assert again.put(frame(noise(2)))
    assert np.array_equal(until(source.poll).pixels[::-1], noise(2))
    assert len(said) == 1 and "is there already and is taken over" in said[0]
    again.close()
    killed.close()


def test_an_orderly_restart_while_a_receiver_holds_the_memory_is_no_take_over(
    source: TdInput, name: str, said: list[str]
) -> None:
    """On Windows memory lives on in a receiver that has it open."""
    infos = [create_memory(each, INFO_SIZE) for each in info_names(name)]
    for info in infos:
        info.bytes[:] = memoryview(pack_info(Info(True, "", True)))
    old = create_memory(data_name(name), 1000)
    again = TdOutput(name, said.append)
    assert again.put(frame(noise(2)))
    assert np.array_equal(until(source.poll).pixels[::-1], noise(2))
    assert parse_info(infos[0].bytes[:INFO_SIZE].tobytes()).postfix
    assert not parse_info(infos[0].bytes[:INFO_SIZE].tobytes()).detach
    assert not [line for line in said if "taken over" in line], said
    again.close()
    for memory in (*infos, old):
        memory.close()


def test_a_held_mutex_costs_frames_and_is_told_once(
    source: TdInput, sink: TdOutput, name: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(td_native, "STUCK_S", 0.05)
    sink.put(frame(noise(1)))
    until(source.poll)
    held = open_lock(lock_name(data_name(name)))
    assert held.take(1.0)
    while sink.skipped < 30:
        assert not sink.put(frame(noise(2)))
    # The picture changes while its mutex is held by somebody who hangs.
    memory = open_memory(data_name(name))
    assert memory is not None
    memory.bytes[-50:] ^= 255
    while source.skipped < 30:
        assert source.poll() is None
    assert len(said) == 2 and len(set(said)) == 1, said
    assert "has been held by another program" in said[0]
    held.give()
    assert until(source.poll) is not None
    assert sink.put(frame(noise(2)))
    assert np.array_equal(until(source.poll).pixels[::-1], noise(2))
    held.close()
    memory.close()
    source.close()
    sink.close()
    assert "tries to read" in said[-2] and "results were skipped" in said[-1]


def test_at_rest_the_memory_is_let_go_and_a_change_is_still_seen(
    source: TdInput, sink: TdOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is open here, a sender that was started anew could not make its own on Windows."""
    monkeypatch.setattr(td_native, "REST_S", 0.0)
    monkeypatch.setattr(td_native, "LOOK_S", 0.01)
    sink.put(frame(noise(1)))
    until(source.poll)
    opened = []
    real = td_native.open_memory
    monkeypatch.setattr(td_native, "open_memory", lambda name: [opened.append(name), real(name)][1])
    while len(opened) < 6:
        assert source.poll() is None
    sink.put(frame(noise(2)))
    assert np.array_equal(until(source.poll).pixels[::-1], noise(2))


def test_a_held_info_mutex_waits_without_hanging(source: TdInput, sink: TdOutput, name: str) -> None:
    held = [open_lock(lock_name(memory)) for memory in info_names(name)]
    assert all(lock.take(1.0) for lock in held)
    assert not sink.put(frame(noise(1)))
    held[0].give()
    assert not sink.put(frame(noise(1)))
    held[1].give()
    assert sink.put(frame(noise(1)))
    assert until(source.poll) is not None
    for lock in held:
        lock.close()


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"\xab" * 300, "not a picture"),
        (pack_header(2, 0, 0, 37), "a picture of 0 x 0"),
        (pack_header(1, 20000, 20000, 37), "a picture of 20000 x 20000"),
        (pack_header(2, 8, 8, 37).replace(b"\x25\0\0\0", b"\x26\0\0\0", 1), "pixel format 38 is not known"),
        (pack_header(2, 640, 480, 37), "640 x 480 pixels from byte 56 in 1000 bytes"),
        (b"short", "not a picture"),
    ],
)
def test_garbage_is_named_and_a_good_picture_follows(
    bad: bytes, told: str, source: TdInput, name: str, said: list[str]
) -> None:
    memory = create_memory(data_name(name), 1000)
    memory.bytes[: len(bad)] = memoryview(bad)
    until(lambda: [source.poll(), said][1])
    assert len(said) == 1 and told in said[0], said
    good = pack_header(2, 8, 8, 37)
    memory.bytes[: len(good)] = memoryview(good)
    assert until(source.poll).pixels.shape == (8, 8, 4)
    assert len(said) == 1
    memory.remove()


def test_an_info_block_of_another_program_is_passed_over(source: TdInput, name: str, said: list[str]) -> None:
    info = create_memory(info_names(name)[0], 16)
    info.bytes[:] = 0x55
    memory = create_memory(data_name(name), 1000)
    memory.bytes[:56] = memoryview(pack_header(2, 8, 8, 37))
    assert until(source.poll).pixels.shape == (8, 8, 4)
    assert len(said) == 1 and "an info block of 16 bytes" in said[0]
    assert (info.bytes == 0x55).all()
    info.remove()
    memory.remove()


def test_memory_that_is_cut_or_replaced(source: TdInput, name: str) -> None:
    memory = create_memory(data_name(name), 1000)
    memory.bytes[:56] = memoryview(pack_header(2, 8, 8, 37))
    until(source.poll)
    os.truncate(FOLDER / data_name(name), 10)
    for _ in range(20):
        assert source.poll() is None
    (FOLDER / data_name(name)).unlink()
    fresh = create_memory(data_name(name), 2000)
    fresh.bytes[:56] = memoryview(pack_header(2, 16, 8, 37))
    assert until(source.poll).pixels.shape == (8, 16, 4)
    fresh.remove()
    memory.close()


def test_results_that_no_top_can_hold(sink: TdOutput, said: list[str]) -> None:
    assert not sink.put(frame(np.broadcast_to(np.zeros(4, np.uint8), (1, 20000, 4))))
    assert len(said) == 1 and "20000 x 1 is beyond the 16384" in said[0]
    assert sink.put(frame(noise(1)))


def test_something_else_under_the_info_name(sink: TdOutput, name: str, said: list[str]) -> None:
    strange = create_memory(info_names(name)[0], 10)
    assert not sink.put(frame(noise(1)))
    assert len(said) == 1 and "is something else; use another name" in said[0]
    strange.remove()


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "..", "x" * 300, "a\nb"])
def test_names_that_cannot_be(name: str) -> None:
    for make in (TdInput, TdOutput):
        with pytest.raises(AdaptorError, match="use a name of 1 to 200 characters"):
            make(name, print)


def test_a_system_without_names_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.interop.named_memory.sys.platform", "darwin")
    for make in (TdInput, TdOutput):
        with pytest.raises(AdaptorError, match="use the TouchDesigner component"):
            make("name", print)


def test_the_words_of_an_input(name: str) -> None:
    with pytest.raises(AdaptorError, match="write td:NAME, or td:NAME:linear"):
        td_native.open_input("name:srgb", print)
    memory = create_memory(data_name(name), 1000)
    memory.bytes[:56] = memoryview(pack_header(2, 2, 2, 97))
    for words, space in ((name, ColourSpace.SRGB), (f"{name}:linear", ColourSpace.LINEAR)):
        source = td_native.open_input(words, print)
        assert until(source.poll).colour_space is space
        source.close()
    memory.remove()


def test_the_words_of_an_output() -> None:
    with pytest.raises(AdaptorError, match="write td:NAME, or td:NAME:v1"):
        td_native.open_output("name:v9", print)
    td_native.open_output("name:v1", print).close()
    assert not list(FOLDER.glob("TouchSHMname*"))


# ---- TouchDesigner played by a C program -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("info", [0, 1, 2])
def test_a_foreign_owner(peer: Peer, source: TdInput, name: str, version: int, info: int) -> None:
    playing = peer.start("out", name, 48, 32, 100000, 20, f"version={version}", f"info={info}")
    try:
        numbers = []
        while len(numbers) < 5:
            got = until(source.poll)
            assert got.pixels.shape == (32, 48, 4)
            numbers.append(number_of(got))
        # The count goes round at 251.
        assert all(0 < (b - a) % 251 < 125 for a, b in zip(numbers, numbers[1:], strict=False)), numbers
    finally:
        playing.stop()


@pytest.mark.parametrize(("number", "shape"), [(9, (32, 48, 1)), (44, (32, 48, 4)), (0xF0001, (32, 48, 1))])
def test_a_foreign_owner_with_another_format(
    peer: Peer, source: TdInput, name: str, number: int, shape: tuple[int, ...]
) -> None:
    playing = peer.start("out", name, 48, 32, 100000, 20, f"format={number}")
    try:
        got = until(source.poll)
        assert got.pixels.shape == shape
        number_of(got)
    finally:
        playing.stop()


def test_a_foreign_owner_that_resizes_while_running(peer: Peer, source: TdInput, name: str) -> None:
    playing = peer.start("out", name, 48, 32, 100000, 20, "resize=20")
    try:
        shapes = [until(source.poll).pixels.shape[:2]]
        playing.go()
        # Only a receiver that said it follows is given a postfix.
        assert playing.line("resized") == "resized 1"
        while shapes[-1] != (32, 96):
            got = until(source.poll)
            number_of(got)
            shapes.append(got.pixels.shape[:2])
        assert set(shapes) == {(32, 48), (32, 96)}
    finally:
        playing.stop()


def test_a_foreign_owner_that_hangs_with_the_mutex(
    peer: Peer, source: TdInput, name: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(td_native, "STUCK_S", 0.2)
    playing = peer.start("out", name, 48, 32, 100000, 20, "hold=4")
    try:
        playing.line("holding")
        until(lambda: [source.poll(), source.skipped > 20 and said][1])
        assert "has been held by another program" in said[-1]
        playing.go()
        number = 0
        while number <= 4:
            number = number_of(until(source.poll))
    finally:
        playing.stop()


def test_a_foreign_owner_that_dies_with_the_mutex_and_is_started_anew(peer: Peer, source: TdInput, name: str) -> None:
    playing = peer.start("out", name, 48, 32, 100000, 20, "crash=4")
    playing.line("crash")
    playing.stop()
    # The mutex of a dead process is free, and the last picture was whole.
    assert number_of(until(source.poll)) == 4
    assert source.poll() is None
    for path in FOLDER.glob(f"*TouchSHM{name}*"):
        path.unlink()
    playing = peer.start("out", name, 24, 16, 100000, 20)
    try:
        got = until(source.poll)
        assert got.pixels.shape == (16, 24, 4)
        number_of(got)
    finally:
        playing.stop()


def hash_of(data: bytes) -> str:
    total = 14695981039346656037
    for byte in data:
        total = (total ^ byte) * 1099511628211 % 2**64
    return f"{total:016x}"


def bottom_up(pixels: np.ndarray) -> str:
    """What the C program prints of a picture."""
    data = np.ascontiguousarray(pixels[::-1]).tobytes()
    first = " ".join(str(byte) for byte in data[:4])
    return f"bytes {len(data)} first {first} sum {hash_of(data)}"


@pytest.mark.parametrize("version", [1, 2])
def test_a_foreign_receiver(peer: Peer, name: str, said: list[str], version: int) -> None:
    sink = td_native.open_output(f"{name}:v{version}", said.append)
    playing = peer.start("in", name, 1000, int(PATIENCE_S * 1000))
    try:
        pictures = [noise(1, 8, 12), noise(2, 8, 12), noise(3, 16, 24), noise(4, 4, 4)]
        for pixels in pictures:
            until(lambda pixels=pixels: sink.put(frame(pixels)))
            height, width = pixels.shape[:2]
            wanted = f"picture {width} {height} format 37 version {version} {bottom_up(pixels)}"
            assert playing.line("picture") == wanted
        sink.close()
        assert playing.line("detached")
    finally:
        playing.stop()
    assert said == []


def test_a_foreign_receiver_says_that_it_follows(peer: Peer, sink: TdOutput, name: str) -> None:
    # Before it starts, lest it opens memory that is just being made.
    sink.put(frame(noise(1)))
    playing = peer.start("in", name, 1, int(PATIENCE_S * 1000))
    try:
        playing.line("picture")
        for each in info_names(name)[:1]:
            info = open_memory(each)
            assert info is not None
            assert info.bytes[INFO_SUPPORTED] == 1
            info.close()
    finally:
        playing.stop()


# ---- the same program built for Windows ------------------------------------------------------------------------------


def test_wine_two_windows_programs_over_named_objects(windows: Peer, name: str) -> None:
    """No part of ours runs here: it shows that the program under test below keeps the protocol with real mutexes."""
    receiver = windows.start("in", name, 1000000, int(PATIENCE_S * 1000))
    owner = windows.start("out", name, 48, 32, 100000, 20, "resize=30")
    try:
        assert receiver.line("picture").startswith("picture 48 32 format 37 version 2 ")
        owner.go()
        assert owner.line("resized") == "resized 1"
        assert receiver.line("picture 96").startswith("picture 96 32 format 37 version 2 ")
    finally:
        owner.stop()
        receiver.stop()


def test_wine_a_windows_owner_is_read(windows: Peer, source: TdInput, name: str) -> None:
    playing = windows.start("out", name, 48, 32, 100000, 20, "resize=15", FILES="1")
    try:
        shapes = [until(source.poll).pixels.shape[:2]]
        playing.go()
        assert playing.line("resized") == "resized 1"
        while shapes[-1] != (32, 96):
            got = until(source.poll)
            number_of(got)
            shapes.append(got.pixels.shape[:2])
    finally:
        playing.stop()


def test_wine_a_windows_owner_that_hangs_with_the_lock(windows: Peer, source: TdInput, name: str) -> None:
    playing = windows.start("out", name, 48, 32, 100000, 20, "hold=4", FILES="1")
    try:
        playing.line("holding")
        until(lambda: [source.poll(), source.skipped > 5][1])
        playing.go()
        number = 0
        while number <= 4:
            number = number_of(until(source.poll))
    finally:
        playing.stop()


def test_wine_a_windows_receiver_is_fed(windows: Peer, sink: TdOutput, name: str) -> None:
    playing = windows.start("in", name, 1000, int(PATIENCE_S * 1000), FILES="1")
    try:
        for pixels in (noise(1, 8, 12), noise(2, 8, 12), noise(3, 80, 120)):
            until(lambda pixels=pixels: sink.put(frame(pixels)))
            assert playing.line("picture").endswith(bottom_up(pixels))
        sink.close()
        assert playing.line("detached")
    finally:
        playing.stop()


def test_an_old_info_block_may_carry_a_postfix_already(source: TdInput, name: str) -> None:
    """A receiver that comes after a resize starts at the postfix."""
    info = create_memory(info_names(name)[1], INFO_SIZE)
    info.bytes[:] = memoryview(pack_info(Info(False, "later", False)))
    memory = create_memory(data_name(name, "later"), 1000)
    memory.bytes[:56] = memoryview(pack_header(2, 8, 8, 37))
    assert until(source.poll).pixels.shape == (8, 8, 4)
    assert info.bytes[INFO_SUPPORTED] == 1
    info.remove()
    memory.remove()


# ---- the whole host --------------------------------------------------------------------------------------------------


def test_a_host_between_two_shared_mem_tops(peer: Peer, name: str) -> None:
    """`frameloom host --input td:... --output td:...`: what the Out TOP sends comes back at the In TOP, unchanged but
    for the alpha, which a host does not keep."""
    channel = fresh_channel()
    words = ["--channel", channel, "--input", f"td:{name}-a", "--output", f"td:{name}-b:v1"]
    words += ["--osc-port", "0", "--no-page", "--model", "passthrough"]
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "host", *words], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as host:
        sender = peer.start("out", f"{name}-a", 48, 32, 100000, 20, "resize=40")
        receiver = peer.start("in", f"{name}-b", 100000, int(PATIENCE_S * 2000))
        try:
            receiver.line("picture 48 32 format 37 version 1")
            sender.go()
            first = receiver.line("picture 96 32 format 37 version 1").split()
            start = int(first[first.index("first") + 1])
            rows = ((np.arange(32 * 96 * 4) + start) % 251).astype(np.uint8).reshape(32, 96, 4)
            rows[..., 3] = 255
            assert " ".join(first).endswith(bottom_up(rows[::-1]))
            host.send_signal(signal.SIGINT)
            assert host.wait(PATIENCE_S) == 0
            assert receiver.line("detached")
        finally:
            host.kill()
            sender.stop()
            receiver.stop()
            sweep_rings(channel)
            sweep(f"{name}-a")
            sweep(f"{name}-b")

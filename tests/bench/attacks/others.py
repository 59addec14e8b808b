"""The same kills on what people would take instead: `multiprocessing.shared_memory` by hand, and iceoryx2 where it is.

By hand means: a fixed name, a word that counts frames, three slots, the newest copied at once, a name left by a killed
writer removed by the next, and a reader that opens the name again after a tenth of a second without a frame: it has no
other sign of a new writer. Every transport runs in the same processes, told apart by two functions.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import random
import select
import struct
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bridge.ring import Kind, RingReader, RingWriter, now_ns
from tests.bench.attacks.counting import LIFE, SIDE, Count, Shared, forked, kill

Seen = tuple[np.ndarray, int, int]
"""Pixels as 64-bit words, the frame's number, clock time when its writer was ready."""

NAME = "frameloom-bench-faults"
WORDS = SIDE * SIDE // 2
TOLD = struct.Struct("<qq")
WAIT_S = 5.0
"""A reader that has nothing of the next writer after so long hangs."""
REOPEN_S = 0.1
NAP_S = 0.0005


class Transport(NamedTuple):
    """write: puts frames for ever, given the first number. read: yields what comes, None now and then without."""

    write: Callable[[str, int], None]
    read: Callable[[str], Iterator[Seen | None]]
    left: Callable[[str], int]


def _numbers(first: int) -> Iterator[tuple[int, np.ndarray]]:
    for number in range(first, first + LIFE):
        yield number, np.full(WORDS, number, np.uint64)


def _ring_write(directory: str, first: int) -> None:
    writer = RingWriter("a", SIDE * SIDE * 4, directory=directory)
    ready_ns = now_ns()
    for number, words in _numbers(first):
        pixels = words.view(np.uint8).reshape(SIDE, SIDE, 4)
        writer.write({Kind.COLOUR: pixels}, frame_id=number, capture_ns=ready_ns)


def _ring_read(directory: str) -> Iterator[Seen | None]:
    with RingReader("a", directory=directory) as reader:
        while True:
            frame = reader.read(0.05)
            if frame is None:
                yield None
            else:
                pixels = np.ascontiguousarray(frame.planes[Kind.COLOUR]).reshape(-1).view(np.uint64)
                yield pixels, frame.frame_id, frame.capture_ns


def _ring_left(directory: str) -> int:
    RingWriter("a", 4096, directory=directory).close()
    return len(os.listdir(directory))


def _memory_write(_: str, first: int) -> None:
    size = 8 * (1 + 3 * (2 + WORDS))
    try:
        memory = shared_memory.SharedMemory(NAME, create=True, size=size)
    except FileExistsError:
        shared_memory.SharedMemory(NAME).unlink()
        memory = shared_memory.SharedMemory(NAME, create=True, size=size)
    u64 = np.frombuffer(memory.buf, np.uint64)
    slots = u64[1 : 1 + 3 * (2 + WORDS)].reshape(3, 2 + WORDS)
    ready_ns = now_ns()
    for count, (number, words) in enumerate(_numbers(first), 1):
        slot = slots[count % 3]
        slot[0], slot[1], slot[2:] = number, ready_ns, words
        u64[0] = count


def _memory_read(_: str) -> Iterator[Seen | None]:
    newest = 0
    while True:
        try:
            memory = shared_memory.SharedMemory(NAME)
        except (FileNotFoundError, ValueError):  # not there yet, or without its size yet
            time.sleep(NAP_S)
            yield None
            continue
        # Else this process's end would remove the name under the writer.
        resource_tracker.unregister("/" + NAME, "shared_memory")
        u64 = np.frombuffer(memory.buf, np.uint64)
        last, came = 0, time.monotonic()
        while time.monotonic() - came < REOPEN_S:
            count = int(u64[0])
            if count == last:
                time.sleep(NAP_S)
                yield None
                continue
            last, came = count, time.monotonic()
            slot = u64[1 : 1 + 3 * (2 + WORDS)].reshape(3, 2 + WORDS)[count % 3].copy()
            # Opened again, it may be the same memory with the same picture.
            if slot[0] != newest:
                newest = int(slot[0])
                yield slot[2:], newest, int(slot[1])
        del u64
        memory.close()


def _memory_left(_: str) -> int:
    time.sleep(0.3)
    return int(Path("/dev/shm", NAME).exists())


def _iceoryx2() -> Transport:
    import iceoryx2

    size = 8 * (2 + WORDS)
    iceoryx2.set_log_level(iceoryx2.LogLevel.Fatal)

    def service() -> tuple[Any, Any]:
        node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        made = node.service_builder(iceoryx2.ServiceName.new(NAME)).publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
        return node, made.open_or_create()

    def words_at(payload: Any) -> np.ndarray:
        data: np.ndarray = np.ctypeslib.as_array((ctypes.c_uint64 * (size // 8)).from_address(payload.data_ptr))
        return data

    def write(_: str, first: int) -> None:
        _node, made = service()
        publisher = made.publisher_builder().initial_max_slice_len(size).create()
        ready_ns = now_ns()
        for number, words in _numbers(first):
            sample = publisher.loan_slice_uninit(size)
            at = words_at(sample.payload())
            at[0], at[1], at[2:] = number, ready_ns, words
            sample.assume_init().send()

    def read(_: str) -> Iterator[Seen | None]:
        _node, made = service()
        subscriber = made.subscriber_builder().create()
        while True:
            sample = subscriber.receive()
            if sample is None:
                time.sleep(NAP_S)
                yield None
                continue
            at = words_at(sample.payload()).copy()
            yield at[2:], int(at[0]), int(at[1])

    def left(_: str) -> int:
        # The next node to come cleans up.
        node = service()
        del node
        return sum(len(files) for _, _, files in os.walk("/tmp/iceoryx2")) + sum(
            "iox2" in name for name in os.listdir("/dev/shm")
        )

    return Transport(write, read, left)


def transports() -> dict[str, Transport]:
    found = {
        "ring": Transport(_ring_write, _ring_read, _ring_left),
        "multiprocessing.shared_memory": Transport(_memory_write, _memory_read, _memory_left),
    }
    if importlib.util.find_spec("iceoryx2") is not None:
        found["iceoryx2"] = _iceoryx2()
    return found


def compared(transport: Transport, directory: str, kills: int, chance: random.Random) -> tuple[Count, int]:
    """Writers killed one after the other under a reader that lives on; in each gap a fresh reader comes.

    Returns what was counted, and the files that are left when all is over.
    """
    count, shared = Count(), Shared()
    told, tell = os.pipe()

    def living() -> None:
        """Words: 0 frames, 1 torn, 2 backward. Tells of the first frame of every life."""
        mine, last = Count(), 0
        for seen in transport.read(directory):
            if seen is None:
                continue
            words, number, ready_ns = seen
            if number // LIFE > last // LIFE:
                os.write(tell, TOLD.pack(number // LIFE, now_ns() - ready_ns))
            last = mine.take(words, number, last)
            shared.words[0], shared.words[1], shared.words[2] = mine.frames, mine.torn, mine.backward

    def fresh(answer: Shared) -> Callable[[], None]:
        def run() -> None:
            for seen in transport.read(directory):
                if seen is not None:
                    answer.words[0] = seen[1] // LIFE
                    return

        return run

    def quiet(run: Callable[[], object]) -> int:
        """Without what the resource tracker says of every name that a killed writer left."""

        def hushed() -> None:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            run()

        return forked(hushed)

    reader = quiet(living)
    try:
        for life in range(1, kills + 1):
            answer = Shared()
            late = quiet(fresh(answer)) if life > 1 else 0
            writer = quiet(lambda life=life: transport.write(directory, life * LIFE + 1))
            until, came = time.monotonic() + WAIT_S, False
            while not came and (left_s := until - time.monotonic()) > 0:
                if select.select([told], [], [], left_s)[0]:
                    said, took_ns = TOLD.unpack(os.read(told, TOLD.size))
                    if came := said == life:
                        count.attach_ms.append(took_ns / 1e6)
            count.hangs += not came
            while late and answer.words[0] == 0 and time.monotonic() < until:
                time.sleep(0.001)
            count.dead += bool(0 < answer.words[0] < life)
            count.hangs += late != 0 and answer.words[0] == 0
            time.sleep(chance.uniform(0, 0.01))
            kill(writer)
            if late:
                kill(late)
            count.kills += 1
    finally:
        kill(reader)
        os.close(told)
        os.close(tell)
    count.frames, count.torn, count.backward = map(int, shared.words[:3])
    pid = quiet(lambda: shared.words.__setitem__(7, transport.left(directory)))
    os.waitpid(pid, 0)
    return count, int(shared.words[7])

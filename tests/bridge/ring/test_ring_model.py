"""The index protocol of PROTOCOL.md, checked over every interleaving of a writer and a reader.

A small machine with the memory model of x86: each process has a first-in-first-out store buffer that drains at any
moment; a fence waits until it is empty. A frame's picture is two halves, written and read one after the other. Every
reachable state is visited, so "the writer is killed here" is every state of memory with the writer never moving again.
Each rule that is left out on purpose must be found out, or the model would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

SLOTS = 3
"""One fewer than the ring's least: the smallest in which one reader may pin."""
FRAMES = 5
READS = 3
PIN, WAKE, WAITING, NEWEST = "pin", "wake", "waiting", "newest"


class Process(NamedTuple):
    """Where a process is, its registers, and its stores on their way to memory."""

    at: str
    registers: tuple[int, ...]
    stores: tuple[tuple[object, int], ...] = ()


class Torn(AssertionError):
    """The model delivered or showed something that it must not."""


Memory = dict[object, int]
Step = Callable[[Process, Callable[[object], int], frozenset[str]], Process | None]


def seq(slot: int) -> tuple[str, int]:
    return ("seq", slot)


def half(slot: int, which: int) -> tuple[str, int, int]:
    return ("half", slot, which)


def store(process: Process, at: str, registers: tuple[int, ...], place: object, value: int) -> Process:
    return Process(at, registers, (*process.stores, (place, value)))


def writer(process: Process, load: Callable[[object], int], without: frozenset[str]) -> Process | None:
    at, (frame, slot, before, newest), stores = process
    registers = process.registers
    if at == "choose":
        if frame > FRAMES:
            return None
        candidates = [k % SLOTS for k in range(newest + 1, newest + SLOTS) if load(PIN) != k % SLOTS + 1]
        if not candidates:
            raise Torn("the writer is stuck")
        return Process("odd", (frame, candidates[0], 0, newest), stores)
    if at == "odd":
        return store(process, "fence", (frame, slot, load(seq(slot)), newest), seq(slot), 2 * frame - 1)
    if at == "fence":
        if stores and "W1" not in without:
            return process
        return Process("again", registers, stores)
    if at == "again":
        if load(PIN) == slot + 1 and "second look" not in without:
            return store(process, "choose", registers, seq(slot), before)
        return Process("half 0", registers, stores)
    if at == "half 0":
        return store(process, "half 1", registers, half(slot, 0), frame)
    if at == "half 1":
        return store(process, "even", registers, half(slot, 1), frame)
    if at == "even":
        return store(process, "newest", registers, seq(slot), 2 * frame)
    assert at == "newest"
    return store(process, "choose", (frame + 1, slot, 0, slot), NEWEST, frame * 100 + slot)


def copying_reader(process: Process, load: Callable[[object], int], without: frozenset[str]) -> Process | None:
    at, (last, frame, slot, first, reads), stores = process
    if at == "look":
        frame, slot = divmod(load(NEWEST), 100)
        if frame <= last:
            return None if reads == 0 else Process("look", (last, 0, 0, 0, reads - 1), stores)
        return Process("before", (last, frame, slot, 0, reads), stores)
    if at == "before":
        matches = load(seq(slot)) == 2 * frame
        return Process("half 0" if matches else "look", process.registers, stores)
    if at == "half 0":
        return Process("half 1", (last, frame, slot, load(half(slot, 0)), reads), stores)
    if at == "half 1":
        return Process("after", (last, frame, slot, first * 100 + load(half(slot, 1)), reads), stores)
    assert at == "after"
    if load(seq(slot)) != 2 * frame and "last check" not in without:
        return Process("look", process.registers, stores)
    if first != frame * 100 + frame or frame <= last:
        raise Torn(f"frame {frame} delivered as {divmod(first, 100)} after {last}")
    return Process("look", (frame, 0, 0, 0, reads), stores)


def pinning_reader(process: Process, load: Callable[[object], int], without: frozenset[str]) -> Process | None:
    at, (last, frame, slot, looks, reads), stores = process
    registers = process.registers
    if at == "look":
        frame, slot = divmod(load(NEWEST), 100)
        if frame <= last:
            return None if reads == 0 else Process("look", (last, 0, 0, 0, reads - 1), stores)
        return store(process, "fence", (last, frame, slot, 0, reads), PIN, slot + 1)
    if at == "fence":
        if stores and "R1" not in without:
            return process
        return Process("check", registers, stores)
    if at == "check":
        if load(seq(slot)) != 2 * frame:
            return store(process, "look", registers, PIN, 0)
        return Process("view", registers, stores)
    if at == "view":
        # A view is read for as long as it is held, with no look at the sequence in between.
        if load(half(slot, looks % 2)) != frame:
            raise Torn(f"frame {frame} changed while it was pinned")
        return Process("view" if looks < 3 else "unpin", (last, frame, slot, looks + 1, reads), stores)
    assert at == "unpin"
    return store(process, "look", (frame, 0, 0, 0, reads), PIN, 0)


def waking_writer(process: Process, load: Callable[[object], int], without: frozenset[str]) -> Process | None:
    at, (frame,), stores = process
    if at == "publish":
        return None if frame > 2 else store(process, "wake word", (frame,), NEWEST, frame)
    if at == "wake word":
        return store(process, "fence", (frame,), WAKE, frame)
    if at == "fence":
        if stores and "W5" not in without:
            return process
        return Process("look", (frame,), stores)
    assert at == "look"
    if load(WAITING):
        return store(process, "publish", (frame + 1,), "woken", frame)
    return Process("publish", (frame + 1,), stores)


def sleeping_reader(process: Process, load: Callable[[object], int], without: frozenset[str]) -> Process | None:
    at, (last, seen), stores = process
    if at == "look":
        if load(NEWEST) > last:
            return Process("look", (load(NEWEST), seen), stores)
        return Process("seen", (last, load(WAKE)), stores) if last < 2 else None
    if at == "seen":
        return store(process, "fence", (last, seen), WAITING, 1)
    if at == "fence":
        return process if stores else Process("last look", (last, seen), stores)
    if at == "last look":
        if load(NEWEST) > last and "last look" not in without:
            return store(process, "look", (last, seen), WAITING, 0)
        return Process("sleep", (last, seen), stores)
    if at == "sleep":
        # The kernel compares the word and falls asleep in one step.
        if load(WAKE) != seen and "comparison" not in without:
            return store(process, "look", (last, seen), WAITING, 0)
        return Process("asleep", (last, load("woken")), stores)
    assert at == "asleep"
    if load("woken") != seen:
        return store(process, "look", (last, seen), WAITING, 0)
    return process


def explore(
    steps: tuple[Step, Step],
    start: tuple[Process, Process],
    without: frozenset[str],
    check: Callable[[Memory, tuple[Process, Process], bool], None],
) -> int:
    """Visit every reachable state; returns how many. `check` is called for each, told whether nothing can move."""
    first: tuple[frozenset[tuple[object, int]], tuple[Process, Process]] = (frozenset(), start)
    seen = {first}
    todo = [first]
    while todo:
        frozen, processes = todo.pop()
        memory: Memory = dict(frozen)
        moves = []
        for index, process in enumerate(processes):

            def load(place: object, process: Process = process, memory: Memory = memory) -> int:
                for where, value in reversed(process.stores):
                    if where == place:
                        return value
                return memory.get(place, 0)

            if process.stores:
                (place, value), *rest = process.stores
                drained = frozenset({**memory, place: value}.items())
                moves.append((drained, index, process._replace(stores=tuple(rest))))
            after = steps[index](process, load, without)
            if after is not None and after != process:
                moves.append((frozen, index, after))
        check(memory, processes, not moves)
        for drained, index, after in moves:
            both = (after, processes[1]) if index == 0 else (processes[0], after)
            if (drained, both) not in seen:
                seen.add((drained, both))
                todo.append((drained, both))
    return len(seen)


def newest_is_whole(memory: Memory, processes: tuple[Process, Process], stuck: bool) -> None:
    """What a killed writer leaves: the newest frame is there, whole, in every state of memory."""
    frame, slot = divmod(memory.get(NEWEST, 0), 100)
    if frame and (memory[seq(slot)], memory[half(slot, 0)], memory[half(slot, 1)]) != (2 * frame, frame, frame):
        raise Torn("the newest frame is not whole")


def nobody_sleeps_through(memory: Memory, processes: tuple[Process, Process], stuck: bool) -> None:
    if stuck and processes[1].at == "asleep" and memory.get(NEWEST, 0) > processes[1].registers[0]:
        raise Torn("lost wake-up")


WRITER = Process("choose", (1, 0, 0, SLOTS - 1))
READER = Process("look", (0, 0, 0, 0, READS))


def frames(reader: Step, *without: str) -> int:
    return explore((writer, reader), (WRITER, READER), frozenset(without), newest_is_whole)


def wakes(*without: str) -> int:
    start = (Process("publish", (1,)), Process("look", (0, 0)))
    return explore((waking_writer, sleeping_reader), start, frozenset(without), nobody_sleeps_through)


def test_a_copying_reader_never_gets_a_torn_or_older_frame() -> None:
    assert frames(copying_reader) > 5000


def test_a_pinned_view_never_changes() -> None:
    assert frames(pinning_reader) > 5000


def test_no_wake_up_is_lost() -> None:
    assert wakes() > 50


@pytest.mark.parametrize(
    ("reader", "left_out"),
    [
        (copying_reader, "last check"),
        (pinning_reader, "W1"),
        (pinning_reader, "R1"),
        (pinning_reader, "second look"),
    ],
)
def test_every_rule_of_reading_is_needed(reader: Step, left_out: str) -> None:
    with pytest.raises(Torn):
        frames(reader, left_out)


@pytest.mark.parametrize("left_out", ["W5", "comparison"])
def test_every_rule_of_waking_is_needed(left_out: str) -> None:
    with pytest.raises(Torn, match="lost"):
        wakes(left_out)

"""What is wrong with a channel, from looking at its two rings and touching nothing.

No reader is registered, nothing is written, no lock is taken: records and headers are read as files, locks are only
asked for (PROTOCOL.md, sections 1 to 3 and 10). The rings are looked at twice, `PATIENCE_S` apart, because most
troubles show in what does not move.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from dataclasses import dataclass, field
from time import sleep

from bridge.commands.report import Check, Report
from bridge.ring import segment
from bridge.ring.clock import now_ns
from bridge.ring.errors import AccessDenied, InvalidChannel, MalformedHeader, RingError, VersionMismatch
from bridge.ring.header import Geometry, check_header
from bridge.ring.layout import (
    HEADER,
    MAX_PLANES,
    PLANE,
    PLANE_TABLE_OFFSET,
    READER,
    SLOT,
    Kind,
    ReaderKind,
    SegmentState,
)
from bridge.ring.slot import COLOUR_SPACES, ORIGINS, SLOT_HEAD, PlaneAt, parse_table
from bridge.terminal import PROGRAM

PATIENCE_S = 1.0
"""How long a ring that has a writer is given to show a frame."""
STALE_S = 1.0
SMALLEST_PX, LARGEST_PX = 32, 4096
"""Sides beyond these are possible and surely not meant: every model works at sizes in between."""
LOOKS = 20
"""How often a slot that is being overwritten, or a segment that is just being replaced, is looked at again."""
NEAR_NAMES = 5

CLIENT_FIX = f"start the client (for example: {PROGRAM} source world --channel NAME)"
HOST_FIX = f"start the host: {PROGRAM} host --channel NAME"
VERSION_FIX = "run the same version of frameloom and its clients on both sides, and restart the writer"
RESTART_FIX = "restart its writer with the same version of frameloom"


@dataclass(frozen=True)
class NewestFrame:
    """The newest frame of a ring: its number, times in nanoseconds of the ring's clock, planes."""

    sequence: int
    source_frame_id: int
    capture_ns: int
    publish_ns: int
    planes: tuple[PlaneAt, ...]


@dataclass(frozen=True)
class Look:
    """A sound ring with a live writer at one moment. readers: process ids of those that registered."""

    generation: int
    writer_pid: int
    sequence: int
    heartbeat_ns: int
    newest: NewestFrame | None
    readers: tuple[int, ...] = field(default=())


def check_channel(channel: str) -> Report:
    """Both directions of a channel, and what they say together."""
    names = f"{channel}.in", f"{channel}.out"
    first = [_look(name, fix) for name, fix in zip(names, (CLIENT_FIX, HOST_FIX), strict=True)]
    if any(isinstance(found, Look) for found in first):
        sleep(PATIENCE_S)
    looks: list[Look | None] = []
    for name, fix, before in zip(names, (CLIENT_FIX, HOST_FIX), first, strict=True):
        if isinstance(before, Check):
            yield before
            looks.append(None)
            continue
        after = _look(name, fix)
        if isinstance(after, Check):
            yield after
            looks.append(None)
        else:
            yield from _judge(name, before, after)
            looks.append(after)
    yield from _judge_readers(channel, *looks)
    came, went = (
        (b.sequence - a.sequence if isinstance(a, Look) and b else 0) for a, b in zip(first, looks, strict=True)
    )
    if came > 0 and looks[1] is not None and went == 0:
        yield Check(
            "warn",
            names[1],
            f"{came} frames went in and none came out",
            "the host may be slower than that, still loading, paused (/paused 0), or refuse these frames: "
            "see what it says",
        )


def _fix_for(text: str, name: str) -> str:
    return text.replace("NAME", name.rpartition(".")[0])


def _look(name: str, fix: str) -> Look | Check:
    """The ring as it is now, or what is wrong with it."""
    try:
        return _read(name, fix)
    except AccessDenied as error:
        return Check("bad", name, f"no permission: {error}", "run both sides as the same user")
    except VersionMismatch as error:
        return Check("bad", name, str(error), VERSION_FIX)
    except InvalidChannel as error:
        return Check("bad", name, str(error), "use such a name on both sides")
    except RingError as error:
        return Check("bad", name, f"damaged: {error}", RESTART_FIX)


def _read(name: str, fix: str) -> Look | Check:
    placement = segment.place(name)
    generation = 0
    for _ in range(LOOKS):
        pointer = segment.read_pointer(placement)
        if pointer is None:
            return _absent(name, placement, fix)
        generation = pointer.generation
        if not _alive(placement, pointer):
            return Check(
                "bad",
                name,
                f"its writer (process {pointer.writer_pid}) is gone; it left generation {pointer.generation:016x}",
                _fix_for(fix, name),
            )
        found = segment.peek(placement, pointer, HEADER.size)
        if found is not None:
            data, size, fd = found
            try:
                look = _read_segment(placement, pointer, data, size, fd)
            finally:
                if fd >= 0:
                    os.close(fd)
            if look is not None:
                return look
        # Between two generations for a moment, as after a resize.
        sleep(0.01)
    return Check(
        "bad",
        name,
        f"its record names generation {generation:016x}, which is not there or was replaced by another that "
        "nobody announced",
        RESTART_FIX,
    )


def _alive(placement: segment.Placement, pointer: segment.Pointer) -> bool:
    try:
        return placement.lock_of_writer(pointer).taken_elsewhere()
    except FileNotFoundError:
        # The record points nowhere; the lock of the channel says whether for a moment only.
        return placement.writer_lock().taken_elsewhere()


def _read_segment(
    placement: segment.Placement, pointer: segment.Pointer, data: bytes, size: int, fd: int
) -> Look | Check | None:
    """None: this generation is not the one in force."""
    geometry = check_header(data, pointer, size, placement)
    header = HEADER.unpack(data)
    if header["state"] != SegmentState.LIVE:
        return None
    sequence, slot = header["newest"] >> 8, header["newest"] & 0xFF
    if sequence and slot >= geometry.slot_count:
        raise MalformedHeader(f"newest frame in slot {slot} of {geometry.slot_count}")
    newest = _newest(placement, pointer, geometry, fd) if sequence else None
    readers = tuple(_readers(placement, geometry, data))
    return Look(geometry.generation, header["writer_pid"], sequence, header["heartbeat_ns"], newest, readers)


def _bytes(
    placement: segment.Placement, pointer: segment.Pointer, geometry: Geometry, fd: int, at: int, n: int
) -> bytes:
    """A private copy of bytes of a segment."""
    if fd >= 0:
        os.lseek(fd, at, os.SEEK_SET)
        return os.read(fd, n)
    mapping = segment.attach(placement, pointer, geometry.segment_size, -1)
    return bytes(mapping.bytes[at : at + n])


def _newest(placement: segment.Placement, pointer: segment.Pointer, geometry: Geometry, fd: int) -> NewestFrame | None:
    """None when it is overwritten again and again while we look."""
    for _ in range(LOOKS):
        word = _bytes(placement, pointer, geometry, fd, HEADER.offset("newest"), 8)
        sequence, slot = int.from_bytes(word, "little") >> 8, word[0]
        if slot >= geometry.slot_count:
            raise MalformedHeader(f"newest frame in slot {slot} of {geometry.slot_count}")
        start = geometry.slot_start(slot)
        slot_data = _bytes(placement, pointer, geometry, fd, start, SLOT.size)
        twice, _, source, capture_ns, publish_ns, _, _, origin, space, count, _ = SLOT_HEAD.unpack_from(slot_data)
        again = _bytes(placement, pointer, geometry, fd, start, 8)
        if twice != 2 * sequence or again != slot_data[:8]:
            continue
        if count > MAX_PLANES or origin not in ORIGINS or space not in COLOUR_SPACES:
            raise MalformedHeader(f"frame {sequence} has {count} planes, origin {origin} and colour space {space}")
        table = slot_data[PLANE_TABLE_OFFSET : PLANE_TABLE_OFFSET + count * PLANE.size]
        planes = parse_table(table, geometry.slot_header_size, geometry.slot_stride)
        return NewestFrame(sequence, source, capture_ns, publish_ns, tuple(planes))
    return None


def _readers(placement: segment.Placement, geometry: Geometry, data: bytes) -> list[int]:
    found = []
    for index in range(geometry.reader_entries):
        at = geometry.reader_table_offset + index * READER.size
        entry = READER.unpack(data[at : at + READER.size].ljust(READER.size, b"\0"))
        if entry["kind"] == ReaderKind.FREE:
            continue
        try:
            if placement.reader_lock(geometry.generation, index, at).taken_elsewhere():
                found.append(entry["pid"])
        except FileNotFoundError:
            return found
    return found


# ---- names ---------------------------------------------------------------------------------------------------------


def _absent(name: str, placement: segment.Placement, fix: str) -> Check:
    """There is no such ring: somebody else's, a near miss, or nobody writes."""
    before = placement.prefix.removesuffix(name)
    mine, others = [], []
    for entry in sorted(os.listdir(placement.folder)) if os.path.isdir(placement.folder) else []:
        if entry.startswith(before) and entry.endswith(".ring"):
            mine.append(entry[len(before) : -len(".ring")])
        elif re.fullmatch(rf"frameloom-[^-]+-{re.escape(name)}\.ring", entry):
            others.append(entry.split("-")[1])
    said = f"no writer: there is no ring {name}"
    if others:
        who = "user id" if sys.platform != "win32" else "user"
        return Check(
            "bad", name, f"{said} of yours, but {who} {', '.join(others)} has one", "run both sides as the same user"
        )
    channel, _, side = name.rpartition(".")
    if any(ring.rpartition(".")[0] == channel for ring in mine):
        return Check("bad", name, said, _fix_for(fix, name))
    mine.sort(key=lambda ring: not ring.endswith(f".{side}"))
    wanted = name.casefold()
    near = difflib.get_close_matches(wanted, [ring.casefold() for ring in mine], NEAR_NAMES, 0.75)
    shown = [ring for ring in mine if ring.casefold() in near] or mine[:NEAR_NAMES]
    if not shown:
        return Check("bad", name, said, _fix_for(fix, name))
    listed = f"{said}; there are rings {', '.join(shown)}" if len(shown) > 1 else f"{said}; there is a ring {shown[0]}"
    if near:
        best = next(ring for ring in mine if ring.casefold() == near[0]).rpartition(".")[0]
        meant = f"use the same name on both sides (did you mean {best}?), or {_fix_for(fix, name)}"
        return Check("bad", name, listed, meant)
    return Check("bad", name, listed, _fix_for(fix, name))


# ---- judging -------------------------------------------------------------------------------------------------------


def _judge(name: str, before: Look, after: Look) -> Report:
    """One check of the frames of a ring that was looked at twice."""
    beat_s = (now_ns() - after.heartbeat_ns) / 1e9
    alive = f"its heartbeat is {beat_s:.1f} s old" if beat_s > STALE_S else "its heartbeat is fresh"
    who = f"its writer (process {after.writer_pid})"
    if before.generation != after.generation:
        who += f", now in generation {after.generation:016x},"
    if after.sequence == 0:
        yield Check(
            "bad",
            name,
            f"{who} is there and no frame came in {PATIENCE_S:g} s; {alive}",
            "see what the writer says: it may wait for its own source, or still be loading",
        )
        return
    newest = after.newest
    if newest is None:
        if after.sequence > before.sequence:
            yield Check("ok", name, f"frame {after.sequence}, faster than it can be looked at")
        else:
            yield Check("bad", name, f"damaged: its newest frame, {after.sequence}, is half written", RESTART_FIX)
        return
    planes = ", ".join(plane.kind.name.lower() for plane in newest.planes)
    main = next((plane for plane in newest.planes if plane.kind == Kind.COLOUR), newest.planes[0])
    said = f"{main.width}x{main.height} {planes}, frame {newest.sequence}, generation {after.generation:016x}"
    age_s = (now_ns() - newest.publish_ns) / 1e9
    frames = after.sequence - before.sequence
    sides = (main.width, main.height)
    if main.kind != Kind.COLOUR:
        yield Check("bad", name, f"{said}: no colour plane", "let the writer send colour; the host needs it")
    elif min(sides) < SMALLEST_PX or max(sides) > LARGEST_PX:
        yield Check(
            "warn",
            name,
            f"{said}: a size that no model works at",
            f"send {SMALLEST_PX} to {LARGEST_PX} pixels each way",
        )
    elif frames == 0 and beat_s > STALE_S:
        yield Check(
            "warn",
            name,
            f"{said}: stuck at this frame; the newest is {age_s:.1f} s old and {alive}",
            f"{who} is alive and does nothing: it is paused, waiting or hung",
        )
    elif frames == 0:
        yield Check(
            "warn",
            name,
            f"{said}: no new frame in {PATIENCE_S:g} s; the newest is {age_s:.1f} s old, {alive}",
            f"{who} works and has nothing new: a still picture, or its own source is paused",
        )
    elif not -0.1 <= age_s <= PATIENCE_S + STALE_S:
        yield Check(
            "warn", name, f"{said}: its clock differs by {age_s:.1f} s", "stamp with the ring's clock (PROTOCOL.md)"
        )
    elif newest.capture_ns > newest.publish_ns:
        yield Check(
            "warn", name, f"{said}: captured after it was published", "stamp with the ring's clock (PROTOCOL.md)"
        )
    else:
        rate = f"{frames / PATIENCE_S:.0f} frames per second" if frames > 0 else "a new generation"
        yield Check("ok", name, f"{said}, {rate}, {max(0.0, age_s) * 1e3:.0f} ms old")


def _judge_readers(channel: str, into: Look | None, out: Look | None) -> Report:
    """Who takes the frames. A reader that never waits does not register, so nobody is not yet proof of nobody."""
    if into is not None:
        if into.readers:
            yield Check("ok", f"{channel}.in", f"read by {_processes(into.readers)}")
        elif out is None:
            yield Check(
                "bad", f"{channel}.in", "nobody reads it: the host is not running", _fix_for(HOST_FIX, f"{channel}.in")
            )
        else:
            yield Check(
                "warn",
                f"{channel}.in",
                "nobody waits for its frames",
                "see what the host says: it may still be loading",
            )
    if out is not None:
        if out.readers:
            yield Check("ok", f"{channel}.out", f"read by {_processes(out.readers)}")
        else:
            yield Check(
                "warn",
                f"{channel}.out",
                "nobody waits for its frames",
                f"connect the client to {channel}, or open the page",
            )


def _processes(pids: tuple[int, ...]) -> str:
    unique = sorted(set(pids))
    return ("process " if len(unique) == 1 else "processes ") + ", ".join(map(str, unique))

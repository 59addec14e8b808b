"""Plays a recording into rings, with its own times."""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.recording.file import Entry, RecordingError, RecordingReader, unpacked
from bridge.ring import Frame, RingWriter
from bridge.ring.clock import now_ns

ORDER_NS = 1_000_000_000
"""Messages reach the disk in the order in which they were compressed, which is not quite that of their times."""


AT_MOST = 8
"""Messages that may wait for one before them: as many as were compressed at the same time, and some."""


@dataclass
class Played:
    """What a replay did. late_s: the most that a frame came after its time. damaged: frames that could not be read."""

    frames: dict[str, int] = field(default_factory=dict)
    damaged: int = 0
    late_s: float = 0.0


def in_order(entries: Iterator[Entry]) -> Iterator[Entry]:
    """The entries by their times, as far as they are out of order by less than `ORDER_NS`."""
    waiting: list[tuple[int, int, Entry]] = []
    for number, entry in enumerate(entries):
        heapq.heappush(waiting, (entry.at_ns, number, entry))
        while waiting[0][0] < entry.at_ns - ORDER_NS or len(waiting) > AT_MOST:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def replay(
    recording: RecordingReader,
    writers: Mapping[str, RingWriter],
    stop: threading.Event,
    *,
    speed: float = 1.0,
    on_params: Callable[[dict[str, Any]], None] | None = None,
) -> Played:
    """Write the recorded frames of each side into its writer, each at its time; returns when all are written.

    speed: 2 plays twice as fast; 0 as fast as the rings take it. A frame keeps its pixels, ids, pose, flags and its age
    at publication; the rest of its times is of now. on_params: is given the live parameters when their time comes.
    """
    played = Played(dict.fromkeys(writers, 0))
    began_ns: int | None = None
    started_s = time.monotonic()
    for entry in in_order(iter(recording)):
        if entry.topic not in writers and not (entry.topic == "params" and on_params is not None):
            continue
        frame = None
        if entry.topic in writers:
            try:
                frame = unpacked(entry.data)
            except RecordingError:
                played.damaged += 1
                continue
        began_ns = entry.at_ns if began_ns is None else began_ns
        if speed > 0.0:
            due_s = started_s + (entry.at_ns - began_ns) / 1e9 / speed
            while (left_s := due_s - time.monotonic()) > 0.0 and not stop.is_set():
                stop.wait(left_s)
            played.late_s = max(played.late_s, -left_s)
        if stop.is_set():
            break
        if frame is None:
            _tell(entry, on_params, played)
        else:
            write(frame, writers[entry.topic])
            played.frames[entry.topic] += 1
    return played


def _tell(entry: Entry, on_params: Callable[[dict[str, Any]], None] | None, played: Played) -> None:
    try:
        values = json.loads(entry.data)["values"]
    except (ValueError, KeyError, TypeError):
        values = None
    if not isinstance(values, dict):
        played.damaged += 1
    elif on_params is not None:
        on_params(values)


def write(frame: Frame, writer: RingWriter) -> None:
    """Publish a recorded frame now."""
    age_ns = max(0, frame.publish_ns - frame.capture_ns) if frame.capture_ns else 0
    writer.write(
        frame.planes,
        frame_id=frame.frame_id,
        source_frame_id=frame.source_frame_id,
        capture_ns=max(1, now_ns() - age_ns) if frame.capture_ns else 0,
        param_revision=frame.param_revision,
        flags=frame.flags,
        origin=frame.origin,
        colour_space=frame.colour_space,
        formats=frame.formats,
        T_world_camera=frame.T_world_camera,
        intrinsics=frame.intrinsics,
    )

"""The other process of the ring's tests: writes or reads self-checking frames until told otherwise.

Run as `python -m tests.bridge.ring.ring_peer ROLE DIRECTORY CHANNEL [name=value ...]`. A frame's every 8 bytes repeat
its source frame id, so that a torn, stale or mixed picture shows by itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from bridge.ring import Frame, Kind, PlaneSpec, Policy, RingReader, RingWriter
from bridge.ring.slot import Format


def picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """An RGBA picture of even width that says `number` everywhere."""
    return np.full((height, width // 2), number, np.uint64).view(np.uint8).reshape(height, width, 4)


def number_of(pixels: np.ndarray) -> int:
    """The number that a picture says; -1 when it says more than one."""
    said = np.ascontiguousarray(pixels).reshape(-1).view(np.uint64)
    return int(said[0]) if bool((said == said[0]).all()) else -1


def check(frame: Frame) -> int:
    """The frame's number, having checked that pixels and description agree."""
    number = number_of(frame.planes[Kind.COLOUR])
    if number != frame.source_frame_id:
        print(f"TORN {number} {frame.source_frame_id}", flush=True)
        sys.exit(3)
    return number


def write(directory: str, channel: str, o: dict[str, str]) -> None:
    """Write o[frames] frames from number o[first]."""
    width, height = int(o.get("width", "64")), int(o.get("height", "48"))
    capacity = int(o.get("capacity", str(width * height * 4)))
    policy = Policy[o.get("policy", "NEWEST")]
    slots = int(o.get("slots", "4"))
    with RingWriter(channel, capacity, slots, policy, directory=directory, timeout_s=30) as writer:
        print(f"READY {writer.generation}", flush=True)
        first = int(o.get("first", "1"))
        until = first + int(o.get("frames", "1000000000"))
        for number in range(first, until):
            grown = width * (1 + (number // 50) % 5) if "resize" in o else width
            if o.get("how") == "slot":
                with writer.slot([PlaneSpec(Kind.COLOUR, Format.RGBA8, grown, height)]) as slot:
                    slot.planes[Kind.COLOUR][:] = picture(number, grown, height)
                    slot.source_frame_id = number
            else:
                writer.write({Kind.COLOUR: picture(number, grown, height)}, source_frame_id=number)
            if "pause" in o:
                time.sleep(float(o["pause"]))
        print("DONE", flush=True)
        if "linger" in o:
            time.sleep(float(o["linger"]))


def read(directory: str, channel: str, o: dict[str, str]) -> None:
    """Read until frame o[until] or o[seconds]; how: read, latest or into; hold: seconds that each view is kept."""
    deadline = time.monotonic() + float(o.get("seconds", "60"))
    until = int(o.get("until", "1000000000"))
    hold = float(o.get("hold", "0"))
    last, taken, seen = 0, 0, []
    with RingReader(channel, directory=directory, lossless="lossless" in o) as reader:
        print("READY", flush=True)
        buffer = np.zeros(int(o.get("buffer", "4000000")), np.uint8)
        while time.monotonic() < deadline and last < until:
            if o.get("how") == "latest":
                with reader.latest(0.2) as frame:
                    if frame is None:
                        continue
                    number = check(frame)
                    if hold:
                        time.sleep(hold)
                        check(frame)
                    if "die" in o and number >= int(o["die"]):
                        os.kill(os.getpid(), signal.SIGKILL)
                    if "forever" in o:
                        print("HOLDING", flush=True)
                        time.sleep(600)
                if not frame.valid:
                    print("INVALID", flush=True)
                    sys.exit(4)
            else:
                frame = reader.read_into(buffer, 0.2) if o.get("how") == "into" else reader.read(0.2)
                if frame is None:
                    continue
                number = check(frame)
            if number <= last and "restarts" not in o:
                print(f"OLDER {number} after {last}", flush=True)
                sys.exit(5)
            last = number
            taken += 1
            seen.append(number)
            if "slow" in o:
                time.sleep(float(o["slow"]))
    if "list" in o:
        print("SEEN " + ",".join(map(str, seen)), flush=True)
    print(f"TOOK {taken} LAST {last}", flush=True)


if __name__ == "__main__":
    role, where, name, *rest = sys.argv[1:]
    {"write": write, "read": read}[role](where, name, dict(r.split("=", 1) for r in rest))

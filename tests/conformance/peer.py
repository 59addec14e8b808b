"""A conformance peer in Python, and the contract that the peers of all languages keep.

    PEER ROLE channel=NAME [name=value ...]          ROLE is write, read or measure

Every language has one program of this kind: this file (`python -m tests.conformance.peer`), clients/native/peer.c (also
built for Windows), tests/conformance/Peer.cs. Unknown words end with status 2. Numbers are decimal.

Words for every role: channel (needed); directory (file-backed there; without it the system's usual place).

`write` publishes frames number first, first + 1, ...
    first=1  frames=1000  width=64  height=48  slots=4  policy=newest|lossless  capacity=width*height*64 (plane bytes)
    vary=none|size|format|all   what changes from frame to frame, see "Frame n"
    grow=G      every G frames the picture gets 16 rows more, so that a small capacity makes next generations; 0: never
    pause_us=0  between frames; 0: flat out
    die=N       kill itself (SIGKILL, TerminateProcess) half way through writing frame N; 0: never
    timeout_ms=10000  of a lossless writer
  It prints the line READY when the ring exists, the line DONE after the last frame, waits for the end of its standard
  input, leaves in order and prints its result.

`read` takes frames and checks each.
    until=N (needed)  stop after a frame whose number is N or more
    how=read|latest|lossless   copy; zero-copy view, checked when it is taken and again before it is given back;
                      the one lossless reader
    seconds=60  give up after this long
    hold_us=0   how long a view is kept      pause_us=0  after each frame (a slow reader)
    die=N       kill itself while it holds frame N or a newer one (a view: with its pin set); 0: never
  It prints the line READY before it looks for the channel, and its result at the end.

`measure` compares the copying reader with a bare memory copy, in one process, on the same memory, in turn.
    width=1920  height=1080  rounds=200
  For each round: publish an RGBA8 frame without touching its pixels, time the copying read into a buffer that is kept;
  publish again, take a view, time one plain copy of the plane (memcpy or the language's own) into the same buffer.

The result is one line of JSON, the last line of standard output:
    write:   {"role": "write", "written": frames, "last": number, "generations": count, "seconds": s, "error": null}
    read:    {"role": "read", "taken": frames, "first": number, "last": number, "torn": 0, "wrong": 0, "older": 0,
              "missed": 0, "generations": count, "seconds": s, "timeout": false, "error": null}
    measure: {"role": "measure", "read_us": median, "copy_us": median, "bytes": per frame, "error": null}
  torn: pixels that are not those of the frame's number, or a view that changed or was not valid to its end.
  wrong: description, ids, flags, pose or intrinsics that are not those of the frame's number.
  older: a number not above the one before. missed (lossless only): frames left out between two taken.
  generations: how many different ones were seen or made. error: null, or {"type": "MalformedHeader", "message": "..."}
  with the type names of bridge/ring/errors.py. The first typed error ends the peer.
  Exit status: 0; 1 typed error; 2 words not understood; 3 torn, wrong, older or missed; 4 gave up after `seconds`.

Frame n (all arithmetic modulo 2^64):
    step = n / 4 % 8 (integer division)
    width + n / 8 % 5 * 3 and height - n / 8 % 3     with vary=size or all, else width x height
    height + (n - first) / grow * 16                 on top, with grow
    planes with vary=format or all, by step, else those of step 0:
        0 COLOUR RGBA8    1 COLOUR BGRA8    2 COLOUR RGB8    3 COLOUR RGBA16F    4 COLOUR RGBA32F    5 COLOUR R8
        6 COLOUR RGBA8, DEPTH R32F, MOTION RG16F, MASK R8    7 DEPTH R16F, NORMAL RGBA32F, POINTS XYZI32F
    origin n / 4 % 2 and colour space n / 8 % 2      with vary=format or all, else 0 and 0
    with vary=format or all and odd n: T_world_camera[i] = n % 1000 + i and intrinsics[i] = n % 1000 + i / 2 (real)
    frame_id = n, source_frame_id = n + 7, flags = (n % 65536) << 16 | the flags of pose and intrinsics
    param_revision = code: h = 0xcbf29ce484222325, then for each value v of origin, colour space, and of every plane in
        order of its kind (ascending) kind, format, width, height: h = (h xor v) * 0x100000001b3
    pixels of a plane: rows without padding, one after the other, are the little-endian 64-bit words
        word[i] = (n * 0x9e3779b97f4a7c15 xor kind * 0xc2b2ae3d27d4eb4f xor code) + i
        and the last size % 8 bytes are the first bytes of the next word.
A reader knows n from frame_id and checks everything else against it: the code from the description that it got,
pixels from the code.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from bridge.ring import Frame, PlaneSpec, RingError, RingReader, RingWriter
from bridge.ring.layout import ColourSpace, Format, Kind, Origin, Policy, SlotFlag

_MASK = (1 << 64) - 1
_INDEX = np.arange(1 << 17, dtype=np.uint64)

STEPS: tuple[tuple[tuple[Kind, Format], ...], ...] = (
    ((Kind.COLOUR, Format.RGBA8),),
    ((Kind.COLOUR, Format.BGRA8),),
    ((Kind.COLOUR, Format.RGB8),),
    ((Kind.COLOUR, Format.RGBA16F),),
    ((Kind.COLOUR, Format.RGBA32F),),
    ((Kind.COLOUR, Format.R8),),
    ((Kind.COLOUR, Format.RGBA8), (Kind.DEPTH, Format.R32F), (Kind.MOTION, Format.RG16F), (Kind.MASK, Format.R8)),
    ((Kind.DEPTH, Format.R16F), (Kind.NORMAL, Format.RGBA32F), (Kind.POINTS, Format.XYZI32F)),
)


def code_of(origin: int, colour_space: int, planes: list[tuple[int, int, int, int]]) -> int:
    """The code of a description; planes are (kind, format, width, height) in ascending order of kind."""
    h = 0xCBF29CE484222325
    for value in (origin, colour_space, *(v for plane in planes for v in plane)):
        h = (h ^ value) * 0x100000001B3 & _MASK
    return h


def base_of(n: int, kind: int, code: int) -> int:
    """The first word of a plane of frame n."""
    return (n * 0x9E3779B97F4A7C15 ^ kind * 0xC2B2AE3D27D4EB4F ^ code) & _MASK


def words(base: int, size: int) -> np.ndarray:
    """`size` bytes of the pattern."""
    global _INDEX
    count = (size + 7) // 8
    if count > len(_INDEX):
        _INDEX = np.arange(count, dtype=np.uint64)
    return (_INDEX[:count] + np.uint64(base)).view(np.uint8)[:size]


class Script:
    """What frame n of one writer looks like."""

    def __init__(self, o: Mapping[str, str]) -> None:
        self.width, self.height = int(o.get("width", "64")), int(o.get("height", "48"))
        self.first, self.grow = int(o.get("first", "1")), int(o.get("grow", "0"))
        self.vary = o.get("vary", "none")

    def specs(self, n: int) -> list[PlaneSpec]:
        width, height = self.width, self.height
        if self.vary in ("size", "all"):
            width, height = width + n // 8 % 5 * 3, height - n // 8 % 3
        if self.grow:
            height += (n - self.first) // self.grow * 16
        step = n // 4 % 8 if self.vary in ("format", "all") else 0
        return [PlaneSpec(kind, pixel, width, height) for kind, pixel in STEPS[step]]

    def turn(self, n: int) -> tuple[int, int, bool]:
        """Origin, colour space, and whether frame n has a pose and intrinsics."""
        return (n // 4 % 2, n // 8 % 2, bool(n % 2)) if self.vary in ("format", "all") else (0, 0, False)


def pose_of(n: int) -> np.ndarray:
    return (n % 1000 + np.arange(16, dtype=np.float32)).reshape(4, 4)


def lens_of(n: int) -> tuple[float, float, float, float]:
    m = float(n % 1000)
    return m, m + 0.5, m + 1.0, m + 1.5


def say(text: str) -> None:
    print(text, flush=True)


def finish(result: dict[str, Any], status: int) -> int:
    say(json.dumps(result))
    return status


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    raise SystemExit("survived its own death")


def error_of(error: RingError) -> dict[str, str]:
    return {"type": type(error).__name__, "message": str(error)}


def write(o: Mapping[str, str]) -> int:
    script = Script(o)
    frames, pause_s, doom = int(o.get("frames", "1000")), int(o.get("pause_us", "0")) / 1e6, int(o.get("die", "0"))
    capacity = int(o.get("capacity", str(script.width * script.height * 64)))
    result: dict[str, Any] = {"role": "write", "written": 0, "last": 0, "generations": 0, "seconds": 0.0, "error": None}
    generations = set()
    try:
        with RingWriter(
            o["channel"],
            capacity,
            int(o.get("slots", "4")),
            Policy[o.get("policy", "newest").upper()],
            directory=o.get("directory"),
            timeout_s=int(o.get("timeout_ms", "10000")) / 1000,
        ) as writer:
            say("READY")
            began = time.monotonic()
            for n in range(script.first, script.first + frames):
                origin, colour_space, posed = script.turn(n)
                specs = script.specs(n)
                code = code_of(origin, colour_space, [(s.kind, s.format, s.width, s.height) for s in specs])
                with writer.slot(specs) as slot:
                    for kind, plane in slot.planes.items():
                        flat = plane.reshape(-1).view(np.uint8)
                        pattern = words(base_of(n, kind, code), flat.size)
                        if n == doom:
                            flat[: flat.size // 2] = pattern[: flat.size // 2]
                            die()
                        flat[:] = pattern
                    slot.frame_id, slot.source_frame_id, slot.param_revision = n, n + 7, code
                    slot.flags = n % 65536 << 16
                    slot.origin, slot.colour_space = Origin(origin), ColourSpace(colour_space)
                    if posed:
                        slot.T_world_camera, slot.intrinsics = pose_of(n), lens_of(n)
                generations.add(writer.generation)
                result["written"] += 1
                result["last"] = n
                if pause_s:
                    time.sleep(pause_s)
            result["seconds"] = time.monotonic() - began
            say("DONE")
            sys.stdin.read()
    except RingError as error:
        result["error"] = error_of(error)
    result["generations"] = len(generations)
    return finish(result, 1 if result["error"] else 0)


class Checker:
    """Judges frames and counts what must not be."""

    def __init__(self) -> None:
        self.taken = self.first = self.last = self.torn = self.wrong = self.older = self.missed = 0
        self.generations: set[int] = set()
        self._codes: dict[tuple[int, ...], int] = {}

    def code(self, frame: Frame) -> int:
        planes = sorted((int(k), int(frame.formats[k]), p.shape[1], p.shape[0]) for k, p in frame.planes.items())
        key = (int(frame.origin), int(frame.colour_space), *(v for plane in planes for v in plane))
        if key not in self._codes:
            self._codes[key] = code_of(key[0], key[1], planes)
        return self._codes[key]

    def pixels(self, frame: Frame, code: int) -> bool:
        """Whether every plane holds the pattern of the frame's number."""
        for kind, plane in frame.planes.items():
            flat = np.ascontiguousarray(plane).reshape(-1).view(np.uint8)
            if not np.array_equal(flat, words(base_of(frame.frame_id, kind, code), flat.size)):
                return False
        return True

    def described(self, frame: Frame, code: int) -> bool:
        """Whether ids, flags, pose and intrinsics are those of the frame's number."""
        n = frame.frame_id
        bits = (SlotFlag.POSE if frame.T_world_camera is not None else 0) | (
            SlotFlag.INTRINSICS if frame.intrinsics is not None else 0
        )
        return (
            frame.param_revision == code
            and frame.source_frame_id == n + 7
            and frame.flags == (n % 65536 << 16 | bits)
            and (frame.T_world_camera is None or np.array_equal(frame.T_world_camera, pose_of(n)))
            and (frame.intrinsics is None or frame.intrinsics == lens_of(n))
        )

    def judge(self, frame: Frame) -> int:
        """Count one frame; returns its code."""
        code = self.code(frame)
        n = frame.frame_id
        self.wrong += not self.described(frame, code)
        self.torn += not self.pixels(frame, code)
        if self.taken:
            self.older += n <= self.last
            self.missed += max(0, n - self.last - 1)
        else:
            self.first = n
        self.taken += 1
        self.last = n
        self.generations.add(frame.generation)
        return code


def read(o: Mapping[str, str]) -> int:
    how, until, doom = o.get("how", "read"), int(o["until"]), int(o.get("die", "0"))
    hold_s, pause_s = int(o.get("hold_us", "0")) / 1e6, int(o.get("pause_us", "0")) / 1e6
    seen = Checker()
    problem: RingError | None = None
    say("READY")
    began = time.monotonic()
    deadline = began + float(o.get("seconds", "60"))
    with RingReader(o["channel"], lossless=how == "lossless", directory=o.get("directory")) as reader:
        try:
            while seen.last < until and time.monotonic() < deadline:
                if how == "read":
                    frame = reader.read(0.1)
                    if frame is not None:
                        seen.judge(frame)
                        if doom and seen.last >= doom:
                            die()
                else:
                    with reader.latest(0.1) as frame:
                        if frame is not None:
                            code = seen.judge(frame)
                            if doom and seen.last >= doom:
                                die()
                            if hold_s:
                                time.sleep(hold_s)
                            seen.torn += not seen.pixels(frame, code)
                    seen.torn += frame is not None and not frame.valid
                if pause_s and frame is not None:
                    time.sleep(pause_s)
        except RingError as error:
            problem = error
    late = problem is None and seen.last < until
    result = {
        "role": "read",
        "taken": seen.taken,
        "first": seen.first,
        "last": seen.last,
        "torn": seen.torn,
        "wrong": seen.wrong,
        "older": seen.older,
        "missed": seen.missed if how == "lossless" else 0,
        "generations": len(seen.generations),
        "seconds": time.monotonic() - began,
        "timeout": late,
        "error": error_of(problem) if problem else None,
    }
    forbidden = result["torn"] or result["wrong"] or result["older"] or result["missed"]
    return finish(result, 1 if problem else 3 if forbidden else 4 if late else 0)


def measure(o: Mapping[str, str]) -> int:
    width, height, rounds = int(o.get("width", "1920")), int(o.get("height", "1080")), int(o.get("rounds", "200"))
    spec = [PlaneSpec(Kind.COLOUR, Format.RGBA8, width, height)]
    buffer = np.zeros((height, width, 4), np.uint8)
    reads, copies = [], []
    where = o.get("directory")
    with (
        RingWriter(o["channel"], buffer.nbytes, directory=where) as writer,
        RingReader(o["channel"], directory=where) as reader,
    ):
        for _ in range(rounds):
            with writer.slot(spec):
                pass
            began = time.perf_counter_ns()
            reader.read_into(buffer)
            reads.append(time.perf_counter_ns() - began)
            with writer.slot(spec):
                pass
            with reader.latest() as frame:
                assert frame is not None
                source = frame.planes[Kind.COLOUR]
                began = time.perf_counter_ns()
                np.copyto(buffer, source)
                copies.append(time.perf_counter_ns() - began)
    result = {
        "role": "measure",
        "read_us": statistics.median(reads) / 1000,
        "copy_us": statistics.median(copies) / 1000,
        "bytes": buffer.nbytes,
        "error": None,
    }
    return finish(result, 0)


_WORDS = {
    "write": "first frames width height slots policy capacity vary grow pause_us die timeout_ms",
    "read": "until how seconds hold_us pause_us die",
    "measure": "width height rounds",
}


def main(line: list[str]) -> int:
    role, *pairs = line or [""]
    if role not in _WORDS or any("=" not in p for p in pairs):
        return usage()
    o = dict(p.split("=", 1) for p in pairs)
    known = {"channel", "directory", *_WORDS[role].split()}
    if set(o) - known or "channel" not in o or (role == "read" and "until" not in o):
        return usage()
    return {"write": write, "read": read, "measure": measure}[role](o)


def usage() -> int:
    print(
        "usage: PEER write|read|measure channel=NAME [name=value ...]; see tests/conformance/peer.py", file=sys.stderr
    )
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

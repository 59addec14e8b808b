"""frameloom bench record: what a recording costs the host, what a killed recorder leaves, how soon a preset shows.

A client process writes 1920x1080 pictures, 30 a second, to a passthrough host in a process of its own; its frames per
second are taken in turn without and with `frameloom record` beside it, for each codec. What was recorded losslessly is
then replayed through a ring and compared with the pictures as they were made. Recorders of a small channel are killed
at random times, and their files read. Presets of different prompts are recalled by OSC on a host with the embedded
model: counted are the frames that the client captured after the host's answer and that still show the old look.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bridge.commands.arguments import Parser
from bridge.control.osc_messages import datagram
from bridge.control.shelf import Shelf
from bridge.recording.file import RecordingError, RecordingReader, unpacked
from bridge.recording.replay import replay
from bridge.ring import Kind, Policy, RingReader, RingWriter
from bridge.ring.clock import now_ns
from core.params import Params
from tests.bench.report import bar, emit, table
from tests.rings import fresh_channel, sweep

COST_BAR = 0.95
"""At most 5 % of the host's frame rate."""
KEPT_BAR = 0.99
SIZE = (1920, 1080)
FPS = 30
KILLS = 200
AT_ONCE = 4
RECALLS = 20

# A picture that neither compresses to nothing nor not at all: a gradient that moves, and noise in a quarter of it.
PICTURE = """
import numpy as np
def picture(number, width, height):
    x = (np.arange(width) * 255 // width + number) % 256
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[..., 0], pixels[..., 1] = x, x[::-1]
    pixels[..., 2], pixels[..., 3] = (np.arange(height) * 255 // height)[:, None], 255
    noise = np.random.default_rng(number % 7).integers(0, 256, (height // 2, width // 2), np.uint8)
    pixels[: height // 2, : width // 2, 1] = noise
    pixels[0, 0] = number & 255, number >> 8 & 255, number >> 16 & 255, 255
    return pixels
"""
FEED = (
    PICTURE
    + """
import sys, time
from bridge.ring import Kind, RingWriter
name, width, height, fps = sys.argv[1], *map(int, sys.argv[2:])
made = [picture(number, width, height) for number in range(28)]
with RingWriter(name + ".in", capacity_bytes=width * height * 4) as ring:
    number, due = 0, time.monotonic()
    while True:
        pixels = made[number % 28]
        ring.write({Kind.COLOUR: pixels}, frame_id=number + 1, source_frame_id=number + 1)
        if number == 0:
            print("writing", flush=True)
        number += 1
        due = max(due + 1 / fps, time.monotonic() - 1 / fps)
        time.sleep(max(0.0, due - time.monotonic()))
"""
)


@contextlib.contextmanager
def running(*command: str, ready: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended by Ctrl-C; ready: it says so with its first line."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if ready and not (process.stdout and process.stdout.readline()):
            raise RuntimeError(f"{' '.join(command)[:80]} did not start")
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def frameloom(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "bridge", *words)


def await_frames(channel: str) -> None:
    with RingReader(f"{channel}.out") as reader:
        deadline = time.monotonic() + 120
        while reader.read(1.0) is None:
            if time.monotonic() > deadline:
                raise RuntimeError("the host gives no pictures")


def published(channel: str, seconds: float) -> float:
    """Frames per second of NAME.out, by its sequence: looking costs no copy."""
    with RingReader(f"{channel}.out") as reader:
        first = last = None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with reader.latest(0.5) as frame:
                if frame is not None:
                    last = (frame.sequence, frame.publish_ns)
                    first = first or last
            time.sleep(0.25)
        if first is None or last is None or last[0] == first[0]:
            return 0.0
        return (last[0] - first[0]) * 1e9 / (last[1] - first[1])


def cost(seconds: float, rounds: int, folder: Path) -> dict[str, Any]:
    """The host's frames per second without and with a recorder, in turn."""
    channel = fresh_channel()
    results: dict[str, Any] = {}
    try:
        with contextlib.ExitStack() as stack:
            width, height = SIZE
            words = (sys.executable, "-c", FEED, channel, str(width), str(height), str(FPS))
            stack.enter_context(running(*words, ready=True))
            host = ("host", "--channel", channel, "--model", "passthrough", "--no-page", "--osc-port", "0")
            stack.enter_context(running(*frameloom(*host)))
            await_frames(channel)
            taken: dict[str, list[float]] = {"nothing": [], "jpeg": [], "lossless": []}
            about: dict[str, list[Any]] = {"jpeg": [], "lossless": []}
            for turn in range(rounds):
                for codec in taken:
                    if codec == "nothing":
                        taken[codec].append(published(channel, seconds))
                        continue
                    path = folder / f"{codec}-{turn}.mcap"
                    words = frameloom("record", channel, str(path), "--codec", codec, "--page", "127.0.0.1:1")
                    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                    while not path.exists() or path.stat().st_size < 1 << 20:
                        time.sleep(0.05)
                    taken[codec].append(published(channel, seconds))
                    process.send_signal(signal.SIGINT)
                    out, _ = process.communicate()
                    about[codec].append(json.loads(out.decode().strip().splitlines()[-1]))
                    if codec == "jpeg" or turn:
                        path.unlink()
            alone = statistics.median(taken["nothing"])
            for codec in ("jpeg", "lossless"):
                rate = statistics.median(taken[codec])
                seen = about[codec][-1]
                results[codec] = {
                    "fps_alone": round(alone, 2),
                    "fps": round(rate, 2),
                    "share": round(rate / alone, 4) if alone else None,
                    "recorded_fps": {s: round(n / seen["seconds"], 1) for s, n in seen["frames"].items()},
                    "recorded": seen["frames"],
                    "lost": seen["lost"],
                    "mb_per_s": round(seen["bytes"] / 1e6 / seen["seconds"], 1),
                    "ending": seen["ending"],
                }
    finally:
        sweep(channel)
    results["equal"] = replayed_equal(folder / "lossless-0.mcap")
    return results


def replayed_equal(path: Path) -> dict[str, int]:
    """Replay a recording of both sides into lossless rings and compare every picture with how it was made."""
    made: dict[str, Any] = {}
    exec(PICTURE, made)
    wanted = [made["picture"](number, *SIZE) for number in range(28)]
    name = fresh_channel()
    counts = {"frames": 0, "unequal": 0}
    room = SIZE[0] * SIZE[1] * 4
    for side in ("in", "out"):
        with (
            RingWriter(f"{name}.{side}", capacity_bytes=room, policy=Policy.LOSSLESS, timeout_s=60.0) as writer,
            RingReader(f"{name}.{side}", lossless=True) as reader,
        ):
            recording = RecordingReader(path)
            playing = threading.Thread(
                target=replay, args=(recording, {side: writer}, threading.Event()), kwargs={"speed": 0.0}
            )
            playing.start()
            while True:
                frame = reader.read(0.5)
                if frame is None:
                    if not playing.is_alive():
                        break
                    continue
                counts["frames"] += 1
                pixels = wanted[(frame.source_frame_id - 1) % 28]
                counts["unequal"] += not np.array_equal(frame.planes[Kind.COLOUR], pixels)
            playing.join()
    sweep(name)
    return counts


def killed(count: int, folder: Path) -> dict[str, Any]:
    """Kill recorders at random times; how many files lack what was there a second before."""
    channel = fresh_channel()
    short, unreadable, damaged, worst_s = 0, 0, 0, 0.0
    chance = random.Random(1)
    try:
        with running(sys.executable, "-c", FEED, channel, "64", "48", "100", ready=True):
            for start in range(0, count, AT_ONCE):
                batch = []
                for number in range(start, min(start + AT_ONCE, count)):
                    path = folder / f"kill-{number}.mcap"
                    words = frameloom(
                        "record", channel, str(path), "--sides", "in", "--codec", "lossless", "--page", "127.0.0.1:1"
                    )
                    batch.append((path, subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)))
                for path, _ in batch:
                    while not path.exists() or path.stat().st_size < 2000:
                        time.sleep(0.01)
                for path, process in batch:
                    time.sleep(chance.uniform(0.0, 0.4))
                    killed_ns = now_ns()
                    process.kill()
                    process.wait()
                    try:
                        last_ns, bad = _last(path)
                    except RecordingError:
                        unreadable += 1
                        continue
                    behind_s = (killed_ns - last_ns) / 1e9
                    worst_s = max(worst_s, behind_s)
                    short += behind_s > 1.0
                    damaged += bad > 1
                    path.unlink()
    finally:
        sweep(channel)
    return {
        "kills": count,
        "unreadable": unreadable,
        "short_of_their_last_second": short,
        "damaged_before_the_end": damaged,
        "most_behind_s": round(worst_s, 3),
    }


def _last(path: Path) -> tuple[int, int]:
    """When the last whole frame of a recording was published, and how many were damaged."""
    last, bad = 0, 0
    for entry in RecordingReader(path):
        if entry.topic != "in":
            continue
        try:
            last = unpacked(entry.data).publish_ns
        except RecordingError:
            bad += 1
    return last, bad


def recalls(count: int, folder: Path) -> dict[str, Any]:
    """Recall presets with prompts that were not met before, then the same again."""
    channel = fresh_channel()
    shelf = Shelf(folder / "presets")
    styles = (
        "neon blueprint sunset noir thermal pastel gold comic ice toxic pencil glass pixel mosaic woodcut paper".split()
    )
    for number in range(count):
        prompt = f"{styles[number % len(styles)]} style, red sphere, box {number}"
        shelf.save(f"look {number}", Params(prompt=prompt, seed=number))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port = udp.getsockname()[1]
    late: dict[str, list[int]] = {"new prompt": [], "known prompt": []}
    waits_ms: dict[str, list[float]] = {"new prompt": [], "known prompt": []}
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(running(sys.executable, "-c", FEED, channel, "128", "128", "30", ready=True))
            words = ("host", "--channel", channel, "--size", "128", "--no-page", "--osc-port", str(port))
            stack.enter_context(running(*frameloom(*words, "--presets", str(shelf.folder))))
            await_frames(channel)
            osc = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            osc.settimeout(30)
            reader = stack.enter_context(RingReader(f"{channel}.out"))
            for kind in late:
                for number in range(count):
                    frame = reader.read(5.0)
                    old = frame.param_revision if frame is not None else -1
                    osc.sendto(datagram("/preset/recall", f"look {number}"), ("127.0.0.1", port))
                    osc.recv(65536)
                    done_ns, after = now_ns(), 0
                    while (frame := reader.read(5.0)) is not None and frame.param_revision == old:
                        after += frame.capture_ns > done_ns
                    late[kind].append(after)
                    if frame is not None:
                        waits_ms[kind].append((frame.publish_ns - done_ns) / 1e6)
                    time.sleep(0.05)
    finally:
        sweep(channel)
    return {
        kind: {"most_frames_late": max(late[kind]), "median_ms_to_picture": round(statistics.median(waits_ms[kind]), 1)}
        for kind in late
    }


def main(argv: list[str] | None = None) -> int:
    """Run everything; the last line is JSON."""
    parser = Parser("bench record", description="Recordings and presets.")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one turn of the host (default 6)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each kind (default 3)")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"recorders to kill (default {KILLS})")
    parser.add_argument("--recalls", type=int, default=RECALLS, help=f"presets to recall (default {RECALLS})")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="frameloom-bench-") as name:
        folder = Path(name)
        results: dict[str, Any] = {"cost": cost(args.seconds, args.rounds, folder)}
        results["killed"] = killed(args.kills, folder)
        results["recalls"] = recalls(args.recalls, folder)
    costs, gone, looks = results["cost"], results["killed"], results["recalls"]
    rows = [
        [codec, costs[codec]["fps_alone"], costs[codec]["fps"], costs[codec]["mb_per_s"], costs[codec]["recorded_fps"]]
        for codec in ("jpeg", "lossless")
    ]
    table(["recording", "host alone", "host recorded", "MB/s", "recorded per second"], rows)
    bars = [
        bar(f"host's frame rate at 1080p, 30 per second, while recorded ({codec})", costs[codec]["share"], COST_BAR)
        for codec in ("jpeg", "lossless")
    ]
    for codec in ("jpeg", "lossless"):
        kept, lost = (sum(costs[codec][what].values()) for what in ("recorded", "lost"))
        bars.append(
            bar(f"pictures kept of a recording at 1080p, 30 per second ({codec})", kept / (kept + lost), KEPT_BAR)
        )
    bars.append(bar("replayed pictures that differ", costs["equal"]["unequal"], 0, at_most=True))
    bars.append(bar("killed recorders whose file cannot be read", gone["unreadable"], 0, at_most=True))
    bars.append(
        bar(
            "killed recorders whose file lacks more than its last second",
            gone["short_of_their_last_second"],
            0,
            at_most=True,
        )
    )
    bars.append(
        bar("frames late after a recall, prompt met before", looks["known prompt"]["most_frames_late"], 1, at_most=True)
    )
    emit("record", results, bars)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    sys.exit(main())

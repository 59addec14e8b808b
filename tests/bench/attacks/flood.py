"""A host between a writer of 60 frames per second and a reader: killed, flooded by OSC and WebSocket, and left alone.

What the host does with the frames is counted by their numbers, so that a reader or a writer that the machine holds up
counts for nothing. Each flood is measured beside the same flood at a socket where nobody reads: that is the machine.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridge.page.packet import MAGIC, PACKET
from bridge.ring import Kind, RingReader, RingWriter
from tests.bench.attacks.counting import HANG_S, LIFE, ROOT, SIDE, Count, Shared, forked, kill, picture
from tests.bench.attacks.damage import peak_kb, resident_kb
from tests.rings import fresh_channel, sweep

FPS = 60
OPAQUE = 0x00FFFFFF_00FFFFFF
"""A host hands on colour, and no alpha."""
START_S = 120.0
TURNS = 6
"""How often a flood and its twin take turns: the machine's other users come and go."""


@contextlib.contextmanager
def host(channel: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A host that hands pictures on as they are."""
    line = [sys.executable, "-m", "bridge", "host", "--channel", channel, "--model", "passthrough", *more]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def fed(channel: str) -> Iterator[Shared]:
    """A writer of NAME.in at `FPS`; word 0: the newest frame's number."""
    shared = Shared()

    def feed() -> None:
        with RingWriter(f"{channel}.in", SIDE * SIDE * 4) as writer:
            due = time.monotonic()
            for number in range(1, LIFE):
                writer.write(picture(number), frame_id=number, source_frame_id=number)
                shared.words[0] = number
                due += 1 / FPS
                time.sleep(max(0.0, due - time.monotonic()))

    feeder = forked(feed)
    try:
        yield shared
    finally:
        kill(feeder)
        sweep(channel)


@contextlib.contextmanager
def attacker(attack: Callable[[Shared], object]) -> Iterator[Shared]:
    """A process that attacks until it has done enough or the block ends; word 0: what it has sent."""
    shared = Shared()
    pid = forked(lambda: attack(shared))
    try:
        yield shared
    finally:
        kill(pid)


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def first_frame(reader: RingReader) -> bool:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if reader.read(0.2) is not None:
            return True
    return False


def passed(reader: RingReader, going_on: Callable[[float], bool]) -> tuple[int, int]:
    """Frames that came out and that went in meanwhile, as long as `going_on(seconds)`; a torn one raises."""
    began, count = time.monotonic(), Count()
    first = last = None
    while going_on(time.monotonic() - began):
        frame = reader.read(0.2)
        if frame is None:
            continue
        first = frame if first is None else first
        last = frame
        count.take(frame.planes[Kind.COLOUR], frame.source_frame_id, 0, OPAQUE)
    if count.torn:
        raise AssertionError(f"{count.torn} torn frames")
    if first is None or last is None:
        return 0, 0
    return last.sequence - first.sequence, last.source_frame_id - first.source_frame_id


def share(parts: Sequence[tuple[int, int]]) -> float:
    """Frames out for each frame in."""
    return round(sum(out for out, _ in parts) / max(1, sum(given for _, given in parts)), 3)


# ---- kills -----------------------------------------------------------------------------------------------------------


def killed_hosts(kills: int, chance: random.Random) -> Count:
    """The host killed between a writer and a reader that live on."""
    count, last = Count(), 0
    channel = fresh_channel()
    with fed(channel), RingReader(f"{channel}.out") as reader:
        for _ in range(kills):
            with host(channel, "--no-page", "--osc-port", "0"):
                came, until, end = False, time.monotonic() + START_S, float("inf")
                while time.monotonic() < min(until, end):
                    frame = reader.read(0.2)
                    if frame is None:
                        continue
                    last = count.take(frame.planes[Kind.COLOUR], frame.source_frame_id, last, OPAQUE)
                    if not came:
                        end = time.monotonic() + chance.uniform(0, 0.2)
                    came = True
                count.hangs += not came
            count.kills += 1
    return count


# ---- OSC -------------------------------------------------------------------------------------------------------------


def hostile_datagram(chance: random.Random) -> bytes:
    """Anything from noise to a message with one thing wrong."""
    pick = chance.randrange(6)
    if pick == 0:
        return chance.randbytes(chance.randrange(0, 1400))
    address = chance.choice(
        (b"/prompt", b"/strength", b"/seed", b"/guidance", b"/" + b"a" * chance.randrange(600), b"/x[*")
    )
    tags = bytes(chance.choice(b"ifsbhtdSrmTFNI[]") for _ in range(chance.randrange(12)))
    body = chance.randbytes(chance.randrange(64))
    message = address + b"\0" * (4 - len(address) % 4) + b"," + tags + b"\0" * (4 - (len(tags) + 1) % 4) + body
    if pick == 1:
        return (
            b"#bundle\0" + chance.randbytes(8) + struct.pack(">i", chance.choice((-1, len(message), 1 << 30))) + message
        )
    if pick == 2:
        nested = message
        for _ in range(chance.randrange(1, 60)):
            nested = b"#bundle\0" + bytes(8) + struct.pack(">i", len(nested)) + nested
        return nested[:60000]
    if pick == 3:
        value = struct.pack(">f", chance.choice((float("nan"), float("inf"), -1e38, 1e38)))
        return b"/strength\0\0\0,f\0\0" + value
    return message


def osc_flood(datagrams: int, chance: random.Random) -> dict[str, Any]:
    """Frames out for each frame in: before, beside a flood that nobody reads, among hostile datagrams, and after."""
    channel, port = fresh_channel(), free_port()
    stock = [hostile_datagram(chance) for _ in range(2000)]

    def flood(target: int) -> Callable[[Shared], None]:
        def run(sent: Shared) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                while True:
                    for message in stock:
                        with contextlib.suppress(OSError):
                            out.sendto(message, ("127.0.0.1", target))
                            sent.words[0] += 1

        return run

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread,
        fed(channel),
        RingReader(f"{channel}.out") as reader,
        host(channel, "--no-page", "--osc-port", str(port)) as process,
    ):
        unread.bind(("127.0.0.1", 0))
        started = first_frame(reader)
        began_kb = resident_kb(process.pid)
        parts = {"before": [passed(reader, lambda s: s < 3.0)], "beside it": [], "while": []}
        total, seconds = 0, 0.0
        for turn in range(TURNS):
            with attacker(flood(unread.getsockname()[1])):
                parts["beside it"].append(passed(reader, lambda s: s < 3.0))
            wanted = datagrams * (turn + 1) // TURNS - total
            with attacker(flood(port)) as sent:
                began = time.monotonic()
                parts["while"].append(
                    passed(
                        reader, lambda s, sent=sent, wanted=wanted: s < 3.0 or (sent.words[0] < wanted and s < 600.0)
                    )
                )
                total, seconds = total + int(sent.words[0]), seconds + time.monotonic() - began
        parts["after"] = [passed(reader, lambda s: s < 3.0)]
        return {
            "datagrams": total,
            "per_second": round(total / seconds),
            "frames_out_per_frame_in": {name: share(counted) for name, counted in parts.items()},
            "grown_mb": round((resident_kb(process.pid) - began_kb) / 1024, 1),
            "host_died": not started or process.poll() is not None,
        }


# ---- WebSocket -------------------------------------------------------------------------------------------------------

TEXT, BINARY = 1, 2


def ws_frame(payload: bytes, opcode: int = TEXT, *, first: int = 0x80, masked: bool = True) -> bytes:
    """One frame of RFC 6455; `first`: the bits above the opcode."""
    size = len(payload)
    mask_bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack(">BB", first | opcode, mask_bit | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", first | opcode, mask_bit | 126, size)
    else:
        head = struct.pack(">BBQ", first | opcode, mask_bit | 127, size)
    if not masked:
        return head + payload
    mask = b"\x5a\x00\xa5\xff"
    whole = np.frombuffer(payload + bytes(-size % 4), np.uint32) ^ np.frombuffer(mask, np.uint32)
    return head + mask + whole.tobytes()[:size]


def hostile_value(chance: random.Random, depth: int = 0) -> Any:
    pick = chance.randrange(14)
    if pick < 3 and depth < 4:
        return [hostile_value(chance, depth + 1) for _ in range(chance.randrange(5))]
    if pick < 6 and depth < 4:
        keys = ("type", "name", "values", "n", "id", "do", "value", "prompt", "steps", "x" * chance.randrange(300))
        return {chance.choice(keys): hostile_value(chance, depth + 1) for _ in range(chance.randrange(5))}
    words = (
        "credit",
        "set",
        "update",
        "get",
        "preset",
        "clock",
        "prompt",
        "seed",
        "t_index",
        "\0",
        "\ud800",
        "é" * 400,
    )
    return chance.choice((None, True, -1, 0, 3, 1 << 63, 1 << 200, 1e308, float("nan"), float("inf"), "", *words))


def hostile_message(chance: random.Random) -> bytes:
    """A message of JSON with something wrong, or bytes that are no message at all."""
    pick = chance.randrange(16)
    if pick < 8:
        kinds = ("credit", "set", "update", "get", "preset", "clock", "nothing")
        message = {
            "type": chance.choice(kinds),
            "name": chance.choice(("prompt", "steps", "seed", "nothing", hostile_value(chance))),
            chance.choice(("value", "values", "n", "do", "id")): hostile_value(chance),
        }
        return ws_frame(json.dumps(message).encode("utf-8", "replace"))
    if pick == 8:
        return ws_frame(json.dumps(hostile_value(chance)).encode("utf-8", "replace"))
    if pick == 9:
        return ws_frame(b"[" * chance.randrange(1, 60_000))
    if pick == 10:
        return ws_frame(chance.choice((b"9" * 5000, b"1e999", b'{"type":"credit","n":' + b"9" * 4000 + b"}")))
    if pick == 11:
        return ws_frame(chance.randbytes(chance.randrange(200)), chance.choice((TEXT, BINARY)))
    if pick == 12:
        return ws_frame(json.dumps({"type": "set", "name": "prompt", "value": "a" * 100_000}).encode())
    if pick == 13:  # frames that the protocol forbids
        return chance.choice(
            (
                ws_frame(b"{}", masked=False),
                ws_frame(b"{}", chance.choice((3, 7, 11, 15))),
                ws_frame(b"{}", first=chance.choice((0x90, 0xA0, 0xC0, 0xF0))),
                ws_frame(b"a" * 126, 9),
                ws_frame(b"a", 9, first=0),
                ws_frame(struct.pack(">H", chance.choice((0, 999, 1005, 5000))), 8),
                ws_frame(b"a", 8),
                ws_frame(b"rest", 0),
                struct.pack(">BBQ", 0x81, 0xFF, chance.choice((1 << 63, 1 << 31, (1 << 64) - 1))) + bytes(4),
            )
        )
    if pick == 14:
        return ws_frame(b"{}")[: chance.randrange(1, 8)]
    return chance.randbytes(chance.randrange(1, 100))


def hostile_packet(chance: random.Random) -> bytes:
    """A picture for /send with one thing wrong, or nothing wrong but its content."""
    payload = chance.choice((bytes(64), chance.randbytes(200), b"\xff\xd8\xff\xe0" + chance.randbytes(300), b""))
    head = bytearray(PACKET.size)
    words = {"version": 1, "header_size": PACKET.size, "payload_size": len(payload), "width": 4, "height": 4}
    for name, value in {**words, "codec": chance.randrange(1, 4)}.items():
        head[PACKET.offset(name) : PACKET.offset(name) + 4] = struct.pack("<I", value)
    head[:4] = MAGIC
    for _ in range(chance.randrange(3)):
        at = 4 * chance.randrange(PACKET.size // 4)
        head[at : at + 4] = chance.choice((bytes(4), b"\xff" * 4, chance.randbytes(4)))
    return ws_frame(bytes(head) + payload, BINARY)


def websocket_attack(port: int, channel: str, messages: int, chance: random.Random) -> Callable[[Shared], None]:
    """Visits to /ws, and to /send of `channel`, of up to 600 messages each; word 1: visits, 2: those refused."""

    def visit(sent: Shared) -> None:
        to_send = chance.random() < 0.3
        path = f"/send?channel={channel}" if to_send else f"/ws?codec={chance.choice(('jpeg', 'rgba'))}"
        key = base64.b64encode(chance.randbytes(16)).decode()
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        request += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as line:
            line.sendall(request.encode())
            if b" 101 " not in line.recv(4096):
                sent.words[2] += 1
                return
            sent.words[1] += 1
            make = hostile_packet if to_send else hostile_message
            for _ in range(chance.randrange(1, chance.choice((5, 60, 600)))):
                line.setblocking(True)
                line.sendall(make(chance))
                sent.words[0] += 1
                # Closed visits end here, and what comes must be taken, or it would be we who hold it up.
                line.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while line.recv(1 << 16):
                        pass
                    return

    def run(sent: Shared) -> None:
        while sent.words[0] < messages:
            with contextlib.suppress(ConnectionError, TimeoutError):
                visit(sent)

    return run


def swallowing(port: int) -> None:
    """A server that agrees to every visit and throws away what it is sent."""
    with socket.create_server(("127.0.0.1", port)) as listening:
        while True:
            line, _ = listening.accept()
            with line, contextlib.suppress(ConnectionError):
                line.recv(4096)
                line.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                while line.recv(1 << 16):
                    pass


def picture_comes(port: int) -> bool:
    """Whether an ordinary visit is shown a picture."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as line:
        line.sendall(b"GET /snapshot.jpg HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        said = b""
        while more := line.recv(1 << 16):
            said += more
        return b" 200 " in said[:20] and b"\xff\xd8" in said
    return False


def websocket_flood(messages: int, chance: random.Random) -> dict[str, Any]:
    """Frames out for each frame in: before, beside a flood that is thrown away, among hostile messages, and after.

    Memory from the first visits on; and whether the page still shows pictures.
    """
    channel, other = fresh_channel(), fresh_channel()
    port, unread = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
    with (
        tempfile.TemporaryDirectory() as folder,
        fed(channel),
        RingReader(f"{channel}.out") as reader,
        attacker(lambda _: swallowing(unread)),
        host(channel, "--channel", other, "--osc-port", "0", "--port", str(port), "--presets", folder) as process,
    ):
        try:
            started = first_frame(reader)
            # What the first visits load stays.
            with attacker(websocket_attack(port, other, messages // 20, chance)) as sent:
                passed(reader, lambda s: sent.words[0] < messages // 20 and s < 60.0)
            began_kb, total, visits, refused, seconds = resident_kb(process.pid), int(sent.words[0]), 0, 0, 0.0
            parts = {"before": [passed(reader, lambda s: s < 3.0)], "beside it": [], "while": []}
            for turn in range(TURNS):
                # A chance of its own: no turn says what another said.
                own = random.Random(chance.random())
                with attacker(websocket_attack(unread, other, LIFE, own)):
                    parts["beside it"].append(passed(reader, lambda s: s < 3.0))
                wanted = (messages - total) // (TURNS - turn)
                with attacker(websocket_attack(port, other, LIFE, own)) as sent:
                    began = time.monotonic()
                    parts["while"].append(
                        passed(
                            reader,
                            lambda s, sent=sent, wanted=wanted: (
                                process.poll() is None and (s < 3.0 or (sent.words[0] < wanted and s < 600.0))
                            ),
                        )
                    )
                    seconds += time.monotonic() - began
                    total, visits, refused = (
                        known + int(word) for known, word in zip((total, visits, refused), sent.words[:3], strict=True)
                    )
            parts["after"] = [passed(reader, lambda s: s < 3.0)]
            return {
                "messages": total,
                "visits": visits,
                "visits_refused": refused,
                "per_second": round((total - messages // 20) / seconds),
                "frames_out_per_frame_in": {name: share(counted) for name, counted in parts.items()},
                "grown_mb": round((resident_kb(process.pid) - began_kb) / 1024, 1),
                "picture_after": picture_comes(port),
                "host_died": not started or process.poll() is not None,
            }
        finally:
            sweep(other)


# ---- soak ------------------------------------------------------------------------------------------------------------


def watching(port: int, shown: Shared) -> None:
    """A viewer that asks for one picture after the other. Word 0: pictures."""
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as line:
        request = f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        line.sendall(
            (request + "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n").encode()
        )
        stream = line.makefile("rb")
        while stream.readline().strip():
            pass
        line.sendall(ws_frame(b'{"type": "credit", "n": 2}'))
        while True:
            opcode, size = stream.read(2)
            if size > 125:
                size = int.from_bytes(stream.read(2 if size == 126 else 8), "big")
            payload = stream.read(size)
            if opcode & 15 == 9:
                line.sendall(ws_frame(payload, 10))
            elif opcode & 15 == BINARY:
                shown.words[0] += 1
                line.sendall(ws_frame(b'{"type": "credit", "n": 1}'))


def soak(seconds: float) -> dict[str, Any]:
    """Ring, host, page with a viewer, and recorder for so long: how each grows after a quarter of the time, in MB."""
    channel, port = fresh_channel(), free_port(socket.SOCK_STREAM)
    with (
        tempfile.TemporaryDirectory() as folder,
        fed(channel),
        RingReader(f"{channel}.out") as reader,
        host(channel, "--osc-port", "0", "--port", str(port), "--presets", folder) as process,
    ):
        started = first_frame(reader)
        file = Path(folder) / "soak.mcap"
        line = [sys.executable, "-m", "bridge", "record", channel, str(file), "--page", f"http://127.0.0.1:{port}/"]
        recorder = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            with attacker(lambda shown: watching(port, shown)) as shown:
                watched = {"host": process.pid, "recorder": recorder.pid, "reader": os.getpid()}
                memory: list[dict[str, int]] = []

                def going_on(s: float) -> bool:
                    if s >= len(memory) * seconds / 40:
                        memory.append({name: resident_kb(pid) for name, pid in watched.items()})
                    return s < seconds and process.poll() is None and recorder.poll() is None

                part = passed(reader, going_on)
                alive = process.poll() is None and recorder.poll() is None
                pictures = int(shown.words[0])
            recorder.terminate()
            said, _ = recorder.communicate(timeout=HANG_S)
        finally:
            recorder.kill()
            recorder.wait()
        quarter = memory[len(memory) // 4 : len(memory) // 2]
        end = memory[-max(1, len(memory) // 4) :]
        grown = {
            name: round(
                (float(np.median([m[name] for m in end])) - float(np.median([m[name] for m in quarter]))) / 1024, 1
            )
            for name in memory[0]
        }
        return {
            "seconds": seconds,
            "frames_in": part[1],
            "frames_out_per_frame_in": share([part]),
            "pictures_shown": pictures,
            "recorded": json.loads(said.splitlines()[-1]) if said.strip() else None,
            "peak_mb": {"host": round(peak_kb(process.pid) / 1024)} if started else {},
            "grown_mb": grown,
            "ended_by_itself": not (started and alive),
        }

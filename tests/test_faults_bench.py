"""The benchmark of faults sees what it is there to see, and a small run of it holds."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time

import numpy as np
import pytest

from bridge.page.http import WSMsgType, web
from bridge.ring import Kind, RingClosed
from tests.bench import faults
from tests.bench.attacks import flood
from tests.bench.attacks.counting import SIDE, Count, Shared, picture
from tests.bench.attacks.want import Tally

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by POSIX signals")


def test_torn_and_backward_frames_are_counted() -> None:
    count = Count()
    pixels = picture(7)[Kind.COLOUR]
    assert count.take(pixels, 7, 6) == 7 and count.forbidden == 0
    half = pixels.copy()
    half[SIDE // 2 :] = picture(8)[Kind.COLOUR][SIDE // 2 :]
    count.take(half, 7, 6)
    assert (count.torn, count.backward) == (1, 0)
    count.take(pixels, 7, 7)
    assert (count.torn, count.backward) == (1, 1)
    without_alpha = pixels.copy()
    without_alpha[..., 3] = 255
    count.take(without_alpha, 7, 6, flood.OPAQUE)
    assert count.torn == 1


def test_only_our_own_errors_pass() -> None:
    shared = Shared()
    tally = Tally(shared)

    def fail(error: type[Exception]) -> None:
        raise error("no")

    assert tally.call(int, "3") == 3
    assert tally.call(fail, RingClosed) is None
    assert list(shared.words[:3]) == [2, 1, 0]
    tally.call(fail, MemoryError)
    tally.hold(False)
    assert list(shared.words[:3]) == [3, 1, 2]


@pytest.mark.parametrize("size", [2, 125, 126, 70_000])
def test_the_frames_of_the_flood_are_websocket_frames(size: int) -> None:
    """What is wrong with a hostile message must not be the frame around it."""
    heard: list[tuple[WSMsgType, bytes]] = []

    async def listen(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            heard.append((message.type, message.data))
        return ws

    async def play() -> None:
        application = web.Application()
        application.router.add_get("/ws", listen)
        runner = web.AppRunner(application)
        await runner.setup()
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            await web.SockSite(runner, listening).start()
            port = listening.getsockname()[1]
            await asyncio.to_thread(send, port)
            await runner.cleanup()

    payload = np.random.default_rng(size).bytes(size)

    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
            line.sendall(
                b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            line.recv(4096)
            line.sendall(flood.ws_frame(payload, flood.BINARY))
            until = time.monotonic() + 10
            while not heard and time.monotonic() < until:
                time.sleep(0.01)

    asyncio.run(play())
    assert heard == [(WSMsgType.BINARY, payload)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and memory as Linux counts them")
def test_a_small_run_holds_and_ends_with_its_bars(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quick", "--only", "kills,want", "--kills", "4", "--starved", "4"]
    assert faults.main(words) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["bench"] == "faults"
    forbidden = [bar for bar in document["bars"] if "forbidden" in bar["name"] or "left" in bar["name"]]
    assert len(forbidden) >= 12
    assert [bar for bar in forbidden if bar["holds"] is False] == []
    assert document["results"]["kills"]["writer killed under a reader"]["kills"] >= 4

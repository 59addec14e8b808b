import asyncio
import contextlib
import gc
import json
import logging
import socket
import threading
import time

import aiohttp
import numpy as np
import pytest
import simplejpeg
from aiohttp import WSMsgType

import bridge.page.limits
import bridge.page.ring_view
from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.page import packet
from bridge.page.gateway import Channel, Gateway, GatewayError, GatewayPortInUse
from bridge.page.packet import Encoding, PacketFlag, unpack
from bridge.ring import ColourSpace, Format, Kind, Origin, RingWriter
from bridge.ring.clock import now_ns
from core.params import SPECS, Params
from tests.rings import fresh_channel, sweep

PATIENCE_S = 30
TOKEN = "a-word-of-the-stage"


@pytest.fixture
def channel():
    name = fresh_channel()
    yield name
    sweep(name)


@pytest.fixture
def live():
    return LiveParams()


@pytest.fixture
def gateway(channel, live):
    gateway = Gateway([Channel(channel, live, Statistics(), ("neon style", "wax style"))], port=0)
    gateway.start()
    yield gateway
    gateway.stop()


def writer(gateway, side="out"):
    return RingWriter(f"{gateway.channel}.{side}", capacity_bytes=1 << 16)


def picture(value=0, size=32):
    return np.full((size, size, 3), value, np.uint8)


def base(gateway):
    return f"http://127.0.0.1:{gateway.port}/"


def narrow_connection(port):
    """A connection that takes only a little before it is read.

    Made small before it connects: a window that shrinks afterwards leaves behind it what was sent already, and then
    neither side hears the other's acknowledgements, nor its reset.
    """
    peer = socket.socket()
    peer.settimeout(PATIENCE_S)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect(("127.0.0.1", port))
    return peer


class Viewer:
    """A viewer of one WebSocket; sorts what comes into frames and texts by type."""

    def __init__(self, ws):
        self.ws = ws
        self.frames = []
        self.texts = []
        self.unread = 0

    async def next(self):
        message = await asyncio.wait_for(self.ws.receive(), PATIENCE_S)
        if message.type == WSMsgType.BINARY:
            self.frames.append(unpack(message.data))
        elif message.type == WSMsgType.TEXT:
            self.texts.append(json.loads(message.data))
        else:
            raise ConnectionError(f"closed: {self.ws.close_code}")
        return message

    async def frame(self):
        """The next frame's header and payload."""
        seen = len(self.frames)
        while len(self.frames) == seen:
            await self.next()
        return self.frames[-1]

    async def text(self, kind, **about):
        """The next text of `kind` whose entries are `about`."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for i, text in enumerate(self.texts):
                if text["type"] == kind and all(text.get(k) == v for k, v in about.items()):
                    del self.texts[: i + 1]
                    return text
            assert time.monotonic() < deadline, f"no {kind} with {about}"
            await self.next()

    async def credit(self, n=1):
        await self.ws.send_json({"type": "credit", "n": n})

    async def send(self, **message):
        await self.ws.send_json(message)

    async def closed(self):
        """Close code and reason, once the gateway has closed."""
        while True:
            message = await asyncio.wait_for(self.ws.receive(), PATIENCE_S)
            if message.type == WSMsgType.CLOSE:
                return message.data, message.extra
            if message.type in (WSMsgType.CLOSED, WSMsgType.ERROR):
                return self.ws.close_code, ""


@contextlib.asynccontextmanager
async def visiting(gateway, query="side=out", path="ws", **options):
    async with aiohttp.ClientSession(trust_env=False) as session:
        async with session.ws_connect(f"{base(gateway)}{path}?{query}", autoclose=True, **options) as ws:
            yield Viewer(ws)


def run(coroutine):
    asyncio.run(asyncio.wait_for(coroutine, 4 * PATIENCE_S))


async def until(condition, what="condition"):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.02)


async def get(gateway, path, **headers):
    async with aiohttp.ClientSession(trust_env=False) as session:
        async with session.get(base(gateway) + path, headers=headers) as answer:
            return answer.status, await answer.text(), answer.headers


# ---- plain requests


def test_the_page_and_its_files_are_served_and_nothing_else(gateway):
    async def check():
        for path, kind in (("", "text/html"), ("app.js", "javascript"), ("style.css", "text/css")):
            status, text, headers = await get(gateway, path)
            assert status == 200 and kind in headers["Content-Type"] and len(text) > 100
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert headers["X-Content-Type-Options"] == "nosniff"
        for path in ("README.md", "nothing", "../pyproject.toml", "%2e%2e/pyproject.toml", "app.js/../README.md"):
            assert (await get(gateway, path))[0] in (403, 404)

    run(check())


def test_params_carry_all_that_a_control_needs(gateway, live):
    async def check():
        live.set("t_index", (18, 26))
        status, text, headers = await get(gateway, "api/params")
        about = json.loads(text)
        assert status == 200 and about["channel"] == gateway.channel and about["revision"] == 1
        assert about["examples"] == ["neon style", "wax style"]
        assert about["values"]["t_index"] == [18, 26]
        assert [spec["name"] for spec in about["specs"]] == list(SPECS)
        by_name = {spec["name"]: spec for spec in about["specs"]}
        assert by_name["steps"]["high"] == SPECS["steps"].high and by_name["guidance"]["choices"]
        assert "Access-Control-Allow-Origin" not in headers

    run(check())


def test_stats_are_those_of_the_host_and_of_the_gateway(gateway):
    async def check():
        gateway._channels[0].statistics.count("dropped", 3)
        stats = json.loads((await get(gateway, "api/stats"))[1])
        assert stats["dropped"] == 3 and stats["viewers"] == 0
        assert stats["rings"]["in"]["state"] == "no-writer"
        assert stats["rings"]["in"]["message"] == f"no writer on {gateway.channel}.in yet"

    run(check())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8790", "127.0.0.1.evil.example", "", "10.0.0.7"])
def test_a_rebound_name_is_refused(gateway, host):
    async def check():
        status, text, _ = await get(gateway, "api/params", Host=host)
        assert status in (400, 403)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with visiting(gateway, headers={"Host": host}):
                pass

    run(check())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:8790", "127.0.0.1:9999"])
def test_names_of_this_machine_are_taken(gateway, host):
    # Any port: a forwarded one differs from ours.
    async def check():
        assert (await get(gateway, "api/params", Host=host))[0] == 200

    run(check())


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example:8790",
        "null",
        "",
        "file://",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost:PORT",
        "http://127.0.0.1:PORT.evil.example",
        "http://evil.example/127.0.0.1:PORT",
        "http://127.0.0.1:PORT@evil.example",
        "http://[::1",
        "ftp://127.0.0.1:PORT",
    ],
)
def test_a_hostile_origin_cannot_open_the_websocket(gateway, live, origin):
    async def check():
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            async with visiting(gateway, headers={"Origin": origin.replace("PORT", str(gateway.port))}):
                pass
        assert refusal.value.status == 403
        assert gateway.snapshot()["viewers"] == 0

    run(check())


def test_a_crowd_of_visits_takes_turns_and_the_rest_is_refused(channel, live, monkeypatch):
    monkeypatch.setattr(bridge.page.limits, "VISITS_PER_S", 5.0)
    monkeypatch.setattr(bridge.page.limits, "VISITS_BURST", 3.0)
    gateway = Gateway([Channel(channel, live, Statistics())], port=0)
    gateway.start()

    async def visit():
        try:
            async with visiting(gateway) as viewer:
                await viewer.text("hello")
        except aiohttp.WSServerHandshakeError as refusal:
            return refusal.status
        return 101

    async def check():
        began = time.monotonic()
        statuses = await asyncio.gather(*(visit() for _ in range(30)))
        assert set(statuses) == {101, 503}
        # Three at once, those that wait up to a second, and what the time of the crowd itself brings.
        assert 8 <= statuses.count(101) <= 4 + 5 * (1 + time.monotonic() - began)
        await asyncio.sleep(1.5)
        assert await visit() == 101

    try:
        run(check())
    finally:
        gateway.stop()


def test_a_visit_that_leaves_before_its_turn_costs_no_traceback(channel, live, monkeypatch, caplog):
    monkeypatch.setattr(bridge.page.limits, "VISITS_PER_S", 4.0)
    monkeypatch.setattr(bridge.page.limits, "VISITS_BURST", 1.0)
    gateway = Gateway([Channel(channel, live, Statistics())], port=0)
    gateway.start()
    try:
        ask = (
            "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", gateway.port)) as visitor:
                visitor.sendall(ask.encode())
                time.sleep(0.05)
        time.sleep(1.5)  # all of their turns have come

        async def check():
            async with visiting(gateway) as viewer:
                await viewer.text("hello")

        run(check())
    finally:
        gateway.stop()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_our_own_page_and_allowed_origins_can(channel, live):
    gateway = Gateway([Channel(channel, live, Statistics())], port=0, allowed_origins=["https://Stage.example/"])
    gateway.start()

    async def check():
        for origin in (f"http://127.0.0.1:{gateway.port}", "https://stage.example"):
            async with visiting(gateway, headers={"Origin": origin}) as viewer:
                await viewer.text("hello")

    try:
        run(check())
    finally:
        gateway.stop()


def test_beyond_loopback_addresses_are_taken_and_foreign_names_are_not(channel, live):
    gateway = Gateway([Channel(channel, live)], "0.0.0.0", 0, token=TOKEN, allowed_hosts=["Studio.local"])
    gateway.start()

    async def check():
        assert gateway.url == f"http://127.0.0.1:{gateway.port}/?token={TOKEN}"
        assert gateway.far_url.endswith(f":{gateway.port}/?token={TOKEN}")
        for host, status in (("192.168.1.5:80", 200), ("studio.local", 200), ("evil.example", 403)):
            assert (await get(gateway, f"api/params?token={TOKEN}", Host=host))[0] == status

    try:
        run(check())
    finally:
        gateway.stop()


# ---- frames


@pytest.mark.parametrize("side", ["in", "out"])
def test_frames_arrive_with_their_header(gateway, side):
    async def check():
        with writer(gateway, side) as ring:
            async with visiting(gateway, f"channel={gateway.channel}&side={side}") as viewer:
                await viewer.credit(2)
                await viewer.text("state", state="live")
                pixels = np.zeros((24, 40, 3), np.uint8)
                pixels[:, :20] = (250, 20, 30)
                ring.write({Kind.COLOUR: pixels}, source_frame_id=77, capture_ns=123456, param_revision=9)
                header, payload = await viewer.frame()
                assert (header.width, header.height, header.codec) == (40, 24, Encoding.JPEG)
                assert (header.source_frame_id, header.capture_ns, header.param_revision) == (77, 123456, 9)
                assert header.sequence == ring.sequence and header.generation == ring.generation
                assert 0 < header.publish_ns <= header.sent_ns <= now_ns()
                shown = simplejpeg.decode_jpeg(bytes(payload))
                assert np.abs(shown[:, :18].astype(int) - (250, 20, 30)).max() < 12
                assert shown[:, 22:].max() < 12

    run(check())


@pytest.mark.parametrize("codec, order", [("rgb", [0, 1, 2]), ("rgba", [0, 1, 2, 3])])
@pytest.mark.parametrize("layout, channels", [(Format.RGB8, 3), (Format.RGBA8, 4), (Format.BGRA8, 4), (Format.R8, 1)])
def test_raw_codecs_are_exact_for_every_eight_bit_format(gateway, codec, order, layout, channels):
    async def check():
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (5, 7, channels), np.uint8)
        wanted = {
            Format.RGB8: pixels,
            Format.RGBA8: pixels,
            Format.BGRA8: pixels[..., [2, 1, 0, 3]] if channels == 4 else pixels,
            Format.R8: np.repeat(pixels[..., :1], 3, axis=2),
        }[layout]
        if wanted.shape[2] == 3:
            wanted = np.concatenate([wanted, np.full((5, 7, 1), 255, np.uint8)], axis=2)
        with writer(gateway) as ring:
            async with visiting(gateway, f"codec={codec}") as viewer:
                await viewer.credit()
                await viewer.text("state", state="live")
                plane = pixels if channels > 1 else pixels[..., 0]
                ring.write({Kind.COLOUR: plane}, formats={Kind.COLOUR: layout}, origin=Origin.BOTTOM_LEFT)
                header, payload = await viewer.frame()
                assert header.flags == PacketFlag.NONE
                shown = np.frombuffer(payload, np.uint8).reshape(5, 7, len(order))
                assert np.array_equal(shown, wanted[::-1][..., order])

    run(check())


def test_bgra_and_grey_frames_keep_their_colours_as_jpeg(gateway):
    async def check():
        with writer(gateway) as ring:
            async with visiting(gateway) as viewer:
                await viewer.credit(2)
                await viewer.text("state", state="live")
                blue_first = np.full((16, 16, 4), (10, 20, 240, 255), np.uint8)
                ring.write({Kind.COLOUR: blue_first}, formats={Kind.COLOUR: Format.BGRA8})
                shown = simplejpeg.decode_jpeg(bytes((await viewer.frame())[1]))
                assert np.abs(shown.astype(int) - (240, 20, 10)).max() < 12
                ring.write({Kind.COLOUR: np.full((16, 16), 90, np.uint8)})
                shown = simplejpeg.decode_jpeg(bytes((await viewer.frame())[1]))
                assert np.abs(shown.astype(int) - 90).max() < 6

    run(check())


def test_float_linear_and_nan_pixels_are_shown(gateway):
    async def check():
        with writer(gateway) as ring:
            async with visiting(gateway, "codec=rgba") as viewer:
                await viewer.credit(2)
                await viewer.text("state", state="live")
                pixels = np.zeros((2, 4, 4), np.float32)
                pixels[..., 3] = 0.5
                pixels[0, :, 0] = (0.5, np.nan, np.inf, -3)
                ring.write({Kind.COLOUR: pixels})
                header, payload = await viewer.frame()
                shown = np.frombuffer(payload, np.uint8).reshape(2, 4, 4)
                assert header.flags == PacketFlag.CONVERTED
                assert shown[0, :, 0].tolist() == [128, 0, 255, 0] and set(shown[..., 3].ravel()) == {128}
                ring.write({Kind.COLOUR: pixels}, colour_space=ColourSpace.LINEAR)
                shown = np.frombuffer((await viewer.frame())[1], np.uint8).reshape(2, 4, 4)
                assert shown[0, :, 0].tolist() == [188, 0, 255, 0] and set(shown[..., 3].ravel()) == {128}

    run(check())


def test_no_frame_without_credit_and_never_more_than_were_given(gateway):
    async def check():
        with writer(gateway) as ring:
            async with visiting(gateway) as viewer:
                await viewer.text("state", state="live")
                for i in range(20):
                    ring.write({Kind.COLOUR: picture(i)})
                    await asyncio.sleep(0.01)
                await viewer.text("stats")
                await viewer.text("stats")
                assert viewer.frames == []
                await viewer.credit(2)
                await viewer.credit(2)
                for i in range(40):
                    ring.write({Kind.COLOUR: picture(i)})
                    await asyncio.sleep(0.01)
                await viewer.text("stats")
                await viewer.text("stats")
                # Credits beyond two in flight are not saved up; the second pair may have come after the first was used.
                assert 2 <= len(viewer.frames) <= 4
                assert gateway.snapshot()["rings"]["out"]["sent"] == len(viewer.frames)

    run(check())


def test_a_credit_buys_the_newest_frame(gateway):
    async def check():
        with writer(gateway) as ring:
            async with visiting(gateway) as viewer:
                await viewer.credit()
                await viewer.text("state", state="live")
                ring.write({Kind.COLOUR: picture(0)})
                await viewer.frame()
                for i in range(10):
                    ring.write({Kind.COLOUR: picture(i)}, frame_id=i, source_frame_id=i)
                await viewer.credit()
                assert (await viewer.frame())[0].sequence == ring.sequence
                assert len(viewer.frames) == 2

    run(check())


def test_a_still_picture_reaches_a_viewer_that_comes_later(gateway):
    async def check():
        with writer(gateway) as ring:
            async with visiting(gateway) as first:
                await first.credit()
                await first.text("state", state="live")
                ring.write({Kind.COLOUR: picture(7)})
                header, _ = await first.frame()
                async with visiting(gateway) as second, visiting(gateway, "codec=rgb") as third:
                    await second.credit()
                    await third.credit()
                    assert (await second.frame())[0].sequence == header.sequence
                    assert (await third.frame())[0].codec == Encoding.RGB8
                # It has been shown: asking again does not show it again.
                await first.credit()
                await first.text("stats")
                await first.text("stats")
                assert len(first.frames) == 1
        assert gateway.snapshot()["rings"]["out"]["encoded"] == 2

    run(check())


def test_a_frame_is_encoded_once_for_all_viewers(gateway):
    async def check():
        with writer(gateway) as ring:
            async with contextlib.AsyncExitStack() as stack:
                viewers = [await stack.enter_async_context(visiting(gateway)) for _ in range(5)]
                for viewer in viewers:
                    await viewer.text("state", state="live")
                for i in range(10):
                    for viewer in viewers:
                        await viewer.credit()
                    ring.write({Kind.COLOUR: picture(i)})
                    sequences = {(await viewer.frame())[0].sequence for viewer in viewers}
                    assert sequences == {ring.sequence}
                figures = gateway.snapshot()["rings"]["out"]
                assert figures["encoded"] == 10 and figures["sent"] == 50

    run(check())


def test_nothing_is_encoded_when_nobody_looks(gateway):
    async def check():
        with writer(gateway) as ring:
            async with visiting(gateway) as viewer:
                await viewer.text("state", state="live")
                for i in range(20):
                    ring.write({Kind.COLOUR: picture(i)})
                    await asyncio.sleep(0.02)
        assert gateway.snapshot()["rings"]["out"]["encoded"] == 0

    run(check())


def test_a_viewer_that_stops_reading_delays_nobody_and_is_dropped(gateway, monkeypatch):
    stop = threading.Event()

    def write():
        noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 4), np.uint8)
        with RingWriter(f"{gateway.channel}.out", capacity_bytes=noise.nbytes) as ring:
            while not stop.is_set():
                ring.write({Kind.COLOUR: noise})
                time.sleep(0.03)

    def stuck():
        """A WebSocket client that never reads a byte."""
        peer = narrow_connection(gateway.port)
        peer.sendall(
            f"GET /ws?codec=rgba HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        return peer

    credit = json.dumps({"type": "credit", "n": 2}).encode()
    credit_frame = bytes([0x81, 0x80 | len(credit), 0, 0, 0, 0]) + credit

    async def check():
        # First with all the time in the world: it stays, takes the few frames that fit into the system's buffers, and
        # the other viewer goes on.
        monkeypatch.setattr(bridge.page.limits, "SEND_TIMEOUT_S", 1000.0)
        with contextlib.closing(await asyncio.to_thread(stuck)) as peer:
            async with visiting(gateway) as viewer:
                await viewer.credit(2)
                await until(lambda: gateway.snapshot()["viewers"] == 2, "both are there")
                for _ in range(25):
                    peer.sendall(credit_frame)
                    await viewer.frame()
                    await viewer.credit()
                figures = gateway.snapshot()
                assert figures["viewers"] == 2
                assert figures["rings"]["out"]["sent"] - len(viewer.frames) < 10
        await until(lambda: gateway.snapshot()["viewers"] == 0, "both have left")
        # Then with little: it is dropped.
        monkeypatch.setattr(bridge.page.limits, "SEND_TIMEOUT_S", 0.5)
        with contextlib.closing(await asyncio.to_thread(stuck)) as peer:
            await until(lambda: gateway.snapshot()["viewers"] == 1, "it is there")
            with contextlib.suppress(ConnectionError):
                while gateway.snapshot()["viewers"] == 1:
                    peer.sendall(credit_frame)
                    await asyncio.sleep(0.05)
            await until(lambda: gateway.snapshot()["viewers"] == 0, "it is dropped")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        run(check())
    finally:
        stop.set()
        thread.join()


def test_nothing_is_encoded_for_a_viewer_that_is_stuck(gateway, monkeypatch):
    monkeypatch.setattr(bridge.page.limits, "SEND_TIMEOUT_S", 1000.0)
    encoded = []
    encode = bridge.page.ring_view.encode
    monkeypatch.setattr(
        bridge.page.ring_view, "encode", lambda picture, codec: encoded.append(codec) or encode(picture, codec)
    )

    async def check():
        async with aiohttp.ClientSession(trust_env=False) as session:
            stuck = await session.ws_connect(f"{base(gateway)}ws?codec=rgba")
            # Not read from here on, neither by us nor by the transport: what is sent to it fills the system's buffers.
            stuck._response.connection.transport.pause_reading()
            noise = np.random.default_rng(0).integers(0, 256, (2048, 2048, 4), np.uint8)
            with RingWriter(f"{gateway.channel}.out", capacity_bytes=noise.nbytes) as ring:
                async with visiting(gateway, "codec=rgb", max_msg_size=0) as viewer:
                    await viewer.text("state", state="live")
                    for _ in range(4):
                        await stuck.send_json({"type": "credit", "n": 2})
                        await viewer.credit()
                        ring.write({Kind.COLOUR: noise})
                        await viewer.frame()
                    before = encoded.count(Encoding.RGBA8)
                    for _ in range(4):
                        await stuck.send_json({"type": "credit", "n": 2})
                        await viewer.credit()
                        ring.write({Kind.COLOUR: noise})
                        await viewer.frame()
                    assert encoded.count(Encoding.RGBA8) == before and before >= 1
            stuck._response.connection.transport.abort()

    run(check())


def test_the_state_of_the_rings_is_told(gateway):
    async def check():
        async with visiting(gateway, "side=in") as viewer:
            first = await viewer.text("state")
            assert first["state"] == "no-writer" and first["message"] == f"no writer on {gateway.channel}.in yet"
            with writer(gateway, "in") as ring:
                ring.write({Kind.COLOUR: picture()})
                assert (await viewer.text("state", state="live"))["message"] == ""
            gone = await viewer.text("state", state="writer-gone")
            assert f"{gateway.channel}.in is gone" in gone["message"]
            with writer(gateway, "in") as ring:
                ring.write({Kind.COLOUR: picture(3)})
                await viewer.text("state", state="live")
                await viewer.credit()
                assert (await viewer.frame())[0].generation == ring.generation

    run(check())


def test_a_frame_that_cannot_be_shown_is_told_and_the_next_one_is_shown(gateway):
    async def check():
        async with visiting(gateway) as viewer:
            await viewer.credit()
            with writer(gateway) as ring:
                depth = np.ones((8, 8), np.float32)
                while True:
                    ring.write({Kind.DEPTH: depth})
                    await viewer.next()
                    if any("no colour plane" in text.get("message", "") for text in viewer.texts):
                        break
                viewer.texts.clear()
                while not viewer.frames:
                    ring.write({Kind.COLOUR: picture(5)})
                    await viewer.next()
                await viewer.text("state", state="live")

    run(check())


# ---- messages


def test_set_changes_the_parameters_and_everybody_hears_it(gateway, live):
    async def check():
        async with visiting(gateway, "side=in") as one, visiting(gateway) as two:
            await one.text("params", revision=0)
            await two.text("params", revision=0)
            await one.send(type="set", name="steps", value=4, id=11)
            assert await one.text("ok") == {"type": "ok", "revision": 1, "name": "steps", "id": 11}
            for viewer in (one, two):
                assert (await viewer.text("params", revision=1))["values"]["steps"] == 4
            assert live.current.steps == 4
            live.set("seed", 5)
            assert (await two.text("params", revision=2))["values"]["seed"] == 5
            await two.send(type="update", values={"steps": 1, "t_index": [3, 4]})
            assert "name" not in await two.text("ok")
            assert (live.current.steps, live.current.t_index) == (1, (3, 4))
            await two.send(type="get")
            await two.text("params", revision=3)

    run(check())


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ({"type": "set", "name": "steps", "value": 99}, "whole number from 1 to"),
        ({"type": "set", "name": "steps", "value": "4"}, "whole number"),
        ({"type": "set", "name": "seed", "value": 10**400}, "seed"),
        ({"type": "set", "name": "strength", "value": float("nan")}, "a number from"),
        ({"type": "set", "name": "nothing", "value": 1}, "no such parameter; use one of prompt"),
        ({"type": "set", "name": None, "value": 1}, "no such parameter"),
        ({"type": "set", "name": "self", "value": 1}, "no such parameter"),
        ({"type": "update", "values": {"self": 1}}, "no such parameter"),
        ({"type": "set", "name": ["steps"], "value": 1}, "no such parameter"),
        ({"type": "set"}, "no such parameter"),
        ({"type": "set", "name": "prompt", "value": "x" * 100_000}, "100000 characters; send text of at most"),
        ({"type": "set", "name": "prompt", "value": {"a": [1]}}, "text of at most"),
        ({"type": "update", "values": {"steps": 4, "seed": -9}}, "seed"),
        ({"type": "update", "values": [1]}, "unknown type; use one of credit"),
        ({"type": "credit", "n": 0}, "n from 1 to 2"),
        ({"type": "credit", "n": 1000}, "n from 1 to 2"),
        ({"type": "credit", "n": True}, "n from 1 to 2"),
        ({"type": "credit", "n": "all"}, "n from 1 to 2"),
        ({"type": "shutdown"}, "unknown type; use one of credit"),
        ({}, "unknown type"),
    ],
)
def test_a_bad_message_is_answered_and_the_visit_goes_on(gateway, live, message, fix):
    async def check():
        async with visiting(gateway) as viewer:
            await viewer.send(**message)
            error = await viewer.text("error")
            assert fix in error["message"] and len(error["message"]) <= 500
            await viewer.send(type="set", name="steps", value=3)
            await viewer.text("ok")
        assert live.current == Params(steps=3)

    run(check())


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("garbage", 1007, "not a JSON object"),
        ("", 1007, "not a JSON object"),
        ("[]", 1007, "not a JSON object"),
        ("7", 1007, "not a JSON object"),
        ("[" * 100_000, 1007, "not a JSON object"),
        ("9" * 100_000, 1007, "not a JSON object"),
        (b"\0\1\2", 1003, "binary messages are not taken"),
        ('{"type": "get", "x": "' + "x" * 300_000 + '"}', 1009, "send at most 262144"),
        ('{"type": "get", "x": "' + "x" * 3_000_000 + '"}', 1009, ""),
    ],
)
def test_garbage_is_closed_with_a_reason(gateway, live, text, code, reason):
    async def check():
        async with visiting(gateway, autoping=True) as bystander:
            async with visiting(gateway) as viewer:
                with contextlib.suppress(ConnectionError):
                    await (viewer.ws.send_bytes(text) if isinstance(text, bytes) else viewer.ws.send_str(text))
                closed, why = await viewer.closed()
                assert closed == code and reason in (why or "")
            await bystander.send(type="set", name="steps", value=3)
            await bystander.text("ok")

    run(check())


@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ("channel=other", 4404, "unknown channel 'other'; this gateway serves"),
        ("channel=" + "x" * 3000, 4404, "unknown channel"),
        ("channel=%F0%9F%8E%A5%F0%9F%8E%A5" + "%F0%9F%8E%A5" * 60, 4404, "unknown channel"),
        ("side=both", 4400, "unknown side 'both'; in or out"),
        ("codec=h264", 4400, "unknown codec 'h264'; jpeg, rgba, rgb"),
    ],
)
def test_an_unknown_ring_is_closed_with_a_reason(gateway, query, code, reason):
    async def check():
        async with visiting(gateway, query) as viewer:
            closed, why = await viewer.closed()
            assert closed == code and reason in why

    run(check())


def test_too_many_messages_are_closed_with_a_reason(gateway):
    async def check():
        async with visiting(gateway) as viewer:
            with contextlib.suppress(ConnectionError):
                for _ in range(bridge.page.limits.MESSAGES_PER_S + 100):
                    await viewer.send(type="get")
            assert await viewer.closed() == (1008, "too many messages; send at most 200 per second")

    run(check())


@pytest.mark.parametrize(
    ("last", "code"), [("", 1007), ("x" * 300_000, 1009), ("x" * 20_000_000, 1009), (b"x" * 20_000_000, 1009)]
)
def test_a_viewer_that_goes_on_sending_still_hears_why_it_was_closed(gateway, last, code):
    """The socket is closed with input unread; a system answers that by a reset, which must not overtake the reason."""

    def frame(data):
        opcode, body = (0x82, data) if isinstance(data, bytes) else (0x81, data.encode())
        return bytes([opcode, 0xFF]) + len(body).to_bytes(8, "big") + bytes(4) + body

    def visit():
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S) as peer:
            peer.sendall(
                f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            # Answers are owed when the close comes, and input is unread after it.
            peer.sendall(frame('{"type": "get"}') * 20 + frame(last) + frame('{"type": "get"}') * 2000)
            with peer.makefile("rb") as answers:
                while answers.readline() != b"\r\n":
                    pass
                while True:
                    opcode, size = answers.read(2)
                    body = answers.read(int.from_bytes(answers.read(2), "big") if size == 126 else size)
                    if opcode == 0x88:
                        return int.from_bytes(body[:2], "big")

    assert visit() == code


def test_viewers_are_limited(gateway, monkeypatch):
    monkeypatch.setattr(bridge.page.limits, "MAX_VIEWERS", 2)

    async def check():
        async with visiting(gateway) as one, visiting(gateway):
            async with visiting(gateway) as three:
                assert await three.closed() == (1013, "2 viewers already; close one of them")
            await one.ws.close()
            await until(lambda: gateway.snapshot()["viewers"] == 1, "one has left")
            async with visiting(gateway) as four:
                await four.text("hello")

    run(check())


def test_viewers_that_vanish_leave_nothing_behind(gateway):
    async def check():
        for _ in range(5):
            async with aiohttp.ClientSession(trust_env=False) as session:
                ws = await session.ws_connect(f"{gateway.url}ws")
                await ws.send_json({"type": "credit", "n": 2})
                ws._response.connection.transport.abort()
        await until(lambda: gateway.snapshot()["viewers"] == 0, "all have left")
        assert gateway._audience.rooms[gateway.channel].views["out"].wanted == frozenset()

    run(check())


# ---- start and stop


def test_stop_tells_the_viewers_and_frees_the_port(channel, live):
    gateway = Gateway([Channel(channel, live, Statistics())], port=0)
    gateway.start()
    with pytest.raises(GatewayError, match="already running"):
        gateway.start()

    async def check():
        async with visiting(gateway) as viewer:
            await viewer.text("hello")
            stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
            assert await viewer.closed() == (1001, "the host is stopping")
            await stopping

    run(check())
    gateway.stop()
    live.set("steps", 5)
    gateway.start()
    run(get(gateway, "api/params"))
    gateway.stop()
    assert [t.name for t in threading.enumerate() if t.name.startswith("gateway")] == []


def test_whoever_comes_while_it_stops_is_not_left_waiting(channel, live):
    """Answered, refused or cut off: a page that nobody answers would never look for the next host."""
    port, left, waited = 0, threading.Event(), []

    def knock():
        while not left.is_set():
            with socket.socket() as visitor, contextlib.suppress(ConnectionError):
                visitor.settimeout(PATIENCE_S)
                try:
                    visitor.connect(("127.0.0.1", port))
                    visitor.sendall(b"GET /api/stats HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                    visitor.recv(100)
                except TimeoutError as error:
                    waited.append(error)

    gateway = Gateway([Channel(channel, live, Statistics())], port=0)
    gateway.start()
    port = gateway.port
    visitors = [threading.Thread(target=knock) for _ in range(3)]
    # What is forgotten would be found, and closed, at the next collection.
    gc.disable()
    try:
        for visitor in visitors:
            visitor.start()
        for _ in range(6):
            time.sleep(0.05)
            gateway.stop()
            gateway.start()
    finally:
        left.set()
        for visitor in visitors:
            visitor.join()
        gc.enable()
        gateway.stop()
    assert waited == []


def test_a_port_in_use_names_the_fix(gateway, channel, live):
    second = Gateway([Channel(channel, live, Statistics())], port=gateway.port)
    with pytest.raises(GatewayPortInUse, match=f"port {gateway.port} on 127.0.0.1 is taken.*--port {gateway.port + 1}"):
        second.start()
    second.stop()


@pytest.mark.parametrize(("host", "port"), [("203.0.113.9", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_is_not_ours_is_a_typed_error(channel, live, host, port):
    with pytest.raises(GatewayError):
        Gateway([Channel(channel, live, Statistics())], host=host, port=port).start()


def test_a_text_that_is_no_address_is_a_typed_error(channel, live):
    with pytest.raises(GatewayError, match="is not an address; use one of this machine"):
        Gateway([Channel(channel, live, Statistics())], host="\N{BULLET}..b", port=0, token="x" * 8).start()


def test_only_loopback_is_bound_by_default(gateway):
    with socket.socket() as probe:
        probe.settimeout(5)
        assert probe.connect_ex(("127.0.0.2", gateway.port)) != 0


# ---- the header's one definition


def test_a_header_survives_packing_and_bad_ones_are_refused():
    header = packet.PacketHeader(3, 1, 2, 3, 4, 5, 6, 2**64 - 1, 8, 9, Encoding.RGB8, PacketFlag.CONVERTED)
    message = header.pack() + b"abc"
    assert len(header.pack()) == packet.PACKET.size
    assert unpack(message) == (header, b"abc")
    for bad in (
        b"",
        message[:50],
        message[:-1],
        message + b"x",
        b"XXXX" + message[4:],
        message[:4] + b"\2\0\0\0" + message[8:],
        message[:8] + b"\0\0\0\0" + message[12:],
        message[:80] + b"\x09\0\0\0" + message[84:],
    ):
        with pytest.raises(packet.PacketError):
            unpack(bad)


def test_a_browser_that_asks_for_an_icon_is_not_refused(gateway):
    async def check():
        async with aiohttp.ClientSession(trust_env=False) as session:
            async with session.get(f"{gateway.url}favicon.ico") as answer:
                assert answer.status == 204 and await answer.read() == b""

    run(check())

"""The gateway beyond one channel's page: several channels, plain pictures, senders, tokens, many viewers."""

import asyncio
import contextlib
import json
import struct

import aiohttp
import numpy as np
import pytest
import simplejpeg

import bridge.page.limits
from bridge.control.access import Access, is_loopback, new_token
from bridge.control.live import LiveParams
from bridge.page import upload
from bridge.page.gateway import Channel, Gateway, GatewayError
from bridge.page.packet import Encoding, PacketFlag, PacketHeader
from bridge.ring import Kind, RingReader, RingWriter, State
from core.params import Params
from tests.bridge.page.test_gateway import (
    PATIENCE_S,
    TOKEN,
    base,
    get,
    narrow_connection,
    picture,
    run,
    until,
    visiting,
)
from tests.rings import fresh_channel, sweep


@pytest.fixture
def names():
    names = [fresh_channel(), fresh_channel()]
    yield names
    for name in names:
        sweep(name)


@pytest.fixture
def lives():
    return [LiveParams(), LiveParams(Params(prompt="gold style"))]


@pytest.fixture
def gateway(names, lives):
    """Two channels with hosts in this process."""
    gateway = Gateway([Channel(n, live) for n, live in zip(names, lives, strict=True)], port=0)
    gateway.start()
    yield gateway
    gateway.stop()


@contextlib.contextmanager
def guarded(name, **options):
    gateway = Gateway([Channel(name)], port=0, token=TOKEN, **options)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


def writer(name, side="out"):
    return RingWriter(f"{name}.{side}", capacity_bytes=1 << 16)


def packet(pixels, codec=Encoding.RGBA8, *, payload=None, size=None, source_frame_id=0):
    """What a sender sends."""
    height, width = size or pixels.shape[:2]
    body = pixels.tobytes() if payload is None else payload
    return (
        PacketHeader(len(body), 0, source_frame_id, 0, 0, 0, 0, 0, width, height, codec, PacketFlag.NONE).pack() + body
    )


async def sender(stack, gateway, name):
    """A sender that has been let in."""
    visitor = await stack.enter_async_context(visiting(gateway, f"channel={name}", path="send"))
    await visitor.text("credit", n=2)
    return visitor


# ---- several channels


def test_each_channel_has_its_own_pictures_and_parameters(gateway, names, lives):
    async def check():
        async with contextlib.AsyncExitStack() as stack:
            rings = [stack.enter_context(writer(name)) for name in names]
            viewers = [
                await stack.enter_async_context(visiting(gateway, f"channel={name}&codec=rgb")) for name in names
            ]
            for number, (ring, viewer) in enumerate(zip(rings, viewers, strict=True)):
                await viewer.text("state", state="live")
                await viewer.credit()
                ring.write({Kind.COLOUR: picture(10 + number)}, source_frame_id=70 + number)
                header, payload = await viewer.frame()
                assert header.source_frame_id == 70 + number and set(payload) == {10 + number}
            await viewers[1].send(type="set", name="prompt", value="noir style")
            assert (await viewers[1].text("params", revision=1))["values"]["prompt"] == "noir style"
            assert lives[0].current == Params() and lives[1].current.prompt == "noir style"
            assert all(text.get("revision") != 1 for text in viewers[0].texts if text["type"] == "params")
        about = json.loads((await get(gateway, "api/params?channel=" + names[1]))[1])
        assert about["channel"] == names[1] and about["values"]["prompt"] == "noir style"
        assert (await get(gateway, "api/params?channel=nothing"))[0] == 404
        known = json.loads((await get(gateway, "api/channels"))[1])["channels"]
        assert [(channel["name"], channel["host"]) for channel in known] == [(names[0], True), (names[1], True)]

    run(check())


def test_a_channel_whose_host_is_elsewhere_says_so(names):
    gateway = Gateway([Channel(names[0])], port=0)
    gateway.start()

    async def check():
        async with visiting(gateway) as viewer:
            assert (await viewer.text("params"))["values"] == {}
            await viewer.send(type="set", name="prompt", value="x", id=4)
            error = await viewer.text("error", id=4)
            assert "the host of" in error["message"] and "OSC" in error["message"]
        assert json.loads((await get(gateway, "api/params"))[1])["specs"] == []

    try:
        run(check())
    finally:
        gateway.stop()


@pytest.mark.parametrize("channels", [[], ["a", "a"]])
def test_no_channel_or_one_twice_is_refused(channels):
    with pytest.raises(GatewayError, match="at least one, and each once"):
        Gateway([Channel(name) for name in channels])


def test_a_clock_question_is_answered(gateway):
    async def check():
        async with visiting(gateway) as viewer:
            await viewer.send(type="clock", id=9)
            first = await viewer.text("clock", id=9)
            await viewer.send(type="clock")
            assert (await viewer.text("clock"))["now_ns"] > first["now_ns"] > 0

    run(check())


# ---- plain pictures


def test_a_snapshot_is_the_newest_frame_or_says_why_there_is_none(gateway, names, monkeypatch):
    async def check():
        status, text, _ = await get(gateway, f"snapshot.jpg?channel={names[1]}")
        assert status == 503 and text == f"no writer on {names[1]}.out yet"
        monkeypatch.setattr(bridge.page.limits, "SNAPSHOT_S", float(PATIENCE_S))
        with writer(names[1]) as ring:
            ring.write({Kind.COLOUR: picture(200, 24)})
            async with aiohttp.ClientSession(trust_env=False) as session:
                async with session.get(f"{base(gateway)}snapshot.jpg?channel={names[1]}") as answer:
                    assert answer.status == 200 and answer.headers["Cache-Control"] == "no-store"
                    shown = simplejpeg.decode_jpeg(await answer.read())
            assert shown.shape == (24, 24, 3) and np.abs(shown.astype(int) - 200).max() < 6
        assert (await get(gateway, "snapshot.jpg?channel=nothing"))[0] == 404
        assert (await get(gateway, "snapshot.jpg?side=both"))[0] == 400
        assert gateway.snapshot()["viewers"] == 0

    monkeypatch.setattr(bridge.page.limits, "SNAPSHOT_S", 0.5)
    run(check())


def test_the_stream_shows_every_new_picture_and_ends_with_its_viewer(gateway, names, monkeypatch):
    # No repeats here, however slow the machine is.
    monkeypatch.setattr(bridge.page.limits, "STREAM_REPEAT_S", 1000.0)

    async def check():
        with writer(names[0]) as ring:
            ring.write({Kind.COLOUR: picture(0)})
            async with aiohttp.ClientSession(trust_env=False) as session:
                async with session.get(f"{base(gateway)}stream.mjpg?channel={names[0]}") as answer:
                    assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
                    parts = aiohttp.MultipartReader.from_response(answer)
                    for value in (0, 80, 160, 240):
                        if value:
                            ring.write({Kind.COLOUR: picture(value)})
                        part = await asyncio.wait_for(parts.next(), PATIENCE_S)
                        shown = simplejpeg.decode_jpeg(bytes(await part.read()))
                        assert np.abs(shown.astype(int) - value).max() < 8
                    assert gateway.snapshot()["viewers"] == 1
            for value in range(200):
                if gateway.snapshot()["viewers"] == 0:
                    break
                ring.write({Kind.COLOUR: picture(value)})
                await asyncio.sleep(0.05)
            assert gateway.snapshot()["viewers"] == 0

    run(check())


def test_a_still_picture_comes_again_so_that_the_stream_notices_who_left(gateway, names, monkeypatch):
    monkeypatch.setattr(bridge.page.limits, "STREAM_REPEAT_S", 0.1)

    async def check():
        with writer(names[0]) as ring:
            ring.write({Kind.COLOUR: picture(9)})
            async with aiohttp.ClientSession(trust_env=False) as session:
                async with session.get(f"{base(gateway)}stream.mjpg") as answer:
                    parts = aiohttp.MultipartReader.from_response(answer)
                    for _ in range(3):
                        part = await asyncio.wait_for(parts.next(), PATIENCE_S)
                        assert simplejpeg.decode_jpeg(bytes(await part.read())).shape == (32, 32, 3)
            await until(lambda: gateway.snapshot()["viewers"] == 0, "it is noticed")
        assert gateway.snapshot()["rings"]["out"]["encoded"] == 1

    run(check())


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("none", 503), ("", 503)])
def test_pages_of_other_sites_cannot_embed_the_pictures(gateway, site, status, monkeypatch):
    monkeypatch.setattr(bridge.page.limits, "SNAPSHOT_S", 0.2)

    async def check():
        headers = {"Sec-Fetch-Site": site} if site else {}
        assert (await get(gateway, "snapshot.jpg", **headers))[0] == status
        if status == 403:
            assert (await get(gateway, "stream.mjpg", **headers))[0] == 403

    run(check())


# ---- many viewers


def test_32_viewers_from_one_encode(gateway, names):
    async def check():
        with writer(names[0]) as ring:
            async with contextlib.AsyncExitStack() as stack:
                viewers = [await stack.enter_async_context(visiting(gateway)) for _ in range(32)]
                for viewer in viewers:
                    await viewer.text("state", state="live")
                for i in range(5):
                    for viewer in viewers:
                        await viewer.credit()
                    ring.write({Kind.COLOUR: picture(i)})
                    assert {(await viewer.frame())[0].sequence for viewer in viewers} == {ring.sequence}
                figures = gateway.snapshot()["rings"]["out"]
                assert (figures["encoded"], figures["sent"]) == (5, 160)

    run(check())


def test_viewers_streams_and_senders_share_one_limit(gateway, names, monkeypatch):
    monkeypatch.setattr(bridge.page.limits, "MAX_VIEWERS", 2)

    async def check():
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(visiting(gateway))
            await sender(stack, gateway, names[0])
            for path in ("ws", "send"):
                async with visiting(gateway, f"channel={names[1]}", path=path) as third:
                    assert await third.closed() == (1013, "2 viewers already; close one of them")
            status, text, _ = await get(gateway, "stream.mjpg")
            assert (status, text) == (503, "2 viewers already; close one of them")

    run(check())


# ---- senders


@pytest.mark.parametrize("codec", [Encoding.RGBA8, Encoding.RGB8, Encoding.JPEG])
def test_what_a_viewer_sends_is_in_the_ring(gateway, names, codec):
    async def check():
        async with contextlib.AsyncExitStack() as stack:
            visitor = await sender(stack, gateway, names[0])
            reader = stack.enter_context(RingReader(f"{names[0]}.in"))
            channels = 4 if codec == Encoding.RGBA8 else 3
            pixels = np.full((30, 40, channels), (10, 200, 90, 0)[:channels], np.uint8)
            payload = simplejpeg.encode_jpeg(pixels, 95) if codec == Encoding.JPEG else None
            for number in (41, 42):
                await visitor.ws.send_bytes(packet(pixels, codec, payload=payload, source_frame_id=number))
                await visitor.text("credit", n=1)
                frame = reader.read(PATIENCE_S)
                assert frame.source_frame_id == number and frame.capture_ns > 0
                got = frame.planes[Kind.COLOUR]
                assert got.shape == pixels.shape
                assert np.abs(got.astype(int) - pixels).max() <= (6 if codec == Encoding.JPEG else 0)
            # Another size is another frame, nothing more.
            await visitor.ws.send_bytes(packet(np.zeros((8, 600, 4), np.uint8)))
            await visitor.text("credit", n=1)
            assert reader.read(PATIENCE_S).planes[Kind.COLOUR].shape == (8, 600, 4)
            assert gateway.snapshot()["senders"] == 1

    run(check())


def test_a_second_sender_is_refused_and_may_come_when_the_first_has_left(gateway, names):
    async def check():
        async with contextlib.AsyncExitStack() as stack:
            first = await sender(stack, gateway, names[0])
            async with visiting(gateway, f"channel={names[0]}", path="send") as second:
                code, reason = await second.closed()
                assert code == 4409 and reason.startswith("taken: ") and names[0] in reason
            # The other channel is free, and the first goes on.
            await sender(stack, gateway, names[1])
            await first.ws.send_bytes(packet(picture(1), Encoding.RGB8))
            await first.text("credit", n=1)
            reader = stack.enter_context(RingReader(f"{names[0]}.in"))
            assert reader.read(PATIENCE_S) is not None
            await first.ws.close()
            await until(lambda: reader.state != State.LIVE, "the ring is free again")
            await until(lambda: gateway.snapshot()["senders"] == 1, "it has left")
            await sender(stack, gateway, names[0])

    run(check())


def test_a_channel_that_a_program_feeds_is_not_taken_from_it(gateway, names):
    async def check():
        with writer(names[0], "in") as ring:
            async with visiting(gateway, f"channel={names[0]}", path="send") as visitor:
                assert (await visitor.closed())[0] == 4409
            ring.write({Kind.COLOUR: picture()})

    run(check())


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        (packet(picture(), size=(0, 0)), "at most 2048 x 2048"),
        (packet(picture(), size=(20000, 20000)), "at most 2048 x 2048"),
        (packet(picture(), Encoding.RGBA8), "32 x 32 needs 4096"),
        (packet(picture(), Encoding.RGB8, size=(32, 33)), "33 x 32 needs 3168"),
        (packet(picture(), Encoding.JPEG, payload=b"\xff\xd8 no picture"), "the JPEG cannot be read"),
        (packet(picture(), Encoding.JPEG, payload=b""), "the JPEG cannot be read"),
        (
            packet(picture(), Encoding.JPEG, payload=simplejpeg.encode_jpeg(picture()), size=(64, 64)),
            "it is 32 x 32 pixels and its header says 64 x 64",
        ),
        (packet(picture(), Encoding.JPEG, payload=simplejpeg.encode_jpeg(picture())[:-40]), "the JPEG cannot be read"),
    ],
)
def test_a_bad_picture_is_answered_and_the_next_one_is_taken(gateway, names, message, fix):
    async def check():
        async with contextlib.AsyncExitStack() as stack:
            visitor = await sender(stack, gateway, names[0])
            reader = stack.enter_context(RingReader(f"{names[0]}.in"))
            await visitor.ws.send_bytes(message)
            assert fix in (await visitor.text("error"))["message"]
            await visitor.text("credit", n=1)
            await visitor.ws.send_bytes(packet(picture(5), Encoding.RGB8))
            await visitor.text("credit", n=1)
            assert set(reader.read(PATIENCE_S).planes[Kind.COLOUR].ravel()) == {5}

    run(check())


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (b"garbage", 1007, "not a frame packet"),
        (b"\0" * 500, 1007, "not a frame packet: magic"),
        (packet(picture())[:-1], 1007, "not a frame packet: header of 88"),
        (struct.pack("<4sIII", b"FLWS", 2, 88, 0) + bytes(72), 1007, "version 2"),
        ("words", 1003, "only pictures are taken here"),
        (bytes(upload.MAX_UPLOAD_BYTES + 2), 1009, ""),
    ],
)
def test_garbage_from_a_sender_is_closed_with_a_reason_and_frees_the_channel(gateway, names, message, code, reason):
    async def check():
        async with contextlib.AsyncExitStack() as stack:
            visitor = await sender(stack, gateway, names[0])
            with contextlib.suppress(ConnectionError):
                await (visitor.ws.send_str(message) if isinstance(message, str) else visitor.ws.send_bytes(message))
            closed, why = await visitor.closed()
            assert closed == code and reason in (why or "")
            await until(lambda: gateway.snapshot()["senders"] == 0, "it has left")
            await sender(stack, gateway, names[0])

    run(check())


def test_senders_are_told_when_the_gateway_stops(gateway, names):
    async def check():
        async with contextlib.AsyncExitStack() as stack:
            visitor = await sender(stack, gateway, names[0])
            stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
            assert await visitor.closed() == (1001, "the host is stopping")
            await stopping
            with RingReader(f"{names[0]}.in") as reader:
                assert reader.state != State.LIVE

    run(check())


@pytest.mark.parametrize("origin", ["http://evil.example", "null"])
def test_a_hostile_page_cannot_send(gateway, names, origin):
    async def check():
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with visiting(gateway, f"channel={names[0]}", path="send", headers={"Origin": origin}):
                pass

    run(check())


# ---- beyond loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_nothing_beyond_loopback_without_a_token(names, host):
    with pytest.raises(GatewayError, match="takes a token"):
        Gateway([Channel(names[0])], host, 0).start()


@pytest.mark.parametrize("token", ["", "short", "with space here", "with&amp=1234"])
def test_a_token_that_an_address_cannot_carry_is_refused(names, token):
    with pytest.raises(GatewayError, match="token must be 8 to 128"):
        Gateway([Channel(names[0])], port=0, token=token).start()


def test_without_the_token_nothing_is_shown_set_or_sent(names):
    async def check():
        with guarded(names[0]) as gateway:
            assert gateway.url == f"{base(gateway)}?token={TOKEN}" and gateway.far_url is None
            for wrong in ("", "?token=", "?token=wrong-wrong", f"?token={TOKEN}x", "?token=%00%ff"):
                for path in ("api/params", "api/stats", "api/channels", "snapshot.jpg", "stream.mjpg"):
                    status, text, _ = await get(gateway, path + wrong)
                    assert status == 401 and "open the whole address" in text
                for path in ("ws", "send"):
                    async with visiting(gateway, wrong[1:], path=path) as visitor:
                        code, reason = await visitor.closed()
                        assert code == 4401 and reason.startswith("the token is missing or wrong")
            with RingReader(f"{names[0]}.in") as reader:
                assert reader.state == State.NO_WRITER
            assert (await get(gateway, "api/params?token=" + TOKEN))[0] == 200
            async with visiting(gateway, f"token={TOKEN}") as viewer:
                await viewer.text("hello")
            # The page itself is everybody's; what it shows is not.
            assert (await get(gateway, ""))[0] == 200
            with writer(names[0]) as ring:
                ring.write({Kind.COLOUR: picture()})
                # With the token a page elsewhere may embed the picture.
                answer = await get(gateway, f"api/params?token={TOKEN}", **{"Sec-Fetch-Site": "cross-site"})
                assert answer[0] == 200

    run(check())


def test_only_allowed_pages_may_read_answers(names):
    async def check():
        with guarded(names[0], allowed_origins=["https://stage.example"]) as gateway:
            path = f"api/params?token={TOKEN}"
            allowed = (await get(gateway, path, Origin="https://stage.example"))[2]
            assert allowed["Access-Control-Allow-Origin"] == "https://stage.example"
            module = (await get(gateway, "frameloom-three.js", Origin="https://stage.example"))[2]
            assert module["Access-Control-Allow-Origin"] == "https://stage.example"
            other = (await get(gateway, path, Origin="https://evil.example"))[2]
            assert "Access-Control-Allow-Origin" not in other

    run(check())


def test_tokens_are_long_and_differ_and_addresses_are_told_apart():
    assert new_token() != new_token() and len(new_token()) >= 20
    assert [is_loopback(h) for h in ("127.0.0.1", "localhost", "::1", "127.9.9.9")] == [True] * 4
    assert [is_loopback(h) for h in ("0.0.0.0", "::", "192.168.1.2", "stage.local", "")] == [False] * 5
    assert not Access("127.0.0.1", TOKEN).has_token(None)
    assert Access("127.0.0.1", None).has_token(None)


def test_import_maps_are_the_only_scripts_inside_pages(gateway):
    async def check():
        for path in ("examples/three.html", "examples/babylon.html", "scene/"):
            status, text, headers = await get(gateway, path)
            policy = headers["Content-Security-Policy"]
            assert status == 200 and policy.count("'sha256-") == 1 and "unsafe" not in policy
            assert text.count("<script") == 2 and 'type="importmap"' in text and "style=" not in text
        policy = (await get(gateway, ""))[2]["Content-Security-Policy"]
        assert "sha256" not in policy
        for path in ("build/package.json", "vendor/VERSIONS", "vendor/LICENSE.three", "vendor/"):
            assert (await get(gateway, path))[0] == 404

    run(check())


def test_a_sender_that_does_not_read_its_answers_is_let_go(gateway, names, monkeypatch):
    monkeypatch.setattr(bridge.page.limits, "SEND_TIMEOUT_S", 0.5)
    broken = packet(picture(), size=(0, 0))

    def frame(data):
        return bytes([0x82, 0xFE]) + len(data).to_bytes(2, "big") + bytes(4) + data

    def flood():
        with narrow_connection(gateway.port) as peer:
            peer.sendall(
                f"GET /send?channel={names[0]} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            with contextlib.suppress(OSError):
                for _ in range(2000):
                    peer.sendall(frame(broken))

    async def check():
        # Far too many messages: closed for that, although the sender never reads.
        await asyncio.to_thread(flood)
        await until(lambda: gateway.snapshot()["senders"] == 0, "it is let go")
        async with contextlib.AsyncExitStack() as stack:
            await sender(stack, gateway, names[0])

    run(check())

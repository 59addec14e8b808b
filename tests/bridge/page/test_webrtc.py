"""A channel by WebRTC: refusals of every kind, and real connections where the extra is installed."""

import asyncio
import builtins
import contextlib
import importlib.util
import json
import sys

import aiohttp
import numpy as np
import pytest

import bridge.page.limits
from bridge.page.gateway import Channel, Gateway, GatewayError
from bridge.page.packet import Encoding, PacketFlag, PacketHeader
from bridge.page.picture import Packet
from bridge.ring import Kind, RingWriter
from tests import chromium
from tests.bridge.page.test_gateway import PATIENCE_S, TOKEN, base, run, until, visiting
from tests.rings import fresh_channel, sweep

INSTALLED = importlib.util.find_spec("aiortc") is not None and importlib.util.find_spec("av") is not None

with_extra = pytest.mark.skipif(
    not INSTALLED, reason='the extra is not installed (python -m pip install -c constraints.txt -e ".[webrtc]")'
)
needs_network = pytest.mark.skipif(
    not INSTALLED, reason='the extra is not installed (python -m pip install -c constraints.txt -e ".[webrtc]")'
)
if INSTALLED:
    from aioice import stun
    from aioice.ice import get_host_addresses
    from aiortc import MediaStreamError, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
    from av.video.reformatter import Colorspace

    from bridge.page.webrtc import PictureTrack

    if not get_host_addresses(True, True):
        needs_network = pytest.mark.skip(
            "no network address but loopback on this machine; WebRTC does not use that one"
        )

BROWSER = chromium.find()
RED, BLUE = (220, 40, 30), (20, 60, 210)


@pytest.fixture
def channel():
    name = fresh_channel()
    yield name
    sweep(name)


@contextlib.contextmanager
def serving(name, **options):
    gateway = Gateway([Channel(name)], port=0, **options)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


def writer(gateway):
    return RingWriter(f"{gateway.channel}.out", capacity_bytes=1 << 18)


def flat(colour, height=64, width=96):
    return {Kind.COLOUR: np.full((height, width, 3), colour, np.uint8)}


async def post(gateway, body, query="", **headers):
    """Status, text and headers of the answer to one offer."""
    async with aiohttp.ClientSession(trust_env=False) as session:
        async with session.post(f"{base(gateway)}webrtc?{query}", data=body, headers=headers) as answer:
            return answer.status, await answer.text(), answer.headers


def offer(sdp):
    return json.dumps({"type": "offer", "sdp": sdp})


class FarViewer:
    """An aiortc peer that asks for one video."""

    def __init__(self, connection):
        self.connection = connection
        self.receiver = connection.addTransceiver("video", direction="recvonly").receiver

    async def offer(self):
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return offer(self.connection.localDescription.sdp)

    async def connect(self, gateway, query=""):
        status, text, _ = await post(gateway, await self.offer(), query)
        assert status == 200, text
        await self.connection.setRemoteDescription(RTCSessionDescription(**json.loads(text)))

    async def frame(self):
        """The next picture, H x W x 3."""
        frame = await asyncio.wait_for(self.receiver.track.recv(), PATIENCE_S)
        return frame.reformat(format="rgb24", src_colorspace=Colorspace.ITU709).to_ndarray()

    async def until_colour(self, colour):
        """Read pictures until one is of about this colour; returns how many were read."""
        for count in range(1, 10_000):
            mean = (await self.frame()).reshape(-1, 3).mean(axis=0)
            if np.abs(mean - colour).max() < 16:
                return count
        raise AssertionError(f"{mean} is the colour at last, and {colour} never came")


@contextlib.asynccontextmanager
async def far_viewer():
    viewer = FarViewer(RTCPeerConnection(RTCConfiguration(iceServers=[])))
    try:
        yield viewer
    finally:
        await viewer.connection.close()


# ---- refusals


def test_without_the_extra_the_answer_is_the_fix(channel, monkeypatch):
    def refuse(name, *about, **more):
        if name.split(".")[0] in ("aiortc", "av"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *about, **more)

    real = builtins.__import__
    monkeypatch.delitem(sys.modules, "bridge.page.webrtc", raising=False)
    monkeypatch.delattr(bridge, "webrtc", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with serving(channel) as gateway:

        async def check():
            status, text, _ = await post(gateway, offer("v=0"))
            assert status == 501
            assert 'pip install -c constraints.txt -e ".[webrtc]"' in text
            assert gateway.snapshot()["viewers"] == 0

        run(check())


@pytest.mark.parametrize(
    "body", ["", "v=0", "[]", "{", '{"type": "offer"}', '{"type": "answer", "sdp": ""}', '{"type": "offer", "sdp": 1}']
)
def test_what_is_no_offer_is_told_what_one_is(channel, body):
    with serving(channel) as gateway:

        async def check():
            status, text, _ = await post(gateway, body)
            assert status == 400 and "RTCPeerConnection.localDescription" in text

        run(check())


def test_a_huge_offer_is_refused(channel):
    with serving(channel) as gateway:

        async def check():
            assert (await post(gateway, offer("a" * bridge.page.limits.MAX_MESSAGE_BYTES)))[0] == 413

        run(check())


def test_a_hostile_origin_is_refused_and_an_allowed_one_can_read_why(channel):
    with serving(channel, allowed_origins=["https://stage.example"]) as gateway:

        async def check():
            status, text, headers = await post(gateway, offer("v=0"), Origin="https://evil.example")
            assert status == 403 and "origin" in text and "Access-Control-Allow-Origin" not in headers
            status, text, headers = await post(gateway, "x", Origin="https://stage.example")
            assert status == 400 and "RTCPeerConnection.localDescription" in text
            assert headers["Access-Control-Allow-Origin"] == "https://stage.example"

        run(check())


def test_the_token_is_asked_for(channel):
    with serving(channel, token=TOKEN) as gateway:

        async def check():
            status, text, _ = await post(gateway, offer("v=0"))
            assert status == 401 and "token" in text
            assert (await post(gateway, "x", f"token={TOKEN}"))[0] == 400

        run(check())


@with_extra
@pytest.mark.parametrize(
    ("query", "status", "words"),
    [("channel=nothing", 404, "unknown channel 'nothing'"), ("side=both", 400, "unknown side 'both'; in or out")],
)
def test_unknown_names_are_refused(channel, query, status, words):
    with serving(channel) as gateway:

        async def check():
            given, text, _ = await post(gateway, offer("v=0"), query)
            assert given == status and words in text

        run(check())


async def changed_offers():
    """Offers that nobody should make, each by a change of a good one."""
    async with far_viewer() as viewer:
        good = json.loads(await viewer.offer())["sdp"]
    lines = good.split("\r\n")
    yield ""
    yield "no SDP at all"
    yield "v=0\r\nm=video"
    yield "v=0\r\nm=video x y z\r\na=\r\n"
    yield good.replace("m=video", "m=audio")
    yield good.replace("m=video", "m=application")
    yield good.replace("a=recvonly", "a=sendonly")
    yield good.replace("a=recvonly", "a=inactive")
    yield good.replace("H264", "H999").replace("VP8", "VP999").replace("rtx", "xtr")
    yield good + "\r\n".join(lines[next(i for i, line in enumerate(lines) if line.startswith("m=")) :])
    for word in ("a=fingerprint", "a=ice-ufrag", "a=ice-pwd", "a=setup", "m=", "v=0", "o="):
        yield "\r\n".join(line for line in lines if not line.startswith(word))
    for word in (
        "a=fingerprint:",
        "a=candidate:",
        "a=rtpmap:",
        "a=fmtp:",
        "a=ssrc:",
        "a=setup:",
        "a=mid:",
        "m=video ",
        "c=",
    ):
        yield "\r\n".join(word + "\x00 -1 ?" if line.startswith(word) else line for line in lines)


@with_extra
def test_garbage_for_an_offer_is_refused_in_a_sentence_and_leaves_nothing(channel):
    with serving(channel) as gateway:

        async def check():
            refused = 0
            async for sdp in changed_offers():
                status, text, _ = await post(gateway, offer(sdp))
                # A few of these changes can be answered; none may be the gateway's failure.
                assert status in (200, 400), (status, sdp)
                if status == 400:
                    refused += 1
                    assert "offer" in text and len(text) < 200
                else:
                    assert json.loads(text)["type"] == "answer"
            assert refused >= 10

        run(check())


@needs_network
def test_far_viewers_count_as_viewers(channel, monkeypatch):
    monkeypatch.setattr(bridge.page.limits, "MAX_VIEWERS", 1)
    with serving(channel) as gateway, writer(gateway) as ring:
        ring.write(flat(RED))

        async def check():
            async with far_viewer() as first:
                await first.connect(gateway)
                await first.until_colour(RED)
                async with far_viewer() as second:
                    status, text, _ = await post(gateway, await second.offer())
                    assert (status, text) == (503, "1 viewers already; close one of them")
                async with visiting(gateway) as third:
                    assert (await third.closed())[0] == 1013
            await until(lambda: gateway.snapshot()["viewers"] == 0, "the first has left")

        run(check())


@with_extra
def test_a_viewer_that_never_connects_is_given_up(channel, monkeypatch):
    monkeypatch.setattr("bridge.page.webrtc.CONNECT_S", 0.3)
    with serving(channel) as gateway:

        async def check():
            async with far_viewer() as viewer:
                status, _, _ = await post(gateway, await viewer.offer())
                assert status == 200
                await until(lambda: gateway.snapshot()["viewers"] == 0, "it is given up")

        run(check())


# ---- pictures


@needs_network
def test_pictures_arrive_in_their_colours_and_the_newest_wins(channel):
    with serving(channel) as gateway, writer(gateway) as ring:
        ring.write(flat(RED))

        async def check():
            async with far_viewer() as viewer:
                await viewer.connect(gateway)
                await viewer.until_colour(RED)
                assert (await viewer.frame()).shape == (64, 96, 3)
                # As fast as the ring takes them: a queue would bring every one.
                for level in range(400):
                    ring.write(flat((level % 200, 120, 90)))
                ring.write(flat(BLUE))
                assert await viewer.until_colour(BLUE) < 200
                assert gateway.snapshot()["rings"]["out"]["sent"] < 400
                # Another size in the same connection, and an odd one.
                ring.write(flat(RED, 49, 51))
                while (await viewer.frame()).shape != (50, 52, 3):
                    pass
                await viewer.until_colour(RED)

        run(check())


@needs_network
def test_the_input_side_is_shown_too(channel):
    with serving(channel) as gateway, RingWriter(f"{channel}.in", capacity_bytes=1 << 18) as ring:
        ring.write(flat(BLUE))

        async def check():
            async with far_viewer() as viewer:
                await viewer.connect(gateway, f"channel={channel}&side=in")
                await viewer.until_colour(BLUE)

        run(check())


@needs_network
def test_the_connection_ends_with_the_gateway(channel):
    async def check():
        async with far_viewer() as viewer:
            with serving(channel) as gateway, writer(gateway) as ring:
                ring.write(flat(RED))
                await viewer.connect(gateway)
                await viewer.until_colour(RED)
                await asyncio.to_thread(gateway.stop)
            with pytest.raises(MediaStreamError):
                while True:
                    await viewer.frame()

    run(check())


class StunServer(asyncio.DatagramProtocol):
    """Tells everybody that they are seen as 203.0.113.7."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        question = stun.parse_message(data)
        answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, question.transaction_id)
        answer.attributes["XOR-MAPPED-ADDRESS"] = ("203.0.113.7", address[1])
        self.transport.sendto(bytes(answer), address)


@needs_network
def test_a_named_stun_server_is_asked_how_we_are_seen_and_no_other(channel):
    async def check():
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(StunServer, local_addr=("0.0.0.0", 0))
        try:
            address = next(iter(get_host_addresses(True, False)), "127.0.0.1")
            named = f"stun:{address}:{server.get_extra_info('sockname')[1]}"
            for servers, seen in (([named], True), ([], False)):
                with serving(channel, ice_servers=servers) as gateway:
                    async with far_viewer() as viewer:
                        status, text, _ = await post(gateway, await viewer.offer())
                        assert status == 200 and ("203.0.113.7" in text) == seen
                        assert ("typ srflx" in text) == seen
        finally:
            server.close()

    run(check())


@pytest.mark.parametrize("server", ["stun.example.org", "turn:stun.example.org", "stun:", "stun:a b", "stun:a:port"])
def test_what_is_no_stun_server_is_refused_at_the_start(channel, server):
    with pytest.raises(GatewayError, match="stun:HOST:PORT"):
        Gateway([Channel(channel)], port=0, ice_servers=[server])


# ---- the track alone


def packet(value, height=4, width=6):
    body = bytes([value]) * (height * width * 3)
    header = PacketHeader(len(body), value, 0, 0, 0, 0, 0, 1, width, height, Encoding.RGB8, PacketFlag.NONE)
    return Packet((1, value), header.pack() + body)


@with_extra
def test_the_track_takes_a_picture_only_when_it_is_asked_and_repeats_a_still_one():
    async def check():
        given = iter([None, packet(10), packet(20, 5, 7), None, packet(30)])
        asked = 0

        async def newest(timeout_s):
            nonlocal asked
            asked += 1
            return next(given)

        track = PictureTrack(newest)
        shown, times = [], []
        for wanted in (2, 3, 4, 5):
            frame = await track.recv()
            assert asked == wanted
            shown.append(frame.to_ndarray(format="rgb24"))
            times.append(frame.pts * frame.time_base * 30)
        values = [pixels.mean() for pixels in shown]
        assert np.allclose(values, [10, 20, 20, 30], atol=2) and values[1] == values[2]
        assert [pixels.shape for pixels in shown] == [(4, 6, 3), (6, 8, 3), (6, 8, 3), (4, 6, 3)]
        # The encoder's clock has 30 steps a second and wants each picture in one of its own.
        assert all(time == int(time) for time in times) and times == sorted(set(times))
        track.stop()
        with pytest.raises(MediaStreamError):
            await track.recv()

    run(check())


# ---- a browser

SHOW = """
import("/frameloom-webrtc.js").then(async ({ connect }) => {
    globalThis.video = document.createElement("video");
    video.muted = true;
    document.body.append(video);
    video.srcObject = await connect(location.href, CHANNEL, { onended: () => (globalThis.ended = true) });
    await video.play();
}).catch((error) => (globalThis.failed = String(error)))
"""
MIDDLE = """(() => {
    if (globalThis.failed) throw new Error(failed);
    if (!globalThis.video?.videoWidth) return null;
    const { videoWidth: width, videoHeight: height } = video;
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.drawImage(video, 0, 0);
    return [width, height, ...context.getImageData(width / 2, height / 2, 1, 1).data.slice(0, 3)];
})()"""


async def until_middle(page, colour):
    """Wait until the page's video is of about this colour in its middle; returns its width and height."""
    seen = None
    for _ in range(2400):
        seen = await page.evaluate(MIDDLE)
        if seen is not None and max(abs(a - b) for a, b in zip(seen[2:], colour, strict=True)) < 16:
            return seen[:2]
        await asyncio.sleep(0.05)
    raise AssertionError(f"{seen} is what the page shows at last, and {colour} never came")


@needs_network
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt install chromium)")
def test_a_browser_shows_it_and_leaves_and_is_told_of_the_end(channel):
    with serving(channel) as gateway, writer(gateway) as ring:
        ring.write(flat(RED))

        async def check():
            async with chromium.Browser(BROWSER) as browser:
                page = await browser.page(f"{base(gateway)}examples/three.js")
                await page.evaluate(SHOW.replace("CHANNEL", json.dumps(channel)) + ", 0")
                assert await until_middle(page, RED) == [96, 64]
                ring.write(flat(BLUE))
                await until_middle(page, BLUE)
                assert gateway.snapshot()["viewers"] == 1
                await page.evaluate("video.srcObject.getTracks()[0].stop()")
                await until(lambda: gateway.snapshot()["viewers"] == 0, "it has left")
                assert await page.evaluate("ended")
                await page.evaluate("globalThis.ended = globalThis.video = undefined")
                await page.evaluate(SHOW.replace("CHANNEL", json.dumps(channel)) + ", 0")
                await until_middle(page, BLUE)
                await asyncio.to_thread(gateway.stop)
                await page.until("globalThis.ended")

        asyncio.run(asyncio.wait_for(check(), 300))

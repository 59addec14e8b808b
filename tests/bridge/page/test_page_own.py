"""Own pictures from the page: the gateway's hand-over between two senders, and the page in a real headless Chromium."""

import asyncio
import base64
import io
import json
import shutil
import struct
import subprocess
import zlib

import aiohttp
import numpy as np
import pytest
from PIL import Image

from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.page.files import WEB
from bridge.page.gateway import Channel, Gateway
from bridge.ring import Kind, RingReader, RingWriter
from tests import chromium
from tests.rings import fresh_channel, sweep

BROWSER = chromium.find()
PATIENCE_S = 60

in_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian: apt install chromium); the page cannot be tried"
)


class Stage:
    def __init__(self):
        self.channel = fresh_channel()
        self.gateway = Gateway([Channel(self.channel, LiveParams(), Statistics())], port=0)
        self.gateway.start()

    def pixels(self, condition):
        """The input's pixels once they are as wanted."""
        with RingReader(f"{self.channel}.in") as reader:
            for _ in range(PATIENCE_S * 20):
                frame = reader.read(0.05)
                if frame is not None and condition(frame.planes[Kind.COLOUR]):
                    return frame.planes[Kind.COLOUR]
        pytest.fail("the picture never came")

    def end(self):
        self.gateway.stop()
        sweep(self.channel)


@pytest.fixture
def stage():
    stage = Stage()
    yield stage
    stage.end()


# ---- two senders


def test_the_second_sender_can_ask_the_first_who_gives_way(stage):
    url = f"http://127.0.0.1:{stage.gateway.port}/send"

    async def scenario():
        async with aiohttp.ClientSession(trust_env=False) as session:

            async def refused(query):
                ws = await session.ws_connect(url + query, autoclose=True)
                message = await ws.receive(PATIENCE_S)
                assert message.type == aiohttp.WSMsgType.CLOSE and message.data == 4409
                await ws.close()
                return message.extra

            first = await session.ws_connect(url)
            assert (await first.receive(PATIENCE_S)).json()["type"] == "hello"
            assert (await first.receive(PATIENCE_S)).json()["type"] == "credit"
            assert await refused("") == f"taken: another page sends to {stage.channel}; it can be asked"
            assert await refused("?ask=1") == f"taken: another page sends to {stage.channel} and was asked"
            # Told once, and to nobody's harm: it goes on sending as long as it likes.
            assert (await first.receive(PATIENCE_S)).json() == {"type": "asked"}
            await first.close()
            second = await session.ws_connect(url)
            while (message := await second.receive(PATIENCE_S)).type != aiohttp.WSMsgType.TEXT:
                second = await session.ws_connect(url)  # the first is still being closed
            assert message.json()["type"] == "hello"
            await second.close()

    asyncio.run(asyncio.wait_for(scenario(), 4 * PATIENCE_S))


def test_a_program_that_sends_is_named_and_not_asked(stage):
    async def scenario():
        url = f"http://127.0.0.1:{stage.gateway.port}/send?ask=1"
        async with aiohttp.ClientSession(trust_env=False) as session, session.ws_connect(url) as ws:
            message = await ws.receive(PATIENCE_S)
            assert message.data == 4409 and "page" not in message.extra and stage.channel in message.extra

    with RingWriter(f"{stage.channel}.in"):
        asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


# ---- in node, where there is one


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
def test_sizes_and_refusals_in_words():
    script = """
      globalThis.document = { getElementById: () => null };
      const { refusal, sendingSize, tooLarge } = await import(process.argv[1]);
      console.log(JSON.stringify([
        sendingSize(1920, 1080), sendingSize(1, 5000), sendingSize(100, 75), sendingSize(768, 768),
        tooLarge({ bytes: 100e6 }), tooLarge({ width: 20000, height: 20000 }), tooLarge({ bytes: 1, width: 9 }),
        refusal("the camera", { name: "NotAllowedError" }), refusal("the camera", { name: "Strange", message: "why" }),
      ]));
    """
    command = ["node", "--input-type=module", "-e", script, (WEB / "page" / "own.js").as_uri()]
    # Modules that are no .mjs are taken for such where the nearest package.json says so, or by looking at them.
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    sizes, said = json.loads(done.stdout)[:4], json.loads(done.stdout)[4:]
    assert [(size["width"], size["height"]) for size in sizes] == [(768, 432), (2, 768), (100, 76), (768, 768)]
    assert "100 MB" in said[0] and "20000 × 20000" in said[1] and said[2] == ""
    assert "allow it" in said[3] and said[4] == "the camera gives no picture: why"


# ---- in a browser


def png(width, height, colour):
    """A picture of one colour, made without ever being there whole."""
    packer = zlib.compressobj(9)
    row = b"\0" + bytes(colour) * width
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


async def choose(page, name, kind, data):
    """Choose a file as a person does, with `data` for its bytes."""
    await page.evaluate(f"""(async () => {{
      const bytes = Uint8Array.from(atob("{base64.b64encode(data).decode()}"), (c) => c.charCodeAt(0));
      const files = new DataTransfer();
      files.items.add(new File([bytes], {name!r}, {{ type: {kind!r} }}));
      const box = document.querySelector("#own-file");
      box.files = files.files;
      box.dispatchEvent(new Event("change"));
    }})()""")


SAID = "document.querySelector('#own-said').textContent"


def browse(scenario, stage, tabs=1, flags=()):
    async def run():
        async with chromium.Browser(BROWSER, *flags) as browser:
            pages = [await browser.page(f"http://127.0.0.1:{stage.gateway.port}/") for _ in range(tabs)]
            for page in pages:
                await page.until("document.querySelector('#connection').dataset.state === 'connected'")
                await page.evaluate("document.querySelector('#own').open = true")
            await scenario(*pages)

    asyncio.run(asyncio.wait_for(run(), 6 * PATIENCE_S))


@in_browser
def test_pictures_drawings_and_what_is_none(stage):
    async def scenario(page):
        await choose(page, "sun.png", "image/png", png(300, 200, (240, 120, 20)))
        shown = await asyncio.to_thread(stage.pixels, lambda pixels: pixels.shape[:2] == (200, 300))
        np.testing.assert_allclose(shown[100, 150, :3], (240, 120, 20), atol=8)
        for name, kind, data, told in (
            ("notes.txt", "text/plain", b"only words", "is no picture and no film"),
            ("broken.png", "image/png", png(40, 40, (1, 2, 3))[:20], "is no picture and no film"),
            ("wide.png", "image/png", png(20000, 20000, (9, 9, 9)), "20000 × 20000 pixels"),
        ):
            await choose(page, name, kind, data)
            await page.until(f"{SAID}.includes({told!r})")
        await page.evaluate("document.querySelector('#own-camera').click()")
        await page.until(f"{SAID}.startsWith('the camera ') || {SAID}.startsWith('browsers give')")
        await page.evaluate("document.querySelector('#own-draw').click()")
        await page.until(f"{SAID} === 'this is the input now'")
        await page.evaluate("document.querySelectorAll('.swatch')[1].click()")
        box = await page.evaluate("""(() => {
          const pad = document.querySelector("#own-pad");
          pad.scrollIntoView({ block: "center" });
          const { left, top, width, height } = pad.getBoundingClientRect();
          return { left, top, width, height };
        })()""")
        y = box["top"] + box["height"] / 2
        for kind, at in (("mousePressed", 0.25), ("mouseMoved", 0.5), ("mouseMoved", 0.75), ("mouseReleased", 0.75)):
            about = {"x": box["left"] + box["width"] * at, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
            await page.call("Input.dispatchMouseEvent", type=kind, **about)
        red = await asyncio.to_thread(stage.pixels, lambda pixels: pixels.shape[0] == 512 and pixels[256, 256, 0] > 180)
        assert red[256, 256, 2] < 90 and red[40, 40, 0] < 60
        await page.evaluate("document.querySelector('#own-clear').click()")
        await asyncio.to_thread(stage.pixels, lambda pixels: pixels[256, 256, 0] < 60)
        await page.evaluate("document.querySelector('#own-stop').click()")
        await page.until("document.querySelector('#own-stop').hidden")
        with RingWriter(f"{stage.channel}.in"):  # nobody holds it any more
            await page.evaluate("document.querySelector('#own-draw').click()")
            await page.until(f"{SAID}.startsWith('taken')")

    browse(scenario, stage)


@in_browser
def test_two_pages_hand_over(stage):
    async def scenario(one, two):
        await one.evaluate("document.querySelector('#own-draw').click()")
        await one.until(f"{SAID} === 'this is the input now'")
        await two.evaluate("document.querySelector('#own-draw').click()")
        await two.until(f"{SAID}.includes('another page sends to')")
        await two.evaluate("document.querySelector('#own-said button').click()")
        await one.until(f"{SAID}.startsWith('Another page would like')")
        await one.evaluate("document.querySelector('#own-said button').click()")
        await one.until(f"{SAID} === 'given to the other page'")
        await two.until(f"{SAID} === 'this is the input now'")

    browse(scenario, stage, tabs=2)


@in_browser
def test_who_is_asked_may_keep_it_and_the_other_is_told(stage):
    async def scenario(one, two):
        for page in (one, two):
            await page.evaluate("page.own.givesWayMs = 3000")
        await one.evaluate("document.querySelector('#own-draw').click()")
        await one.until(f"{SAID} === 'this is the input now'")
        await two.evaluate("document.querySelector('#own-draw').click()")
        await two.until(f"{SAID}.includes('another page sends to')")
        await two.evaluate("document.querySelector('#own-said button').click()")
        await one.until(f"{SAID}.includes('theirs in 3 seconds')")
        await one.evaluate("document.querySelector('#own-said button.quiet').click()")
        await two.until(f"{SAID} === 'the other page keeps it Ask again'")
        assert await one.evaluate(SAID) == "this is the input now"
        # Asked again and not answered, it is given.
        await two.evaluate("document.querySelector('#own-said button').click()")
        await one.until(f"{SAID} === 'given to the other page'")
        await two.until(f"{SAID} === 'this is the input now'")

    browse(scenario, stage, tabs=2)


FAKE_DEVICES = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
FRESH = f"{SAID} === 'this is the input now'"
LIVE_TRACKS = (
    "(page.own.held?.source.srcObject?.getTracks() ?? []).filter((track) => track.readyState === 'live').length"
)


@in_browser
def test_a_camera_and_a_window_are_sent_and_let_go(stage):
    async def scenario(page):
        for what in ("camera", "window"):
            await page.evaluate(f"document.querySelector('#own-{what}').click()", gesture=True)
            await page.until(FRESH)
            assert await page.evaluate(f"document.querySelector('#own-{what}').getAttribute('aria-pressed')") == "true"
            # The browser's own test picture moves.
            seen = set()
            await asyncio.to_thread(stage.pixels, lambda pixels, seen=seen: seen.add(pixels.tobytes()) or len(seen) > 2)
            await page.evaluate("globalThis.tracks = page.own.held.source.srcObject.getTracks()")
            await page.evaluate("document.querySelector('#own-stop').click()")
            await page.until("tracks.every((track) => track.readyState === 'ended')")
            assert await page.evaluate("document.querySelector('#own-stop').hidden")

    browse(scenario, stage, flags=FAKE_DEVICES)


@in_browser
def test_a_permission_that_is_refused_is_told_and_may_be_given_later(stage):
    async def scenario(page):
        # Without a screen the browser asks nobody: here a person says no.
        await page.evaluate("""navigator.mediaDevices.getDisplayMedia =
            () => Promise.reject(new DOMException("Permission denied", "NotAllowedError"))""")
        for what, called in (("camera", "the camera"), ("window", "the window")):
            await page.evaluate(f"document.querySelector('#own-{what}').click()", gesture=True)
            await page.until(f"{SAID}.startsWith('{called} was refused: allow it')")
            assert await page.evaluate("document.querySelector('#own-stop').hidden")
        await page.evaluate("document.querySelector('#own-draw').click()")
        await page.until(FRESH)

    browse(scenario, stage, flags=("--use-fake-device-for-media-stream", "--deny-permission-prompts"))


@in_browser
def test_a_camera_without_a_channel_can_be_switched_off(stage):
    async def scenario(page):
        with RingWriter(f"{stage.channel}.in"):
            await page.evaluate("document.querySelector('#own-camera').click()", gesture=True)
            await page.until(f"{SAID}.startsWith('taken')")
            assert await page.evaluate(LIVE_TRACKS) == 1
            await page.evaluate("document.querySelector('#own-stop').click()")
            assert await page.evaluate(LIVE_TRACKS) == 0

    browse(scenario, stage, flags=FAKE_DEVICES)


@in_browser
def test_what_comes_too_late_does_not_take_the_place_of_what_was_chosen_since(stage):
    """A permission that is given, and a film that is read, after something else was begun."""

    async def scenario(page):
        await page.evaluate("""(() => {
          const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = (wanted) => new Promise((resolve) => {
            globalThis.allow = async () => { globalThis.late = await real(wanted); resolve(late); };
          });
          const ready = HTMLImageElement.prototype.__lookupSetter__("src");
          Object.defineProperty(HTMLImageElement.prototype, "src", {
            set(address) { globalThis.arrive = () => ready.call(this, address); },
            get: HTMLImageElement.prototype.__lookupGetter__("src"),
          });
        })()""")
        await page.evaluate("document.querySelector('#own-camera').click()", gesture=True)
        await page.until("globalThis.allow !== undefined")
        await choose(page, "sun.png", "image/png", png(300, 200, (240, 120, 20)))
        await page.until("globalThis.arrive !== undefined")
        await page.evaluate("document.querySelector('#own-draw').click()")
        await page.until(FRESH)
        await page.evaluate("allow()")
        await page.evaluate("arrive()")
        await page.until("globalThis.late?.getTracks().every((track) => track.readyState === 'ended')")
        await page.evaluate("new Promise((done) => setTimeout(done, 500))")
        assert await page.evaluate(FRESH) and await page.evaluate("page.own.what") == "draw"
        assert await page.evaluate("document.querySelector('#own-draw').getAttribute('aria-pressed')") == "true"
        pixels = await asyncio.to_thread(stage.pixels, lambda pixels: True)
        assert pixels.shape[:2] == (512, 512)

    browse(scenario, stage, flags=FAKE_DEVICES)


@in_browser
def test_a_film_is_sent_again_and_again(stage):
    async def scenario(page):
        # As browsers record them: first blue, then red, a second in all.
        await page.evaluate("""(async () => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 96, height: 64 });
          const context = canvas.getContext("2d");
          const recorder = new MediaRecorder(canvas.captureStream(30), { mimeType: "video/webm" });
          const parts = [];
          recorder.ondataavailable = (event) => parts.push(event.data);
          const done = new Promise((resolve) => (recorder.onstop = resolve));
          recorder.start();
          for (let i = 0; i < 30; i += 1) {
            context.fillStyle = i < 15 ? "#1020f0" : "#f02010";
            context.fillRect(0, 0, 96, 64);
            await new Promise((resolve) => setTimeout(resolve, 33));
          }
          recorder.stop();
          await done;
          const files = new DataTransfer();
          files.items.add(new File(parts, "clip.webm", { type: "video/webm" }));
          const box = document.querySelector("#own-file");
          box.files = files.files;
          box.dispatchEvent(new Event("change"));
        })()""")
        await page.until(FRESH)
        for _ in range(3):
            await asyncio.to_thread(stage.pixels, lambda p: p.shape[:2] == (64, 96) and p[32, 48, 2] > p[32, 48, 0])
            await asyncio.to_thread(stage.pixels, lambda p: p.shape[:2] == (64, 96) and p[32, 48, 0] > p[32, 48, 2])
        await page.evaluate("document.querySelector('#own-stop').click()")

    browse(scenario, stage)


@in_browser
def test_an_animation_moves_in_its_own_time(stage):
    file = io.BytesIO()
    blue, red = (Image.new("RGB", (96, 64), colour) for colour in ("#1020f0", "#f02010"))
    blue.save(file, "GIF", save_all=True, append_images=[red], duration=200, loop=0)

    async def scenario(page):
        await choose(page, "two.gif", "image/gif", file.getvalue())
        await page.until(FRESH)
        for _ in range(2):
            await asyncio.to_thread(stage.pixels, lambda p: p.shape[:2] == (64, 96) and p[32, 48, 2] > p[32, 48, 0])
            await asyncio.to_thread(stage.pixels, lambda p: p.shape[:2] == (64, 96) and p[32, 48, 0] > p[32, 48, 2])
        await page.evaluate("document.querySelector('#own-stop').click()")
        await page.evaluate("new Promise((done) => setTimeout(done, 500))")
        assert page.problems == []

    browse(scenario, stage)

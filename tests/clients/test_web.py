"""The textures and the sample scene in a real headless Chromium: pixels are read back from WebGL."""

import asyncio
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from bridge.control.live import LiveParams
from bridge.page.files import WEB
from bridge.page.gateway import Channel, Gateway
from bridge.ring import Kind, RingReader, RingWriter
from core.params import Params
from tests import chromium
from tests.rings import fresh_channel, sweep

BROWSER = chromium.find()
ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 60.0

in_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian: apt install chromium); the textures cannot be tried"
)

BITS = 12
BAR_PX = 16

WRITER = """
import sys, time
from bridge.ring import Kind, RingWriter
from tests.clients.test_web import frame
with RingWriter(sys.argv[1]) as ring:
    number = 0
    while True:
        number += 1
        ring.write({Kind.COLOUR: frame(number)}, source_frame_id=number)
        if number == 1:
            print("writing", flush=True)
        time.sleep(0.04)
"""

# Both leave `pixels(x, y)`, the texture's texel with y from the top of the picture.
READ = {
    "three": """
        const gl = example.renderer.getContext();
        const handle = example.renderer.properties.get(texture).__webglTexture;
        const { width, height } = texture.image;
        const restore = () => example.renderer.resetState();
    """,
    "babylon": """
        const gl = example.engine._gl;
        const handle = texture._texture._hardwareTexture.underlyingResource;
        const { width, height } = texture._texture;
        const restore = () => example.engine.wipeCaches(true);
    """,
}
BARCODE = """(() => {
    const { texture } = example;
    %s
    const buffer = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, handle, 0);
    const all = new Uint8Array(width * height * 4);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, all);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.deleteFramebuffer(buffer);
    restore();
    // Row 0 of a texture is its lowest.
    const at = (x, y) => [...all.subarray(((height - 1 - y) * width + x) * 4, ((height - 1 - y) * width + x) * 4 + 4)];
    let number = 0;
    for (let bit = 0; bit < 12; bit += 1) if (at(Math.floor((bit + 0.5) * width / 12), 8)[0] > 127) number |= 1 << bit;
    return { number, left: at(2, height - 4), right: at(width - 3, height - 4), width, height,
             told: texture.sourceFrameId, age: texture.ageMs, state: texture.state, message: texture.message };
})()"""


def colours(number):
    """What the left and the right half of a frame show."""
    return [(number * 7) % 256, (number * 3) % 256, 40], [20, 250, number % 256]


def frame(number, width=96, height=64, channels=3):
    """A picture whose top rows show the low bits of its number, and whose other rows two colours made from it."""
    pixels = np.zeros((height, width, channels), np.uint8)
    left, right = colours(number)
    pixels[:, : width // 2, :3] = left
    pixels[:, width // 2 :, :3] = right
    for bit in range(BITS):
        pixels[:BAR_PX, bit * width // BITS : (bit + 1) * width // BITS, :3] = 255 * (number >> bit & 1)
    return pixels


def number_in(pixels):
    """The number that a picture shows."""
    width = pixels.shape[1]
    shown = [int(pixels[8, int((bit + 0.5) * width / BITS), 0] > 127) for bit in range(BITS)]
    return sum(value << bit for bit, value in enumerate(shown))


class Stage:
    """Two channels with their parameters, a gateway, and rings written from here."""

    def __init__(self, **options):
        self.names = [fresh_channel(), f"{fresh_channel()}-guest"]
        self.lives = [LiveParams(Params(prompt="gold style")), LiveParams()]
        self.options = options
        self.gateway = self.new_gateway(0)
        self.children = []

    def new_gateway(self, port):
        channels = [
            Channel(name, live, examples=("ink style", "wax style"))
            for name, live in zip(self.names, self.lives, strict=True)
        ]
        gateway = Gateway(channels, port=port, **self.options)
        gateway.start()
        return gateway

    def ring(self, number=0, side="out"):
        return RingWriter(f"{self.names[number]}.{side}", capacity_bytes=1 << 20)

    async def write(self, ring):
        """A process that writes frames until it is killed."""
        child = subprocess.Popen([sys.executable, "-c", WRITER, ring], cwd=ROOT, stdout=subprocess.PIPE)
        self.children.append(child)
        assert await asyncio.to_thread(child.stdout.readline)
        return child

    async def until(self, condition):
        for _ in range(1200):
            if condition():
                return
            await asyncio.sleep(0.05)
        pytest.fail("it was never so")

    def end(self):
        for child in self.children:
            child.kill()
            child.wait()
            child.stdout.close()
        self.gateway.stop()
        for name in self.names:
            sweep(name)


@pytest.fixture(scope="module")
def on_stage():
    """`on_stage(path, scenario)` runs `scenario(stage, page)` on a page of a gateway; returns the page's errors."""
    with asyncio.Runner() as runner:
        browser = chromium.Browser(BROWSER)
        runner.run(browser.__aenter__())

        async def visit(stage, path, scenario, view):
            page = await browser.page(
                f"http://127.0.0.1:{stage.gateway.port}/{path.format(*stage.names)}",
                **{"width": 320, "height": 240} | view,
            )
            try:
                await scenario(stage, page)
            finally:
                await page.close()
            return page.problems

        def run(path, scenario, options=None, **view):
            stage = Stage(**(options or {}))
            try:
                return runner.run(asyncio.wait_for(visit(stage, path, scenario, view), 300))
            finally:
                stage.end()

        yield run
        runner.run(browser.__aexit__())


async def shown(page, engine, ring, number, **about):
    """Write frame `number` and wait until the page has it on its GPU; what is in the texture then."""
    await page.until("globalThis.example !== undefined && example.texture.state === 'live'")
    ring.write({Kind.COLOUR: frame(number, **about)}, source_frame_id=number)
    await page.until(f"example.texture.sourceFrameId === {number}")
    return await page.evaluate(BARCODE % READ[engine])


def distance(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@in_browser
@pytest.mark.parametrize("engine", ["three", "babylon"])
@pytest.mark.parametrize(("codec", "slack"), [("jpeg", 16), ("rgba", 0)])
def test_the_texture_holds_the_frame_of_the_ring(on_stage, engine, codec, slack):
    async def scenario(stage, page):
        with stage.ring() as ring, stage.ring(1) as other:
            for number in (1, 77, 0xABC):
                other.write({Kind.COLOUR: frame(number + 1)}, source_frame_id=number + 1)
                # An alpha of zeros hides nothing.
                seen = await shown(page, engine, ring, number, channels=4)
                assert seen["number"] == seen["told"] == number
                left, right = colours(number)
                assert distance(seen["left"][:3], left) <= slack and distance(seen["right"][:3], right) <= slack
                assert (seen["width"], seen["height"]) == (96, 64)
                assert (seen["state"], seen["message"]) == ("live", "")
            await page.until("example.texture.ageMs !== null")
            age = await page.evaluate("example.texture.ageMs")
            assert -5.0 < age < PATIENCE_S * 1000

    assert on_stage(f"examples/{engine}.html?codec={codec}", scenario) == []


@in_browser
@pytest.mark.parametrize("engine", ["three", "babylon"])
def test_the_second_channel_is_shown_where_it_is_asked_for(on_stage, engine):
    async def scenario(stage, page):
        with stage.ring() as other, stage.ring(1, "in") as ring:
            other.write({Kind.COLOUR: frame(99)}, source_frame_id=99)
            assert (await shown(page, engine, ring, 5))["number"] == 5

    assert on_stage(f"examples/{engine}.html?channel={{1}}&side=in", scenario) == []


@in_browser
@pytest.mark.parametrize("engine", ["three", "babylon"])
def test_another_size_is_another_texture(on_stage, engine):
    async def scenario(stage, page):
        with stage.ring() as ring:
            for number, (width, height) in enumerate([(96, 64), (48, 200), (600, 40), (96, 64)], 1):
                seen = await shown(page, engine, ring, number, width=width, height=height)
                assert (seen["number"], seen["width"], seen["height"]) == (number, width, height)
        assert await page.evaluate("(example.renderer?.getContext() ?? example.engine._gl).getError()") == 0

    assert on_stage(f"examples/{engine}.html?codec=rgba", scenario) == []


@in_browser
def test_the_picture_stands_upright_in_the_drawn_view(on_stage):
    async def scenario(stage, page):
        with stage.ring() as ring:
            await shown(page, "three", ring, 0xFFF)
            drawn = await page.evaluate("""(() => {
                const { renderer, scene, camera } = example;
                const gl = renderer.getContext();
                renderer.render(scene, camera);
                const { width, height } = gl.canvas;
                const at = (x, y) => {
                    const one = new Uint8Array(4);
                    gl.readPixels(Math.round(x * width), Math.round(y * height), 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, one);
                    return [...one];
                };
                return { top: at(0.48, 0.86), left: at(0.45, 0.3), right: at(0.55, 0.3) };
            })()""")
            left, right = colours(0xFFF)
            assert min(drawn["top"][:3]) > 240
            assert distance(drawn["left"][:3], left) < 25 and distance(drawn["right"][:3], right) < 25

    assert on_stage("examples/three.html", scenario) == []


@in_browser
@pytest.mark.parametrize("engine", ["three", "babylon"])
def test_a_dead_writer_and_a_restarted_gateway_are_told_and_got_over(on_stage, engine):
    async def scenario(stage, page):
        ring = f"{stage.names[0]}.out"
        told = "example.texture.message"
        await page.until(f"globalThis.example !== undefined && {told} === 'no writer on {ring} yet'")
        child = await stage.write(ring)
        await page.until("example.texture.sourceFrameId > 3")
        child.kill()
        await page.until(f"{told} === 'the writer of {ring} is gone; the last frame stays'")
        assert await page.evaluate("example.texture.state") == "writer-gone"
        seen = await page.evaluate(BARCODE % READ[engine])
        assert seen["number"] == seen["told"] > 0
        await stage.write(ring)
        await page.until("example.texture.state === 'live'")
        port = stage.gateway.port
        await asyncio.to_thread(stage.gateway.stop)
        await page.until("example.texture.state === 'host-gone'")
        assert await page.evaluate(told) == f"no host at 127.0.0.1:{port}; trying again"
        refused = await page.evaluate("example.texture.setPrompt('x').catch((error) => error.message)")
        assert "no host at" in refused
        frames = await page.evaluate("example.texture.feed.frames")
        stage.gateway = await asyncio.to_thread(stage.new_gateway, port)
        await page.until(f"example.texture.state === 'live' && example.texture.feed.frames > {frames + 3}")
        seen = await page.evaluate(BARCODE % READ[engine])
        assert seen["number"] == seen["told"]

    problems = on_stage(f"examples/{engine}.html", scenario)
    assert all("ERR_CONNECTION_REFUSED" in problem for problem in problems)


@in_browser
@pytest.mark.parametrize(("codec", "slack"), [("jpeg", 16), ("rgba", 0)])
def test_a_canvas_that_is_sent_ends_in_the_ring(on_stage, codec, slack):
    async def scenario(stage, page):
        await page.until("globalThis.example !== undefined && example.texture.feed.channel !== undefined")
        with RingReader(f"{stage.names[0]}.in") as reader:
            await page.evaluate(
                """(() => {
                const canvas = document.createElement("canvas");
                Object.assign(canvas, { width: 96, height: 64 });
                const context = canvas.getContext("2d");
                context.fillStyle = "rgb(200, 30, 90)";
                context.fillRect(0, 0, 96, 64);
                for (let bit = 0; bit < 12; bit += 1) {
                    context.fillStyle = 0x5A3 >> bit & 1 ? "#fff" : "#000";
                    context.fillRect(bit * 8, 0, 8, 16);
                }
                globalThis.told = [];
                const onstate = (state, message) => told.push([state, message]);
                globalThis.sender = example.texture.send(canvas, { codec: CODEC, fps: 20, onstate });
            })()""".replace("CODEC", json.dumps(codec))
            )
            sent = []
            for _ in range(3):
                got = await asyncio.to_thread(reader.read, PATIENCE_S)
                pixels = got.planes[Kind.COLOUR]
                assert pixels.shape[:2] == (64, 96) and number_in(pixels) == 0x5A3
                assert np.abs(pixels[40:, :, :3].astype(int) - (200, 30, 90)).max() <= slack
                sent.append(got.source_frame_id)
            assert sent == sorted(set(sent))
            assert await page.evaluate("sender.state") == "sending"
            # A second sender is refused, in words, and takes over when the first has left.
            await page.evaluate("""(() => {
                globalThis.second = new sender.constructor(sender.url, sender.channel, sender.source, { fps: 20 });
            })()""")
            await page.until("second.state === 'refused'")
            assert "taken: " in await page.evaluate("second.message")
            await page.evaluate("sender.close()")
            await page.until("second.state === 'sending'")
            await page.evaluate("second.close()")

    assert on_stage("examples/three.html", scenario) == []


@in_browser
def test_the_prompt_is_set_and_a_wrong_value_is_refused_in_words(on_stage):
    async def scenario(stage, page):
        await page.until("globalThis.example !== undefined && example.texture.feed.values.prompt === 'gold style'")
        await page.evaluate("example.texture.setPrompt('ink style, red cone')")
        assert stage.lives[0].current.prompt == "ink style, red cone" and stage.lives[1].current == Params()
        assert await page.evaluate("example.texture.feed.values.prompt") is not None
        refused = await page.evaluate("example.texture.feed.set('steps', 99).catch((error) => error.message)")
        assert "whole number from 1 to" in refused
        stage.lives[0].set("prompt", "wax style")
        await page.until("example.texture.feed.values.prompt === 'wax style'")
        await page.evaluate("example.texture.dispose()")
        await stage.until(lambda: stage.gateway.snapshot()["viewers"] == 0)

    assert on_stage("examples/three.html", scenario) == []


@in_browser
def test_a_refusal_is_told_in_the_words_of_the_gateway(on_stage):
    async def scenario(stage, page):
        await page.until("globalThis.example !== undefined && example.texture.state === 'refused'")
        assert "unknown channel 'nothing'" in await page.evaluate("example.texture.message")

    on_stage("examples/three.html?channel=nothing", scenario)


@in_browser
def test_with_a_token_the_pages_work_and_without_it_they_say_so(on_stage):
    token = "a-word-of-the-stage"

    async def let_in(stage, page):
        with stage.ring() as ring:
            await page.until("globalThis.scene?.screens.length > 0 && scene.screens[1].texture.state === 'live'")
            ring.write({Kind.COLOUR: frame(3)}, source_frame_id=3)
            await page.until("scene.screens[1].texture.sourceFrameId === 3")
            await page.call("Page.navigate", url=f"{stage.gateway.url.replace('?', 'index.html?')}")
            await page.until("globalThis.document.querySelector('#connection')?.dataset.state === 'connected'")

    async def left_out(stage, page):
        await page.until("!document.querySelector('#notice').hidden")
        assert "open the whole address" in await page.evaluate("document.querySelector('#notice').textContent")

    assert on_stage(f"scene/?token={token}", let_in, {"token": token}) == []
    problems = on_stage("scene/", left_out, {"token": token})
    assert all("401" in problem for problem in problems)


@in_browser
@pytest.mark.parametrize("view", [{"width": 800, "height": 600}, {"width": 360, "height": 640, "mobile": True}])
def test_the_room_shows_every_channel_and_takes_prompts_and_drawings(on_stage, view, tmp_path):
    async def scenario(stage, page):
        await page.until("globalThis.scene?.screens.length === 3")
        raw, painted, guest = (f"scene.screens[{i}].texture" for i in range(3))
        await page.until(f"{raw}.message === 'no writer on {stage.names[0]}.in yet'")
        with stage.ring(0, "in") as one, stage.ring(0) as two, stage.ring(1) as three:
            for number, (ring, texture) in enumerate([(one, raw), (two, painted), (three, guest)], 1):
                await page.until(f"{texture}.state === 'live'")
                ring.write({Kind.COLOUR: frame(number)}, source_frame_id=number)
                await page.until(f"{texture}.sourceFrameId === {number}")
            # The panel is the painted screen's; its prompt is what the host has.
            await page.until("document.querySelector('#prompt').value === 'gold style'")
            await page.evaluate("(() => { const p = document.querySelector('#prompt'); p.focus(); p.select(); })()")
            await page.type("ink style")
            await page.press("Enter", 13, "\r")
            await stage.until(lambda: stage.lives[0].current.prompt == "ink style")
            await page.evaluate("document.querySelector('#examples button:nth-child(2)').click()")
            await stage.until(lambda: stage.lives[0].current.prompt == "wax style")
            # A drawing goes to the channel that visitors feed, and the view turns to it.
            with RingReader(f"{stage.names[1]}.in") as reader:
                await page.evaluate("document.querySelector('#send-drawing').click()")
                got = await asyncio.to_thread(reader.read, PATIENCE_S)
                assert got.planes[Kind.COLOUR].shape == (256, 256, 3)
                await page.until("document.querySelector('#told').textContent.startsWith('sending to ')")
                await page.until("document.querySelector('#title').textContent.includes('guest')")
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                inside = await page.evaluate(
                    "[...document.querySelectorAll('#panel, #panel button, #panel input, #drawing')]"
                    ".filter((e) => e.offsetParent && !e.closest('#examples')).map((e) => e.getBoundingClientRect())"
                    ".every((r) => r.left >= 0 && r.right <= innerWidth && r.top >= 0 && r.bottom <= innerHeight)"
                )
                assert inside
                # Without a camera it goes on; and one begins anew, in a colour of one's own.
                await page.evaluate("document.querySelector('#send-camera').click()")
                await page.until("document.querySelector('#told').textContent.startsWith('no camera: ')")
                assert await page.evaluate("scene.giving.what") == "drawing"
                assert stage.gateway.snapshot()["senders"] == 1
                await page.evaluate("document.querySelector('#clear').click()")
                await page.evaluate("document.querySelector('#wax button[title=red]').click()")
                await page.evaluate("""(() => {
                    const pad = document.querySelector("#drawing"), box = pad.getBoundingClientRect();
                    pad.setPointerCapture = () => {};
                    const at = (kind, x) => pad.dispatchEvent(
                        new PointerEvent(kind, { clientX: box.left + x, clientY: box.top + box.height / 2 }));
                    at("pointerdown", 10);
                    at("pointermove", 100);
                    at("pointerup", 100);
                })()""")
                drawn = None
                while drawn is None or abs(drawn[128, 128].astype(int) - (217, 83, 79)).max() > 24:
                    got = await asyncio.to_thread(reader.read, PATIENCE_S)
                    drawn = got.planes[Kind.COLOUR]
                assert abs(drawn[:64].astype(int) - 138).max() <= 8 and abs(drawn[-64:].astype(int) - 138).max() <= 8
                await page.screenshot(tmp_path / "drawing.png")
                await page.evaluate("document.querySelector('#send-drawing').click()")
                await stage.until(lambda: stage.gateway.snapshot()["senders"] == 0)
        await page.until(f"{painted}.state === 'writer-gone'")
        # The screen itself says so.
        await page.until("scene.screens[1].notice.text.includes('is gone; the last frame stays')")
        origins = await page.evaluate(
            "[...new Set(performance.getEntriesByType('resource').map((e) => e.name.split('/')[2] || 'data'))]"
        )
        assert set(origins) <= {f"127.0.0.1:{stage.gateway.port}", "data"}
        picture = tmp_path / "room.png"
        await page.screenshot(picture)
        assert picture.stat().st_size > 5000
        await asyncio.to_thread(stage.gateway.stop)
        await page.until("scene.screens[1].notice.text.startsWith('no host at')")

    problems = on_stage("scene/", scenario, **view)
    assert all("ERR_CONNECTION_REFUSED" in problem for problem in problems)


ELSEWHERE = """<!doctype html><title>elsewhere</title><link rel="icon" href="data:,">
<script type="importmap">{"imports": {"three": "GATEWAYvendor/three.min.js"}}</script>
<script type="module">
import { WebGLRenderer } from "three";
import { FrameloomTexture } from "GATEWAYframeloom-three.js";
const renderer = new WebGLRenderer();
globalThis.example = { renderer, texture: new FrameloomTexture("GATEWAY", "CHANNEL", { renderer }) };
</script>"""


@in_browser
@pytest.mark.parametrize("allowed", [True, False])
def test_a_page_of_another_origin_shows_a_channel_when_it_is_allowed(on_stage, allowed):
    class Page(BaseHTTPRequestHandler):
        text = b""

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(self.text)

        def log_message(self, *about):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        origin = f"http://127.0.0.1:{server.server_port}"

        async def scenario(stage, page):
            gateway = f"http://127.0.0.1:{stage.gateway.port}/"
            Page.text = ELSEWHERE.replace("GATEWAY", gateway).replace("CHANNEL", stage.names[0]).encode()
            await page.call("Page.navigate", url=origin)
            await page.until("document.title === 'elsewhere' && document.readyState === 'complete'")
            if allowed:
                with stage.ring() as ring:
                    assert (await shown(page, "three", ring, 11))["number"] == 11
            else:
                await asyncio.sleep(0.5)
                assert await page.evaluate("globalThis.example === undefined")
                assert stage.gateway.snapshot()["viewers"] == 0

        try:
            problems = on_stage("vendor/three.min.js", scenario, {"allowed_origins": [origin] if allowed else []})
        finally:
            server.shutdown()
            serving.join()
    assert (problems == []) == allowed


@in_browser
def test_a_feed_survives_garbage_from_whatever_answers(on_stage):
    async def scenario(stage, page):
        await page.until("globalThis.example !== undefined && example.texture.state === 'no-writer'")
        errors = await page.evaluate("""(async () => {
            const feed = await import("/frameloom-feed.js");
            const bad = [new ArrayBuffer(0), new ArrayBuffer(300), feed.pack({ width: 2, height: 2, codec: 2,
                payload: new Uint8Array(16) }).buffer.slice(0, -1)];
            const tried = (buffer) => {
                try { feed.unpack(buffer); return ""; } catch (error) { return error.message; }
            };
            return bad.map(tried);
        })()""")
        assert [bool(error) for error in errors] == [True, True, True]
        # Something else than a picture in a well-formed packet is told; the next picture is shown.
        await page.evaluate("""(async () => {
            const feed = await import("/frameloom-feed.js");
            const bad = feed.pack({ width: 2, height: 2, codec: 1, payload: new Uint8Array(9) });
            globalThis.garbage = () => example.texture.feed._take(example.texture.feed._socket, bad.buffer);
            garbage();
        })()""")
        await page.until("example.texture.state === 'error'")
        assert "cannot be shown" in await page.evaluate("example.texture.message")
        with stage.ring() as ring:
            assert (await shown(page, "three", ring, 6))["number"] == 6
            await page.evaluate("garbage()")
            await page.until("example.texture.state === 'error'")
            ring.write({Kind.COLOUR: frame(7)}, source_frame_id=7)
            await page.until("example.texture.sourceFrameId === 7 && example.texture.state === 'live'")

    assert on_stage("examples/three.html", scenario) == []


def test_the_vendored_engines_are_small_and_come_with_their_licences():
    files = {path.name: path.stat().st_size for path in (WEB / "vendor").iterdir()}
    assert {"three.min.js", "babylon.min.js", "LICENSE.three", "LICENSE.babylon", "VERSIONS"} <= set(files)
    assert sum(files.values()) < 3_000_000
    wanted = json.loads((WEB / "build" / "package.json").read_text())["devDependencies"]
    for line in (WEB / "vendor" / "VERSIONS").read_text().splitlines():
        name, version = line.split()
        assert wanted[name] == version
    lock = (WEB / "build" / "package-lock.json").read_text()
    assert "resolved" not in lock and "http" not in lock.replace("https://opencollective", "").replace(
        "https://github.com", ""
    )

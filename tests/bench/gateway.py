"""frameloom bench gateway: from publication in the ring to a texel read back from a texture in headless Chromium.

A writer process publishes 512x512 frames at 60 per second in each of eight channels; every frame carries its number and
the time of its publication as a barcode, which the page reads back from the texture with WebGL, so nothing is counted
that was not on the GPU. The page's clock is compared with the gateway's over the socket. In turn, in the same browser,
with one channel looked at: the host's page and the projector output, read back from their canvas; the three.js texture
fed by JPEG (what is recommended), the same fed by raw RGBA, and what one would do without us, an <img> with Motion JPEG
uploaded at every animation frame. Then page and projector output once more while others look at the seven further
channels. How long the page takes to its first paint. Then 32 viewers of one channel in a process of their own: how
often a frame is encoded for them, and what a further viewer that stops reading does to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from bridge.commands.arguments import Parser
from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.page import gateway as gateway_module
from bridge.page import ring_view
from bridge.page.gateway import Channel, Gateway
from tests import chromium
from tests.bench.report import bar, emit, percentile, table
from tests.rings import fresh_channel, sweep

TEXTURE_BAR_MS = 12.0
FIRST_PAINT_BAR_MS = 300.0
CHANNELS = 8
LOADS = 9
STALLED_BAR = 1.2
SIZE_PX = 512
FPS = 60
VIEWERS = 32
CELL_PX = 8
NUMBER_BITS, TIME_BITS = 16, 40

# Soft shapes and some noise: neither flat nor incompressible.
WRITER = """
import contextlib, sys, time
import numpy as np
from bridge.ring import Kind, RingWriter
names, size, fps, cell, number_bits, time_bits = sys.argv[1].split(","), *map(int, sys.argv[2:])
rng = np.random.default_rng(0)
y, x = np.mgrid[0:size, 0:size] / size
base = np.stack([np.sin(9 * x + 3 * y), np.cos(7 * y - 2 * x), np.sin(5 * x * y)], -1) * 100 + 128
noise = rng.normal(0, 3, base.shape)
frames = [(np.roll(base, 8 * i, axis=1) + noise).clip(0, 255).astype(np.uint8) for i in range(64)]
with contextlib.ExitStack() as stack:
    rings = [stack.enter_context(RingWriter(name, capacity_bytes=size * size * 4)) for name in names]
    number, due = 0, time.monotonic()
    print("writing", flush=True)
    while True:
        due += 1 / fps
        time.sleep(max(0.0, due - time.monotonic()))
        number += 1
        frame = frames[number % 64]
        stamp = time.monotonic_ns() // 1000 % (1 << time_bits)
        bits = [number >> i & 1 for i in range(number_bits)] + [stamp >> i & 1 for i in range(time_bits)]
        frame[: 2 * cell, : cell * len(bits)] = np.repeat(np.array(bits, np.uint8) * 255, cell)[None, :, None]
        for ring in rings:
            ring.write({Kind.COLOUR: frame}, source_frame_id=number)
"""

# Viewers as a browser would be, without the decoding: they note how old a frame is when it has arrived whole.
VIEWERS_CODE = """
import asyncio, json, sys, time
import aiohttp
from bridge.page.packet import unpack
urls, count, seconds = sys.argv[1].split(","), int(sys.argv[2]), float(sys.argv[3])
async def view(session, url, ages, sequences):
    async with session.ws_connect(url, max_msg_size=0) as ws:
        await ws.send_str('{"type": "credit", "n": 2}')
        first = None
        async for message in ws:
            if message.type != aiohttp.WSMsgType.BINARY:
                continue
            now = time.monotonic_ns()
            header, _ = unpack(message.data)
            first = first or now
            if now - first > seconds * 1e9:
                return
            if now - first > 0.5e9:
                ages.append((now - header.publish_ns) / 1e6)
            sequences.add(header.sequence)
            await ws.send_str('{"type": "credit", "n": 1}')
async def main():
    ages, sequences = [], set()
    async with aiohttp.ClientSession(trust_env=False) as session:
        await asyncio.gather(*(view(session, url, ages, sequences) for url in urls for _ in range(count)))
    print(json.dumps({"ages": ages, "frames": len(sequences)}))
asyncio.run(main())
"""

READING = (
    """
    const cell = CELL, numberBits = NUMBER_BITS, timeBits = TIME_BITS, wrap = 2 ** timeBits;
    globalThis.seen = { ages: [], torn: 0, last: -1 };
    // The barcode's row of a picture: is it the frame that was told, and how old is it?
    globalThis.note = (row, clock, told) => {
        const read = (from, bits) => {
            let value = 0;
            for (let i = 0; i < bits; i += 1) if (row[((from + i) * cell + cell / 2) * 4] > 127) value += 2 ** i;
            return value;
        };
        const number = read(0, numberBits);
        if (number === seen.last || clock.sinceMs(0) === null) return;
        seen.last = number;
        if (told !== null && number !== told % 2 ** numberBits) seen.torn += 1;
        const nowUs = clock.sinceMs(0) * 1000;
        seen.ages.push((((nowUs - read(numberBits, timeBits)) % wrap) + wrap) % wrap / 1000);
    };
    // The row y of a texture, from its own row 0.
    globalThis.look = (handle, y, clock, told) => {
        const row = new Uint8Array(cell * (numberBits + timeBits) * 4);
        globalThis.buffer ??= gl.createFramebuffer();
        gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
        gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, handle, 0);
        gl.readPixels(0, y, cell * (numberBits + timeBits), 1, gl.RGBA, gl.UNSIGNED_BYTE, row);
        gl.bindFramebuffer(gl.FRAMEBUFFER, null);
        note(row, clock, told);
    };
""".replace("NUMBER_BITS", str(NUMBER_BITS))
    .replace("TIME_BITS", str(TIME_BITS))
    .replace("CELL", str(CELL_PX))
)

# Software GL draws a scene far slower than any GPU: what is timed is the way to the texture, so nothing is drawn.
TEXTURE = f"""(() => {{
    const {{ texture, renderer }} = example;
    const gl = renderer.getContext();
    {READING}
    if (!DRAWING) renderer.setAnimationLoop(null);
    texture.addEventListener("frame", () => {{
        const handle = renderer.properties.get(texture).__webglTexture;
        look(handle, {SIZE_PX - 1 - CELL_PX}, texture.feed, texture.sourceFrameId);
        renderer.resetState();
    }});
    globalThis.clock = texture.feed;
}})()"""

MJPEG = f"""(async () => {{
    const gl = document.createElement("canvas").getContext("webgl2");
    {READING}
    const {{ Feed }} = await import("/frameloom-feed.js");
    // Its side has no writer: it brings the clock and no picture.
    globalThis.clock = new Feed(location.origin, CHANNEL, {{ side: "in" }});
    const image = document.body.appendChild(new Image());
    image.src = `/stream.mjpg?channel=${{CHANNEL}}`;
    const handle = gl.createTexture();
    const loop = () => {{
        requestAnimationFrame(loop);
        if (!image.naturalWidth) return;
        gl.bindTexture(gl.TEXTURE_2D, handle);
        gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, image);
        look(handle, {CELL_PX}, clock, null);
    }};
    loop();
}})()"""


# The host's page and the projector output draw on a canvas, and then say which frame it is.
CANVAS = f"""(async () => {{
    {READING}
    const {{ Feed }} = await import("/frameloom-feed.js");
    globalThis.clock = new Feed(location.href, CHANNEL, {{ side: "in" }});
    const canvas = document.querySelector(SELECTOR);
    const look = () => {{
        const {{ data }} = canvas.getContext("2d").getImageData(0, cell, cell * (numberBits + timeBits), 1);
        note(data, clock, Number(canvas.dataset.sourceFrameId));
    }};
    new MutationObserver(look).observe(canvas, {{ attributes: true, attributeFilter: ["data-source-frame-id"] }});
}})()"""

FIRST_PAINT = (
    "performance.getEntriesByType('paint').find((entry) => entry.name === 'first-contentful-paint')?.startTime"
)


async def first_paints(browser: chromium.Browser, url: str) -> list[float]:
    """Milliseconds from the navigation to the first paint with a word in it, of each load; nothing is cached."""
    found = []
    for _ in range(LOADS):
        page = await browser.page("about:blank#new", 1280, 800)
        await page.call("Network.setCacheDisabled", cacheDisabled=True)
        await page.call("Page.navigate", url=url)
        await page.until(f"({FIRST_PAINT}) > 0 && globalThis.page?.controls.size > 0")
        found.append(await page.evaluate(FIRST_PAINT))
        await page.close()
    return found


async def in_the_page(browser: chromium.Browser, url: str, script: str, frames: int) -> dict[str, Any]:
    """Ages in ms of `frames` frames after a warm-up, as the script in the page saw them."""
    page = await browser.page(url, 320, 240)
    try:
        if "examples/" in url:
            await page.until("globalThis.example !== undefined")
        await page.evaluate(script)
        warm_up = 60
        await page.until(f"seen.ages.length >= {warm_up}")
        # A fresh comparison of the clocks, and no frames of the warm-up.
        await page.evaluate("Object.assign(seen, { ages: [], torn: 0 })")
        began = time.monotonic()
        while await page.evaluate("seen.ages.length") < frames:
            if time.monotonic() - began > 60:
                break
            await asyncio.sleep(0.25)
        seen = await page.evaluate("seen")
        seen["seconds"] = time.monotonic() - began
        seen["clock_error_ms"] = await page.evaluate("clock.clockErrorMs")
    finally:
        await page.close()
    return seen


def viewer_words(urls: Sequence[str], count: int, seconds: float) -> list[str]:
    """The process of `count` viewers of each of the WebSockets."""
    return [sys.executable, "-c", VIEWERS_CODE, ",".join(urls).replace("http", "ws"), str(count), str(seconds)]


def many(url: str, count: int, seconds: float) -> dict[str, Any]:
    """`count` viewers in a process of their own; ages in ms and how many different frames came."""
    words = viewer_words([url], count, seconds)
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=seconds + 60)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextlib.contextmanager
def counted() -> Iterator[Counter[tuple[Any, Any]]]:
    """How often each frame is encoded in each codec."""
    counts: Counter[tuple[Any, Any]] = Counter()
    encode = ring_view.encode

    def counting(picture: Any, codec: Any) -> Any:
        packet = encode(picture, codec)
        counts[packet.key, codec] += 1
        return packet

    ring_view.encode = counting
    try:
        yield counts
    finally:
        ring_view.encode = encode


@contextlib.contextmanager
def stalled(port: int) -> Iterator[None]:
    """A viewer of raw pixels that asks for all it may and never reads a byte."""
    credit = b'{"type": "credit", "n": 2}'
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sendall(
            b"GET /ws?codec=rgba HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        frame = bytes([0x81, 0x80 | len(credit), 0, 0, 0, 0]) + credit
        for _ in range(3):
            peer.sendall(frame)
            time.sleep(0.1)
        yield


@contextlib.contextmanager
def looked_at(urls: Sequence[str]) -> Iterator[None]:
    """Somebody else looks at each of the WebSockets."""
    viewers = subprocess.Popen(viewer_words(urls, 1, 600.0), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        viewers.kill()
        viewers.wait()


def percentiles(ages: list[float]) -> dict[str, float]:
    return {name: percentile(ages, q) for name, q in (("p50", 50), ("p95", 95), ("p99", 99))}


async def measure(
    gateway: Any, channels: Sequence[str], browser_path: str, frames: int
) -> tuple[dict[str, Any], list[float]]:
    """What was seen by each way of showing the first of the channels, and the page's first paints in ms."""
    results: dict[str, Any] = {}
    channel = channels[0]
    base = f"http://127.0.0.1:{gateway.port}/"
    page, projector = (
        CANVAS.replace("CHANNEL", json.dumps(channel)).replace("SELECTOR", json.dumps(selector))
        for selector in ("#side-out canvas.picture", "#picture")
    )
    others = [f"{base}ws?channel={name}" for name in channels[1:]]
    async with chromium.Browser(browser_path) as browser:
        paints = await first_paints(browser, base)
        for name, url, script in (
            ("page", base, page),
            ("projector output", f"{base}out/", projector),
            ("texture, JPEG", f"{base}examples/three.html?codec=jpeg", TEXTURE.replace("DRAWING", "false")),
            ("texture, raw RGBA", f"{base}examples/three.html?codec=rgba", TEXTURE.replace("DRAWING", "false")),
            ("texture, JPEG, scene drawn too", f"{base}examples/three.html", TEXTURE.replace("DRAWING", "true")),
            ("<img>, Motion JPEG", f"{base}vendor/three.min.js", MJPEG.replace("CHANNEL", json.dumps(channel))),
            (f"page, {CHANNELS} channels looked at", base, page),
            (f"projector output, {CHANNELS} channels looked at", f"{base}out/", projector),
        ):
            with looked_at(others) if name.endswith("looked at") else contextlib.nullcontext():
                seen = await in_the_page(browser, url, script, frames)
            results[name] = {
                **percentiles(seen["ages"]),
                "frames": len(seen["ages"]),
                "shown_per_s": len(seen["ages"]) / seen["seconds"],
                "torn": seen["torn"],
                "clock_error_ms": seen["clock_error_ms"],
            }
    return results, paints


def main(argv: list[str] | None = None) -> int:
    parser = Parser("bench gateway", description=__doc__)
    parser.add_argument("--frames", type=int, default=600, help="per way of showing them (default 600)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run with many viewers (default 5)")
    args = parser.parse_args(argv)
    browser = chromium.find()
    if browser is None:
        raise SystemExit("this benchmark needs Chromium (Debian: apt install chromium)")
    channels = [fresh_channel() for _ in range(CHANNELS)]
    words = [",".join(f"{name}.out" for name in channels), SIZE_PX, FPS, CELL_PX, NUMBER_BITS, TIME_BITS]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, *map(str, words)], stdout=subprocess.PIPE)
    gateway = Gateway([Channel(name, LiveParams(), Statistics()) for name in channels], port=0)
    gateway.start()
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        shown, paints = asyncio.run(measure(gateway, channels, browser, args.frames))
        url = f"http://127.0.0.1:{gateway.port}/ws"
        with counted() as encodes:
            crowd = many(url, VIEWERS, args.seconds)
        # Dropped after five seconds as it should be, it could no longer disturb: here it may stay.
        gateway_module.SEND_TIMEOUT_S = 1000.0
        alone = many(url, 4, args.seconds)["ages"]
        with stalled(gateway.port):
            beside = many(url, 4, args.seconds)["ages"]
        again = many(url, 4, args.seconds)["ages"]
    finally:
        gateway.stop()
        writer.kill()
        writer.wait()
        if writer.stdout is not None:
            writer.stdout.close()
        for name in channels:
            sweep(name)
    others = percentile(alone + again, 50)
    results = {
        "publish_to_picture_ms": shown,
        "first_paint_ms": {"median": percentile(paints, 50), "worst": max(paints), "loads": len(paints)},
        "viewers_32": {
            **percentiles(crowd["ages"]),
            "frames": crowd["frames"],
            "encodes_of_one_frame": max(encodes.values()),
        },
        "stalled_viewer": {"others_alone": percentiles(alone + again), "others_beside_it": percentiles(beside)},
    }
    table(
        ("publish to picture, ms", "p50", "p95", "p99", "shown/s", "clock error"),
        [[name, r["p50"], r["p95"], r["p99"], r["shown_per_s"], r["clock_error_ms"]] for name, r in shown.items()],
    )
    print(f"\nfirst paint of the page: median {percentile(paints, 50):.0f} ms, worst {max(paints):.0f} ms\n")
    table(
        ("publish to a viewer, ms", "p50", "p95", "p99"),
        [
            [name, *percentiles(ages).values()]
            for name, ages in (
                (f"{VIEWERS} viewers", crowd["ages"]),
                ("4 viewers", alone + again),
                ("4 beside one that stopped reading", beside),
            )
        ],
    )
    emit(
        "gateway",
        results,
        [
            bar("publish to texture, JPEG, median ms", shown["texture, JPEG"]["p50"], TEXTURE_BAR_MS, at_most=True),
            *(
                bar(f"publish to picture, {name}, median ms", shown[name]["p50"], TEXTURE_BAR_MS, at_most=True)
                for name in shown
                if name.startswith(("page", "projector"))
            ),
            bar("first paint of the page, median ms", percentile(paints, 50), FIRST_PAINT_BAR_MS, at_most=True),
            bar("frames that were not the frame announced", sum(s["torn"] for s in shown.values()), 0, at_most=True),
            bar("encodes per frame for 32 viewers", max(encodes.values()), 1.0, at_most=True),
            bar(
                "others' median beside a viewer that stopped reading",
                percentile(beside, 50) / others,
                STALLED_BAR,
                at_most=True,
            ),
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

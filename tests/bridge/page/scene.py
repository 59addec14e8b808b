"""A gateway with rings written by a process of its own, for the tests of the page in a real headless Chromium."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.control.live import LiveParams
from bridge.control.presets import Presets
from bridge.control.shelf import Shelf
from bridge.control.statistics import Statistics
from bridge.page.gateway import Channel, Gateway
from tests import chromium
from tests.rings import fresh_channel, sweep

BROWSER = chromium.find()
ROOT = Path(__file__).resolve().parents[3]

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian: apt install chromium); the page cannot be tried"
)

# Frames of 96 x 64 whose top 16 rows show the low 12 bits of their number, 8 pixels a bit, and whose other rows are a
# colour that follows from the number.
WRITER = """
import sys, time
import numpy as np
from bridge.ring import Kind, RingWriter
name = sys.argv[1]
with RingWriter(name + ".in", capacity_bytes=1 << 16) as a, RingWriter(name + ".out", capacity_bytes=1 << 16) as b:
    number = 0
    while True:
        number += 1
        for ring, shift in ((a, 0), (b, 100)):
            pixels = np.empty((64, 96, 3), np.uint8)
            bits = [(number >> bit) & 1 for bit in range(12)]
            pixels[:16] = np.repeat(np.array(bits, np.uint8) * 255, 8)[None, :, None]
            pixels[16:] = ((number * 7 + shift) % 256, (number * 3) % 256, shift)
            ring.write({Kind.COLOUR: pixels}, source_frame_id=number)
        if number == 1:
            print("writing", flush=True)
        time.sleep(0.04)
"""

# What the gateway tells the page waits until `letGo()`.
HOLD_WHAT_IS_TOLD = """(() => {
    const { socket } = page.sides.out;
    const hear = socket.onmessage;
    const told = [];
    socket.onmessage = (event) => told.push(event);
    globalThis.letGo = () => {
        socket.onmessage = hear;
        for (const event of told.splice(0)) hear(event);
    };
})()"""

# What the gateway answered to requests of PATH waits in `answers`; each comes when it is called.
HOLD_ANSWERS = """(() => {
    const ask = globalThis.fetch;
    globalThis.answers = [];
    globalThis.fetch = async (path, ...about) => {
        const answer = await ask(path, ...about);
        if (!path.startsWith("PATH")) return answer;
        const body = await answer.json();
        const json = () => new Promise((done) => answers.push(() => done(body)));
        return { ok: answer.ok, status: answer.status, json };
    };
})()"""


class Scene:
    """A gateway, a browser with its page, and a writer process when asked for. hosted: whether a host is in the
    gateway's process; host: what it tells of itself. shelf: the folder of its presets; None where none are kept."""

    def __init__(self, examples=("wax style, green box", "ink style, green box"), hosted=True, shelf=None, host=None):
        self.examples = examples
        self.host = host
        self.hosted = hosted
        self.channel = fresh_channel()
        self.live = LiveParams()
        self.statistics = Statistics()
        self.presets = None if shelf is None else Presets(self.live, Shelf(shelf))
        self.writer = None
        self.gateway = self.new_gateway(0)
        self.gateway.start()

    def new_gateway(self, port):
        about = (self.live, self.statistics) if self.hosted else (None, None)
        return Gateway([Channel(self.channel, *about, self.examples, self.host, self.presets)], port=port)

    async def write(self):
        """Start the writer process and wait for its first frame."""
        command = [sys.executable, "-c", WRITER, self.channel]
        self.writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert await asyncio.to_thread(self.writer.stdout.readline)

    def kill_writer(self):
        if self.writer is not None:
            self.writer.kill()
            self.writer.wait()
            self.writer.stdout.close()
            self.writer = None

    def end(self):
        self.kill_writer()
        if self.presets is not None:
            self.presets.stop()
        self.gateway.stop()
        sweep(self.channel)

    async def until(self, condition):
        for _ in range(1200):
            if condition():
                return
            await asyncio.sleep(0.05)
        pytest.fail("the host never saw it")

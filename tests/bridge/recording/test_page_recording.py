"""Recording from the page: a process beside the host, told to everybody who looks."""

import asyncio
import subprocess
import sys

import aiohttp
import pytest

from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.page.errors import RecordingRefused
from bridge.page.gateway import Channel, Gateway
from bridge.recording.file import RecordingReader
from bridge.recording.process import RecordingProcess
from tests import chromium
from tests.bridge.recording.test_recording import FEED, PATIENCE_S, until
from tests.rings import fresh_channel, sweep

BROWSER = chromium.find()


class Stage:
    def __init__(self, folder):
        self.channel = fresh_channel()
        self.live = LiveParams()
        self.recordings = RecordingProcess(self.channel, folder, lambda: self.gateway.url)
        channel = Channel(self.channel, self.live, Statistics(), recordings=self.recordings)
        self.gateway = Gateway([channel], port=0)
        self.gateway.start()
        self.feed = subprocess.Popen([sys.executable, "-c", FEED, self.channel], stdout=subprocess.PIPE)
        assert self.feed.stdout.readline()

    def end(self):
        self.feed.kill()
        self.feed.wait()
        self.feed.stdout.close()
        self.recordings.stop()
        self.gateway.stop()
        sweep(self.channel)


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path / "recordings")
    yield stage
    stage.end()


def test_a_recording_from_the_page_has_frames_and_parameters(stage):
    async def scenario():
        url = f"http://127.0.0.1:{stage.gateway.port}/ws"
        async with aiohttp.ClientSession(trust_env=False) as session, session.ws_connect(url) as ws:

            async def hears(condition):
                while True:
                    heard = (await ws.receive(PATIENCE_S)).json()
                    if condition(heard):
                        return heard

            async def ask(do):
                await ws.send_json({"type": "record", "do": do})
                return await hears(lambda heard: heard["type"] in ("ok", "error"))

            assert (await ask("start"))["type"] == "ok"
            assert "recorded already" in (await ask("start"))["message"]
            assert '"start" or "stop"' in (await ask("pause"))["message"]
            shown = (await hears(lambda heard: heard["type"] == "stats" and heard["recording"]["active"]))["recording"]
            file = stage.recordings._file
            assert shown["file"] == str(file)
            await asyncio.to_thread(
                until, lambda: file.exists() and {"in", "out", "params"} <= {e.topic for e in RecordingReader(file)}
            )
            assert (await ask("stop"))["type"] == "ok"
            last = await hears(lambda heard: heard["type"] == "stats" and not heard["recording"]["active"])
            assert last["recording"]["message"].startswith(f"recorded into {file}: ")

    asyncio.run(asyncio.wait_for(scenario(), 4 * PATIENCE_S))
    reader = RecordingReader(stage.recordings._file)
    assert sum(1 for _ in reader) > 2 and reader.ending == ""


def test_a_recorder_that_dies_or_cannot_begin_is_told(stage, tmp_path):
    stage.recordings.start()
    stage.recordings._process.kill()
    until(lambda: stage.recordings.state()["message"])
    assert "the recording ended" in stage.recordings.state()["message"]
    stage.recordings.start()  # and another one may begin
    stage.recordings.stop()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingRefused, match="--recordings FOLDER"):
        RecordingProcess(stage.channel, tmp_path / "file" / "x", lambda: "").start()


def test_the_recorder_ends_with_its_host(tmp_path):
    """Also when the host is killed and can tell it nothing."""
    channel = fresh_channel()
    host = """
import sys, time
from pathlib import Path
from bridge.recording.process import RecordingProcess
recordings = RecordingProcess(sys.argv[1], Path(sys.argv[2]), lambda: "127.0.0.1:1")
recordings.start()
print(recordings._process.pid, flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", host, channel, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline()
        until(lambda: list(tmp_path.glob("*.mcap")))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    (file,) = tmp_path.glob("*.mcap")

    def ended():
        reader = RecordingReader(file)
        for _ in reader:
            pass
        return reader.ending == ""

    until(ended)


in_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian: apt install chromium); the page cannot be tried"
)


@in_browser
def test_the_button_records(stage):
    async def scenario():
        async with chromium.Browser(BROWSER) as browser:
            page = await browser.page(stage.gateway.url)
            await page.until("document.querySelector('#record').hidden === false")
            await page.evaluate("document.querySelector('#record').click()")
            await page.until("document.querySelector('#record').textContent.startsWith('Stop 0:0')")
            await asyncio.to_thread(until, lambda: stage.recordings._file.exists())
            await page.evaluate("document.querySelector('#record').click()")
            await page.until("document.querySelector('#notice').textContent.startsWith('recorded into')")
            assert page.problems == []

    asyncio.run(asyncio.wait_for(scenario(), 4 * PATIENCE_S))
    assert RecordingReader(stage.recordings._file).about["channel"] == stage.channel


@in_browser
@pytest.mark.parametrize("view", [{"width": 800, "height": 600}, {"width": 390, "height": 844, "mobile": True}])
def test_the_scene_records_and_keeps_a_picture(stage, view):
    """The screen in front, whichever side of the channel it shows."""

    async def scenario():
        async with chromium.Browser(BROWSER) as browser:
            page = await browser.page(f"{stage.gateway.url}scene/", **view)
            await page.until("globalThis.scene?.screens.length === 2")
            await page.until("document.querySelector('#record').hidden === false")
            await page.evaluate("document.querySelector('#record').click()")
            await page.until("document.querySelector('#record').textContent.startsWith('Stop 0:0')")
            await asyncio.to_thread(until, lambda: stage.recordings._file.exists())
            # A second page cannot begin another one, and is told.
            refused = "scene.screens[0].texture.feed.record(true).then(() => '', (error) => error.message)"
            assert "recorded already" in await page.evaluate(refused)
            await page.evaluate("scene.choose(0)")
            await page.until("document.querySelector('#record').textContent.startsWith('Stop 0:0')")
            await page.evaluate("document.querySelector('#record').click()")
            await page.until("document.querySelector('#told').textContent.startsWith('recorded into')")
            shown = await page.evaluate("""(async () => {
                const answer = await fetch(document.querySelector('#snapshot').href);
                const bitmap = await createImageBitmap(await answer.blob());
                const buttons = [...document.querySelectorAll('#panel button, #panel a')];
                const inside = buttons.filter((b) => b.checkVisibility()).every((b) => {
                    const r = b.getBoundingClientRect();
                    return b.closest('#examples') || (r.left >= 0 && r.right <= innerWidth && r.bottom <= innerHeight);
                });
                return { width: bitmap.width, side: new URL(answer.url).searchParams.get('side'), inside };
            })()""")
            assert shown["width"] > 1 and shown["side"] == "in" and shown["inside"]
            assert page.problems == []

    asyncio.run(asyncio.wait_for(scenario(), 4 * PATIENCE_S))
    assert RecordingReader(stage.recordings._file).about["channel"] == stage.channel

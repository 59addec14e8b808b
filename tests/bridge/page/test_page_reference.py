"""Reference pictures from the page: a file that is sent, or what the channel shows; over HTTP and in a browser."""

import asyncio
import base64
import io
from dataclasses import replace

import aiohttp
import numpy as np
import pytest

from bridge.control.live import LiveParams
from bridge.control.references import MAX_PICTURE_BYTES, References
from bridge.control.statistics import Statistics
from bridge.page.gateway import Channel, Gateway
from bridge.page.thumbnail import still_of
from bridge.ring import Kind, RingWriter
from core.params import AS_STARTED, SPECS, Params
from core.references import named, read
from tests import chromium
from tests.bridge.page.scene import BROWSER, needs_browser
from tests.core.test_references import RED
from tests.rings import fresh_channel, sweep

PATIENCE_S = 60


class Adapted:
    """What a host with an IP-Adapter tells of itself."""

    phase, words, model_name, preparing = "ready", None, "model", ""

    def __init__(self, folder):
        self.folder = folder

    @property
    def specs(self):
        choices = tuple(named([], self.folder))
        reference = replace(SPECS["reference"], kind="choice", choices=choices, main=True)
        return tuple(reference if spec.name == "reference" else spec for spec in SPECS.values())


class Stage:
    def __init__(self, folder, kept=True, **more):
        self.channel = fresh_channel()
        self.folder = folder
        self.live = LiveParams(Params())
        references = References(self.channel, self.live, folder, tuple, lambda: True, still_of)
        about = {"host": Adapted(folder), "references": references if kept else None}
        self.gateway = Gateway([Channel(self.channel, self.live, Statistics(), **about)], port=0, **more)
        self.gateway.start()

    def address(self, query=""):
        return f"http://127.0.0.1:{self.gateway.port}/reference{query}"

    def post(self, query="", data=b"", headers=None):
        data = io.BytesIO(data)

        async def run():
            async with aiohttp.ClientSession(trust_env=False) as session:
                async with session.post(self.address(query), data=data, headers=headers) as answer:
                    return answer.status, await answer.text()

        return asyncio.run(asyncio.wait_for(run(), PATIENCE_S))

    def end(self):
        self.gateway.stop()
        sweep(self.channel)


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path / "kept")
    yield stage
    stage.end()


def test_a_picture_that_is_posted_becomes_the_reference(stage):
    assert stage.post("?name=sun.png", RED) == (200, '{"reference": "sun.jpg"}')
    assert stage.live.current.reference == "sun.jpg"
    with RingWriter(f"{stage.channel}.in") as writer:
        writer.write({Kind.COLOUR: np.full((32, 48, 3), (40, 40, 250), np.uint8)})
        status, text = stage.post("?take=in")
    assert status == 200 and stage.live.current.reference in text
    assert np.asarray(read(stage.folder / stage.live.current.reference))[0, 0, 2] > 230


@pytest.mark.parametrize(
    ("query", "data", "status", "words"),
    [
        ("?name=notes.txt", b"only words", 400, "notes.txt cannot be read as a picture"),
        ("", b"", 400, "picture cannot be read as a picture"),
        ("?name=big.png", bytes(MAX_PICTURE_BYTES + 1), 400, "a picture may have 32 MB; make it smaller"),
        ("?take=in", b"", 400, "there is no picture on"),
        ("?channel=none", RED, 404, "unknown channel 'none'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(stage, query, data, status, words):
    told = stage.post(query, data)
    assert told[0] == status and words in told[1] and "\n" not in told[1]
    assert stage.live.current.reference == AS_STARTED
    assert not stage.folder.exists()


def test_strangers_are_refused(stage, tmp_path):
    assert stage.post("?name=sun.png", RED, {"Origin": "https://elsewhere.example"})[0] == 403
    assert stage.live.current.reference == AS_STARTED
    guarded = Stage(tmp_path / "guarded", token="a-long-word")
    try:
        assert guarded.post("?name=sun.png", RED)[0] == 401
        assert guarded.post("?name=sun.png&token=a-long-word", RED)[0] == 200
    finally:
        guarded.end()


def test_where_no_host_is_that_would_keep_it(tmp_path):
    stage = Stage(tmp_path / "kept", kept=False)
    try:
        status, text = stage.post("?name=sun.png", RED)
        assert status == 404 and "is another program; use its own page" in text
    finally:
        stage.end()


def test_one_picture_at_a_time(stage):
    async def run():
        async with aiohttp.ClientSession(trust_env=False) as session:
            go_on = asyncio.Event()

            async def slowly():
                yield RED[:40]
                await go_on.wait()
                yield RED[40:]

            async def send(name):
                async with session.post(stage.address(f"?name={name}"), data=slowly()) as answer:
                    return answer.status, await answer.text()

            sending = [asyncio.create_task(send(name)) for name in ("sun.png", "moon.png")]
            (refused,), (taken,) = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            assert refused.result()[0] == 503 and "another picture is on its way" in refused.result()[1]
            go_on.set()
            status, text = await taken
            assert status == 200 and stage.live.current.reference in text

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


@needs_browser
def test_on_the_page(stage):
    said = "document.querySelector('#p-reference-error').textContent"

    async def choose(page, name, data):
        await page.evaluate(f"""(() => {{
          const bytes = Uint8Array.from(atob("{base64.b64encode(data).decode()}"), (c) => c.charCodeAt(0));
          const files = new DataTransfer();
          files.items.add(new File([bytes], {name!r}, {{ type: "image/png" }}));
          const box = document.querySelector("#reference-file");
          box.files = files.files;
          box.dispatchEvent(new Event("change"));
        }})()""")

    async def run():
        async with chromium.Browser(BROWSER) as browser:
            pages = [await browser.page(f"http://127.0.0.1:{stage.gateway.port}/") for _ in range(2)]
            for page in pages:
                await page.until("page.controls.has('reference') && 'paused' in page.values")
            await choose(pages[0], "sun.png", RED)
            # Whoever looks sees it in the list, and chosen.
            for page in pages:
                await page.until("document.querySelector('#p-reference').value === 'sun.jpg'")
                assert await page.evaluate("document.querySelector('#reference-take') !== null")
            await choose(pages[0], "notes.png", b"only words")
            await pages[0].until(f"{said}.startsWith('notes cannot be read as a picture')")
            await pages[0].evaluate("document.querySelector('#reference-take').click()")
            await pages[0].until(f"{said}.includes('there is no picture on')")
            with RingWriter(f"{stage.channel}.in") as writer:
                writer.write({Kind.COLOUR: np.full((32, 48, 3), 90, np.uint8)})
                await pages[1].evaluate("document.querySelector('#reference-take').click()")
                for page in pages:
                    taken = f"{stage.channel} in 1.jpg"
                    await page.until(f"document.querySelector('#p-reference').value === '{taken}'")

    asyncio.run(asyncio.wait_for(run(), 4 * PATIENCE_S))

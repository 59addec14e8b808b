"""Presets on the page: over the gateway's WebSocket, and in a real headless Chromium."""

import asyncio
import base64
import threading

import aiohttp
import numpy as np
import pytest
import simplejpeg

from bridge.control.live import LiveParams
from bridge.control.presets import Presets
from bridge.control.shelf import Shelf
from bridge.control.statistics import Statistics
from bridge.page.gateway import Channel, Gateway
from bridge.page.picture import picture_of, thumbnail
from bridge.page.thumbnail import SIDE_PX, thumbnail_of
from bridge.ring import Kind, RingReader, RingWriter
from tests import chromium
from tests.bridge.page.scene import BROWSER, HOLD_ANSWERS, Scene, needs_browser
from tests.rings import fresh_channel, sweep

PATIENCE_S = 60


class Stage:
    """A gateway with presets in `folder`."""

    def __init__(self, folder, kept=True):
        self.channel = fresh_channel()
        self.live = LiveParams()
        self.shelf = Shelf(folder)
        self.presets = Presets(self.live, self.shelf, lambda: thumbnail_of(self.channel))
        about = (self.live, Statistics(), (), None, self.presets if kept else None)
        self.gateway = Gateway([Channel(self.channel, *about)], port=0)
        self.gateway.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.gateway.port}/"

    def names(self):
        return [preset.name for preset in self.shelf.contents().presets]

    def end(self):
        self.presets.stop()
        self.gateway.stop()
        sweep(self.channel)


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    stage.end()


class Page:
    """What a page says and hears."""

    def __init__(self, session, ws, url):
        self._session, self._ws, self._url = session, ws, url

    async def hears(self, *kinds, **about):
        """The next message of one of these kinds with these fields."""
        while True:
            message = await self._ws.receive(PATIENCE_S)
            assert message.type == aiohttp.WSMsgType.TEXT, message
            heard = message.json()
            if heard["type"] in kinds and all(heard.get(key) == value for key, value in about.items()):
                return heard

    async def ask(self, do, **fields):
        await self._ws.send_json({"type": "preset", "do": do, "id": 5, **fields})
        return await self.hears("ok", "error", do=do, id=5)

    async def presets(self):
        async with self._session.get(f"{self._url}api/presets") as answer:
            return await answer.json()


def visit(stage, scenario, pages=1):
    """Run `scenario(page, ...)`."""

    async def run():
        async with aiohttp.ClientSession(trust_env=False) as session:
            sockets = [await session.ws_connect(f"{stage.url}ws") for _ in range(pages)]
            await scenario(*(Page(session, ws, stage.url) for ws in sockets))
            for ws in sockets:
                await ws.close()

    asyncio.run(asyncio.wait_for(run(), 4 * PATIENCE_S))


def picture(width, height):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (250, 40, 40)
    pixels[:, width // 2 :] = (40, 40, 250)
    return pixels


def test_a_page_saves_with_a_thumbnail_and_everybody_hears_it(stage):
    stage.live.update({"prompt": "ink style", "seed": 7})

    async def scenario(one, two):
        assert await one.ask("save", name="Dawn", replaces="") == {
            "type": "ok",
            "do": "save",
            "id": 5,
            "revision": 1,
            "note": "",
        }
        await two.hears("presets")
        (preset,) = (await two.presets())["presets"]
        assert preset["name"] == "Dawn" and preset["prompt"] == "ink style"
        shown = simplejpeg.decode_jpeg(base64.b64decode(preset["thumbnail"]), "RGB")
        assert shown.shape == (80, 160, 3)
        np.testing.assert_allclose(shown[40, [20, 140]], [(250, 40, 40), (40, 40, 250)], atol=12)

    with RingWriter(f"{stage.channel}.out") as ring:
        ring.write({Kind.COLOUR: picture(640, 320)})
        visit(stage, scenario, pages=2)


@pytest.mark.parametrize("width, height", [(1, 1), (1, 900), (900, 1), (161, 3), (159, 161), (1920, 1080), (20, 4000)])
def test_a_thumbnail_of_any_shape_is_small_and_has_the_shape(width, height):
    name = fresh_channel()
    with RingWriter(f"{name}.out") as ring, RingReader(f"{name}.out") as reader:
        ring.write({Kind.COLOUR: picture(width, height)})
        shown = simplejpeg.decode_jpeg(thumbnail(picture_of(reader.read(1.0)), SIDE_PX), "RGB")
    assert max(shown.shape[:2]) <= SIDE_PX
    step = -(-max(width, height) // SIDE_PX)
    assert shown.shape[:2] == (max(1, height // step), max(1, width // step))
    sweep(name)


def test_a_channel_without_a_picture_is_saved_without_a_thumbnail(stage):
    async def scenario(page):
        assert (await page.ask("save", name="Dark"))["type"] == "ok"
        assert (await page.presets())["presets"][0]["thumbnail"] == ""

    visit(stage, scenario)


def test_recall_morph_and_all_the_rest_reach_the_host(stage):
    async def scenario(page):
        stage.live.set("seed", 1)
        await page.ask("save", name="one")
        stage.live.set("seed", 2)
        await page.ask("save", name="two")
        await page.ask("recall", name="one")
        assert stage.live.current.seed == 1
        await page.ask("morph", start="", name="two", seconds=0.05)
        while stage.live.current.seed != 2:
            await asyncio.sleep(0.01)
        await page.ask("reorder", names=["two", "one"])
        await page.ask("rename", name="two", to="second")
        assert stage.names() == ["second", "one"]
        await page.ask("delete", name="one")
        assert stage.names() == ["second"]
        await page.ask("restore", name="one")
        assert stage.names() == ["second", "one"]

    visit(stage, scenario)


def test_two_pages_that_save_at_once_are_told(stage):
    async def scenario(one, two):
        answers = await asyncio.gather(*(page.ask("save", name="Dawn", replaces="") for page in (one, two)))
        assert sorted(answer["type"] for answer in answers) == ["error", "ok"]
        (refused,) = (answer["message"] for answer in answers if answer["type"] == "error")
        assert "already; replace it, or give another name" in refused
        assert stage.names() == ["Dawn"]

    visit(stage, scenario, pages=2)


@pytest.mark.parametrize(
    "message, told",
    [
        ({"do": "recall", "name": "Noon"}, "no preset 'Noon'"),
        ({"do": "recall"}, "send name, too"),
        ({"do": "fly"}, "use one of save"),
        ({}, "use one of save"),
        ({"do": ["recall"], "name": "x"}, "use one of save"),
        ({"do": "recall", "name": {"a": 1}}, "name of a preset"),
        ({"do": "save", "name": ["x"]}, "name is a text"),
        ({"do": "reorder", "names": [["x"]]}, "names of the presets"),
        ({"do": "reorder", "names": 5}, "names of the presets"),
        ({"do": "rename", "name": "x", "to": None}, "name is a text"),
        ({"do": "morph", "start": "", "name": "x", "seconds": [], "easing": []}, "seconds"),
        ({"do": "morph", "start": "", "name": "x", "seconds": 1, "easing": []}, "easing"),
        ({"do": "recall", "name": float("inf")}, "name of a preset"),
        ({"do": "recall", "name": 10**400}, "there are 0"),
        ({"do": "save", "name": "x" * 200}, "at most 60"),
    ],
)
def test_what_a_page_asks_in_vain_is_answered_and_the_visit_goes_on(stage, message, told):
    async def scenario(page):
        await page._ws.send_json({"type": "preset", "id": 3, **message})
        heard = await page.hears("error", id=3)
        assert told in heard["message"] and "do" in heard
        assert (await page.ask("save", name="still here"))["type"] == "ok"

    visit(stage, scenario)


def test_damaged_files_are_told_to_the_page(stage):
    (stage.shelf.folder / "bad.toml").write_text("[[[")
    (stage.shelf.folder / "new.toml").write_text("[values]\nglow = 1\n")

    async def scenario(page):
        about = await page.presets()
        assert "bad.toml is damaged" in about["problems"][0]
        assert about["presets"][0]["notes"] == ["new: unknown parameter 'glow' is left alone"]
        assert "glow" in (await page.ask("recall", name="new"))["note"]

    visit(stage, scenario)


def test_a_slow_disk_holds_up_nobodys_messages(stage, monkeypatch):
    slow, go = threading.Event(), threading.Event()

    def look():
        slow.set()
        assert go.wait(PATIENCE_S)
        return b""

    monkeypatch.setattr(stage.presets, "_look", look)

    async def scenario(one, two):
        asking = asyncio.ensure_future(one.ask("save", name="slow"))
        await asyncio.to_thread(slow.wait, PATIENCE_S)
        await two._ws.send_json({"type": "set", "name": "seed", "value": 44})
        await two.hears("ok")
        assert not asking.done()
        go.set()
        assert (await asking)["type"] == "ok"

    visit(stage, scenario, pages=2)


def test_a_gateway_without_presets_says_so(tmp_path):
    stage = Stage(tmp_path, kept=False)

    async def scenario(page):
        assert await page.presets() == {"presets": None}
        assert "no presets are kept" in (await page.ask("save", name="x"))["message"]

    try:
        visit(stage, scenario)
    finally:
        stage.end()


# ---- in a browser


TILES = "[...document.querySelectorAll('#preset-tiles span')].map((span) => span.textContent)"


@needs_browser
def test_presets_are_saved_recalled_and_kept_in_order_on_the_page(stage):
    async def scenario():
        async with chromium.Browser(BROWSER) as browser:
            page = await browser.page(stage.url)
            await page.until("document.querySelector('#connection').dataset.state === 'connected'")

            async def press(selector):
                await page.until(f"document.querySelector({selector!r}) !== null")
                await page.evaluate(f"document.querySelector({selector!r}).click()")

            async def save(name):
                await page.evaluate(f"document.querySelector('#preset-name').value = {name!r}")
                await page.evaluate("document.querySelector('#preset-save').requestSubmit()")

            for seed, name in ((1, "Dawn"), (2, "Dusk")):
                stage.live.set("seed", seed)
                await save(name)
                await page.until(f"{TILES}.includes({name!r})")
            await page.evaluate("document.activeElement.blur()")
            await page.evaluate("dispatchEvent(new KeyboardEvent('keydown', { key: '1' }))")
            while stage.live.current.seed != 1:
                await asyncio.sleep(0.02)
            await page.until("document.querySelector('#preset-tiles [aria-pressed=true]')?.textContent === 'Dawn'")
            await press("#preset-right")
            await page.until(f"{TILES}.join() === 'Dusk,Dawn'")
            stage.live.set("seed", 3)
            await save("Dawn")
            await page.until("document.querySelector('#preset-said').textContent.includes('already')")
            assert stage.shelf.get("Dawn").values["seed"] == 1
            await press("#preset-said button")
            await page.until("document.querySelector('#preset-said').textContent.includes('Saved')")
            assert stage.shelf.get("Dawn").values["seed"] == 3
            await press("#preset-delete")
            await page.until(f"{TILES}.join() === 'Dusk'")
            await press("#preset-said button")
            await page.until(f"{TILES}.join() === 'Dusk,Dawn'")
            assert page.problems == []

    asyncio.run(asyncio.wait_for(scenario(), 4 * PATIENCE_S))


@needs_browser
def test_of_two_lists_of_presets_the_one_that_was_asked_for_last_is_shown(on_the_page, tmp_path):
    async def scenario(scene, page):
        await page.until("page.presets.easing.options.length > 0")
        await page.evaluate(HOLD_ANSWERS.replace("PATH", "api/presets"))
        scene.presets.save("Dawn")
        await page.until("answers.length === 1")
        scene.presets.save("Dusk")
        await page.until("answers.length === 2")
        await page.evaluate("answers[1]()")
        await page.until(f"{TILES}.join() === 'Dawn,Dusk'")
        await page.evaluate("answers[0]()")
        await page.evaluate("new Promise((done) => setTimeout(done, 100))")
        assert await page.evaluate(TILES) == ["Dawn", "Dusk"]

    assert on_the_page(scenario, scene=Scene(shelf=tmp_path)) == []

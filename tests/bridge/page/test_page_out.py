"""The projector output in a real headless Chromium."""

import asyncio
import base64
import io

import numpy as np
import pytest
from PIL import Image

from bridge.ring import Kind, RingWriter
from tests import chromium
from tests.bridge.page.scene import BROWSER, Scene, needs_browser

pytestmark = needs_browser

# What OBS gives a browser source unless its user changes it, in the words of its manual.
OBS_STYLE = "body { background-color: rgba(0, 0, 0, 0); margin: 0px auto; overflow: hidden; }"
SHOWN = "Number(document.querySelector('#picture').dataset.sourceFrameId || 0)"
BOX = """(() => { const b = document.querySelector("#picture").getBoundingClientRect();
  return [b.left, b.top, b.width, b.height].map(Math.round); })()"""


@pytest.fixture
def scene():
    scene = Scene()
    yield scene
    scene.end()


def project(scene, scenario, query=""):
    async def run():
        async with chromium.Browser(BROWSER) as browser:
            page = await browser.page(f"{scene.gateway.url}out/?channel={scene.channel}{query}", width=900, height=500)
            await scenario(page)
            return page.problems

    return asyncio.run(asyncio.wait_for(run(), 300))


async def seen(page):
    """What is on the screen: height, width, RGBA, with a transparent ground as OBS has it."""
    await page.call("Emulation.setDefaultBackgroundColorOverride", color={"r": 0, "g": 0, "b": 0, "a": 0})
    shot = await page.call("Page.captureScreenshot", format="png")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGBA"))


def paint(ring, colour, number):
    ring.write({Kind.COLOUR: np.full((64, 96, 3), colour, np.uint8)}, source_frame_id=number)


def test_the_three_ways_to_fill_a_screen(scene):
    async def scenario(page):
        with RingWriter(f"{scene.channel}.out", capacity_bytes=1 << 16) as ring:
            paint(ring, (250, 120, 20), 1)
            await page.until(f"{SHOWN} === 1")

            async def coloured():
                rows, columns = np.nonzero((await seen(page))[..., 0] > 128)
                return columns.min(), columns.max() + 1, rows.min(), rows.max() + 1

            # 96 x 64 in 900 x 500: whole, then all of the screen, then seven pixels for one.
            assert await coloured() == (75, 825, 0, 500)
            await page.press("m", 77)
            assert await coloured() == (0, 900, 0, 500)
            await page.press("M", 77)  # with Caps Lock
            assert await page.evaluate(BOX) == [114, 26, 672, 448]
            assert await coloured() == (114, 786, 26, 474)
            assert await page.evaluate("new URLSearchParams(location.search).get('fit')") == "integer"
            await page.press("m", 77)
            assert await coloured() == (75, 825, 0, 500)

    assert project(scene, scenario) == []


def test_f_and_a_double_click_fill_the_screen_and_end_it(scene):
    async def scenario(page):
        async def double_click():
            for count in (1, 2):
                about = {"x": 400, "y": 200, "button": "left", "clickCount": count}
                await page.call("Input.dispatchMouseEvent", type="mousePressed", **about)
                await page.call("Input.dispatchMouseEvent", type="mouseReleased", **about)

        for toggle in (lambda: page.press("f", 70), double_click):
            await toggle()
            await page.until("document.fullscreenElement !== null")
            await toggle()
            await page.until("document.fullscreenElement === null")

    assert project(scene, scenario) == []


def test_the_picture_stays_through_a_restart_of_the_host_and_goes_on(scene):
    async def scenario(page):
        port = scene.gateway.port
        with RingWriter(f"{scene.channel}.out", capacity_bytes=1 << 16) as ring:
            paint(ring, (250, 120, 20), 1)
            await page.until(f"{SHOWN} === 1")
        before = await seen(page)
        await asyncio.to_thread(scene.gateway.stop)
        await page.until("document.title.includes('no host')")
        np.testing.assert_array_equal(await seen(page), before)
        assert await page.evaluate("document.body.innerText.trim()") == ""
        scene.gateway = scene.new_gateway(port)
        scene.gateway.start()
        await page.until("document.title.includes('gone') || document.title.includes('no writer')")
        np.testing.assert_array_equal(await seen(page), before)
        with RingWriter(f"{scene.channel}.out", capacity_bytes=1 << 16) as ring:
            await page.until("document.title === 'frameloom output'")
            np.testing.assert_array_equal(await seen(page), before)
            paint(ring, (20, 120, 250), 2)
            await page.until(f"{SHOWN} === 2")
            assert (await seen(page))[250, 450, 2] > 200

    problems = project(scene, scenario)
    assert all("ERR_CONNECTION_REFUSED" in problem for problem in problems)


def test_as_a_browser_source_what_is_beside_the_picture_is_transparent(scene):
    async def scenario(page):
        await page.evaluate(
            f"document.head.append(Object.assign(document.createElement('style'), {{ textContent: {OBS_STYLE!r} }}))"
        )
        assert not (await seen(page)).any()  # before the first picture
        with RingWriter(f"{scene.channel}.out", capacity_bytes=1 << 16) as ring:
            paint(ring, (250, 120, 20), 1)
            await page.until(f"{SHOWN} === 1")
            pixels = await seen(page)
            assert not pixels[:, :70].any() and not pixels[:, 830:].any()
            assert (pixels[:, 80:820, 3] == 255).all()
            assert await page.evaluate("getComputedStyle(document.body).cursor") == "none"

    assert project(scene, scenario) == []


def test_without_the_style_of_a_browser_source_the_ground_is_black(scene):
    async def scenario(page):
        assert ((await seen(page)) == (0, 0, 0, 255)).all()

    assert project(scene, scenario) == []

"""Who cannot use a mouse or sees little can play, too: contrast, focus, names and keys, in a real headless Chromium."""

import asyncio
import base64
import io

import numpy as np
import pytest
from PIL import Image

from bridge.ring import Kind, RingWriter
from core.params import SPECS
from tests import chromium
from tests.bridge.page.scene import BROWSER, Scene, needs_browser

pytestmark = needs_browser

# Of every text that is seen its contrast against what is painted behind it (WCAG 2.2, 1.4.3), and of every edge of what
# can be used (1.4.11). What is switched off is exempt, and a plate with a letter on it has its letter.
CONTRASTS = """(() => {
  const parse = (text) => { const m = text.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m[3] ?? 1]; };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3]));
  const light = (c) => {
    const f = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]);
  };
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const style = (e) => getComputedStyle(e);
  const up = (e) => e ? [e, ...up(e.parentElement)] : [];
  const ground = (e) => up(e).reverse().reduce((c, n) => over(parse(style(n).backgroundColor), c), [255, 255, 255]);
  const opacity = (e) => up(e).reduce((o, n) => o * Number(style(n).opacity), 1);
  const found = { texts: 0, edges: 0, bad: [] };
  for (const e of document.querySelectorAll("body *")) {
    if (!e.checkVisibility() || e.disabled) continue;
    const box = e.matches("input:not([type=range], [type=checkbox], [type=file]), textarea, select");
    const words = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const behind = ground(e.parentElement), o = opacity(e), about = e.id || e.className || e.textContent.slice(0, 30);
    const faded = (c) => over([c[0], c[1], c[2], (c[3] ?? 1) * o], behind);
    if (box || words) {
      const px = parseFloat(style(e).fontSize);
      const large = px >= 24 || (px >= 18.66 && Number(style(e).fontWeight) >= 700);
      const r = ratio(faded(parse(style(e).color)), faded(ground(e)));
      found.texts += 1;
      if (r < (large ? 3 : 4.5)) found.bad.push(["text", about, r]);
    }
    const edge = parse(style(e).borderTopColor);
    if ((box || e.matches("button:not(.swatch), .button")) && parseFloat(style(e).borderTopWidth) && edge[3]) {
      const r = ratio(faded(edge), behind);
      found.edges += 1;
      if (r < 3) found.bad.push(["edge", about, r]);
    }
  }
  return found;
})()"""

OPEN_ALL = """(() => {
  for (const box of document.querySelectorAll("details:not([hidden])")) box.open = true;
  for (const button of document.querySelectorAll(".ask:not([hidden])")) button.click();
})()"""

# Name of what has the focus, as a screen reader says it, and whether it is to be seen that it has it.
FOCUS = """(() => {
  const e = document.activeElement;
  const labels = [...(e.labels ?? [])];
  const name = e.getAttribute("aria-label") || labels.map((l) => l.textContent).join(" ") || e.textContent;
  const outlined = ({ outlineStyle, outlineWidth }) => outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  const shows = [e, ...labels].some((n) => outlined(getComputedStyle(n)));
  return { tag: e.tagName, id: e.id, name: name.trim(), shows };
})()"""


async def loaded(page):
    await page.until(f"page.controls.size === {len(SPECS)}")
    await page.until("'paused' in page.values")


@pytest.mark.parametrize("width, mobile", [(1280, False), (390, True)])
def test_every_text_and_edge_stands_out(on_the_page, tmp_path, width, mobile):
    async def scenario(scene, page):
        await loaded(page)
        await page.evaluate(OPEN_ALL)
        # With a refusal, a notice, a badge, controls without effect and a chosen style.
        scene.live.update({"paused": True, "guidance": "none"})
        await page.evaluate("page.controls.get('steps').send(99)")
        await page.until("document.querySelector('[data-name=steps] .error').textContent !== ''")
        await page.until("!document.querySelector('#badge').hidden")
        found = await page.evaluate(CONTRASTS)
        assert found["texts"] > 300 and found["edges"] > 100
        assert found["bad"] == []

    assert on_the_page(scenario, scene=Scene(shelf=tmp_path), width=width, mobile=mobile) == []


def test_the_scene_stands_out_and_leads_to_the_page_and_the_projector():
    async def scenario():
        scene = Scene()
        try:
            async with chromium.Browser(BROWSER) as browser:
                page = await browser.page(f"{scene.gateway.url}scene/")
                await page.until("document.querySelector('#to-page').href !== ''")
                found = await page.evaluate(CONTRASTS)
                assert found["texts"] > 5 and found["edges"] > 4 and found["bad"] == []
                links = await page.evaluate("['#to-page', '#to-out'].map((id) => document.querySelector(id).href)")
                query = f"?channel={scene.channel}"
                assert links == [scene.gateway.url + query, f"{scene.gateway.url}out/{query}"]
                await page.call("Page.navigate", url=links[0])
                await page.until("document.querySelector('#connection')?.dataset.state === 'connected'")
                out, back = await page.evaluate("['#to-out', '#to-scene'].map((id) => document.querySelector(id).href)")
                assert out == links[1] and back.startswith(f"{scene.gateway.url}scene/")
        finally:
            scene.end()

    asyncio.run(asyncio.wait_for(scenario(), 300))


def test_everything_is_reached_by_key_named_and_seen_to_have_the_focus(on_the_page, tmp_path):
    async def scenario(scene, page):
        await loaded(page)
        wanted = await page.evaluate("""(() => {
          const all = document.querySelectorAll("a[href], button:not(:disabled), input, select, textarea, summary");
          return [...all].filter((e) => e.checkVisibility()).length;
        })()""")
        reached = []
        for _ in range(wanted + 5):
            await page.press("Tab", 9)
            focus = await page.evaluate(FOCUS)
            if focus["tag"] == "BODY":
                break
            reached.append(focus)
        assert focus["tag"] == "BODY", "the focus is caught"
        assert [about for about in reached if not about["name"] or not about["shows"]] == []
        # Browsers also stop at what scrolls.
        assert wanted <= len(reached) <= wanted + 2

    assert on_the_page(scenario, scene=Scene(shelf=tmp_path)) == []


def test_only_the_panel_scrolls_beside_the_output(on_the_page, tmp_path):
    async def scenario(scene, page):
        await loaded(page)
        await page.evaluate(OPEN_ALL)
        assert await page.evaluate("document.documentElement.scrollHeight <= innerHeight")
        assert await page.evaluate(
            "(() => { const p = document.querySelector('.panel'); return p.scrollHeight > p.clientHeight; })()"
        )

    assert on_the_page(scenario, scene=Scene(shelf=tmp_path), width=1280, height=800) == []


def test_the_slider_lays_the_input_over_the_output(on_the_page):
    """Left of it what came in, right of it what was made of that; by hand and by key."""
    colours = """(() => {
      const [before, out] = ["#before", "#side-out .picture"].map((id) => document.querySelector(id));
      const at = (canvas, x) => [...canvas.getContext("2d").getImageData(x, 40, 1, 1).data];
      if (before.hidden) return null;
      return { left: at(before, 20)[3], right: at(before, 80)[3], size: before.width === out.width };
    })()"""
    to_before = """(() => {
      const slider = document.querySelector("#compare");
      slider.value = 0;
      slider.dispatchEvent(new Event("input"));
    })()"""

    async def scenario(scene, page):
        await scene.write()
        await loaded(page)
        await page.until("Number(document.querySelector('#side-in .picture').dataset.sourceFrameId || 0) > 2")
        await page.until("Number(document.querySelector('#side-out .picture').dataset.sourceFrameId || 0) > 2")
        assert await page.evaluate(colours) is None
        await page.press("B", 66)
        assert await page.evaluate(colours) == {"left": 255, "right": 0, "size": True}
        await page.evaluate(to_before)
        assert await page.evaluate(colours) == {"left": 255, "right": 255, "size": True}
        # It goes on with the pictures that come: input and output have colours of their own for each number.
        moved = """new Promise((done) => {
          const read = () => document.querySelector("#before").getContext("2d").getImageData(20, 40, 1, 1).data.join();
          const first = read();
          const timer = setInterval(() => read() !== first && (clearInterval(timer), done(true)), 20);
        })"""
        assert await page.evaluate(moved)
        await page.evaluate("document.querySelector('#compare').focus()")
        await page.press("End", 35)
        await page.until("document.querySelector('#before').hidden")

    assert on_the_page(scenario) == []


def test_what_the_slider_shows_is_what_is_on_the_screen(on_the_page):
    async def scenario(scene, page):
        with (
            RingWriter(f"{scene.channel}.in", capacity_bytes=1 << 16) as before,
            RingWriter(f"{scene.channel}.out", capacity_bytes=1 << 16) as after,
        ):
            for ring, colour in ((before, (20, 60, 240)), (after, (240, 60, 20))):
                ring.write({Kind.COLOUR: np.full((64, 96, 3), colour, np.uint8)}, source_frame_id=1)
            for side in ("in", "out"):
                await page.until(f"document.querySelector('#side-{side} .picture').dataset.sourceFrameId === '1'")
            await page.press("b", 66)
            await asyncio.sleep(0.5)  # the picture fades in
            shot = await page.call("Page.captureScreenshot", format="png")
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")).astype(int)
            middle = "(() => { const r = document.querySelector('#stage').getBoundingClientRect();"
            x, y, quarter = await page.evaluate(
                middle + "return [r.left + r.width / 2, r.top + r.height / 2, r.height / 4].map(Math.round); })()"
            )
            assert abs(pixels[y, x - quarter] - (20, 60, 240)).max() < 12
            assert abs(pixels[y, x + quarter] - (240, 60, 20)).max() < 12

    assert on_the_page(scenario) == []


def test_keys_work_while_a_slider_has_the_focus_and_with_caps_lock(on_the_page):
    async def scenario(scene, page):
        await loaded(page)
        await page.evaluate("document.querySelector('#p-strength').focus()")
        start = scene.live.current.strength
        about = {"key": "ArrowRight", "code": "ArrowRight", "windowsVirtualKeyCode": 39, "modifiers": 8}
        await page.call("Input.dispatchKeyEvent", type="rawKeyDown", **about)
        await page.call("Input.dispatchKeyEvent", type="keyUp", **about)
        await scene.until(lambda: scene.live.current.strength == pytest.approx(start + 10 * SPECS["strength"].step))
        await page.press(" ", 32, " ")
        await scene.until(lambda: scene.live.current.paused)
        await page.press(" ", 32, " ")
        await scene.until(lambda: not scene.live.current.paused)
        seed = scene.live.current.seed
        await page.press("R", 82)
        await scene.until(lambda: scene.live.current.seed != seed)
        await page.press("F", 70)
        await page.until("document.fullscreenElement?.id === 'stage'")
        await page.press("f", 70)
        await page.until("document.fullscreenElement === null")

    assert on_the_page(scenario) == []


def test_every_main_control_has_a_word_for_artists_beside_its_own(on_the_page):
    async def scenario(scene, page):
        await loaded(page)
        plain = await page.evaluate("""Object.fromEntries([...document.querySelectorAll(".control")].map((root) =>
          [root.dataset.name, root.querySelector(".plain")?.textContent ?? ""]))""")
        assert {name for name, spec in SPECS.items() if spec.main and not plain[name]} == {"prompt"}
        assert len({word for word in plain.values() if word}) == sum(1 for word in plain.values() if word)
        # The exact words come on demand.
        help_of = "getComputedStyle(document.querySelector('[data-name=steps] .help')).display"
        assert await page.evaluate(help_of) == "none"
        await page.evaluate("document.querySelector('[aria-label=\"Help on steps\"]').click()")
        assert await page.evaluate(help_of) == "block"

    assert on_the_page(scenario) == []

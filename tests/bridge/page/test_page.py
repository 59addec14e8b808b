"""The page in a real headless Chromium, with real rings written by a process of its own."""

import asyncio
import contextlib

import numpy as np
import pytest
from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError, web

from bridge.page.files import page_files
from bridge.page.gateway import Channel, Gateway
from bridge.ring import Kind, RingWriter
from core.params import SPECS
from tests import chromium
from tests.bridge.page.scene import BROWSER, Scene, needs_browser

pytestmark = needs_browser

READ = """(() => {
  const canvas = document.querySelector("#side-SIDE canvas.picture");
  const context = canvas.getContext("2d");
  const at = (x, y) => [...context.getImageData(x, y, 1, 1).data];
  let number = 0;
  for (let bit = 0; bit < 12; bit += 1) if (at(bit * 8 + 4, 8)[0] > 127) number |= 1 << bit;
  return { number, colour: at(48, 40), told: Number(canvas.dataset.sourceFrameId || 0),
           width: canvas.width, height: canvas.height };
})()"""


class BelowPath:
    """A proxy that shows a gateway below a path, as `location /paint/ { proxy_pass ... }` of nginx does.

    own_name: whether it passes its own name on (`proxy_set_header Host $http_host`); nginx does not unless it is told.
    """

    def __init__(self, gateway_url, own_name=True):
        self._gateway = gateway_url.split("?")[0].rstrip("/")
        self._own_name = own_name

    async def __aenter__(self):
        app = web.Application()
        app.router.add_route("*", "/paint/{rest:.*}", self._pass)
        self._client = ClientSession()
        self._runner = web.AppRunner(app, shutdown_timeout=2.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/paint/"
        return self

    async def __aexit__(self, *error):
        # The browser is gone. asyncio would not close what it had just accepted when its server is closed.
        await asyncio.sleep(0.1)
        await self._runner.cleanup()
        await self._client.close()

    async def _pass(self, request):
        address = f"{self._gateway}/{request.match_info['rest']}?{request.query_string}"
        passed = {name: value for name, value in request.headers.items() if name == "Origin"}
        if self._own_name:
            passed["Host"] = request.host
        if request.headers.get("Upgrade", "").lower() != "websocket":
            async with self._client.get(address, headers=passed) as answer:
                headers = {k: v for k, v in answer.headers.items() if k in ("Content-Type", "Content-Security-Policy")}
                return web.Response(body=await answer.read(), status=answer.status, headers=headers)
        try:
            far = await self._client.ws_connect(address, headers=passed)
        except WSServerHandshakeError as refusal:
            return web.Response(status=refusal.status)
        async with far:
            near = web.WebSocketResponse()
            await near.prepare(request)

            async def carry(source, sink):
                # A side that has left takes nothing more.
                with contextlib.suppress(ConnectionError):
                    async for message in source:
                        send = sink.send_bytes if message.type is WSMsgType.BINARY else sink.send_str
                        await send(message.data)
                await sink.close()

            await asyncio.gather(carry(near, far), carry(far, near))
        return near


@pytest.mark.parametrize("path", ["", "scene/", "examples/three.html"])
def test_every_page_works_below_a_path_of_a_proxy(path):
    async def scenario():
        scene = Scene()
        try:
            await scene.write()
            async with BelowPath(scene.gateway.url) as proxy, chromium.Browser(BROWSER) as browser:
                page = await browser.page(f"{proxy.url}{path}?channel={scene.channel}")
                if not path:
                    await page.until("document.querySelector('#connection').dataset.state === 'connected'")
                    await page.until(READ.replace("SIDE", "out") + ".told > 0")
                else:
                    await page.until("performance.getEntriesByType('resource').some((e) => e.name.includes('three'))")
                    await scene.until(lambda: scene.gateway.snapshot(scene.channel)["viewers"] > 0)
                await page.close()
                assert page.problems == []
        finally:
            scene.end()

    asyncio.run(asyncio.wait_for(scenario(), 300))


@pytest.mark.parametrize("path", ["", "scene/", "out/"])
def test_behind_a_proxy_that_hides_its_name_the_page_says_what_to_start_the_host_with(path):
    """And with that it works."""
    said = {"": "#side-out .message", "scene/": "#title", "out/": "title"}[path]

    async def scenario():
        scene = Scene()
        try:
            async with BelowPath(scene.gateway.url, own_name=False) as proxy, chromium.Browser(BROWSER) as browser:
                page = await browser.page(f"{proxy.url}{path}?channel={scene.channel}")
                await page.until(f"document.querySelector('{said}')?.textContent.includes('--allow-origin')")
                origin = proxy.url.removesuffix("/paint/")
                assert f"'{origin}'" in await page.evaluate(f"document.querySelector('{said}').textContent")
                scene.gateway.stop()
                scene.gateway = Gateway(
                    [Channel(scene.channel, scene.live, scene.statistics)],
                    port=scene.gateway.port,
                    allowed_origins=[origin],
                )
                scene.gateway.start()
                await scene.until(lambda: scene.gateway.snapshot(scene.channel)["viewers"] > 0)
                await page.close()
        finally:
            scene.end()

    asyncio.run(asyncio.wait_for(scenario(), 300))


def test_the_projector_output_shows_the_picture_alone_and_keeps_it():
    """Large, without a cursor, and after its writer has died still there."""
    shown = """(() => {
      const canvas = document.querySelector("#picture");
      const box = canvas.getBoundingClientRect();
      const pixel = [...canvas.getContext("2d").getImageData(48, 40, 1, 1).data];
      return { told: Number(canvas.dataset.sourceFrameId || 0), width: canvas.width, box: [box.width, box.height],
               pixel, cursor: getComputedStyle(document.body).cursor, text: document.body.innerText.trim(),
               scrolls: document.documentElement.scrollHeight > innerHeight };
    })()"""

    async def scenario():
        scene = Scene()
        try:
            await scene.write()
            async with chromium.Browser(BROWSER) as browser:
                page = await browser.page(f"{scene.gateway.url}out/?channel={scene.channel}", width=900, height=600)
                await page.until(f"{shown}.told > 0")
                scene.kill_writer()
                await asyncio.sleep(0.5)
                last = await page.evaluate(shown)
                assert last["width"] == 96 and last["text"] == "" and last["cursor"] == "none" and not last["scrolls"]
                # 96 x 64 fills a window of 3 to 2.
                assert abs(last["box"][0] - 900) <= 1 and abs(last["box"][1] - 600) <= 1
                assert any(last["pixel"][:3])
                await page.close()
                assert page.problems == []
        finally:
            scene.end()

    asyncio.run(asyncio.wait_for(scenario(), 300))


def text_of(selector):
    return f"document.querySelector({selector!r}).textContent"


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("hosted", [False, True])
@pytest.mark.parametrize("examples", [(), ("one style",), ("a, b", "a, b"), ("", "x")])
def test_the_page_answers_whatever_there_is_to_show(on_the_page, examples, hosted, writes):
    """With and without a host, a client and examples: the tab of a plain host, which has none, once never answered."""

    async def scenario(scene, page):
        if writes:
            await scene.write()
            await page.until("Number(document.querySelector('#side-out .picture').dataset.sourceFrameId || 0) > 1")
        count = "document.querySelectorAll('#examples button').length"
        assert await page.evaluate(count) <= len(examples)
        if hosted and examples == ("one style",):
            assert await page.evaluate("document.querySelector('#examples button').textContent") == "one style"
        assert await page.evaluate("1 + 1") == 2

    assert on_the_page(scenario, scene=Scene(examples, hosted)) == []


PAGES = sorted(path for path in page_files() if path.endswith(("/", "index.html", ".html")))


@pytest.mark.parametrize("path", PAGES)
def test_every_page_that_is_served_answers_whatever_there_is_to_show(path):
    """With and without a host, a client, examples, and the channel that is asked for."""

    async def opened(browser, hosted, writes, examples, query):
        scene = Scene(examples, hosted)
        try:
            if writes:
                await scene.write()
            page = await browser.page(f"{scene.gateway.root.split('?')[0]}{path.lstrip('/')}{query}")
            if not query:
                await scene.until(lambda: scene.gateway.snapshot(scene.channel)["viewers"] > 0)
            await asyncio.sleep(0.3)
            assert await page.evaluate("1 + 1") == 2
            # Of an unknown channel a browser itself notes the refusal.
            assert [problem for problem in page.problems if not query or "404" not in problem] == []
            await page.close()
        finally:
            scene.end()

    async def scenario():
        async with chromium.Browser(BROWSER) as browser:
            for hosted, writes, examples in (
                (True, False, ()),
                (False, False, ()),
                (True, True, ("x",)),
                (False, True, ()),
            ):
                await opened(browser, hosted, writes, examples, "")
            await opened(browser, True, False, (), "?channel=nope")

    asyncio.run(asyncio.wait_for(scenario(), 300))


@pytest.mark.parametrize("query, slack", [("", 14), ("?codec=rgba", 0)])
def test_both_rings_are_shown_as_they_were_written(on_the_page, query, slack):
    async def scenario(scene, page):
        await scene.write()
        for side, shift in (("in", 0), ("out", 100)):
            numbers = []
            for _ in range(4):
                after = numbers[-1] if numbers else 0
                await page.until(
                    f"Number(document.querySelector('#side-{side} .picture').dataset.sourceFrameId || 0) > {after}"
                )
                shown = await page.evaluate(READ.replace("SIDE", side))
                number = shown["number"]
                assert (shown["width"], shown["height"]) == (96, 64)
                assert number == shown["told"] > after
                wanted = ((number * 7 + shift) % 256, (number * 3) % 256, shift, 255)
                assert max(abs(a - b) for a, b in zip(shown["colour"], wanted, strict=True)) <= slack
                numbers.append(number)
        await page.until("document.querySelector('#side-in').dataset.state === 'live'")
        assert await page.evaluate(text_of("#side-in .message")) == ""
        await page.until(text_of("#about-out") + ".startsWith('96 × 64 · ')")

    assert on_the_page(scenario, query) == []


CHOOSE_PROMPT = "(() => { const p = document.querySelector('#p-prompt'); p.focus(); p.select(); })()"


def test_the_prompt_applies_on_enter_and_when_it_is_left_and_not_letter_by_letter(on_the_page):
    async def scenario(scene, page):
        await page.until(f"page.controls.size === {len(SPECS)}")
        await page.evaluate(CHOOSE_PROMPT)
        before = scene.live.revision
        await page.type("ink style, green cone")
        # Longer than the pause after which it would apply by itself.
        await asyncio.sleep(0.9)
        assert scene.live.revision == before
        await page.press("Enter", 13, "\r")
        await scene.until(lambda: scene.live.current.prompt == "ink style, green cone")
        # Whoever is in the box does not see what others set, and says it once more.
        scene.live.set("prompt", "of somebody else")
        await page.until("page.values.prompt === 'of somebody else'")
        await page.press("Enter", 13, "\r")
        await scene.until(lambda: scene.live.current.prompt == "ink style, green cone")
        await page.type("s")
        await page.press("Tab", 9)
        await scene.until(lambda: scene.live.current.prompt == "ink style, green cones")
        # What all examples end with is not written on each of them.
        assert await page.evaluate("document.querySelector('#examples button').textContent") == "wax style"
        await page.evaluate("document.querySelector('#examples button').click()")
        await scene.until(lambda: scene.live.current.prompt == "wax style, green box")
        await page.until("document.querySelector('#examples button').getAttribute('aria-pressed') === 'true'")
        assert await page.evaluate("document.querySelector('#p-prompt').value") == "wax style, green box"

    assert on_the_page(scenario) == []


def test_the_prompt_applies_while_typing_where_that_is_asked_for(on_the_page):
    async def scenario(scene, page):
        await page.until(f"page.controls.size === {len(SPECS)}")
        await page.evaluate("document.querySelector('#while-typing').click()")
        before = scene.live.revision
        await page.evaluate("""(() => {
            const box = document.querySelector('#p-prompt');
            box.value = "";
            for (let i = 0; i < 20; i += 1) {
                box.value += '!';
                box.dispatchEvent(new Event('input'));
            }
        })()""")
        await scene.until(lambda: scene.live.current.prompt == "!" * 20)
        assert scene.live.revision == before + 1
        await page.evaluate("document.querySelector('#while-typing').click()")

    assert on_the_page(scenario) == []


def test_every_parameter_has_a_labelled_control_that_shows_its_value(on_the_page):
    async def scenario(scene, page):
        await page.until(f"page.controls.size === {len(SPECS)}")
        for name, spec in SPECS.items():
            control = await page.evaluate(f"""(() => {{
                const root = document.querySelector('[data-name="{name}"]');
                const input = root.querySelector('#p-{name}');
                return {{ label: root.querySelector('label').control === input, help: root.textContent,
                          value: page.controls.get("{name}").look.read(), main: !root.closest('details') }};
            }})()""")
            assert control["label"] and spec.help in control["help"] and control["main"] == spec.main
            default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
            assert control["value"] == default, name

    assert on_the_page(scenario) == []


def test_controls_work_by_keyboard_and_follow_what_others_set(on_the_page):
    async def scenario(scene, page):
        await page.until(f"page.controls.size === {len(SPECS)}")
        await page.evaluate("document.querySelector('#p-steps').focus()")
        await page.press("ArrowRight", 39)
        await scene.until(lambda: scene.live.current.steps == 2)
        await page.press("Tab", 9)
        assert await page.evaluate("document.activeElement.id") == "p-steps-box"
        await page.evaluate("document.activeElement.select()")
        await page.type("5")
        await scene.until(lambda: scene.live.current.steps == 5)
        await page.evaluate("document.querySelector('#p-similarity_filter').focus()")
        await page.press(" ", 32, " ")
        await scene.until(lambda: scene.live.current.similarity_filter)
        # A number between two steps of the slider is kept as it was typed, also when the field is left.
        await page.evaluate("(() => { const b = document.querySelector('#p-strength-box'); b.focus(); b.select(); })()")
        await page.type("0.515")
        await scene.until(lambda: scene.live.current.strength == 0.515)
        await page.press("Tab", 9)
        scene.live.update({"guidance": "full", "seed": 99, "t_index": (18, 26), "paused": True})
        await page.until("document.querySelector('#p-guidance').value === 'full'")
        assert await page.evaluate("document.querySelector('#p-seed').value") == "99"
        assert await page.evaluate("document.querySelector('#p-t_index').value") == "18, 26"
        assert await page.evaluate("document.querySelector('#p-paused').checked") is True
        assert scene.live.current.strength == 0.515
        await page.evaluate("document.querySelector('[data-name=seed] .reset').click()")
        await scene.until(lambda: scene.live.current.seed == SPECS["seed"].default)
        await page.until("document.querySelector('[data-name=seed] .reset').hidden")

    assert on_the_page(scenario) == []


def test_a_control_follows_again_although_an_answer_is_missing(on_the_page):
    """The gateway owes a slow page the newest answers alone."""

    async def scenario(scene, page):
        await page.until("'paused' in page.values")
        await page.evaluate("""(() => {
            const control = page.controls.get("steps");
            page.send = () => true;
            control.put(2);
            control.put(3);
            control.accepted(2);
        })()""")
        scene.live.set("steps", 5)
        await page.until("document.querySelector('#p-steps').value === '5'")

    assert on_the_page(scenario) == []


def test_a_bad_value_is_shown_at_its_control_and_a_good_one_clears_it(on_the_page):
    async def scenario(scene, page):
        await page.until(f"page.controls.size === {len(SPECS)}")
        before = scene.live.current
        await page.evaluate("document.querySelector('details:has(#controls-more)').open = true")
        await page.evaluate("document.querySelector('#p-t_index').focus()")
        await page.call("Input.insertText", text="99")
        await page.press("Enter", 13, "\r")
        await page.until(text_of("[data-name=t_index] .error") + ".includes('whole numbers from 0 to 49')")
        assert scene.live.current == before
        await page.press("Backspace", 8)
        await page.press("Enter", 13, "\r")
        await scene.until(lambda: scene.live.current.t_index == (9,))
        await page.until(text_of("[data-name=t_index] .error") + " === ''")
        await page.evaluate(CHOOSE_PROMPT)
        await page.call("Input.insertText", text="x" * 100_000)
        await page.press("Enter", 13, "\r")
        await page.until(text_of("[data-name=prompt] .error") + ".includes('at most 2000 characters')")
        assert scene.live.current.prompt == before.prompt
        # Escape gives the box back to the value in force, and so does leaving it.
        await page.press("Escape", 27)
        assert await page.evaluate("document.querySelector('#p-prompt').value") == before.prompt
        await page.evaluate("(() => { const b = document.querySelector('#p-steps-box'); b.focus(); b.select(); })()")
        await page.type("99")
        await asyncio.sleep(0.3)
        assert await page.evaluate(text_of("[data-name=steps] .error")) == "", "half a number is nobody's mistake"
        await page.press("Tab", 9)
        await page.until(text_of("[data-name=steps] .error") + ".includes('from 1 to 8')")
        await page.until(f"document.querySelector('#p-steps-box').value === '{before.steps}'")
        assert scene.live.current.steps == before.steps

    assert on_the_page(scenario) == []


VIEWS = [(1280, 800, False), (390, 844, True), (2560, 1440, False), (320, 640, True), (3840, 2160, False)]


@pytest.mark.parametrize("width, height, mobile", VIEWS)
def test_every_control_is_reached_with_the_output_in_view(on_the_page, width, height, mobile):
    """Geometry: each control brought into view by the browser itself lies beside or below the output, whole; the output
    is large, and the input smaller."""

    async def scenario(scene, page):
        await scene.write()
        await page.until(f"page.controls.size === {len(SPECS)}")
        await page.until("document.querySelector('#side-out').dataset.state === 'live'")
        found = await page.evaluate("""(async () => {
            for (const box of document.querySelectorAll("details:not([hidden])")) box.open = true;
            page.controls.get("prompt").earlier.keep(["ink style", "w".repeat(300)]);
            for (const button of document.querySelectorAll("[aria-controls]")) if (!button.hidden) button.click();
            const stage = document.querySelector("#stage");
            const names = [];
            const bad = [];
            for (const input of document.querySelectorAll("button, input, select, textarea, summary, header a")) {
                if (!input.checkVisibility()) continue;
                input.focus();
                input.scrollIntoView({ block: "nearest" });
                const [i, s] = [input.getBoundingClientRect(), stage.getBoundingClientRect()];
                // Browsers scroll by whole pixels.
                const inside = (r) =>
                    r.left > -1 && r.top > -1 && r.right < innerWidth + 1 && r.bottom < innerHeight + 1;
                const at = document.elementFromPoint(i.left + i.width / 2, i.top + i.height / 2);
                const seen = at !== null && (at === input || input.contains(at) || at.contains(input));
                names.push(input.id);
                if (!inside(s) || !inside(i) || !seen) bad.push([input.id || input.textContent, i.toJSON()]);
            }
            const area = (e) => { const r = e.getBoundingClientRect(); return r.width * r.height; };
            return { names, bad, share: area(stage) / innerWidth / innerHeight,
                     input: area(document.querySelector("#side-in .stage")) / area(stage),
                     wide: document.documentElement.scrollWidth <= innerWidth };
        })()""")
        assert found["bad"] == []
        assert {f"p-{name}" for name in SPECS} <= set(found["names"])
        assert found["wide"] and found["input"] < 0.25
        assert found["share"] > (0.3 if mobile else 0.45)

    assert on_the_page(scenario, width=width, height=height, mobile=mobile) == []


def test_a_host_that_has_no_picture_yet_is_told(on_the_page):
    async def scenario(scene, page):
        message = text_of("#side-out .message")
        await page.evaluate("document.querySelector('#snapshot').click()")
        assert await page.evaluate(text_of("#notice")) == "there is no picture yet"
        with RingWriter(f"{scene.channel}.out", capacity_bytes=1 << 16) as ring:
            await page.until("document.querySelector('#side-out').dataset.state === 'live'")
            assert await page.evaluate(message) == "waiting for the first picture"
            ring.write({Kind.COLOUR: np.zeros((64, 96, 3), np.uint8)})
            await page.until(f"{message} === ''")

    assert on_the_page(scenario) == []


def test_missing_killed_and_returning_writers_and_hosts_are_told(on_the_page):
    async def scenario(scene, page):
        message = text_of("#side-in .message")
        await page.until(f"{message} === 'no writer on {scene.channel}.in yet'")
        await scene.write()
        await page.until("Number(document.querySelector('#side-in .picture').dataset.sourceFrameId || 0) > 3")
        await page.until(f"{message} === ''")
        scene.kill_writer()
        await page.until(f"{message} === 'the writer of {scene.channel}.in is gone; the last frame stays'")
        old = await page.evaluate("document.querySelector('#side-in .picture').dataset.generation")
        await scene.write()
        await page.until(f"document.querySelector('#side-in .picture').dataset.generation !== '{old}'")
        await page.until(f"{message} === ''")
        port = scene.gateway.port
        await asyncio.to_thread(scene.gateway.stop)
        await page.until("document.querySelector('#connection').dataset.state === 'gone'")
        await page.until(f"{message} === 'host gone; waiting for it to come back'")
        await page.evaluate("page.controls.get('steps').send(4)")
        assert "not sent" in await page.evaluate(text_of("[data-name=steps] .error"))
        scene.gateway = scene.new_gateway(port)
        scene.gateway.start()
        await page.until("document.querySelector('#connection').dataset.state === 'connected'")
        # What was set meanwhile is kept to be sent, and can be dropped.
        assert "Enter applies it" in await page.evaluate(text_of("[data-name=steps] .error"))
        await page.evaluate("page.controls.get('steps').restore()")
        assert await page.evaluate(text_of("[data-name=steps] .error")) == ""
        shown = await page.evaluate(READ.replace("SIDE", "out"))
        await page.until(
            f"Number(document.querySelector('#side-out .picture').dataset.sourceFrameId) > {shown['told'] + 3}"
        )

    problems = on_the_page(scenario)
    assert all("ERR_CONNECTION_REFUSED" in problem for problem in problems)


def test_statistics_are_shown(on_the_page):
    async def scenario(scene, page):
        for _ in range(50):
            scene.statistics.record("capture_to_publish", 25_000_000)
            scene.statistics.count("frames_out")
            scene.statistics.count("frames_in")
        await page.until(text_of("#figure-p50") + " === '25 ms'")
        await page.until(text_of("#counters") + ".includes('50 in · 50 painted · 0 overtaken by newer')")
        await page.until("page.history.length > 2")
        colours = await page.evaluate("""(() => {
            const canvas = document.querySelector('#graph-latency');
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            const seen = new Set();
            for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 250) seen.add(data.slice(i, i + 3).join());
            return seen.size;
        })()""")
        assert colours >= 3

    assert on_the_page(scenario) == []


@pytest.mark.parametrize("width, mobile", [(1280, False), (360, True)])
def test_the_page_fits_and_fetches_nothing_from_elsewhere(on_the_page, width, mobile):
    async def scenario(scene, page):
        await page.until(f"page.controls.size === {len(SPECS)}")
        await page.evaluate("document.querySelector('details:has(#controls-more)').open = true")
        # The longest name that a channel may have.
        await page.evaluate(f"document.querySelector('#channel').textContent = '{'w' * 48}'")
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert await page.evaluate("window.innerWidth") == width
        inputs = await page.evaluate(
            "[...document.querySelectorAll('input, select, textarea, .stage')].filter((e) => e.checkVisibility())"
            ".map((e) => (e.closest('label.button') ?? e).getBoundingClientRect())"  # a file's button is its label
            ".every((r) => r.left >= 0 && r.right <= innerWidth && r.width > 10)"
        )
        assert inputs
        origins = await page.evaluate(
            "[...new Set(performance.getEntriesByType('resource').map((e) => new URL(e.name).protocol === 'data:' ?"
            " 'data' : new URL(e.name).origin))]"
        )
        assert set(origins) <= {scene.gateway.url.rstrip("/"), "data"}

    assert on_the_page(scenario, width=width, height=800, mobile=mobile) == []


def test_a_page_of_another_origin_gets_nothing(on_the_page):
    async def scenario(scene, page):
        # The same gateway under another name of this machine is another origin to the browser.
        other = scene.gateway.url.replace("127.0.0.1", "localhost")
        script = (
            f"new Promise((done) => {{ const ws = new WebSocket('{other.replace('http', 'ws')}ws');"
            "ws.onopen = () => done('open'); ws.onerror = () => done('refused'); })"
        )
        await page.evaluate(
            "Object.values(page.sides).forEach((side) => { side.socket.onclose = null; side.socket.close(); })"
        )
        # Away from our own page, whose content policy would stop it first.
        await page.call("Page.navigate", url="about:blank")
        await page.until("location.href === 'about:blank'")
        await scene.until(lambda: scene.gateway.snapshot()["viewers"] == 0)
        assert await page.evaluate(script) == "refused"
        assert scene.gateway.snapshot()["viewers"] == 0
        fetched = await page.evaluate(f"fetch('{scene.gateway.url}api/params').then(() => 'read', () => 'refused')")
        assert fetched == "refused"

    on_the_page(scenario)

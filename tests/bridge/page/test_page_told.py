"""What the page says without being asked, in a real headless Chromium: of a host that was started anew, of channels, of
controls without effect, of words that the model does not know."""

import asyncio
from dataclasses import dataclass, field

from bridge.control.live import LiveParams
from bridge.control.statistics import Statistics
from bridge.page.gateway import Channel, Gateway
from core.params import SPECS, Params
from core.tiny import WEIGHTS
from core.tiny.vocabulary import words_of
from tests import chromium
from tests.bridge.page.scene import BROWSER, HOLD_ANSWERS, Scene, needs_browser
from tests.rings import fresh_channel

pytestmark = needs_browser

CONNECTED = "document.querySelector('#connection').dataset.state === 'connected'"


@dataclass
class Told:
    """What a host tells of itself: the embedded model's own words."""

    phase: str = "ready"
    words: object = field(default_factory=lambda: words_of(WEIGHTS))
    specs: tuple = tuple(SPECS.values())
    model_name: str = "embedded"
    preparing: str = ""


def text_of(selector):
    return f"document.querySelector({selector!r}).textContent"


async def loaded(page):
    await page.until(f"page.controls.size === {len(SPECS)}")
    await page.until("'paused' in page.values")


async def restarted(scene, page):
    """The host is gone, with all of its settings, and comes back on its port."""
    port = scene.gateway.port
    await asyncio.to_thread(scene.gateway.stop)
    await page.until("document.querySelector('#connection').dataset.state === 'gone'")
    scene.live = LiveParams(Params(prompt="as it starts"))
    scene.gateway = scene.new_gateway(port)
    scene.gateway.start()
    await page.until(CONNECTED)


def test_after_a_restart_the_old_picture_is_dim_and_the_settings_are_offered_back(on_the_page):
    async def scenario(scene, page):
        await scene.write()
        await loaded(page)
        await page.until("document.querySelector('#side-out').dataset.state === 'live'")
        await page.until("page.sides.out.size !== ''")
        scene.live.update({"seed": 77, "prompt": "before"})
        await page.until("page.values.seed === 77")
        scene.kill_writer()
        scene.host.phase = "loading"
        # A prompt is being typed meanwhile.
        await page.evaluate("document.querySelector('#p-prompt').focus()")
        await page.type("typed meanwhile ")
        await restarted(scene, page)
        await page.until(text_of("#connection") + " === 'loading'")
        assert await page.evaluate("document.querySelector('#side-out').dataset.state") != "live"
        await page.until("getComputedStyle(document.querySelector('#side-out .picture')).opacity < 0.5")
        assert "typed meanwhile" in await page.evaluate("document.querySelector('#p-prompt').value")
        await page.until("!document.querySelector('#offer').hidden")
        assert scene.live.current.seed == Params().seed, "nothing is forced on it"
        await page.evaluate("document.querySelector('#offer button').click()")
        await scene.until(lambda: (scene.live.current.seed, scene.live.current.prompt) == (77, "before"))
        await page.until("document.querySelector('#offer').hidden")
        scene.host.phase = "ready"
        await scene.write()
        await page.until("document.querySelector('#side-out').dataset.state === 'live'")
        await page.until(text_of("#connection") + " === 'connected'")

    problems = on_the_page(scenario, scene=Scene(host=Told()))
    assert all("ERR_CONNECTION_REFUSED" in problem for problem in problems)


def test_an_answer_from_before_undoes_nothing_that_was_told_since(on_the_page):
    """The page asks for the host's description when another model is there, while messages and answers go on."""

    async def scenario(scene, page):
        await loaded(page)
        await page.until("page.model === 'embedded'")
        await page.evaluate(HOLD_ANSWERS.replace("PATH", "api/params"))
        scene.host.model_name = "another"
        await page.until("answers.length === 1")
        scene.live.set("prompt", "a cat")
        await page.until("page.values.prompt === 'a cat'")
        # A value on its way is still one after the answer, and so is what was asked about presets.
        await page.evaluate("page.send = () => true; page.controls.get('steps').put(3); page.presets.ask({})")
        await page.evaluate("answers[0]()")
        await page.evaluate("new Promise((done) => setTimeout(done, 100))")
        assert await page.evaluate("[page.values.prompt, page.controls.get('prompt').look.read()]") == ["a cat"] * 2
        assert await page.evaluate("[page.controls.get('steps').look.read(), page.presets.waiting.size]") == [3, 1]

    assert on_the_page(scenario, scene=Scene(host=Told())) == []


def test_of_two_descriptions_the_one_that_was_asked_for_last_counts(on_the_page):
    async def scenario(scene, page):
        await loaded(page)
        await page.until("page.model === 'embedded'")
        await page.evaluate(HOLD_ANSWERS.replace("PATH", "api/params"))
        scene.host.words = None
        scene.host.model_name = "knows nearly all words"
        await page.until("answers.length === 1")
        scene.host.words = words_of(WEIGHTS)
        scene.host.model_name = "embedded"
        await page.until("answers.length === 2")
        await page.evaluate("answers[1]()")
        await page.until("page.answered === page.questions")
        await page.evaluate("answers[0]()")
        await page.evaluate("new Promise((done) => setTimeout(done, 100))")
        assert not await page.evaluate("document.querySelector('#known').hidden")

    assert on_the_page(scenario, scene=Scene(host=Told())) == []


def test_what_to_do_next_is_said_where_pictures_are_missing(on_the_page):
    async def scenario(scene, page):
        hint, pill = text_of("#hint"), text_of("#connection")
        # No program sends yet: what is typed must work as it stands.
        await page.until(f"{pill} === 'no input'")
        await page.until(f"{hint}.includes('python3 run.py host --channel {scene.channel}')")
        await scene.write()
        await page.until(f"{pill} === 'connected' && document.querySelector('#hint').hidden")
        scene.host.phase = "the card was lost"
        await page.until(f"{pill} === 'host ended' && {hint} === 'the card was lost'")

    assert on_the_page(scenario, scene=Scene(host=Told())) == []


def test_several_channels_have_a_chooser_and_an_unknown_one_says_so():
    names = [fresh_channel() for _ in range(3)]
    channels = [Channel(name, LiveParams(Params(prompt=name)), Statistics()) for name in names]
    gateway = Gateway(channels, port=0)
    gateway.start()

    async def scenario():
        async with chromium.Browser(BROWSER) as browser:
            page = await browser.page(gateway.url)
            await page.until(CONNECTED)
            there = "[...document.querySelectorAll('#channels option')].map((o) => o.value).join()"
            await page.until(f"{there} === '{','.join(names)}'")
            assert await page.evaluate("document.querySelector('#to-scene').getAttribute('href')") == "scene/?"
            choose = """(() => { const box = document.querySelector("#channels"); box.value = %r;
                                 box.dispatchEvent(new Event("change")); })()"""
            await page.evaluate(choose % names[2])
            await page.until(f"globalThis.page?.values.prompt === {names[2]!r}")
            assert f"channel={names[2]}" in await page.evaluate("document.querySelector('#to-out').href")
            await page.close()
            page = await browser.page(f"{gateway.url}?channel=nope")
            await page.until(text_of("#connection") + " === 'no such channel'")
            await page.until(f"{there} === ',{','.join(names)}'")
            await page.evaluate(choose % names[1])
            await page.until(f"globalThis.page?.values.prompt === {names[1]!r}")
            await page.close()

    try:
        asyncio.run(asyncio.wait_for(scenario(), 300))
    finally:
        gateway.stop()


def test_controls_without_effect_say_so_and_a_held_picture_has_a_badge(on_the_page):
    async def scenario(scene, page):
        await loaded(page)

        def idle(name):
            return text_of(f"[data-name={name}] .idle-note")

        assert await page.evaluate(idle("guidance_scale")) == "no effect while guidance is none"
        assert await page.evaluate(idle("strength")) == await page.evaluate(idle("steps")) == ""
        scene.live.update({"guidance": "full", "t_index": (18, 26), "paused": True})
        await page.until(f"{idle('guidance_scale')} === '' && {idle('negative_prompt')} === ''")
        assert await page.evaluate(idle("strength")) == "no effect while t index is set"
        assert await page.evaluate(idle("steps")) == "no effect while t index is set"
        assert await page.evaluate("document.querySelector('#badge').checkVisibility()")
        # It stays usable: it may be set beforehand.
        await page.evaluate("page.controls.get('strength').put(0.3)")
        await scene.until(lambda: scene.live.current.strength == 0.3)

    assert on_the_page(scenario) == []


def test_words_that_the_model_does_not_know_are_named_and_all_that_it_knows_listed(on_the_page):
    async def scenario(scene, page):
        await loaded(page)
        words = words_of(WEIGHTS).groups
        chips = await page.evaluate("[...document.querySelectorAll('#styles button')].map((b) => b.textContent)")
        assert chips == list(words["styles"]) and len(chips) == 20
        listed = await page.evaluate("document.querySelector('#known').textContent")
        assert all(word in listed for group in words.values() for word in group)
        scene.live.set("prompt", "a cat, van Gogh, neon style")
        await page.until(text_of("#unknown") + " === 'This model does not know: cat, van, gogh'")
        assert await page.evaluate("document.querySelector('#styles [aria-pressed=true]').textContent") == "neon"
        await page.evaluate("document.querySelector('#styles button').click()")
        await scene.until(lambda: scene.live.current.prompt == f"a cat, van Gogh, {chips[0]} style")
        scene.live.set("prompt", "neon style, red sphere")
        await page.until("document.querySelector('#unknown').hidden")

    assert on_the_page(scenario, scene=Scene(host=Told())) == []

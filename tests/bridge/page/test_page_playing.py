"""Undo, earlier prompts, seeds and keys on the page in a real headless Chromium."""

import asyncio

import pytest

from core.params import SPECS
from tests.bridge.page.scene import HOLD_WHAT_IS_TOLD, Scene, needs_browser

pytestmark = needs_browser

CTRL, SHIFT = 2, 8
EARLIER = "[...document.querySelectorAll('[data-name=NAME] .earlier li')].map((item) => item.textContent)"
PROMPT = "document.querySelector('#p-prompt').value"


async def ready(page):
    await page.until(f"page.controls.size === {len(SPECS)}")
    await page.until("'paused' in page.values")


async def key(page, key, modifiers=0, code=0):
    about = {"key": key, "modifiers": modifiers, "windowsVirtualKeyCode": code}
    await page.call("Input.dispatchKeyEvent", type="rawKeyDown", **about)
    await page.call("Input.dispatchKeyEvent", type="keyUp", **about)


async def moved(scene, page, **values):
    """Somebody sets values, and the page takes it for a step of its own."""
    await asyncio.sleep(0.8)
    scene.live.update(values)
    name, value = next(iter(values.items()))
    await page.until(f"page.values.{name} === {value!r}")


def test_undo_and_redo_go_through_what_anybody_did(on_the_page):
    async def scenario(scene, page):
        await ready(page)
        assert await page.evaluate("document.querySelector('#undo').disabled")
        await moved(scene, page, seed=5, strength=0.5)
        # A drag of a slider is one step, however many values it sends.
        await asyncio.sleep(0.8)
        for value in (0.6, 0.7, 0.8):
            await page.evaluate(f"""(() => {{
                const slider = document.querySelector('#p-strength');
                slider.value = {value};
                slider.dispatchEvent(new Event('input'));
            }})()""")
            await scene.until(lambda value=value: scene.live.current.strength == value)
        await page.until("page.values.strength === 0.8")
        await moved(scene, page, seed=7)

        def now():
            return scene.live.current.seed, scene.live.current.strength

        for wanted in ((5, 0.8), (5, 0.5), (SPECS["seed"].default, SPECS["strength"].default)):
            await key(page, "z", CTRL, 90)
            await scene.until(lambda wanted=wanted: now() == wanted)
            await page.until(f"page.values.seed === {wanted[0]} && page.values.strength === {wanted[1]}")
        await page.until("document.querySelector('#undo').disabled")
        for press in (("y", CTRL, 89), ("Z", CTRL | SHIFT, 90)):
            before = now()
            await key(page, *press)
            await scene.until(lambda before=before: now() != before)
            await page.until(f"page.values.strength === {now()[1]}")
        assert now() == (5, 0.8)
        # A new step makes what was undone unreachable.
        await moved(scene, page, seed=9)
        await key(page, "y", CTRL, 89)
        await page.evaluate("document.querySelector('#undo').click()")
        await scene.until(lambda: now() == (5, 0.8))

    assert on_the_page(scenario) == []


def test_undo_and_redo_pressed_faster_than_the_host_answers(on_the_page):
    async def scenario(scene, page):
        await ready(page)
        for seed in (5, 6, 7):
            await moved(scene, page, seed=seed)
        await asyncio.sleep(0.8)
        await page.evaluate(HOLD_WHAT_IS_TOLD)
        for press, seed in (("z", 6), ("z", 5), ("y", 6), ("z", 5)):
            await key(page, press, CTRL, ord(press.upper()))
            await scene.until(lambda seed=seed: scene.live.current.seed == seed)
        await page.evaluate("letGo()")
        await page.until("page.values.seed === 5")
        for seed in (6, 7):
            await key(page, "y", CTRL, 89)
            await scene.until(lambda seed=seed: scene.live.current.seed == seed)

    assert on_the_page(scenario) == []


def test_earlier_prompts_come_back_by_click_and_by_key_and_after_a_reload(on_the_page):
    async def scenario(scene, page):
        await ready(page)
        await page.evaluate("localStorage.clear()")
        for text in ("ink style", "wax style", "neon style"):
            scene.live.set("prompt", text)
            await page.until(f"page.controls.get('prompt').earlier.texts[0] === '{text}'")
        # What is on the way to something else is not kept.
        for text in ("n", "ne", "new"):
            scene.live.set("prompt", text)
        scene.live.set("negative_prompt", "blur")
        await page.until("page.controls.get('prompt').earlier.texts[0] === 'new'")
        await page.until("page.controls.get('negative_prompt').earlier.texts[0] === 'blur'")
        earlier = EARLIER.replace("NAME", "prompt")
        await page.evaluate("document.querySelector('[data-name=prompt] .tools [aria-controls]').click()")
        assert (await page.evaluate(earlier))[:3] == ["neon style", "wax style", "ink style"]
        await page.evaluate("document.querySelectorAll('[data-name=prompt] .earlier li button')[1].click()")
        await scene.until(lambda: scene.live.current.prompt == "wax style")
        await page.until(f"{earlier}[0] === 'new'")
        await page.call("Page.reload")
        await page.until("document.querySelector('#connection')?.dataset.state === 'connected'")
        await ready(page)
        # By key: into the box, and Enter applies it; what was being typed comes back.
        await page.evaluate("document.querySelector('#p-prompt').focus()")
        await page.type("!")
        for wanted in ("new", "neon style"):
            await key(page, "ArrowUp", 1, 38)
            assert await page.evaluate(PROMPT) == wanted
        for _ in range(3):
            await key(page, "ArrowDown", 1, 40)
        assert sorted(await page.evaluate(PROMPT)) == sorted("wax style!")
        assert scene.live.current.prompt == "wax style"
        await key(page, "ArrowUp", 1, 38)
        await page.press("Enter", 13, "\r")
        await scene.until(lambda: scene.live.current.prompt == "new")
        await page.evaluate("document.querySelector('[data-name=prompt] .earlier > button').click()")
        assert await page.evaluate("document.querySelector('[data-name=prompt] .earlier').hidden")

    assert on_the_page(scenario) == []


@pytest.mark.parametrize("damaged", ["{", "null", "[3, null]", '{"a": 1}'])
def test_a_damaged_history_counts_as_none(on_the_page, damaged):
    async def scenario(scene, page):
        await page.evaluate(f"localStorage.setItem('frameloom.earlier.prompt', {damaged!r})")
        await page.call("Page.reload")
        await page.until("document.querySelector('#connection')?.dataset.state === 'connected'")
        await ready(page)
        scene.live.set("prompt", "ink style")
        await page.until("page.controls.get('prompt').earlier.texts[0] === 'ink style'")
        await page.evaluate("localStorage.clear()")

    assert on_the_page(scenario, scene=Scene()) == []


def test_another_seed_by_button_and_by_key(on_the_page):
    async def scenario(scene, page):
        await ready(page)
        scene.live.update({"seed_mix": 0.5, "seed_to": 4})
        for press in ("document.querySelector('#seed-random').click()", None):
            before = scene.live.current.seed
            if press is None:
                await page.evaluate("document.activeElement.blur()")
                await key(page, "r", 0, 82)
            else:
                await page.evaluate(press)
            await scene.until(lambda before=before: scene.live.current.seed != before)
            assert scene.live.current.seed_mix == 0.0
            await page.until(f"document.querySelector('#p-seed').value === '{scene.live.current.seed}'")
        # Where no presets are kept, nothing can be set in motion.
        await page.until("document.querySelector('#seed-travel').checkVisibility() === false")

    assert on_the_page(scenario) == []


def test_the_seed_travels_and_stops_from_the_page_and_by_others(on_the_page, tmp_path):
    async def scenario(scene, page):
        await ready(page)
        button = "document.querySelector('#seed-travel')"
        await page.until(f"{button}.checkVisibility()")
        await page.evaluate("document.querySelector('#seed-seconds').value = 0.5")
        await page.evaluate(f"{button}.click()")
        await page.until(f"{button}.textContent === 'Stop'")
        seeds = set()
        await scene.until(lambda: seeds.add(scene.live.current.seed_to) or len(seeds) > 2)
        await page.evaluate(f"{button}.click()")
        await scene.until(lambda: not scene.presets.travelling)
        await page.until(f"{button}.textContent === 'Travel'")
        scene.presets.travel(5)
        await page.until(f"{button}.textContent === 'Stop'")
        # Whoever sets a seed takes over.
        await page.evaluate("document.querySelector('#seed-random').click()")
        await scene.until(lambda: not scene.presets.travelling and scene.live.current.seed_mix == 0.0)
        await page.until(f"{button}.textContent === 'Travel'")
        await page.evaluate("document.querySelector('#seed-seconds').value = 0")
        await page.evaluate(f"{button}.click()")
        await page.until("document.querySelector('[data-name=seed] .error').textContent.includes('from 0.2 to 600')")

    assert on_the_page(scenario, scene=Scene(shelf=tmp_path)) == []


def test_arrows_move_the_focused_and_the_last_touched_control(on_the_page):
    async def scenario(scene, page):
        await ready(page)

        async def arrows(wanted, *presses, **about):
            for press in presses:
                await key(
                    page, press, about.get("modifiers", 0), {"ArrowUp": 38, "ArrowDown": 40, "ArrowRight": 39}[press]
                )
            await scene.until(lambda: {name: getattr(scene.live.current, name) for name in wanted} == wanted)

        # Nothing was touched: they scroll.
        before = scene.live.revision
        await arrows({}, "ArrowUp", "ArrowDown")
        # A box goes by the parameter's step, not by 1, and stops at the ends.
        await page.evaluate("document.querySelector('#p-strength-box').focus()")
        await arrows({"strength": 0.12}, "ArrowUp")
        assert scene.live.revision == before + 1
        await arrows({"strength": 0.32}, "ArrowUp", modifiers=SHIFT)
        await arrows({"strength": 0.02}, "ArrowDown", "ArrowDown", modifiers=SHIFT)
        # Left, it is still the one; a button has no arrows of its own.
        await page.evaluate("document.querySelector('#full').focus()")
        await arrows({"strength": 0.04}, "ArrowRight")
        await page.evaluate("document.activeElement.blur()")
        await arrows({"strength": 0.02}, "ArrowDown")
        await page.evaluate("page.touch(page.controls.get('guidance'))")
        await arrows({"guidance": "full"}, "ArrowUp")
        await page.evaluate("page.touch(page.controls.get('similarity_filter'))")
        await arrows({"similarity_filter": True}, "ArrowUp")
        await arrows({"similarity_filter": False}, "ArrowDown")
        await page.evaluate("page.touch(page.controls.get('seed'))")
        await arrows({"seed": 12}, "ArrowUp", modifiers=SHIFT)
        # A slider that has the focus moves itself, once.
        await page.evaluate("document.querySelector('#p-steps').focus()")
        await arrows({"steps": 2, "seed": 12}, "ArrowRight")
        # In a text they move the caret.
        before = scene.live.current
        await page.evaluate("document.querySelector('#p-prompt').focus()")
        await arrows({}, "ArrowUp", "ArrowRight", "ArrowDown")
        await page.evaluate("document.activeElement.blur()")
        await arrows({}, "ArrowUp")
        await asyncio.sleep(0.3)
        assert scene.live.current == before

    assert on_the_page(scenario) == []

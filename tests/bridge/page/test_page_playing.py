"""Undo, earlier prompts, seeds and keys on the page in a real headless Chromium."""

import asyncio

import pytest

from core.params import SPECS
from tests.bridge.page.scene import Scene, needs_browser

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

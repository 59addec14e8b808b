"""The page in one headless Chromium per module."""

import asyncio

import pytest

from tests import chromium
from tests.bridge.page.scene import BROWSER, Scene


@pytest.fixture(scope="module")
def on_the_page():
    """`on_the_page(scenario, query, scene, **view)` runs `scenario(scene, page)` with everything up; gives the page's
    errors.

    One browser serves the whole module; every scenario has a gateway, rings and a tab of its own.
    """
    with asyncio.Runner() as runner:
        browser = chromium.Browser(BROWSER)
        runner.run(browser.__aenter__())

        async def visit(scene, scenario, query, view):
            page = await browser.page(scene.gateway.url + query, **view)
            try:
                await page.until("document.querySelector('#connection').dataset.state === 'connected'")
                await scenario(scene, page)
            finally:
                await page.close()
            return page.problems

        def run(scenario, query="", scene=None, **view):
            scene = scene or Scene()
            try:
                return runner.run(asyncio.wait_for(visit(scene, scenario, query, view), 300))
            finally:
                scene.end()

        yield run
        runner.run(browser.__aexit__())

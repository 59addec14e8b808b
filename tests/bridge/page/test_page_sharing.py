"""The page on other machines: its address as a code, read back from what a real headless Chromium shows."""

import asyncio
import urllib.request
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit

import cv2
import pytest

from bridge.page.gateway import Channel, Gateway
from tests.bridge.page.scene import Scene, needs_browser

TOKEN = "a-token-of-the-tests"
AWAY = "document.querySelector('#phone-address code').textContent"


class Shared(Scene):
    """A gateway that lets other machines in."""

    def new_gateway(self, port):
        return Gateway([Channel(self.channel, self.live, self.statistics)], "0.0.0.0", port, token=TOKEN)


def read_code(path):
    text, _, _ = cv2.QRCodeDetector().detectAndDecode(cv2.imread(str(path)))
    return text


@needs_browser
@pytest.mark.parametrize("width, height, mobile", [(1280, 800, False), (390, 844, True)])
def test_a_phone_reads_the_address_of_the_channels_page(on_the_page, tmp_path, width, height, mobile):
    async def scenario(scene, page):
        await page.evaluate("document.querySelector('#to-phone').click()")
        await page.until("document.querySelector('#phone-code').naturalWidth > 0")
        await page.screenshot(tmp_path / "code.png")
        address = read_code(tmp_path / "code.png")
        assert address == await page.evaluate(AWAY)
        parts = urlsplit(address)
        assert parts.port == scene.gateway.port and parts.path == "/"
        assert parse_qs(parts.query) == {"token": [TOKEN], "channel": [scene.channel]}
        # It leads to the page: the same by this machine's own name.
        answer = await asyncio.to_thread(urllib.request.urlopen, address.replace(parts.hostname, "127.0.0.1"))
        assert answer.status == 200 and b"<title>frameloom</title>" in answer.read()
        # Keys are the dialog's while it is open.
        before = scene.live.revision
        await page.press(" ", 32, " ")
        await asyncio.sleep(0.2)
        assert scene.live.revision == before

    assert on_the_page(scenario, scene=Shared(), width=width, height=height, mobile=mobile) == []


@needs_browser
def test_where_no_other_machine_is_let_in_the_page_says_how(on_the_page):
    async def scenario(scene, page):
        await page.evaluate("document.querySelector('#to-phone').click()")
        text = await page.evaluate("document.querySelector('#phone').innerText")
        assert "--listen 0.0.0.0 --token new" in text and "Scan it" not in text
        await page.press("Escape", 27)
        assert not await page.evaluate("document.querySelector('#phone').open")

    assert on_the_page(scenario) == []


def test_the_code_is_for_those_with_the_token_and_a_sentence_without_others():
    def status_of(gateway, query):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/code.svg?{query}") as answer:
                return answer.status, answer.headers["Content-Type"], answer.headers["Cache-Control"]
        except HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    scene = Shared()
    try:
        assert status_of(scene.gateway, f"token={TOKEN}") == (200, "image/svg+xml", "no-store")
        assert status_of(scene.gateway, "")[0] == 401
        assert status_of(scene.gateway, f"token={TOKEN}&channel=nobody")[0] == 404
    finally:
        scene.end()
    scene = Scene()
    try:
        status, text = status_of(scene.gateway, "")
        assert status == 404 and "--listen 0.0.0.0 --token new" in text
    finally:
        scene.end()

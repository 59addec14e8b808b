"""Drives a real headless Chromium over its DevTools protocol: just what the page's tests need.

`find()` says where a browser is; `Browser` runs one with a profile of its own; `Page` evaluates, types and takes
pictures. Asynchronous, over aiohttp's WebSocket client.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)

PATIENCE_S = 60.0


def find() -> str | None:
    """The path of a Chromium or Chrome on this machine, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class BrowserError(RuntimeError):
    """The browser did not start, or a script in the page raised."""


class Browser:
    """`async with Browser(path) as browser:` runs one headless browser with an empty profile. flags: further ones."""

    def __init__(self, path: str, *flags: str) -> None:
        self.path = path
        self.flags = flags

    async def __aenter__(self) -> Browser:
        self._profile = tempfile.TemporaryDirectory(prefix="frameloom-browser-", ignore_cleanup_errors=True)
        command = [self.path, *FLAGS, *self.flags, f"--user-data-dir={self._profile.name}", "about:blank"]
        # What it lays down outside of its profile stays for good where it is ended from outside.
        around = {**os.environ, "TMPDIR": self._profile.name}
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=around)
        # The debugging socket is one of our own machine's: no proxy of the environment is asked.
        self._session = aiohttp.ClientSession(trust_env=False)
        port_file = Path(self._profile.name) / "DevToolsActivePort"
        deadline = time.monotonic() + PATIENCE_S
        while not (port_file.exists() and len(port_file.read_text().splitlines()) >= 2):
            if self._process.poll() is not None or time.monotonic() > deadline:
                await self._end()
                raise BrowserError(f"{self.path} did not open its debugging port; exit status {self._process.poll()}")
            await asyncio.sleep(0.05)
        self.port = int(port_file.read_text().splitlines()[0])
        return self

    async def __aexit__(self, *about: object) -> None:
        await self._end()

    async def _end(self) -> None:
        await self._session.close()
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._profile.cleanup()

    async def page(self, url: str, width: int = 1280, height: int = 900, mobile: bool = False) -> Page:
        """Open `url` in a new tab of the given size in CSS pixels and wait until it has loaded."""
        async with self._session.put(f"http://127.0.0.1:{self.port}/json/new?about:blank") as answer:
            target = await answer.json()
        socket = await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        page = Page(socket)
        await page.call("Page.enable")
        await page.call("Runtime.enable")
        await page.call("Log.enable")
        await page.resize(width, height, mobile)
        await page.call("Page.navigate", url=url)
        await page.until("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page


class Page:
    """One tab. `problems` collects uncaught errors and console errors."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._socket:
            event = message.json()
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            elif event["method"] == "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                self.problems.append(event["params"]["entry"]["text"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools call; returns its result."""
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        answer = self._answers[number]
        await self._socket.send_json({"id": number, "method": method, "params": params})
        event = await asyncio.wait_for(answer, PATIENCE_S)
        if "error" in event:
            raise BrowserError(f"{method}: {event['error']['message']}")
        result: dict[str, Any] = event["result"]
        return result

    async def evaluate(self, script: str, gesture: bool = False) -> Any:
        """The value of a JavaScript expression, promises awaited. gesture: as if a person's click had run it."""
        about = {"returnByValue": True, "awaitPromise": True, "userGesture": gesture}
        result = await self.call("Runtime.evaluate", expression=script, **about)
        if "exceptionDetails" in result:
            raise BrowserError(result["exceptionDetails"].get("exception", {}).get("description", script))
        return result["result"].get("value")

    async def until(self, script: str, patience_s: float = PATIENCE_S) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + patience_s
        while True:
            value = None
            try:
                value = await self.evaluate(script)
            except BrowserError as error:
                # The page is just going elsewhere: the next one will be asked.
                if not any(words in str(error) for words in ("navigated or closed", "Cannot find context")):
                    raise
            if value:
                return value
            if time.monotonic() > deadline:
                raise BrowserError(f"after {patience_s:.0f} s still not: {script}")
            await asyncio.sleep(0.05)

    async def resize(self, width: int, height: int, mobile: bool = False) -> None:
        """Make the view `width` x `height` CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )

    async def type(self, text: str) -> None:
        """Type into the focused element, as a keyboard would."""
        for character in text:
            await self.call("Input.dispatchKeyEvent", type="keyDown", text=character, key=character)
            await self.call("Input.dispatchKeyEvent", type="keyUp", key=character)

    async def press(self, key: str, code: int, text: str = "") -> None:
        """Press one named key; `code` is its Windows virtual key code."""
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    async def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write a PNG of the view, or of the whole document."""
        result = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(result["data"]))

    async def close(self) -> None:
        """Close the tab."""
        await self.call("Page.close")
        self._listening.cancel()
        await self._socket.close()

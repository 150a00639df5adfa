"""The report page in a browser: no error, nothing from elsewhere, and filters, sorting, dialog.

Needs chromium; DISTCORR_SCREENSHOTS names a folder for pictures to look at.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from distcorr.report import page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on this machine")
Answers = dict[str, Any]


class Tab:
    """A page of a browser, driven by the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self.said: list[str] = []  # errors and warnings of the console
        self.asked: list[str] = []  # every address that was requested

    async def send(self, method: str, **parameters: object) -> Answers:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=60)
            self._note(message)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])

    def _note(self, message: Answers) -> None:
        name, facts = message.get("method", ""), message.get("params", {})
        if name == "Network.requestWillBeSent":
            self.asked.append(facts["request"]["url"])
        elif name == "Runtime.exceptionThrown" or (
            name == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning")
        ):
            self.said.append(str(facts))
        elif name == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.said.append(str(facts))

    async def run(self, script: str) -> Any:
        found = await self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def press(self, key: str, code: int, text: str = "") -> None:
        about = {"key": key, "windowsVirtualKeyCode": code, "text": text}
        await self.send("Input.dispatchKeyEvent", type="keyDown", **about)
        await self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def go(self, path: Path, theme: str = "light") -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        feature = {"name": "prefers-color-scheme", "value": theme}
        await self.send("Emulation.setEmulatedMedia", features=[feature])
        await self.send("Page.navigate", url=path.as_uri())
        for _ in range(200):
            if await self.run("document.readyState") == "complete":
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the page does not load")

    async def picture(self, name: str) -> None:
        if folder := os.environ.get("DISTCORR_SCREENSHOTS"):
            found = await self.send("Page.captureScreenshot", format="png")
            (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(found["data"]))


class Browser(NamedTuple):
    port: int

    def do(self, work: Callable[[Tab], Awaitable[None]]) -> Tab:
        """Some work in a tab of its own."""

        async def inside() -> Tab:
            async with aiohttp.ClientSession() as session:
                base = f"http://127.0.0.1:{self.port}/json"
                async with session.put(f"{base}/new?about:blank") as answer:
                    target = await answer.json()
                async with session.ws_connect(
                    target["webSocketDebuggerUrl"], max_msg_size=0
                ) as socket:
                    tab = Tab(socket)
                    await work(tab)
                async with session.get(f"{base}/close/{target['id']}"):
                    return tab

        return asyncio.run(inside())


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("chromium")
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--remote-debugging-port=0", f"--user-data-dir={home}", "--window-size=1240,1500"),
        *("--hide-scrollbars", "--disable-background-networking", "about:blank"),
    ]
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        port = home / "DevToolsActivePort"
        for _ in range(400):
            if port.exists() and port.read_text().strip():
                break
            assert process.poll() is None, (home / "log").read_text()
            time.sleep(0.05)
        yield Browser(int(port.read_text().split()[0]))
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def index(drawn: Path) -> Path:
    """The page of a toy run, or the one that DISTCORR_PAGE names."""
    return Path(os.environ.get("DISTCORR_PAGE", drawn / page.NAME))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_loads_alone_and_without_an_error(browser: Browser, index: Path, theme: str) -> None:
    async def work(tab: Tab) -> None:
        await tab.go(index, theme)
        assert await tab.run("[...document.images].every(i => i.alt)")
        # Pictures further down load when they come into view.
        await tab.run("[...document.images].forEach(i => (i.loading = 'eager'))")
        await tab.run("Promise.all([...document.images].map(i => i.decode()))")
        assert await tab.run("[...document.images].every(i => i.naturalWidth > 50)")
        wide = "document.documentElement.scrollWidth <= innerWidth"
        assert await tab.run(wide), "the page is wider than the window"
        await tab.picture(f"top-{theme}")
        for section in ("s2", "s3", "s4", "s5", "failures", "cost", "setup"):
            await tab.run(
                f"document.getElementById('{section}').scrollIntoView({{behavior: 'instant'}})"
            )
            await asyncio.sleep(0.2)
            await tab.picture(f"{section}-{theme}")
        colour = await tab.run("getComputedStyle(document.body).backgroundColor")
        shade = sum(int(part) for part in colour[4:-1].split(",")) / 3
        assert (shade > 200) == (theme == "light"), colour

    tab = browser.do(work)
    assert tab.said == []
    local = [url for url in tab.asked if not url.startswith("data:")]
    assert local == [index.as_uri()]  # a page that asks for nothing else


def test_filters_choose_cards(browser: Browser, index: Path) -> None:
    async def work(tab: Tab) -> None:
        await tab.go(index)
        shown = "[...document.querySelectorAll('.card')].filter(c => !c.hidden)"
        cards = await tab.run(f"{shown}.length")
        assert cards > 3
        for name in ("method", "category", "keypoint", "cause", "kind"):
            box = f"document.querySelector('[data-filter={name}]')"
            assert await tab.run(f"{box}.offsetParent !== null")
            await tab.run(
                f"{box}.selectedIndex = 1;"
                f"{box}.dispatchEvent(new Event('change', {{bubbles: true}}))"
            )
            value = await tab.run(f"{box}.value")
            own = await tab.run(f"{shown}.map(c => c.dataset.{name})")
            assert own
            assert set(own) == {value}
            said = await tab.run("document.getElementById('count').value")
            assert said == f"{len(own)} of {cards} shown"
            await tab.run(
                f"{box}.value = ''; {box}.dispatchEvent(new Event('change', {{bubbles: true}}))"
            )
        assert await tab.run(f"{shown}.length") == cards

    assert browser.do(work).said == []


def test_the_dialog_opens_by_the_keyboard_and_gives_the_focus_back(
    browser: Browser, index: Path
) -> None:
    async def work(tab: Tab) -> None:
        await tab.go(index)
        is_open = "document.getElementById('dialog').open"
        await tab.run("document.querySelectorAll('.card')[1].focus()")
        await tab.press("Enter", 13, "\r")
        assert await tab.run(is_open)
        words = "document.getElementById('shown').innerText"
        first = await tab.run(words)
        assert "keypoint" in first
        assert "photograph" in first
        assert (
            await tab.run("document.querySelector('dialog image').getBoundingClientRect().width")
            > 200
        )
        await asyncio.sleep(0.2)
        await tab.picture("dialog")
        await tab.press("ArrowRight", 39)
        assert await tab.run(is_open)
        assert await tab.run(words) != first
        await tab.press("Escape", 27)
        assert not await tab.run(is_open)
        cards = "[...document.querySelectorAll('.card')]"
        assert await tab.run(f"{cards}.indexOf(document.activeElement)") == 2

    assert browser.do(work).said == []


def test_a_neighbour_and_its_vote_stand_out_together(browser: Browser, index: Path) -> None:
    async def work(tab: Tab) -> None:
        await tab.go(index)
        await tab.send("Emulation.setFocusEmulationEnabled", enabled=True)
        flow = (
            "[...document.querySelectorAll('.card')].find(c => c.dataset.method.endsWith('flow'))"
        )
        await tab.run(f"{flow}.focus()")
        await tab.press("Enter", 13, "\r")
        await tab.press("Tab", 9)  # from the button that closes to the first neighbour
        row = "document.activeElement.closest('#shown tr')"
        lit = "[...document.querySelectorAll('#shown .photo .votes .on')].map(c => c.dataset.vote)"
        first = await tab.run(f"{row}.dataset.vote")
        assert await tab.run(lit) == [first]
        assert await tab.run(f"{row}.classList.contains('on')")
        await tab.press("Tab", 9)
        second = await tab.run(f"{row}.dataset.vote")
        assert second != first
        assert await tab.run(lit) == [second]
        place = "document.querySelector('#shown .photo .votes :not(.on)').getBoundingClientRect()"
        x, y = [await tab.run(f"{place}.{side} + {place}.width / 2") for side in ("x", "y")]
        await tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        hovered = await tab.run(lit)  # what lies on top there; its row, too
        rows = "[...document.querySelectorAll('#shown tr.on')].map(r => r.dataset.vote)"
        assert await tab.run(rows) == hovered
        await tab.picture("votes")

    assert browser.do(work).said == []


def test_score_maps_show_the_picture_of_their_card(browser: Browser, index: Path) -> None:
    async def work(tab: Tab) -> None:
        await tab.go(index)
        prior = (
            "[...document.querySelectorAll('.card')].find(c => c.dataset.method.endsWith('prior'))"
        )
        await tab.run(f"{prior}.click()")
        maps = "[...document.querySelectorAll('#shown .heat')]"
        assert await tab.run(f"{maps}.length") >= 2
        sizes = await tab.run(f"{maps}.map(m => m.querySelector('use').getBBox().width)")
        assert min(sizes) > 50
        same = f"{maps}.every(m => m.querySelector('use').getAttribute('href') ==="
        assert await tab.run(f"{same} '#' + {prior}.querySelector('image').id)")
        for theme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": theme}
            await tab.send("Emulation.setEmulatedMedia", features=[feature])
            await asyncio.sleep(0.2)
            await tab.picture(f"maps-{theme}")

    assert browser.do(work).said == []


def test_tables_sort_by_number(browser: Browser, index: Path) -> None:
    async def work(tab: Tab) -> None:
        await tab.go(index)
        await tab.run("document.querySelectorAll('details').forEach(d => (d.open = true))")
        table = (
            "[...document.querySelectorAll('table.sort')]"
            ".find(t => t.rows[0].cells[2].innerText.startsWith('n'))"
        )
        column = f"[...({table}).tBodies[0].rows].map(r => +r.cells[2].innerText.replace(',', ''))"
        before = await tab.run(column)
        for wanted in (sorted(before), sorted(before, reverse=True)):
            await tab.run(f"({table}).tHead.rows[0].cells[2].querySelector('button').click()")
            assert await tab.run(column) == wanted

    assert browser.do(work).said == []


def test_without_scripts_all_is_there(browser: Browser, index: Path) -> None:
    async def work(tab: Tab) -> None:
        await tab.send("Emulation.setScriptExecutionDisabled", value=True)
        await tab.send("Page.enable")
        await tab.send("Page.navigate", url=index.as_uri())
        await asyncio.sleep(1)
        found = await tab.send("DOM.getDocument")
        root = found["root"]["nodeId"]
        for query, least in ((".card", 4), ("table", 8), ("figure", 4)):
            nodes = await tab.send("DOM.querySelectorAll", nodeId=root, selector=query)
            assert len(nodes["nodeIds"]) >= least
        printed = await tab.send("Page.printToPDF", printBackground=True)
        pdf = base64.b64decode(printed["data"])
        assert pdf.startswith(b"%PDF")
        if folder := os.environ.get("DISTCORR_SCREENSHOTS"):
            (Path(folder) / "page.pdf").write_bytes(pdf)

    browser.do(work)

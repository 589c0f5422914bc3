"""The report in a real browser without a window: what it asks for, what it complains of, how wide it is."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aoi.bench.report.writing import write_report


def chromium() -> str | None:
    """The browser's path, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """One page in a Chromium of its own, spoken to over its debugging pipe; a context manager."""

    def __init__(self, profile: Path) -> None:
        theirs, ours = os.pipe(), os.pipe()

        def wire() -> None:  # Chromium reads from descriptor 3 and writes to 4
            read, write = os.dup(theirs[0]), os.dup(ours[1])
            os.dup2(read, 3)
            os.dup2(write, 4)

        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen([str(chromium()), *options], preexec_fn=wire, close_fds=False, stdout=quiet, stderr=quiet)
        os.close(theirs[0])
        os.close(ours[1])
        self.write, self.read = os.fdopen(theirs[1], "wb", 0), os.fdopen(ours[0], "rb", 0)
        self.rest, self.count, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.write.close()
        self.read.close()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events in between are kept."""
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        self.write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            chunk = self.read.read(1 << 16)
            assert chunk, "the browser is gone"
            self.rest += chunk
        message, _, self.rest = self.rest.partition(b"\0")
        return dict(json.loads(message))

    def open(self, page: Path) -> None:
        """Load a file to its end."""
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def widths(self, width: int) -> tuple[int, int]:
        """Of the window and of what is in it, CSS pixels, on a phone or a screen so wide."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        inner, content = self.value("[innerWidth, document.documentElement.scrollWidth]")
        return inner, content

    def value(self, expression: str) -> Any:
        """Of an expression in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def asked_for(self) -> list[str]:
        """Addresses that were requested and do not carry their own content."""
        sent = (event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent")
        return [url for url in sent if not url.startswith("data:")]

    def complaints(self) -> list[dict[str, Any]]:
        """Everything in the console."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event["params"] for event in self.events if event["method"] in kinds]


@pytest.mark.skipif(chromium() is None, reason="needs chromium")
def test_a_browser_finds_nothing_wrong_with_the_page(ablation, tmp_path):
    write_report(ablation, ["html"], out=tmp_path)
    page = tmp_path / "report.html"
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.asked_for() == [page.resolve().as_uri()]
        assert browser.complaints() == []
        images = "[...document.images].map(image => image.complete && image.naturalWidth > 0)"
        assert browser.value(images)
        assert all(browser.value(images))
        assert browser.value("[...document.querySelectorAll('svg')].every(svg => svg.getBoundingClientRect().height > 20)")
        for width in (390, 1280):
            inner, content = browser.widths(width)
            assert inner == width
            assert content <= width  # tables scroll in themselves, the page does not
        folded = "[...document.querySelectorAll('details.printed > :not(summary)')].map(each => each.checkVisibility())"
        assert browser.value(folded) == [False, False]
        browser.ask("Emulation.setEmulatedMedia", media="print")
        assert browser.value(folded) == [True, True]  # the environment and the plan: nobody can unfold paper
        printed = browser.ask("Page.printToPDF", printBackground=True)["data"]
        assert base64.b64decode(printed).startswith(b"%PDF")


@pytest.mark.skipif(chromium() is None, reason="needs chromium")
def test_the_browser_would_have_told(tmp_path):
    page = tmp_path / "bad.html"
    image = '<img src="missing.jpg"><div style="width:900px">wide</div><script>console.error("no"); absent()</script>'
    page.write_text(f'<meta name="viewport" content="width=device-width">{image}', encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        assert len(browser.asked_for()) == 2
        assert len(browser.complaints()) >= 2
        assert browser.value("[...document.images].map(image => image.naturalWidth)") == [0]
        assert browser.widths(390)[1] > 390

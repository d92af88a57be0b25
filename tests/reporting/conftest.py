"""A real browser, headless Chromium, spoken to by its DevTools protocol over a pipe, so that nothing else is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 30  # seconds for any answer
# Chromium reads commands from file 3 and answers to file 4; both end with a zero byte.
START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One tab.

    Attributes:
        complaints: errors and warnings on the console, and exceptions, since the last visit began.
        requests: addresses that were asked for since then.
    """

    def __init__(self, program: str, profile: Path) -> None:
        reads, self.to = os.pipe()
        self.back, writes = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        flags += ["--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={profile}"]
        words = [sys.executable, "-c", START, str(reads), str(writes), program, *flags, "about:blank"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(words, pass_fds=(reads, writes), stdout=quiet, stderr=quiet)
        os.close(reads)
        os.close(writes)
        self.number, self.session, self.rest = 0, "", b""
        self.events: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command, and wait for its answer."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def darken(self, dark: bool) -> None:
        """Have the user prefer dark pages, or light ones."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def visit(self, page: Path, width: int) -> None:
        """Load a page in a window of so many pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.complaints, self.requests, self.events = [], [], []
        self.call("Page.navigate", url=page.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()

    def value(self, script: str) -> Any:
        """What a piece of JavaScript is worth there."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write all of the page as a PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self.to)
        os.close(self.back)

    def _next(self) -> dict[str, Any]:
        """The next message; one that no command asked for is kept as an event."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], max(0, end - time.monotonic()))
            more = os.read(self.back, 2**20) if ready else b""
            assert more, "the browser says nothing more"
            self.rest += more
        text, _, self.rest = self.rest.partition(b"\0")
        message = dict(json.loads(text))
        if "method" in message:
            self._note(message)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        told = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])
        elif event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(told["exceptionDetails"]["text"])
        elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(told["args"]))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, where it is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    opened = Browser(program, tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def overflowing(browser: Browser) -> Callable[[], list[str]]:
    """A function that names what reaches beyond the sides of the page that is open, parts that scroll aside."""
    script = """(() => {
      const wide = document.documentElement.clientWidth, found = [];
      if (document.documentElement.scrollWidth > wide) found.push('page ' + document.documentElement.scrollWidth);
      for (const part of document.querySelectorAll('body *')) {
        if (part.closest('.wide') || part.closest('details:not([open])') || part.closest('title')) continue;
        const box = part.getBoundingClientRect();
        if (box.width && (box.right > wide + 1 || box.left < -1)) found.push(part.tagName + ' ' + part.textContent);
      }
      return found;
    })()"""
    return lambda: list(browser.value(script))

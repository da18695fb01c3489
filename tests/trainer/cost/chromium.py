"""Drives a Chromium without other packages, over a pipe (its DevTools protocol)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-extensions", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip
# The browser reads orders from descriptor 3 and writes answers to 4.
START = """import fcntl, os, sys
read, write = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.close(read), os.close(write)
os.execv(sys.argv[3], sys.argv[3:])"""


def find() -> str:
    """Return the browser to drive: $TALLYGRAD_BROWSER, or one on PATH. Skips where none is."""
    named = os.environ.get("TALLYGRAD_BROWSER")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no browser: set TALLYGRAD_BROWSER, or put chromium on PATH")
    return found


class Page:
    """One page of a browser; `said` are errors of scripts and refusals that it met."""

    def __init__(self, orders: BinaryIO, answers: BinaryIO) -> None:
        self.orders, self.answers = orders, answers
        self.said: list[str] = []
        self.events: list[str] = []
        self.number, self.session = 0, ""
        target = self.order("Target.createTarget", url="about:blank")["targetId"]
        attached = self.order("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.order(f"{domain}.enable")

    def order(self, method: str, **parameters: Any) -> Any:
        """Send an order, and return its answer."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.orders.write(json.dumps(message).encode() + b"\0")
        self.orders.flush()
        while (answer := self._next()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> Any:
        read = bytearray()
        while (byte := self.answers.read(1)) not in (b"\0", b""):
            read += byte
        assert byte, "the browser ended"
        answer = json.loads(read)
        method = answer.get("method", "")
        if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.said.append(json.dumps(answer["params"]))
        if method == "Page.javascriptDialogOpening":
            self.said.append("dialog")
        if method == "Network.requestWillBeSent":
            self.events.append(answer["params"]["request"]["url"])
        if method == "Page.loadEventFired":
            self.events.append("loaded")
        return answer

    def show(self, path: Path, width: int, dark: bool = False) -> None:
        """Open a file on a screen of a width, as a phone where that is small."""
        self.order(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.order("Emulation.setEmulatedMedia", features=[scheme])
        self.said.clear()
        self.events.clear()
        self.order("Page.navigate", url=path.as_uri())
        while "loaded" not in self.events:
            self._next()

    def ask(self, code: str) -> Any:
        """Return the value of an expression of JavaScript."""
        answer = self.order("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        shot = self.order("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def opened(program: str) -> Iterator[Page]:
    """Start a browser with an empty page, and end it."""
    (read, orders), (answers, write) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(read), str(write), program, *FLAGS,
             f"--user-data-dir={home}"],
            pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        try:
            with os.fdopen(orders, "wb") as out, os.fdopen(answers, "rb") as back:
                yield Page(out, back)
        finally:
            process.terminate()
            process.wait(20)

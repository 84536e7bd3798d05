"""A real browser without a window, driven over the DevTools protocol: opens pages, clicks, reads, photographs."""

import base64
import json
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from cleanup_pipeline_tests.ui.deployment import until

CHROMIUM = shutil.which("chromium")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


class Page:
    """One page of the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self._call("Page.enable")

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=60))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, address: str, *texts: str) -> None:
        """Open the address, and wait until the page shows each of these texts."""
        self._call("Page.navigate", url=address)
        for text in texts:
            self.wait_for(text)

    def wait_for(self, text: str) -> None:
        """Wait until the page shows the text."""
        until(f"the page shows {text!r}; it shows: {self.text()[:2000]}", lambda: text in self.text(), 60)

    def text(self) -> str:
        """All text that the page shows."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def run(self, script: str) -> Any:
        """Run a script in the page; returns its value, where that is a promise what it promised."""
        ran = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return ran["result"].get("value")

    def click(self, text: str) -> None:
        """Click on the last of the innermost elements that show exactly this text."""
        script = f"""(() => {{
            const found = [...document.querySelectorAll('button, a, span, div')]
                .filter(e => e.innerText && e.innerText.trim() === {json.dumps(text)});
            const one = found.pop();
            if (one) {{ one.scrollIntoView({{block: 'center'}}); one.click(); }}
            return !!one;
        }})()"""
        until(f"there is {text!r} to click on", lambda: self.run(script), 60)

    def scroll_to(self, text: str) -> None:
        """Scroll the element that shows this text to the top."""
        self.run(
            f"[...document.querySelectorAll('*')].filter(e => e.innerText && e.innerText.trim() === {json.dumps(text)})"
            ".pop()?.scrollIntoView({block: 'start'})"
        )

    def photograph(self, file: Path, width: int, height: int, scale: float = 1.0) -> None:
        """Write a picture of the page as it is seen in a window of that size."""
        self.size(width, height, scale)
        self.run("new Promise(done => setTimeout(done, 1000))")
        picture = self._call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(picture["data"]))

    def size(self, width: int, height: int, scale: float = 1.0) -> None:
        """Make the window so large; `scale` is for the pixels of pictures."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )


@contextmanager
def browser() -> Iterator[Page]:
    """Start a browser with one empty page."""
    assert CHROMIUM, "there is no chromium"
    with tempfile.TemporaryDirectory(prefix="cleanup-chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with connect(_page_of(process), max_size=None) as connection:
                yield Page(connection)
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _page_of(process: "subprocess.Popen[str]") -> str:
    """The address of the first page's DevTools."""
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"DevTools listening on ws://([^/]+)/", line):
            with urllib.request.urlopen(f"http://{found[1]}/json/list", timeout=30) as answer:
                pages = [target for target in json.load(answer) if target["type"] == "page"]
            return str(pages[0]["webSocketDebuggerUrl"])
    raise AssertionError("chromium ended at once")

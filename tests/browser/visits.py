"""A visit to the service's pages, by Playwright."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

PATIENCE_MS = 60_000
AXE = Axe().axe_script
"""What looks for barriers in a page."""
SCREENSHOTS = os.environ.get("LARGEBATCH_SCREENSHOTS")
"""A folder, for CI to keep."""


class Visit:
    """A page, what it asked for, and what it complained of."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self._url = page, url
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        self._listeners: dict[Any, Callable[[Any], None]] = {
            "console": lambda message: self.complaints.append(message.text) if message.type in {"error", "warning"} else None,
            "pageerror": lambda error: self.complaints.append(str(error)),
            "request": lambda request: self.foreign.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None,
        }
        for event, listener in self._listeners.items():
            page.on(event, listener)

    def end(self) -> None:
        """Hear no more of the page, which others may visit."""
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)

    def go(self, path: str) -> None:
        self.page.goto(self._url + path)

    def until(self, script: str, value: Any) -> None:
        """Waits until the script's value is this: what a click changes may come after the click has returned."""
        ends_at_s = time.monotonic() + PATIENCE_MS / 1000
        while (found := self.page.evaluate(script)) != value and time.monotonic() < ends_at_s:
            self.page.wait_for_timeout(50)
        assert found == value

    def keep(self, name: str) -> None:
        if SCREENSHOTS:
            Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)

    def refuse_barriers(self) -> None:
        self.page.evaluate(AXE)
        found = self.page.evaluate("axe.run({ resultTypes: ['violations'] }).then(({ violations }) => violations)")  # the rest of it is long
        assert found == [], [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]

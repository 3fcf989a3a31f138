"""A visit to the service's pages, by Playwright."""

import os
import time
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

PATIENCE_MS = 60_000
SCREENSHOTS = os.environ.get("LARGEBATCH_SCREENSHOTS")
"""A folder, for CI to keep."""


class Visit:
    """A page, what it asked for, and what it complained of."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self._url = page, url
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self.complaints.append(message.text) if message.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.foreign.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None)

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
        found = Axe().run(self.page).response["violations"]
        assert found == [], [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]

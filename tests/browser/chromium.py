"""The browser that pages are tested in, for the service's as for the reports'."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from visits import PATIENCE_MS, Visit

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium. Of a module, not of the session: while it lives, asyncio takes this thread for a running loop, and others' tests want their own."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("the page is tested in a real browser: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


class Tab:
    """One tab for visit after visit, clean for each: to read and compile the charts' library takes a new one four seconds of a core."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._page: Page | None = None

    @contextmanager
    def visit(self, url: str, width: int, height: int = 900, scheme: Literal["light", "dark"] = "light") -> Iterator[Visit]:
        """A visit to this address in a window of so many pixels, with nothing there of the visits before it."""
        page = self._page or self._browser.new_context().new_page()
        self._page = None  # until it is clean: whoever cannot clean it leaves the next a new one
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(media="null", color_scheme=scheme)
        visit = Visit(page, url)
        try:
            yield visit
        finally:
            visit.end()
            page.goto("about:blank")
            page.unroute_all()
            page.context.clear_cookies()
            page.context.clear_permissions()
            self._page = page


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Tab:
    """The tab of a module's visits."""
    return Tab(browser)

"""Signing in and out where tokens are on, by a person's own browser: Chromium, and as a slow test Firefox, which walks the same way."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from firefox import Firefox, firefox, firefox_path
from playwright.sync_api import Page
from servers import Service, new_token

SUBMIT = "main form button"
SIGN_OUT = "header form button"


class Chromium:
    """What a person does, as with Firefox; each waits until the page that it leads to is there."""

    def __init__(self, page: Page) -> None:
        self._page = page

    @property
    def address(self) -> str:
        return self._page.url

    def go(self, address: str) -> None:
        self._page.goto(address)

    def back(self) -> None:
        self._page.go_back()

    def type(self, selector: str, text: str) -> None:
        self._page.fill(selector, text)

    def click(self, selector: str) -> None:
        with self._page.expect_navigation():
            self._page.click(selector)

    def text(self, selector: str) -> str:
        return self._page.inner_text(selector)


OPTIONS = ("--with-tokens", "--max-running-per-owner", "0")


@pytest.fixture(scope="module")
def token(service: Service) -> str:
    return new_token(service.runs_dir, "ann")


@pytest.fixture(scope="module")
def foreign(service: Service) -> Iterator[int]:
    """The port of another site, whose page posts a form to the service: to the address that its own address ends in."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f'<main><form method="post" action="{service.url}{self.path}"><button>Win</button></form></main>'.encode())

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(params=["chromium", pytest.param("firefox", marks=pytest.mark.slow)])
def tab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chromium | Firefox]:
    if request.param == "chromium":
        context = request.getfixturevalue("browser").new_context()
        yield Chromium(context.new_page())
        context.close()
        return
    if firefox_path() is None:
        pytest.skip("signing in is tested in Firefox too: apt-get install firefox-esr")
    with firefox(tmp_path) as started:
        yield started


def test_a_person_signs_in_and_out(tab: Chromium | Firefox, service: Service, token: str, foreign: int) -> None:
    wanted = f"{service.url}/sweeps?q=batch%3E%3D64"
    tab.go(wanted)
    assert tab.address == f"{service.url}/login?next=%2Fsweeps%3Fq%3Dbatch%253E%253D64"
    for wrong in (token[:-1], "x" * 300):
        tab.type("#token", wrong)
        tab.click(SUBMIT)
        assert tab.address == f"{service.url}/login"
        assert "The token is not valid." in tab.text("#token-error")
    tab.type("#token", f" {token} ")  # as it is copied
    tab.click(SUBMIT)
    assert tab.address == wanted, "the page that she wanted"
    assert "ann (submit)" in tab.text("header")
    tab.go(f"{service.url}/runs")
    assert "Nothing has run here yet." in tab.text("main")

    # On a loopback cookies know no ports: from the one address the form comes with the session, from the other without.
    for host in ("127.0.0.1", "localhost"):
        for path in ("/logout", "/login"):
            tab.go(f"http://{host}:{foreign}{path}")
            tab.click(SUBMIT)
            assert "this request comes from another site's page" in tab.text("main")
    tab.go(f"{service.url}/sweeps")
    assert tab.address == f"{service.url}/sweeps", "nobody else has signed her out"

    tab.click(SIGN_OUT)
    assert tab.address == f"{service.url}/login"
    tab.back()
    assert tab.address == f"{service.url}/login?next=%2Fsweeps", "what was seen is not kept"
    tab.go(f"{service.url}/runs")
    assert tab.address == f"{service.url}/login"

    by_name = service.url.replace("127.0.0.1", "localhost")
    tab.go(f"{by_name}/login")
    tab.type("#token", token)
    tab.click(SUBMIT)
    assert tab.address == f"{by_name}/runs"
    tab.click(SIGN_OUT)
    assert tab.address == f"{by_name}/login"

"""A real Firefox, driven through Marionette, the remote control that every Firefox has built in: JSON on a socket, nothing to install beside it.

Playwright drives its own build of Firefox, not the one that people have.
"""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from small_runs import wait_for

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key under which WebDriver names an element."""
START_S = 60.0


class Firefox:
    """One browser with one tab. Elements are named by CSS selectors, and waited for."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=START_S)
        self._answers = self._socket.makefile("rb")
        self._number = 0
        self._read()  # who it is
        self._ask("WebDriver:NewSession", timeouts={"implicit": 20_000, "pageLoad": 60_000})

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def go(self, address: str) -> None:
        self._ask("WebDriver:Navigate", url=address)

    def back(self) -> None:
        self._ask("WebDriver:Back")

    def type(self, selector: str, text: str) -> None:
        self._ask("WebDriver:ElementSendKeys", id=self._find(selector), text=text)

    def click(self, selector: str) -> None:
        """Waits until the page that it leads to is there."""
        self._ask("WebDriver:ElementClick", id=self._find(selector))

    def text(self, selector: str) -> str:
        return str(self._ask("WebDriver:GetElementText", id=self._find(selector))["value"])

    @property
    def address(self) -> str:
        return str(self._ask("WebDriver:GetCurrentURL")["value"])

    def _find(self, selector: str) -> str:
        return str(self._ask("WebDriver:FindElement", using="css selector", value=selector)["value"][ELEMENT])

    def _ask(self, command: str, **arguments: Any) -> Any:
        self._number += 1
        message = json.dumps([0, self._number, command, arguments]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, number, error, result = self._read()
        assert number == self._number
        assert error is None, (command, arguments, error)
        return result

    def _read(self) -> Any:
        length = b""
        while (character := self._answers.read(1)) != b":":
            assert character, "Firefox is gone"
            length += character
        return json.loads(self._answers.read(int(length)))


def firefox_path() -> str | None:
    """The Firefox that this machine has."""
    return shutil.which("firefox-esr") or shutil.which("firefox")


@contextmanager
def firefox(profile: Path) -> Iterator[Firefox]:
    """A browser with a profile of its own, ended afterwards."""
    path = firefox_path()
    (profile / "user.js").write_text('user_pref("marionette.port", 0);\nuser_pref("datareporting.policy.dataSubmissionEnabled", false);\n')
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen([path, "--headless", "--no-remote", "--marionette", "--profile", profile, "about:blank"], stdout=log, stderr=log)
    try:
        said = profile / "MarionetteActivePort"
        wait_for(lambda: said.is_file() and said.read_text().strip(), START_S, process)
        with closing(Firefox(int(said.read_text()))) as browser:
            yield browser
    finally:
        process.kill()
        process.wait()

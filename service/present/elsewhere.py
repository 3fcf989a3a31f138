"""Whether what the service does not need to answer (Ray, MLflow) answers itself: asked beside requests, and waited for a moment at most."""

import threading
import time
from collections.abc import Callable

import httpx

from largebatch.jobs.errors import FaultError
from largebatch.service.backends.base import Backend

FRESH_S = 5.0
TIMEOUT_S = 1.0


class Elsewhere:
    """A server that may be away.

    Args: ask: what is wrong with it, or "ok"; it may take long. fresh_s: how long an answer is good; timeout_s: how long one is waited for.
    """

    def __init__(self, ask: Callable[[], str], fresh_s: float = FRESH_S, timeout_s: float = TIMEOUT_S) -> None:
        self._ask, self._fresh_s, self._timeout_s = ask, fresh_s, timeout_s
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._asked_at_s = -fresh_s
        self._problem: str | None = None

    def state(self, waits: bool = True) -> str:
        """`ok`, or what is wrong, at most some seconds old; takes a second at most, also where names are not resolved.

        Args: waits: False: what was found last, at once; `ok` before anything was.
        """
        with self._lock:
            if self._asking is None and time.monotonic() - self._asked_at_s >= self._fresh_s:
                self._asking = threading.Thread(target=self._look, name="elsewhere", daemon=True)
                self._asking.start()
            asking = self._asking
        if asking is not None and waits:
            asking.join(self._timeout_s)
        return self._problem or ("has not answered yet" if waits else "ok")

    def _look(self) -> None:
        self._problem = self._ask()
        with self._lock:
            self._asking, self._asked_at_s = None, time.monotonic()


def tracking_server(uri: str | None, fresh_s: float = FRESH_S, timeout_s: float = TIMEOUT_S) -> Elsewhere:
    """The tracking server that jobs are mirrored to. Args: uri: None, or a database's or folder's: there is nothing to ask."""
    if not uri or not uri.startswith(("http://", "https://")):
        return Elsewhere(lambda: "ok", fresh_s, timeout_s)

    def ask() -> str:
        try:
            response = httpx.get(f"{uri.rstrip('/')}/health", timeout=timeout_s)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # their texts can hold a password
            return f"does not answer ({type(error).__name__})"
        # Whatever the page, MLflow or the proxy before it is up; 5xx says that it is not.
        return "ok" if response.status_code < 500 else f"answers with status {response.status_code}"

    return Elsewhere(ask, fresh_s, timeout_s)


def backend_server(backend: Backend) -> Elsewhere:
    """Where jobs run."""

    def ask() -> str:
        try:
            backend.capacity()
        except FaultError as error:
            return error.problem
        return "ok"

    return Elsewhere(ask)

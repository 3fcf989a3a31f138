"""Whether the MLflow server answers: asked beside requests, never waited for, since no run needs it."""

import threading
import time

import httpx

FRESH_S = 5.0
TIMEOUT_S = 1.0


class Tracking:
    """The tracking server that jobs are mirrored to.

    Args: uri: None, or a database's or folder's: nothing to ask; fresh_s: how long an answer is good; timeout_s: how long one is waited for.
    """

    def __init__(self, uri: str | None, fresh_s: float = FRESH_S, timeout_s: float = TIMEOUT_S) -> None:
        self._uri = uri if uri and uri.startswith(("http://", "https://")) else None
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._fresh_s, self._timeout_s = fresh_s, timeout_s
        self._asked_at_s = -fresh_s
        self._problem: str | None = None

    def state(self, waits: bool = True) -> str:
        """`ok`, or what is wrong, at most some seconds old; takes a second at most, also where names are not resolved.

        Args: waits: False: what was found last, at once; `ok` before anything was.
        """
        if self._uri is None:
            return "ok"
        with self._lock:
            if self._asking is None and time.monotonic() - self._asked_at_s >= self._fresh_s:
                self._asking = threading.Thread(target=self._ask, name="tracking", daemon=True)
                self._asking.start()
            asking = self._asking
        if asking is not None and waits:
            asking.join(self._timeout_s)
        return self._problem or ("has not answered yet" if waits else "ok")

    def _ask(self) -> None:
        try:
            response = httpx.get(f"{str(self._uri).rstrip('/')}/health", timeout=self._timeout_s)
            # Whatever the page, MLflow or the proxy before it is up; 5xx says that it is not.
            self._problem = "ok" if response.status_code < 500 else f"answers with status {response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # their texts can hold a password
            self._problem = f"does not answer ({type(error).__name__})"
        with self._lock:
            self._asking, self._asked_at_s = None, time.monotonic()

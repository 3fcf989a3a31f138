"""Whether the MLflow server answers: asked beside requests, never waited for, since no run needs it."""

import threading
import time

import httpx

FRESH_S = 5.0
TIMEOUT_S = 1.0


class Tracking:
    """The tracking server that jobs are mirrored to. Args: uri: None, or a database's or folder's: nothing to ask."""

    def __init__(self, uri: str | None) -> None:
        self._uri = uri if uri and uri.startswith(("http://", "https://")) else None
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._asked_at_s = -FRESH_S
        self._problem = "has not answered yet"

    @property
    def is_server(self) -> bool:
        """Whether there is anything to ask."""
        return self._uri is not None

    def state(self) -> str:
        """`ok`, or what is wrong, at most some seconds old; takes a second at most, also where names are not resolved."""
        if self._uri is None:
            return "ok"
        with self._lock:
            if self._asking is None and time.monotonic() - self._asked_at_s >= FRESH_S:
                self._asking = threading.Thread(target=self._ask, name="tracking", daemon=True)
                self._asking.start()
            asking = self._asking
        if asking is not None:
            asking.join(TIMEOUT_S)
        return self._problem

    def _ask(self) -> None:
        try:
            answer = httpx.get(f"{str(self._uri).rstrip('/')}/health", timeout=TIMEOUT_S)
            # Whatever the page, MLflow or the proxy before it is up; 5xx says that it is not.
            self._problem = "ok" if answer.status_code < 500 else f"answers with status {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # their texts can hold a password
            self._problem = f"does not answer ({type(error).__name__})"
        with self._lock:
            self._asking, self._asked_at_s = None, time.monotonic()

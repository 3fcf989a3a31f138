"""The service's interface for programs in Python: what `largebatch remote` uses."""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import httpx
from httpx_sse import EventSource
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_attempt, wait_exponential

from largebatch.jobs.errors import FaultError, InputError, LargebatchError
from largebatch.jobs.whole_files import refusal
from largebatch.service import added_run
from largebatch.service.job import Kind

TRIES = 6
LONGEST_PAUSE_S = 8.0
WORKED_OUT_S = 145.0
"""Within this time the service answers, or refuses to, what it must work out: its turn and the answer have their deadlines there."""
CONFIG = Path("~/.config/largebatch/remote.json")
"""{"server": URL, "token": TOKEN}, for whoever sets no variables; readable by its owner alone."""


class RemoteError(LargebatchError):
    """The service refused; its words are the service's own."""

    exit_code = 2

    def __init__(self, response: httpx.Response) -> None:
        try:
            body = response.json()
        except ValueError:
            body = None
        problem = body if isinstance(body, dict) else {}
        text = str(problem.get("problem") or problem.get("detail") or f"HTTP status {response.status_code}.")
        super().__init__(str(problem.get("field", "")), text, str(problem.get("hint", "")))
        self.status = response.status_code


def configured(server: str | None, token: str | None) -> tuple[str, str | None]:
    """Server and token: those of the command, else of the config file. Raises: InputError."""
    path = CONFIG.expanduser()
    config: dict[str, Any] = {}
    if path.is_file():
        if path.stat().st_mode & 0o077 and os.name == "posix":
            raise InputError(str(path), "can be read by others, and may hold a token.", f"chmod 600 {path}")
        try:
            config = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(str(path), f"is not JSON: {error}.", 'Example: {"server": "https://...", "token": "lb_..."}') from error
    server = server or config.get("server")
    if not server:
        raise InputError("--server", "is missing.", f"Give it, set LARGEBATCH_SERVER, or write it to {CONFIG}.")
    return server, token or config.get("token")


class Client(AbstractContextManager["Client"]):
    """One service. A context manager. Raises: RemoteError for refusals, FaultError if it does not answer.

    Args: tries: how often each request is sent while the network or the service is away; submits carry a key, and all else may be repeated.
    """

    def __init__(self, server: str, token: str | None = None, timeout_s: float = 30.0, tries: int = TRIES) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=server.rstrip("/"), headers=headers, timeout=timeout_s)
        self._tries = tries
        self._retrying = Retrying(
            retry=retry_if_exception_type(httpx.TransportError) | retry_if_result(lambda response: response.status_code in {429, 503}),
            stop=stop_after_attempt(tries),
            wait=wait_exponential(multiplier=0.25, max=LONGEST_PAUSE_S),
            retry_error_callback=lambda last: last.outcome and last.outcome.result(),
        )

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, kind: Kind | str, submission: dict[str, Any], key: str | None = None) -> Any:
        """Submit a run or sweep, once, however often the connection breaks."""
        return self.request("POST", f"/v1/{Kind(kind).plural}", json=submission, headers={"Idempotency-Key": key or secrets.token_hex(16)})

    def add(self, run_dir: Path) -> Any:
        """Send what a run's folder tells of it, to be shown; the same files twice are one run. Raises: InputError for what is no run's folder."""
        try:
            files = [(added_run.PART, (name, path.read_bytes())) for name, path in added_run.files_of(run_dir).items()]
        except OSError as error:
            raise InputError(added_run.RUN_DIR, f"{run_dir} cannot be read ({refusal(error)}).") from error
        return self.request("POST", added_run.PATH, files=files)

    def request(self, method: str, path: str, **options: Any) -> Any:
        """What the service answers to any other request. Args: options: httpx's, such as `json` and `params`."""
        response = self._send(method, path, **options)
        return response.json() if response.content else None

    def logs(self, kind: Kind | str, job_id: str) -> str:
        """What the newest attempt printed."""
        text: list[str] = []
        offset = 0
        while True:
            response = self._send("GET", f"/v1/{Kind(kind).plural}/{job_id}/logs", params={"offset": offset})
            following = int(response.headers.get("X-Next-Offset", offset))
            if following == offset:
                return "".join(text)
            text.append(response.text)
            offset = following

    def events(self, job_id: str, kind: Kind | str = Kind.RUN) -> Iterator[tuple[str, dict[str, Any]]]:
        """A job's events until it is over; a stream that breaks is taken up where it broke."""
        last_id, tries = "", 0
        while True:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
            try:
                with self._http.stream(
                    "GET", f"/v1/{Kind(kind).plural}/{job_id}/events", headers=headers, timeout=httpx.Timeout(30.0, read=60.0)
                ) as response:
                    if response.status_code != 200:
                        response.read()
                        raise RemoteError(response)
                    for event in EventSource(response).iter_sse():
                        last_id, tries = event.id or last_id, 0
                        if event.event == "over":
                            return
                        if not event.data:
                            continue  # a comment that kept the stream alive
                        yield event.event, event.json()
            except httpx.TransportError as error:
                tries += 1
                if tries >= self._tries:
                    raise self._silent(error) from error
            time.sleep(min(0.25 * 2**tries, LONGEST_PAUSE_S))

    def download(self, path: str, file: BinaryIO, on_bytes: Callable[[int], None] = lambda number: None) -> None:
        """Write what the service answers to a GET into a file, as it comes.

        Args: on_bytes: told how many came. Raises: FaultError if it breaks off.
        """
        try:
            with self._http.stream("GET", path, timeout=httpx.Timeout(30.0, read=120.0)) as response:
                if not response.is_success:
                    response.read()
                    raise RemoteError(response)
                for chunk in response.iter_bytes(1 << 20):
                    file.write(chunk)
                    on_bytes(len(chunk))
        except httpx.TransportError as error:
            raise self._silent(error) from error

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._retrying(self._http.request, method, path, **options)
        except httpx.TransportError as error:
            raise self._silent(error) from error
        if not response.is_success:
            raise RemoteError(response)
        return response

    def _silent(self, error: Exception) -> FaultError:
        return FaultError("--server", f"{self._http.base_url} does not answer ({type(error).__name__}).", "Is the service up? See largebatch serve.")

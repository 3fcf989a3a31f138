"""The service's interface for programs in Python: what `largebatch remote` uses."""

import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx

from largebatch.jobs.errors import FaultError, InputError, LargebatchError

TRIES = 6
LONGEST_PAUSE_S = 8.0
CONFIG = Path("~/.config/largebatch/remote.json")
"""{"server": URL, "token": TOKEN}, for whoever sets no variables; readable by its owner alone."""


class RemoteError(LargebatchError):
    """The service refused; what it says is what it said."""

    exit_code = 2

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        text = str(problem.get("problem") or problem.get("detail") or f"HTTP status {status}.")
        super().__init__(str(problem.get("field", "")), text, str(problem.get("hint", "")))
        self.status = status


def configured(server: str | None, token: str | None) -> tuple[str, str | None]:
    """Server and token: as given, else from the config file. Raises: InputError."""
    path = CONFIG.expanduser()
    found: dict[str, Any] = {}
    if path.is_file():
        if path.stat().st_mode & 0o077 and os.name == "posix":
            raise InputError(str(path), "can be read by others, and may hold a token.", f"chmod 600 {path}")
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(str(path), f"is not JSON: {error}.", 'Example: {"server": "https://...", "token": "lb_..."}') from error
    server = server or found.get("server")
    if not server:
        raise InputError("--server", "is missing.", f"Give it, set LARGEBATCH_SERVER, or write it to {CONFIG}.")
    return server, token or found.get("token")


class Client:
    """One service. A context manager. Raises: RemoteError for refusals, FaultError if it does not answer."""

    def __init__(self, server: str, token: str | None = None, timeout_s: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=server.rstrip("/"), headers=headers, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, kind: str, asked: dict[str, Any], key: str | None = None) -> Any:
        """Submit a run or sweep, once, however often the connection breaks."""
        return self._ask("POST", f"/v1/{kind}s", json=asked, headers={"Idempotency-Key": key or secrets.token_hex(16)})

    def plan(self, asked: dict[str, Any], kind: str = "run") -> Any:
        """What a run or sweep would do."""
        return self._ask("POST", f"/v1/{kind}s/plan", json=asked)

    def list(self, kind: str, **wanted: Any) -> Any:
        """A page of jobs."""
        return self._ask("GET", f"/v1/{kind}s", params={name: value for name, value in wanted.items() if value is not None})

    def show(self, kind: str, job_id: str) -> Any:
        """One job."""
        return self._ask("GET", f"/v1/{kind}s/{job_id}")

    def act(self, kind: str, job_id: str, what: str) -> Any:
        """Cancel or resume a job."""
        return self._ask("POST", f"/v1/{kind}s/{job_id}/{what}")

    def delete(self, kind: str, job_id: str) -> None:
        """Delete a job that is over."""
        self._ask("DELETE", f"/v1/{kind}s/{job_id}")

    def recipes(self) -> Any:
        """The recipes that the service knows."""
        return self._ask("GET", "/v1/recipes")

    def findings(self, job_id: str) -> Any:
        """What a sweep says."""
        return self._ask("GET", f"/v1/sweeps/{job_id}/findings")

    def logs(self, kind: str, job_id: str) -> str:
        """What the newest attempt printed."""
        text: list[str] = []
        offset = 0
        while True:
            answer = self._send("GET", f"/v1/{kind}s/{job_id}/logs", params={"offset": offset})
            following = int(answer.headers.get("X-Next-Offset", offset))
            if following == offset:
                return "".join(text)
            text.append(answer.text)
            offset = following

    def events(self, job_id: str, kind: str = "run") -> Iterator[tuple[str, dict[str, Any]]]:
        """A job's events until it is over; a stream that breaks is taken up where it broke."""
        last, tries = "", 0
        while True:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
            try:
                with self._http.stream("GET", f"/v1/{kind}s/{job_id}/events", headers=headers, timeout=httpx.Timeout(30.0, read=60.0)) as answer:
                    if answer.status_code != 200:
                        answer.read()
                        raise RemoteError(answer.status_code, _body(answer))
                    for name, data, event_id in _parsed(answer.iter_lines()):
                        last, tries = event_id or last, 0
                        if name == "over":
                            return
                        yield name, data
            except httpx.TransportError as error:
                tries += 1
                if tries >= TRIES:
                    raise self._silent(error) from error
            time.sleep(min(0.25 * 2**tries, LONGEST_PAUSE_S))

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        answer = self._send(method, path, **options)
        return answer.json() if answer.content else None

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, again while the network or the service is away; submits carry a key, all else may be repeated."""
        for number in range(TRIES):
            try:
                answer = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if number == TRIES - 1:
                    raise self._silent(error) from error
            else:
                if answer.is_success:
                    return answer
                if answer.status_code not in {429, 503} or number == TRIES - 1:
                    raise RemoteError(answer.status_code, _body(answer))
            time.sleep(min(0.25 * 2**number, LONGEST_PAUSE_S))
        raise AssertionError("the last try returns or raises")

    def _silent(self, error: Exception) -> FaultError:
        return FaultError("--server", f"{self._http.base_url} does not answer ({type(error).__name__}).", "Is the service up? See largebatch serve.")


def _body(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _parsed(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Server-sent events: name, data, id."""
    name, data, event_id = "message", "", ""
    for line in lines:
        if not line:
            if data:
                yield name, json.loads(data), event_id
            name, data, event_id = "message", "", ""
            continue
        field, _, text = line.partition(":")
        text = text.removeprefix(" ")
        if field == "event":
            name = text
        elif field == "data":
            data += text
        elif field == "id":
            event_id = text

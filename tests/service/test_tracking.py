"""An MLflow that is away, slow or broken: known soon, and nothing waits for it."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from largebatch.service.present import tracking
from largebatch.service.present.tracking import Tracking


class Server(HTTPServer):
    """Answers as it is told to."""

    status = 200
    pause_s = 0.0
    num_asked = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.num_asked += 1
        time.sleep(server.pause_s)
        self.send_response(server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_what_is_no_server_is_not_asked() -> None:
    for uri in (None, "", "sqlite:///x.db", "databricks"):
        assert (Tracking(uri).state(), Tracking(uri).is_server) == ("ok", False)


def test_up_down_and_up_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Tracking(f"http://u:hidden-7@127.0.0.1:{server.server_port}/")
    assert [asked.state() for _ in range(5)] == ["ok"] * 5
    assert server.num_asked == 1, "one question for many that ask at about the same time"
    monkeypatch.setattr(tracking, "FRESH_S", 0.0)
    server.status = 503
    assert asked.state() == "answers with status 503"
    server.status = 401
    assert asked.state() == "ok", "it answers; what it asks for is the jobs' to bring"
    monkeypatch.setattr(tracking, "TIMEOUT_S", 0.2)
    server.status, server.pause_s = 200, 1.0
    ends_at = time.monotonic() + 10
    while asked.state() != "does not answer (ReadTimeout)":
        assert time.monotonic() < ends_at
    began_s = time.monotonic()
    asked.state()
    assert time.monotonic() - began_s < 0.9, "whoever asks does not wait for it"
    nobody = Tracking("http://u:hidden-7@127.0.0.1:9")
    assert nobody.state() == "does not answer (ConnectError)"

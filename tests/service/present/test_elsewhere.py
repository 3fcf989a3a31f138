"""An MLflow that is away, slow or broken: known soon, and nothing waits for it."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from small_runs import wait_for

from largebatch.service.present.elsewhere import tracking_server


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


@pytest.mark.parametrize("uri", [None, "", "sqlite:///x.db", "databricks"])
def test_what_is_no_server_is_not_asked(uri: str | None) -> None:
    assert tracking_server(uri).state() == "ok"


def test_many_that_ask_at_about_the_same_time_are_one_question(server: Server) -> None:
    tracking = tracking_server(f"http://u:hidden-7@127.0.0.1:{server.server_port}/", fresh_s=60.0, timeout_s=20.0)
    assert [tracking.state() for _ in range(5)] == ["ok"] * 5
    assert server.num_asked == 1


def test_up_down_and_up_again(server: Server) -> None:
    tracking = tracking_server(f"http://u:hidden-7@127.0.0.1:{server.server_port}/", fresh_s=0.0, timeout_s=20.0)
    server.status = 503
    assert tracking.state() == "answers with status 503"
    server.status = 401
    assert tracking.state() == "ok", "it answers; what it asks for is the jobs' to bring"
    impatient = tracking_server(f"http://127.0.0.1:{server.server_port}", fresh_s=0.0, timeout_s=0.2)
    server.status, server.pause_s = 200, 1.0
    wait_for(lambda: impatient.state() == "does not answer (ReadTimeout)", 10)
    began_s = time.monotonic()
    impatient.state()
    assert time.monotonic() - began_s < 0.9, "whoever asks does not wait for it"
    assert tracking_server("http://u:hidden-7@127.0.0.1:9", timeout_s=20.0).state() == "does not answer (ConnectError)"

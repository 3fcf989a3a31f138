"""Half-sent requests, too many connections, small answers, askers without a token, and logs that repeat."""

import asyncio
import contextlib
import logging
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from servers import NO_TLS, Service, new_token, serving
from small_runs import wait_for

from largebatch.jobs.errors import InputError
from largebatch.service.api.connections import OTHER_FILES, BoundedConnection, Server, listen
from largebatch.service.api.errors import TooManyRequestsError
from largebatch.service.api.logs import MOST_KINDS, Seldom, SeldomRepeated
from largebatch.service.api.rate_limit import RateLimit
from largebatch.service.api.routes.operations import SharedAnswer
from largebatch.service.api.serve import KEEP_ALIVE_S

HALF = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
HALF_BODY = b"POST /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
LARGE = 64 << 20
FILES = 300
"""That a service may open here; it holds about 40 by itself."""


class Impatient(BoundedConnection):
    headers_s, body_s, read_s = 0.5, 1.0, 1.0


class ImpatientWithCode(Impatient):
    upload_s = 3.0


@contextmanager
def answering(connection: type[BoundedConnection] = BoundedConnection) -> Iterator[int]:
    """A server that answers every request with its body's length. Its value: its port."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length, more = 0, True
        while more:
            message = await receive()
            length, more = length + len(message.get("body", b"")), message.get("more_body", False)
        if scope["path"] == "/large":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
            for _ in range(64):
                await send({"type": "http.response.body", "body": bytes(LARGE // 64), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"%02d" % length})

    with listen("127.0.0.1", 0) as listener:
        server = Server(uvicorn.Config(app, http=connection, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


def closed_after_s(connection: socket.socket, limit_s: float = 5.0) -> float:
    """How long until the other side closes a connection."""
    began = time.monotonic()
    connection.settimeout(limit_s)
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(100) == b""
    return time.monotonic() - began


class TestDeadlines:
    @pytest.mark.parametrize("sent", [b"", HALF])
    def test_headers_must_come_in_time_and_more_of_them_gives_no_more(self, sent: bytes) -> None:
        with answering(Impatient) as port, socket.create_connection(("127.0.0.1", port)) as connection:
            began = time.monotonic()
            for _ in range(4):
                connection.sendall(sent)
                time.sleep(0.05)
            closed_after_s(connection)
            assert 0.45 < time.monotonic() - began < 3

    def test_a_body_must_come_in_time(self) -> None:
        with answering(Impatient) as port, socket.create_connection(("127.0.0.1", port)) as connection:
            began = time.monotonic()
            connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
            closed_after_s(connection)
            assert 0.9 < time.monotonic() - began < 3

    def test_code_has_more_time_where_it_is_taken(self) -> None:
        with answering(ImpatientWithCode) as taking, answering(Impatient) as other, contextlib.ExitStack() as stack:
            began = time.monotonic()
            connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for port in (other, taking)]
            for connection in connections:
                connection.sendall(b"POST /v1/code HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
            for connection, seconds in zip(connections, (1.0, 3.0), strict=True):
                closed_after_s(connection)
                assert seconds - 0.1 < time.monotonic() - began < seconds + 0.8

    def test_requests_in_time_are_answered_however_many_and_a_half_one_after_them_is_not(self) -> None:
        with answering(Impatient) as port, socket.create_connection(("127.0.0.1", port)) as connection:
            began = time.monotonic()
            while time.monotonic() < began + 1.5:
                connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
                time.sleep(0.05)
                connection.sendall(b"67890")
                answer = b""
                while not answer.endswith(b"\r\n\r\n10"):
                    received = connection.recv(1000)
                    assert received, answer
                    answer += received
            connection.sendall(HALF)
            assert closed_after_s(connection) < 3


class TestReaders:
    """An answer larger than what a system keeps of it: 64 MB."""

    REQUEST = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"

    def test_an_answer_that_nobody_reads_is_given_up(self) -> None:
        with answering(Impatient) as port, socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(self.REQUEST)
            time.sleep(2)
            connection.settimeout(10)
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(1 << 20):
                    received += len(chunk)
            assert received < LARGE

    def test_a_slow_reader_gets_all_of_it(self) -> None:
        with answering(Impatient) as port, socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(self.REQUEST)
            connection.settimeout(10)
            received = 0
            while received < LARGE:
                received += len(connection.recv(1 << 20))
                time.sleep(0.02)  # in all longer than a reader may pause


def test_small_answers_are_sent_at_once() -> None:
    """asyncio asks for that on connections of a socket whose protocol is named."""

    async def flag() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen("127.0.0.1", 0)
        async with await asyncio.start_server(accepted, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            result = await found
            writer.close()
        return result

    assert asyncio.run(flag())


def test_an_address_that_cannot_be_listened_on() -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(InputError, match="cannot be listened on"):
        listen("127.0.0.1", listener.getsockname()[1])


OPTIONS = ("--with-tokens", "--allow-code", "--max-running-per-owner", "0")


@pytest.fixture(scope="module")
def short_of_files(service: Service) -> Service:
    psutil.Process(service.pid).rlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    return service


@pytest.fixture(scope="module")
def reader(service: Service) -> dict[str, str]:
    """The header of somebody who may read."""
    return {"Authorization": f"Bearer {new_token(service.runs_dir, 'eye', '--scope', 'read')}"}


def test_half_sent_requests_do_not_shut_others_out(short_of_files: Service, reader: dict[str, str]) -> None:
    """Three times as many as files may be open, and new ones for those that go."""
    service = short_of_files
    before, held = len(service.log), list[socket.socket]()
    try:
        for _ in range(3 * FILES):
            connection = socket.create_connection(("127.0.0.1", service.port), timeout=5)
            held.append(connection)
            with contextlib.suppress(OSError):
                connection.sendall(HALF)
            if len(held) % 50 == 0:
                assert httpx.get(f"{service.url}/v1/runs", timeout=5, headers=reader, verify=NO_TLS).status_code == 200
        with httpx.Client(base_url=service.url, timeout=5, headers=reader, verify=NO_TLS) as kept:
            assert {kept.get("/v1/runs").status_code for _ in range(20)} == {200}
    finally:
        for connection in held:
            connection.close()
    assert "Traceback" not in service.log
    assert "out of system resource" not in service.log
    assert len(service.log) - before < 20_000


class TestWhoMakesRoom:
    """Beside half-sent requests of others: more than there is room for."""

    @staticmethod
    def half_sent(service: Service, stack: contextlib.ExitStack, half: bytes, number: int) -> None:
        """Leave so many half-sent requests open, all of them accepted or given up by then."""
        for _ in range(number):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=5))
            with contextlib.suppress(OSError):
                connection.sendall(half)
        assert httpx.get(f"{service.url}/healthz", timeout=5, verify=NO_TLS).status_code == 200

    @pytest.mark.parametrize("half", [HALF, HALF_BODY], ids=["headers", "bodies"])
    def test_not_who_has_just_come(self, short_of_files: Service, reader: dict[str, str], half: bytes) -> None:
        """Though bodies have a longer deadline than headers. The request comes after another forty connections, more than make room at a time."""
        service = short_of_files
        with contextlib.ExitStack() as stack:
            self.half_sent(service, stack, half, FILES)
            with socket.create_connection(("127.0.0.1", service.port), timeout=5) as honest:
                self.half_sent(service, stack, half, 40)
                honest.sendall(f"GET /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {reader['Authorization']}\r\n\r\n".encode())
                assert honest.recv(15).split()[1:2] == [b"200"]

    def test_not_an_upload_that_goes_on(self, short_of_files: Service) -> None:
        """Though it came first."""
        service, token = short_of_files, new_token(short_of_files.runs_dir, "ann", "--scope", "submit")
        with contextlib.ExitStack() as stack, socket.create_connection(("127.0.0.1", service.port), timeout=5) as upload:
            begun = f"POST /v1/code HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\n"
            upload.sendall(begun.encode())
            self.half_sent(service, stack, HALF_BODY, 60)
            for _ in range(3):
                upload.sendall(b"0" * 200)
                self.half_sent(service, stack, HALF_BODY, 40)
            upload.sendall(b"0" * 400)
            assert upload.recv(15).split()[1:2] == [b"422"]  # it is no zip


def test_many_connections_at_one_moment_are_accepted_as_there_is_room(short_of_files: Service, reader: dict[str, str]) -> None:
    """They come while the service is stopped, so that its next look finds all of them."""
    service, process = short_of_files, psutil.Process(short_of_files.pid)
    with contextlib.ExitStack() as stack:
        process.suspend()
        for _ in range(3 * FILES):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", service.port))
        time.sleep(0.5)
        process.resume()
        assert httpx.get(f"{service.url}/v1/runs", timeout=30, headers=reader, verify=NO_TLS).status_code == 200
        assert "out of system resource" not in service.log


def test_one_owner_s_event_streams_leave_connections_to_others(short_of_files: Service) -> None:
    """Of the connections that 300 files allow, a fourth."""
    service = short_of_files
    heavy, other = (f"Authorization: Bearer {new_token(service.runs_dir, owner, '--scope', 'read')}\r\n" for owner in ("heavy", "other"))
    with contextlib.ExitStack() as stack:

        def status(token: str) -> int:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30))
            connection.sendall(f"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}\r\n".encode())
            return int(connection.recv(15).split()[1])

        most = (FILES - OTHER_FILES) // 2 // 4
        assert [status(heavy) for _ in range(most)] == [200] * most
        assert status(heavy) == 429
        assert status(other) == 200
    with contextlib.ExitStack() as stack:
        wait_for(lambda: status(heavy) == 200, 30)


def test_requests_are_limited_and_whoever_shows_no_valid_token_whatever_is_shown(tmp_path: Path) -> None:
    with serving(tmp_path, "--with-tokens", "--requests-per-minute", "60") as service:
        codes = [
            httpx.get(f"{service.url}/v1/runs", headers={"Authorization": f"Bearer {number}"}, verify=NO_TLS).status_code for number in range(30)
        ]
        assert codes[0] == 401
        assert codes.count(429) > 15
        assert service.log.count("status=401") == 1
        known = {"Authorization": f"Bearer {new_token(service.runs_dir, 'ann', '--scope', 'read')}"}
        codes = [httpx.get(f"{service.url}/v1/runs", headers=known, verify=NO_TLS).status_code for _ in range(20)]
        assert (codes[0], codes[-1]) == (200, 429)
        assert httpx.get(f"{service.url}/healthz", verify=NO_TLS).status_code == 200


class TestStrangers:
    """Where tokens are needed, and none is shown."""

    BODY = b"POST /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n%s\r\n"

    def test_their_bodies_are_not_read_beyond_the_first_bytes(self, service: Service) -> None:
        known = f"Authorization: Bearer {new_token(service.runs_dir, 'ann', '--scope', 'submit')}\r\n".encode()
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(self.BODY % b"" + b" " * 40_000)
            assert connection.recv(15).split()[1] == b"401"
        with socket.create_connection(("127.0.0.1", service.port), timeout=1.5) as connection:
            connection.sendall(self.BODY % known + b" " * 40_000)
            with pytest.raises(TimeoutError):  # the rest is waited for
                connection.recv(15)

    def test_what_they_are_answered_is_logged_once_a_minute(self, service: Service) -> None:
        for path, code in (("/login", 200), ("/readyz", 200), ("/static/0/page.css", 200), ("/runs/", 307)):
            before = service.log.count(f"path={path} ")
            with httpx.Client(base_url=service.url, verify=NO_TLS) as client:
                assert {client.get(path).status_code for _ in range(20)} == {code}
            assert service.log.count(f"path={path} ") <= before + 1

    def test_what_anybody_may_ask_is_worked_out_once_for_all(self) -> None:
        looks = 0

        def look() -> tuple[int, dict[str, str]]:
            nonlocal looks
            looks += 1
            time.sleep(0.05)
            return 200, {"look": str(looks)}

        async def asked(shared: SharedAnswer) -> list[int]:
            return [answer.status_code for answer in await asyncio.gather(*(shared.of(look) for _ in range(50)))]

        shared = SharedAnswer(fresh_s=60.0)
        assert (asyncio.run(asked(shared)), looks) == ([200] * 50, 1)


def test_a_connection_is_kept_longer_than_a_proxy_keeps_it(service: Service) -> None:
    """Uvicorn by itself closes one after five seconds; a minute would be too long for a test."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        for pause_s in (0.0, 6.0):
            time.sleep(pause_s)
            connection.sendall(HALF + b"\r\n")
            answer = b""
            while b"}" not in answer:
                part = connection.recv(1 << 16)
                assert part, "it was closed"
                answer += part
            assert answer.startswith(b"HTTP/1.1 200 ")
    assert KEEP_ALIVE_S > 60


def test_a_stranger_who_sends_code_is_refused_before_the_body(service: Service) -> None:
    """So that the time which code has is nobody else's."""
    for path, kind in (("/v1/code", "application/zip"), ("/runs/new", "multipart/form-data; boundary=a")):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n12345".encode())
            assert connection.recv(15).split()[1] in {b"401", b"303"}


class TestRateLimit:
    def test_nobody_clears_another_s_by_coming_under_many_names(self) -> None:
        limit = RateLimit(per_minute=10, most_askers=5, clock=lambda: 100.0)
        limit.take("ann")
        with pytest.raises(TooManyRequestsError):
            limit.take("ann")
        refused = 0
        for number in range(50):
            try:
                limit.take(f"name {number}")
            except TooManyRequestsError:
                refused += 1
        assert refused == 50 - 4 - 1, "those who do not fit share one bucket"
        with pytest.raises(TooManyRequestsError):
            limit.take("ann")

    def test_who_has_rested_makes_room(self) -> None:
        now_s = 100.0
        limit = RateLimit(per_minute=10, most_askers=2, clock=lambda: now_s)
        for name in ("ann", "bob", "cora"):
            limit.take(name)
        with pytest.raises(TooManyRequestsError):
            limit.take("dan")  # of the bucket of those who do not fit
        now_s += 60.0
        for name in ("cora", "dan"):
            limit.take(name)


class TestLogs:
    def test_what_repeats_is_said_once_in_a_while_with_how_many_more(self) -> None:
        times = iter([0.0, 1.0, 59.0, 59.5, 60.0])
        seldom = Seldom(60.0, lambda: next(times))
        assert [seldom.left_out("full") for _ in range(3)] == [0, None, None]
        assert seldom.left_out("other") == 0
        assert seldom.left_out("full") == 2

    def test_kinds_without_number_share_one_line_when_many_are_remembered(self) -> None:
        seldom = Seldom(every_s=60.0)
        told = [seldom.left_out(f"kind {number}") for number in range(3 * MOST_KINDS)]
        assert [number is not None for number in told].count(True) == MOST_KINDS + 1

    def test_a_path_that_is_asked_for_commands_no_terminal(self, service: Service) -> None:
        """Of the usual log; as JSON it is written out anyway. Asked with a token: of strangers each kind of request is logged once a minute."""
        known = {"Authorization": f"Bearer {new_token(service.runs_dir, 'ann', '--scope', 'read')}"}
        assert httpx.put(f"{service.url}/runs/%1bc%c2%9b1m%00é", headers=known, verify=NO_TLS).status_code == 405
        wait_for(lambda: r"path=/runs/\x1bc\x9b1m\x00é " in service.log, 30)  # a request is logged once it is answered
        assert not set("\x1b\x9b\0") & set(service.log)

    def test_a_library_s_message_too(self, caplog: pytest.LogCaptureFixture) -> None:
        logger = logging.getLogger("a library")
        now_s = 0.0
        caplog.handler.addFilter(repeated := SeldomRepeated(60.0, lambda: now_s))
        try:
            for number, at_s in enumerate((0.0, 1.0, 59.0, 60.0)):
                now_s = at_s
                logger.warning("no file for %d", number)
        finally:
            caplog.handler.removeFilter(repeated)
        of_library = [record.getMessage() for record in caplog.records if record.name == logger.name]  # others may speak meanwhile
        assert of_library == ["no file for 0", "no file for 3 (2 more since the last such line)"]

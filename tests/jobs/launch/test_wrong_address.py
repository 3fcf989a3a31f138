"""An `--address` of something that is not Ray's head, or not its dashboard: told within its deadline, with the likely mistake."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from launch_runs import Head

from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.on_ray.cluster import CONNECT_S, refuse_silence
from largebatch.service.backends import ray_jobs
from largebatch.service.backends.ray_jobs import RayJobs


@contextlib.contextmanager
def listening(words: bytes | None) -> Iterator[str]:
    """A server that says these words to whoever comes; None: nothing, ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                connections.append(connection)
                if words is not None:
                    connection.sendall(words)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            thread.join(30)
            for connection in connections:
                connection.close()


def test_the_dashboards_port_is_refused_with_the_likely_mistake(head: Head) -> None:
    with pytest.raises(InputError, match=r"is not Ray's head\. Give the port of Ray's head.*the dashboard's"):
        refuse_silence(head.dashboard.removeprefix("http://"))
    refuse_silence(head.address)


def test_what_says_nothing_or_something_else_is_no_head() -> None:
    with listening(None) as address, pytest.raises(InputError, match=r"has not answered within 0\.3 s"):
        refuse_silence(address, patience_s=0.3)
    with listening(b"SSH-2.0-OpenSSH_9.2\r\n") as address, pytest.raises(InputError, match="is not Ray's head"):
        refuse_silence(f"ray://{address}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(InputError, match="nothing answers at"):
        refuse_silence(free)
    assert CONNECT_S <= 15


def test_what_greets_as_a_head_does_is_let_through() -> None:
    with listening(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00") as address:  # gRPC's: one setting, the largest frame
        refuse_silence(address)


class TestDashboards:
    """What `submit` and `jobs` are given."""

    def test_what_never_answers_is_given_up_with_the_likely_mistake(self) -> None:
        with (
            listening(None) as address,
            pytest.raises(InputError, match=r"within 0\.3 s as a Ray dashboard does\. .*8265 by default; the head's own"),
        ):
            RayJobs(f"http://{address}", answer_s=0.3)
        assert ray_jobs.CONNECT_S + ray_jobs.ANSWER_S <= 15

    def test_the_heads_own_port_is_refused_with_the_likely_mistake(self, head: Head) -> None:
        with pytest.raises(InputError, match=r"no Ray dashboard answers at .*8265 by default; the head's own"):
            RayJobs(f"http://{head.address}")

    def test_what_is_no_address_at_all(self) -> None:
        with pytest.raises(InputError, match=r"'http://\[::1' is not the address of a Ray dashboard"):
            RayJobs("http://[::1")

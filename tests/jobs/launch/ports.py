"""Ports for servers that tests start."""

import os
import random
import socket
from collections.abc import Iterator

# Below the ports that the system gives to connections, above those of Ray's workers; each process of pytest-xdist has a share of its own.
FIRST, LAST, SHARES = 20_000, 32_000, 8


def _candidates() -> Iterator[int]:
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
    width = (LAST - FIRST) // SHARES
    # In no fixed order: another checkout's tests may run on this machine too.
    yield from random.Random(os.getpid()).sample(range(FIRST + share * width, FIRST + (share + 1) * width), width)


_left = _candidates()


def free_port() -> int:
    """A port that nobody listens on, and that no other call in this process is given."""
    for port in _left:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is left")

"""A crowd at the service's door: requests that are never sent whole, plans of a large model, and clients who ask honestly beside them."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from _load import Connection

HALF = b"GET /v1/runs HTTP/1.1\r\nHost: localhost\r\n"
COMES_AGAIN_AFTER_S = 1.0
EVERY_S = 1.0
"""How often an honest client asks."""
NUM_PLANS = 4
IMAGES = {"name": "synthetic", "arguments": {"num_train": 32, "num_test": 16, "num_classes": 4, "shape": [3, 224, 224]}}
HEAVY = {
    "name": "heavy", "dataset": IMAGES, "model": {"name": "vit_l_16"}, "batch": {"global_batch_size": 16}, "optimizer": {"name": "sgd"},
    "learning_rate": {"base": 0.1}, "stop": {"steps": 1},
}  # fmt: skip
"""A model of 304 million parameters."""
LOST = (ConnectionError, asyncio.IncompleteReadError)


class Asked(NamedTuple):
    """What became of the honest requests, and of the plans."""

    times: list[float]
    """Seconds from when a request was due to its last byte, broken connections included."""
    num_broken: int
    """Connections that the service had closed when they were used again."""
    plans: Counter[int]
    """Plans' answers, by status."""


async def ask_in_a_crowd(connect: Callable[[], Connection], port: int, seconds: float, clients: int, half_sent: int, with_plans: bool) -> Asked:
    """Let honest clients read and submit for a while, each once a second on a connection that it keeps.

    Args: connect: makes a connection to the service at this port; half_sent: requests that are begun and never ended, begun anew where the service
    closes them; with_plans: four large plans are asked for at a time, all the while.
    """
    asked = Asked([], 0, Counter())
    beside = [asyncio.create_task(_half_send(port)) for _ in range(half_sent)]
    beside += [asyncio.create_task(_plan(connect, asked.plans)) for _ in range(NUM_PLANS * with_plans)]
    await asyncio.sleep(2 * COMES_AGAIN_AFTER_S)
    began = time.perf_counter()
    dues = [began + number * EVERY_S / clients for number in range(clients)]
    broken = await asyncio.gather(*(_honest(connect(), number, due, seconds, asked.times) for number, due in enumerate(dues)))
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    return asked._replace(num_broken=sum(broken))


async def _honest(connection: Connection, number: int, first_due: float, seconds: float, times: list[float]) -> int:
    """Ask once a second; a request whose connection is broken is sent again. Returns how often that was."""
    num_broken = 0
    for turn in range(int(seconds / EVERY_S)):
        due = first_due + turn * EVERY_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        method, path, body, headers = _request(number, turn)
        while True:
            try:
                status, answer = await connection.ask(method, path, body, headers)
            except LOST:
                num_broken += 1
                connection.close()
                continue
            break
        assert status in (200, 202), answer
        times.append(time.perf_counter() - due)
    connection.close()
    return num_broken


def _request(number: int, turn: int) -> tuple[str, str, bytes, str]:
    """Of ten, five read a page, four a run, and one submits."""
    kind = (number + turn) % 10
    if kind == 9:
        return "POST", "/v1/runs", b'{"recipe": "digits-lamb"}', f"Idempotency-Key: crowd-{number}-{turn}\r\n"
    return "GET", f"/v1/runs/run-{number:06}" if kind % 2 else "/v1/runs?limit=20", b"", ""


async def _half_send(port: int) -> None:
    while True:
        with contextlib.suppress(OSError), _closing(await asyncio.open_connection("127.0.0.1", port)) as (reader, writer):
            writer.write(HALF)
            await reader.read()  # until the service closes it
        await asyncio.sleep(COMES_AGAIN_AFTER_S)


@contextlib.contextmanager
def _closing(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> Iterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        yield streams
    finally:
        streams[1].close()


async def _plan(connect: Callable[[], Connection], answers: Counter[int]) -> None:
    """Ask for a large plan, again and again."""
    connection = connect()
    try:
        while True:
            try:
                status, _ = await connection.ask("POST", "/v1/runs/plan", json.dumps({"spec": HEAVY}).encode())
            except LOST:
                connection.close()
                continue
            answers[status] += 1
            await asyncio.sleep(COMES_AGAIN_AFTER_S if status >= 400 else 0.0)
    finally:
        connection.close()

"""One folder or storage for all workers of a run: whether each of them reads and writes the same."""

import os
import time

import ray

from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.errors import InputError
from largebatch.jobs.run.storage import Storage, probe

FIELD = "--output-dir"
"""The field of what is wrong with it."""


def refuse_unshared(address: str, ranks: Ranks, patience_s: float) -> None:
    """Find out whether all workers read and write one and the same folder or storage.

    Args: patience_s: how long one that worked before may refuse.
    Raises: InputError, on every rank, that names the machine; with its id as `node_id` where rank 0's own reaches the storage.
    """
    ends_at = time.monotonic() + patience_s
    while True:
        error = _unshared(address, ranks)
        waits = ranks.sum_numbers(float(error is not None))[0] > 0 and time.monotonic() < ends_at
        if not ranks.sum_numbers(float(ranks.is_first and waits))[0]:  # rank 0's clock decides for all
            ranks.raise_first(error)
            return
        time.sleep(1.0)


def own_node() -> str:
    """Ray's id of this machine."""
    node_id: str = ray.get_runtime_context().get_node_id()
    return node_id


def _unshared(address: str, ranks: Ranks) -> InputError | None:
    """What is wrong with the storage, as this rank finds it."""
    token = f"{ranks.sum_numbers(float(int.from_bytes(os.urandom(6), 'big')) if ranks.is_first else 0.0)[0]:.0f}"
    storage, problem = None, None
    try:
        storage = Storage(address)
    except InputError as error:
        problem = f"cannot be used ({error.problem})"
    if ranks.sum_numbers(float(storage is None))[0] == 0:
        assert storage is not None
        problem = probe(storage, token, ranks.rank, ranks.wait)
    if problem is None:
        return None
    refusal = InputError(
        FIELD, f"{address} {problem}, says the worker on node {own_node()[:8]}.", "Give a folder or storage that all machines share."
    )
    if not ranks.is_first:
        refusal.node_id = own_node()  # type: ignore[attr-defined]
    return refusal

"""The machines of a worker group, and which of them Ray has lost."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group_table

KNOWN_S, POLL_S = 3.0, 0.2
"""How long Ray may take to know that a machine is gone whose workers are, and how often it is asked."""


def workers_by_machine(placement_group: Any) -> Counter[str]:
    """How many workers of a group have their cores on which machine, by Ray's ids."""
    table: dict[str, Any] = placement_group_table(placement_group)
    return Counter(table.get("bundles_to_node_id", {}).values())


def lost_machines(workers: Mapping[str, int]) -> str | None:
    """Which of these machines are gone, in a sentence, as soon as Ray knows; None where all of them seem to be there."""
    ends_at_s = time.monotonic() + KNOWN_S
    while workers:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        text = gone_in_words(workers, nodes)
        if text is not None or time.monotonic() > ends_at_s:
            return text
        time.sleep(POLL_S)
    return None


def gone_in_words(workers: Mapping[str, int], nodes: Sequence[Mapping[str, Any]]) -> str | None:
    """Those machines of workers that are not alive, by address and name; None where there are none. Args: nodes: as `ray.nodes()` lists them."""
    gone = [node for node in nodes if node["NodeID"] in workers and not node["Alive"]]
    if not gone:
        return None
    names = [_name(node["NodeManagerAddress"], node["NodeManagerHostname"]) for node in gone]
    num_workers = sum(workers[node["NodeID"]] for node in gone)
    subject = f"machine {names[0]} is" if len(gone) == 1 else f"machines {', '.join(names)} are"
    return f"{subject} gone, with {num_workers} of {sum(workers.values())} workers."


def _name(address: str, host: str) -> str:
    return address if host == address else f"{address} ({host})"

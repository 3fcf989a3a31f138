"""Room for workers, set aside by the cluster: so a run knows how many workers it can start before Ray Train starts them.

A cluster that grows on demand sees in a reservation that machines are missing.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from largebatch.jobs.launch.on_ray.resources import Resources

NODE_LABEL = "ray.io/node-id"
"""Ray's own label of a machine."""
GROWS_AFTER_S = 5.0
"""So long there must have been room for more workers before those that train make place for a larger group."""


class Reservation(contextlib.AbstractContextManager["Reservation"]):
    """Placement groups for workers; given back when this is closed.

    Args:
        sizes: of each placement group, in workers: it has room for all of them or for none. Two runs that each held a part of what both need would
            wait for each other.
        left_out: Ray's ids of machines that no worker may go to.
    """

    def __init__(self, sizes: Sequence[int], resources: Resources, left_out: Collection[str] = ()) -> None:
        selector = without_machines(left_out)
        self._placement_groups = [
            (size, placement_group([resources.bundle] * size, **({"bundle_label_selector": [selector] * size} if selector else {}))) for size in sizes
        ]

    def num_ready(self) -> int:
        """How many workers have their room by now."""
        table: dict[str, dict[str, Any]] = placement_group_table() if self._placement_groups else {}
        return sum(size for size, group in self._placement_groups if table.get(group.id.hex(), {}).get("state") == "CREATED")

    def __exit__(self, *_: object) -> None:
        for _size, group in self._placement_groups:
            remove_placement_group(group)


class Growth(contextlib.AbstractContextManager["Growth"]):
    """Room for the workers that a group still lacks.

    Args: reserve: makes a reservation. It is called once the group's own workers are there: before, they would lack what it takes.
    """

    def __init__(self, num_missing: int, reserve: Callable[[Sequence[int]], Reservation]) -> None:
        self._num_missing, self._reserve = num_missing, reserve
        self._stack = contextlib.ExitStack()
        self._reservation: Reservation | None = None
        self._room_since_s: float | None = None
        self._is_over = False

    def is_due(self) -> bool:
        """Whether there has been room for more workers for a while; says so once."""
        if not self._num_missing or self._is_over:
            return False
        self._reservation = self._reservation or self._stack.enter_context(self._reserve([1] * self._num_missing))
        if not self._reservation.num_ready():
            self._room_since_s = None
            return False
        self._room_since_s = self._room_since_s or time.monotonic()
        self._is_over = time.monotonic() - self._room_since_s > GROWS_AFTER_S
        return self._is_over

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def without_machines(left_out: Collection[str]) -> dict[str, str] | None:
    """The label selector that keeps workers from these machines; None for no machines."""
    return {NODE_LABEL: f"!in({','.join(sorted(left_out))})"} if left_out else None

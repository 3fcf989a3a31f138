"""The run channel: what the workers and the person's process tell each other while a job runs.

An actor of its own, without a core: workers come and go, and what they said stays.
"""

from typing import Any, NamedTuple


class News(NamedTuple):
    """What the person's process is told each time it asks."""

    messages: list[dict[str, Any]]
    """Records, notices and the plan's length that are new."""
    outcome: dict[str, Any] | None
    """How the worker group ended: a `summary`, an `error` that no retry would mend, or why it `paused`; None while it works, and if it failed."""
    has_begun: bool
    """Whether the workers of this group are there."""
    has_trained: bool
    """Whether workers of any group have trained: what one machine lacks from then on is its failure, not what the person gave."""
    placement_group: Any
    """Ray's handle of the cores that this group has; None until it is there."""


class RunChannel:
    """Records on their way to the person, a request to stop on its way to the workers, and how it went.

    Args: has_trained: whether workers of an earlier driver have trained in this launch.
    """

    def __init__(self, has_trained: bool = False) -> None:
        self._has_trained = has_trained
        self._messages: list[dict[str, Any]] = []
        self._stops = False
        self._group = 0
        self._pauses = self._has_begun = False
        self._outcome: dict[str, Any] | None = None
        self._placement_group: Any = None

    def new_group(self) -> int:
        """From the driver: another worker group is about to be started. Returns its number."""
        self._group += 1
        self._pauses = self._has_begun = False
        self._outcome = self._placement_group = None
        return self._group

    def take(self) -> News:
        """To the driver."""
        messages, self._messages = self._messages, []
        return News(messages, self._outcome, self._has_begun, self._has_trained, self._placement_group)

    def ask_to_stop(self) -> None:
        """From the driver: the person wants the run to end after its step."""
        self._stops = True

    def ask_to_pause(self) -> None:
        """From the driver: this group is to end after its step, for another of more workers."""
        self._pauses = True

    def occupies(self, placement_group: Any) -> None:
        """From Ray Train's controller: the cores of the newest workers."""
        self._placement_group = placement_group

    def begin(self) -> bool:
        """From rank 0 of a new worker group; returns whether it is to end at once."""
        self._has_begun = True
        return self._stops

    def trains(self) -> None:
        """From rank 0: nothing is wrong with what the person gave, and training begins."""
        self._has_trained = True

    def put(self, messages: list[dict[str, Any]]) -> bool:
        """From rank 0: records, notices and the plan's length; returns whether it is to stop after its step."""
        self._messages += messages
        return self._stops or self._pauses

    def requests(self) -> tuple[bool, bool]:
        """To rank 0: whether to stop, and whether to pause."""
        return self._stops, self._pauses

    def finish(self, group: int, outcome: dict[str, Any]) -> None:
        """From a worker of that group: see `News.outcome`. What a group says that another has followed counts no more."""
        if group == self._group:
            self._outcome = outcome

    def ping(self) -> None:
        """From a worker: is the run still there?"""

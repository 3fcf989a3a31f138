"""What the workers, Ray Train's controller and the person's process tell each other while a job runs.

An actor of its own, without a core: workers come and go, and what they said stays.
"""

import time
from typing import Any, NamedTuple

import ray

from largebatch.jobs.errors import FaultError


class Beginning(NamedTuple):
    """What a new group of workers is told."""

    reasons: list[str]
    """Why there is a new one; empty for the first."""
    has_trained: bool
    """Whether workers have trained before it: what one machine lacks from then on is its failure, not what the person gave."""
    is_over: bool
    """Whether the outcome is known already."""


@ray.remote(num_cpus=0)
class Mailbox:
    """Records on their way to the person, a wish to stop on its way to the workers, and how it went.

    Args:
        max_failures: how often the run may go on after a failure.
        where_logs_are: for the person whose run gives up.
        has_trained: whether workers of an earlier driver have trained in this launch.
    """

    def __init__(self, max_failures: int, where_logs_are: str, has_trained: bool = False) -> None:
        self._max_failures = max_failures
        self._where_logs_are = where_logs_are
        self._has_trained = has_trained
        self._messages: list[dict[str, Any]] = []
        self._stops = False
        self._num_failures = 0
        self._told: list[str] = []
        self._num_begun = 0
        self._begun_at_s: float | None = None
        self._is_waiting = True
        self._outcome: dict[str, Any] | None = None
        self._room: Any = None

    def put(self, messages: list[dict[str, Any]]) -> bool:
        """From rank 0: records, notices and the plan's length; returns whether the person wants it to stop."""
        self._messages += messages
        return self._stops

    def take(self) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """To the person: messages that are new, and the outcome once there is one."""
        messages, self._messages = self._messages, []
        return messages, self._outcome

    def ask_to_stop(self) -> None:
        """From the person."""
        self._stops = True

    def wants_stop(self) -> bool:
        """To rank 0."""
        return self._stops

    def failed(self, reason: str, is_preemption: bool) -> bool:
        """From the controller, or about it: workers ended against their will, or could not start; returns whether the run is over.

        Too many failures are the run's outcome; preemptions do not count.
        """
        said = f"{'Preempted' if is_preemption else 'Failure'}: {reason}"
        self._told.append(said)
        if self._is_waiting:  # no rank 0 has come that would have told of it
            self._messages.append({"notice": said})
        self._is_waiting = True
        if not is_preemption:
            self._num_failures += 1
        if self._num_failures > self._max_failures and self._outcome is None:
            self._outcome = {"error": FaultError("", f"the run failed more than {self._max_failures} times, at last: {reason}", self._where_logs_are)}
        return self.is_over()

    def begin(self) -> Beginning:
        """To rank 0 of a new group of workers."""
        reasons, self._told = self._told, []
        if self._num_begun and not reasons:
            reasons = ["The group of workers was started anew, with those that there are now."]
        self._num_begun += 1
        self._begun_at_s = time.time()
        self._is_waiting = False
        return Beginning(reasons, self._has_trained, self.is_over())

    def trains(self) -> None:
        """From rank 0: nothing is wrong with what the person gave, and training begins."""
        self._has_trained = True

    def is_in(self, room: Any) -> None:
        """From the controller: the placement group of the newest workers."""
        self._room = room

    def room(self) -> Any:
        """To the person's process, when the controller is gone."""
        return self._room

    def is_over(self) -> bool:
        """Whether the outcome is known."""
        return self._outcome is not None

    def finish(self, outcome: dict[str, Any]) -> None:
        """From rank 0: a summary, or an error that no retry would mend."""
        self._outcome = outcome

    def begun_at(self) -> float | None:
        """When the newest group of workers was there, Unix time."""
        return self._begun_at_s

    def stands(self) -> tuple[int, bool]:
        """How many groups of workers there have been, and whether the run waits for the next."""
        return self._num_begun, self._is_waiting

"""What the service needs of a place where jobs run."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from largebatch.jobs.errors import FaultError
from largebatch.service.job import Capacity, Job


class Presence(StrEnum):
    """What a backend has of a job's newest attempt."""

    ABSENT = "absent"
    """Nothing that runs, and nothing that says how it ended."""
    PRESENT = "present"
    """It waits there or runs."""
    ENDED = "ended"


class Seen(NamedTuple):
    """One look at one job."""

    presence: Presence
    exit_code: int | None = None
    """ENDED: as `python -m largebatch.jobs` gives it; negative for a signal; None if nobody knows."""
    message: str = ""
    """ENDED: what it said last."""


class BackendDown(FaultError):
    """The place does not answer; nothing can be said about its jobs."""


class CannotStart(FaultError):
    """One job cannot be started; others can."""


class Backend(Protocol):
    """A place where jobs run. Everything may raise BackendDown."""

    name: str

    def capacity(self) -> Capacity:
        """What there is in all."""
        ...

    def start(self, job: Job) -> None:
        """Begin the job's attempt, or do nothing if that attempt was begun before; an older attempt never runs after.

        Raises: CannotStart.
        """
        ...

    def fence(self, job: Job) -> bool:
        """Make sure that an attempt that is absent never begins; False if it has begun."""
        ...

    def look(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        """How the newest attempts stand, by job id."""
        ...

    def stop(self, job: Job, is_urgent: bool) -> bool:
        """Ask the attempt to finish its step, save and end; urgent: end it at once. Returns whether it was asked."""
        ...

    def logs(self, job: Job, attempt: int, offset: int, limit: int) -> bytes:
        """What an attempt has printed, from a byte on; empty if there is no more."""
        ...

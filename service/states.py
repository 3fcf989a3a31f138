"""The states of a job, and which follows which.

queued -> starting -> running -> succeeded | failed | cancelled
^           |
'- recovering
"""

from enum import StrEnum


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    """Accepted; waits for its turn."""
    STARTING = "starting"
    """Its turn; the backend has been asked, or is about to be."""
    RUNNING = "running"
    """The backend says so."""
    RECOVERING = "recovering"
    """Its process is gone against its will; it goes on from its newest checkpoint."""
    SUCCEEDED = "succeeded"
    """Ended by itself with a result; a missed target is one."""
    FAILED = "failed"
    """Ended without: bad input found late, diverged, out of time, or too many failures."""
    CANCELLED = "cancelled"
    """Ended because somebody asked."""


ACTIVE = frozenset({State.STARTING, State.RUNNING, State.RECOVERING})
"""What the backend may have something of."""
FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.STARTING, State.CANCELLED, State.FAILED}),
    State.STARTING: frozenset({State.RUNNING, State.RECOVERING}) | FINAL,
    State.RUNNING: frozenset({State.RECOVERING}) | FINAL,
    State.RECOVERING: frozenset({State.STARTING, State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
}
"""The moves that are allowed; failed and cancelled jobs can be resumed, which queues them again."""

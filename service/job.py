"""A job as the service knows it: what was asked for, where it stands, and how it went.

queued -> starting -> running -> succeeded | failed | cancelled
^           |
'- recovering
"""

import math
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from largebatch.jobs.run.records import by_todays_names


class Kind(StrEnum):
    """The kinds of jobs that a service takes."""

    RUN = "run"
    """One training run."""
    SWEEP = "sweep"
    """Many, by Ray Tune."""
    STUDY = "study"
    """A profile, a reference run, the sweep that follows from them, and what its best solutions are like."""

    @property
    def plural(self) -> str:
        """What several of them are called, in addresses and for people."""
        return "studies" if self is Kind.STUDY else f"{self}s"


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
    State.SUCCEEDED: frozenset({State.QUEUED}),
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
}
"""The moves that are allowed; failed and cancelled jobs can be resumed, which queues them again, and a run that succeeded with a later end."""


class Capacity(NamedTuple):
    """The cores, GPUs and memory that a backend has in all."""

    cpus: float
    gpus: int
    memory_gib: float = math.inf


class Machine(NamedTuple):
    """One machine of a backend, and what it has."""

    name: str
    there: Capacity


class Described(BaseModel):
    """A model whose fields' docstrings describe them in the OpenAPI document, too."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class JobFacts(Described):
    """What the service and the network know of a job alike. Its id is also the name of its folder below the runs' folder."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: Kind
    owner: str
    name: str
    """The recipe's or sweep's, with which its id begins, until its owner gives it another."""
    tags: tuple[str, ...] = ()
    notes: str = ""
    code: str | None = None
    """SHA-256 of the bundle of own code that it runs."""
    project: str | None = None
    """Whose people may read it, where the operator lets them; null: its owner's alone."""
    recipe: str | None
    """The recipe it was made from; null if the whole spec was sent."""
    global_batch_size: int | None = None
    optimizer: str | None = None
    """Of a run; the entry point of one's own."""
    learning_rate: float | None = None
    """Of a run: the base rate."""
    momentum: float | None = None
    seed: int | None = None
    device: str = "auto"
    workers: str | None = None
    """N or MIN:MAX; null: the run's own process trains."""
    cpus: float
    """Cores it holds while it runs."""
    gpus: int
    """GPUs it holds while it runs."""
    memory_gib: float = 0.0
    """Memory it holds while it runs, in GiB; jobs of earlier versions hold none."""
    priority: int = 0
    """Higher goes first among its owner's."""
    state: State = State.QUEUED
    reason: str | None = None
    """Why it is recovering, failed or cancelled."""
    attempt: int = 0
    """How often it was started; also the fencing number: only the newest attempt may run."""
    failures: int = 0
    """How many attempts ended by a fault."""
    is_cancel_asked: bool = False
    progress: dict[str, Any] = Field(default_factory=dict)
    """Of a run: step, epoch, loss, metric, score (on what is evaluated), training_seconds, and where it ended noticeably worse than its
    best also best_score and best_step (of runs of earlier versions best_score alone); of a sweep: runs, runs_over; of a study that is
    over also answer, the title of its card."""
    added_bytes: int | None = None
    """Of a run that was trained elsewhere and added: the size of its files; null: the service ran it, or will."""
    outcome: str | None = None
    """reached, missed, completed, diverged or stopped, once it ended."""

    @field_validator("progress", mode="before")
    @classmethod
    def _of_an_earlier_version(cls, progress: Any) -> Any:
        """Rows of versions that knew classification alone."""
        if isinstance(progress, dict) and "test_accuracy" in progress:
            return {**{name: value for name, value in progress.items() if name != "test_accuracy"}, "score": progress["test_accuracy"]}
        return progress


class Job(JobFacts):
    """One accepted request, as the database keeps it. Times are Unix seconds."""

    spec: dict[str, Any] = Field(default_factory=dict)
    """The TrainSpec, or the SweepSpec; left out, like base and summary, where a job is read in brief."""
    base: dict[str, Any] | None = None
    """Sweeps: the TrainSpec that every run begins from."""
    priority_among_owners: int = 0
    """Higher goes before other owners' jobs: what an administrator asked for; nobody else goes before others, only behind them."""
    deadline_at_s: float | None = None
    """When it is ended, and has failed."""
    stop_asked_at_s: float | None = None
    not_before_s: float | None = None
    """Recovering: when it goes on."""
    created_at_s: float
    started_at_s: float | None = None
    ended_at_s: float | None = None
    summary: dict[str, Any] | None = None
    """The run's summary, once it ended by itself."""

    _named_anew = field_validator("summary", mode="before")(by_todays_names)

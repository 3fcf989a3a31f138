"""Processes: what trains the runs of a sweep, each one run at a time; on this machine (`warm/`), or wherever Ray has room (`on_ray/`)."""

from typing import NamedTuple, Protocol

from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.trials.resources import TrialOptions, TrialReport


class Lost(NamedTuple):
    """The process of a run died, and with it what the run did since its last checkpoint."""

    is_preempted: bool = False
    """Whether it went with a machine that was taken away, which is no failure of the run's."""


class News(NamedTuple):
    """What one process tells."""

    process: object | None
    """Where a run was lost: the one that trained it, which `Processes` has seen to. None: one that died before it was ready."""
    what: TrialReport | Lost


class GoneError(RuntimeError):
    """No process can train any more, nor will."""


class Processes(Protocol):
    """Where the runs of a sweep are trained. Whoever begins a run in a process is told of it by `wait`, once for each `begin` and `go_on`."""

    def provide(self, number: int) -> None:
        """Let so many processes be free, or on their way to it."""

    def take(self) -> object | None:
        """A process that is free and ready, for one run; None while there is none."""

    def begin(self, process: object, spec: TrainSpec, options: TrialOptions, run_id: str) -> None:
        """Train a run, or go on with it from its checkpoint, until its next evaluation or its end."""

    def go_on(self, process: object, ends_early: bool) -> None:
        """Answer an evaluation. Args: ends_early: whether the run stops after its step and saves."""

    def wait(self, seconds: float) -> list[News]:
        """What processes have told; returns as soon as there is something. Raises: GoneError."""

    def release(self, process: object) -> None:
        """The run of a process is over: it is free for another."""

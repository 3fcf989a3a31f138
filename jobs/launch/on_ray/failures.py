"""Failures of a run's worker groups: what one was, in a sentence, and whether the run goes on after it."""

import traceback
from typing import Any, NamedTuple

import ray
import ray.train

from largebatch.jobs.errors import FaultError, LargebatchError

PROCESS_ENDED = "its process ended (killed, out of memory, or its machine is gone)."
COLLECTIVES = ("torch.distributed", "largebatch.jobs.engine.ranks")
"""Modules in which one rank waits for the others."""


class UnfitError(FaultError):
    """Workers that have trained before cannot any more, for a reason that would be bad input at the start and may pass.

    Args: node_id: the machine that is at fault, where it is one.
    """

    def __init__(self, field: str, problem: str, hint: str = "", node_id: str | None = None) -> None:
        super().__init__(field, problem, hint)
        self.node_id = node_id


class LostRanksError(FaultError):
    """A rank waited for the others in vain: what ended them says more than this."""


def is_of_other_ranks(error: BaseException) -> bool:
    """Whether an error arose in an operation of all ranks, which fails on each when one is gone."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__")).startswith(COLLECTIVES)


class Failure(NamedTuple):
    """Why a worker group ended against its will, or could not start."""

    reason: str
    """In one sentence."""
    is_preemption: bool = False
    """Whether its machine was taken away, which is no failure of the run's."""
    unfit_machines: frozenset[str] = frozenset()
    """Ray's ids of machines on which a worker could not take part."""
    has_cause: bool = True
    """False: it tells only that workers were gone, or how the others noticed."""


def describe(error: BaseException) -> Failure | None:
    """The failure behind what Ray Train's `fit` raised, a TrainingFailedError or its controller's end; None: there was no room for the workers."""
    train: Any = ray.train  # its stubs are those of the older Train
    if isinstance(error, ray.exceptions.RayActorError):
        return Failure("the controller: its process ended (killed, or out of memory).", has_cause=False)
    if isinstance(error, train.WorkerGroupError):
        return _of_workers(error.worker_failures)
    if isinstance(error, train.PreemptionError):
        return Failure("a machine was taken away before its workers had ended.", is_preemption=True)
    cause = getattr(error, "controller_failure", error)
    if hasattr(cause, "num_workers"):  # the start's timeout, whose class is not public: so many did not get their cores
        return None
    cause = cause.__cause__ or cause
    return Failure(f"a worker could not start: {sentence(cause)}", _is_preemption(cause))


def _of_workers(worker_failures: dict[int, Exception]) -> Failure:
    """Of the worker whose error is not just another's echo; the lowest rank where all are, or several are not."""
    own = {rank: error for rank, error in worker_failures.items() if not isinstance(error, LostRanksError)}
    rank, error = min((own or worker_failures).items())
    unfit = frozenset(error.node_id for error in worker_failures.values() if isinstance(error, UnfitError) and error.node_id)
    has_cause = bool(own) and not isinstance(_actor_error(error), ray.exceptions.RayActorError)
    return Failure(f"worker {rank}: {sentence(error)}", any(map(_is_preemption, worker_failures.values())), unfit, has_cause)


def sentence(error: BaseException) -> str:
    """An error in one line, by the last line of its words, which is where Python puts the error itself."""
    if isinstance(_actor_error(error), ray.exceptions.RayActorError):
        return PROCESS_ENDED
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = lines[-1].rstrip(".") if lines else ""
    # A whole traceback ends with the error's kind; a bare error does not say it.
    named = words if len(lines) > 1 or isinstance(error, LargebatchError) else f"{type(error).__name__}: {words}".rstrip(": ")
    return f"{named}."


def _actor_error(error: BaseException) -> BaseException:
    """Ray's own error of a worker that died, out of Ray Train's wrapping."""
    return getattr(error, "health_check_failure", error)


def _is_preemption(error: BaseException) -> bool:
    error = _actor_error(error)
    return isinstance(error, ray.exceptions.RayActorError) and error.preempted


class FailurePolicy:
    """Counts what fails, and keeps what the next worker group must be told.

    Args:
        max_failures: how often the run may go on after a failure; preemptions do not count.
        where_logs_are: for the person whose run gives up.
    """

    def __init__(self, max_failures: int, where_logs_are: str) -> None:
        self._max_failures = max_failures
        self._where_logs_are = where_logs_are
        self._num_failures = 0
        self.reasons: list[str] = []
        """Why there is a new worker group, for the journal."""
        self.left_out: set[str] = set()
        """Machines that no worker goes to."""

    def count(self, failure: Failure, *, is_elastic: bool) -> str:
        """What to tell of a failure. A run that may go on with fewer workers leaves unfit machines out from now on.

        Raises: FaultError when that was one failure too many.
        """
        if not failure.is_preemption:
            self._num_failures += 1
        if self._num_failures > self._max_failures:
            raise FaultError("", f"the run failed more than {self._max_failures} times, at last: {failure.reason}", self._where_logs_are)
        text = f"{'Preempted' if failure.is_preemption else 'Failure'}: {failure.reason}"
        if is_elastic and failure.unfit_machines - self.left_out:
            self.left_out |= failure.unfit_machines
            text += " That machine is left out from now on."
        self.reasons.append(text)
        return text

"""What befell a group of workers, in one sentence: what Ray Train's controller tells the mailbox, and the person reads."""

from typing import Any

import ray

from largebatch.jobs.errors import FaultError, LargebatchError
from largebatch.jobs.launch.termination import SAVED

COLLATERAL = ("Connection closed by peer", "Connection reset", "Connection refused", "Broken pipe", "Timed out waiting", "Read error", "NCCL")
"""What the other ranks say when one is gone."""


class UnfitError(FaultError):
    """Workers that have trained before cannot any more, for a reason that would be bad input at the start and may pass: see `excuse`.

    Args: node_id: the machine that is at fault, where it is one.
    """

    def __init__(self, field: str, problem: str, hint: str = "", node_id: str | None = None) -> None:
        super().__init__(field, problem, hint)
        self.node_id = node_id


def what_failed(error: Any) -> tuple[str, bool]:
    """Why a group ended or did not start, in one sentence, and whether that is a preemption, which is no failure.

    Args: error: Ray Train's WorkerGroupError, ControllerError or PreemptionError.
    """
    if hasattr(error, "preemption_info"):
        return "a machine was taken away before its workers had ended.", True
    failures = getattr(error, "worker_failures", None)
    if failures:
        return first_cause(error), any(map(_is_preemption, failures.values()))
    cause = getattr(error, "controller_failure", error)
    behind = [found for found in (cause, cause.__cause__) if found is not None]
    # The actor's own end says more than Ray's wrapping of it.
    reason = sentence(next((found for found in behind if isinstance(found, ray.exceptions.RayActorError)), cause))
    return f"a worker could not start: {reason}", any(map(_is_preemption, behind))


def first_failure(worker_exceptions: dict[int, Exception]) -> tuple[int, Exception]:
    """The worker whose error is not just another's echo; the lowest rank where all are, or several are not."""
    own = {rank: error for rank, error in worker_exceptions.items() if not any(words in str(error) for words in COLLATERAL)}
    return min((own or worker_exceptions).items())


def first_cause(error: BaseException) -> str:
    """Why a whole run failed, in one sentence."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, failure = first_failure(failures)
        return f"worker {rank}: {sentence(failure)}"
    return sentence(error)


def sentence(error: BaseException) -> str:
    """The last line of an error's words, which is where Python puts the error itself."""
    if isinstance(error, ray.exceptions.RayActorError) or "actor is dead" in str(error):
        return "its process ended (killed, out of memory, or its machine is gone)."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = lines[-1].rstrip(".") if lines else ""
    # A whole traceback ends with the error's kind; a bare error does not say it.
    named = words if len(lines) > 1 or isinstance(error, LargebatchError) else f"{type(error).__name__}: {words}".rstrip(": ")
    return f"{named}."


def _is_preemption(error: BaseException) -> bool:
    error = getattr(error, "health_check_failure", error)  # Ray Train's wrapping of a dead worker
    return bool(getattr(error, "preempted", False)) or SAVED in str(error)

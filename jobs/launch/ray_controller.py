"""What Ray Train's controller tells the mailbox when workers end against their will, and what was the cause."""

import contextlib
from typing import Any

import ray
import ray.train
from ray.train import UserCallback

from jobs.errors import LargebatchError
from jobs.launch.termination import SAVED

COLLATERAL = ("Connection closed by peer", "Connection reset", "Connection refused", "Broken pipe", "Timed out waiting", "Read error", "NCCL")
"""What the other ranks say when one is gone."""


class TellFailures(UserCallback):
    """Counts failures where they outlive the workers; an error of its own must not end the run."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Tell the first real cause; preemptions are told apart."""
        with contextlib.suppress(Exception):
            rank, error = first_failure(worker_exceptions)
            is_preemption = any(_is_preemption(other) for other in worker_exceptions.values())
            ray.get(self._mailbox.failed.remote(f"worker {rank}: {sentence(error)}", is_preemption), timeout=10)


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


def _is_preemption(error: Exception) -> bool:
    return bool(getattr(error, "preempted", False)) or SAVED in str(error)

"""RayTrainer: trains branches in Ray's actors, as many at a time as the machines hold.

    run_branches --point, branch--> RayTrainer --train--> BranchActor, on some machine
         ^------ BranchResult ----------' ^----- Told -----------'

Nothing is written there: a branch whose actor dies is trained again from its checkpoint, which costs that branch alone.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray

from largebatch.jobs.errors import FaultError, LargebatchError
from largebatch.tuning.branch.origin import BranchPoint, Origin
from largebatch.tuning.branch.train import Branch, BranchResult
from largebatch.tuning.branch.trainers.actor import BranchActor
from largebatch.tuning.branch.trainers.kept_job import Told
from largebatch.tuning.branch.trainers.trainer import GO_ON, Results
from largebatch.tuning.sweep.trials.on_ray.ray_actors import RayActors
from largebatch.tuning.sweep.trials.processes import GoneError, Lost
from largebatch.tuning.sweep.trials.resources import Shares
from largebatch.tuning.sweep.trials.run_trials import MAX_FAILURES, POLL_S


@dataclass
class _Attempt:
    """A branch that waits for an actor, or has one."""

    point: BranchPoint
    branch: Branch
    num_failures: int = 0


class RayTrainer:
    """See `Trainer`. This process is connected to Ray. Args: shares: what each branch gets."""

    def __init__(self, origin: Origin, shares: Shares) -> None:
        self.num_concurrent = shares.num_concurrent
        actor_class: Any = ray.remote(BranchActor).options(num_cpus=shares.cpus_per_worker, num_gpus=shares.gpus_per_worker)
        run_dir, data_dir = origin.run_dir.resolve(), origin.job.data_dir.resolve()
        self._actors = RayActors(lambda: actor_class.remote(run_dir, data_dir, shares))
        self._waiting: deque[_Attempt] = deque()
        self._running: dict[Any, _Attempt] = {}
        """By the actor that trains it."""

    def results(self, branches: Iterator[tuple[BranchPoint, Branch]], should_stop: Callable[[], bool], notify: Callable[[str], None]) -> Results:
        """See `Trainer`."""
        try:
            while self._begin(branches) and not should_stop():
                for actor, told in self._actors.news(POLL_S):
                    result = self._take(actor, told, notify)
                    if result is not None:
                        yield result
        except GoneError as error:
            raise FaultError("ray", f"the branches broke off: {error}.", GO_ON) from error
        finally:
            self._actors.end()
            self._waiting.clear()
            self._running.clear()

    def _begin(self, branches: Iterator[tuple[BranchPoint, Branch]]) -> bool:
        """Take as many branches as go at a time, and give them to actors that are free; whether any is under way."""
        while len(self._waiting) + len(self._running) < self.num_concurrent and (taken := next(branches, None)) is not None:
            point, branch = taken
            # The machines' current folders differ.
            checkpoint = point.checkpoint._replace(path=point.checkpoint.path.resolve())
            self._waiting.append(_Attempt(point._replace(checkpoint=checkpoint), branch))
        while self._waiting and (actor := self._actors.take()) is not None:
            attempt = self._running[actor] = self._waiting.popleft()
            self._actors.await_answer(actor, actor.train.remote(attempt.point, attempt.branch))
        self._actors.provide(len(self._waiting))
        return bool(self._waiting or self._running)

    def _take(self, actor: Any, told: Any, notify: Callable[[str], None]) -> BranchResult | None:
        """The result of a branch; None where an actor died, whose branch then waits for another. Raises: what the branch failed of."""
        if isinstance(told, Lost):
            if actor is not None:
                self._retry(self._running.pop(actor), told, notify)
            elif self._waiting:
                self._retry(self._waiting.popleft(), told, notify)
            return None
        assert isinstance(told, Told)
        del self._running[actor]
        self._actors.release(actor)
        for text in told.notices:
            notify(text)
        if isinstance(told.result, LargebatchError):
            raise told.result
        return told.result

    def _retry(self, attempt: _Attempt, lost: Lost, notify: Callable[[str], None]) -> None:
        attempt.num_failures += not lost.is_preempted
        branch = attempt.branch
        problem = f"the worker of a branch from step {branch.step:,}, at {branch.multiple} times the batch, died"
        if attempt.num_failures > MAX_FAILURES:
            raise FaultError("ray", f"{problem}, again and again.", GO_ON)
        notify(f"{problem}: the branch is trained again.")
        self._waiting.appendleft(attempt)

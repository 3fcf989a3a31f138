"""Trainer: what trains branches, one or several at a time; and the one that does so in this process."""

from collections.abc import Callable, Generator, Iterator
from typing import Protocol, TypeAlias

from largebatch.jobs.preparing.prepared import Prepared
from largebatch.tuning.branch.origin import BranchPoint
from largebatch.tuning.branch.train import Branch, BranchResult, train_branch

Results: TypeAlias = Generator[BranchResult, None, None]
GO_ON = "Go on with the same command: what was done is kept."


class Trainer(Protocol):
    """Trains what it takes from an iterator, which gives a branch only while one may begin."""

    num_concurrent: int
    """How many branches it trains at a time."""

    def results(self, branches: Iterator[tuple[BranchPoint, Branch]], should_stop: Callable[[], bool], notify: Callable[[str], None]) -> Results:
        """Each result as it comes, until none is under way and none may begin; after a stop those under way come to nothing.

        Raises: CheckpointError for a checkpoint that is damaged or of another model; InputError, FaultError where processes cannot train.
        """


class TrainerHere:
    """Trains in this process, one branch after the other. Args: job: the run's."""

    num_concurrent = 1

    def __init__(self, job: Prepared) -> None:
        self._job = job

    def results(self, branches: Iterator[tuple[BranchPoint, Branch]], should_stop: Callable[[], bool], notify: Callable[[str], None]) -> Results:
        """See `Trainer`."""
        for point, branch in branches:
            result = train_branch(self._job, point, branch, should_stop, notify)
            if result is None:
                return
            yield result

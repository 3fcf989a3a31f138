"""Runs what is left of a run's branches, and keeps what came of each: a line of `branches/branches.jsonl`, which this process alone writes.

Asked again, it goes on: a branch whose line is there is not trained again, whoever asks for it and beside which others; one that a kill cut
short begins anew, for it is short. Orders of samples begin one after the other through all checkpoints, so that what a budget leaves out
are whole orders, and the answer is about the same branches everywhere. Where they train is `trainers/`.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from largebatch.jobs.errors import InputError, PlanError
from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.plan.batch_schedule import without_rule
from largebatch.jobs.plan.learning_rate import FOLLOWS
from largebatch.jobs.run.json_lines import LineAppender, parse_object, read_all_lines
from largebatch.jobs.whole_files import storage_errors
from largebatch.tuning.branch.origin import BranchPoint, Origin
from largebatch.tuning.branch.plan import branch_plan, evaluation_places
from largebatch.tuning.branch.train import Branch, BranchResult
from largebatch.tuning.branch.trainers.trainer import Trainer, TrainerHere
from largebatch.tuning.files import BRANCH_LEDGER, BRANCHES


class Ask(NamedTuple):
    """What is asked of an origin's branches."""

    num_orders: int
    """Of the samples: the run's own, and others that are drawn."""
    power: float
    """Of the batch that the rate follows."""
    budget_s: float = math.inf
    rates: tuple[float, ...] = (1.0,)
    """Those of each batch, times the one that follows it; 1 is the first."""


def power_of(rate: str, optimizer: OptimizerConfig) -> float:
    """The power of the batch that branches' rates follow. Args: rate: a name of `FOLLOWS`; any other leaves it to the optimizer's rule.

    Raises: PlanError for an optimizer whose rule is not known.
    """
    if rate in FOLLOWS:
        return FOLLOWS[rate]
    if unruled := without_rule(optimizer):
        problem = f"{rate} is by the optimizer's rule, and how the rate follows the batch is not known of {unruled}."
        raise PlanError("--rate", problem, "Say none, sqrt or linear.")
    return optimizer.batch_power


@dataclass(frozen=True)
class BranchListener:
    """Whoever follows the branches."""

    on_begin: Callable[[int, int, Branch, float | None], None] = lambda done, of, branch, seconds_left: None
    """Told before each: how many are there or under way, of how many, and the seconds that are left, once they can be said."""
    on_end: Callable[[BranchResult], None] = lambda result: None
    on_notice: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False


class Branched(NamedTuple):
    """Where the branches stand."""

    results: dict[BranchPoint, dict[tuple[int, int], BranchResult]]
    """By point, then by (order, multiple): at the rate that follows the batch."""
    num_left: int
    at_rates: dict[BranchPoint, dict[tuple[int, int, float], BranchResult]]
    """By point, then by (order, multiple, times that rate), that rate's own among them."""


def run_branches(origin: Origin, ask: Ask, listener: BranchListener, trainer: Trainer | None = None) -> Branched:
    """Train the branches that are not there, as far as budget and person allow.

    Args: trainer: None: this process.
    Raises: PlanError for a rate that no recipe can have; InputError where the run itself diverges; StorageError; what the trainer raises.
    """
    _refuse_rate(origin, ask)
    folder = origin.run_dir / BRANCHES
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    documents = (parse_object(line.content) for line in read_all_lines(folder / BRANCH_LEDGER))  # None: a line that a kill cut short
    results_before = (BranchResult.model_validate(document) for document in documents if document is not None)
    kept = {result.branch: result for result in results_before}
    asked = _asked(origin, ask)
    todo = [(point, branch) for point, branch in asked if branch not in kept]
    trained_by = trainer or TrainerHere(origin.job)
    began_s, seconds = time.monotonic(), list[float]()

    def may_begin() -> Iterator[tuple[BranchPoint, Branch]]:
        """Each branch, once it is wanted, for as long as the next would end within the budget and nobody asks to stop."""
        for num_begun, (point, branch) in enumerate(todo):
            expected_s = statistics.mean(seconds) if seconds else 0.0
            if time.monotonic() - began_s + expected_s > ask.budget_s or listener.should_stop():
                return
            seconds_left = expected_s * (len(todo) - len(seconds)) / trained_by.num_concurrent if seconds else None
            listener.on_begin(len(asked) - len(todo) + num_begun, len(asked), branch, seconds_left)
            yield point, branch

    with storage_errors(folder):
        ledger = LineAppender(folder / BRANCH_LEDGER)
    try:
        with contextlib.closing(trained_by.results(may_begin(), listener.should_stop, listener.on_notice)) as results:
            for result in results:
                _refuse_diverged(origin, result)
                with storage_errors(folder / BRANCH_LEDGER):
                    ledger.append(result.model_dump_json().encode())
                kept[result.branch] = result
                seconds.append(result.seconds)
                listener.on_end(result)
    finally:
        ledger.close()
    at_rates: dict[BranchPoint, dict[tuple[int, int, float], BranchResult]] = {point: {} for point in origin.points}
    for point, branch in asked:
        if branch in kept:
            at_rates[point][branch.order, branch.multiple, branch.rate_times] = kept[branch]
    by_rule = {point: {key[:2]: result for key, result in results.items() if key[2] == 1.0} for point, results in at_rates.items()}
    return Branched(by_rule, len(todo) - len(seconds), at_rates)


def _refuse_rate(origin: Origin, ask: Ask) -> None:
    """Raise PlanError where the schedule could not be written as a recipe: a run refuses it, for the batch would count twice."""
    if origin.job.spec.learning_rate.restart is not None and ask.power:
        problem = f"{origin.run_dir.name}'s rate begins again (learning_rate.restart), which no recipe has beside a rate that follows the batch."
        raise PlanError("--rate", problem, "Branch it with --rate none, or a run without a restart.")


def _asked(origin: Origin, ask: Ask) -> list[tuple[BranchPoint, Branch]]:
    """Every branch, in the order in which they are trained."""
    plan, largest = origin.job.plan, origin.multiples[-1]
    places = {
        point: evaluation_places(branch_plan(plan, largest, ask.power, plan.spec.seed), point.position, origin.num_samples) for point in origin.points
    }
    return [
        (point, Branch(step=point.checkpoint.step, checkpoint=point.checkpoint.digest, order=order, multiple=multiple, power=ask.power,
                       places=places[point], rate_times=times))
        for order in range(ask.num_orders) for point in origin.points for multiple in origin.multiples for times in ask.rates
    ]  # fmt: skip


def _refuse_diverged(origin: Origin, result: BranchResult) -> None:
    if result.losses is None and result.branch.multiple == 1 and result.branch.rate_times == 1:
        problem = f"{origin.run_dir.name} diverges where it goes on from step {result.branch.step:,} at its own batch."
        raise InputError("RUN", problem, "Branch a run with a lower learning rate, or from other checkpoints (--steps).")

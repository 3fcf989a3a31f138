"""Which batch size to take, and why: the Pareto frontier, and on it soonest, cheapest, best within a limit, and the knee.

Within a limit that no batch reaches the target in, the best is the one with the best score by then.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Literal, NamedTuple

from largebatch.jobs.tasks.metric import ACCURACY, Metric
from largebatch.tuning.results.answers import Advice, Choice
from largebatch.tuning.results.unit import SAMPLES, Unit

Cost = Literal["seconds", "samples"]
"""Samples to the target are what machines must work through, however many they are."""
SECONDS_OF, SAMPLES_OF = attrgetter("seconds"), attrgetter("samples")


class Partial(NamedTuple):
    """How far a batch size had come when a limit was used up; the choice's costs are those to that score."""

    choice: Choice
    score: float
    """The median of the seeds."""
    metric: Metric


class Limit(NamedTuple):
    """What may be spent of one cost."""

    cost: Cost
    most: float
    partial: Sequence[Partial] | None
    """How far each batch size had come within it, asked where no choice keeps it; None: not known, for a prediction."""

    def question(self, unit: Unit) -> str:
        """`within 30 s`."""
        return f"within {self.most:g} s" if self.cost == "seconds" else f"within {unit.words(self.most)}"


class _Names(NamedTuple):
    """How choices are told apart in words."""

    unit: Unit
    are_of_several_optimizers: bool

    def of(self, choice: Choice) -> str:
        """`batch 64`, or `batch 64 with lamb`."""
        batch = f"batch {self.unit.batch(choice.global_batch_size)}"
        return f"{batch} with {choice.optimizer}" if self.are_of_several_optimizers else batch

    @property
    def kind(self) -> str:
        """What is chosen among."""
        return "choice" if self.are_of_several_optimizers else "batch"


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """The Pareto frontier: numbers of the points that no other beats, by rising first cost.

    A point is beaten if another is no worse in both costs and better in one; equal points do not beat each other.

    Args: points: two costs each, smaller is better; negate what should be large. NaN and infinite costs never stand.
    """
    order = sorted((n for n, point in enumerate(points) if all(abs(cost) < float("inf") for cost in point)), key=lambda n: points[n])
    kept: list[int] = []
    for number in order:
        if not kept or points[number][1] < points[kept[-1]][1] or points[number] == points[kept[-1]]:
            kept.append(number)
    return kept


def advise(choices: Sequence[Choice], limits: Sequence[Limit] = (), unit: Unit = SAMPLES) -> list[Advice]:
    """Soonest, cheapest, and the knee of time against samples; and the best within each limit.

    Args:
        choices: that reach the target.
        unit: what costs are told in.
    """
    seen = [*choices, *(partial.choice for limit in limits for partial in limit.partial or ())]
    names = _Names(unit, len({choice.optimizer for choice in seen}) > 1)
    within = [_within(choices, limit, names) for limit in limits]
    if not choices:
        return within
    soonest = min(choices, key=lambda choice: (choice.seconds, choice.samples))
    cheapest = min(choices, key=lambda choice: (choice.samples, choice.seconds))
    standing = [choices[number] for number in frontier([(choice.seconds, choice.samples) for choice in choices])]
    # The least product of both costs, each over its own best: the point nearest the ideal on logarithmic axes.
    knee = min(standing, key=lambda choice: choice.seconds * choice.samples)
    more_samples = f"{_times(soonest.samples / cheapest.samples)} the {unit.name} of the cheapest"
    more_time = f"{_times(cheapest.seconds / soonest.seconds)} the training time of the soonest"
    return [
        Advice(
            question="soonest",
            choice=soonest,
            reason=_versus(soonest, cheapest, more_samples, "sooner", _alike(soonest, choices, "seconds", names), names),
        ),
        Advice(
            question="cheapest",
            choice=cheapest,
            reason=_versus(cheapest, soonest, more_time, f"with fewer {unit.name}", _alike(cheapest, choices, "samples", names), names),
        ),
        Advice(question="knee", choice=knee, reason=_between(knee, soonest, cheapest, len(standing), unit)),
        *within,
    ]


def _alike(best: Choice, choices: Sequence[Choice], cost: Cost, names: _Names) -> str:
    """The choices whose intervals of a cost overlap with the best one's, in words: seeds do not tell them apart. Empty for none."""
    interval = getattr(best, f"{cost}_interval")
    others = [(choice, getattr(choice, f"{cost}_interval")) for choice in choices if choice is not best]
    alike = [choice for choice, other in others if interval and other and (interval[1] is None or other[0] <= interval[1])]
    return " and ".join(map(names.of, alike))


def _versus(choice: Choice, other: Choice, more: str, better: str, alike: str, names: _Names) -> str:
    """Args: better: what no other choice is; alike: those that seeds do not tell from it."""
    told = f"the seeds do not tell it from {alike}" if alike else f"no other {names.kind} reaches the target {better}"
    if choice == other:
        return f"{told if alike else 'nothing else is sooner, and nothing else is cheaper'}."
    return f"{told}; it takes {more}, {names.of(other)}."


def _between(knee: Choice, soonest: Choice, cheapest: Choice, num_standing: int, unit: Unit) -> str:
    if num_standing == 1:
        return "it is the soonest and the cheapest: nothing else stands on the frontier."
    time_more, samples_more = _times(knee.seconds / soonest.seconds), _times(knee.samples / cheapest.samples)
    if knee == soonest:
        standing = f"it is the soonest, at {samples_more} the {unit.name} of the cheapest."
    elif knee == cheapest:
        standing = f"it is the cheapest, in {time_more} the time of the soonest."
    else:
        standing = f"{time_more} the time of the soonest, {samples_more} the {unit.name} of the cheapest."
    return f"of {num_standing} choices on the frontier it loses least on both sides: {standing}"


def _within(choices: Sequence[Choice], limit: Limit, names: _Names) -> Advice:
    """The least of the other cost among those that keep the limit."""
    unit, kinds = names.unit, "choices" if names.are_of_several_optimizers else "batches"
    limited, other, name = (SECONDS_OF, SAMPLES_OF, "cheapest") if limit.cost == "seconds" else (SAMPLES_OF, SECONDS_OF, "soonest")
    kept = [choice for choice in choices if limited(choice) <= limit.most]
    if kept:
        reason = f"{name} of the {len(kept)} of {len(choices)} {kinds} that keep it."
        return Advice(question=limit.question(unit), choice=min(kept, key=other), reason=reason)
    missed = f"no {names.kind} reaches the target at all."
    if choices:
        nearest = min(choices, key=limited)
        costs = f"{nearest.seconds:,.3g} s and {unit.words(nearest.samples)}"
        missed = f"none of {len(choices)} {kinds} keeps it; the nearest is {names.of(nearest)}, with {costs}."
    if not limit.partial:
        reason = missed if limit.partial is None else f"nothing was evaluated by then; {missed}"
        return Advice(question=limit.question(unit), choice=None, reason=reason)
    choice, score, metric = min(limit.partial, key=lambda partial: (-partial.metric.goodness(partial.score), limited(partial.choice)))
    seeds = f", the median of {choice.num_seeds} seeds" if choice.num_seeds > 1 else ""
    best = "the most accurate by then with" if metric == ACCURACY else f"the best by then with {metric.name}"
    reason = f"{best} {metric.format(score)}{seeds}. The target is not met: {missed}"
    return Advice(question=limit.question(unit), choice=choice, reason=reason)


def _times(factor: float) -> str:
    return f"{factor:.3g} times"

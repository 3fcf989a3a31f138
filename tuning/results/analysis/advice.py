"""Which batch size to take, and why: the Pareto frontier, and on it soonest, cheapest, best within a limit, and the knee.

Within a limit that no batch reaches the target in, the best is the one with the best score by then.
"""

from collections.abc import Sequence
from math import inf, prod
from operator import attrgetter
from typing import Literal, NamedTuple

from largebatch.jobs.tasks.metric import ACCURACY, Metric
from largebatch.tuning.results.answers import Advice, Choice, Interval, Tie
from largebatch.tuning.results.phrases import listed
from largebatch.tuning.results.unit import SAMPLES, Unit, in_digits, times_in_words

Cost = Literal["seconds", "samples"]
"""Samples to the target are what machines must work through, however many they are."""
ROUNDING = 1e-9
"""A share that costs of equally spaced evaluations may be off by, as sums of seconds are."""
SECONDS_OF, SAMPLES_OF = attrgetter("seconds"), attrgetter("samples")


class Partial(NamedTuple):
    """How far a batch size had come when a limit was used up; the choice's costs are those to that score."""

    choice: Choice
    score: float
    """The median of the seeds."""
    metric: Metric
    interval: tuple[float | None, float | None] | None = None
    """Of the scores of several seeds; an end is None where it reaches into runs that were not evaluated by then."""


class Limit(NamedTuple):
    """What may be spent of one cost."""

    cost: Cost
    most: float
    partial: Sequence[Partial] | None
    """How far each batch size had come within it, asked where no choice keeps it; None: not known, for a prediction."""

    def question(self, unit: Unit) -> str:
        """`within 30 s`."""
        return f"within {in_digits(self.most)} s" if self.cost == "seconds" else f"within {unit.words(self.most)}"


class _Names(NamedTuple):
    """How choices are told apart in words."""

    unit: Unit
    are_of_several_optimizers: bool

    def of(self, choice: Choice | Tie) -> str:
        """`batch 64`, or `batch 64 with lamb`."""
        batch = f"batch {self.unit.batch(choice.global_batch_size)}"
        return f"{batch} with {choice.optimizer}" if self.are_of_several_optimizers else batch

    def alike(self, as_what: str, ties: Sequence[Tie]) -> str:
        """`as soon as batch 64: the seeds do not tell them apart`; empty for no ties. Args: as_what: such as `as soon as`."""
        by_seeds, by_evaluations = ([self.of(tie) for tie in ties if tie.by == by] for by in ("seeds", "evaluations"))
        parts = [f"{as_what} {listed(by_seeds)}: the seeds do not tell them apart"] if by_seeds else []
        if by_evaluations:
            too = ", too" if parts else ""
            parts.append(f"{as_what} {listed(by_evaluations)}{too}: they differ by no more than the way between two evaluations")
        return "; ".join(parts)

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
    as_soon, as_cheap = _ties(soonest, choices, "seconds"), _ties(cheapest, choices, "samples")
    as_good = _ties(knee, choices, "seconds", "samples")
    more_samples = f"{times_in_words(soonest.samples / cheapest.samples)} the {unit.name} of the cheapest"
    more_time = f"{times_in_words(cheapest.seconds / soonest.seconds)} the training time of the soonest"
    soon, few = names.alike("as soon as", as_soon), names.alike(f"with as few {unit.name} as", as_cheap)
    told = [
        ("soonest", soonest, _versus(soonest, cheapest, more_samples, "sooner", soon, names), as_soon),
        ("cheapest", cheapest, _versus(cheapest, soonest, more_time, f"with fewer {unit.name}", few, names), as_cheap),
        ("knee", knee, _between(knee, soonest, cheapest, len(standing), unit) + _beside(names.alike("is as good as", as_good)), as_good),
    ]
    return [*(Advice(question=question, choice=choice, reason=reason, ties=ties) for question, choice, reason, ties in told), *within]


def _ties(best: Choice, choices: Sequence[Choice], *costs: Cost) -> list[Tie]:
    """The choices that are not told from the best one in a cost, or in the product of several."""
    others = [(choice, tied_by(best, choice, costs)) for choice in choices if choice is not best]
    return [Tie(global_batch_size=choice.global_batch_size, optimizer=choice.optimizer, by=by) for choice, by in others if by is not None]


def tied_by(best: Choice, other: Choice, costs: Sequence[Cost]) -> Literal["seeds", "evaluations"] | None:
    """What does not tell the two apart: intervals that overlap, or costs no farther apart than either's evaluations; None: they are told apart.

    A single seed, which has no interval, is as the other where its cost lies within the other's.
    A cost c that is read off an evaluation was reached anywhere on the way s from the evaluation before: costs that differ by s may be the same.
    """
    intervals = [_interval(choice, costs) for choice in (best, other)]
    cost, other_cost = (prod(getattr(choice, cost) for cost in costs) for choice in (best, other))
    if any(intervals):
        ends = [interval or (point, point) for interval, point in zip(intervals, (cost, other_cost), strict=True)]
        if max(low for low, _ in ends) <= min(high for _, high in ends):
            return "seeds"
    between = max(_between_evaluations(best, costs), _between_evaluations(other, costs))
    return "evaluations" if between > 0 and abs(other_cost - cost) <= between * (1 + ROUNDING) else None


def _interval(choice: Choice, costs: Sequence[Cost]) -> tuple[float, float] | None:
    """Of the product of the costs; an open end is infinite. None where the seeds do not say."""
    intervals: list[Interval | None] = [getattr(choice, f"{cost}_interval") for cost in costs]
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(costs):
        return None
    return prod(low for low, _ in known), prod(inf if high is None else high for _, high in known)


def _between_evaluations(choice: Choice, costs: Sequence[Cost]) -> float:
    """How much of the product of its costs lies between two evaluations; 0 where that is not known."""
    between = {cost: getattr(choice, f"{cost}_between_evaluations") or 0.0 for cost in costs}
    return sum(prod(between[cost] if cost == other else getattr(choice, other) for other in costs) for cost in costs)


def _versus(choice: Choice, other: Choice, more: str, better: str, alike: str, names: _Names) -> str:
    """Args: better: what no other choice is; alike: what is not told from it, in words."""
    told = alike or f"no other {names.kind} compared here reaches the target {better}"
    if choice == other:
        return f"{told if alike else 'nothing else is sooner, and nothing else is cheaper'}."
    return f"{told}; it takes {more}, {names.of(other)}."


def _beside(alike: str) -> str:
    """A sentence that follows another; empty for no words."""
    return f" It {alike}." if alike else ""


def _between(knee: Choice, soonest: Choice, cheapest: Choice, num_standing: int, unit: Unit) -> str:
    if num_standing == 1:
        return "it is the soonest and the cheapest: nothing else stands on the frontier."
    time_more, samples_more = times_in_words(knee.seconds / soonest.seconds), times_in_words(knee.samples / cheapest.samples)
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
        best = min(kept, key=other)
        ties = _ties(best, kept, "samples" if limit.cost == "seconds" else "seconds")
        interval = _interval(best, [limit.cost])
        unsure = " Not each of its seeds keeps it." if interval and interval[1] > limit.most else ""
        as_what = f"takes as few {unit.name} as" if limit.cost == "seconds" else "is as soon as"
        reason = f"{name} of the {len(kept)} of {len(choices)} {kinds} that keep it.{unsure}{_beside(names.alike(as_what, ties))}"
        return Advice(question=limit.question(unit), choice=best, reason=reason, ties=ties)
    missed = f"no {names.kind} reaches the target at all."
    if choices:
        nearest = min(choices, key=limited)
        costs = f"{in_digits(nearest.seconds, 3)} s and {unit.words(nearest.samples)}"
        missed = f"none of {len(choices)} {kinds} keeps it; the nearest is {names.of(nearest)}, with {costs}."
    if not limit.partial:
        reason = missed if limit.partial is None else f"nothing was evaluated by then; {missed}"
        return Advice(question=limit.question(unit), choice=None, reason=reason)
    farthest = min(limit.partial, key=lambda partial: (-partial.metric.goodness(partial.score), limited(partial.choice)))
    choice, score, metric, _ = farthest
    ties = [Tie(global_batch_size=of.choice.global_batch_size, optimizer=of.choice.optimizer, by="seeds")
            for of in limit.partial if of is not farthest and _overlap(of, farthest)]  # fmt: skip
    seeds = f", the median of {choice.num_seeds} seeds" if choice.num_seeds > 1 else ""
    told = "the most accurate by then with" if metric == ACCURACY else f"the best by then with {metric.name}"
    alike = names.alike("as good as", ties)
    reason = f"{told} {metric.format(score)}{seeds}{f', {alike}' if alike else ''}. The target is not met: {missed}"
    return Advice(question=limit.question(unit), choice=choice, reason=reason, ties=ties)


def _overlap(one: Partial, other: Partial) -> bool:
    """Whether the seeds do not tell two scores apart; an open end is as bad as can be."""
    if one.interval is None and other.interval is None:
        return False
    goodness = [[-inf if end is None else of.metric.goodness(end) for end in of.interval or (of.score,)] for of in (one, other)]
    return max(map(min, goodness)) <= min(map(max, goodness))

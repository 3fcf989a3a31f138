"""Which batch size to take, and why: soonest, cheapest, best within a limit, and the knee.

Within a limit that no batch reaches the target in, the best is the most accurate by then.
"""

from collections.abc import Sequence
from typing import NamedTuple

from largebatch.tuning.results.analysis.frontier import frontier


class Choice(NamedTuple):
    """A batch size with what it costs to the target, measured or predicted."""

    global_batch_size: int
    seconds: float
    samples: float
    learning_rate: float
    momentum: float | None
    optimizer: str
    num_seeds: int = 0
    """0: predicted, not run."""


class Partial(NamedTuple):
    """How far a batch size had come when a limit was used up; the choice's costs are those to that accuracy."""

    choice: Choice
    accuracy: float
    """Test accuracy, the median of the seeds."""


class Advice(NamedTuple):
    """One answer with its reason."""

    question: str
    choice: Choice | None
    """None where no choice keeps the limit."""
    reason: str


def advise(
    choices: Sequence[Choice],
    deadline_s: float | None = None,
    max_samples: float | None = None,
    *,
    by_deadline: Sequence[Partial] | None = None,
    by_samples: Sequence[Partial] | None = None,
) -> list[Advice]:
    """Soonest, cheapest, within the limits given, and the knee of time against samples.

    Cost is samples to the target: what machines must work through, however many they are.

    Args: choices: that reach the target; by_deadline, by_samples: how far each batch size had come within each limit, asked where no choice
        keeps it; None: not known, for a prediction.
    """
    answers = _without_limits(choices) if choices else []
    if deadline_s is not None:
        kept = [one for one in choices if one.seconds <= deadline_s]
        answers.append(_within(choices, f"within {deadline_s:g} s", kept, by_deadline, "samples"))
    if max_samples is not None:
        kept = [one for one in choices if one.samples <= max_samples]
        answers.append(_within(choices, f"within {max_samples:,.0f} samples", kept, by_samples, "seconds"))
    return answers


def _without_limits(choices: Sequence[Choice]) -> list[Advice]:
    soonest = min(choices, key=lambda one: (one.seconds, one.samples))
    cheapest = min(choices, key=lambda one: (one.samples, one.seconds))
    answers = [
        Advice("soonest", soonest, _versus(soonest, cheapest, "sooner", "samples", soonest.samples / cheapest.samples, "cheapest")),
        Advice(
            "cheapest", cheapest, _versus(cheapest, soonest, "with fewer samples", "training time", cheapest.seconds / soonest.seconds, "soonest")
        ),
    ]
    standing = [choices[number] for number in frontier([(one.seconds, one.samples) for one in choices])]
    knee = _knee(standing)
    return [*answers, Advice("knee", knee, _between(knee, soonest, cheapest, len(standing)))]


def _knee(standing: Sequence[Choice]) -> Choice:
    """The least product of both costs, each over its own best: the point nearest the ideal on logarithmic axes."""
    return min(standing, key=lambda one: one.seconds * one.samples)


def _between(knee: Choice, soonest: Choice, cheapest: Choice, num_standing: int) -> str:
    if num_standing == 1:
        return "it is the soonest and the cheapest: nothing else stands on the frontier."
    of = f"of {num_standing} choices on the frontier it loses least on both sides: "
    time_more, samples_more = _times(knee.seconds / soonest.seconds), _times(knee.samples / cheapest.samples)
    if knee == soonest:
        return f"{of}it is the soonest, at {samples_more} the samples of the cheapest."
    if knee == cheapest:
        return f"{of}it is the cheapest, in {time_more} the time of the soonest."
    return f"{of}{time_more} the time of the soonest, {samples_more} the samples of the cheapest."


def _versus(one: Choice, other: Choice, better: str, what: str, factor: float, name: str) -> str:
    if one.global_batch_size == other.global_batch_size:
        return "nothing else is sooner, and nothing else is cheaper."
    return f"no other batch reaches the target {better}; it takes {_times(factor)} the {what} of the {name}, batch {other.global_batch_size:,}."


def _within(choices: Sequence[Choice], question: str, kept: Sequence[Choice], partial: Sequence[Partial] | None, minimise: str) -> Advice:
    """Args: minimise: what is least among those that keep the limit; the limit is on the other of seconds and samples."""
    if kept:
        chosen = min(kept, key=lambda one: getattr(one, minimise))
        least = "cheapest" if minimise == "samples" else "soonest"
        return Advice(question, chosen, f"{least} of the {len(kept)} of {len(choices)} batches that keep it.")
    limited = "seconds" if minimise == "samples" else "samples"
    if choices:
        nearest = min(choices, key=lambda one: getattr(one, limited))
        missed = f"none of {len(choices)} batches keeps it; the nearest is {nearest.global_batch_size:,} with {_costs(nearest)}."
    else:
        missed = "no batch reaches the target at all."
    if not partial:
        return Advice(question, None, missed if partial is None else f"nothing was evaluated by then; {missed}")
    best = min(partial, key=lambda one: (-one.accuracy, getattr(one.choice, limited)))
    seeds = f", the median of {best.choice.num_seeds} seeds" if best.choice.num_seeds > 1 else ""
    return Advice(question, best.choice, f"the most accurate by then with {best.accuracy:.4f}{seeds}. The target is not met: {missed}")


def _costs(one: Choice) -> str:
    return f"{one.seconds:,.3g} s and {one.samples:,.0f} samples"


def _times(factor: float) -> str:
    return f"{factor:.3g} times"

"""Which batch size to take, and why: soonest, cheapest, best within a limit, and the knee."""

from collections.abc import Sequence
from typing import NamedTuple

from tuning.analysis.frontier import frontier


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


class Advice(NamedTuple):
    """One answer with its reason."""

    question: str
    choice: Choice | None
    """None where no choice keeps the limit."""
    reason: str


def advise(choices: Sequence[Choice], deadline_s: float | None = None, max_samples: float | None = None) -> list[Advice]:
    """Soonest, cheapest, within the limits given, and the knee of time against samples; empty for no choices.

    Cost is samples to the target: what machines must work through, however many they are.
    """
    if not choices:
        return []
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
    answers.append(Advice("knee", knee, _between(knee, soonest, cheapest, len(standing))))
    if deadline_s is not None:
        answers.append(_within(choices, f"within {deadline_s:g} s", [one for one in choices if one.seconds <= deadline_s], soonest, "samples"))
    if max_samples is not None:
        kept = [one for one in choices if one.samples <= max_samples]
        answers.append(_within(choices, f"within {max_samples:,.0f} samples", kept, cheapest, "seconds"))
    return answers


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


def _within(choices: Sequence[Choice], question: str, kept: Sequence[Choice], nearest: Choice, minimise: str) -> Advice:
    if not kept:
        return Advice(
            question, None, f"none of {len(choices)} batches keeps it; the nearest is {nearest.global_batch_size:,} with {_costs(nearest)}."
        )
    chosen = min(kept, key=lambda one: getattr(one, minimise))
    least = "cheapest" if minimise == "samples" else "soonest"
    return Advice(question, chosen, f"{least} of the {len(kept)} of {len(choices)} batches that keep it.")


def _costs(one: Choice) -> str:
    return f"{one.seconds:,.3g} s and {one.samples:,.0f} samples"


def _times(factor: float) -> str:
    return f"{factor:.3g} times"

"""What comes next to the recommended choice: the choices that are as soon, else the next one, in a card's title and in a line of it."""

from collections.abc import Sequence

from largebatch.tuning.results.analysis.advice import tied_by
from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.card.card import RunnerUp
from largebatch.tuning.results.card.saving import AS_IT_WAS, TOLD
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import capital, choice_in_words, cost_in_words, listed
from largebatch.tuning.results.unit import times_in_words

MOST_IN_TITLE = 2
MOST_AS_SOON = 4
"""Choices that are named as being as soon."""


def runners_up_of(findings: Findings, best: Choice) -> list[RunnerUp]:
    """Those that are as soon by rising time, else the next one: of the recipe as it was, what the search found for its own batch and optimizer."""
    others = sorted((choice for choice in findings.considered if choice != best), key=lambda choice: (choice.seconds, choice.samples))
    told = [RunnerUp(choice=choice, times=choice.seconds / best.seconds, tied_by=tied_by(best, choice, ["seconds"])) for choice in others]
    worse = [choice for choice in findings.choices if choice != best and choice.is_same_step(best)]
    alike = [RunnerUp(choice=choice, times=choice.samples / best.samples, tied_by=None) for choice in worse]
    return [each for each in told if each.tied_by] or [*alike, *told][:1]


def as_soon_in_title(runners_up: Sequence[RunnerUp], findings: Findings) -> str:
    """`, or as soon batch 256`; empty where no other choice is."""
    tied = [each.choice for each in runners_up if each.tied_by]
    if len(tied) > MOST_IN_TITLE:
        return f", or as soon {len(tied)} others"
    with_optimizer = " with {}" if findings.compares_optimizers else ""
    named = [
        _whose(choice, f"batch {findings.unit.batch(choice.global_batch_size)}{with_optimizer.format(choice.optimizer)}", findings) for choice in tied
    ]
    return f", or as soon {listed(named)}" if named else ""


def runners_up_in_words(runners_up: Sequence[RunnerUp], findings: Findings, best: Choice) -> str:
    """A sentence or two. Args: best: the recommended choice."""
    if not runners_up and (others := [other.cost for other in findings.other_schedules if other.cost]):
        soonest = min(others, key=lambda choice: choice.seconds)
        return f"{capital(_named(soonest, findings))}: the same batch under another schedule. No other batch did."
    if not runners_up:
        return "No other choice reached the target in more than half of its runs."
    if runners_up[0].tied_by is None:
        next_one = runners_up[0]
        cost = findings.unit.name if next_one.choice.is_same_step(best) else "training time"
        return f"{capital(_named(next_one.choice, findings))}: {times_in_words(next_one.times)} the {cost}."
    parts = []
    for by in ("seeds", "evaluations"):
        tied = [_named(each.choice, findings) for each in runners_up if each.tied_by == by]
        if tied:
            named = "; ".join([*tied[:MOST_AS_SOON], *([f"{len(tied) - MOST_AS_SOON} more"] if len(tied) > MOST_AS_SOON else [])])
            parts.append(f"{capital(named)}: {TOLD[by]}.")
    return " ".join(parts)


def _named(choice: Choice, findings: Findings) -> str:
    return f"{_whose(choice, choice_in_words(choice, findings.unit), findings)}, in {cost_in_words(choice, findings.unit)}"


def _whose(choice: Choice, told: str, findings: Findings) -> str:
    """`the recipe as it was (batch 64)` of that, else what is told alone."""
    return f"{AS_IT_WAS} ({told})" if choice == findings.counted_as_it_was else told

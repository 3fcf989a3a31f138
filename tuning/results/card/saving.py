"""What the recommended choice saves against the recipe that the runs began from, and in words."""

from typing import Literal

from largebatch.tuning.results.analysis.advice import tied_by
from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.card.card import Saving
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import capital, choice_in_words, cost_in_words, seconds_in_words


def saving_of(findings: Findings, choice: Choice) -> Saving | None:
    """None where it is not known which recipe the runs began from, where it stands on another axis, or where it is the choice itself."""
    begun_from = findings.begun_from
    if begun_from is None:
        return None
    if begun_from.run is not None:
        if begun_from.run.setting != findings.runs[0].setting:
            return None
        return _against(choice, findings.as_it_was, is_tuned=False)
    batch, optimizer = begun_from.spec.batch.global_batch_size, begun_from.spec.optimizer.label
    own = [best for best in findings.best if (best.global_batch_size, best.first.optimizer) == (batch, optimizer)]
    if not own or (choice.global_batch_size, choice.optimizer) == (batch, optimizer):
        return None
    return _against(choice, own[0].cost, is_tuned=True)


def _against(choice: Choice, other: Choice | None, *, is_tuned: bool) -> Saving:
    if other is None:
        return Saving(against=None, is_tuned=is_tuned, cost="seconds", times=None, tied_by=None)
    cost: Literal["seconds", "samples"] = "samples" if choice.is_same_step(other) else "seconds"
    times = getattr(other, cost) / getattr(choice, cost)
    return Saving(against=other, is_tuned=is_tuned, cost=cost, times=times, tied_by=tied_by(choice, other, [cost]))


def saving_in_words(saving: Saving | None, findings: Findings, choice: Choice) -> str:
    """A sentence; empty where there is nothing to hold the choice against."""
    begun_from = findings.begun_from
    if begun_from is None:
        return ""
    if saving is None:
        is_own = (choice.global_batch_size, choice.optimizer) == (begun_from.spec.batch.global_batch_size, begun_from.spec.optimizer.label)
        if is_own and begun_from.run is None:
            return "It is the recipe's own batch and optimizer, with the best settings that were found for them."
        return "Not known: the recipe as it was is not among the runs."
    name = "the recipe's own batch and optimizer, tuned as well," if saving.is_tuned else AS_IT_WAS
    if saving.against is None or saving.times is None:
        return f"{capital(name).removesuffix(',')} missed the target."
    took = f"{name} ({choice_in_words(saving.against, findings.unit)}) took {cost_in_words(saving.against, findings.unit)}"
    if saving.tied_by is not None:
        return f"Nothing that was measured: {took}, and {TOLD[saving.tied_by]}."
    share = f"{1 - 1 / saving.times:.0%}"
    share = "less than 1%" if share == "0%" else share
    if saving.cost == "samples":
        fewer = findings.unit.words(saving.against.samples - choice.samples)
        return f"{share} of the {findings.unit.name}, {fewer}: {took}. A step costs as much, so the clocks are not compared."
    return f"{share} of the training time, {seconds_in_words(saving.against.seconds - choice.seconds)}: {took}."


AS_IT_WAS = "the recipe as it was"
"""What a study's own run of its recipe is called."""
TOLD = {"seeds": "the seeds do not tell them apart", "evaluations": "they differ by no more than the way between two evaluations"}
"""What does not tell two choices apart."""

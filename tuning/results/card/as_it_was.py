"""The card where nothing that was searched is sooner than the recipe that the runs began from: it says to keep that."""

from pathlib import Path

from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.card.card import Card, CardLine, RunnerUp, Saving, Sureness
from largebatch.tuning.results.card.ready_recipe import ready_recipe
from largebatch.tuning.results.card.sureness import sureness_in_words, unsteady_clock
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import capital, choice_in_words, cost_in_words
from largebatch.tuning.results.unit import times_in_words


def is_sooner_as_it_was(saving: Saving) -> bool:
    """Whether the recipe as it was, trained once, takes less than the best of what was searched."""
    return not saving.is_tuned and saving.tied_by is None and saving.times is not None and saving.times < 1


def card_of_the_recipe_as_it_was(findings: Findings, saving: Saving, searched: Choice, target: str, context: str, recipe_file: Path | None) -> Card:
    """The card. Args: saving: for which `is_sooner_as_it_was` holds; searched: the best of what was searched; the others: see `card_of`."""
    assert saving.against is not None
    assert saving.times is not None
    assert findings.begun_from is not None
    assert findings.begun_from.run is not None
    own, unit = saving.against, findings.unit
    told, cost, more = choice_in_words(own, unit), cost_in_words(own, unit), 1 / saving.times
    what = "training time" if saving.cost == "seconds" else unit.name
    doubts = [
        ("it stands on one run, and another seed may turn the answer", "more seeds of it"),
        *unsteady_clock(findings),
        ("the search tried nothing that is as good", "a larger --budget, for more rates at each batch"),
    ]
    sureness = Sureness(verdict="unsure", grounds=[ground for ground, _ in doubts], surer=[surer for _, surer in doubts if surer])
    how_sure, surer = sureness_in_words(sureness)
    lines = [
        ("Time", f"{cost}, of training alone, to {target}."),
        ("Runner-up", f"{capital(choice_in_words(searched, unit))}, in {cost_in_words(searched, unit)}: {times_in_words(more)} the {what}."),
        ("How sure", how_sure),
        ("Surer with", surer),
    ]
    return Card(
        title=f"The recipe as it was: {told}; nothing that was searched is better", verdict="unsure", target=target, setting=context, choice=own,
        runners_up=[RunnerUp(choice=searched, times=more, tied_by=None)], sureness=sureness,
        recipe=ready_recipe(findings.begun_from.run, f"{capital(told)}: {cost} to {target}.", recipe_file),
        lines=[CardLine(label=label, text=text) for label, text in lines],
    )  # fmt: skip

"""The card where nothing that was searched is sooner than the recipe that the runs began from, or reached the target at all: it says to keep that."""

from pathlib import Path

from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.card.card import Card, CardLine, RunnerUp, Saving, Sureness
from largebatch.tuning.results.card.ready_recipe import ready_recipe
from largebatch.tuning.results.card.sureness import disturbed_clocks, sureness_in_words, unsteady_clock
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import capital, choice_in_words, cost_in_words
from largebatch.tuning.results.unit import Unit, times_in_words


def is_sooner_as_it_was(saving: Saving) -> bool:
    """Whether the recipe as it was, trained once, takes less than the best of what was searched."""
    return not saving.is_tuned and saving.tied_by is None and saving.times is not None and saving.times < 1


def card_of_the_recipe_as_it_was(
    findings: Findings, own: Choice, runner_up: RunnerUp | None, target: str, context: str, recipe_file: Path | None, *, cost: str = "seconds"
) -> Card:
    """The card.

    Args:
        own: the recipe as it was.
        runner_up: the best that was searched; None where all of it missed.
        cost: what the two are held against each other in, seconds or samples.
        target, context, recipe_file: see `card_of`.
    """
    assert findings.begun_from is not None
    assert findings.begun_from.run is not None
    unit = findings.unit
    told, own_cost = choice_in_words(own, unit), cost_in_words(own, unit)
    doubts = [
        ("it stands on one run, and another seed may turn the answer", "more seeds of it"),
        *unsteady_clock(findings),
        *disturbed_clocks(findings),
        (f"the search tried nothing that {'is as good' if runner_up else 'reached the target'}", "a larger --budget, for more rates at each batch"),
    ]
    sureness = Sureness(verdict="unsure", grounds=[ground for ground, _ in doubts], surer=[surer for _, surer in doubts if surer])
    how_sure, surer = sureness_in_words(sureness)
    lines = [
        ("Time", f"{own_cost}, of training alone, to {target}."),
        ("Runner-up", _runner_up_in_words(runner_up, unit, "training time" if cost == "seconds" else unit.name)),
        ("How sure", how_sure),
        ("Surer with", surer),
    ]
    less = "is better" if runner_up else "reached the target"
    return Card(
        title=f"The recipe as it was: {told}; nothing that was searched {less}", verdict="unsure", target=target, setting=context, choice=own,
        runners_up=[runner_up] if runner_up else [], sureness=sureness,
        recipe=ready_recipe(findings.begun_from.run, f"{capital(told)}: {own_cost} to {target}.", recipe_file),
        lines=[CardLine(label=label, text=text) for label, text in lines],
    )  # fmt: skip


def _runner_up_in_words(runner_up: RunnerUp | None, unit: Unit, cost: str) -> str:
    """The best of what was searched, and how much more it takes."""
    if runner_up is None:
        return "No other choice reached the target in more than half of its runs."
    searched = runner_up.choice
    return f"{capital(choice_in_words(searched, unit))}, in {cost_in_words(searched, unit)}: {times_in_words(runner_up.times)} the {cost}."

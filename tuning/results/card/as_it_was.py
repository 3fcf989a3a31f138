"""The card where nothing that was searched was measured to be sooner than the recipe that the runs began from: it says to keep that."""

from collections.abc import Sequence
from pathlib import Path

from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.card.card import Card, CardLine, RunnerUp, Sureness
from largebatch.tuning.results.card.ready_recipe import ready_recipe
from largebatch.tuning.results.card.runners_up import as_soon_in_title, runners_up_in_words
from largebatch.tuning.results.card.saving import AS_IT_WAS
from largebatch.tuning.results.card.sureness import disturbed_clocks, sureness_in_words, ties_in_words, unsteady_clock
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import capital, choice_in_words, cost_in_words


def card_of_the_recipe_as_it_was(
    findings: Findings, own: Choice, runners_up: Sequence[RunnerUp], target: str, context: str, recipe_file: Path | None
) -> Card:
    """The card. Args: own: the recipe as it was; runners_up: none where all that was searched missed; target, context, recipe_file: see `card_of`."""
    assert findings.run_as_it_was is not None
    told, own_cost = choice_in_words(own, findings.unit), cost_in_words(own, findings.unit)
    ties = [each for each in runners_up if each.tied_by]
    doubts = [
        ("it stands on one run, and another seed may turn the answer", "more seeds of it"),
        *ties_in_words(ties),
        *unsteady_clock(findings),
        *disturbed_clocks(findings),
        (f"the search tried nothing that {'is better' if runners_up else 'reached the target'}", "a larger --budget, for more rates at each batch"),
    ]
    sureness = Sureness(verdict="tied" if ties else "unsure", grounds=[ground for ground, _ in doubts], surer=[surer for _, surer in doubts if surer])
    how_sure, surer = sureness_in_words(sureness)
    lines = [
        ("Time", f"{own_cost}, of training alone, to {target}."),
        ("As soon" if ties else "Runner-up", runners_up_in_words(runners_up, findings, own)),
        ("How sure", how_sure),
        ("Surer with", surer),
    ]
    less = "is better" if runners_up else "reached the target"
    return Card(
        title=f"{capital(AS_IT_WAS)}: {told}{as_soon_in_title(runners_up, findings) or f'; nothing that was searched {less}'}",
        verdict=sureness.verdict, target=target, setting=context, choice=own, runners_up=list(runners_up), sureness=sureness,
        recipe=ready_recipe(findings.run_as_it_was, f"{capital(told)}: {own_cost} to {target}.", recipe_file),
        lines=[CardLine(label=label, text=text) for label, text in lines],
    )  # fmt: skip

"""Makes the card of findings: its parts, and all of it in words, once for every door."""

import shlex
from pathlib import Path

from largebatch.tuning.files import STUDY
from largebatch.tuning.results.analysis.advice import tied_by
from largebatch.tuning.results.analysis.configurations import rounded_to_easier
from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.card.as_it_was import card_of_the_recipe_as_it_was, is_sooner_as_it_was
from largebatch.tuning.results.card.card import Card, CardLine, RunnerUp
from largebatch.tuning.results.card.larger_machines import larger_machines_in_words, larger_machines_of
from largebatch.tuning.results.card.ready_recipe import ready_recipe
from largebatch.tuning.results.card.saving import TOLD, saving_in_words, saving_of
from largebatch.tuning.results.card.sureness import sureness_in_words, sureness_of
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import capital, choice_in_words, cost_in_words, listed
from largebatch.tuning.results.unit import Unit, times_in_words
from largebatch.tuning.sweep.ledger import SWEEP

MOST_IN_TITLE = 2
MOST_AS_SOON = 4
"""Choices that are named as being as soon."""


def card_of(findings: Findings, context: str, recipe_file: Path | None = None) -> Card:
    """The card. Args: context: the setting in a sentence; recipe_file: where its recipe is written; default the run's own spec."""
    target = f"{findings.setting.evaluated_on} {findings.metric.name} {findings.target:g}"
    if not findings.choices:
        if own := findings.as_it_was:
            return card_of_the_recipe_as_it_was(findings, own, None, target, context, recipe_file)
        return _card_of_misses(findings, target, context)
    soonest = _recommended(findings)
    saving, larger = saving_of(findings, soonest), larger_machines_of(findings, soonest)
    if saving is not None and saving.against is not None and saving.times is not None and is_sooner_as_it_was(saving):
        next_one = RunnerUp(choice=soonest, times=1 / saving.times, tied_by=None)
        return card_of_the_recipe_as_it_was(findings, saving.against, next_one, target, context, recipe_file, cost=saving.cost)
    runners_up = _runners_up(findings, soonest)
    sureness = sureness_of(findings, soonest, runners_up)
    told, cost = capital(choice_in_words(soonest, findings.unit)), cost_in_words(soonest, findings.unit)
    how_sure, surer = sureness_in_words(sureness)
    lines = [
        ("Time", f"{cost}, of training alone, to {target}."),
        ("With", f"{', '.join(f'{name} {value}' for name, value in soonest.others.items())}." if soonest.others else ""),
        ("It saves", saving_in_words(saving, findings, soonest)),
        ("As soon" if sureness.verdict == "tied" else "Runner-up", _runners_up_in_words(runners_up, findings)),
        ("Larger machines", larger_machines_in_words(larger, findings, soonest)),
        ("How sure", how_sure),
        ("Surer with", surer),
    ]
    return Card(
        title=f"{told}{_as_soon(findings, runners_up)}", verdict=sureness.verdict, target=target, setting=context, choice=soonest, saving=saving,
        runners_up=runners_up, larger_machines=larger, sureness=sureness,
        recipe=ready_recipe(findings.runs_of(soonest).first, f"{told}: {cost} to {target}.", recipe_file),
        lines=[CardLine(label=label, text=text) for label, text in lines if text],
    )  # fmt: skip


def _recommended(findings: Findings) -> Choice:
    """The soonest; of those that are as soon, the one fewest of whose seeds missed the target."""
    soonest = min(findings.choices, key=lambda choice: (choice.seconds, choice.samples))
    as_soon = [choice for choice in findings.choices if choice is soonest or tied_by(soonest, choice, ["seconds"])]

    def share_missed(choice: Choice) -> float:
        seconds = findings.runs_of(choice).seconds
        return 1 - seconds.num_reached / seconds.num_runs

    return min(as_soon, key=lambda choice: (share_missed(choice), choice.seconds, choice.samples))


def _as_soon(findings: Findings, runners_up: list[RunnerUp]) -> str:
    """`, or as soon batch 256`; empty where no other choice is."""
    tied = [each.choice for each in runners_up if each.tied_by]
    if len(tied) > MOST_IN_TITLE:
        return f", or as soon {len(tied)} others"
    with_optimizer = " with {}" if findings.compares_optimizers else ""
    named = [f"batch {findings.unit.batch(choice.global_batch_size)}{with_optimizer.format(choice.optimizer)}" for choice in tied]
    return f", or as soon {listed(named)}" if named else ""


def _runners_up(findings: Findings, soonest: Choice) -> list[RunnerUp]:
    """Those that are as soon by rising time, else the next one."""
    others = sorted((choice for choice in findings.choices if choice is not soonest), key=lambda choice: (choice.seconds, choice.samples))
    told = [RunnerUp(choice=choice, times=choice.seconds / soonest.seconds, tied_by=tied_by(soonest, choice, ["seconds"])) for choice in others]
    return [each for each in told if each.tied_by] or told[:1]


def _runners_up_in_words(runners_up: list[RunnerUp], findings: Findings) -> str:
    unit = findings.unit
    if not runners_up and (others := [other.cost for other in findings.other_schedules if other.cost]):
        return f"{capital(_named(min(others, key=lambda choice: choice.seconds), unit))}: the same batch under another schedule. No other batch did."
    if not runners_up:
        return "No other choice reached the target."
    if runners_up[0].tied_by is None:
        next_one = runners_up[0]
        return f"{capital(_named(next_one.choice, unit))}, {times_in_words(next_one.times)} the time."
    parts = []
    for by in ("seeds", "evaluations"):
        tied = [_named(each.choice, unit) for each in runners_up if each.tied_by == by]
        if tied:
            named = "; ".join([*tied[:MOST_AS_SOON], *([f"{len(tied) - MOST_AS_SOON} more"] if len(tied) > MOST_AS_SOON else [])])
            parts.append(f"{capital(named)}: {TOLD[by]}.")
    return " ".join(parts)


def _named(choice: Choice, unit: Unit) -> str:
    return f"{choice_in_words(choice, unit)}, in {cost_in_words(choice, unit)}"


def _card_of_misses(findings: Findings, target: str, context: str) -> Card:
    """The card where no choice reached the target: how near they came, and what to do."""
    scored = [best for best in findings.best if best.best_score.median is not None]
    lines = [("What helps", "Runs long enough to be evaluated: more epochs (stop.epochs), or evaluations more often (evaluation.every_epochs).")]
    if scored:
        nearest = max(scored, key=lambda best: findings.metric.goodness(best.best_score.median or 0.0))
        score = nearest.best_score.median or 0.0
        where = f"batch {findings.unit.batch(nearest.global_batch_size)} with {nearest.first.optimizer}"
        lines = [
            ("Nearest", f"{capital(findings.metric.name)} {findings.metric.format(score)}, the median of {where}."),
            ("What helps", f"Longer runs (stop.epochs), other learning rates, or an easier target: `{_easier_target(findings)}`."),
        ]
    tried = listed(dict.fromkeys(findings.unit.batch(best.global_batch_size) for best in findings.best))
    title = f"No answer yet: no choice reached {target} in more than half of its runs" if scored else "No answer: no run was ever evaluated"
    return Card(
        title=title, verdict="unsure", target=target, setting=context, choice=None,
        lines=[CardLine(label=label, text=text) for label, text in [("Tried", f"Batch {tried}."), *lines]],
    )  # fmt: skip


def _easier_target(findings: Findings) -> str:
    """The command that asks for the best score that more than half of the runs of some choice came to."""
    reached = [score for best in findings.best if (score := best.reached_by_most) is not None]
    return f"{_asked_again(findings)} --target {rounded_to_easier(findings.metric.best(reached), findings.metric):g}"


def _asked_again(findings: Findings) -> str:
    """The command that asks the same of the same runs, in words where their folder is not known."""
    folders = {run.folder and run.folder.parent for run in findings.runs}
    folder = folders.pop()
    is_sweep = folder is not None and not folders and (folder / SWEEP).is_file()
    named = "FOLDER" if folder is None or not is_sweep else str(folder.parent if (folder.parent / STUDY).is_file() else folder)
    return shlex.join(["largebatch", "advise", named])

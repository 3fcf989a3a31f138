"""Makes the card of findings: its parts, and all of it in words, once for every door."""

import shlex
from pathlib import Path

from largebatch.tuning.files import STUDY
from largebatch.tuning.results.analysis.advice import tied_by
from largebatch.tuning.results.analysis.configurations import rounded_to_easier
from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.card.as_it_was import card_of_the_recipe_as_it_was
from largebatch.tuning.results.card.card import Card, CardLine
from largebatch.tuning.results.card.larger_machines import larger_machines_in_words, larger_machines_of
from largebatch.tuning.results.card.ready_recipe import ready_recipe
from largebatch.tuning.results.card.runners_up import as_soon_in_title, runners_up_in_words, runners_up_of
from largebatch.tuning.results.card.saving import saving_in_words, saving_of
from largebatch.tuning.results.card.sureness import sureness_in_words, sureness_of
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import capital, choice_in_words, cost_in_words, listed
from largebatch.tuning.sweep.ledger import SWEEP


def card_of(findings: Findings, context: str, recipe_file: Path | None = None) -> Card:
    """The card. Args: context: the setting in a sentence; recipe_file: where its recipe is written; default the run's own spec."""
    target = f"{findings.setting.evaluated_on} {findings.metric.name} {findings.target:g}"
    if not findings.considered:
        return _card_of_misses(findings, target, context)
    soonest = _recommended(findings)
    runners_up = runners_up_of(findings, soonest)
    if soonest == findings.counted_as_it_was:
        return card_of_the_recipe_as_it_was(findings, soonest, runners_up, target, context, recipe_file)
    saving, larger = saving_of(findings, soonest), larger_machines_of(findings, soonest)
    sureness = sureness_of(findings, soonest, runners_up)
    told, cost = capital(choice_in_words(soonest, findings.unit)), cost_in_words(soonest, findings.unit)
    how_sure, surer = sureness_in_words(sureness)
    lines = [
        ("Time", f"{cost}, of training alone, to {target}."),
        ("With", f"{', '.join(f'{name} {value}' for name, value in soonest.others.items())}." if soonest.others else ""),
        ("It saves", saving_in_words(saving, findings, soonest)),
        ("As soon" if sureness.verdict == "tied" else "Runner-up", runners_up_in_words(runners_up, findings, soonest)),
        ("Larger machines", larger_machines_in_words(larger, findings, soonest)),
        ("How sure", how_sure),
        ("Surer with", surer),
    ]
    return Card(
        title=f"{told}{as_soon_in_title(runners_up, findings)}", verdict=sureness.verdict, target=target, setting=context, choice=soonest,
        saving=saving, runners_up=runners_up, larger_machines=larger, sureness=sureness,
        recipe=ready_recipe(findings.runs_of(soonest).first, f"{told}: {cost} to {target}.", recipe_file),
        lines=[CardLine(label=label, text=text) for label, text in lines if text],
    )  # fmt: skip


def _recommended(findings: Findings) -> Choice:
    """The soonest; of those that are as soon, the one fewest of whose seeds missed the target."""
    soonest = min(findings.considered, key=lambda choice: (choice.seconds, choice.samples))
    as_soon = [choice for choice in findings.considered if choice is soonest or tied_by(soonest, choice, ["seconds"])]

    def share_missed(choice: Choice) -> float:
        if choice == findings.counted_as_it_was:
            return 0.0  # its one run reached it
        seconds = findings.runs_of(choice).seconds
        return 1 - seconds.num_reached / seconds.num_runs

    return min(as_soon, key=lambda choice: (share_missed(choice), choice.seconds, choice.samples))


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

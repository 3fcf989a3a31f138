"""Findings as people and programs read them: sentences, the rows of a table, and the whole answer."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from largebatch.jobs.plan.describe import CHOSEN_ON
from largebatch.jobs.run.records import Headline, Outcome
from largebatch.tuning.results.analysis.configurations import Configuration
from largebatch.tuning.results.analysis.critical_batch import regime
from largebatch.tuning.results.analysis.doubts import bias_in_words, critical_in_words, times_beyond
from largebatch.tuning.results.answers import Advice, Choice, CriticalBatch, GrowthAdvice
from largebatch.tuning.results.card.make import card_of
from largebatch.tuning.results.card.sureness import COARSE
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import (
    capital,
    choice_in_words,
    cost_in_words,
    counted,
    growing_left_out,
    listed,
    momentum_in_words,
    momentum_name,
    number,
    number_of_disturbed,
    number_of_stopped,
    seconds_in_words,
    which_runs,
)
from largebatch.tuning.results.run_result import MOST_NAMED, RunResult, differences_in_words
from largebatch.tuning.results.unit import SAMPLES, Unit, times_in_words
from largebatch.tuning.results.whole_answer import Batch, SweepFindings, UnderOptimizer

CLOCK = "training seconds; evaluation, checkpoints and kernel warm-up are not counted"


def answer_of(findings: Findings, recipe_file: Path | None = None) -> SweepFindings:
    """All of it, as the report, `--json` and the API have it. Args: recipe_file: where the card's recipe is written; default the run's own spec."""
    card = card_of(findings, _setting_in_words(findings), recipe_file)
    return SweepFindings(
        card=card,
        setting=findings.setting,
        tokens_per_sample=None if findings.unit == SAMPLES else findings.unit.per_sample,
        headline=Headline.of(findings.metric),
        target=findings.target,
        target_is_chosen=findings.target_is_chosen,
        num_runs=len(findings.runs),
        seeds=sorted({run.seed for run in findings.runs}),
        clock=CLOCK,
        words=_words(findings),
        rows=_rows(findings),
        batches=[
            Batch(
                global_batch_size=best.global_batch_size,
                optimizer=best.first.optimizer,
                learning_rate=best.first.learning_rate,
                momentum=best.first.momentum,
                momentum_half_life_samples=best.first.momentum_half_life_samples,
                seconds_to_target=best.seconds,
                steps_to_target=best.steps,
                samples_to_target=best.samples,
                best_score=best.best_score,
                gradient_noise_scale=best.noise_scale,
                search_seconds_to_target=best.search_seconds,
                is_chosen_by_its_runs=best in findings.chosen_by_their_runs,
                others=best.first.values_of(findings.differing),
            )
            for best in findings.best
        ],
        by_optimizer=[
            UnderOptimizer(
                optimizer=optimizer,
                num_runs=len(side.runs),
                reached=[best.global_batch_size for best in side.reached],
                missed=[best.global_batch_size for best in side.missed],
                advice=side.advice,
                critical_batch=side.critical_batch,
                gradient_noise_scale=side.noise_scale,
                curve_crossing=side.curve_crossing,
            )
            for optimizer, side in findings.by_optimizer.items()
        ],
        critical_batch=findings.critical_batch,
        gradient_noise_scale=findings.noise_scale,
        score_frontier=findings.score_frontier,
        cost_frontier=findings.cost_frontier,
        advice=findings.advice,
        growing=findings.growing,
        left_out={str(setting): count for setting, count in findings.other_settings.items()},
    )


def _setting_in_words(findings: Findings) -> str:
    """What the runs have in common, how many there are, and their target."""
    num_batches = len({tried.global_batch_size for tried in findings.best})
    under = f" under {listed(findings.by_optimizer)}" if findings.compares_optimizers else ""
    judged = f"{findings.setting.evaluated_on} {findings.metric.name}"
    chosen = f" (what {_every_choice(findings)} reached; none was given)" if findings.target_is_chosen else ""
    runs, sizes = counted(len(findings.runs), "run"), counted(num_batches, "batch size")
    return f"{findings.setting}: {runs} of {sizes}{under}, to {judged} {findings.target:g}{chosen}."


def _words(findings: Findings) -> list[str]:
    """Three sentences that answer the question, and what must be said beside them."""
    best, reached, sides = findings.best, findings.reached, findings.by_optimizer
    words = [_setting_in_words(findings)]
    if own := findings.counted_as_it_was:
        words.append(_as_it_was_in_words(own, findings))
    words += [sentence(advice, findings.unit) for advice in findings.advice if advice.question in {"soonest", "cheapest"}]
    words += _single_seeds_in_words(findings)
    if findings.target_is_chosen and (unscored := [best for best in findings.best if best.reached_by_most is None]):
        names = listed(f"batch {findings.unit.batch(best.global_batch_size)} with {best.first.optimizer}" for best in unscored)
        words.append(f"The target leaves out {names}: half of the runs or more were never evaluated.")
    words += [_reach_in_words(side) for side in sides.values() if findings.compares_optimizers and reached]
    fitted = [(side.critical_batch, side) for side in sides.values() if side.critical_batch]
    words += [
        _critical_batch_in_words(critical, side, findings.compares_optimizers, is_first=not number) for number, (critical, side) in enumerate(fitted)
    ]
    words += [sentence(advice, findings.unit) for advice in findings.advice if advice.question not in {"soonest", "cheapest"}]
    if not reached:
        medians = [tried.best_score.median for tried in best if tried.best_score.median is not None]
        highest = findings.metric.format(findings.metric.best(medians)) if medians else "not known"
        searched = " that was searched" if findings.counted_as_it_was else ""
        words.append(f"No batch size{searched} reached the target in half of its runs; the best median {findings.metric.name} is {highest}.")
    words += _too_few_in_words(findings)
    words += [_schedule_in_words(other, findings.unit) for other in findings.other_schedules]
    words += growing_in_words(findings.growing)
    chosen = "Target, best rates" if findings.target_is_chosen else "Best rates"
    words.append(f"{chosen} and batch sizes are {_chosen_on(findings)}.")
    words += _seeds_in_words(findings)
    if differences := differences_in_words(findings.runs):
        words.append(f"The runs differ in more than what is compared: {differences}.")
    if num_diverged := sum(run.summary.outcome is Outcome.DIVERGED for run in findings.runs):
        words.append(f"{num_diverged} of {len(findings.runs)} runs diverged; they count as misses.")
    if disturbance := disturbance_in_words(findings.runs, findings.run_as_it_was):
        words.append(disturbance)
    for setting, count in findings.other_settings.items():
        words.append(f"Left out: {counted(count, 'run')} of {setting}; {'its' if count == 1 else 'their'} times cannot stand on the same axis.")
    return [*words, *findings.missing]


def _as_it_was_in_words(own: Choice, findings: Findings) -> str:
    """That the recipe as it was counts among the choices, and how it stands."""
    batch = f"batch {findings.unit.batch(own.global_batch_size)}" + (f" with {own.optimizer}" if findings.compares_optimizers else "")
    if not findings.reached:
        found = "Nothing that was searched reached the target in half of its runs, but the recipe as it was, trained once, did."
    elif findings.advice[0].choice == own:
        found = "Nothing that was searched was measured to be better than the recipe as it was, trained once."
    else:
        return f"The recipe as it was, trained once, counts as {batch} here; the table is of the search."
    return f"{found} What is said of {batch} is of that run; the table is of the search."


def _schedule_in_words(other: Configuration, unit: Unit) -> str:
    """Of a choice that stands in no row, since its batch has a better one under another schedule."""
    cost = other.cost
    assert cost is not None  # it reached the target
    return (
        f"Batch {unit.batch(cost.global_batch_size)} with {cost.optimizer}, where it {'grows' if cost.grows else 'stays'}, reached the target under"
        f" another schedule, too: in {cost_in_words(cost, unit)}, {number(other.steps.median, ',.0f')} steps. The table has each batch's better one."
    )


def _single_seeds_in_words(findings: Findings) -> list[str]:
    """Which of the choices that are compared stand on one seed; empty where none does."""
    compared = findings.best if findings.advice else []
    single = [best for best in compared if len(best.runs) == 1]
    if not single:
        return []
    doubt = "and another seed may turn the answer"
    if len(compared) == 1:
        return [f"It stands on one seed, {doubt}."]
    if len(single) == len(compared):
        return [f"Each choice stands on one seed, {doubt}."]
    under = " under {}" if findings.compares_optimizers else ""
    names = [f"batch {findings.unit.batch(best.global_batch_size)}{under.format(best.first.optimizer)}" for best in single]
    return [f"On one seed {'stands' if len(single) == 1 else 'stand'} {listed(names)}, {doubt}."]


def _too_few_in_words(findings: Findings) -> list[str]:
    """Which optimizers reached the target at too few batch sizes for a critical batch, in one sentence; empty for none."""
    counts = dict[tuple[int, int], list[str]]()
    for optimizer, side in findings.by_optimizer.items():
        if side.critical_batch is None:
            counts.setdefault((len(side.crossed), len(side.fitted)), []).append(optimizer)
    did = "; ".join(
        f"{f'under {listed(names)} ' if findings.compares_optimizers else ''}{reached} of {tried}{' each' if len(names) > 1 else ''} did"
        for (reached, tried), names in counts.items()
    )
    if not did:
        return []
    did += growing_left_out(findings.runs)
    few = [side for side in findings.by_optimizer.values() if side.critical_batch is None]
    first = [told for side in few for told in _at_first_evaluation_in_words(side, findings.compares_optimizers)]
    after = " after their first evaluation" if first else ""
    told = f"For a critical batch size at least three batch sizes must reach the target in half of their runs{after}; {did}."
    return [" ".join([told, *first])]


def _at_first_evaluation_in_words(side: Findings, is_named: bool) -> list[str]:
    """Which batches met the target too soon to tell where; empty for none. Args: is_named: under which optimizer."""
    first = [best for best in side.fitted_reached if best not in side.crossed]
    if not first:
        return []
    batches = listed(side.unit.batch(best.global_batch_size) for best in first)
    under = f" under {side.runs[0].optimizer}" if is_named else ""
    return [f"At batch {batches}{under} the first evaluation met the target already, so where it was crossed is not known: evaluate more often."]


def growing_in_words(advice: Sequence[GrowthAdvice]) -> list[str]:
    """Whether the batch should grow, a sentence for each optimizer, and one for all of which nothing is known."""
    unknown = [each for each in advice if each.is_unknown]
    told = [each.words for each in advice if not each.is_unknown]
    return [*told, *([unknown[0].words_of(listed(each.optimizer for each in unknown))] if unknown else [])]


def _every_choice(findings: Findings) -> str:
    """`every batch size`, or what else is compared besides, of whose runs the target was chosen."""
    under = " under every optimizer" if findings.compares_optimizers else ""
    return f"every batch size{under}{' with every batch schedule' if len({run.batch_schedule for run in findings.runs}) > 1 else ''}"


def _chosen_on(findings: Findings) -> str:
    """What is said of the part of the data that decided; a recorded run scores no test set."""
    part = findings.setting.evaluated_on
    if part == "validation" and all(run.summary.test_score is None for run in findings.runs):
        return "chosen on the validation part; no run scored a test set"
    return CHOSEN_ON[part]


def _seeds_in_words(findings: Findings) -> list[str]:
    """Whether the seeds that report are others than those that chose, and by how much these would have been too favourable."""
    words = []
    sooner = [best.search_seconds / best.seconds.median for best in findings.reached if best.search_seconds and best.seconds.median]
    if sooner:
        words.append(
            "Counted are seeds that did not choose the settings. The runs by which the search chose them are kept apart: they took "
            f"{times_in_words(median(sooner))} as long (the median of {len(sooner)})."
        )
    if of := findings.chosen_by_their_runs:
        batches = listed(findings.unit.batch(batch) for batch in sorted({best.global_batch_size for best in of}))
        words.append(
            f"At batch {batches} the settings were chosen by runs that are counted here, so what they came to is somewhat too favourable; "
            "the `repeats` of a sweep are seeds that did not choose."
        )
    return words


def _rows(findings: Findings) -> list[dict[str, str]]:
    """The best of each batch size under each optimizer, in words."""
    momentum, unit = momentum_name(best.first.optimizer for best in findings.best), findings.unit
    critical = {optimizer: side.critical_batch for optimizer, side in findings.by_optimizer.items()}
    return [
        {
            "batch": f"{best.global_batch_size:,}",
            **({} if unit == SAMPLES else {"batch in tokens": f"{unit.of(best.global_batch_size):,.0f}"}),
            "optimizer": best.first.optimizer,
            "learning rate": f"{best.first.learning_rate:.4g}",
            momentum: momentum_in_words(best.first, unit),
            **{name.rpartition(".")[2].replace("_", " "): best.first.values_of([name]).get(name, "-") for name in findings.differing[:MOST_NAMED]},
            "s to target": best.seconds.text,
            **({"search's own s": number(best.search_seconds, ".4g")} if any(each.search_runs for each in findings.best) else {}),
            "steps": number(best.steps.median, ",.0f"),
            unit.name: _amount(best.samples.median, unit),
            f"best {findings.metric.name}": "-" if best.best_score.median is None else findings.metric.format(best.best_score.median),
            "noise scale": _amount(best.noise_scale, unit),
            "regime": _regime(best, critical[best.first.optimizer]),
        }
        for best in findings.best
    ]


def _regime(best: Configuration, critical: CriticalBatch | None) -> str:
    """A dash for a batch that grows, which is in several."""
    return "-" if critical is None or best.first.grows else regime(best.global_batch_size, critical.critical_batch_size).value


def _amount(num_samples: float | None, unit: Unit) -> str:
    return number(None if num_samples is None else unit.of(num_samples), ",.0f")


def sentence(advice: Advice, unit: Unit = SAMPLES) -> str:
    """The answer with its reason."""
    question, choice = advice.question[0].upper() + advice.question[1:], advice.choice
    if choice is None:
        return f"{question}: {advice.reason}"
    others = "".join(f", {name} {value}" for name, value in choice.others.items())
    return (
        f"{question}: {choice_in_words(choice, unit)}{others}, {seconds_in_words(choice.seconds)} and {unit.words(choice.samples)}; {advice.reason}"
    )


def disturbance_in_words(results: Sequence[RunResult], own: RunResult | None = None) -> str | None:
    """What must be said of runs whose clock other work on the machine disturbed, or a stop; None where none was. Args: own: see `which_runs`."""
    words, every = [], [*results, *([own] if own else [])]
    if disturbed := which_runs(number_of_disturbed, results, own):
        most = max(run.summary.core_wait_fraction or 0.0 for run in every)
        words.append(
            f"Other work on the machine disturbed the clock of {disturbed}: they waited for a core up to"
            f" {most:.0%} of the time, so their seconds are longer than on a free machine; steps and samples are not touched."
        )
    if stopped := which_runs(number_of_stopped, results, own):
        most_s = max(run.summary.stopped_seconds or 0.0 for run in every)
        words.append(
            f"{capital(stopped)} stood still, stopped or frozen, for up to {seconds_in_words(most_s)}, which their seconds"
            " may count; steps and samples are not touched."
        )
    return " ".join(words) or None


def _reach_in_words(side: Findings) -> str:
    """How far one optimizer of several comes: where it reaches the target, at what best cost, and where it misses."""
    unit = side.unit
    missed = listed(unit.batch(missed.global_batch_size) for missed in side.missed) if side.missed else ""
    if not side.considered:
        return f"Under {side.runs[0].optimizer} every batch size missed the target in half of its runs or more: {missed}."
    reached = listed(unit.batch(choice.global_batch_size) for choice in side.considered)
    first = side.advice[0]
    soonest = first.choice or side.considered[0]
    as_soon = f" (as soon: batch {listed(unit.batch(tie.global_batch_size) for tie in first.ties)})" if first.ties else ""
    return (
        f"Under {soonest.optimizer} batch {reached} reached the target, soonest batch {unit.batch(soonest.global_batch_size)} in "
        f"{seconds_in_words(soonest.seconds)}{as_soon}{f'; batch {missed} missed it in half of its runs or more' if missed else ''}."
    )


def _critical_batch_in_words(critical: CriticalBatch, findings: Findings, is_named: bool, is_first: bool) -> str:
    """The critical batch with its interval, and what the fit stands on. Args: is_named: whose it is; is_first: say what it means."""
    unit = findings.unit
    meaning = "; far below it a doubled batch halves the steps, far above it buys nothing" if is_first else ""
    words = [f"Critical batch size{f' under {critical.optimizer}' if is_named else ''}: {critical_in_words(critical, unit)}{meaning}."]
    if findings.noise_scale is not None:
        words.append(f"The gradient noise scale that the runs measured is {unit.of(findings.noise_scale):,.0f}.")
    words.append(f"The fit stands on {critical.num_points} runs at {len(findings.crossed)} batch sizes{growing_left_out(findings.runs)}.")
    words += _at_first_evaluation_in_words(findings, is_named)
    if (times := times_beyond(critical)) is not None and not critical.is_boundless:
        largest = unit.batch(critical.largest_batch or 0.0)
        words.append(f"It lies {times_in_words(times, 2)} beyond the largest batch that it is fitted to, {largest}: {bias_in_words()}.")
    if (cross := findings.curve_crossing) is not None:
        words.append(
            f"The curves of batch sizes cross: to {findings.metric.name} {findings.metric.format(cross.at_score)} batch "
            f"{unit.batch(cross.larger_batch)} needs fewer {unit.name} than batch {unit.batch(cross.smaller_batch)}, and later more. So one critical "
            "batch for all targets does not exist (arXiv:2601.05034); this one is of this target alone."
        )
    if num_missed := sum(best.samples.num_runs - best.samples.num_reached for best in findings.crossed):
        are = "are" if num_missed > 1 else "is"
        words.append(f"{counted(num_missed, 'run')} of these that missed {are} left out, so it is too favourable there.")
    if missed := [best for best in findings.fitted if best.seconds.median is None]:
        batches = ", ".join(unit.batch(best.global_batch_size) for best in missed)
        words.append(f"Left out with all their runs, since half of them or more missed: batch {batches}.")
    met = [met for best in findings.crossed for met in best.crossings]
    coarsest = max(met, key=lambda crossed: crossed.interval / crossed.at.samples)
    if (share := coarsest.interval / coarsest.at.samples) > COARSE:
        words.append(
            f"Costs are read off evaluations up to {unit.words(coarsest.interval)} apart, {share:.0%} of what that run took: evaluate more often for "
            "a finer answer."
        )
    return " ".join(words)

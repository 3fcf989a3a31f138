"""How sure a recommendation is: what it stands on, what speaks against it, and what would make it surer."""

from collections.abc import Sequence
from math import comb, inf
from statistics import median

from largebatch.jobs.run.records import Outcome
from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.card.card import RunnerUp, Sureness, Verdict
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import capital, counted, listed, number_of_disturbed, number_of_stopped, seconds_in_words, which_runs
from largebatch.tuning.results.run_result import RunResult

ENOUGH_SEEDS = 6
"""From so many on the interval of a median reaches 95 %."""
BY_CHANCE = 0.1
"""How often ranges of so many seeds may lie apart by chance alone, for an answer that is sure: those of 3 and 3 do."""
MOST_GROUNDS = 4
"""That a card names; a program gets all."""
MEASURES_NOISE = "gradient.noise_every_steps"
COARSE = 0.2
"""An evaluation interval above this share of the cost blurs it."""


def sureness_of(findings: Findings, choice: Choice, runners_up: Sequence[RunnerUp]) -> Sureness:
    """What speaks for and against the choice."""
    is_chosen_by_its_runs = any(_is_of(choice, best.first) for best in findings.chosen_by_their_runs)
    ties = [each for each in runners_up if each.tied_by]
    misses = _misses(findings, choice)
    chances = [] if ties else _apart_by_chance(choice, findings.choices)
    held_up = [] if ties else _held_up(findings, choice)
    doubts = [*misses, *_seeds(choice, is_chosen_by_its_runs=is_chosen_by_its_runs), *ties_in_words(ties), *chances, *held_up]
    doubts += [*unsteady_clock(findings), *_measurement(findings, choice), *_search(findings, choice)]
    verdict: Verdict = "tied" if ties else "unsure" if choice.num_seeds < 2 or is_chosen_by_its_runs or misses or chances or held_up else "sure"
    return Sureness(verdict=verdict, grounds=[ground for ground, _ in doubts], surer=[surer for _, surer in doubts if surer])


def _is_of(choice: Choice, run: RunResult) -> bool:
    return (run.summary.global_batch_size, run.optimizer) == (choice.global_batch_size, choice.optimizer)


def _misses(findings: Findings, choice: Choice) -> list[tuple[str, str]]:
    """Seeds of the choice that did not come to the target at all. Returns: pairs of a ground, and what would make it surer or nothing."""
    seconds = findings.runs_of(choice).seconds
    num_missed = seconds.num_runs - seconds.num_reached
    return [(f"{num_missed} of its {seconds.num_runs} seeds missed the target", "an easier target, or longer runs")] if num_missed else []


def _seeds(choice: Choice, *, is_chosen_by_its_runs: bool) -> list[tuple[str, str]]:
    """What the seeds say. Returns: pairs of a ground, and what would make it surer or nothing."""
    if is_chosen_by_its_runs:
        runs = "run that gives" if choice.num_seeds == 1 else f"{choice.num_seeds} runs that give"
        ground = f"its settings were chosen by the very {runs} its time, which is so too favourable"
        return [(ground, "other seeds than those that chose (`repeats` of a sweep)")]
    if choice.num_seeds == 1:
        return [("it stands on one seed, and another may turn the answer", "more seeds (`repeats` of a sweep, a larger --budget of a study)")]
    if choice.num_seeds < ENOUGH_SEEDS:
        held = 1 - 2 ** (1 - choice.num_seeds)  # unless all of them lie on one side of the median
        few = f"{ENOUGH_SEEDS} seeds, whose interval holds at 95 %; that of {choice.num_seeds} is their range, which holds at {held * 100:.0f} %"
        return [(f"it stands on {choice.num_seeds} seeds", few)]
    return [(f"it stands on {choice.num_seeds} seeds, and the interval holds at 95 %", "")]


def ties_in_words(ties: Sequence[RunnerUp]) -> list[tuple[str, str]]:
    """That other choices are as soon. Returns: pairs of a ground, and what would make it surer or nothing."""
    if not ties:
        return []
    ground = f"{counted(len(ties), 'other choice')} {'is' if len(ties) == 1 else 'are'} as soon, as far as was measured"
    is_open = any(tie.tied_by == "seeds" and tie.choice.num_seeds >= ENOUGH_SEEDS for tie in ties)  # of few, more are asked for already
    return [(ground, "more seeds, which may tell them apart" if is_open else "")]


def _apart_by_chance(choice: Choice, choices: Sequence[Choice]) -> list[tuple[str, str]]:
    """That it and another choice have too few seeds to be told apart: of n and m from one distribution 2 orders in C(n + m, n) lie apart."""
    fewest = min((other.num_seeds for other in choices if other is not choice), default=None)
    if choice.num_seeds < 2 or fewest is None:
        return []
    chance = 2 / comb(choice.num_seeds + fewest, fewest)
    if chance <= BY_CHANCE:
        return []
    seeds = "seed" if fewest == 1 else "seeds"
    ground = f"by chance alone the ranges of {choice.num_seeds} and of {fewest} other {seeds} lie apart in {chance * 100:.0f} % of cases"
    return [(ground, "" if choice.num_seeds < ENOUGH_SEEDS else "more seeds of the other choices")]


def _held_up(findings: Findings, choice: Choice) -> list[tuple[str, str]]:
    """That others waited for a core, or stood still, for so long that without it they would have been as soon."""
    others = [best for best in findings.reached if not _is_of(choice, best.first)]
    sooner = [best for best in others if median(_undisturbed_s(run, findings.target) for run in best.runs) <= choice.seconds]
    if not sooner:
        return []
    named = listed(f"batch {findings.unit.batch(best.global_batch_size)} with {best.first.optimizer}" for best in sooner)
    return [(f"{named} may be as soon on a free machine", "")]  # which the clock asks for already


def _undisturbed_s(run: RunResult, target: float) -> float:
    """The least that a run's seconds to the target may be without what held it up; infinite for a miss."""
    met = run.first_at(target)
    if met is None or not number_of_disturbed([run]) + number_of_stopped([run]):
        return inf if met is None else met.training_seconds
    return met.training_seconds * (1 - (run.summary.core_wait_fraction or 0.0)) - (run.summary.stopped_seconds or 0.0)


def _measurement(findings: Findings, choice: Choice) -> list[tuple[str, str]]:
    """Evaluations too far apart, a busy machine, a choice made on the test set."""
    doubts = []
    share = (choice.seconds_between_evaluations or 0.0) / choice.seconds
    if share > COARSE:
        doubts.append((f"its time is read off evaluations {share:.0%} of it apart", "evaluations more often (evaluation.every_epochs)"))
    doubts += disturbed_clocks(findings)
    if num_diverged := sum(run.summary.outcome is Outcome.DIVERGED for run in findings.runs):
        doubts.append((f"{counted(num_diverged, 'run')} diverged, and count as misses", ""))
    if findings.setting.evaluated_on == "test":
        chosen = "rates and target" if findings.target_is_chosen else "rates"
        doubts.append((f"{chosen} were chosen on the test set", "a validation part (dataset.validation)"))
    if findings.target_is_chosen:
        doubts.append(("nobody gave a target", "the score that you need, as --target"))
    return doubts


def disturbed_clocks(findings: Findings) -> list[tuple[str, str]]:
    """Runs that shared the machine with other work, or stood still, the recipe as it was among them."""
    doubts = []
    if disturbed := which_runs(number_of_disturbed, findings.runs, findings.run_as_it_was):
        doubts.append((f"other work on the machine disturbed the clock of {disturbed}", "a free machine"))
    if stopped := which_runs(number_of_stopped, findings.runs, findings.run_as_it_was):
        doubts.append((f"{stopped} stood still for a while, which the clock may count", "runs left alone"))
    return doubts


def unsteady_clock(findings: Findings) -> list[tuple[str, str]]:
    """What the very same run says of the clock, where the search has tried the recipe as it was too: same settings, seed and samples."""
    own = findings.begun_from.run if findings.begun_from else None
    again = [run for run in findings.runs if own is not None and _is_same_run(run, own, findings.target)]
    met = [run.first_at(findings.target) for run in (own, *again) if run is not None] if again else []
    seconds = sorted(at.training_seconds for at in met if at is not None)
    if not seconds or seconds_in_words(seconds[0]) == seconds_in_words(seconds[-1]):
        return []
    took = f"the same run took {seconds_in_words(seconds[0])} and {seconds_in_words(seconds[-1])}"
    return [(f"{took}: nothing closer than that is told apart", "" if number_of_disturbed(findings.runs) else "a free machine")]


def _is_same_run(run: RunResult, own: RunResult, target: float) -> bool:
    """How often a run measured its noise changes nothing of what it trained."""
    settings = [{name: value for name, value in each.settings if name != MEASURES_NOISE} for each in (run, own)]
    met = run.first_at(target), own.first_at(target)
    is_alike = settings[0] == settings[1] and (run.seed, run.learning_rate) == (own.seed, own.learning_rate)
    return is_alike and met[0] is not None and met[1] is not None and met[0].samples == met[1].samples


def _search(findings: Findings, choice: Choice) -> list[tuple[str, str]]:
    """A best rate or batch size that is the least or the largest of those that were tried."""
    doubts = []
    side = findings.by_optimizer[choice.optimizer]
    rates = sorted({tried.first.learning_rate for tried in side.configurations if tried.global_batch_size == choice.global_batch_size})
    if len(rates) > 1 and choice.learning_rate in (rates[0], rates[-1]):
        end = "smallest" if choice.learning_rate == rates[0] else "largest"
        doubts.append(
            (f"its rate is the {end} of the {len(rates)} that were tried at this batch", f"{'lower' if end == 'smallest' else 'higher'} rates")
        )
    own = side.counted_as_it_was
    batches = sorted({*(best.global_batch_size for best in side.best), *([own.global_batch_size] if own else [])})
    if len(batches) > 1 and choice.global_batch_size in (batches[0], batches[-1]):
        end = "smallest" if choice.global_batch_size == batches[0] else "largest"
        doubts.append((f"its batch is the {end} that was tried", f"{'smaller' if end == 'smallest' else 'larger'} batches"))
    return doubts


def sureness_in_words(sureness: Sureness) -> tuple[str, str]:
    """How sure it is, and what would make it surer, empty for nothing."""
    shown, more = sureness.grounds[:MOST_GROUNDS], len(sureness.grounds) - MOST_GROUNDS
    told = "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])
    begins = {"sure": "Sure as far as this goes", "tied": "A tie", "unsure": "Not sure"}[sureness.verdict]
    return f"{begins}: {told}.", capital(f"{'; '.join(sureness.surer[:MOST_GROUNDS])}.") if sureness.surer else ""

"""Phrases that answers are made of: numbers, counts, lists, and what an optimizer calls its momentum."""

from collections.abc import Callable, Iterable, Sequence

from largebatch.jobs.engine.core_wait import DISTURBED
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.results.unit import Unit, in_digits


def number(value: float | None, form: str) -> str:
    """Formatted; a dash for None."""
    return "-" if value is None else format(value, form)


def momentum_name(optimizers: Iterable[str]) -> str:
    """What the number that results call momentum is in these optimizers' own words."""
    names = {OPTIMIZERS[optimizer].momentum_option if optimizer in OPTIMIZERS else "momentum" for optimizer in optimizers} - {""}
    return " or ".join(sorted(names, reverse=True)) or "momentum"


def momentum_in_words(of: RunResult | Choice, unit: Unit) -> str:
    """`0.9`, or `0.958 (half-life 1,024 samples)`; a dash where there is none."""
    if of.momentum is None or of.momentum_half_life_samples is None:
        return number(of.momentum, "g")
    return f"{of.momentum:.3g} (half-life {unit.words(of.momentum_half_life_samples)})"


def capital(text: str) -> str:
    """The text with a capital letter first."""
    return f"{text[0].upper()}{text[1:]}"


def counted(number: int, noun: str) -> str:
    """`1 run`, `12 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """`sgd, lamb and muon`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def seconds_in_words(seconds: float) -> str:
    """`0.159 s`, `1,240 s`."""
    return f"{in_digits(seconds, 3)} s"


def choice_in_words(choice: Choice, unit: Unit) -> str:
    """`batch 64 with sgd, learning rate 0.1 and momentum 0.9`."""
    momentum = "" if choice.momentum is None else f" and {momentum_name([choice.optimizer])} {momentum_in_words(choice, unit)}"
    grows = " that grows" if choice.grows else ""
    return f"batch {unit.batch(choice.global_batch_size)}{grows} with {choice.optimizer}, learning rate {choice.learning_rate:.4g}{momentum}"


def cost_in_words(choice: Choice, unit: Unit) -> str:
    """`0.159 s (0.150 ... 0.170, 3 seeds) and 2,874 samples`."""
    return f"{seconds_in_words(choice.seconds)} ({interval_in_words(choice)}) and {unit.words(choice.samples)}"


def interval_in_words(choice: Choice) -> str:
    """`0.150 ... 0.170 s, 3 seeds`, or `one seed`."""
    if choice.seconds_interval is None:
        return "predicted" if choice.num_seeds == 0 else "one seed"
    low, high = choice.seconds_interval
    return f"{seconds_in_words(low)[:-2]} ... {'missed' if high is None else seconds_in_words(high)}, {choice.num_seeds} seeds"


def number_of_disturbed(runs: Iterable[RunResult]) -> int:
    """Runs that waited so long for a core that their clock says less than on a free machine."""
    return sum((run.summary.core_wait_fraction or 0.0) >= DISTURBED for run in runs)


def growing_left_out(runs: Iterable[RunResult]) -> str:
    """`; runs whose batch grows have no part in it`; empty where none does."""
    return "; runs whose batch grows have no part in it" if any(run.grows for run in runs) else ""


def number_of_stopped(runs: Iterable[RunResult]) -> int:
    """Runs that stood still so long that their clock says less than without it."""
    return sum(
        (run.summary.stopped_seconds or 0.0) >= DISTURBED * (run.summary.training_seconds + run.summary.evaluation_seconds) > 0 for run in runs
    )


def which_runs(number_of: Callable[[Iterable[RunResult]], int], runs: Sequence[RunResult], own: RunResult | None = None) -> str:
    """`2 of 3 runs and the recipe as it was`: those that are counted so; empty for none. Args: own: the run of the recipe as it was."""
    num = number_of(runs)
    named = [*([f"{num} of {counted(len(runs), 'run')}"] if num else []), *(["the recipe as it was"] if own and number_of([own]) else [])]
    return listed(named) if named else ""

"""Answers in sentences."""

import math
from collections.abc import Iterable, Sequence

from largebatch.jobs.engine.core_wait import DISTURBED
from largebatch.jobs.optim.registry import OPTIMIZERS
from largebatch.tuning.results.analysis.advice import Advice
from largebatch.tuning.results.analysis.configurations import Configuration
from largebatch.tuning.results.analysis.critical_batch import CriticalBatch
from largebatch.tuning.results.collect import RunResult

COARSE = 0.2
"""An evaluation interval above this share of a run's cost blurs the costs that are compared."""


def momentum_name(optimizers: Iterable[str]) -> str:
    """What the number that results call momentum is in these optimizers' own words."""
    names = {OPTIMIZERS[optimizer].momentum_option if optimizer in OPTIMIZERS else "momentum" for optimizer in optimizers}
    return " or ".join(sorted(names, reverse=True))


def sentences(advice: Sequence[Advice]) -> list[str]:
    """Each answer with its reason."""
    return [_sentence(one) for one in advice]


def _sentence(one: Advice) -> str:
    question = one.question[0].upper() + one.question[1:]
    if one.choice is None:
        return f"{question}: {one.reason}"
    choice = one.choice
    momentum = "" if choice.momentum is None else f" and {momentum_name([choice.optimizer])} {choice.momentum:g}"
    return (
        f"{question}: batch {choice.global_batch_size:,} with {choice.optimizer}, learning rate {choice.learning_rate:.4g}{momentum}, "
        f"{choice.seconds:,.3g} s and {choice.samples:,.0f} samples; {one.reason}"
    )


def disturbance_in_words(results: Sequence[RunResult]) -> str | None:
    """What must be said of runs whose clock other work on the machine disturbed; None where none was."""
    waits = [run.summary.core_wait_fraction or 0.0 for run in results]
    disturbed = [wait for wait in waits if wait >= DISTURBED]
    if not disturbed:
        return None
    return (
        f"Other work on the machine disturbed the clock of {len(disturbed)} of {len(results)} runs: they waited for a core up to"
        f" {max(disturbed):.0%} of the time, so their seconds are longer than on a free machine; steps and samples are not touched."
    )


def critical_batch_in_words(found: CriticalBatch, noise_scale: float | None, fitted: Sequence[Configuration], others: Sequence[int]) -> str:
    """The critical batch with its interval, and what the fit stands on.

    Args: fitted: the configurations that it was fitted to; others: batch sizes that missed, and are left out.
    """
    noise = [] if noise_scale is None else [f"The gradient noise scale that the runs measured is {noise_scale:,.0f}."]
    high = f"{found.high:,.0f}" if math.isfinite(found.high) else "beyond what was measured"
    said = [
        f"Critical batch size: {found.critical_batch_size:,.0f} samples (95 % interval {found.low:,.0f} ... {high}); far below it a doubled batch "
        "halves the steps, far above it buys nothing.",
        *noise,
        f"The fit stands on {found.num_points} runs at {len(fitted)} batch sizes.",
    ]
    num_missed = sum(one.samples.num_runs - one.samples.num_reached for one in fitted)
    if num_missed:
        said.append(f"{num_missed} runs of these that missed are left out, so it is too favourable there.")
    if others:
        said.append(f"Left out with all their runs, since half of them or more missed: batch {', '.join(f'{batch:,}' for batch in others)}.")
    return " ".join([*said, *_coarse([gap for one in fitted for run in one.runs if (gap := _gap(run, one.target)) is not None])])


def _coarse(gaps: Sequence[tuple[int, float]]) -> list[str]:
    """What must be said where evaluations are too far apart."""
    samples, share = max(gaps, key=lambda gap: gap[1])
    if share <= COARSE:
        return []
    return [f"Costs are read off evaluations up to {samples:,} samples apart, {share:.0%} of what that run took: evaluate more often for a finer "
            "answer."]  # fmt: skip


def _gap(run: RunResult, target: float) -> tuple[int, float] | None:
    """(samples between the evaluation that met the target and the one before; the same over the samples to it)."""
    before = 0
    for at in run.evaluations:
        if at.test_accuracy >= target:
            return at.samples - before, (at.samples - before) / at.samples
        before = at.samples
    return None

"""What a study adds to its sweep's report: how good the prediction was, the solutions, the textbook's table."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from largebatch.jobs.errors import InputError
from largebatch.jobs.tasks.metric import ACCURACY, in_places
from largebatch.tuning.measure.lines import line_chart, line_conditions
from largebatch.tuning.measure.sharpness import sharpness_rows, slope_in_words
from largebatch.tuning.report.batch_figures import BATCH
from largebatch.tuning.report.charts import Chart, Series
from largebatch.tuning.report.contents import Attempts, Extras
from largebatch.tuning.results.analysis.prediction import Predicted, compare, misses_in_words
from largebatch.tuning.results.analysis.reference import curve_through
from largebatch.tuning.results.analysis.scaling_model import BUCKETS_OVERLAP, Workload
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.card.larger_machines import NETWORK
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.phrases import number, seconds_in_words
from largebatch.tuning.study.solutions import Solutions


class Prediction(NamedTuple):
    """What was predicted before the sweep."""

    optimizer: str
    """The recipe's."""
    points: Sequence[Predicted] | None
    """None where that failed or was not asked, empty where it could not be said."""


def conclude(
    findings: Findings, profile: Profile, leading_profile: Profile, prediction: Prediction, solutions: Solutions, attempts: Attempts
) -> Extras:
    """All of it, as far as it can be made. Args: profile: of the recipe as it is; leading_profile: of the optimizer that is soonest, whose solutions
    are compared.
    """
    predicted, leading = prediction.points, findings.leading
    under = f", with {leading.runs[0].optimizer}" if findings.compares_optimizers else ""
    misses = compare(predicted or [], findings.measured_seconds(prediction.optimizer))
    words = [misses_in_words(misses)] if misses else []
    if predicted is not None and not predicted:
        words.append(f"Nothing was predicted before the sweep: {_why_unpredicted(findings)}")
    for sharp in solutions.sharp:
        words += slope_in_words(f"batch {sharp['global_batch_size']:,}", sharp["sharpness"])
    table = attempts.attempt("small batch against large batch", partial(small_against_large, leading, leading_profile, solutions.sharp))
    charts = attempts.attempt("the figures of the solutions", partial(solution_charts, solutions, f"{findings.setting}{under}"))
    tables = [(f"Small batch against large batch{under}", table)] if table else []
    predicted_with = prediction.optimizer if findings.compares_optimizers else ""
    return Extras(profile, predicted or [], misses, charts or [], tables, words, attempts, predicted_with)


def _why_unpredicted(findings: Findings) -> str:
    """What the recipe's own run lacks for a prediction, and what would help."""
    own = findings.run_as_it_was
    if own is None:
        return "the recipe's own run is not known."
    try:
        curve_through(own, findings.target)
    except InputError as error:
        return f"the recipe's own run{error.problem.removeprefix(own.summary.run_id)} {error.hint}"
    return "the recipe's own run says nothing of these."


def solution_charts(solutions: Solutions, setting: str) -> list[Chart]:
    """The score at the end against the batch, and the lines."""
    metric, part = (solutions.runs[0].headline.metric, solutions.runs[0].evaluated_on) if solutions.runs else (ACCURACY, "test")
    charts, runs = [], [run for run in solutions.runs if run.score is not None and run.train_score is not None]
    if len(runs) > 1:
        batches = [float(run.global_batch_size) for run in runs]
        train, evaluated = [run.train_score or 0.0 for run in runs], [run.score or 0.0 for run in runs]
        chart = Chart(
            "score-at-the-end", f"Train and {part} {metric.name} after {runs[0].epochs:g} epochs", BATCH, metric.name,
            [Series("train", batches, train), Series(part, batches, evaluated)],
            caption=f"{setting}; each batch's best settings with its first seed, trained on after the target was met", log_x=True, x_ticks=batches,
        )  # fmt: skip
        charts.append(chart)
    if solutions.sharp:
        small, large = (f"batch {sharp['global_batch_size']:,}" for sharp in solutions.sharp)
        caption = line_conditions(setting, [sharp["seed"] for sharp in solutions.sharp], solutions.sharp[0]["num_samples"], part)
        charts += [line_chart(name, points, small, large, caption, metric, part) for name, points in solutions.lines.items()]
    return charts


def small_against_large(findings: Findings, profile: Profile, sharpness: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The textbook's table, filled with what was measured. Rows of: what, at the smallest batch, at the largest; empty for fewer than two batches.

    Args: sharpness: of the two solutions, as a study writes it; may be empty.
    """
    if len(findings.best) < 2:
        return []
    ends = findings.best[0], findings.best[-1]
    small, large = (best.global_batch_size for best in ends)
    workers = max(large // small, 2)
    steps = [profile.seconds_per_step(batch) for batch in (small, large)]
    workload = Workload(profile.model, profile.gradient_bytes, NETWORK, BUCKETS_OVERLAP)
    shared = [workload.step(batch, min(workers, batch)).seconds for batch in (small, large)]
    noise = [None if best.noise_scale is None else best.noise_scale / best.global_batch_size for best in ends]
    rows = [
        ("time per update, one device", *(seconds_in_words(seconds) for seconds in steps)),
        (f"time per update, {workers} devices at 10 Gbit/s (model)", *(seconds_in_words(seconds) for seconds in shared)),
        ("time per epoch, one device", *(seconds_in_words(s * profile.num_train_samples / b) for s, b in zip(steps, (small, large), strict=True))),
        ("gradient noise over signal: noise scale / batch", *(number(ratio, ".3g") for ratio in noise)),
        ("optimisation: steps to the target", *(best.steps.text for best in ends)),
        (f"optimisation: {findings.unit.name} to the target", *(best.samples.times(findings.unit.per_sample).text for best in ends)),
    ]
    if len(sharpness) == 2:
        after, name, part = f"after {sharpness[0]['epochs']:g} epochs", findings.metric.name, findings.setting.evaluated_on
        tested = [_score(solution.get("test_score")) for solution in sharpness] if part != "test" else []
        rows += [
            (f"optimisation: train {name} {after}", *(_score(solution["train_score"]) for solution in sharpness)),
            (f"generalisation: {part} {name} {after}", *(_score(solution["score"]) for solution in sharpness)),
            *([(f"generalisation: test {name} {after}", *tested)] if tested else []),
            *((f"sharpness, {what}", *(f"{value:.3g}" for value in values)) for what, values in sharpness_rows(sharpness)),
            ("top Hessian eigenvalue", *(number(solution["top_eigenvalue"], ".3g") for solution in sharpness)),
        ]
    return [{"": what, f"batch {small:,}": of_small, f"batch {large:,}": of_large} for what, of_small, of_large in rows]


def _score(score: float | None) -> str:
    return "-" if score is None else in_places(score)

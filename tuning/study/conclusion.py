"""What a study adds to its sweep's report: how good the prediction was, the solutions, the textbook's table."""

from collections.abc import Sequence
from functools import partial

from largebatch.tuning.measure.sharpness import slope_in_words
from largebatch.tuning.report.attempts import Attempts
from largebatch.tuning.report.batch_figures import BATCH
from largebatch.tuning.report.charts import Chart, Series
from largebatch.tuning.report.contents import Extras
from largebatch.tuning.report.measured_figures import line_chart, line_conditions
from largebatch.tuning.results.analysis.prediction import Predicted, compare, misses_in_words
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.study.small_and_large import small_against_large
from largebatch.tuning.study.solutions import Solutions


def conclude(findings: Findings, profile: Profile, predicted: Sequence[Predicted] | None, solutions: Solutions, attempts: Attempts) -> Extras:
    """All of it, as far as it can be made. Args: predicted: before the sweep; None where that failed, empty where it could not be said."""
    misses = compare(predicted or [], {best.global_batch_size: best.seconds.median for best in findings.reached if best.seconds.median is not None})
    words = [misses_in_words(misses)] if misses else []
    if predicted is not None and not predicted:
        words.append("Nothing was predicted before the sweep: the recipe's own run did not reach the target, or measured no noise scale.")
    for sharp in solutions.sharp:
        words += slope_in_words(f"batch {sharp['global_batch_size']:,}", sharp["sharpness"])
    table = attempts.attempt("small batch against large batch", partial(small_against_large, findings, profile, solutions.sharp))
    charts = attempts.attempt("the figures of the solutions", partial(solution_charts, solutions, str(findings.setting)))
    tables = [("Small batch against large batch", table)] if table else []
    return Extras(profile, predicted or [], misses, charts or [], tables, words, attempts)


def solution_charts(solutions: Solutions, setting: str) -> list[Chart]:
    """Accuracy at the end against the batch, and the lines."""
    charts, runs = [], [run for run in solutions.runs if run.test_accuracy is not None and run.train_accuracy is not None]
    if len(runs) > 1:
        batches = [float(run.global_batch_size) for run in runs]
        train, test = [run.train_accuracy or 0.0 for run in runs], [run.test_accuracy or 0.0 for run in runs]
        chart = Chart(
            "accuracy-at-the-end", f"Train and test accuracy after {runs[0].epochs:g} epochs", BATCH, "accuracy",
            [Series("train", batches, train), Series("test", batches, test)],
            caption=f"{setting}; each batch's best settings with its first seed, trained on after the target was met", log_x=True, x_ticks=batches,
        )  # fmt: skip
        charts.append(chart)
    if solutions.sharp:
        small, large = (f"batch {sharp['global_batch_size']:,}" for sharp in solutions.sharp)
        caption = line_conditions(setting, [sharp["seed"] for sharp in solutions.sharp], solutions.sharp[0]["num_samples"])
        charts += [line_chart(name, points, small, large, caption) for name, points in solutions.lines.items()]
    return charts

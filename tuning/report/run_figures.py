"""Runs beside each other: score against training time, and what must be said of runs that are not alike."""

import math
from collections.abc import Sequence
from pathlib import Path

from largebatch.jobs.run import run_folder
from largebatch.tuning.files import told_apart
from largebatch.tuning.report.charts import Chart, Series
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.run_result import RunResult, differences_in_words, evaluated_on, settings_of

SECONDS = "training seconds"
MOST_CURVES = 12
"""Runs that have a line of their own in a legend."""


def score_curves(results: Sequence[RunResult]) -> Chart:
    """Evaluated score against training seconds, one curve per run; of more than a legend holds, one broken line per batch and optimizer."""
    devices = ", ".join(dict.fromkeys(result.device for result in results))
    targets = dict.fromkeys(result.summary.target for result in results if result.summary.target is not None)
    groups: dict[tuple[str, int], list[RunResult]] = {}
    for result in results:
        groups.setdefault((result.optimizer, result.summary.global_batch_size), []).append(result)
    is_several = len({optimizer for optimizer, _ in groups}) > 1
    curves = [_curve(name, [result]) for name, result in zip(_labels(results), results, strict=True)]
    if len(results) > MOST_CURVES:
        curves = [
            _curve(f"{f'{optimizer}, ' if is_several else ''}batch {batch:,}, {len(members)} runs", members)
            for (optimizer, batch), members in sorted(groups.items())
        ]
    name = " or ".join(dict.fromkeys(result.metric.name for result in results))
    return Chart(
        "score-curves", f"{name.capitalize()} against training time, {devices}", SECONDS, f"{evaluated_on(results)} {name}", curves,
        caption="; ".join(filter(None, [conditions(results), on_unlike_footing(results)])),
        levels=[(target, f"target {target:g}") for target in targets],
    )  # fmt: skip


def _curve(name: str, runs: Sequence[RunResult]) -> Series:
    """The curves of runs as one line, broken between them."""
    breaks = [(math.nan, math.nan)] if len(runs) > 1 else []
    points = [point for run in runs for point in (*run.curve, *breaks)]
    return Series(name, [seconds for seconds, _ in points], [score for _, score in points])


def judged_by(result: RunResult) -> str:
    """The metric of a run's scores, with the task that it is of."""
    return f"{result.metric.name} of {result.task}" if result.task else result.metric.name


def on_unlike_footing(results: Sequence[RunResult]) -> str:
    """What must be said of runs that differ in data, model, device, workers or other fields than those compared; empty where they do not."""
    settings = settings_of(results)
    if len(settings) < 2:
        differing = differences_in_words(results)
        return f"on one footing but for {differing}" if differing else ""
    counts = "; ".join(f"{setting} ({len(members)})" for setting, members in settings.items())
    return f"not on one footing, so not to be ranked: {counts}"


def beside_each_other(results: Sequence[RunResult]) -> list[str]:
    """What must be said of runs that stand beside each other, in sentences."""
    unlike, targets = on_unlike_footing(results), {result.summary.target for result in results}
    said = [f"These runs are {unlike}."] if unlike else []
    return said if len(targets) < 2 else [*said, "Their seconds to target are each to its own target, and not to be ranked."]


def label(result: RunResult) -> str:
    """A run in the legend."""
    return f"{result.name}: batch {result.summary.global_batch_size:,}, {result.optimizer}, seed {result.seed}"


def _labels(results: Sequence[RunResult]) -> list[str]:
    """Each run in the legend; those that would be called alike with the ends of their folders' names."""
    names, ends = list(map(label, results)), told_apart([result.summary.run_id for result in results])
    return [f"{name} ({end})" if names.count(name) > 1 else name for name, end in zip(names, ends, strict=True)]


def conditions(runs: Sequence[RunResult]) -> str:
    """The caption of a figure of runs: seeds, device and clock."""
    seeds = sorted({run.seed for run in runs})
    devices = ", ".join(dict.fromkeys(run.device for run in runs))
    return f"seeds {', '.join(map(str, seeds))}; {devices}; training clock: evaluation, checkpoints and kernel warm-up not counted"


def draw_run(run_dir: Path) -> None:
    """Draw one run's own figure into its folder."""
    from largebatch.tuning.report.picture_pen import write_png  # after training, whose start does not wait for matplotlib

    write_png(score_curves(collect([run_dir])), run_dir / run_folder.FIGURE)

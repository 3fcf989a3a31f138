"""What was measured beside runs: the profile of a step, and the lines between two solutions."""

from collections.abc import Sequence

import numpy as np

from largebatch.tuning.report.batch_figures import BATCH
from largebatch.tuning.report.charts import Chart, Series
from largebatch.tuning.results.analysis.line_point import LinePoint
from largebatch.tuning.results.analysis.step_time import Profile


def profile_charts(profile: Profile) -> list[Chart]:
    """The textbook's pair: the time of one update, and of one epoch, against the batch."""
    batches = [point.global_batch_size for point in profile.points]
    update = [Series("measured", batches, [point.seconds_per_step for point in profile.points])]
    epoch = [Series("measured", batches, [point.seconds_per_epoch for point in profile.points])]
    marks = []
    if profile.has_model:
        model, grid = profile.model, list(np.geomspace(batches[0], batches[-1], 80))
        update.append(Series("overhead + batch / rate", grid, [model.seconds_per_step(batch) for batch in grid], draws="line", dash=True))
        marks = [(model.flat_until, "the flat part ends")] if batches[0] <= model.flat_until <= batches[-1] else []
    seed = "seed not kept" if profile.seed is None else f"seed {profile.seed}"
    caption = f"{profile.recipe}, {seed}; {profile.device}; training clock, the median of a few steps at each batch"
    return [
        Chart(name, title, BATCH, "seconds", series, caption=caption, log_x=True, log_y=True, marks=marks, x_ticks=batches)
        for name, title, series in (("time-of-update", "Time of one update", update), ("time-of-epoch", "Time of one epoch", epoch))
    ]


def line_chart(name: str, points: Sequence[LinePoint], small: str, large: str, caption: str) -> Chart:
    """Loss and accuracy on the way from one solution to the other."""
    at = [point.at for point in points]
    return Chart(
        f"line-{name}", f"Along the {name} line between two solutions", f"0: {small}; 1: {large}", "loss, and error (1 - accuracy)",
        [Series("train loss", at, [point.train_loss for point in points]), Series("test loss", at, [point.test_loss for point in points]),
         Series("train error", at, [1 - point.train_accuracy for point in points], dash=True, colour=0),
         Series("test error", at, [1 - point.test_accuracy for point in points], dash=True, colour=1)],
        caption=caption, marks=[(0.0, small), (1.0, large)],
    )  # fmt: skip


def line_conditions(setting: str, seeds: Sequence[int], num_samples: int) -> str:
    """The caption of `line_chart`: what was trained where, and what is measured.

    Args: setting: model, data set and device in words; seeds: of the two solutions; num_samples: training images that were looked at.
    """
    return (
        f"{setting}; seeds {' and '.join(map(str, seeds))}; the first {num_samples:,} training images and the whole test set, batch-norm "
        "statistics taken anew at each place; no clock, for nothing is timed"
    )

"""What one run says of all batch sizes: the samples to a target, by its own crossing and the noise on its way there.

McCandlish et al. (arXiv:1812.06162): a step at batch B makes 1 / (1 + B_noise / B) of the progress that the noiseless
gradient would. Where the noise changes on the way, a run at B_0 has made p = 1 / (1 + B_noise / B_0) in each of its
steps; the same way at batch B takes p (1 + B_noise / B) steps for each of them, or B p (1 + B_noise / B) samples. Summed over
the run, E(B) = sum p (B + B_noise), so the batch at which both parts are equal is

    B_crit = sum p B_noise / sum p = sum (tr(Sigma) / m) / sum (|G|^2 / m),    m = |G|^2 + tr(Sigma) / B_0,

where m is what the gradient's squared norm is on average. So every part of the way counts by the progress made in it; the
plain ratio of means counts it by its squared norm, and what the first few steps' large gradients say drowns the rest.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from largebatch.jobs.errors import InputError
from largebatch.tuning.results.analysis.crossing import Crossing, crossing
from largebatch.tuning.results.run_result import NoiseEstimate, RunResult

WINDOW = 8
"""Estimates whose means are taken before they are divided: the estimates of one step scatter too much for that."""


class Curve(NamedTuple):
    """Samples to one target against batch size."""

    met: Crossing
    reference_batch: int
    """B_0, samples per step of the run that met it."""
    critical_batch: float
    """B_crit, in samples."""

    def samples(self, batch: int) -> float:
        """What a run at `batch` is expected to have taken at the first evaluation that meets the target.

        Evaluations see it half an interval late on average, and an interval is never shorter than a step.
        """
        return self.crossed(batch) + max(self.met.interval, batch) / 2

    def crossed(self, batch: int) -> float:
        """Where it is expected to cross the target."""
        return self.met.samples * (1 + batch / self.critical_batch) / (1 + self.reference_batch / self.critical_batch)


def curve_through(run: RunResult, target: float) -> Curve:
    """The samples to `target` at every batch size, by one run; its summary's noise scale is used where it kept no estimates.

    Raises: InputError for a run that did not reach it, measured no noise, or has a batch that grows.
    """
    met, summary = crossing(run, target), run.summary
    if met is None:
        best = "none" if summary.best_score is None else run.metric.format(summary.best_score)
        raise InputError("run", f"{summary.run_id} did not reach {target:g}; its best is {best}.", "Give an easier --target, or train longer.")
    if run.grows:
        problem = f"{summary.run_id} has a batch that grows, so its samples and its noise are of no one batch, and predict nothing of others."
        raise InputError("run", problem, "Give a run whose batch stays.")
    if not met.at.samples:
        raise InputError("run", f"{summary.run_id} met {target:g} before its first step.", "Give a harder --target.")
    way = [estimate for estimate in run.noise_estimates if estimate.step <= met.at.step]
    critical = weighted_by_progress(way, summary.global_batch_size) or summary.gradient_noise_scale
    if critical is None or critical <= 0:
        hint = "Set gradient.noise_every_steps and gradient.noise_from=all, or use a larger batch."
        if run.values_of(["task.name"]).get("task.name") == "contrastive":
            hint = "Its loss looks at all samples of a batch together, and has none."
        raise InputError("run", f"{summary.run_id} has no gradient noise scale.", hint)
    return Curve(met, summary.global_batch_size, critical)


def weighted_by_progress(estimates: Sequence[NoiseEstimate], batch: int) -> float | None:
    """B_crit of the equation above, in samples; None where the estimates give no positive number.

    Args: batch: B_0, samples per step of the run that measured.
    """
    noise = progress = 0.0
    count = max(len(estimates) // WINDOW, 1)
    ends = [len(estimates) * number // count for number in range(count + 1)]
    for begin, end in pairwise(ends):
        trace = sum(estimate.covariance_trace for estimate in estimates[begin:end])
        norm_squared = sum(estimate.gradient_norm_squared for estimate in estimates[begin:end])
        measured = norm_squared + trace / batch
        if measured > 0:
            noise += (end - begin) * trace / measured
            progress += (end - begin) * norm_squared / measured
    return noise / progress if noise > 0 and progress > 0 else None

"""The learning rate: from the one tuned at one batch to the one for another, and as a pure function of progress in samples.

| rule     | peak rate              | warm-up                  | source                               |
|----------|------------------------|--------------------------|--------------------------------------|
| none     | base                   | as given                 |                                      |
| linear   | base * B / B0          | as given                 | Goyal et al., arXiv:1706.02677       |
| sqrt     | base * sqrt(B / B0)    | as given                 | Krizhevsky, arXiv:1404.5997          |
| legw     | base * sqrt(B / B0)    | epochs times B / B0      | You et al., arXiv:1901.08256         |
| adascale | base * gain, each step | as given, at batch B0    | Johnson et al., arXiv:2007.05105     |

B is the global batch size, B0 the one at which `base` was tuned.

Progress counts samples, not steps, so that a schedule means the same under any batch and any batch
schedule. A step's rate is read at the middle of its own samples: for the straight pieces of a schedule the
sum of rate times samples over the steps is then exactly the area under the curve, however large the steps.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from largebatch.jobs.spec.schedules import RestartSpec
from largebatch.jobs.spec.train_spec import LearningRateSpec

FOLLOWS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""The power of the batch that the rate of a batch schedule follows, by the names of `batch.schedule.rate_follows`."""


class ScaledRate(NamedTuple):
    """What a rule makes of a base rate."""

    peak: float
    """Highest learning rate (for adascale: before the gain)."""
    warmup_epochs: float
    """Epochs of rising rate."""
    reason: str
    """The rule in words, with its numbers."""


def scale(spec: LearningRateSpec, global_batch_size: int, base_global_batch_size: int) -> ScaledRate:
    """The peak rate and warm-up for `global_batch_size` samples per step, from those at `base_global_batch_size`."""
    base, warmup = spec.base, spec.warmup_epochs
    if spec.scaling == "none":
        base_field = "base_global_batch_size" if spec.base_global_batch_tokens is None else "base_global_batch_tokens"
        unread = f", so {base_field} is not read" if spec.has_base else ""
        return ScaledRate(base, warmup, f"as given, no scaling with the batch{unread}")
    ratio = global_batch_size / base_global_batch_size
    shown = f"batch {global_batch_size} / {base_global_batch_size} = {ratio:g}"
    if spec.scaling == "linear":
        return ScaledRate(base * ratio, warmup, f"linear: {base:g} times {shown}")
    if spec.scaling == "sqrt":
        return ScaledRate(base * math.sqrt(ratio), warmup, f"square root: {base:g} times the root of {shown}")
    if spec.scaling == "legw":
        # Shrinking the batch below its base would shorten the warm-up; the paper scales both ways, so do we.
        return ScaledRate(base * math.sqrt(ratio), warmup * ratio, f"LEGW: {base:g} times the root of {shown}, warm-up times {ratio:g}")
    return ScaledRate(base, warmup, f"AdaScale: {base:g} times a measured gain between 1 and {ratio:g}")


class RatePhase(NamedTuple):
    """The rate between two beginnings: one phase of the whole run, or one of two where it begins again."""

    spec: LearningRateSpec
    scaled: ScaledRate
    start: float
    """Samples before it."""
    stop: float
    """Samples at which its decay ends."""
    warmup: float
    """Samples of rising rate."""
    milestones: Sequence[float]
    """Of the decay, in samples."""

    @property
    def highest(self) -> float:
        """The highest rate of the phase: the peak, but where fractions of it begin lower (a slow start)."""
        places = [self.warmup, *(place for place in self.milestones if self.warmup < place < self.stop)]
        fractions = [_step_fraction(self.spec, place, self.milestones) for place in places] if self.spec.decay_fractions else [1.0]
        return self.scaled.peak * max(fractions)

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` samples of the run."""
        total, warmup = self.stop - self.start, self.warmup
        return self.scaled.peak * learning_rate_fraction(self.spec, progress - self.start, total=total, warmup=warmup, milestones=self.milestones)


def of_second_phase(spec: LearningRateSpec, restart: RestartSpec) -> LearningRateSpec:
    """The spec of what follows a restart, as if it were a run of its own."""
    final_fraction = spec.final_fraction if restart.final_fraction is None else restart.final_fraction
    second = {"base": restart.base, "warmup_epochs": restart.warmup_epochs, "final_fraction": final_fraction, "restart": None}
    return spec.model_copy(update=second)


def adascale_gain(variance: float, squared_norm: float, scale_ratio: float) -> float:
    """AdaScale's gain, between 1 and `scale_ratio` (below 1 for a batch smaller than the base).

        r = (sigma^2 + mu^2) / (sigma^2 / S + mu^2)      (arXiv:2007.05105, equation 3)

    Args:
        variance: sigma^2 >= 0, trace of the covariance of a gradient at the base batch.
        squared_norm: mu^2 >= 0, squared norm of the true gradient.
        scale_ratio: S > 0, batch over base batch.
    """
    low, high = min(1.0, scale_ratio), max(1.0, scale_ratio)
    denominator = variance / scale_ratio + squared_norm
    if denominator <= 0:
        return low
    return min(max((variance + squared_norm) / denominator, low), high)


def learning_rate_fraction(spec: LearningRateSpec, progress: float, *, total: float, warmup: float, milestones: Sequence[float]) -> float:
    """The learning rate at `progress`, as a fraction of its peak.

    Args:
        progress: samples, the middle of the step.
        total: samples at which the decay ends.
        warmup: samples of linear rise from 0 to 1.
        milestones: samples at which a decay by steps falls.
    """
    if progress < warmup:
        return progress / warmup * (_step_fraction(spec, warmup, milestones) if spec.decay_fractions else 1.0)
    if spec.decay == "step":
        return _step_fraction(spec, progress, milestones)
    if spec.decay == "constant" or total <= warmup:
        return 1.0
    done = min((progress - warmup) / (total - warmup), 1.0)
    if spec.decay == "cosine":
        falling = 0.5 * (1.0 + math.cos(math.pi * done))
    else:
        falling = (1.0 - done) ** spec.decay_power
    return spec.final_fraction + (1.0 - spec.final_fraction) * falling


def _step_fraction(spec: LearningRateSpec, progress: float, milestones: Sequence[float]) -> float:
    """What the milestones that lie behind have made of the peak."""
    passed = sum(milestone <= progress for milestone in milestones)
    if not spec.decay_fractions:
        return spec.decay_factor**passed
    return spec.decay_fractions[passed - 1] if passed else 1.0

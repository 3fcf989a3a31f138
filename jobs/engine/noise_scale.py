"""The gradient noise scale, from the squared norms that accumulation gives for free.

A step's batch of B samples weighs W and comes as k pieces that weigh W_j > 0; g_j is the mean gradient of a piece (a sum over
its samples over W_j), and

    G_B = sum_j (W_j / W) g_j,    A = sum_j (W_j / W) |g_j|^2,    A - |G_B|^2 = sum_j (W_j / W) |g_j - G_B|^2
    tr(Sigma) ~ (A - |G_B|^2) B / (k - 1),    |G|^2 ~ |G_B|^2 - tr(Sigma) / B

tr(Sigma) / B is the variance of G_B, so tr(Sigma) is per sample of the mean weight W / B: per sequence where tokens are what weighs;
times W / B it is per token. With independent samples, v_i the variance of sample i's gradient about w_i G, v_j of a piece, v of the batch:

    E[(A - |G_B|^2) B / (k - 1)] = (B v / W^2) (1 + bias),    bias = (sum_j (v_j / v) / (W_j / W) - 1) / (k - 1) - 1

The bias is 0, whatever the sizes of the pieces, where a sample's variance is in proportion to its weight: where all weigh the same (for two
equal micro-batches this is appendix A.1 of McCandlish et al., arXiv:1812.06162), and where tokens' noise is independent. It is 0 for
any noise where pieces weigh the same. Else, as where all tokens of a sequence err together (v_i ~ w_i^2), it is below 0 and falls
with the samples of a piece (docs/decisions/036). Where the mean gradient per unit of weight depends on the weight, as with class
weights, all of this holds to first order in 1 / (samples of a piece), as for any ratio of sums.

Only means over many steps are divided: B_simple = mean tr(Sigma) / mean |G|^2. A mean of ratios is biased.

In another norm |.|_*, the dual of the one that bounds an optimizer's steps (`optim/dual_norm.py`), the dual noise scale is

    B_* = B E|G_B - G|_*^2 / |G|_*^2

for l2 B_simple. A step of |step| <= 1 gains |G|_* at most, and noise costs it 2 |G_B - G|_* at most: at B_* the two are of one size. Our definition
follows the abstract of Naganuma et al. (arXiv:2602.03001); their own equations we could not read. By the difference D of the batch's halves
(`gradient/dual_noise.py`), with which for two pieces and l2 this is what stands above:

    B E|G_B - G|_*^2 ~ B |D|_*^2,    |G|_*^2 ~ |G_B|_*^2 - |D|_*^2

D has the distribution of G_B - G where the halves weigh the same and their noise is symmetric; else its covariance, under the conditions above.
So the first is unbiased in any norm, as far as sums over half a batch are normal. The second is unbiased for l2 alone: in any norm its error is
at most 2 |G|_* E|G_B - G|_*, and relative to |G|_*^2 it goes to 0 as B grows beyond B_*. Where noise is much larger than the gradient, the norm of
their sum is a quadratic form of the gradient: for l1 and normal noise of deviations s_i / sqrt(B) in many coordinates, the second tends to
(2 / pi) (sum s_i) (sum G_i^2 / s_i), which is 2 / pi of |G|_1^2 where |G_i| is in proportion to s_i, and never less. So B_* comes out too high
by at most pi / 2 for a gradient that is spread as its noise is, and too low for one that is sparser (l1) or of lower rank (nuclear) than its
noise, the more the smaller B is: docs/decisions/047 has how much.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple


def estimate(mean_squared_norm: float, squared_norm: float, batch_size: int, num_micro_batches: int) -> tuple[float, float]:
    """One step's estimates (tr(Sigma), |G|^2), unbiased but for what stands above; the second can be negative.

    Args:
        mean_squared_norm: A, squared norms of the pieces' mean gradients, weighted by what they weigh.
        squared_norm: |G_B|^2, of the whole batch's mean gradient.
        batch_size: B, in samples; those that weigh nothing are counted.
        num_micro_batches: k >= 2; pieces that weigh nothing are not counted.
    """
    covariance_trace = (mean_squared_norm - squared_norm) * batch_size / (num_micro_batches - 1)
    return covariance_trace, squared_norm - covariance_trace / batch_size


def estimate_in_dual_norm(norm: float, difference_norm: float, batch_size: int) -> tuple[float, float]:
    """One step's estimates (B E|G_B - G|_*^2, |G|_*^2); what bias they have stands above, and the second can be negative.

    Args: norm: |G_B|_*; difference_norm: |D|_*; batch_size: B, in samples.
    """
    variance = difference_norm**2
    return variance * batch_size, norm**2 - variance


class SampleSums(NamedTuple):
    """What a step's samples' own gradients add up to: sample i has the share a_i of the weight and adds s_i to the mean gradient S = sum_i s_i."""

    spread: float
    """sum_i c_i |s_i - a_i S|^2 with c_i = 1 / (1 - 2 a_i)."""
    shares: float
    """sum_i c_i a_i^2."""
    squared_norm: float
    """|S|^2."""


def estimate_by_samples(sums: SampleSums, batch_size: int) -> tuple[float, float] | None:
    """One step's estimates (tr(Sigma), |G|^2) of some parameters, from the samples' own gradients.

    E|s_i - a_i S|^2 = v_i (1 - 2 a_i) + a_i^2 sum v, so spread / (1 + shares) is S's variance, unbiased whatever the samples'
    own; for equal shares it is (mean |g_i|^2 - |G_B|^2) / (B - 1).

    Args: batch_size: B, in samples.
    Returns: None for a batch in which one sample has half of the weight or more: too little is left to compare it with.
    """
    variance = sums.spread / (1 + sums.shares)
    return (variance * batch_size, sums.squared_norm - variance) if math.isfinite(variance) else None


@dataclass
class NoiseSums:
    """Raw sums over steps; the ratio is formed when it is asked for."""

    covariance_trace: float = 0.0
    gradient_norm_squared: float = 0.0
    num_steps: int = 0

    def add(self, covariance_trace: float, gradient_norm_squared: float) -> None:
        """Count one step's estimates."""
        self.covariance_trace += covariance_trace
        self.gradient_norm_squared += gradient_norm_squared
        self.num_steps += 1

    @property
    def noise_scale(self) -> float | None:
        """Mean trace over mean squared norm, in samples of the mean weight (sequences, where tokens weigh); None while it is no positive number."""
        if self.covariance_trace <= 0 or self.gradient_norm_squared <= 0:
            return None
        return self.covariance_trace / self.gradient_norm_squared


@dataclass
class GainAverages:
    """Moving averages behind AdaScale's gain (arXiv:2007.05105, section 3.3), with weight theta = max(1 - S / 1000, 0)."""

    variance: float = 0.0
    squared_norm: float = 0.0
    num_steps: int = 0

    def add(self, variance: float, squared_norm: float, scale_ratio: float) -> None:
        """Count one step: sigma^2 at the base batch, and |G|^2; noisy estimates below 0 count as 0."""
        self.num_steps += 1
        # Early on a plain average: a moving one would stick to the first, noisy step.
        theta = min(max(1.0 - scale_ratio / 1000.0, 0.0), 1.0 - 1.0 / self.num_steps)
        self.variance = theta * self.variance + (1 - theta) * max(variance, 0.0)
        self.squared_norm = theta * self.squared_norm + (1 - theta) * max(squared_norm, 0.0)

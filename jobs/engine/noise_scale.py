"""The gradient noise scale, from the squared norms that accumulation gives for free.

A step's batch of B samples comes as k micro-batches of b_i samples with mean gradients g_i, and

    G_B = sum_i (b_i / B) g_i,    A = sum_i (b_i / B) |g_i|^2

With independent samples E|g_i|^2 = |G|^2 + tr(Sigma) / b_i, hence E A = |G|^2 + k tr(Sigma) / B and
E|G_B|^2 = |G|^2 + tr(Sigma) / B, also for uneven micro-batches. So

    tr(Sigma) ~ (A - |G_B|^2) B / (k - 1),    |G|^2 ~ |G_B|^2 - tr(Sigma) / B

are unbiased (for two equal micro-batches they are appendix A.1 of McCandlish et al., arXiv:1812.06162). Only their
means over many steps are divided: B_simple = mean tr(Sigma) / mean |G|^2. A mean of ratios is biased.
"""

from dataclasses import dataclass


def estimate(mean_squared_norm: float, squared_norm: float, batch_size: int, num_micro_batches: int) -> tuple[float, float]:
    """One step's unbiased estimates (tr(Sigma), |G|^2); the second can be negative.

    Args:
        mean_squared_norm: A, squared norms of the micro-batches' mean gradients, weighted by their samples.
        squared_norm: |G_B|^2, of the whole batch's mean gradient.
        num_micro_batches: k >= 2.
    """
    covariance_trace = (mean_squared_norm - squared_norm) * batch_size / (num_micro_batches - 1)
    return covariance_trace, squared_norm - covariance_trace / batch_size


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
        """Mean trace over mean squared norm, in samples; None while that is not a positive number."""
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

"""Time to accuracy and cost on N workers, from one machine's profile, a link, and the critical-batch curve.

    seconds(B, N) = E(B) / B * step(B, N)
    step(B, N)    = overhead + (B / N) / rate + exposed all-reduce
    all-reduce    = 2 (N - 1) / N * bytes / bandwidth + 2 log2(N) * latency

The all-reduce's bytes are those of a ring, its rounds those of a tree (Thakur et al., 2005; large messages, small
ones). It runs beside the last backward pass, two thirds of a step's arithmetic, but the last of the four buckets
that a gradient travels in has nothing left to hide behind.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from largebatch.tuning.results.analysis.step_time import StepTimeModel
from largebatch.tuning.results.answers import CriticalBatch

BACKWARD_SHARE = 2 / 3
NUM_BUCKETS = 4


class Link(NamedTuple):
    """What joins the workers."""

    bytes_per_s: float
    latency_s: float


class Scaled(NamedTuple):
    """One number of workers, at its best batch."""

    num_workers: int
    global_batch_size: int
    seconds: float
    steps: float
    samples: float
    worker_seconds: float
    """The cost: seconds times workers."""
    speedup: float
    """Over one worker at its own best batch."""
    efficiency: float
    """Speed-up over workers."""


def all_reduce_seconds(num_workers: int, num_bytes: float, link: Link) -> float:
    """Of one gradient, with nothing beside it."""
    if num_workers == 1:
        return 0.0
    return 2 * (num_workers - 1) / num_workers * num_bytes / link.bytes_per_s + 2 * math.log2(num_workers) * link.latency_s


def step_seconds(batch: float, num_workers: int, model: StepTimeModel, gradient_bytes: float, link: Link) -> float:
    """Of one optimizer step."""
    arithmetic = batch / num_workers / model.samples_per_second
    travel = all_reduce_seconds(num_workers, gradient_bytes, link)
    exposed = max(travel - BACKWARD_SHARE * arithmetic, travel / NUM_BUCKETS)
    return model.overhead_s + arithmetic + exposed


def scale_out(
    workers: Sequence[int],
    batches: Sequence[int],
    model: StepTimeModel,
    critical: CriticalBatch,
    gradient_bytes: float,
    link: Link,
    *,
    largest_share: int | None = None,
) -> list[Scaled]:
    """The best batch for each number of workers, among those given.

    Args: largest_share: samples that one worker can take in a step; None: any number, accumulated if need be.
    """
    scaled: list[Scaled] = []
    alone: float | None = None
    for num_workers in sorted({1, *workers}):
        fitting = [b for b in batches if b >= num_workers and (largest_share is None or b <= num_workers * largest_share)]
        if not fitting:
            continue
        timed = [(critical.steps_to_target(b) * step_seconds(b, num_workers, model, gradient_bytes, link), b) for b in fitting]
        seconds, batch = min(timed)
        alone = seconds if alone is None else alone
        steps, samples = critical.steps_to_target(batch), critical.samples_to_target(batch)
        speedup = alone / seconds
        scaled.append(Scaled(num_workers, batch, seconds, steps, samples, seconds * num_workers, speedup, speedup / num_workers))
    return [best for best in scaled if best.num_workers in set(workers)]

"""Time to accuracy and cost on N workers, from one machine's profile, a cluster, and the critical-batch curve.

    seconds(B, N) = E(B) / B * step(B, N) + evaluation + start-up
    step(B, N)    = passes * overhead + share / rate + exposed all-reduce
    share         = ceil(B / N)
    passes        = ceil(share / largest share)
    exposed       = max(all-reduce - 2/3 share / rate / passes, (1 - overlap) * all-reduce)

Where a batch does not divide by the workers, all wait for those that have a sample more. The backward pass is two thirds of a pass's arithmetic, and
so much of an all-reduce can run beside the last one, but no more than the share `overlap` of the all-reduce. That share is an assumption, not a
measurement: 0 hides nothing; an implementation that reduces in four buckets as their gradients come, like this one's, can hide three of them. A share
that does not fit into a worker's memory is taken in several passes; that each of them costs what a whole step does beside its arithmetic is an upper
bound, for the update comes once.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from largebatch.jobs.errors import InputError
from largebatch.tuning.results.analysis.beside import Beside
from largebatch.tuning.results.analysis.cluster import Cluster
from largebatch.tuning.results.analysis.step_time import Profile, StepTimeModel
from largebatch.tuning.results.answers import CriticalBatch

BACKWARD_SHARE = 2 / 3
BUCKETS_OVERLAP = 3 / 4
"""Of four buckets that a gradient travels in, the last has nothing left to hide behind."""


def share_of(batch: float, num_workers: int) -> int:
    """Samples of the worker that has most of a step."""
    return math.ceil(batch / num_workers)


class Workload(NamedTuple):
    """What a step costs one worker, and what joins the workers."""

    model: StepTimeModel
    gradient_bytes: float
    cluster: Cluster
    overlap: float = 0.0
    """The share of an all-reduce that may run beside the backward pass."""
    beside: Beside = Beside()
    largest_share: int | None = None
    """Samples that fit into one worker in a step; None: any number."""

    def passes(self, batch: float, num_workers: int) -> int:
        """How many micro-batches a worker's share is taken in."""
        return 1 if self.largest_share is None else math.ceil(share_of(batch, num_workers) / self.largest_share)

    def step(self, batch: float, num_workers: int) -> "StepParts":
        """One optimizer step."""
        arithmetic, passes = share_of(batch, num_workers) / self.model.samples_per_second, self.passes(batch, num_workers)
        travel = self.cluster.all_reduce(num_workers, self.gradient_bytes)
        exposed = max(travel.seconds - BACKWARD_SHARE * arithmetic / passes, (1 - self.overlap) * travel.seconds)
        inside_s, between_s = (exposed * part / travel.seconds if part else 0.0 for part in travel)
        return StepParts(passes * self.model.overhead_s + arithmetic, inside_s, between_s)


class StepParts(NamedTuple):
    """Where a step's seconds go; of the links what does not hide behind the backward pass."""

    compute_s: float
    link_inside_s: float
    link_between_s: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute_s + self.link_inside_s + self.link_between_s


class Measured(NamedTuple):
    """What was measured, from the smallest to the largest; None where nothing is known of it."""

    batches: tuple[float, float] | None = None
    """Batches whose samples to the target the runs say."""
    shares: tuple[float, float] | None = None
    """Samples that one worker takes at once, whose time the profile says."""

    def beyond(self, batch: float, at_once: float) -> list[str]:
        """Which of the two a prediction lies outside of."""
        values = (("runs", self.batches, batch), ("profile", self.shares, at_once))
        return [name for name, ends, value in values if ends is not None and not ends[0] <= value <= ends[1]]


NOTHING = Measured()


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
    compute_s: float
    link_inside_s: float
    link_between_s: float
    evaluation_s: float
    startup_s: float
    """The five parts of `seconds`."""
    passes: int
    """Micro-batches that a worker's share is taken in."""
    limited_by: str
    """compute, link inside, link between, memory, critical batch, evaluation or start-up: see `_limit`."""
    beyond: list[str]
    """Of "runs" and "profile" those outside of whose measurements this lies."""


def scale_out(
    workers: Sequence[int], batches: Sequence[int], critical: CriticalBatch, workload: Workload, measured: Measured = NOTHING
) -> list[Scaled]:
    """The best batch for each number of workers, among those given; a number that all of them are too small for is left out."""
    scaled: list[Scaled] = []
    alone: float | None = None
    for num_workers in sorted({1, *workers}):
        enough = [batch for batch in batches if batch >= num_workers]
        if not enough:
            continue
        parts = _soonest(enough, num_workers, critical, workload)
        alone = parts.seconds if alone is None else alone
        unbounded = _soonest(enough, num_workers, critical, workload._replace(largest_share=None))
        batch, speedup, passes = parts.batch, alone / parts.seconds, workload.passes(parts.batch, num_workers)
        scaled.append(
            Scaled(
                num_workers, batch, parts.seconds, critical.steps_to_target(batch), critical.samples_to_target(batch), parts.seconds * num_workers,
                speedup, speedup / num_workers, *parts[2:], passes,
                _limit(unbounded, critical, parts.seconds - unbounded.seconds), measured.beyond(batch, share_of(batch, num_workers) / passes),
            )
        )  # fmt: skip
    return [best for best in scaled if best.num_workers in set(workers)]


class _Parts(NamedTuple):
    """A run's seconds at one batch."""

    seconds: float
    batch: int
    compute_s: float
    link_inside_s: float
    link_between_s: float
    evaluation_s: float
    startup_s: float


def _soonest(batches: Sequence[int], num_workers: int, critical: CriticalBatch, workload: Workload) -> _Parts:
    return min(_parts(batch, num_workers, critical, workload) for batch in batches)


def _parts(batch: int, num_workers: int, critical: CriticalBatch, workload: Workload) -> _Parts:
    steps, step = critical.steps_to_target(batch), workload.step(batch, num_workers)
    evaluation_s = workload.beside.evaluation_seconds(critical.samples_to_target(batch), num_workers, workload.model.overhead_s)
    compute_s, inside_s, between_s, startup_s = (*(steps * part for part in step), workload.beside.startup_s)
    return _Parts(steps * step.seconds + evaluation_s + startup_s, batch, compute_s, inside_s, between_s, evaluation_s, startup_s)


def _limit(unbounded: _Parts, critical: CriticalBatch, bound_s: float) -> str:
    """What takes most of the time.

    The critical batch's are the seconds that samples beyond those of a small batch cost, memory's those that its bound adds.
    """
    waste = critical.samples_to_target(unbounded.batch) / critical.min_samples
    once = {"compute": unbounded.compute_s / waste, "link inside": unbounded.link_inside_s / waste, "link between": unbounded.link_between_s / waste}
    shares = {**once, "critical batch": (waste - 1) * sum(once.values()), "memory": bound_s}
    shares |= {"evaluation": unbounded.evaluation_s, "start-up": unbounded.startup_s}
    return max(shares, key=lambda name: shares[name])


def largest_share(profile: Profile, memory_bytes: float) -> int:
    """The samples that fit into so much memory at once, by a line through what a profile measured: memory = fixed + samples * each.

    Raises: InputError for a CPU's profile, whose figures are the whole process's, for a single micro-batch, and where not one sample fits.
    """
    if profile.device.startswith("cpu"):
        raise InputError("--memory", "needs a GPU's profile: on a CPU a step's memory is not told from the process's.", "Give --largest-share.")
    most = {point.micro_batch_size: point.peak_memory_bytes for point in sorted(profile.points, key=lambda point: point.peak_memory_bytes)}
    if len(most) < 2:
        raise InputError("--memory", "needs a profile of at least two micro-batch sizes.", "Profile more batch sizes, or give --largest-share.")
    sizes, peaks = np.array(list(most), dtype=float), np.array(list(most.values()), dtype=float)
    (fixed, each), _ = nnls(np.stack([1 / peaks, sizes / peaks], axis=1), np.ones(len(sizes)))
    if fixed + each > memory_bytes:
        raise InputError(
            "--memory", f"{memory_bytes / 2**30:g} GiB hold not even one sample, which takes {(fixed + each) / 2**30:.3g} GiB.", "Give more."
        )
    return int((memory_bytes - fixed) / each) if each else int(sizes.max())

"""The learning rate as a pure function of progress in samples.

Progress counts samples, not steps, so that a schedule means the same under any batch and any batch
schedule. A step's rate is read at the middle of its own samples: for the straight pieces of a schedule the
sum of rate times samples over the steps is then exactly the area under the curve, however large the steps.
"""

import math

from largebatch.jobs.spec.train_spec import LearningRateSpec


def learning_rate_fraction(spec: LearningRateSpec, progress: float, *, total: float, warmup: float, epoch: float) -> float:
    """The learning rate at `progress`, as a fraction of its peak.

    Args:
        progress: samples, the middle of the step.
        total: samples at which the decay ends.
        warmup: samples of linear rise from 0 to 1.
        epoch: samples in an epoch, for milestones.
    """
    if progress < warmup:
        return progress / warmup
    if spec.decay == "step":
        return spec.decay_factor ** sum(milestone * epoch <= progress for milestone in spec.decay_milestones)
    if spec.decay == "constant" or total <= warmup:
        return 1.0
    done = min((progress - warmup) / (total - warmup), 1.0)
    if spec.decay == "cosine":
        falling = 0.5 * (1.0 + math.cos(math.pi * done))
    else:
        falling = (1.0 - done) ** spec.decay_power
    return spec.final_fraction + (1.0 - spec.final_fraction) * falling

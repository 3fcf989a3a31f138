"""What a spec changes while training: the batch, the length of sequences, and where the learning rate begins again."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from largebatch.jobs.spec_base import Fraction, Spec


class BatchWarmupSpec(Spec):
    """Start with a smaller batch and grow it linearly in epochs."""

    start: PositiveInt
    """Samples in the first step."""
    epochs: PositiveFloat
    """Epochs until global_batch_size is reached."""


class BatchGrowthSpec(Spec):
    """From this epoch on, the batch is this many times global_batch_size."""

    epoch: NonNegativeFloat
    """When the growth begins, in epochs from the start."""
    factor: PositiveFloat
    """Multiple of global_batch_size (not of the batch before)."""


class ShortSequencesSpec(Spec):
    """Begin with shorter sequences: each sample is cut into several before the model sees it; evaluation sees whole ones."""

    length: PositiveInt
    """Tokens of a sequence; a divisor of the data set's own sequence_length."""
    epochs: PositiveFloat
    """Epochs from the start for which sequences are short."""


class BatchScheduleSpec(Spec):
    """A batch that changes while training (Smith et al., arXiv:1711.00489)."""

    warmup: BatchWarmupSpec | None = None
    """Grow from a small batch at the start."""
    growth: tuple[BatchGrowthSpec, ...] = Field(default=(), strict=False)
    """Milestones at which the batch grows, in place of a decay of the learning rate."""
    rate_follows: Literal["none", "sqrt", "linear"] = "none"
    """How the learning rate follows the batch of the schedule: the rate of global_batch_size times (batch / global_batch_size)^(0, 1/2, 1)."""
    short_sequences: ShortSequencesSpec | None = None
    """Cut sequences of tokens shorter at the start; None: never."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        epochs = [milestone.epoch for milestone in self.growth]
        if epochs != sorted(set(epochs)):
            raise ValueError("growth milestones must come in rising order of epoch")
        if self.rate_follows != "none" and self.warmup is None and not self.growth:
            raise ValueError("rate_follows says how the rate follows a batch that changes; give warmup or growth, or leave it out")
        return self


class RestartSpec(Spec):
    """Begin the learning rate again for a second phase (You et al., arXiv:1904.00962, section 4.1): warm-up, then the same decay to the end."""

    epoch: PositiveFloat
    """Where the first phase's decay ends and the second phase begins, in epochs from the start."""
    base: PositiveFloat
    """As learning_rate.base, for the second phase; scaled by the same rule, for the batch in force at its beginning."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs of a rate that rises from 0 again (for legw: at base_global_batch_size)."""
    final_fraction: Fraction | None = None
    """cosine, polynomial: the rate at the end, as a fraction of this phase's peak; None: as in the first phase."""

"""What a spec changes while training: the batch, the length of sequences, and where the learning rate begins again."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from largebatch.jobs.spec_base import Fraction, Spec


class BatchWarmupSpec(Spec):
    """Start with a smaller batch and grow it linearly in epochs."""

    start: PositiveInt
    """Samples in the first step."""
    epochs: PositiveFloat
    """Epochs until global_batch_size is reached."""


class PlaceSpec(Spec):
    """A stretch of a run from its start, told in one of four ways."""

    epoch: NonNegativeFloat | None = None
    """In epochs."""
    samples: PositiveInt | None = None
    """In samples of the epochs' orders, those included that batch.last drops."""
    tokens: PositiveInt | None = None
    """The same in tokens, where the task counts in them."""
    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """As a share of stop.epochs: 0.8 of a run is late."""

    @model_validator(mode="after")
    def _told_once(self) -> Self:
        if len(self.told) != 1:
            raise ValueError(f"give exactly one of {', '.join(PlaceSpec.model_fields)}")
        return self

    @property
    def told(self) -> dict[str, float]:
        """The one unit that was given, and the number."""
        values = {name: getattr(self, name) for name in PlaceSpec.model_fields}
        return {name: value for name, value in values.items() if value is not None}


class BatchGrowthSpec(PlaceSpec):
    """From this place on, the batch is this many times global_batch_size."""

    factor: PositiveFloat
    """Multiple of global_batch_size (not of the batch before)."""


class BatchDoublingSpec(PlaceSpec):
    """The batch doubles each time that another such stretch of the run is done."""

    times: Annotated[int, Field(ge=1, le=30)]
    """How often; then it stays."""

    @model_validator(mode="after")
    def _comes_to_its_doublings(self) -> Self:
        if self.epoch == 0:
            raise ValueError("the batch would double for ever at epoch 0; give a stretch above 0")
        if self.fraction is not None and self.fraction * self.times >= 1:
            raise ValueError(f"{self.times} stretches of {self.fraction:g} of the run are longer than the run")
        return self


class FollowsRateSpec(Spec):
    """Where the learning rate's decay would have fallen by a factor, the batch grows by it, and the rate is what the optimizer's rule makes of both.

    With a(t) <= 1 what the decay leaves of its peak after t samples, B0 = global_batch_size and p the optimizer's rule (1 for momentum SGD and
    its kin, 1/2 for Adam's):

        B = B0 min(largest_factor, m),  m the largest power of `by` in 1 / a   (decay step: the largest whole number in 1 / a),
        B = B0 largest_factor           from where 1 / a has come to it, which need be no power of `by`
        rate = peak a (B / B0)^p

    so that rate / B^p, on which drift and noise of a sample depend where noise is most of the gradient, is at every sample that of the decaying
    rate at B0. Where a falls by a factor c < 1 and B grows by 1 / c, the rate falls by c^(1 - p): by its root under Adam's kin, not at all under
    SGD (Seesaw, arXiv:2510.14717, Algorithm 1 with alpha = 1 / c). Once the batch is at its largest the rate falls as its decay does. Between two
    growths the rate goes on falling with a smooth decay, where the paper holds it; under decay step the two are the same.
    """

    largest_factor: Annotated[int, Field(ge=2)]
    """The largest batch, as a multiple of global_batch_size: the critical batch late in the run bounds it (`largebatch branch`)."""
    by: Annotated[int, Field(ge=2)] | None = None
    """cosine, polynomial: the batch grows where the rate would have fallen by this; None: 2."""


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
    """Milestones at which the batch grows, in place of a decay of the learning rate; a single late one is a late switch."""
    doubling: BatchDoublingSpec | None = None
    """Milestones at even distances, each of which doubles the batch."""
    follows_rate: FollowsRateSpec | None = None
    """Grow where the learning rate would fall."""
    rate_follows: Literal["none", "sqrt", "linear"] = "none"
    """How the learning rate follows the batch of warmup, growth or doubling: the rate of global_batch_size times
    (batch / global_batch_size)^(0, 1/2, 1)."""
    short_sequences: ShortSequencesSpec | None = None
    """Cut sequences of tokens shorter at the start; None: never."""

    @model_validator(mode="after")
    def _grows_in_order_and_in_one_way(self) -> Self:
        units = list(dict.fromkeys(unit for milestone in self.growth for unit in milestone.told))
        if len(units) > 1:
            raise ValueError(f"growth milestones must all be told in the same unit; give all in {units[0]}, or all in {units[1]}")
        places = [place for milestone in self.growth for place in milestone.told.values()]
        if places != sorted(set(places)):
            raise ValueError(f"growth milestones must come in rising order of {next(iter(self.growth[0].told))}")
        ways = {"growth": bool(self.growth), "doubling": self.doubling is not None, "follows_rate": self.follows_rate is not None}
        if len(named := [name for name, is_there in ways.items() if is_there]) > 1:
            raise ValueError(f"{' and '.join(named)} each say when the batch grows; give one of them")
        if self.follows_rate is not None and self.warmup is not None:
            raise ValueError("follows_rate grows the batch where the rate falls, and warmup where it rises; leave warmup out")
        if self.follows_rate is not None and self.rate_follows != "none":
            raise ValueError("follows_rate sets the rate by the optimizer's own rule; leave rate_follows out")
        if self.rate_follows != "none" and not self.changes_batch:
            raise ValueError("rate_follows says how the rate follows a batch that changes; give warmup, growth or doubling, or leave it out")
        return self

    @property
    def changes_batch(self) -> bool:
        """Whether the batch changes while training."""
        return any((self.warmup, self.growth, self.doubling, self.follows_rate))

    @property
    def largest_factor(self) -> float:
        """The largest multiple of global_batch_size that the schedule names, 1 at least."""
        doubled = 2.0**self.doubling.times if self.doubling else 1.0
        followed = float(self.follows_rate.largest_factor) if self.follows_rate else 1.0
        return max(1.0, doubled, followed, *(milestone.factor for milestone in self.growth))


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

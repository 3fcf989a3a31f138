"""Options of an optimizer that follow the samples of each step, so that they mean the same at every batch.

    decay        = 0.5 ^ (samples of the step / half-life)                       of a momentum, beta1, beta2
    weight decay = samples of the step / (learning rate * time scale * samples of the run)

Half-lives: Marek et al., arXiv:2507.07101. The time scale is the tau of Bergsma et al., arXiv:2505.13738, as a fraction of the run.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic import model_validator

from largebatch.jobs.spec_base import Spec

UNITS = ("samples", "tokens")
TIME_SCALE = "weight_decay_time_scale"
BY_TIME_SCALE = "decays_by_time_scale"
"""The option of a parameter group whose weight decay follows from a time scale."""
BETAS_CHANGE = "betas_change"
"""The option of a parameter group whose betas are not the same at every step."""
BEFORE_THE_FIRST_STEP = 0.5
"""What a decay by half-life is while an optimizer is built; as the learning rate, it is set before every step."""


def half_life_fields(option: str) -> tuple[str, ...]:
    """The fields that say a decay by its half-life, in samples and in tokens."""
    return tuple(f"{option}_half_life_{unit}" for unit in UNITS)


def decay_of(half_life: float, amount: float) -> float:
    """What an `amount` of samples (or tokens) leaves of the past."""
    return float(0.5 ** (amount / half_life))


class StepSize(NamedTuple):
    """What of a step these options follow from."""

    num_samples: int
    """Of the global batch."""
    tokens_per_sample: int | None
    """None where the task does not count in tokens."""
    share: float = 0.0
    """Of the run's samples."""
    peak_learning_rate: float = 0.0
    """The highest rate of the schedule for a step of so many samples."""

    def amount(self, field: str) -> float:
        """The step in the unit of a half-life's field."""
        return self.num_samples * float((self.tokens_per_sample or 0) if field.endswith("tokens") else 1)


class FollowsSamples(Spec):
    """An optimizer's config, some of whose options may follow the samples of each step."""

    decays: ClassVar[Mapping[str, float]] = {}
    """The options that may be told by a half-life instead, each with its usual value."""

    @model_validator(mode="before")
    @classmethod
    def _each_is_told_once(cls, document: Any) -> Any:
        """Fill in the usual values of what is not told by a half-life, whose own value then is None."""
        if not isinstance(document, dict):
            return document
        filled = dict(document)
        for option, usual in cls.decays.items():
            told = [field for field in (option, *half_life_fields(option)) if document.get(field) is not None]
            if len(told) > 1:
                raise ValueError(f"give one of {' and '.join(told)}: either says how fast the past fades")
            if not told:
                filled[option] = usual
        return filled

    @property
    def half_lives(self) -> dict[str, tuple[str, float]]:
        """The options that are told by a half-life, each with the field that says it, and what it says."""
        fields = {option: field for option in self.decays for field in half_life_fields(option) if getattr(self, field) is not None}
        return {option: (field, getattr(self, field)) for option, field in fields.items()}

    @property
    def time_scales(self) -> dict[str, float]:
        """The fields that say weight decay by its time scale, and what they say."""
        return {}

    def options_at(self, size: StepSize) -> dict[str, float]:
        """The options that follow the samples of a step, at one of such a size."""
        return {option: decay_of(half_life, size.amount(field)) for option, (field, half_life) in self.half_lives.items()}

    def built_with(self, option: str) -> float:
        """The value of a decay that an optimizer is built with."""
        value: float | None = getattr(self, option)
        return BEFORE_THE_FIRST_STEP if value is None else value

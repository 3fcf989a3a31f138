"""RecordedSpec: what is known of a run that another program's loop trains, and `largebatch.Recorder` writes down.

It says what tells runs apart in the words of a TrainSpec, and lacks what training needs: nobody can train it again from here.
"""

from typing import Any, TypeGuard

from pydantic import Field, JsonValue, NonNegativeInt, PositiveFloat, PositiveInt

from largebatch.jobs.spec.train_spec import TargetSpec
from largebatch.jobs.spec_base import RunName, Spec


class RecordedBy(Spec):
    """Whose loop a run is of."""

    trainer: str
    """Such as "plain loop", "lightning" or "transformers"."""


class NamedSpec(Spec):
    """A model or a data set, which only its own program can build."""

    name: str = Field(min_length=1)
    """Runs are compared where it is the same."""


class RecordedBatchSpec(Spec):
    """How many samples feed one optimizer step."""

    global_batch_size: PositiveInt
    """Samples per optimizer step, over all ranks and micro-batches."""


class RecordedRateSpec(Spec):
    """The learning rate."""

    base: PositiveFloat
    """The rate at the peak of the schedule; of several parameter groups the first one's."""


class RecordedStopSpec(Spec):
    """What the run is to reach."""

    target: TargetSpec | None = None
    """The score to reach; the time to it is what results are compared by."""


class RecordedSpec(Spec):
    """A run of another program's loop."""

    recorded: RecordedBy
    name: RunName = "recorded"
    """What people call it; begins the run's id."""
    dataset: NamedSpec
    model: NamedSpec
    batch: RecordedBatchSpec
    optimizer: dict[str, JsonValue]
    """Its name and the options that change its steps."""
    learning_rate: RecordedRateSpec
    stop: RecordedStopSpec = Field(default_factory=RecordedStopSpec)
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """What else changes results, such as epochs, warm-up or augmentation; runs that differ in it are other configurations."""
    seed: NonNegativeInt = 0
    """Runs that differ in it alone are repetitions of each other."""


def is_recorded(document: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a run's spec is of another program's loop."""
    return isinstance(document, dict) and "recorded" in document

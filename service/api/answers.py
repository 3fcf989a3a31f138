"""What a sweep has found, as the API tells it: the document that `tuning` makes, with its types.

The analysis has its own, named tuples, which a schema would show as lists; a test holds the two together.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Told(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Spread(Told):
    """What several seeds say together. A miss counts as later than every hit."""

    median: float | None
    """None where half of the runs or more missed."""
    low: float | None
    high: float | None
    """None where the interval reaches into the misses."""
    num_reached: int
    num_runs: int


class Choice(Told):
    """A batch size with what it costs to the target."""

    global_batch_size: int
    seconds: float
    samples: float
    learning_rate: float
    momentum: float | None
    optimizer: str
    num_seeds: int


class Advice(Told):
    """One answer with its reason."""

    question: str
    """soonest, cheapest or knee."""
    choice: Choice | None
    reason: str


class AccuracyPoint(Told):
    """Where no run of any batch had been as accurate sooner."""

    seconds: float
    accuracy: float
    global_batch_size: int


class CriticalBatch(Told):
    """The fit of (S/S_min - 1)(E/E_min - 1) = 1."""

    critical_batch_size: float
    """In samples."""
    low: float | None
    high: float | None
    """Of the 95 % interval; None where the points do not bound it on that side."""
    min_steps: float
    min_samples: float
    error: float
    """Standard deviation of the logarithm of the samples about the curve."""
    num_points: int


class Batch(Told):
    """The best of one batch size."""

    global_batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float | None
    seconds_to_target: Spread
    steps_to_target: Spread
    samples_to_target: Spread
    best_test_accuracy: Spread
    gradient_noise_scale: float | None


class SweepAdvice(Told):
    """Soonest, cheapest, knee."""

    advice: list[Advice]
    words: list[str]
    """The same for people."""


class SweepFrontier(Told):
    """The choices that no other beats."""

    target_accuracy: float
    cost_frontier: list[Choice]
    """In time and samples to the target."""
    accuracy_frontier: list[AccuracyPoint]
    """In time and accuracy."""
    critical_batch: CriticalBatch | None
    """None for fewer than three batch sizes that reached the target."""


class Setting(Told):
    """What all the runs have in common; others cannot stand on the same axes."""

    dataset: str
    model: str
    device: str
    world_size: int


class SweepFindings(SweepAdvice, SweepFrontier):
    """All that the runs that have ended say."""

    setting: Setting
    target_is_chosen: bool
    """Nobody gave the target: it is what every batch size reached."""
    num_runs: int
    seeds: list[int]
    clock: str
    """What the seconds count."""
    batches: list[Batch]
    gradient_noise_scale: float | None
    """In samples; the median of the batches that measured it."""
    left_out: dict[str, int]
    """Runs of other settings, and how many."""
    rows: list[dict[str, str]]
    """One line of a table for each batch size, in words."""
    figures: list[dict[str, Any]] | None = None
    """The report's figures, for plotly, where they were asked for: name, title, caption and figure."""

"""How long a step takes at each batch size, as measured and as a model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from largebatch.jobs.errors import InputError
from largebatch.jobs.plan.make import TrainingSet
from largebatch.jobs.run.records import Record
from largebatch.tuning.results.unit import Unit, in_digits, unit_of


class ProfilePoint(Record):
    """How long a step takes at one batch size, as a profile has measured it."""

    global_batch_size: int
    micro_batch_size: int
    seconds_per_step: float
    """Median over the steps that were timed."""
    seconds_per_epoch: float
    samples_per_second: float
    peak_memory_bytes: int
    """On a GPU what torch held at most at this batch; on a CPU the most that this process had so far."""
    num_steps: int
    """How many steps were timed."""


class StepTimeModel(NamedTuple):
    """seconds per step = overhead + batch / rate, fitted in relative error."""

    overhead_s: float
    samples_per_second: float
    """The rate that very large batches approach."""

    def seconds_per_step(self, batch: float) -> float:
        """At one batch size."""
        return self.overhead_s + batch / self.samples_per_second

    @property
    def flat_until(self) -> float:
        """The batch whose own work takes as long as what every step costs: below it, larger batches are nearly free."""
        return self.overhead_s * self.samples_per_second


class Profile(Record):
    """What was measured; a file in its folder."""

    recipe: str
    device: str
    num_train_samples: int
    tokens_per_sample: int | None = None
    """Of sequences of tokens, padding included; None where the task does not count in them."""
    gradient_bytes: int
    """Of one gradient, as it travels between workers."""
    points: list[ProfilePoint]
    left_out: dict[int, str]
    """Batch sizes that cannot be trained, with the reason."""
    dataset_in_words: str | None = None
    """With its arguments."""
    model_in_words: str | None = None
    """With its arguments."""
    seed: int | None = None
    """Of the initial weights and the order of the samples."""
    threads: int | None = None
    """That computed on a CPU; None in profiles of earlier versions."""
    optimizer: str | None = None
    """Whose steps they are, as answers call it; None in profiles of earlier versions."""

    @property
    def training_set(self) -> TrainingSet:
        """How much there is to train on."""
        return TrainingSet(self.num_train_samples, self.tokens_per_sample)

    @property
    def unit(self) -> Unit:
        """What it is told in."""
        return unit_of([self.tokens_per_sample])

    @property
    def has_model(self) -> bool:
        """Whether a step's fixed cost and its rate can be told apart."""
        return len({point.global_batch_size for point in self.points}) > 1

    @property
    def model(self) -> StepTimeModel:
        """The step-time model through the points. Raises: InputError for a single batch size."""
        if not self.has_model:
            only = f"holds one batch size, {self.points[0].global_batch_size:,}: what every step costs and what a sample costs cannot be told apart."
            raise InputError("--profile", only, "Profile at least two batch sizes.")
        return fit_step_time([point.global_batch_size for point in self.points], [point.seconds_per_step for point in self.points])

    @property
    def misfit(self) -> float:
        """By how much the model is off the measured step times at most, as a share of them. Raises: InputError for a single batch size."""
        return max(abs(self.model.seconds_per_step(point.global_batch_size) / point.seconds_per_step - 1) for point in self.points)

    def seconds_per_step(self, batch: float) -> float:
        """Measured, or between measured neighbours a straight line; beyond them the model's."""
        batches = [point.global_batch_size for point in self.points]
        if not batches[0] <= batch <= batches[-1]:
            return self.model.seconds_per_step(batch)
        return float(np.interp(batch, batches, [point.seconds_per_step for point in self.points]))

    def seconds_per_sample(self, batch: int, *, drops: bool = False) -> float:
        """Of whole epochs, whose last step is of what is left. Args: drops: where that is left out (`batch.last`)."""
        num_whole, rest = divmod(self.num_train_samples, batch)
        if drops or not rest or not num_whole or not self.has_model:
            return self.seconds_per_step(batch) / batch
        return (num_whole * self.seconds_per_step(batch) + self.seconds_per_step(rest)) / self.num_train_samples


def profile_in_words(profile: Profile) -> str:
    """What a step costs on this device, for a person."""
    if not profile.has_model:
        return f"{profile.device}: one batch size alone does not tell what every step costs from what each sample costs."
    model, smallest, largest, unit = profile.model, profile.points[0].global_batch_size, profile.points[-1].global_batch_size, profile.unit
    costs = f"{profile.device}: a step costs {in_digits(model.overhead_s * 1000, 3)} ms"
    if model.flat_until >= largest:
        return f"{costs}, and larger steps are nearly free up to {unit.batch(largest)}, the largest measured."
    costs += f" and 1 s per {unit.words(model.samples_per_second)}"
    if model.flat_until <= smallest:
        return f"{costs}; already at batch {unit.batch(smallest)}, the smallest measured, larger steps cost more."
    return f"{costs}; up to batch {unit.batch(model.flat_until)} larger steps are nearly free."


def fit_step_time(batches: Sequence[int], seconds: Sequence[float]) -> StepTimeModel:
    """Least squares of the relative error, with neither part below zero.

    Args: batches, seconds: of the same length, at least one.
    """
    batch, time_s = np.asarray(batches, dtype=float), np.asarray(seconds, dtype=float)
    (overhead, per_sample), _ = nnls(np.stack([1 / time_s, batch / time_s], axis=1), np.ones(len(batch)))
    return StepTimeModel(float(overhead), float(1 / per_sample) if per_sample else float("inf"))

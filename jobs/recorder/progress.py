"""How far a recorded run is: steps, samples, scores, and what its summary says of them."""

from dataclasses import dataclass, field
from typing import Any

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.records import Headline, Outcome, RunSummary
from largebatch.jobs.tasks.metric import Metric


@dataclass
class RecordedProgress:
    """What adds up over a recorded run."""

    num_train_samples: int
    metric: Metric
    target: float | None
    tokens_per_sample: int | None = None
    step: int = 0
    samples_seen: int = 0
    """Over all ranks."""
    uncounted_samples: int = 0
    """Of this rank alone, since ranks last added theirs up."""
    score: float | None = None
    best_score: float | None = None
    time_to_target_s: float | None = None
    steps_to_target: int | None = None
    has_diverged: bool = False
    was_told: set[str] = field(default_factory=set)
    """What a person was told once."""

    @property
    def headline(self) -> Headline:
        """The metric as records keep it."""
        return Headline.of(self.metric)

    @property
    def epoch(self) -> float:
        """Epochs done, as samples over the training set."""
        return self.samples_seen / self.num_train_samples

    @property
    def tokens_seen(self) -> int | None:
        """The samples in tokens; None where they are not counted in them."""
        return None if self.tokens_per_sample is None else self.samples_seen * self.tokens_per_sample

    def count_step(self, num_samples: int) -> None:
        """One more step. Raises: InputError for a number of samples that is none."""
        if type(num_samples) is not int or num_samples < 1:
            raise InputError("num_samples", f"is {num_samples!r}, and a step has a number of samples.", "Example: recorder.step(loss, len(labels)).")
        self.step += 1
        self.uncounted_samples += num_samples

    def check_first_step(self, num_samples: int, global_batch_size: int) -> None:
        """Raise InputError where the batch that a person named is another than what its loop does, such as a micro-batch.

        A batch that varies, or that the data set cannot fill, is within a factor of two; accumulation, ranks and steps are told apart by whole ones.
        """
        if 2 * num_samples <= global_batch_size or num_samples >= 2 * global_batch_size:
            problem = f"is {global_batch_size}, and the first step has {num_samples} samples, over all ranks and micro-batches."
            raise InputError("global_batch_size", problem, "Give what one optimizer step reads, and call recorder.step once for each.")

    def is_first(self, what: str, holds: bool) -> bool:
        """Whether something holds for the first time. Args: what: told apart from what else a person is told once."""
        is_first = holds and what not in self.was_told
        if is_first:
            self.was_told.add(what)
        return is_first

    def take_samples(self, num_samples: int) -> None:
        """Count what all ranks have read since they last added it up."""
        self.samples_seen += num_samples
        self.uncounted_samples = 0

    def judge(self, score: float, training_s: float) -> None:
        """Take note of an evaluation."""
        self.score = score
        if self.best_score is None or self.metric.is_better(score, self.best_score):
            self.best_score = score
        if self.target is not None and self.time_to_target_s is None and self.metric.meets(score, self.target):
            self.time_to_target_s, self.steps_to_target = training_s, self.step

    @property
    def outcome(self) -> Outcome:
        """How a run that came to its own end did, as far as its target goes."""
        if self.time_to_target_s is not None:
            return Outcome.REACHED
        return Outcome.COMPLETED if self.target is None else Outcome.MISSED

    def summarise(self, outcome: Outcome, *, training_seconds: float, **facts: Any) -> RunSummary:
        """The run in numbers. Args: facts: fields of the summary that are not of the progress."""
        per_second = self.samples_seen / training_seconds if self.samples_seen and training_seconds else None
        return RunSummary(
            outcome=outcome, steps=self.step, epochs=self.epoch, samples_seen=self.samples_seen, tokens_per_sample=self.tokens_per_sample,
            training_seconds=training_seconds, samples_per_second=per_second, tokens_seen=self.tokens_seen,
            tokens_per_second=None if per_second is None or self.tokens_per_sample is None else per_second * self.tokens_per_sample,
            headline=self.headline, target=self.target, time_to_target_seconds=self.time_to_target_s, steps_to_target=self.steps_to_target,
            score=self.score, best_score=self.best_score, train_score=None, parameters_sha256=None, mlflow_run_id=None, **facts,
        )  # fmt: skip

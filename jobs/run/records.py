"""What a run writes down: typed lines of the journal, and the summary at the end.

A missed target is None, never 0; a loss that is not finite ends the run and is never written as a number.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from largebatch.jobs.tasks.metric import ACCURACY, Metric


class Outcome(StrEnum):
    """How a run ended, as far as its aim goes."""

    REACHED = "reached"
    """The target was met at an evaluation."""
    MISSED = "missed"
    """There was a target, and the budget ended first."""
    DIVERGED = "diverged"
    """The loss or gradient stopped being finite."""
    COMPLETED = "completed"
    """There was no target, and the budget was used."""
    STOPPED = "stopped"
    """Someone asked it to stop; it can be resumed."""
    FAILED = "failed"
    """Its data, its model or the machine failed it, as the last notice says; once that is mended it can be resumed."""

    @property
    def is_result(self) -> bool:
        """Whether the run came to an end that a resume would not change."""
        return self not in {Outcome.STOPPED, Outcome.FAILED}


class Record(BaseModel):
    """Base of every record: immutable; unknown keys are kept out."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Headline(Record):
    """What a run is judged by."""

    name: str = ACCURACY.name
    better: Literal["higher", "lower"] = ACCURACY.better
    is_fraction: bool = ACCURACY.is_fraction

    @classmethod
    def of(cls, metric: Metric) -> "Headline":
        """A metric as a record keeps it."""
        return cls(name=metric.name, better=metric.better, is_fraction=metric.is_fraction)

    @property
    def metric(self) -> Metric:
        """As the rest of the program knows it."""
        return Metric(self.name, self.better, self.is_fraction)


class StartRecord(Record):
    """A process took up this run, for the first time or from a checkpoint."""

    kind: Literal["start"] = "start"
    at_s: float
    """Unix time."""
    step: int
    """Steps already done; step records above it from an earlier process are superseded."""
    training_seconds: float
    world_size: int
    device: str
    micro_batch_size: int | None = None
    """Samples per rank in one forward pass, from here on."""
    samples_per_rank: list[int] | None = None
    """How a full global batch is shared out."""
    num_train_samples: int | None = None
    num_test_samples: int | None = None
    num_validation_samples: int | None = None
    """None where there is no validation part."""
    evaluated_on: Literal["test", "validation"] = "test"
    """The part that this process's evaluations are of."""
    num_classes: int | None = None
    tokens_per_sample: int | None = None
    """Of sequences of tokens, padding included; None where the task does not count in them."""
    headline: Headline = Headline()
    """Accuracy in journals of versions that knew classification alone."""


class StepRecord(Record):
    """One optimizer step."""

    kind: Literal["step"] = "step"
    step: int
    """Steps done, this one included; the first is 1."""
    epoch: float
    """Epochs done, as samples over the training set."""
    samples_seen: int
    tokens_seen: int | None = None
    """Of sequences of tokens, padding included; None where the task does not count in them."""
    global_batch_size: int
    """Samples in this step."""
    loss: float
    """Mean over this step's whole global batch, before the update; in a recorded run what its loop says, such as a mean since the line before."""
    learning_rate: float
    gradient_norm: float | None = None
    """L2 norm of the global batch's mean gradient, before clipping; None in a recorded run whose loop did not say it."""
    covariance_trace: float | None = None
    """One step's estimate of tr(Sigma), per sample of the batch's mean weight (`engine/noise_scale.py`); None where not measured."""
    gradient_norm_squared: float | None = None
    """One step's estimate of |G|^2; can be negative."""
    norms_covariance_trace: float | None = None
    """As `covariance_trace`, of the norms' parameters alone (`gradient.noise_from`): another number than the whole gradient's."""
    norms_gradient_norm_squared: float | None = None
    """As `gradient_norm_squared`, of the norms' parameters alone."""
    dual_variance: float | None = None
    """One step's estimate of B E|G_B - G|_*^2 in the dual of the optimizer's own norm (`gradient.noise_norm`): another number than the trace."""
    dual_norm_squared: float | None = None
    """One step's estimate of |G|_*^2 in that norm; can be negative."""
    gain: float | None = None
    """AdaScale's gain."""
    schedule_samples: float | None = None
    """AdaScale: where the schedules stand, in samples; of every other run that is `samples_seen`."""
    training_seconds: float
    """The training clock at the end of this step."""

    @property
    def progress(self) -> float:
        """Where the schedules stand, in samples."""
        return self.samples_seen if self.schedule_samples is None else self.schedule_samples


class EvalRecord(Record):
    """One evaluation of the whole test set; of the validation part where the run has one and the spec does not say otherwise
    (`StartRecord.evaluated_on`).
    """

    kind: Literal["evaluation"] = "evaluation"
    step: int
    epoch: float
    samples_seen: int
    tokens_seen: int | None = None
    """See `StepRecord`."""
    score: float
    """The headline metric."""
    scores: dict[str, float]
    """Every metric by its name, the headline and "loss" among them; one that is not finite is left out."""
    training_seconds: float
    evaluation_seconds: float

    @property
    def loss(self) -> float:
        """Mean loss on what was evaluated."""
        return self.scores["loss"]

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, line: Any) -> Any:
        """Lines of versions that knew classification alone."""
        if isinstance(line, dict) and "test_accuracy" in line:
            accuracy, loss = line["test_accuracy"], line["test_loss"]
            line = {key: value for key, value in line.items() if key not in {"test_accuracy", "test_loss"}}
            return {**line, "score": accuracy, "scores": {"accuracy": accuracy, "loss": loss}}
        return line


FAILED = "Failed: "
"""Begins the notice of what a run failed of."""


class NoticeRecord(Record):
    """Something that a person should know: a smaller micro-batch, a damaged checkpoint, a recovery."""

    kind: Literal["notice"] = "notice"
    step: int
    text: str


EARLIER_NAMES = {
    "target_accuracy": "target",
    "time_to_accuracy_s": "time_to_target_s",
    "time_to_accuracy_seconds": "time_to_target_seconds",
    "steps_to_accuracy": "steps_to_target",
    "test_accuracy": "score",
    "best_test_accuracy": "best_score",
    "train_accuracy": "train_score",
}
"""What fields of a summary, and of the progress in a checkpoint, were called in versions that knew classification alone."""


def by_todays_names(fields: Any) -> Any:
    """A summary or progress, of whichever version; what is not a mapping stays as it is."""
    return {EARLIER_NAMES.get(name, name): value for name, value in fields.items()} if isinstance(fields, dict) else fields


class RunSummary(Record):
    """The end of a run; `largebatch train --json` prints it."""

    run_id: str
    outcome: Outcome
    global_batch_size: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    world_size: int
    steps: int
    epochs: float
    samples_seen: int
    tokens_per_sample: int | None = None
    """Of sequences of tokens, padding included; None where the task does not count in them."""
    training_seconds: float
    """Forward, backward, update; waits for the device; without kernel warm-up, evaluation and checkpoints."""
    evaluation_seconds: float
    wall_seconds: float
    """From the beginning of preparation (data, model, micro-batch; not Python's imports) to the last step or evaluation; of an
    earlier process of this run what it had counted at the checkpoint that the next one went on from."""
    samples_per_second: float | None
    """Samples over training seconds; None before the first step."""
    tokens_seen: int | None = None
    """`samples_seen` in tokens."""
    tokens_per_second: float | None = None
    """`samples_per_second` in tokens."""
    headline: Headline = Headline()
    """What `target` and the scores are of."""
    target: float | None
    time_to_target_seconds: float | None
    """Training seconds at the first evaluation that met the target; None on a miss."""
    steps_to_target: int | None
    score: float | None
    """At the last evaluation, on what `evaluated_on` names; so is the best score, and what met the target."""
    best_score: float | None
    train_score: float | None
    """Of the final weights on the training set, without augmentation; where it has no classes, on as many of its samples as are tested."""
    evaluated_on: Literal["test", "validation"] = "test"
    """The part that targets, the best checkpoint and searches were decided by: scores on it are better than those of new data."""
    test_score: float | None = None
    """Of the final weights on the test set, which was scored this once; None where `evaluated_on` is "test", for `score` is that then, where
    it is not finite, and of a run that diverged, was stopped or failed."""
    test_scores: dict[str, float] | None = None
    """Every metric on the test set at that time, as in `EvalRecord.scores`."""
    gradient_noise_scale: float | None
    """In samples (sequences, where tokens weigh): mean covariance trace over mean squared gradient norm; None where it was not measured."""
    norms_noise_scale: float | None = None
    """The same of the norms' parameters alone, where `gradient.noise_from` is "norms"."""
    dual_noise_scale: float | None = None
    """In samples, in the dual of the optimizer's own norm, where `gradient.noise_norm` is "optimizer": mean `dual_variance` over mean
    `dual_norm_squared`; another number than the Euclidean `gradient_noise_scale`."""
    core_wait_fraction: float | None = None
    """Of the time since kernel warm-up, how much the threads of this process (of several workers: of the slowest) stood ready while other work
    had the cores, 0 to 1; None where the system does not say."""
    stopped_seconds: float | None = None
    """For which this process (of several workers: the one that did longest; of a recorded run's: the first) stood still while it trained and
    evaluated, stopped or frozen: the seconds above may count these. None where nobody looked."""
    parameters_sha256: str | None
    run_dir: str
    mlflow_run_id: str | None

    _of_an_earlier_version = model_validator(mode="before")(by_todays_names)


class EndRecord(Record):
    """The last line of a run that ended by itself."""

    kind: Literal["end"] = "end"
    summary: RunSummary


JournalRecord = Annotated[
    StartRecord | StepRecord | EvalRecord | NoticeRecord | EndRecord,
    Field(discriminator="kind"),
]

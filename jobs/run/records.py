"""What a run writes down: typed lines of the journal, and the summary at the end.

A missed target is None, never 0; a loss that is not finite ends the run and is never written as a number.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Outcome(StrEnum):
    """How a run ended, as far as its aim goes."""

    REACHED = "reached"
    """The target accuracy was met at an evaluation."""
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
    num_classes: int | None = None


class StepRecord(Record):
    """One optimizer step."""

    kind: Literal["step"] = "step"
    step: int
    """Steps done, this one included; the first is 1."""
    epoch: float
    """Epochs done, as samples over the training set."""
    samples_seen: int
    global_batch_size: int
    """Samples in this step."""
    loss: float
    """Mean over this step's whole global batch, before the update."""
    learning_rate: float
    gradient_norm: float
    """L2 norm of the global batch's mean gradient, before clipping."""
    covariance_trace: float | None = None
    """One step's unbiased estimate of tr(Sigma); None where not measured."""
    gradient_norm_squared: float | None = None
    """One step's unbiased estimate of |G|^2; can be negative."""
    gain: float | None = None
    """AdaScale's gain."""
    schedule_samples: float | None = None
    """AdaScale: where the schedules stand, in samples; of every other run that is `samples_seen`."""
    training_seconds: float
    """The training clock at the end of this step."""


class EvalRecord(Record):
    """One evaluation of the whole test set."""

    kind: Literal["evaluation"] = "evaluation"
    step: int
    epoch: float
    samples_seen: int
    test_accuracy: float
    test_loss: float
    training_seconds: float
    evaluation_seconds: float


FAILED = "Failed: "
"""Begins the notice of what a run failed of."""


class NoticeRecord(Record):
    """Something that a person should know: a smaller micro-batch, a damaged checkpoint, a recovery."""

    kind: Literal["notice"] = "notice"
    step: int
    text: str


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
    training_seconds: float
    """Forward, backward, update; waits for the device; without kernel warm-up, evaluation and checkpoints."""
    evaluation_seconds: float
    wall_seconds: float
    """From the beginning of preparation (data, model, micro-batch; not Python's imports) to the last step or evaluation; of an
    earlier process of this run what it had counted at the checkpoint that the next one went on from."""
    samples_per_second: float | None
    """Samples over training seconds; None before the first step."""
    target_accuracy: float | None
    time_to_accuracy_seconds: float | None
    """Training seconds at the first evaluation that met the target; None on a miss."""
    steps_to_accuracy: int | None
    test_accuracy: float | None
    """At the last evaluation."""
    best_test_accuracy: float | None
    train_accuracy: float | None
    """Of the final weights on the whole training set, without augmentation."""
    gradient_noise_scale: float | None
    """In samples: mean covariance trace over mean squared gradient norm; None where it was not measured."""
    core_wait_fraction: float | None = None
    """Of the time since kernel warm-up, how much the threads of this process (of several workers: of the slowest) stood ready while other work
    had the cores, 0 to 1; None where the system does not say."""
    parameters_sha256: str | None
    run_dir: str
    mlflow_run_id: str | None


class EndRecord(Record):
    """The last line of a run that ended by itself."""

    kind: Literal["end"] = "end"
    summary: RunSummary


JournalRecord = Annotated[
    StartRecord | StepRecord | EvalRecord | NoticeRecord | EndRecord,
    Field(discriminator="kind"),
]

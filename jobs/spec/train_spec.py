"""TrainSpec: the one description of a training job, for the command line, REST and Kubernetes.

Frozen pydantic models with strict types; unknown keys are refused (`mistakes.py` adds "did you mean").
A field checks itself here; what needs the data set, the model or the machine is checked in `plan`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from largebatch.jobs.optim.configs.registry import AnyOptimizer
from largebatch.jobs.spec.model_and_data import DatasetSpec, ModelSpec
from largebatch.jobs.spec.schedules import BatchScheduleSpec, RestartSpec
from largebatch.jobs.spec_base import Fraction, RunName, Spec
from largebatch.jobs.tasks.metric import ACCURACY
from largebatch.jobs.tasks.registry import AnyTask, ClassificationConfig, ContrastiveConfig

DECAY_OPTIONS: dict[str, frozenset[str]] = {
    "constant": frozenset(),
    "step": frozenset({"decay_milestones", "decay_factor", "decay_fractions"}),
    "cosine": frozenset({"final_fraction"}),
    "polynomial": frozenset({"decay_power", "final_fraction"}),
}
"""Which options each decay of the learning rate reads."""


class BatchSpec(Spec):
    """How many samples feed one optimizer step."""

    global_batch_size: PositiveInt | Literal["full"] | None = None
    """Samples per optimizer step, over all ranks and micro-batches; "full": the whole training set."""
    global_batch_tokens: PositiveInt | None = None
    """Of sequences of tokens, in place of global_batch_size: tokens per optimizer step, a multiple of the sequence length."""
    micro_batch_size: PositiveInt | Literal["auto"] = "auto"
    """Samples per rank in one forward pass; "auto": found by trying on this machine."""
    schedule: BatchScheduleSpec = Field(default_factory=BatchScheduleSpec)
    """Changes of the batch while training."""
    last: Literal["keep", "drop"] = "keep"
    """The short batch at the end of an epoch: kept and divided by its own size, or dropped."""

    @model_validator(mode="after")
    def _has_one_size(self) -> Self:
        if (self.global_batch_size is None) == (self.global_batch_tokens is None):
            raise ValueError("give exactly one of global_batch_size and global_batch_tokens")
        return self


class BatchNormSpec(Spec):
    """Over how many samples batch-norm takes its statistics."""

    span: Annotated[int, Field(ge=2)] | Literal["auto", "global"] = "auto"
    """Samples that share statistics (ghost batch size); "auto": up to 128, "global": the whole global batch."""
    average_last_steps: PositiveInt | None = None
    """Evaluate with the plain mean of the statistics of all groups, on all workers, of the last so many steps (arXiv:1711.04325: 1); None: with
    running means that move by each norm's own momentum."""


class LearningRateSpec(Spec):
    """The learning rate, a pure function of progress in samples."""

    base: PositiveFloat
    """The rate that was tuned, for base_global_batch_size (or for the batch itself if that is not given)."""
    base_global_batch_size: PositiveInt | None = None
    """The batch at which base was tuned; needed by every scaling but "none", which does not read it."""
    base_global_batch_tokens: PositiveInt | None = None
    """The same in tokens, in place of base_global_batch_size."""
    scaling: Literal["none", "linear", "sqrt", "legw", "adascale"] = "none"
    """How the rate follows the batch."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs of linearly rising rate (for legw: at base_global_batch_size)."""
    decay: Literal["constant", "step", "cosine", "polynomial"] = "constant"
    """How the rate falls after warm-up."""
    decay_milestones: tuple[NonNegativeFloat, ...] = Field(default=(), strict=False)
    """step: epochs at which the rate is multiplied by decay_factor, or from which on it is as decay_fractions says."""
    decay_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """step: what the rate is multiplied by at each milestone."""
    decay_fractions: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(default=(), strict=False)
    """step, in place of decay_factor: the rate from each milestone on, as a fraction of the peak. With a milestone at 0 a run may begin low
    (a slow start, arXiv:1711.04325); warm-up then rises to the fraction that follows it."""
    decay_power: PositiveFloat = 2.0
    """polynomial: the exponent; 1 is a straight line."""
    final_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """cosine, polynomial: the rate at the end, as a fraction of the peak."""
    restart: RestartSpec | None = None
    """Begin again for a second phase; None: one phase."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scaling != "none" and not self.has_base:
            raise ValueError(f"scaling {self.scaling!r} needs base_global_batch_size, the batch that base was tuned at")
        if self.base_global_batch_size is not None and self.base_global_batch_tokens is not None:
            raise ValueError("give one of base_global_batch_size and base_global_batch_tokens")
        others = frozenset().union(*DECAY_OPTIONS.values()) - DECAY_OPTIONS[self.decay]
        # Written specs hold every option: one that says what it says anyhow is no mistake.
        unread = [option for option in sorted(others) if getattr(self, option) != type(self).model_fields[option].default]
        if unread:
            reads = " and ".join(sorted(DECAY_OPTIONS[self.decay])) or "none of these options"
            raise ValueError(f"decay {self.decay!r} does not read {' and '.join(unread)}; it reads {reads}")
        if self.decay == "step" and not self.decay_milestones:
            raise ValueError("decay 'step' needs decay_milestones, a list of epochs")
        if list(self.decay_milestones) != sorted(set(self.decay_milestones)):
            raise ValueError("decay_milestones must come in rising order")
        return self

    @model_validator(mode="after")
    def _milestones_and_fractions_agree(self) -> Self:
        if not self.decay_fractions:
            if 0.0 in self.decay_milestones:
                raise ValueError("decay_milestones: at epoch 0 there is nothing to fall from; to begin low, give decay_fractions")
            return self
        if len(self.decay_fractions) != len(self.decay_milestones):
            counts = f"{len(self.decay_fractions)} for {len(self.decay_milestones)}"
            raise ValueError(f"decay_fractions has one number for each of decay_milestones, not {counts}")
        if self.decay_factor != type(self).model_fields["decay_factor"].default:
            raise ValueError("give one of decay_factor and decay_fractions: either says how far the rate falls")
        return self

    @model_validator(mode="after")
    def _begins_again(self) -> Self:
        if self.restart is None:
            return self
        if self.scaling == "adascale":
            raise ValueError("restart is at an epoch, and under adascale progress follows from a measured gain; choose another scaling")
        if self.decay == "step":
            raise ValueError("restart begins a decay again, and the milestones of 'step' count from the start; choose another decay")
        if self.restart.final_fraction is not None and "final_fraction" not in DECAY_OPTIONS[self.decay]:
            raise ValueError(f"decay {self.decay!r} does not read restart.final_fraction; it has no end")
        return self

    @property
    def has_base(self) -> bool:
        """Whether the batch that base was tuned at is known."""
        return self.base_global_batch_size is not None or self.base_global_batch_tokens is not None


class TargetSpec(Spec):
    """A score to reach, in any metric of the task; whether it must rise or fall to it is the metric's own."""

    metric: str
    """Such as accuracy, loss, perplexity, rmse."""
    value: float
    """A fraction for accuracy; in the metric's own unit otherwise."""


class StopSpec(Spec):
    """When training ends: at the first of these."""

    epochs: PositiveFloat | None = None
    """Passes over the training set; also the horizon of the learning rate's decay."""
    steps: PositiveInt | None = None
    """Optimizer steps; also the horizon of the decay if shorter than epochs."""
    max_seconds: PositiveFloat | None = None
    """Training seconds (evaluation and checkpoints not counted)."""
    target: TargetSpec | None = None
    """The score to reach; the time to it is what results are compared by."""
    target_accuracy: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Short for a target in accuracy, as a fraction."""
    at_target: bool = True
    """End when the target is met; false: note the time and train on."""
    patience: PositiveInt | None = None
    """End after so many evaluations in a row that were no better than the best before them; None: never for that."""

    @model_validator(mode="after")
    def _has_a_horizon(self) -> Self:
        if self.epochs is None and self.steps is None:
            raise ValueError("give epochs or steps, so that the run has an end and the decay a horizon")
        if self.target is not None and self.target_accuracy is not None:
            raise ValueError("give one of target and target_accuracy, which is short for a target in accuracy")
        return self

    @property
    def target_metric(self) -> str | None:
        """The name of the metric that the target is in; None where there is no target."""
        return self.target.metric if self.target else None if self.target_accuracy is None else ACCURACY.name

    @property
    def target_score(self) -> float | None:
        """The target's value."""
        return self.target.value if self.target else self.target_accuracy


class LossSpec(Spec):
    """Cross-entropy, summed over samples and divided once by the batch."""

    label_smoothing: Fraction = 0.0
    """Share of each target spread evenly over all classes."""


class GradientSpec(Spec):
    """What is done with the global batch's gradient before the update."""

    clip_norm: PositiveFloat | None = None
    """Scale the gradient down to this L2 norm if it is longer."""
    noise_every_steps: NonNegativeInt | Literal["auto"] = "auto"
    """Measure the gradient noise scale every so many steps; 0: never; "auto": 1 where the batch is accumulated anyway, else 30."""
    noise_from: Literal["all", "norms"] = "all"
    """What it is measured of: all parameters, between the pieces of a step; or the layer norms' and RMS norms' alone, sample by sample."""
    noise_norm: Literal["euclidean", "optimizer"] = "euclidean"
    """The norm that noise is measured in: L2; or, besides, the dual of the one that lion's or muon's steps are bounded in (arXiv:2602.03001)."""


class ReductionSpec(Spec):
    """How several workers put their gradients together; a process alone reads none of this."""

    compression: Literal["none", "bfloat16", "powersgd"] = "none"
    """What travels: the gradients, their rounding to bfloat16, or low-rank factors (arXiv:1905.13727)."""
    powersgd_rank: PositiveInt = 4
    """powersgd: rank of the factors."""
    local_steps: PositiveInt = 1
    """Post-local SGD (arXiv:1808.07217): steps that each worker takes alone between averages; 1: none."""
    local_from_epoch: NonNegativeFloat = 0.0
    """local_steps above 1: the epoch from which workers step alone."""


class EmaSpec(Spec):
    """Exponential moving average of the weights, used for evaluation."""

    decay: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Weight of the past per optimizer step."""
    base_global_batch_size: PositiveInt | None = None
    """If given, decay was tuned at this batch and becomes decay^(batch / base) (arXiv:2307.13813)."""


class EvaluationSpec(Spec):
    """When the test set, or where there is one the validation part, is evaluated (always whole)."""

    every_epochs: PositiveFloat = 1.0
    """Epochs between evaluations; fractions allowed; the last step is always evaluated."""
    part: Literal["validation", "test"] | None = None
    """What is evaluated, and decides; None: the validation part where there is one, else the test set. "test" beside a validation part is for
    repeating what was chosen on the test set."""


class CheckpointSpec(Spec):
    """When the whole state is written. The last step is always saved."""

    every_steps: PositiveInt | None = None
    """Optimizer steps between checkpoints."""
    every_seconds: PositiveFloat | None = 60.0
    """Training seconds between checkpoints."""
    keep: PositiveInt = 2
    """How many of the newest are kept, besides the best."""
    best: bool = True
    """Also keep the checkpoint with the best score."""


class TrackingSpec(Spec):
    """The MLflow mirror of the journal."""

    enabled: bool = True
    """Mirror this run to MLflow."""
    mlflow_uri: str | None = None
    """Where; default MLFLOW_TRACKING_URI, else an SQLite file beside the runs."""
    experiment: str = "largebatch"
    """MLflow experiment."""
    step_every_seconds: NonNegativeFloat = 1.0
    """Mirror one step record per this many training seconds; 0: every one. The journal keeps all."""
    system_metrics: bool = True
    """Also send the CPU, memory, disk, network and GPU of rank 0's machine, every ten seconds."""
    log_checkpoint: bool = False
    """Upload the final checkpoint as an artifact."""
    log_model: bool = False
    """Log the model with the weights that it was evaluated with, as MLflow's PyTorch models are."""
    register_as: str | None = None
    """Register that model in MLflow under this name, as its next version; it is logged then."""

    @field_validator("register_as")
    @classmethod
    def _is_a_model_name(cls, name: str | None) -> str | None:
        """MLflow's rules, which it tells only once the model is there; its databases hold 256 characters."""
        if name is not None and (not name.strip() or set(name) & set("/:") or name in {".", ".."} or len(name) > 256):
            raise ValueError("must be a name for a model in MLflow, of at most 256 characters without '/' and ':'")
        return name

    @property
    def logs_model(self) -> bool:
        """Whether MLflow gets the model."""
        return self.enabled and (self.log_model or self.register_as is not None)


class TrainSpec(Spec):
    """One training job, whole."""

    name: RunName = "run"
    """What people call it; begins the run's id."""
    description: str = ""
    """One line for `largebatch recipes`."""
    task: AnyTask = Field(default_factory=ClassificationConfig)
    dataset: DatasetSpec
    model: ModelSpec
    batch: BatchSpec
    batch_norm: BatchNormSpec = Field(default_factory=BatchNormSpec)
    optimizer: AnyOptimizer
    learning_rate: LearningRateSpec
    stop: StopSpec
    loss: LossSpec = Field(default_factory=LossSpec)
    gradient: GradientSpec = Field(default_factory=GradientSpec)
    reduction: ReductionSpec = Field(default_factory=ReductionSpec)
    ema: EmaSpec | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: mixed precision; weights, loss and all norms stay in float32."""
    compile: bool = False
    """torch.compile the model for every micro-batch that the plan has, before the training clock starts."""
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    tracking: TrackingSpec = Field(default_factory=TrackingSpec)
    seed: NonNegativeInt = 0
    """Draws initial weights, order, augmentation and dropout."""

    @model_validator(mode="after")
    def _local_steps_measure_nothing(self) -> Self:
        if self.reduction.local_steps > 1 and self.learning_rate.scaling == "adascale":
            raise ValueError("adascale needs the variance between workers at every step; with reduction.local_steps above 1 there is none")
        return self

    @model_validator(mode="after")
    def _pairs_are_compared_over_the_whole_batch(self) -> Self:
        if not isinstance(self.task, ContrastiveConfig):
            return self
        if self.reduction.local_steps > 1:
            problem = "each worker would compare its own samples alone, and this task's loss compares all samples of the global batch"
            raise ValueError(f"reduction.local_steps: {problem}; leave it out")
        if self.learning_rate.scaling == "adascale":
            problem = "adascale measures the variance between parts of a batch, and this task's loss has no such parts"
            raise ValueError(f"learning_rate.scaling: {problem}; choose another scaling")
        return self

    @field_validator("optimizer", mode="before")
    @classmethod
    def _an_entry_point_is_a_persons_own(cls, optimizer: object) -> object:
        return {"name": "own", **optimizer} if isinstance(optimizer, dict) and "entry_point" in optimizer else optimizer

    @model_validator(mode="after")
    def _averages_once(self) -> Self:
        if self.ema and self.optimizer.averages:
            raise ValueError(f"{self.optimizer.name} averages the weights that are evaluated itself; leave ema out")
        if self.batch_norm.average_last_steps is None:
            return self
        if self.ema:
            raise ValueError("ema makes a moving average of batch-norm's statistics, too, in place of which average_last_steps is; leave one out")
        if self.optimizer.averages:
            raise ValueError(
                f"{self.optimizer.name} has batch-norm's statistics taken anew at the weights that are evaluated; leave average_last_steps out"
            )
        if self.reduction.local_steps > 1:
            raise ValueError("batch_norm.average_last_steps is a mean over all workers' groups; with reduction.local_steps above 1 there is none")
        return self

    @model_validator(mode="after")
    def _compiled_code_chooses_itself(self) -> Self:
        if self.compile and self.model.activation_checkpointing:
            raise ValueError("compile chooses itself what is kept for the backward pass; leave it or model.activation_checkpointing out")
        return self

"""The tasks by name, each with its options. To add one: its class in a file of its own, and here its config and its line in `AnyTask`.

The service and the MLflow mirror read specs too, and must not wait for torch: a config imports its task when it builds it.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, JsonValue, PositiveFloat, PositiveInt, Tag, model_validator

from largebatch.jobs.entry_points import call_entry_point
from largebatch.jobs.errors import PlanError, SpecError
from largebatch.jobs.samples.number_ranges import AnyRange, NumberRange, ShareRange, WeightRange, token_ranges
from largebatch.jobs.spec_base import Fraction, Spec
from largebatch.jobs.tasks.metric import DIRECTIONS, LOSS, Metric

if TYPE_CHECKING:
    from largebatch.jobs.samples.dataset import Dataset
    from largebatch.jobs.tasks.base import Task


class TaskConfig(Spec):
    """What a run optimises and is judged by, and its options."""

    name: str
    """Which task it is."""

    target_shift: ClassVar[int] = 1
    """Of token sets: 1 where a target is the next token, 0 where it is the token itself."""
    counts_tokens: ClassVar[bool] = False
    """Whether batches and budgets are told in tokens, where samples are sequences of them."""
    reads_text_bytes: ClassVar[bool] = False
    """Of token sets: whether samples have the bytes of text that targets stand for as a third tensor, where they are known."""

    @property
    def takes_classes(self) -> bool:
        """Whether samples must be (input, number of a class)."""
        return False

    @property
    def sample_parts(self) -> tuple[str, ...]:
        """What a person's own sample is a tuple of, where it is no (input, number of a class); in brackets what may be left out. Empty: any tree."""
        return ()

    def number_ranges(self, for_model: Mapping[str, int]) -> tuple[AnyRange, ...]:
        """What the numbers in a person's own samples must be. Args: for_model: see `Dataset`."""
        return ()

    @abstractmethod
    def build(self, dataset: "Dataset", label_smoothing: float) -> "Task":
        """The task for a data set. Raises: PlanError where the two do not fit."""


class ClassificationConfig(TaskConfig):
    """One class for each sample: cross-entropy, accuracy."""

    name: Literal["classification"] = "classification"
    """Which task it is."""
    class_weights: tuple[PositiveFloat, ...] = Field(default=(), strict=False)
    """One for each class: what its samples weigh in loss and metrics; none: all 1."""

    soft_labels: bool = False
    """Labels are shares of all classes that add up to 1, as mixup makes them."""
    sample_weights: bool = False
    """Samples are (input, label, weight)."""

    @property
    def sample_parts(self) -> tuple[str, ...]:
        """See `TaskConfig`."""
        return ("input", "label", "weight") if self.sample_weights else ("input", "shares of all classes")

    @property
    def takes_classes(self) -> bool:
        """See `TaskConfig`."""
        return not (self.soft_labels or self.sample_weights)

    def number_ranges(self, for_model: Mapping[str, int]) -> tuple[AnyRange, ...]:
        """See `TaskConfig`."""
        stop, weights = for_model.get("num_outputs"), (WeightRange("2"),) if self.sample_weights else ()
        if self.soft_labels:
            return (ShareRange("1", adds_to_one=True), *weights)
        return weights if stop is None else (NumberRange("1", stop, "num_outputs"), *weights)

    def build(self, dataset: "Dataset", label_smoothing: float) -> "Task":
        """See `TaskConfig`."""
        from largebatch.jobs.tasks.classification import Classification

        if dataset.num_outputs is None:
            raise PlanError("task", "the number of classes is not known.", "Give the training set an attribute num_outputs.")
        if self.class_weights and len(self.class_weights) != dataset.num_outputs:
            problem = f"has {len(self.class_weights)} weights for {dataset.num_outputs} classes."
            raise PlanError("task.class_weights", problem, "Give one for each class, in order.")
        return Classification(dataset.num_outputs, label_smoothing, self.class_weights, self.sample_weights)


class MultiLabelConfig(TaskConfig):
    """Any number of classes for each sample: binary cross-entropy, F1."""

    name: Literal["multi-label"]
    """Which task it is."""

    sample_parts: ClassVar[tuple[str, ...]] = ("input", "labels")

    def number_ranges(self, for_model: Mapping[str, int]) -> tuple[AnyRange, ...]:
        """See `TaskConfig`."""
        return (ShareRange("1", adds_to_one=False),)

    def build(self, dataset: "Dataset", label_smoothing: float) -> "Task":
        """See `TaskConfig`."""
        from largebatch.jobs.tasks.classification import MultiLabel

        _refuse_smoothing(self.name, label_smoothing)
        return MultiLabel()


class RegressionConfig(TaskConfig):
    """Numbers for each sample: squared, Huber or quantile loss; RMSE, MAE, R2."""

    name: Literal["regression"]
    """Which task it is."""
    loss: Literal["mse", "huber", "quantile"] = "mse"
    """What is minimised."""
    delta: PositiveFloat = 1.0
    """huber: the bound between squared and absolute error, in the targets' unit."""
    quantile: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """quantile: which one."""

    sample_parts: ClassVar[tuple[str, ...]] = ("input", "targets")

    @model_validator(mode="after")
    def _reads_what_is_set(self) -> Self:
        for option, loss in (("delta", "huber"), ("quantile", "quantile")):
            if self.loss != loss and getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(f"loss {self.loss!r} does not read {option}; {loss} does")
        return self

    def build(self, dataset: "Dataset", label_smoothing: float) -> "Task":
        """See `TaskConfig`."""
        from largebatch.jobs.tasks.regression import Regression, first_target

        _refuse_smoothing(self.name, label_smoothing)
        return Regression(self.loss, self.delta, self.quantile, first_target(dataset))


class TokensConfig(TaskConfig):
    """A task of sequences of tokens."""

    counts_tokens: ClassVar[bool] = True
    reads_text_bytes: ClassVar[bool] = True

    def number_ranges(self, for_model: Mapping[str, int]) -> tuple[AnyRange, ...]:
        """See `TaskConfig`."""
        return token_ranges(for_model, shift=self.target_shift)


class LanguageModellingConfig(TokensConfig):
    """The next token: loss per token, perplexity, bits per byte."""

    name: Literal["language-modelling"]
    """Which task it is."""

    sample_parts: ClassVar[tuple[str, ...]] = ("tokens", "next tokens", "[bytes of the next tokens]")

    def build(self, dataset: "Dataset", label_smoothing: float) -> "Task":
        """See `TaskConfig`."""
        from largebatch.jobs.tasks.language_modelling import LanguageModelling

        _refuse_smoothing(self.name, label_smoothing)
        return LanguageModelling(dataset.bytes_per_token, counts_bytes=dataset.knows_text_bytes)


class MaskedLanguageModellingConfig(TokensConfig):
    """Hidden tokens, told from both sides, as BERT has it."""

    name: Literal["masked-language-modelling"]
    """Which task it is."""
    masked_fraction: Annotated[Fraction, Field(gt=0.0)] = 0.15
    """Of the tokens, how many are to be told."""
    mask_token: PositiveInt | None = None
    """The token that hides another; the data set's own where it has one."""

    target_shift: ClassVar[int] = 0
    sample_parts: ClassVar[tuple[str, ...]] = ("tokens", "tokens", "[bytes of the tokens]")

    def build(self, dataset: "Dataset", label_smoothing: float) -> "Task":
        """See `TaskConfig`."""
        from largebatch.jobs.tasks.masked_language_modelling import MaskedLanguageModelling

        _refuse_smoothing(self.name, label_smoothing)
        mask_token = dataset.mask_token if self.mask_token is None else self.mask_token
        num_tokens = dataset.for_model.get("vocabulary_size", 0)
        if mask_token is None or mask_token >= num_tokens:
            known = "the data set has none" if mask_token is None else f"{mask_token} is beyond the vocabulary of {num_tokens}"
            raise PlanError("task.mask_token", f"which token hides another is not known: {known}.", "Give the number of a token.")
        return MaskedLanguageModelling(
            num_tokens, mask_token, self.masked_fraction, dataset.bytes_per_token, dataset.padding_token, counts_bytes=dataset.knows_text_bytes
        )


class ContrastiveConfig(TaskConfig):
    """Pairs that belong together, against all others of the global batch."""

    name: Literal["contrastive"]
    """Which task it is."""
    loss: Literal["clip", "simclr", "siglip"] = "clip"
    """InfoNCE between two sides (clip), between two views with each side's own negatives (simclr), or SigLIP's sigmoid loss."""
    temperature: PositiveFloat = 0.07
    """What similarities are divided by, where the model gives no scale of its own."""
    bias: float = 0.0
    """What is added to them, where the model gives none; SigLIP begins with -10."""
    views: Literal["simclr"] | None = None
    """Samples are (image, number of the class), and two random views of an image are the pair, drawn as SimCLR does for small images."""
    labels: bool = False
    """Samples are (first, second, number of the class), and the headline is knn_accuracy; so it is with views."""
    neighbours: PositiveInt = 200
    """Training samples that vote on a sample's class in knn_accuracy."""
    references: PositiveInt = 10_000
    """Training samples that the nearest are looked for among, at most: the same for every run."""
    accuracy_among: PositiveInt = 256
    """How many pairs in a row, of the evaluated part, batch_accuracy compares with each other."""

    @property
    def takes_classes(self) -> bool:
        """See `TaskConfig`."""
        return self.views is not None

    @model_validator(mode="after")
    def _reads_what_is_set(self) -> Self:
        for option in ("neighbours", "references"):
            if not (self.labels or self.views) and getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(f"{option} is of knn_accuracy, which needs labels: set labels, or views")
        return self

    def build(self, dataset: "Dataset", label_smoothing: float) -> "Task":
        """See `TaskConfig`."""
        from largebatch.jobs.tasks.contrastive import Contrastive
        from largebatch.jobs.tasks.views import SimCLRViews

        _refuse_smoothing(self.name, label_smoothing)
        if self.views and not (dataset.normalises and dataset.input_shape[0] == 3):
            problem = f"change colours of uint8 images (3, height, width) that are held in memory, and {dataset.name} has others."
            raise PlanError("task.views", problem, "Try cifar10, or give pairs of your own.")
        if self.labels:
            path, shape, dtype = dataset.sample_leaves[-1]
            if shape or "int" not in str(dtype) or path in {"", "0"} or not path.isdigit():
                problem = f"is set, and a sample ends with {str(dtype).removeprefix('torch.')} of shape {shape}, not with the number of its class."
                raise PlanError("task.labels", problem, "Give (first, second, number of the class), or leave labels out.")
        views = SimCLRViews(*dataset.channel_moments) if self.views else None
        return Contrastive(self.loss, self.temperature, self.bias, views=views, has_labels=self.labels, neighbours=self.neighbours,
                           num_references=self.references, accuracy_among=self.accuracy_among)  # fmt: skip


class OwnTaskConfig(TaskConfig):
    """A person's own loss and metrics."""

    name: Literal["own"] = "own"
    """A task of your own."""
    entry_point: str
    """Your own: "package.module:function", which takes the arguments and returns a largebatch.Task."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the entry point."""

    counts_tokens: ClassVar[bool] = True

    def build(self, dataset: "Dataset", label_smoothing: float) -> "Task":
        """See `TaskConfig`. Raises: SpecError where the entry point gives no task."""
        from largebatch.jobs.tasks.base import Task

        _refuse_smoothing(self.entry_point, label_smoothing)
        task = call_entry_point("task.entry_point", self.entry_point, self.arguments)
        if isinstance(task, Task) and not isinstance(task.headline, Metric):
            problem = f"the headline of {self.entry_point} is {task.headline!r}; it must be a largebatch.Metric."
            raise SpecError("task.entry_point", problem, 'Example: headline = largebatch.Metric("f1", "higher").')
        if not isinstance(task, Task):
            raise SpecError(
                "task.entry_point",
                f"{self.entry_point} returned {type(task).__name__}; it must return a largebatch.Task.",
                "Let the class inherit from largebatch.Task, and return an object of it.",
            )
        for metric in task.all_metrics():
            if metric.better not in DIRECTIONS:
                problem = f"the metric {metric.name} of {self.entry_point} is better {metric.better!r}; it must be 'higher' or 'lower'."
                raise SpecError("task.entry_point", problem, f'Example: largebatch.Metric("{metric.name}", "higher").')
        return task


CONFIGS: dict[str, type[TaskConfig]] = {
    "classification": ClassificationConfig,
    "multi-label": MultiLabelConfig,
    "regression": RegressionConfig,
    "language-modelling": LanguageModellingConfig,
    "masked-language-modelling": MaskedLanguageModellingConfig,
    "contrastive": ContrastiveConfig,
}
"""Ours, by name."""
OF_THE_LOSS = ("loss", "delta", "quantile", "temperature", "bias", "arguments")
"""Options that say what is minimised, and of a task's metrics change the loss alone; a person's own arguments are taken to be such."""


def scores_are_of(fields: Mapping[str, object], metric: str) -> str:
    """The task that makes scores in a metric what they are, such as `regression (loss huber)` of a loss; empty for plain classification's other
    metrics, and for a recorded run, which tells of no task.

    Scores of two tasks, or under options that change what is measured, are not compared. Args: fields: of a spec, flat, also as texts.
    """
    if any(field.startswith("recorded.") for field in fields):
        return ""
    name, entry_point = str(fields.get("task.name", "classification")), fields.get("task.entry_point")
    config = CONFIGS.get(name)
    usual = {} if config is None else {option: str(field.default) for option, field in config.model_fields.items()}
    options = {
        field.removeprefix("task."): str(value) for field, value in fields.items() if field.startswith("task.") and value not in (None, {}, [])
    }
    told = [
        f"{option.rpartition('.')[2]} {value}"
        for option, value in sorted(options.items())
        if option not in {"name", "entry_point"} and value != usual.get(option) and (metric == LOSS.name or not option.startswith(OF_THE_LOSS))
    ]
    called = str(entry_point or name)
    if told:
        return f"{called} ({', '.join(told)})"
    return "" if called == "classification" and metric != LOSS.name else called


def _refuse_smoothing(name: str, label_smoothing: float) -> None:
    if label_smoothing:
        raise SpecError("loss.label_smoothing", f"is of classification, and the task is {name}.", "Leave it out.")


def _kind(config: object) -> str | None:
    """Which member of `AnyTask` a spec's part means: an entry point is a person's own."""
    if isinstance(config, dict):
        return "own" if "entry_point" in config else str(config.get("name", "classification"))
    return config.name if isinstance(config, TaskConfig) else None


AnyTask = Annotated[
    Annotated[ClassificationConfig, Tag("classification")]
    | Annotated[MultiLabelConfig, Tag("multi-label")]
    | Annotated[RegressionConfig, Tag("regression")]
    | Annotated[LanguageModellingConfig, Tag("language-modelling")]
    | Annotated[MaskedLanguageModellingConfig, Tag("masked-language-modelling")]
    | Annotated[ContrastiveConfig, Tag("contrastive")]
    | Annotated[OwnTaskConfig, Tag("own")],
    Discriminator(_kind),
]
"""The task's part of a spec."""

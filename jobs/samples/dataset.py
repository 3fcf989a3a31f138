"""Describes a data set to the engine; its samples are held as tensors or read one by one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from largebatch.jobs.errors import DataError
from largebatch.jobs.samples.number_ranges import AnyRange
from largebatch.jobs.samples.trees import Tree, leaves, map_leaves, num_samples

EvaluatedOn = Literal["test", "validation"]
"""The part of a data set that targets, the best checkpoint and searches are decided by."""


class Held(ABC):
    """A part of a data set whose samples can be taken out many at a time."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Memory that it takes."""

    @abstractmethod
    def gather(self, indices: Tensor) -> Tree:
        """The samples of these numbers, (n,) int64 on the part's device: a batch of their own memory."""

    @abstractmethod
    def select(self, indices: Tensor) -> "Held":
        """A part of these samples alone, in this order."""

    def to(self, device: torch.device) -> "Held":
        """The same part on a device, where it can lie there."""
        return self


@dataclass(frozen=True)
class Tensors(Held):
    """Samples in a tree of tensors with the samples in dimension 0."""

    batch: Tree

    def __len__(self) -> int:
        return num_samples(self.batch)

    @property
    def num_bytes(self) -> int:
        """Memory of all tensors."""
        return sum(leaf.nbytes for leaf in leaves(self.batch))

    def row(self, index: int) -> Tree:
        """One sample."""
        return map_leaves(lambda leaf: leaf[index], self.batch)

    def gather(self, indices: Tensor) -> Tree:
        """See `Held`."""
        return map_leaves(lambda leaf: leaf.index_select(0, indices), self.batch)

    def select(self, indices: Tensor) -> Held:
        """See `Held`."""
        return Tensors(self.gather(indices))

    def to(self, device: torch.device) -> Held:
        """See `Held`."""
        return Tensors(map_leaves(lambda leaf: leaf.to(device), self.batch))


class Images(Tensors):
    """Labelled samples, held whole.

    Args:
        inputs: (n, C, H, W) uint8 images, or any other shape and dtype for inputs that need no scaling.
        labels: (n,), int64, 0 ... num_classes - 1.
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        super().__init__((inputs, labels))

    def select(self, indices: Tensor) -> Held:
        """See `Held`."""
        return Images(*self.gather(indices))

    @property
    def inputs(self) -> Tensor:
        """(n, ...)."""
        inputs: Tensor = self.batch[0]
        return inputs

    @property
    def labels(self) -> Tensor:
        """(n,), int64."""
        labels: Tensor = self.batch[1]
        return labels


@dataclass(frozen=True)
class Dataset:
    """A training set and a test set, and maybe a validation part.

    Args:
        train, test: `Held`, or any map-style data set; samples are trees of tensors, for classification (input, label).
        num_classes: number of labels; None where targets are not the numbers of classes.
        mean, std: per channel, of inputs scaled to 0 ... 1; uint8 images are normalised with them.
    """

    name: str
    train: Any
    test: Any
    num_classes: int | None
    input_shape: tuple[int, ...]
    """One sample's shape."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    input_dtype: torch.dtype = torch.float32
    """Type of the inputs that the model gets; uint8 images are normalised to float32 first."""
    notices: tuple[str, ...] = ()
    """Sentences that a person should read before the data are trained on."""

    sample_leaves: tuple[tuple[str, tuple[int, ...], torch.dtype], ...] = ()
    """Path, shape and type of each tensor of a sample, where there are no classes."""
    for_model: dict[str, int] = field(default_factory=dict)
    """What a model is built for besides classes, as arguments that it may take: num_outputs, vocabulary_size, sequence_length."""
    number_ranges: tuple[AnyRange, ...] = ()
    """What numbers a person's own samples may hold."""
    mask_token: int | None = None
    """Of tokens: the one that hides another."""
    padding_token: int | None = None
    """Of tokens: what fills up shorter sequences, at positions whose targets do not count; None: nothing, or it is not known."""
    bytes_per_token: tuple[int, ...] = ()
    """Of tokens: the UTF-8 bytes that each stands for, where its number tells; else samples may have a third tensor of them."""

    validation: Any | None = None
    """Held out: none of its samples is trained on, as `train`. It is evaluated while training, unless `part` says otherwise."""
    part: EvaluatedOn | None = None
    """What a spec wants evaluated while training; None: the validation part where there is one."""

    examples: Tree | None = None
    """A few real samples, as the model gets them, for trying a model: it may refuse zeros, or divide by them."""

    def blank(self, size: int, device: torch.device) -> Tree:
        """`size` samples that stand for any, of zeros or of the examples, as the model would get them, with labels."""
        if self.examples is not None:
            chosen = torch.arange(size, device=device) % num_samples(self.examples)
            return map_leaves(lambda leaf: leaf.to(device)[chosen], self.examples)
        inputs = torch.zeros((size, *self.input_shape), dtype=self.input_dtype, device=device)
        return inputs, torch.zeros(size, dtype=torch.int64, device=device)

    @property
    def num_outputs(self) -> int | None:
        """Numbers that a model gives for each sample, or for each token of it; None where the data do not tell."""
        return self.num_classes or self.for_model.get("num_outputs") or self.for_model.get("vocabulary_size")

    @property
    def knows_text_bytes(self) -> bool:
        """Of tokens: whether it is known how many bytes of text they stand for."""
        return bool(self.bytes_per_token) or [name for name, _, _ in self.sample_leaves] == ["0", "1", "2"]

    @property
    def sequence_length(self) -> int | None:
        """Tokens of each sample: what the data say, or else how long a sample of one row of whole numbers is; None for other samples."""
        is_row = len(self.input_shape) == 1 and self.input_dtype in {torch.int32, torch.int64}
        return self.for_model.get("sequence_length") or (self.input_shape[0] if is_row else None)

    @property
    def parts(self) -> dict[str, Any]:
        """The parts that there are, by what sentences call them."""
        held_out = {} if self.validation is None else {"validation": self.validation}
        return {"training": self.train, **held_out, "test": self.test}

    @property
    def num_validation_samples(self) -> int | None:
        """None where there is no validation part."""
        return None if self.validation is None else len(self.validation)

    @property
    def evaluated_on(self) -> EvaluatedOn:
        """The name of the part that is evaluated while training."""
        return self.part or ("test" if self.validation is None else "validation")

    @property
    def evaluated(self) -> Any:
        """The part that is evaluated while training."""
        return self.parts[self.evaluated_on]

    @property
    def is_in_memory(self) -> bool:
        """Whether all parts are held whole as tensors."""
        return all(isinstance(part, Tensors) for part in self.parts.values())

    @property
    def normalises(self) -> bool:
        """Whether uint8 images are brought to zero mean and unit variance: all parts alike, where any is held whole."""
        return any(
            (isinstance(part, Images) and part.inputs.dtype == torch.uint8)
            or (isinstance(part, Tensors) and bool(self.mean) and leaves(part.batch)[0].dtype == torch.uint8)
            for part in self.parts.values()
        )  # fmt: skip

    @property
    def channel_moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of images in 0 ... 1, that uint8 images are normalised by."""
        channels = self.input_shape[0]
        return self.mean or (0.5,) * channels, self.std or (0.25,) * channels

    def kind_of(self, part: Any) -> str:
        """The name of a part of this data set in a sentence."""
        return next((kind for kind, own in self.parts.items() if own is part), "test")


def are_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether a sample's shape is (height, width, channels) by all appearances: 1, 3 or 4 channels, and more than so many rows and columns."""
    return len(shape) == 3 and shape[2] in {1, 3, 4} and min(shape[:2]) > 4


def refuse_bad_labels(
    labels: Tensor, num_classes: int, field: str, hint: str = "The file is damaged or of another data set; fetch it again.", kind: str = ""
) -> None:
    """Raise DataError for a label that is no class, naming the first."""
    is_wrong = (labels < 0) | (labels >= num_classes)
    if bool(is_wrong.any()):
        index = int(torch.nonzero(is_wrong)[0])
        subject = f"{kind} sample {index}".lstrip()
        extent = f"{int(is_wrong.sum())} of {len(labels)} labels are out of range"
        raise DataError(field, f"label {int(labels[index])} of {subject} is not in 0 ... {num_classes - 1} ({extent}).", hint)

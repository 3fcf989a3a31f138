"""Describes a data set to the engine; its samples are held as tensors or read one by one."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from largebatch.jobs.errors import DataError


@dataclass(frozen=True)
class Images:
    """Samples that fit in memory, or on the device, whole.

    Args:
        inputs: (n, C, H, W) uint8 images, or any other shape and dtype for inputs that need no scaling.
        labels: (n,), int64, 0 ... num_classes - 1.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_bytes(self) -> int:
        """Memory of inputs and labels."""
        return self.inputs.nbytes + self.labels.nbytes


@dataclass(frozen=True)
class Dataset:
    """A training set and a test set.

    Args:
        train, test: `Images`, or any map-style data set of (input tensor, label).
        num_classes: number of labels.
        mean, std: per channel, of inputs scaled to 0 ... 1; uint8 images are normalised with them.
    """

    name: str
    train: Any
    test: Any
    num_classes: int
    input_shape: tuple[int, ...]
    """One sample's shape."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    input_dtype: torch.dtype = torch.float32
    """Type of the inputs that the model gets; uint8 images are normalised to float32 first."""
    notices: tuple[str, ...] = ()
    """Sentences that a person should read before the data are trained on."""

    examples: Tensor | None = None
    """A few real samples, as the model gets them, for trying a person's own model: it may refuse zeros, or divide by them."""

    def blank(self, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """`size` samples that stand for any, of zeros or of the examples, as the model would get them, with labels."""
        labels = torch.zeros(size, dtype=torch.int64, device=device)
        if self.examples is not None:
            return self.examples.to(device)[torch.arange(size, device=device) % len(self.examples)], labels
        return torch.zeros((size, *self.input_shape), dtype=self.input_dtype, device=device), labels

    @property
    def is_in_memory(self) -> bool:
        """Whether both sets are held whole as tensors."""
        return isinstance(self.train, Images) and isinstance(self.test, Images)

    @property
    def normalises(self) -> bool:
        """Whether uint8 images are brought to zero mean and unit variance: both parts alike, where either is held whole."""
        return any(isinstance(part, Images) and part.inputs.dtype == torch.uint8 for part in (self.train, self.test))

    @property
    def sample_dtype(self) -> torch.dtype:
        """Type of the samples before they are made ready for the model."""
        return torch.uint8 if self.normalises else self.input_dtype

    def kind_of(self, part: Any) -> str:
        """The name of a part of this data set in a sentence."""
        return "training" if part is self.train else "test"


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

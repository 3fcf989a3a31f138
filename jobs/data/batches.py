"""Cuts micro-batches out of sets held whole; `Batches` is what every source of micro-batches promises.

What `read(slice)` returns depends on (seed, slice) alone.
"""

from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Protocol

import torch
from torch import Tensor

from largebatch.jobs.data.augment import augment, augments
from largebatch.jobs.data.dataset import Dataset, Images
from largebatch.jobs.data.keyed_random import sample_order
from largebatch.jobs.plan.step_plan import Slice
from largebatch.jobs.spec.train_spec import AugmentSpec


class Batches(Protocol):
    """A source of micro-batches."""

    def read(self, samples: Slice) -> tuple[Tensor, Tensor]:
        """Inputs (n, ...) and labels (n,) int64 of `samples`, on the device, ready for the model."""


@dataclass(eq=False)
class DeviceBatches:
    """A set that lies on the device whole (or in host memory if it does not fit): select, augment, normalise.

    Args:
        augment_spec: None for evaluation: samples in the file's order, unchanged.
    """

    part: InitVar[Images]
    dataset: InitVar[Dataset]
    device: torch.device
    _: KW_ONLY
    channels_last: bool
    seed: int = 0
    augment_spec: AugmentSpec | None = None

    def __post_init__(self, part: Images, dataset: Dataset) -> None:
        self._home = self.device if fits_on(self.device, part.num_bytes) else torch.device("cpu")
        self._inputs, self._labels = part.inputs.to(self._home), part.labels.to(self._home)
        self._normalise = normalisation_of(dataset, self.device)
        self._epoch = -1

    def read(self, samples: Slice) -> tuple[Tensor, Tensor]:
        """See `Batches`."""
        if self.augment_spec is None:
            inputs, labels = self._inputs[samples.start : samples.stop], self._labels[samples.start : samples.stop]
            inputs = inputs if self._normalise else inputs.clone()
        else:
            if samples.epoch != self._epoch:
                self._epoch, self._order = samples.epoch, sample_order(self.seed, samples.epoch, len(self._labels)).to(self._home)
            indices = self._order[samples.start : samples.stop]
            inputs, labels = self._inputs.index_select(0, indices), self._labels.index_select(0, indices)
            if augments(self.augment_spec):
                inputs = augment(inputs, indices, samples.epoch, self.seed, self.augment_spec)
        inputs, labels = inputs.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        return ready_for_model(inputs, self._normalise, self.channels_last), labels


def fits_on(device: torch.device, num_bytes: int) -> bool:
    """Whether a set of this size may lie on the device: at most a quarter of its memory."""
    return device.type != "cuda" or num_bytes <= torch.cuda.get_device_properties(device).total_memory // 4


def normalisation_of(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """(scale, shift), each (C, 1, 1), that take uint8 images to zero mean and unit variance; None for other inputs."""
    if not dataset.normalises:
        return None
    channels = dataset.input_shape[0]
    mean = torch.tensor(dataset.mean or (0.5,) * channels, device=device).reshape(-1, 1, 1)
    std = torch.tensor(dataset.std or (0.25,) * channels, device=device).reshape(-1, 1, 1)
    return 1.0 / (255.0 * std), -mean / std


def ready_for_model(inputs: Tensor, normalisation: tuple[Tensor, Tensor] | None, channels_last: bool) -> Tensor:
    """Inputs on the device as the model gets them."""
    if normalisation:
        scale, shift = normalisation
        inputs = inputs.to(torch.float32).mul_(scale).add_(shift)
    form = torch.channels_last if channels_last and inputs.ndim == 4 else torch.contiguous_format
    return inputs.contiguous(memory_format=form)

"""Cuts micro-batches out of sets held whole; `Batches` is what every source of micro-batches promises.

What `read(slice)` returns depends on (seed, slice) alone.
"""

from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Protocol

import torch
from torch import Tensor

from largebatch.jobs.data.augment import augment, augments
from largebatch.jobs.samples.dataset import Dataset, Held, Tensors
from largebatch.jobs.samples.keyed_random import sample_order
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, map_first, map_leaves
from largebatch.jobs.spec.model_and_data import AugmentSpec


class Batches(Protocol):
    """A source of micro-batches."""

    def read(self, samples: Slice) -> Tree:
        """A tree of tensors, each (n, ...), of `samples`, on the device, ready for the model; (inputs, labels) for classification."""


@dataclass(eq=False)
class DeviceBatches:
    """A set that lies on the device whole (or in host memory if it does not fit): select, augment, normalise.

    Args:
        augment_spec: None for evaluation: samples in the file's order, unchanged.
    """

    part: InitVar[Held]
    dataset: InitVar[Dataset]
    device: torch.device
    _: KW_ONLY
    channels_last: bool
    seed: int = 0
    augment_spec: AugmentSpec | None = None

    def __post_init__(self, part: Held, dataset: Dataset) -> None:
        home = self.device if fits_on(self.device, part.num_bytes) else torch.device("cpu")
        self._part = part.to(home)
        self._home = home if isinstance(part, Tensors) else torch.device("cpu")
        self._normalise = normalisation_of(dataset, self.device)
        self._epoch: int | None = None
        """Whose order is held; None: nothing has been read."""

    def read(self, samples: Slice) -> Tree:
        """See `Batches`."""
        if self.augment_spec is None:
            batch = self._part.gather(torch.arange(samples.start, samples.stop, device=self._home))
        else:
            if samples.epoch != self._epoch:
                self._epoch, self._order = samples.epoch, sample_order(self.seed, samples.epoch, len(self._part)).to(self._home)
            indices = self._order[samples.start : samples.stop]
            batch = self._part.gather(indices)
            if augments(self.augment_spec):
                spec, epoch = self.augment_spec, samples.epoch
                batch = map_first(lambda inputs: augment(inputs, indices, epoch, self.seed, spec), batch)
        return on_device(batch, self.device, self._normalise, self.channels_last)


def fits_on(device: torch.device, num_bytes: int) -> bool:
    """Whether a set of this size may lie on the device: at most a quarter of its memory."""
    return device.type != "cuda" or num_bytes <= torch.cuda.get_device_properties(device).total_memory // 4


def normalisation_of(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """(scale, shift), each (C, 1, 1), that take uint8 images to zero mean and unit variance; None for other inputs."""
    if not dataset.normalises:
        return None
    mean, std = (torch.tensor(moment, device=device).reshape(-1, 1, 1) for moment in dataset.channel_moments)
    return 1.0 / (255.0 * std), -mean / std


def on_device(batch: Tree, device: torch.device, normalisation: tuple[Tensor, Tensor] | None, channels_last: bool) -> Tree:
    """A batch on the device as the model gets it: its first tensor normalised, images in channels-last order where that is asked for."""
    laid = in_channels_last if channels_last else Tensor.contiguous
    if normalisation:
        scale, shift = normalisation
        batch = map_first(lambda inputs: inputs.to(device, non_blocking=True).to(torch.float32).mul_(scale).add_(shift), batch)
    return map_leaves(lambda leaf: laid(leaf.to(device, non_blocking=True)), batch)


def in_channels_last(tensor: Tensor) -> Tensor:
    """A tensor of images in channels-last order; any other contiguous."""
    return tensor.contiguous(memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format)

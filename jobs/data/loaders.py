"""Micro-batches on the device: from sets held whole, or read sample by sample.

Both give the same promise: what `read(slice)` returns depends on (seed, slice) alone.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from largebatch.jobs.data.augment import augment, augments
from largebatch.jobs.data.dataset import Dataset, Images
from largebatch.jobs.data.keyed_random import key, sample_order, seed_draws
from largebatch.jobs.data.reading import NO_ASKING, Patience, read_ahead, shared
from largebatch.jobs.data.samples import SampleForm, read_sample, refuse_other_form
from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.plan.step_plan import Slice
from largebatch.jobs.spec.train_spec import AugmentSpec

CHUNK = 32
"""Samples that a loader process hands over at a time."""


class Batches(Protocol):
    """Where the engine gets its samples from."""

    def read(self, samples: Slice) -> tuple[Tensor, Tensor]:
        """Inputs (n, ...) and labels (n,) int64 of `samples`, on the device, ready for the model."""
        ...


class DeviceBatches:
    """A set that lies on the device whole (or in host memory if it does not fit): select, augment, normalise.

    Args:
        augment_spec: None for evaluation: samples in the file's order, unchanged.
    """

    def __init__(
        self,
        part: Images,
        dataset: Dataset,
        device: torch.device,
        *,
        channels_last: bool,
        seed: int = 0,
        augment_spec: AugmentSpec | None = None,
    ) -> None:
        self._home = device if fits_on(device, part.num_bytes) else torch.device("cpu")
        self._inputs, self._labels = part.inputs.to(self._home), part.labels.to(self._home)
        self._device, self._channels_last = device, channels_last
        self._seed, self._augment = seed, augment_spec
        self._epoch, self._order, self._ordered_labels = -1, torch.empty(0, dtype=torch.int64), self._labels
        self._normalise = _normalisation(dataset, device)

    def read(self, samples: Slice) -> tuple[Tensor, Tensor]:
        """See `Batches`."""
        if self._augment is None:
            inputs, labels = self._inputs[samples.start : samples.stop], self._labels[samples.start : samples.stop]
            inputs = inputs if self._normalise else inputs.clone()
        else:
            self._begin_epoch(samples.epoch)
            indices, labels = self._order[samples.start : samples.stop], self._ordered_labels[samples.start : samples.stop]
            inputs = self._inputs.index_select(0, indices)
            if augments(self._augment):
                inputs = augment(inputs, indices, samples.epoch, self._seed, self._augment)
        inputs, labels = inputs.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
        return _ready(inputs, self._normalise, self._channels_last), labels

    def _begin_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._order = sample_order(self._seed, epoch, len(self._labels)).to(self._home)
            self._ordered_labels = self._labels.index_select(0, self._order)
            self._epoch = epoch


class LoaderBatches:
    """A set that is read sample by sample, ahead of need, by torch's DataLoader.

    The reading processes follow this rank's stream of samples; a slice out of turn (a resume, a repeated step)
    starts them anew from there. Each sample is read under random seeds of its own.

    Args:
        stream: what will be read from the beginning of an epoch on, as slices in order, without end.
        patience: what a wait for samples asks and tells.
    """

    def __init__(
        self,
        part: Any,
        dataset: Dataset,
        device: torch.device,
        *,
        num_workers: int,
        stream: "Stream",
        channels_last: bool,
        seed: int = 0,
        shuffles: bool = True,
        patience: Patience = NO_ASKING,
    ) -> None:
        self._part, self._dataset, self._device = part, dataset, device
        self._num_workers, self._stream = num_workers, stream
        self._channels_last, self._seed, self._shuffles = channels_last, seed, shuffles
        self._normalise = _normalisation(dataset, device)
        self._patience = patience
        self._expected: Iterator[Slice] = iter(())
        self._next = Slice(-1, 0, 0)
        self._chunks: Iterator[Any] = iter(())
        self._inputs, self._labels = torch.empty(0), torch.empty(0, dtype=torch.int64)

    def read(self, samples: Slice) -> tuple[Tensor, Tensor]:
        """See `Batches`. Raises: DataError for a sample that cannot be read; FaultError where reading processes fail."""
        if (self._next.epoch, self._next.start) != (samples.epoch, samples.start):
            self._start_at(samples)
        inputs, labels = [self._inputs], [self._labels]
        have = len(self._labels)
        while have < samples.size:
            chunk = next(self._chunks)
            if isinstance(chunk, LargebatchError):
                self._chunks = iter(())  # end the reading processes now, not when the error is forgotten
                raise chunk
            inputs.append(chunk[0])
            labels.append(chunk[1])
            have += len(chunk[1])
        all_inputs, all_labels = torch.cat([i for i in inputs if len(i)]), torch.cat(labels)
        self._inputs, self._labels = all_inputs[samples.size :], all_labels[samples.size :]
        self._next = Slice(samples.epoch, samples.stop, self._next.stop)
        while not self._next.size:
            self._next = next(self._expected)
        own_inputs, own_labels = (tensor.to(self._device, non_blocking=True) for tensor in (all_inputs[: samples.size], all_labels[: samples.size]))
        return _ready(own_inputs, self._normalise, self._channels_last), own_labels

    def _start_at(self, samples: Slice) -> None:
        self._chunks = iter(())  # processes of before end before others begin
        self._chunks = read_ahead(
            SeededSamples(self._part, self._dataset, self._seed),
            _Order(self._seed, samples, len(self._part), self._stream, self._shuffles),
            _collate,
            chunk=CHUNK,
            num_workers=self._num_workers,
            is_pinned=self._device.type == "cuda",
            patience=self._patience,
        )
        self._expected = slices_from(self._stream, samples)
        self._next = next(self._expected)
        self._inputs, self._labels = torch.empty(0), torch.empty(0, dtype=torch.int64)


def first_samples(part: Any, dataset: Dataset, num_samples: int, device: torch.device, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a part's first few samples, on the device, as evaluation gets them. Raises: DataError."""
    size = min(num_samples, len(part))
    if isinstance(part, Images):
        few = Images(part.inputs[:size], part.labels[:size])
        return DeviceBatches(few, dataset, device, channels_last=channels_last).read(Slice(0, 0, size))
    samples = SeededSamples(part, dataset, 0)
    read = _collate([samples[0, index] for index in range(size)])
    if isinstance(read, LargebatchError):
        raise read
    return _ready(read[0].to(device), _normalisation(dataset, device), channels_last), read[1].to(device)


Stream = Callable[[int], Iterator[Slice]]
"""From an epoch to what one rank reads from its beginning on; slices may be empty, and never end."""


def slices_from(stream: Stream, first: Slice) -> Iterator[Slice]:
    """The stream from the first sample of `first` on, empty slices left out."""
    has_begun = False
    for share in stream(first.epoch):
        if not has_begun:
            if share.epoch == first.epoch and share.stop <= first.start:
                continue
            has_begun = True
            share = Slice(share.epoch, max(share.start, first.start), share.stop) if share.epoch == first.epoch else share
        if share.size:
            yield share


class _Order(torch.utils.data.Sampler[tuple[int, int]]):
    """(epoch, sample index), from a place in the stream on, for ever."""

    def __init__(self, seed: int, first: Slice, num_samples: int, stream: Stream, shuffles: bool) -> None:
        self._seed, self._first, self._num_samples = seed, first, num_samples
        self._stream, self._shuffles = stream, shuffles

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, list(range(self._num_samples))
        for share in slices_from(self._stream, self._first):
            if self._shuffles and share.epoch != epoch:
                epoch, order = share.epoch, sample_order(self._seed, share.epoch, self._num_samples).tolist()
            yield from ((share.epoch, index) for index in order[share.start : share.stop])


class SeededSamples(torch.utils.data.Dataset[Any]):
    """A part whose samples are drawn under seeds from (seed, epoch, index); an error is handed on, not raised."""

    def __init__(self, part: Any, dataset: Dataset, seed: int) -> None:
        self._part, self._seed = part, seed
        self._form, self._name, self._kind = SampleForm.of(dataset), dataset.name, dataset.kind_of(part)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        epoch, index = place
        sample_key = key(self._seed, "sample", epoch, index)
        seed_draws(sample_key, torch.device("cpu"))
        random.seed(sample_key)
        np.random.seed(sample_key % 2**32)
        try:
            sample = read_sample(self._part, index, self._name, self._kind)
            refuse_other_form(sample, index, self._form, self._name, self._kind)
        except LargebatchError as error:
            return error
        return sample


def _collate(samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, LargebatchError):
            return sample
    return shared((torch.stack([inputs for inputs, _ in samples]), torch.tensor([label for _, label in samples])))


def fits_on(device: torch.device, num_bytes: int) -> bool:
    """Whether a set of this size may lie on the device: at most a quarter of its memory."""
    if device.type != "cuda":
        return True
    return num_bytes <= torch.cuda.get_device_properties(device).total_memory // 4


def _normalisation(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """(scale, shift), each (C, 1, 1), that take uint8 images to zero mean and unit variance; None for other inputs."""
    if not dataset.normalises:
        return None
    channels = dataset.input_shape[0]
    mean = torch.tensor(dataset.mean or (0.5,) * channels, device=device).reshape(-1, 1, 1)
    std = torch.tensor(dataset.std or (0.25,) * channels, device=device).reshape(-1, 1, 1)
    return 1.0 / (255.0 * std), -mean / std


def _ready(inputs: Tensor, normalisation: tuple[Tensor, Tensor] | None, channels_last: bool) -> Tensor:
    """Inputs on the device as the model gets them."""
    if normalisation:
        scale, shift = normalisation
        inputs = inputs.to(torch.float32).mul_(scale).add_(shift)
    form = torch.channels_last if channels_last and inputs.ndim == 4 else torch.contiguous_format
    return inputs.contiguous(memory_format=form)

"""Reads micro-batches of sets that give their samples one by one, ahead of need, by torch's DataLoader."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from itertools import chain, dropwhile
from typing import Any

import torch

from largebatch.jobs.data.batches import normalisation_of, on_device
from largebatch.jobs.data.read_sample import SampleForm, read_sample, refuse_other_form
from largebatch.jobs.data.reading import NO_ASKING, Patience, ReadingProcesses, leave_the_terminal_to_the_trainer, shared
from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.samples.dataset import Dataset, Held
from largebatch.jobs.samples.keyed_random import key, sample_order, seed_all_draws
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, joined, map_leaves, num_samples, rows

CHUNK = 32
"""Samples that a loader process hands over at a time."""
Stream = Callable[[int], Iterator[Slice]]
"""From an epoch to what one rank reads from its beginning on; slices may be empty, and never end."""


@dataclass(eq=False)
class LoaderBatches:
    """A set that is read sample by sample, ahead of need, by torch's DataLoader.

    The reading processes follow this rank's stream of samples; a slice out of turn (a resume, a repeated step)
    starts them anew from there. Each sample is read under random seeds of its own.

    Args:
        stream: what will be read from the beginning of an epoch on, as slices in order, without end.
        patience: whether a wait for samples should stop, and whom it notifies.
    """

    part: Any
    dataset: Dataset
    device: torch.device
    _: KW_ONLY
    num_workers: int
    stream: Stream
    channels_last: bool
    seed: int = 0
    shuffles: bool = True
    patience: Patience = NO_ASKING

    def __post_init__(self) -> None:
        self._normalise = normalisation_of(self.dataset, self.device)
        self._next: Slice | None = None
        """What comes in turn; None: nothing has been read."""
        self._expected: Iterator[Slice] = iter(())
        self._chunks: Iterator[Any] = iter(())
        self._rest: Tree | None = None
        """What was read beyond the last slice."""

    def read(self, samples: Slice) -> Tree:
        """See `Batches`. Raises: DataError for a sample that cannot be read; FaultError where reading processes fail."""
        if self._next is None or (self._next.epoch, self._next.start) != (samples.epoch, samples.start):
            self._next = self._start_at(samples)
        chunks = [] if self._rest is None else [self._rest]
        while sum(map(num_samples, chunks)) < samples.size:
            chunk = next(self._chunks)
            if isinstance(chunk, LargebatchError):
                self._chunks = iter(())  # end the reading processes now, not when the error is forgotten
                raise chunk
            chunks.append(chunk)
        read = joined(chunks)
        self._rest = rows(read, samples.size, num_samples(read)) if num_samples(read) > samples.size else None
        self._next = Slice(samples.epoch, samples.stop, self._next.stop)
        while not self._next.size:
            self._next = next(self._expected)
        return on_device(rows(read, 0, samples.size), self.device, self._normalise, self.channels_last)

    def _start_at(self, samples: Slice) -> Slice:
        """Begin to read; returns what comes first."""
        self._chunks = iter(())  # processes of before end before others begin
        loader: Any = torch.utils.data.DataLoader(
            SeededSamples(self.part, self.dataset, self.seed),
            batch_size=CHUNK,
            sampler=_order(self.seed if self.shuffles else None, len(self.part), slices_from(self.stream, samples)),
            num_workers=self.num_workers,
            collate_fn=_collate,
            worker_init_fn=leave_the_terminal_to_the_trainer,
            pin_memory=self.device.type == "cuda",
            timeout=self.patience.look_every_s if self.num_workers else 0,
        )
        self._chunks = ReadingProcesses(loader, self.patience) if self.num_workers else iter(loader)
        self._expected = slices_from(self.stream, samples)
        self._rest = None
        return next(self._expected)


def first_samples(part: Any, dataset: Dataset, number: int, device: torch.device, channels_last: bool, start: int = 0) -> Tree:
    """A part's first few samples, or the few from `start` on, on the device, as evaluation gets them. Raises: DataError."""
    indices = range(start, min(start + number, len(part)))
    if isinstance(part, Held):
        few = part.gather(torch.tensor(indices))
    else:
        samples = SeededSamples(part, dataset, 0)
        few = _collate([samples[0, index] for index in indices])
        if isinstance(few, LargebatchError):
            raise few
    return on_device(few, device, normalisation_of(dataset, device), channels_last)


def slices_from(stream: Stream, first: Slice) -> Iterator[Slice]:
    """The stream from the first sample of `first` on, empty slices left out."""
    shares = dropwhile(lambda share: share.epoch == first.epoch and share.stop <= first.start, stream(first.epoch))
    share = next(shares)
    if share.epoch == first.epoch:
        share = share._replace(start=max(share.start, first.start))
    yield from (share for share in chain([share], shares) if share.size)


def _order(seed: int | None, num_samples: int, shares: Iterator[Slice]) -> Iterator[tuple[int, int]]:
    """(epoch, sample index) of all samples of the shares, in the order that the seed draws for an epoch, or in the part's own."""
    epoch: int | None = None
    order = list(range(num_samples))
    for share in shares:
        if seed is not None and share.epoch != epoch:
            epoch, order = share.epoch, sample_order(seed, share.epoch, num_samples).tolist()
        yield from ((share.epoch, index) for index in order[share.start : share.stop])


class SeededSamples(torch.utils.data.Dataset[Any]):
    """A part whose samples are drawn under seeds from (seed, epoch, index); an error is handed on, not raised."""

    def __init__(self, part: Any, dataset: Dataset, seed: int) -> None:
        self._part, self._seed = part, seed
        self._form, self._name, self._kind = SampleForm.of(dataset), dataset.name, dataset.kind_of(part)

    def __getitem__(self, position: tuple[int, int]) -> Any:
        epoch, index = position
        seed_all_draws(key(self._seed, "sample", epoch, index))
        try:
            sample = read_sample(self._part, index, self._name, self._kind, self._form.num_classes is not None)
            refuse_other_form(sample, index, self._form, self._name, self._kind)
        except LargebatchError as error:
            return error
        return sample


def _collate(samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, LargebatchError):
            return sample
    return shared(map_leaves(lambda *pieces: torch.stack(pieces), *samples))

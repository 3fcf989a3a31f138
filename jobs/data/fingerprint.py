"""Sums a data set up in few numbers: enough to tell whether two processes, or two days, have the same one.

A run's ranks, its resumes and whatever reads its results load the data anew. A split that nobody seeded, classes
numbered from a set, files in the order of a disk or a table that grew are other data each time, and every number
would look right. A part is told by its length, by some samples at positions that follow from the length alone, and,
where it is held in memory, by all labels and, up to a size, all inputs.

Inputs are told by a projection, not by their bytes: the same normalisation by another number of threads differs in the last bits.
"""

import hashlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from largebatch.jobs.data.loaders import SeededSamples
from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.samples.dataset import Dataset, Held, Tensors
from largebatch.jobs.samples.keyed_random import key, own_draws, uniform
from largebatch.jobs.samples.trees import Tree, leaves, map_leaves

HELD_POSITIONS, READ_POSITIONS = 64, 8
"""Samples that are looked at one by one: of a part held in memory, and of one that is read sample by sample."""
DATA = "data.json"
"""The fingerprint's file in a run's folder."""
MOST_NUMBERS = 2**20
"""Numbers in those samples together: large samples are looked at in fewer positions."""
MOST_HELD_NUMBERS = 2**22
"""Numbers of a part held in memory up to which all are looked at: about 10 ms."""


class Fingerprint(BaseModel):
    """Base of the parts: immutable, a file in the run's folder."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")


class Sketch(Fingerprint):
    """Inputs in two numbers; what is not finite counts as 0."""

    length: float
    """L2 norm."""
    projection: float
    """On fixed weights between -0.5 and 0.5."""


class SampleFingerprint(Fingerprint):
    """Fingerprint of one sample."""

    index: int
    label: int
    shape: tuple[int, ...]
    dtype: str
    sketch: Sketch


class PartFingerprint(Fingerprint):
    """Fingerprint of one part of a data set."""

    num_samples: int
    samples: tuple[SampleFingerprint, ...]
    labels_digest: str | None = None
    """Digest of all labels; None for a part that is read sample by sample."""
    sketch: Sketch | None = None
    """Sketch of all inputs, each sample weighted by its index; None where there are too many."""


class DatasetFingerprint(Fingerprint):
    """Fingerprint of a data set, all its parts."""

    num_classes: int | None = None
    train: PartFingerprint
    test: PartFingerprint
    validation: PartFingerprint | None = None

    @property
    def parts(self) -> dict[str, PartFingerprint]:
        """The parts that there are, by what they are called."""
        held_out = {} if self.validation is None else {"validation": self.validation}
        return {"training": self.train, **held_out, "test": self.test}


def fingerprint(dataset: Dataset, most_held_numbers: int = MOST_HELD_NUMBERS) -> DatasetFingerprint:
    """The fingerprint of the data that this process has. Raises: DataError for a sample that cannot be read."""
    with own_draws():
        parts = {kind: _fingerprint_part(part, dataset, most_held_numbers) for kind, part in dataset.parts.items()}
    return DatasetFingerprint(num_classes=dataset.num_classes, train=parts["training"], test=parts["test"], validation=parts.get("validation"))


def _fingerprint_part(part: Any, dataset: Dataset, most_held_numbers: int) -> PartFingerprint:
    if not isinstance(part, Held):
        samples = tuple(fingerprint_sample(part, dataset, index) for index in _positions(len(part), READ_POSITIONS))
        return PartFingerprint(num_samples=len(part), samples=samples)
    sample_size = _inputs_and_labels(part.gather(torch.tensor([0])), dataset)[0].numel()
    chosen = _positions(len(part), max(min(HELD_POSITIONS, MOST_NUMBERS // max(sample_size, 1)), READ_POSITIONS))
    samples = _samples(chosen, *_inputs_and_labels(part.gather(torch.tensor(chosen)), dataset))
    if not isinstance(part, Tensors):
        return PartFingerprint(num_samples=len(part), samples=samples)
    inputs, labels = _inputs_and_labels(part.batch, dataset)
    digest = hashlib.blake2b(labels.detach().cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()
    sketch = _sketch_of_all(inputs) if sample_size * len(part) <= most_held_numbers else None
    return PartFingerprint(num_samples=len(part), samples=samples, labels_digest=digest, sketch=sketch)


def _inputs_and_labels(batch: Tree, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """What is told of samples: inputs and labels; without classes all numbers of a sample together, and the label 0."""
    if dataset.num_classes is not None:
        inputs, labels = batch
        return inputs, labels
    pieces = leaves(batch)
    numbers = pieces[0] if len(pieces) == 1 else torch.cat([_numbers(piece).reshape(len(piece), -1) for piece in pieces], dim=1)
    return numbers, torch.zeros(len(numbers), dtype=torch.int64)


def _sketch_of_all(inputs: Tensor) -> Sketch:
    sample_weights = _weights(len(inputs))
    squares, total, rows = 0.0, 0.0, max(2**16 // max(math.prod(inputs.shape[1:]), 1), 1)
    for start in range(0, len(inputs), rows):
        numbers = _numbers(inputs[start : start + rows]).reshape(min(rows, len(inputs) - start), -1)
        squares += float(numbers.reshape(-1) @ numbers.reshape(-1))
        total += float(sample_weights[start : start + rows] @ (numbers @ _weights(numbers.shape[1])))
    return Sketch(length=math.sqrt(squares), projection=total)


def fingerprint_sample(part: Any, dataset: Dataset, index: int) -> SampleFingerprint:
    """The fingerprint of one sample of a part that is read sample by sample. Raises: DataError if it cannot be read."""
    sample = SeededSamples(part, dataset, seed=0)[(0, index)]  # whatever the run's own seed: it draws no other data
    if isinstance(sample, LargebatchError):
        raise sample
    return _samples([index], *_inputs_and_labels(map_leaves(lambda leaf: leaf[None], sample), dataset))[0]


def _samples(indices: list[int], inputs: Tensor, labels: Tensor) -> tuple[SampleFingerprint, ...]:
    shape, dtype = tuple(inputs.shape[1:]), str(inputs.dtype).removeprefix("torch.")
    rows = _numbers(inputs).reshape(len(indices), -1)
    sketches = zip(rows.norm(dim=1).tolist(), (rows @ _weights(rows.shape[1])).tolist(), strict=True)
    return tuple(
        SampleFingerprint(index=index, label=label, shape=shape, dtype=dtype, sketch=Sketch(length=length, projection=projection))
        for index, label, (length, projection) in zip(indices, labels.tolist(), sketches, strict=True)
    )


def _numbers(inputs: Tensor) -> Tensor:
    """The numbers of inputs as finite float32 on the CPU."""
    inputs = inputs.detach().cpu()
    numbers = torch.view_as_real(inputs) if inputs.is_complex() else inputs
    return numbers.to(torch.float32).nan_to_num(0.0, 0.0, 0.0)


@lru_cache(maxsize=4)
def _weights(size: int) -> Tensor:
    """Fixed weights between -0.5 and 0.5, the same on every machine."""
    return uniform(key("fingerprint"), torch.arange(size)) - 0.5


def _positions(num_samples: int, number: int) -> list[int]:
    """Positions, `number` at most, that follow from the length alone, in rising order."""
    if num_samples <= number:
        return list(range(num_samples))
    return sorted({int(fraction * num_samples) for fraction in uniform(key("positions"), torch.arange(number)).tolist()})


def read_fingerprint(run_dir: Path) -> DatasetFingerprint | None:
    """The fingerprint that a run's folder keeps; None for a run of an earlier version."""
    try:
        return DatasetFingerprint.model_validate_json((run_dir / DATA).read_bytes())
    except (OSError, ValueError):
        return None

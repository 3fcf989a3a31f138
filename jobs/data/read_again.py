"""Reads some samples of a person's own data set twice: what a sample is must follow from its number and the seeds it is read under."""

from typing import Any

from torch import Tensor

from largebatch.jobs.data.read_sample import read_sample
from largebatch.jobs.errors import DataError
from largebatch.jobs.samples.keyed_random import key, own_draws, seed_all_draws
from largebatch.jobs.samples.trees import Tree, leaves, map_leaves

NUM_SAMPLES = 8
"""Of a part, the first ones, which are looked at before training anyhow, and the last: what half of the readings draw is missed once in 256."""


def read_again(part: Any, field: str, kind: str, has_label: bool) -> str | None:
    """Look at a part that is read sample by sample, without a draw of anybody's generators.

    Returns: a notice, where a sample is another when it is read again under the same seeds.
    Raises: DataError where reading a sample changes one that was read before: in a batch all would be the last.
    """
    numbers = [*range(min(NUM_SAMPLES, len(part)) - 1), len(part) - 1]

    def read(number: int) -> Tree:
        seed_all_draws(key("read again", number))
        return read_sample(part, number, field, kind, has_label)

    with own_draws():
        samples, kept = [], []
        for number in numbers:
            samples.append(read(number))
            kept.append(map_leaves(Tensor.clone, samples[-1]))
        for number, sample, copy in zip(numbers, samples, kept, strict=True):
            if not _are_same(sample, copy):
                problem = f"reading other samples changes what {kind} sample {number} gave: they share memory, and a batch would hold the last alone."
                raise DataError(field, problem, "Give each sample memory of its own, with .clone() of a tensor or .copy() of an array.")
        changed = next((number for number, copy in zip(numbers, kept, strict=True) if not _are_same(read(number), copy)), None)
    if changed is None:
        return None
    why = "it draws from a generator of its own, or keeps something from one reading to the next"
    return (
        f"Data: {kind} sample {changed} is another when it is read again, under the same seeds: {why}. So a resume, or another dataset.num_workers, "
        "gives other samples; what torch's, numpy's and Python's own generators draw belongs to the sample."
    )


def _are_same(sample: Tree, other: Tree) -> bool:
    """Whether two samples hold the same numbers; NaN is the same as NaN."""
    pairs = zip(leaves(sample), leaves(other), strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in pairs)

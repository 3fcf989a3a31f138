"""Compares fingerprints, and refuses data that are not the same: on another rank, after a restart, beside other runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from largebatch.jobs.data.fingerprint import DatasetFingerprint, PartFingerprint, SampleFingerprint, Sketch, fingerprint_sample, read_fingerprint
from largebatch.jobs.errors import DataError
from largebatch.jobs.samples.dataset import Dataset, Held
from largebatch.jobs.samples.keyed_random import own_draws

FIELD = "dataset"
HOW = "Seed the split and sort file lists and class names, so that every process loads the same"
TOLERANCE = 1e-4
"""Of a sample's length (L2). Rounding differs by less, other samples by more."""
NUM_READINGS = 24
"""How often a sample that differs is read again before it is believed: some have randomness that no seed reaches."""


class Difference(NamedTuple):
    """The first thing in which two data sets differ."""

    words: str
    """With `{first}` and `{second}` where the two are named."""
    part: str = ""
    kind: str = ""
    """`length`, `labels` or `inputs`."""
    sample: int | None = None
    """Its index, where it is one sample's."""

    @property
    def is_of_form(self) -> bool:
        """Whether the model, or epochs, order and schedule, are counted in it: no run goes on with another."""
        return not self.kind or (self.kind, self.part) == ("length", "training")

    def between(self, first: str, second: str) -> str:
        """The difference in words. Args: first, second: what the two data sets are called."""
        return self.words.format(first=first, second=second)


def refuse_other_workers_data(dataset: Dataset, taken: DatasetFingerprint, first: DatasetFingerprint, rank: int) -> None:
    """Raise DataError where this rank's data are not rank 0's: the ranks share out one batch of the same samples."""
    change = confirmed_difference(dataset, taken, first) if rank else None
    if change is not None:
        words = change.between(f"on worker {rank}", "on worker 0")
        raise DataError(FIELD, f"differs between workers: {words}.", f"{HOW}; give every machine the same files.")


def refuse_other_data(dataset: Dataset, taken: DatasetFingerprint, run_dir: Path, may_change: bool = False) -> list[str]:
    """Compare this process's data with those that a run began with.

    Returns: where they differ and may, a sentence for the journal; nothing where they do not, or where the run, of an earlier version, kept none.
    Raises: DataError where they differ and may not.
    """
    began_with = read_fingerprint(run_dir)
    change = None if began_with is None else confirmed_difference(dataset, taken, began_with)
    if change is None:
        return []
    words = change.between("now", f"when run {run_dir.name} began")
    if change.is_of_form:
        hint = "Epochs, order and schedule are counted in its samples: bring the data back, or start a new run."
        raise DataError(FIELD, f"has changed: {words}.", hint)
    if not may_change:
        raise DataError(FIELD, f"has changed: {words}.", f"{HOW}; or, where they are meant to change, --set dataset.may_change=true.")
    return [f"The data have changed: {words}. dataset.may_change allows it; accuracies before and after are not of the same data."]


def difference_between_runs(taken: DatasetFingerprint, other: DatasetFingerprint, names: tuple[str, str]) -> str | None:
    """Where two runs' data differ, in words; None if they do not.

    Inputs of a part that was read sample by sample say nothing here: augmentation may differ, and nobody can read them again.
    """
    read_singly = {name for name, part in taken.parts.items() if part.labels_digest is None}
    told = (change for change in differences(taken, other) if not (change.kind == "inputs" and change.part in read_singly))
    return next((change.between(*(f"in {name}" for name in names)) for change in told), None)


def confirmed_difference(dataset: Dataset, taken: DatasetFingerprint, other: DatasetFingerprint) -> Difference | None:
    """The first difference that is one: what a sample draws by itself, out of any seed's reach, is none.

    Args: dataset: of which `taken` was taken; a sample that differs is read again. Raises: DataError for one that cannot be.
    """
    return next((change for change in differences(taken, other) if not _is_drawn(change, dataset)), None)


def _is_drawn(change: Difference, dataset: Dataset) -> bool:
    """Whether the sample that differs also differs from itself, each time that it is read."""
    part = dataset.parts.get(change.part)
    if change.sample is None or isinstance(part, Held):
        return False
    with own_draws():
        first, *others = (fingerprint_sample(part, dataset, change.sample) for _ in range(NUM_READINGS))
    return any(first.label != other.label if change.kind == "labels" else _inputs_differ(first, other) for other in others)


def differences(taken: DatasetFingerprint, other: DatasetFingerprint) -> Iterator[Difference]:
    """The first difference of each kind and part, the graver kinds first."""
    if taken.num_classes != other.num_classes:
        yield Difference(f"{taken.num_classes} classes {{first}}, {other.num_classes} {{second}}")
    if taken.parts.keys() != other.parts.keys():
        has, other_has = ("a" if side.validation else "no" for side in (taken, other))
        yield Difference(f"{has} validation part {{first}}, {other_has} validation part {{second}}")
    for first_of_kind in (_length_difference, _label_difference, _input_difference):
        for name in [name for name in taken.parts if name in other.parts]:
            if (change := first_of_kind(name, taken.parts[name], other.parts[name])) is not None:
                yield change


def _length_difference(name: str, part: PartFingerprint, other: PartFingerprint) -> Difference | None:
    if part.num_samples == other.num_samples:
        return None
    return Difference(f"{part.num_samples:,} {name} samples {{first}}, {other.num_samples:,} {{second}}", name, "length")


def _label_difference(name: str, part: PartFingerprint, other: PartFingerprint) -> Difference | None:
    for sample, twin in _twins(part, other):
        if sample.label != twin.label:
            words = f"the label of {name} sample {sample.index} is {sample.label} {{first}}, {twin.label} {{second}}"
            return Difference(words, name, "labels", sample.index)
    if part.labels_digest and other.labels_digest and part.labels_digest != other.labels_digest:
        return Difference(f"some labels of the {name} samples are others {{first}} than {{second}}", name, "labels")
    return None


def _input_difference(name: str, part: PartFingerprint, other: PartFingerprint) -> Difference | None:
    for sample, twin in _twins(part, other):
        if (sample.shape, sample.dtype) != (twin.shape, twin.dtype):
            form, twin_form = (f"{side.shape} {side.dtype}" for side in (sample, twin))
            return Difference(f"{name} sample {sample.index} is {form} {{first}}, {twin_form} {{second}}", name, "inputs", sample.index)
        if _inputs_differ(sample, twin):
            return Difference(f"{name} sample {sample.index} is another {{first}} than {{second}}", name, "inputs", sample.index)
    if part.sketch is not None and other.sketch is not None and _far_apart(part.sketch, other.sketch):
        return Difference(f"some {name} samples are others {{first}} than {{second}}", name, "inputs")
    return None


def _twins(part: PartFingerprint, other: PartFingerprint) -> Iterator[tuple[SampleFingerprint, SampleFingerprint]]:
    """Samples that both looked at."""
    others = {sample.index: sample for sample in other.samples}
    return ((sample, others[sample.index]) for sample in part.samples if sample.index in others)


def _inputs_differ(sample: SampleFingerprint, other: SampleFingerprint) -> bool:
    return (sample.shape, sample.dtype) != (other.shape, other.dtype) or _far_apart(sample.sketch, other.sketch)


def _far_apart(sketch: Sketch, other: Sketch) -> bool:
    tolerance = TOLERANCE * max(sketch.length, other.length)
    return abs(sketch.length - other.length) > tolerance or abs(sketch.projection - other.projection) > tolerance

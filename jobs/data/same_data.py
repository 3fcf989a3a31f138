"""Refusing data that are not the same: on another rank, after a restart, in another process that reads a run's results."""

from pathlib import Path

from largebatch.jobs.data.dataset import Dataset
from largebatch.jobs.data.fingerprint import DatasetFingerprint, confirmed_difference, difference, read_fingerprint
from largebatch.jobs.errors import DataError

FIELD = "dataset"
HOW = "Seed the split and sort file lists and class names, so that every process loads the same"


def refuse_other_workers_data(dataset: Dataset, taken: DatasetFingerprint, first: DatasetFingerprint, rank: int) -> None:
    """Raise DataError where this rank's data are not rank 0's: the ranks share out one batch of the same samples."""
    change = confirmed_difference(dataset, taken, first) if rank else None
    if change is not None:
        raise DataError(
            FIELD, f"differs between workers: {change.between(f'on worker {rank}', 'on worker 0')}.", f"{HOW}; give every machine the same files."
        )


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
        raise DataError(
            FIELD, f"has changed: {words}.", "Epochs, order and schedule are counted in its samples: bring the data back, or start a new run."
        )
    if not may_change:
        raise DataError(FIELD, f"has changed: {words}.", f"{HOW}; or, where they are meant to change, --set dataset.may_change=true.")
    return [f"The data have changed: {words}. dataset.may_change allows it; accuracies before and after are not of the same data."]


def difference_between_runs(taken: DatasetFingerprint, other: DatasetFingerprint, names: tuple[str, str]) -> str | None:
    """Where two runs' data differ, in words; None if they do not.

    Inputs of a part that was read sample by sample say nothing here: augmentation may differ, and nobody can read them again.
    """
    read = frozenset(("inputs", name) for name, part in taken.parts if part.labels_digest is None)
    change = difference(taken, other, read)
    return None if change is None else change.between(*(f"in {name}" for name in names))

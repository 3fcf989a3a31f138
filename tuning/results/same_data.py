"""Runs that are compared were trained and tested on the same data, or they are told apart.

Each run loads its data in a process of its own: what `load` draws without a seed makes another test set of every one.
"""

from collections.abc import Sequence
from dataclasses import replace

from largebatch.jobs.data.fingerprint import DatasetFingerprint, read_fingerprint
from largebatch.jobs.data.same_data import difference_between_runs
from largebatch.tuning.results.run_result import RunResult


def told_apart(results: Sequence[RunResult]) -> list[RunResult]:
    """The same runs; one whose data are not those of an earlier run of that data set's name gets a data set of another name.

    Runs of earlier versions kept no fingerprint, and are taken as they say.
    """
    firsts: dict[str, list[tuple[str, DatasetFingerprint, str]]] = {}
    return [_named(result, firsts.setdefault(result.dataset, [])) for result in results]


def _named(result: RunResult, firsts: list[tuple[str, DatasetFingerprint, str]]) -> RunResult:
    """Args: firsts: of each kind of data the first run, its fingerprint, and what the data set is called; a new kind is added."""
    fingerprint = read_fingerprint(result.folder) if result.folder else None
    if fingerprint is None:
        return result
    run_id, name, first_difference = result.summary.run_id, result.dataset, None
    for first_id, first_fingerprint, first_name in firsts:
        difference = difference_between_runs(fingerprint, first_fingerprint, (run_id, first_id))
        if difference is None:
            return replace(result, dataset=first_name)
        first_difference = first_difference or difference
    if first_difference is not None:
        name = f"{name} (other data: {first_difference})"
    firsts.append((run_id, fingerprint, name))
    return replace(result, dataset=name)

"""Runs that are compared were trained and tested on the same data, or they are told apart.

Each run loads its data in a process of its own: what `load` draws without a seed makes another test set of every one.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from largebatch.jobs.data.fingerprint import DatasetFingerprint, read_fingerprint
from largebatch.jobs.data.same_data import FIELD, HOW, difference_between_runs
from largebatch.jobs.errors import DataError
from largebatch.jobs.run import run_folder
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.collect import RunResult


def told_apart(results: Sequence[RunResult]) -> list[RunResult]:
    """The same runs; one whose data are not those of an earlier run of that data set's name gets a data set of another name.

    Runs of earlier versions kept no fingerprint, and are taken as they say.
    """
    firsts: dict[str, list[tuple[str, DatasetFingerprint, str]]] = {}
    return [_named(result, firsts.setdefault(result.dataset, [])) for result in results]


def _named(result: RunResult, firsts: list[tuple[str, DatasetFingerprint, str]]) -> RunResult:
    """Args: firsts: of each kind of data the first run, its fingerprint, and what the data set is called; a new kind is added."""
    taken = read_fingerprint(result.folder) if result.folder else None
    if taken is None:
        return result
    run_id, name, words = result.summary.run_id, result.dataset, None
    for first_id, other, called in firsts:
        words_here = difference_between_runs(taken, other, (run_id, first_id))
        if words_here is None:
            return replace(result, dataset=called)
        words = words or words_here
    if words is not None:
        name = f"{name} (other data: {words})"
    firsts.append((run_id, taken, name))
    return replace(result, dataset=name)


def refuse_unlike_others(taken: DatasetFingerprint, spec: TrainSpec, folder: Path, run_id: str) -> None:
    """Raise DataError where a sweep's other runs of the same data set have other data: nothing could be compared.

    Args: taken: by the run `run_id` of the sweep in `folder`.
    """
    for path in sorted(folder.glob(f"*/{run_folder.DATA}")):
        other = read_fingerprint(path.parent)
        if path.parent.name == run_id or other is None or _source(path.parent) != _source_of(spec.model_dump(mode="json")):
            continue
        words = difference_between_runs(taken, other, (run_id, path.parent.name))
        if words is not None:
            raise DataError(FIELD, f"differs between the sweep's runs: {words}.", f"{HOW}; then begin the sweep anew.")
        return


def _source(run_dir: Path) -> object:
    return _source_of(json.loads((run_dir / run_folder.SPEC).read_text()))


def _source_of(spec: dict[str, dict[str, object]]) -> object:
    return [spec["dataset"][field] for field in ("name", "entry_point", "arguments")]

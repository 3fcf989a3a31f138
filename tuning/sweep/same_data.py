"""Refuses a run of a sweep whose data are not those of the sweep's other runs: nothing could be compared."""

import json
from pathlib import Path

from largebatch.jobs.data.fingerprint import DatasetFingerprint, read_fingerprint
from largebatch.jobs.data.same_data import FIELD, HOW, difference_between_runs
from largebatch.jobs.errors import DataError
from largebatch.jobs.run import run_folder
from largebatch.jobs.spec.train_spec import TrainSpec


def refuse_unlike_others(fingerprint: DatasetFingerprint, spec: TrainSpec, folder: Path, run_id: str) -> None:
    """Raise DataError where the sweep's other runs of the same data set have other data.

    Args: fingerprint: of the data of the run `run_id` of the sweep in `folder`.
    """
    for path in sorted(folder.glob(f"*/{run_folder.DATA}")):
        other = read_fingerprint(path.parent)
        if path.parent.name == run_id or other is None or _source(path.parent) != _source_of(spec.model_dump(mode="json")):
            continue
        difference = difference_between_runs(fingerprint, other, (run_id, path.parent.name))
        if difference is not None:
            raise DataError(FIELD, f"differs between the sweep's runs: {difference}.", f"{HOW}; then begin the sweep anew.")
        return


def _source(run_dir: Path) -> object:
    return _source_of(json.loads((run_dir / run_folder.SPEC).read_text()))


def _source_of(spec: dict[str, dict[str, object]]) -> object:
    return [spec["dataset"][field] for field in ("name", "entry_point", "arguments")]

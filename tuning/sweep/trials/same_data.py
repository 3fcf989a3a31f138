"""The runs of a sweep must have the same data: a run that has others is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from largebatch.jobs.data.fingerprint import DATA, DatasetFingerprint, read_fingerprint
from largebatch.jobs.data.same_data import FIELD, HOW, difference_between_runs
from largebatch.jobs.errors import DataError
from largebatch.jobs.run import run_folder
from largebatch.jobs.spec.train_spec import TrainSpec


def refuse_unlike_others(fingerprint: DatasetFingerprint, spec: TrainSpec, folder: Path, run_id: str) -> None:
    """Raise DataError where other runs of the same data set have other data: nothing could be compared.

    Args: fingerprint: of run `run_id` of the sweep in `folder`.
    """
    source = _source(spec.model_dump(mode="json"))
    for path in sorted(folder.glob(f"*/{DATA}")):
        run_dir, other = path.parent, read_fingerprint(path.parent)
        if run_dir.name == run_id or other is None or _source(json.loads((run_dir / run_folder.SPEC).read_text())) != source:
            continue
        difference = difference_between_runs(fingerprint, other, (run_id, run_dir.name))
        if difference is not None:
            raise DataError(FIELD, f"differs between the sweep's runs: {difference}.", f"{HOW}; then begin the sweep anew.")
        return


def _source(spec: Mapping[str, Mapping[str, Any]]) -> object:
    return [spec["dataset"][field] for field in ("name", "entry_point", "arguments")]

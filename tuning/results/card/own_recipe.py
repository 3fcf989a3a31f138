"""A run's recipe as the person wrote it, with what was chosen, and without what a study or a sweep added for itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from largebatch.jobs.run import run_folder
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.text import read_document
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.files import REFERENCE, STUDY, SWEEP_OF_STUDY
from largebatch.tuning.sweep.ledger import BASE, SWEEP, Ledger, begun_sweep
from largebatch.tuning.sweep.space import with_fields

BOOKKEEPING = ("checkpoint.", "evaluation.")
"""Beginnings of the fields that a study sets in its sweep for itself; the others (no rule for the rate, a batch that stays) are of the choice."""


def own_recipe(run_dir: Path) -> TrainSpec:
    """Of a run of a study or a sweep; of any other what it was begun with. Raises: OSError, ValueError, LargebatchError."""
    folder = run_dir.parent
    if run_dir.name == REFERENCE and (folder / STUDY).is_file():
        return _studied(folder)
    trial = next((trial for trial in Ledger(folder).trials if trial.run_id == run_dir.name), None)
    if trial is None or not (folder / BASE).is_file():
        return run_folder.begun_spec(run_dir)
    return with_fields(_base(folder), _without(("seed",), trial.fields))


def _base(folder: Path) -> TrainSpec:
    """What the runs of a sweep have in common, by its folder."""
    if folder.name == SWEEP_OF_STUDY and (folder.parent / STUDY).is_file():
        changed = begun_sweep((folder / SWEEP).read_text()).set
        return with_fields(_studied(folder.parent), _without(BOOKKEEPING, changed))
    return build_spec(read_document(folder / BASE))


def _studied(folder: Path) -> TrainSpec:
    """The recipe that a study was given."""
    return build_spec(read_document(folder / STUDY).get("spec", {}))


def _without(beginnings: tuple[str, ...], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if not name.startswith(beginnings)}

"""What a checkpoint holds of a run, and taking the run up again: from its newest checkpoint, or from step 0 where it was ended before its first."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from largebatch.jobs.engine.model_state import what_is_unsaveable
from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.entry_points import ANYTHING, failed
from largebatch.jobs.errors import CheckpointError, CodeError
from largebatch.jobs.run import checkpoints, run_folder
from largebatch.jobs.run.checkpoint_files import list_checkpoints
from largebatch.jobs.run.journal import evaluations, failure, read_records
from largebatch.jobs.run.records import EndRecord, Outcome
from largebatch.jobs.spec.train_spec import TrainSpec

ENDED_EARLY = "The run was ended before its first checkpoint."
FAILED_EARLY = "The run failed before its first checkpoint"


def take_up(state: TrainState, spec: TrainSpec, run_dir: Path, report: Callable[[str], None], look_at_data: Callable[[], Sequence[str]]) -> list[str]:
    """Bring a state to where the run stands; rank 0 reads, and hands it out.

    Args:
        report: told in words about each damaged checkpoint that was passed over.
        look_at_data: what is to be said of data that changed; raises DataError. Rank 0 is asked.
    Returns: what the journal should say of how the run is taken up.
    Raises: CheckpointError for a checkpoint of another spec or model, or where none of several can be read; DataError.
    """
    folder, ranks = run_dir / run_folder.CHECKPOINTS, state.ranks
    if not ranks.from_first(lambda: bool(list_checkpoints(folder))):
        # Nothing of its state is left, and a run of this name is one spec's and of one data set all the same.
        begun = ranks.from_first(lambda: _begun_with(run_dir))
        ranks.agreed(lambda: checkpoints.refuse_other_spec(begun, spec))
        return [ranks.from_first(lambda: _early_end(run_dir)), *ranks.from_first(look_at_data)]
    loaded = ranks.from_first(lambda: checkpoints.load_newest(folder, torch.device("cpu"), report))
    ranks.agreed(lambda: checkpoints.refuse_other_spec(loaded["spec"], spec))
    reasons = ranks.from_first(look_at_data)
    ranks.agreed(lambda: _take_over(state, loaded["state"]))
    if loaded["spec"]["stop"]["target_accuracy"] != spec.stop.target_accuracy:
        _aim_anew(state, spec, run_dir)
    return [*reasons]


def _begun_with(run_dir: Path) -> dict[str, Any]:
    """The spec that a run without a checkpoint was begun with. Raises: CheckpointError."""
    try:
        spec: dict[str, Any] = json.loads((run_dir / run_folder.SPEC).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "--resume", f"there is no checkpoint in {run_dir}, and what it was begun with cannot be read.", "Start anew."
        ) from error
    return spec


def saved_state(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds. Raises: CodeError if a person's own model cannot say, or says what no checkpoint can keep."""
    doing = f"to be saved after step {state.progress.step}"
    try:
        saved = state.state_dict()
    except ANYTHING as error:
        raise failed("model", error, doing) from error
    if unsaveable := what_is_unsaveable(saved["model"]):
        raise CodeError("model", f"failed {doing}: {unsaveable}")
    return saved


def _early_end(run_dir: Path) -> str:
    """Of what a run without a checkpoint ended: what it says itself, if it could."""
    records = read_records(run_dir)
    has_failed = bool(records) and isinstance(records[-1], EndRecord) and records[-1].summary.outcome is Outcome.FAILED
    reason = failure(records) if has_failed else None
    return f"{FAILED_EARLY}: {reason.rstrip('.')}." if reason else ENDED_EARLY


def _take_over(state: TrainState, saved: dict[str, Any]) -> None:
    """Load a checkpoint of the same spec. Raises: CheckpointError if a person's own model has changed since."""
    try:
        state.load_state_dict(saved)
    except ANYTHING as error:  # a person's own set_extra_state may raise anything
        raise CheckpointError(
            "model", f"the checkpoint does not fit this model: {error}.", "The model's code has changed since; restore it, or start a new run."
        ) from error


def _aim_anew(state: TrainState, spec: TrainSpec, run_dir: Path) -> None:
    """The spec's target is another one than the checkpoint's: what it took to this one stands in the journal, or nowhere yet."""
    target, progress = spec.stop.target_accuracy, state.progress

    def find() -> tuple[int | None, float | None]:
        for record in evaluations(read_records(run_dir)):
            if record.step <= progress.step and target is not None and record.test_accuracy >= target:
                return record.step, record.training_seconds
        return None, None

    progress.steps_to_accuracy, progress.time_to_accuracy_s = state.ranks.from_first(find)

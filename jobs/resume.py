"""What a checkpoint holds of a run, and resuming: from the newest checkpoint, or from step 0 where the run ended before its first.

A checkpoint is `{"spec": ..., "state": ...}` as torch saves it, and is loaded `weights_only`: tensors and plain numbers.
"""

import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from largebatch.jobs.data.same_data import refuse_other_data
from largebatch.jobs.engine.model_state import what_is_unsaveable
from largebatch.jobs.engine.state import TrainState, malformed
from largebatch.jobs.entry_points import ANYTHING, failed
from largebatch.jobs.errors import CheckpointError, CodeError, InputError, SpecError
from largebatch.jobs.models.weights import evaluated_weights
from largebatch.jobs.plan.batch_schedule import ENDING_DECAYS, reads_the_end
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints, read_checkpoint, write_checkpoint
from largebatch.jobs.run.journal import evaluations, failure, read_records
from largebatch.jobs.run.records import EndRecord, Outcome
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.train_spec import StopSpec, TrainSpec

ENDED_EARLY = "The run was ended before its first checkpoint."
FAILED_EARLY = "The run failed before its first checkpoint"
MAY_CHANGE = (
    "name", "description", "stop", "checkpoint", "tracking", "evaluation.every_epochs", "dataset.download", "dataset.num_workers",
    "dataset.may_change", "compile", "model.activation_checkpointing",
)  # fmt: skip
"""What a resumed run may set anew: nothing that changes the mathematics of a step but the budget."""


def saved_state(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a state. Raises: CodeError if a person's own model cannot say, or says what no checkpoint can keep."""
    doing = f"to be saved after step {state.progress.step}"
    try:
        saved = state.state_dict()
    except ANYTHING as error:
        raise failed("model", error, doing) from error
    if unsaveable := what_is_unsaveable(saved["model"]):
        raise CodeError("model", f"failed {doing}: {unsaveable}")
    return saved


def save_checkpoint(folder: Path, state: dict[str, Any], spec: TrainSpec, *, is_best: bool) -> Path:
    """Write a state as a checkpoint and remove those that are no longer kept. Raises: StorageError; the older ones stay."""
    buffer = io.BytesIO()
    torch.save({"spec": spec.model_dump(mode="json"), "state": state}, buffer)
    return write_checkpoint(folder, state["progress"]["step"], buffer.getbuffer(), keep=spec.checkpoint.keep, is_best=is_best)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """One checkpoint's content: `spec` and `state`. Raises: CheckpointError if it is damaged, or whole and not of this form."""
    content = read_checkpoint(path)
    try:
        loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        problem = f"Checkpoint {path.name} cannot be read: it holds more than tensors and plain values, and what else a file brings along is not run."
        raise CheckpointError("--resume", problem) from error
    except Exception as error:  # unpickling strange bytes raises almost anything
        raise CheckpointError("--resume", f"Checkpoint {path.name} cannot be read: {error}.") from error
    if problem := _what_is_malformed(loaded):
        raise CheckpointError("--resume", f"Checkpoint {path.name} is whole, but no checkpoint of a run: {problem}.")
    return loaded


def _what_is_malformed(loaded: Any) -> str:
    """What is wrong with the structure of a checkpoint, in words; empty if nothing is."""
    if not isinstance(loaded, dict) or not isinstance(loaded.get("spec"), dict):
        return "there is no spec in it"
    try:
        build_spec(loaded["spec"])
    except SpecError as error:
        return f"its spec cannot be read ({error.field}: {error.problem.rstrip('.')})"
    return malformed(loaded.get("state"))


def load_newest(
    folder: Path, device: torch.device, report: Callable[[str], None], kinds: Sequence[str] = ("step", "best"), option: str = "--resume"
) -> dict[str, Any]:
    """The content of the newest checkpoint that can be read.

    Args:
        report: told in words about each one that was passed over, damaged or of another form.
        option: what asks for it.
    Raises: CheckpointError naming `option` if there is none.
    """
    checkpoints = [checkpoint for checkpoint in list_checkpoints(folder) if checkpoint.kind in kinds]
    for checkpoint in checkpoints:
        try:
            return load_checkpoint(checkpoint.path, device)
        except CheckpointError as error:
            report(f"{error.problem} Using the one before it.")
    if checkpoints:
        problem = f"none of the {len(checkpoints)} checkpoints in {folder} can be read."
        raise CheckpointError(option, problem, "Start the run again from its spec.json.")
    hint = "The run ended before it saved one, and its records.jsonl says why; start it again from its spec.json."
    raise CheckpointError(option, f"there is no checkpoint in {folder}.", hint)


class RunWeights(NamedTuple):
    """The weights that a run was evaluated with."""

    weights: dict[str, Any]
    kind: str
    """"moving averages" or "weights"."""
    step: int


def weights_of_run(run_dir: Path, best: bool, report: Callable[[str], None], option: str = "--best") -> RunWeights:
    """The weights that a run was evaluated with, of its newest checkpoint or of its best.

    Args: report: told in words about each damaged one that was passed over; option: what asks for the best.
    Raises: InputError for what is no run's folder, or keeps no best checkpoint; CheckpointError.
    """
    if not (run_dir / run_folder.SPEC).is_file():
        raise InputError("RUN", f"{run_dir} is not a run's folder: it has no {run_folder.SPEC}.", "Give the folder that the run printed.")
    run_folder.refuse_recorded(run_dir)
    folder = run_dir / run_folder.CHECKPOINTS
    if best and not any(checkpoint.kind == "best" for checkpoint in list_checkpoints(folder)):
        hint = f"It keeps one from its first evaluation on, unless checkpoint.best is false; leave {option} out for the newest."
        raise InputError(option, f"{run_dir.name} keeps no best checkpoint.", hint)
    state = load_newest(folder, torch.device("cpu"), report, ("best",) if best else ("step", "best"), "RUN")["state"]
    return RunWeights(evaluated_weights(state), "moving averages" if state["average"] else "weights", state["progress"]["step"])


def take_up(job: Prepared, state: TrainState, run_dir: Path, report: Callable[[str], None]) -> list[str]:
    """Bring a state to where the run stands; rank 0 reads, compares the data, and hands it out.

    Args: report: told in words about each damaged checkpoint that was passed over.
    Returns: what the journal should say of how the run is taken up.
    Raises: CheckpointError for a checkpoint of another spec or model, or where none of several can be read; DataError.
    """
    folder, ranks, spec = run_dir / run_folder.CHECKPOINTS, state.ranks, job.spec

    def changes_of_data() -> list[str]:
        return refuse_other_data(job.dataset, job.fingerprint, run_dir, spec.dataset.may_change)

    if not ranks.from_first(lambda: bool(list_checkpoints(folder))):
        # Nothing of its state is left, and a run of this name is one spec's and of one data set all the same.
        first_spec = ranks.from_first(lambda: _first_spec(run_dir))
        ranks.agreed(lambda: refuse_other_spec(first_spec, spec))
        return [ranks.from_first(lambda: _early_end(run_dir)), *ranks.from_first(changes_of_data)]
    checkpoint = ranks.from_first(lambda: load_newest(folder, torch.device("cpu"), report))
    ranks.agreed(lambda: refuse_other_spec(checkpoint["spec"], spec))
    reasons = ranks.from_first(changes_of_data)
    ranks.agreed(lambda: _load_state(state, checkpoint["state"]))
    before = build_spec(checkpoint["spec"]).stop
    reasons = [*reasons, *ranks.agreed(lambda: _moved_end(state, job.plan, before))]
    if (before.target_metric, before.target_score) != (spec.stop.target_metric, spec.stop.target_score):
        _aim_anew(state, spec, run_dir)
    return reasons


def refuse_other_spec(saved: dict[str, Any], spec: TrainSpec) -> None:
    """Raise CheckpointError, naming the first field, if `spec` differs from the saved one in what must not change."""
    # Read anew, a spec of an earlier version has what was added since, as it was understood then.
    for field, (before, after) in sorted(_differences(build_spec(saved).model_dump(mode="json"), spec.model_dump(mode="json")).items()):
        if not any(field == free or field.startswith(f"{free}.") for free in MAY_CHANGE):
            hint = f"A resumed run may change {', '.join(MAY_CHANGE)}; for anything else start a new run."
            raise CheckpointError(field, f"the checkpoint was made with {before!r}, and the spec now says {after!r}.", hint)


def _differences(before: Any, after: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        differences: dict[str, tuple[Any, Any]] = {}
        for name in {*before, *after}:
            differences |= _differences(before.get(name), after.get(name), f"{prefix}.{name}" if prefix else name)
        return differences
    return {} if before == after else {prefix: (before, after)}


def _first_spec(run_dir: Path) -> dict[str, Any]:
    """The spec that a run without a checkpoint was begun with. Raises: CheckpointError."""
    try:
        spec: dict[str, Any] = json.loads((run_dir / run_folder.SPEC).read_text())
    except (OSError, ValueError) as error:
        problem = f"there is no checkpoint in {run_dir}, and what it was begun with cannot be read."
        raise CheckpointError("--resume", problem, "Start anew.") from error
    return spec


def _early_end(run_dir: Path) -> str:
    """Why a run without a checkpoint ended: what it says itself, if it could."""
    records = read_records(run_dir)
    has_failed = bool(records) and isinstance(records[-1], EndRecord) and records[-1].summary.outcome is Outcome.FAILED
    reason = failure(records) if has_failed else None
    return f"{FAILED_EARLY}: {reason.rstrip('.')}." if reason else ENDED_EARLY


def _load_state(state: TrainState, saved: dict[str, Any]) -> None:
    """Load a checkpoint of the same spec. Raises: CheckpointError if a person's own model has changed since."""
    try:
        state.load_state_dict(saved)
    except ANYTHING as error:  # a person's own set_extra_state may raise anything
        hint = "The model's code has changed since; restore it, or start a new run."
        raise CheckpointError("model", f"the checkpoint does not fit this model: {error}.", hint) from error


def _moved_end(state: TrainState, plan: TrainPlan, before: StopSpec) -> list[str]:
    """What the journal should say where the run's end is another than the checkpoint's. Raises: CheckpointError for an end that is passed."""
    spec, progress = plan.spec, state.progress
    moved = [name for name in ("epochs", "steps") if getattr(before, name) != getattr(spec.stop, name)]
    if moved and progress.schedule_samples > plan.total_progress + 1e-6:
        done = f"{progress.step:,} steps, {plan.epochs.at(progress.samples_seen):.4g} epochs"
        hint = "Give a later end, or start a new run."
        raise CheckpointError(f"stop.{moved[0]}", f"the run has done {done} already, more than {getattr(spec.stop, moved[0])} {moved[0]}.", hint)
    if moved and reads_the_end(spec):
        problem = "batch.schedule is read over the whole run, so that with another end the batches so far would have been others."
        raise CheckpointError(f"stop.{moved[0]}", problem, "Leave the end, or start a new run.")
    words = " and ".join(f"stop.{name} is {getattr(spec.stop, name)} now, it was {getattr(before, name)}" for name in moved)
    followed = follow_the_end(spec) if moved else {}
    return [f"{words}: {why}, so from here on {what} is that of a run with this end from its start." for what, why in followed.items()]


def follow_the_end(spec: TrainSpec) -> dict[str, str]:
    """What of each step follows from where the run ends, and why."""
    followed = {"the rate": f"the {spec.learning_rate.decay} decay ends with the run"} if spec.learning_rate.decay in ENDING_DECAYS else {}
    return followed | ({"weight decay": "its time scale is a part of the run"} if spec.optimizer.time_scales else {})


def _aim_anew(state: TrainState, spec: TrainSpec, run_dir: Path) -> None:
    """The spec's target is another one than the checkpoint's: what it took to this one, and the best in its metric, stand in the journal."""
    target, metric, progress = spec.stop.target_score, state.metric, state.progress

    def found() -> tuple[int | None, float | None, float | None, float | None, int]:
        done = [record for record in evaluations(read_records(run_dir)) if record.step <= progress.step and metric.name in record.scores]
        scores = [record.scores[metric.name] for record in done]
        last, best = (scores[-1], metric.best(scores)) if scores else (None, None)
        since_best = len(scores) - 1 - scores.index(best) if best is not None else 0
        for record, score in zip(done, scores, strict=True):
            if target is not None and metric.meets(score, target):
                return record.step, record.training_seconds, last, best, since_best
        return None, None, last, best, since_best

    told = state.ranks.from_first(found)
    progress.steps_to_target, progress.time_to_target_s, progress.score, progress.best_score, progress.evaluations_since_best = told

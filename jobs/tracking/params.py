"""What becomes a parameter, a tag or the note of a run in MLflow."""

import json
from pathlib import Path
from typing import Any

from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import evaluations, failure, read_records
from largebatch.jobs.run.records import Outcome, RunSummary
from largebatch.jobs.spec.train_spec import TrainSpec

PARENT_TAG = "mlflow.parentRunId"
"""By which MLflow nests runs."""
RUN_TAG = "largebatch.run_id"
"""The run's folder's name; what has it is ours, and no sweep's parent."""
SUMMARY_TAG = "largebatch.summary"
"""The whole summary, so that an analysis gets a thousand runs in one answer."""
CURVE_TAG = "largebatch.curve"
"""[step, samples, training seconds, score] of every evaluation, for the same reason; left out where it is too long for a tag."""
FAILURE_TAG = "largebatch.failure"
"""What a run failed of."""
SUPERSEDED_TAG = "largebatch.superseded_from_step"
"""The first step whose metrics MLflow keeps although a resume has undone it, and the run has not come so far again."""
RESUMED = "resumed."
"""Begins the tag of a parameter that a resume has changed, such as `resumed.stop.epochs`: a parameter in MLflow keeps its first value."""
NO_VALUE = "null"
"""Such a tag's value where the spec has the field no longer."""
NOTE_TAG, NOTE, UNDONE = "mlflow.note.content", "Resumed with ", "Undone: "
"""MLflow's description of a run, and how our paragraphs of it begin."""
LONGEST_TAG = 5000
LONGEST_PARAM = 6000


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def spec_params(spec: TrainSpec) -> dict[str, str]:
    """The parameters of a run: every field of its spec that has a value."""
    return {name: str(value)[:LONGEST_PARAM] for name, value in flat(spec.model_dump(mode="json")).items() if value not in (None, {}, [])}


def run_tags(spec: TrainSpec, run_dir: Path) -> dict[str, str]:
    """What a run is found and told apart by."""
    environment = json.loads((run_dir / run_folder.ENVIRONMENT).read_text())
    plan = json.loads((run_dir / run_folder.PLAN).read_text())
    return {
        "largebatch.recipe": spec.name,
        RUN_TAG: run_dir.name,
        "largebatch.global_batch_size": str(plan["global_batch_size"]),
        "largebatch.peak_learning_rate": str(plan["peak_learning_rate"]),
        "largebatch.optimizer": spec.optimizer.label,
        "largebatch.dataset": str(spec.dataset.name or spec.dataset.entry_point),
        "largebatch.device": environment["device"],
        "largebatch.clock": "training seconds; evaluation, checkpoints and kernel warm-up are not counted",
    }


def resumed_tags(params: dict[str, str], first_params: dict[str, str], note: str) -> dict[str, str]:
    """The tags of a run that was resumed with other parameters than it began with; its note is left alone where a person wrote it."""
    changed = {name: params.get(name, NO_VALUE) for name, first in first_params.items() if params.get(name, NO_VALUE) != first}
    tags = {f"{RESUMED}{name}": value[:LONGEST_TAG] for name, value in changed.items()}
    values = ", ".join(f"{name} {value}" for name, value in changed.items())
    text = f"{NOTE}{values}: the parameters show what the run began with, for MLflow's cannot change."
    if changed and (new_note := with_paragraph(note, NOTE, text)) is not None:
        tags[NOTE_TAG] = new_note
    return tags


def as_resumed(params: dict[str, str], tags: dict[str, str]) -> dict[str, str]:
    """The parameters of a run in MLflow as its last resume left them."""
    changed = {name.removeprefix(RESUMED): value for name, value in tags.items() if name.startswith(RESUMED)}
    return {name: value for name, value in (params | changed).items() if value != NO_VALUE}


def undone_note(note: str, first_step: int | None) -> str | None:
    """A run's note that says from which step on MLflow's metrics are of steps that a resume has undone; None: of none, so it says nothing of it."""
    text = "" if first_step is None else (
        f"{UNDONE}steps from {first_step} on, by a resume from an earlier one. MLflow keeps their metrics; final_* are the run's own, at its end."
    )  # fmt: skip
    return with_paragraph(note, UNDONE, text)


def with_paragraph(note: str, beginning: str, text: str) -> str | None:
    """A run's note with a paragraph of ours in place of the one that begins so; empty: without. None: a person wrote it, and it stays."""
    paragraphs = [paragraph for paragraph in note.split("\n\n") if paragraph]
    if not all(paragraph.startswith((NOTE, UNDONE)) for paragraph in paragraphs):
        return None
    kept = [paragraph for paragraph in paragraphs if not paragraph.startswith(beginning)]
    return "\n\n".join([*kept, *filter(None, [text])])[:LONGEST_TAG]


def end_tags(run_dir: Path, summary: RunSummary) -> dict[str, str]:
    """What a run's end adds: how it ended, its summary and its curve."""
    records = read_records(run_dir)
    tags = {"largebatch.outcome": summary.outcome.value, SUMMARY_TAG: summary.model_dump_json()}
    if summary.outcome is Outcome.FAILED and (reason := failure(records)) is not None:
        tags[FAILURE_TAG] = reason[:LONGEST_TAG]
    points = [[point.step, point.samples_seen, round(point.training_seconds, 4), point.score] for point in evaluations(records)]
    curve = json.dumps(points, separators=(",", ":"))
    return tags | ({CURVE_TAG: curve} if len(curve) <= LONGEST_TAG else {})

"""How far a job is, and how far each run of a sweep: from the ends of journals alone, cheap enough to ask of every running job every second."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel

from largebatch.jobs.errors import SpecError
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import parse_line
from largebatch.jobs.run.json_lines import parse_object, read_all_lines, read_last_lines, read_lines
from largebatch.jobs.run.records import EndRecord, EvalRecord, StartRecord, StepRecord
from largebatch.jobs.run.run_folder import CHECKPOINTS, JOURNAL, PLAN, SUMMARY
from largebatch.jobs.tasks.metric import ACCURACY
from largebatch.jobs.tracking.folder_mirror import REPORT
from largebatch.service.job import Described, Job, Kind
from largebatch.tuning.files import PROFILE, REPORT_NUMBERS, SWEEP_OF_STUDY
from largebatch.tuning.study.options import SHARPNESS, SIZED, SOLUTION, STAGES
from largebatch.tuning.sweep.ledger import SWEEP, Ledger, Trial, begun_sweep
from largebatch.tuning.sweep.space import count_runs

TAIL_BYTES = 16_384
NOTICEABLE = 0.02
"""By what part of the larger one a run's last score must be off its best for it to have fallen from there."""
BEST = ("best_score", "best_step")
IS_OVER = "is_over"
"""The key that says that nothing more is trained; what was trained may still be evaluated and sent to MLflow."""
MOST_SHOWN = 16
"""Runs of a sweep whose progress is told live."""


def read_progress(job: Job, folder: Path) -> dict[str, Any]:
    """The newest of everything; empty if nothing is there yet."""
    match job.kind:
        case Kind.SWEEP:
            return _of_sweep(folder)
        case Kind.STUDY:
            return {**_of_sweep(folder / SWEEP_OF_STUDY), **_stage(folder)}
        case Kind.RUN:
            return progress_of_run(folder, job.progress)


def final_progress(job: Job, folder: Path) -> dict[str, Any]:
    """The same of a job that is over: a run that has fallen from its best says from where, a study what its answer is."""
    progress = read_progress(job, folder)
    if progress and job.kind is Kind.RUN:
        return {**progress, **fallen(folder)}
    return {**progress, **_answer(folder)} if job.kind is Kind.STUDY else progress


def _answer(folder: Path) -> dict[str, str]:
    """The title of a study's card, where its report has one."""
    with suppress(OSError, ValueError, TypeError, KeyError):  # of a study that was stopped before, or is of an earlier version
        return {"answer": str(json.loads((folder / SWEEP_OF_STUDY / REPORT / REPORT_NUMBERS).read_text())["card"]["title"])}
    return {}


def fallen(folder: Path) -> dict[str, Any]:
    """The best evaluation of a run that ended noticeably worse; empty for any other."""
    scores: list[tuple[int, float]] = []
    metric = ACCURACY
    try:
        for line in read_all_lines(folder / JOURNAL):
            is_asked = b'"kind":"start"' in line.content or b'"kind":"evaluation"' in line.content
            record = parse_line(line.content) if is_asked else None
            if isinstance(record, StartRecord):  # it went on from there: what came after is superseded
                scores, metric = [told for told in scores if told[0] <= record.step], record.headline.metric
            elif isinstance(record, EvalRecord):
                scores.append((record.step, record.score))
    except OSError:
        return {}
    if not scores:
        return {}
    last, (step, best) = scores[-1][1], max(scores, key=lambda told: metric.goodness(told[1]))
    has_fallen = metric.goodness(best) - metric.goodness(last) > NOTICEABLE * max(abs(best), abs(last))
    return dict(zip(BEST, (best, step), strict=True)) if has_fallen else {}


def sweep_folder(runs_dir: Path, job: Job) -> Path:
    """Where a sweep's runs lie, or those of a study's sweep."""
    return runs_dir / job.id / SWEEP_OF_STUDY if job.kind is Kind.STUDY else runs_dir / job.id


def _stage(folder: Path) -> dict[str, Any]:
    """The stage that a study is at, from what those before have left in its folder."""
    has_begun = [(folder / PROFILE).exists(), (folder / SIZED).exists(), any(folder.glob(f"{SOLUTION}*")), (folder / SHARPNESS).exists()]
    number = 1 + has_begun.index(False) if False in has_begun else len(STAGES)
    return {"stage": number, "stages": len(STAGES), "stage_name": STAGES[number - 1]}


def saved_at_s(job: Job, folder: Path) -> float:
    """When a run wrote its newest checkpoint; when it began, if there is none yet. Unix time."""
    began_s = job.started_at_s or job.created_at_s
    try:
        return max([began_s, *(checkpoint.path.stat().st_mtime for checkpoint in list_checkpoints(folder / CHECKPOINTS))])
    except OSError:  # one of them was just removed for a newer one: the next look sees that
        return time.time()


def progress_of_run(folder: Path, before: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """How far a run is. Args: before: what was known of it."""
    progress = {name: value for name, value in before.items() if name not in BEST}
    try:
        lines = read_last_lines(folder / JOURNAL, TAIL_BYTES)
        if "metric" not in progress:  # the first look at a run that was faster: how it began stands before its last lines
            lines = [*read_lines(folder / JOURNAL, end=TAIL_BYTES), *lines]
    except OSError:  # the next look tries again
        return progress
    done: float | None = None
    for line in lines:
        record = parse_line(line.content)
        if isinstance(record, StartRecord):
            progress.pop(IS_OVER, None)
            progress |= {"step": record.step, "training_seconds": record.training_seconds, "world_size": record.world_size, "hardware": record.device,
                         "metric": record.headline.name}  # fmt: skip
            if record.samples_per_rank:
                progress["global_batch_size"] = sum(record.samples_per_rank)
        elif isinstance(record, StepRecord):
            progress |= {"step": record.step, "epoch": record.epoch, "loss": record.loss, "training_seconds": record.training_seconds}
            done = record.progress
        elif isinstance(record, EvalRecord):
            progress |= {"score": record.score, "training_seconds": record.training_seconds}
        elif isinstance(record, EndRecord):
            progress[IS_OVER] = True
    return {**progress, **_left(folder, done, progress["training_seconds"])} if "step" in progress else progress


def _left(folder: Path, done: float | None, training_seconds: float) -> dict[str, Any]:
    """The plan's number of steps, and the training seconds that are left at the pace so far: fewer where the run meets its target before.

    Args: done: samples, as the schedules count them; None: no step was read.
    """
    plan = read_plan(folder) or {}
    total, samples = plan.get("total_steps"), plan.get("total_samples")
    if not total or not samples:
        return {}
    left_s = training_seconds * max(samples / done - 1, 0.0) if done else None
    return {"total_steps": total, "training_seconds_left": None if left_s is None else round(left_s, 1)}


def read_plan(folder: Path) -> dict[str, Any] | None:
    """What a run's plan decided, in numbers; None before there is one."""
    try:
        return parse_object((folder / PLAN).read_bytes())
    except OSError:
        return None


def _of_sweep(folder: Path) -> dict[str, Any]:
    try:
        runs = [path for path in folder.iterdir() if (path / JOURNAL).exists()]
        over = {path for path in runs if (path / SUMMARY).exists()}
        begun = sorted(set(runs) - over)
        ledger = Ledger(folder)
    except (OSError, ValueError):  # the next look tries again
        return {}
    pruned_or_failed = {trial.run_id for trial in ledger.trials if trial.number in ledger.endings}
    running = {path.name: _of_trial(path) for path in begun if path.name not in pruned_or_failed}
    progress: dict[str, Any] = {}
    with suppress(OSError, SpecError):
        progress = {"total_runs": _num_runs(folder)}
    shown = dict(list(running.items())[:MOST_SHOWN])
    return {**progress, "runs": len(runs), "runs_over": len(over) + len(begun) - len(running), "running": shown}


@lru_cache(maxsize=64)
def _num_runs(folder: Path) -> int:
    """How many runs a sweep has in all, which is settled when it begins. Raises: OSError, SpecError."""
    return count_runs(begun_sweep((folder / SWEEP).read_text()))


def _of_trial(folder: Path) -> dict[str, Any]:
    """How far one run of a sweep is: the facts that a table shows."""
    progress = progress_of_run(folder)
    return {name: progress[name] for name in ("step", "total_steps", "epoch", "score", "training_seconds") if name in progress}


class TrialView(Described):
    """One run of a sweep."""

    number: int
    """In the order in which they were decided on, from 0."""
    run_id: str
    """Also the run's folder among the sweep's artifacts."""
    group: int
    phase: Literal["search", "repeat"]
    fields: dict[str, Any]
    """What it changes in the recipe."""
    state: Literal["waiting", "running", "unfinished", "ended", "pruned", "failed"]
    """unfinished: begun, and the sweep does not run now."""
    why: str = ""
    """Of a failed one."""
    outcome: str | None = None
    """reached, missed, completed or diverged, once it ended by itself."""
    step: int | None = None
    total_steps: int | None = None
    """By the plan, while it has not ended."""
    epoch: float | None = None
    score: float | None = None
    """The newest on what is evaluated; of one that ended, its best."""
    training_seconds: float | None = None
    time_to_target_seconds: float | None = None


class Trials(BaseModel):
    """A page of a sweep's runs."""

    items: list[TrialView]
    next_after: int
    """Where the next page begins."""
    is_complete: bool
    """Whether there was nothing more just now."""


def read_trials(folder: Path, after: int, limit: int, is_active: bool) -> Trials:
    """So many of a sweep's runs. Args: is_active: whether the sweep runs now."""
    ledger = Ledger(folder)
    chosen = ledger.trials[after : after + limit]
    items = [_view(ledger, trial, is_active) for trial in chosen]
    return Trials(items=items, next_after=after + len(chosen), is_complete=after + len(chosen) >= len(ledger.trials))


def _view(ledger: Ledger, trial: Trial, is_active: bool) -> TrialView:
    facts: dict[str, Any] = trial.model_dump(include={"number", "run_id", "group", "phase", "fields"})
    folder, ending, summary = ledger.folder / trial.run_id, ledger.ending(trial), ledger.summary(trial)
    if summary is not None:
        facts |= {
            "outcome": None if ending else str(summary.outcome), "step": summary.steps, "epoch": summary.epochs,
            "score": summary.best_score, "training_seconds": summary.training_seconds,
            "time_to_target_seconds": summary.time_to_target_seconds,
        }  # fmt: skip
    elif (folder / JOURNAL).exists():
        facts |= _of_trial(folder)
    if ending is not None:
        score = ending.score if facts.get("score") is None else facts["score"]
        return TrialView(**{**facts, "state": "pruned" if ending.how == "pruned" else "failed", "why": ending.why, "score": score})
    if summary is not None:
        return TrialView(**facts, state="ended")
    begun = "running" if is_active else "unfinished"
    return TrialView(**{**facts, "state": begun if (folder / JOURNAL).exists() else "waiting"})

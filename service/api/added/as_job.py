"""What a run that was trained elsewhere becomes: a job that is over, of what its files say.

Whatever pages and answers read of a job is read here once, so that a file which none of ours would have written is refused and not kept.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.run.journal import parse_line
from largebatch.jobs.run.json_lines import parse_object, read_all_lines, read_last_lines
from largebatch.jobs.run.records import FAILED, NoticeRecord, Outcome, RunSummary, StartRecord
from largebatch.jobs.run.run_folder import JOURNAL, PLAN, SPEC, SUMMARY
from largebatch.jobs.spec.mistakes import first_mistake
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.recorded import RecordedSpec, is_recorded
from largebatch.jobs.spec.text import OVER_THE_NETWORK, refuse_beyond
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.added_run import HINT
from largebatch.service.api.requests import LARGEST_SPEC, settings_of
from largebatch.service.job import Job, Kind, State
from largebatch.service.present.progress import final_progress, read_plan
from largebatch.service.present.run_files import plan_in_words

LONGEST_REASON = 1000
LATEST_S = 4e9
"""In the year 2096."""
ELSEWHERE = {"mlflow_run_id": None, "run_dir": ""}
"""What of a summary is about another machine."""
NOT_ENDED = "It had not ended when it was added."
ENDINGS = {
    Outcome.DIVERGED: (State.FAILED, "It diverged: the loss or the gradient stopped being finite."),
    Outcome.FAILED: (State.FAILED, "It failed."),
    Outcome.STOPPED: (State.CANCELLED, "It was stopped before its end."),
}
"""What a run that came to no result has become, and why; every other succeeded."""
NOT_OURS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What reading a plan of other shapes than ours ends in."""


def job_of(folder: Path, owner: str, digest: str, num_bytes: int) -> Job:
    """The job that files in a folder tell of. Args: digest: of the files. Raises: InputError for what no run has left."""
    spec, summary, start = _spec_in(folder), _summary_in(folder), _start_in(folder)
    now = time.time()
    told_s = start.at_s if 0 <= start.at_s < LATEST_S else 0.0
    began_s = min(told_s, now)  # a laptop's clock may be ahead
    ended_s = min(began_s + max(summary.wall_seconds, 0.0), now) if summary else now
    state, reason = _ending(folder, summary)
    job = Job(
        id=f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(told_s))}-{digest[:8]}", kind=Kind.RUN, owner=owner, name=spec.name,
        recipe=None, cpus=0.0, gpus=0, state=state, reason=reason, outcome=str(summary.outcome) if summary else None, created_at_s=now,
        started_at_s=began_s, ended_at_s=ended_s, added_bytes=num_bytes, spec=spec.model_dump(mode="json"),
        summary={**summary.model_dump(mode="json"), **ELSEWHERE} if summary else None, **_settings(spec),
    )  # fmt: skip
    try:
        list(plan_in_words(read_plan(folder)))
        job = job.model_copy(update={"progress": final_progress(job, folder)})
    except NOT_OURS as error:
        raise InputError(PLAN, "is not one that largebatch wrote.", HINT) from error
    _refuse_unkeepable(job)
    return job


def _spec_in(folder: Path) -> TrainSpec | RecordedSpec:
    document = parse_object((folder / SPEC).read_bytes())
    if document is None:
        raise InputError(SPEC, "is no JSON object.", HINT)
    refuse_beyond(document, SPEC, OVER_THE_NETWORK)
    try:
        spec = RecordedSpec.model_validate(document) if is_recorded(document) else build_spec(document)
    except ValidationError as error:
        raise first_mistake(error, RecordedSpec) from None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", spec.name):
        raise SpecError("name", f"{spec.name[:100]!r} cannot name a job here.", "Use letters of ASCII, digits, '-', '_' and '.'.")
    return spec


def _settings(spec: TrainSpec | RecordedSpec) -> dict[str, Any]:
    """What lists show and sort by. Raises: SpecError for a recording whose optimizer has no name."""
    if isinstance(spec, TrainSpec):
        return settings_of(spec)
    name, momentum = spec.optimizer.get("name"), spec.optimizer.get("momentum")
    if not isinstance(name, str) or not name:
        raise SpecError("optimizer.name", "is no text.", HINT)
    is_number = isinstance(momentum, int | float) and not isinstance(momentum, bool)
    rate = {"learning_rate": spec.learning_rate.base, "momentum": momentum if is_number else None, "seed": spec.seed}
    return {"global_batch_size": spec.batch.global_batch_size, "optimizer": name[:200], **rate}


def _summary_in(folder: Path) -> RunSummary | None:
    """None where the run has not ended."""
    if not (folder / SUMMARY).is_file():
        return None
    try:
        return RunSummary.model_validate(parse_object((folder / SUMMARY).read_bytes()))
    except ValidationError as error:
        raise InputError(SUMMARY, "is not one that largebatch wrote.", HINT) from error


def _start_in(folder: Path) -> StartRecord:
    """How the run began; lines before it that are none are passed over, as in every journal."""
    for line in read_all_lines(folder / JOURNAL):
        record = parse_line(line.content) if b'"start"' in line.content else None
        if isinstance(record, StartRecord):
            return record
    raise InputError(JOURNAL, "tells of no run that has begun.", HINT)


def _ending(folder: Path, summary: RunSummary | None) -> tuple[State, str | None]:
    """How the run stands, and why."""
    if summary is None:
        return State.CANCELLED, NOT_ENDED
    state, reason = ENDINGS.get(summary.outcome, (State.SUCCEEDED, None))
    if summary.outcome is Outcome.FAILED:
        last = [record.text for line in read_last_lines(folder / JOURNAL) if isinstance(record := parse_line(line.content), NoticeRecord)]
        told = [text.removeprefix(FAILED) for text in last if text.startswith(FAILED)]
        reason = told[-1][:LONGEST_REASON] if told else reason
    return state, reason


def _refuse_unkeepable(job: Job) -> None:
    """Raise InputError for what no row of the database should hold."""
    for field, document in ((SPEC, job.spec), (SUMMARY, job.summary), (JOURNAL, {"progress": job.progress, "reason": job.reason})):
        refuse_beyond(document, field, OVER_THE_NETWORK)
        try:
            size = len(json.dumps(document, allow_nan=False))
        except ValueError:
            raise InputError(field, "holds a number that is not finite.", HINT) from None
        if size > LARGEST_SPEC:
            raise InputError(field, f"tells more than {LARGEST_SPEC >> 10} KiB of the run.", HINT)

"""What a sweep, or the sweep of a study, has to say: its runs one by one, and its answer whole and in parts."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse

from largebatch.jobs.errors import InputError
from largebatch.jobs.run.run_folder import SPEC
from largebatch.jobs.tracking.folder_mirror import REPORT
from largebatch.service.api.auth import Who
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import NotFoundError
from largebatch.service.api.requests import MOST_RUNS
from largebatch.service.api.routes.job_files import confined, named
from largebatch.service.api.routes.jobs import After, Points
from largebatch.service.db.store import ConflictError
from largebatch.service.job import ACTIVE, FINAL, Job, Kind, State
from largebatch.service.present.curves import Series, read_series
from largebatch.service.present.progress import Trials, TrialView, read_trials, sweep_folder
from largebatch.service.present.trial_figures import trial_figures
from largebatch.tuning.results.whole_answer import SweepAdvice, SweepFindings, SweepFrontier
from largebatch.tuning.sweep.ledger import Ledger


def add_answer_routes(router: APIRouter, kind: Kind) -> None:
    """The answers of sweeps or studies."""

    @router.get("/{job_id}/records", **named("records", kind))
    def records(job_id: str, deps: Deps, who: Who, after: After = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> Trials:
        """The sweep's runs that were decided on so far, each with how far it is."""
        job = deps.visible(job_id, kind, who)
        return read_trials(sweep_folder(deps.settings.runs_dir, job), after, limit, job.state in ACTIVE)

    @router.get("/{job_id}/findings", **named("findings", kind))
    def findings(
        job_id: str, deps: Deps, who: Who, figures: Annotated[bool, Query(description="The report's figures too, for plotly.")] = False
    ) -> SweepFindings:
        """All that the runs that have ended say: per batch, frontier, critical batch, advice, and it in words."""
        return findings_of(deps, deps.visible(job_id, kind, who), who.owner, figures)

    @router.get("/{job_id}/figures", **named("figures", kind))
    def figures_of_runs(job_id: str, deps: Deps, who: Who) -> list[dict[str, Any]]:
        """Its runs in figures for plotly, also while it goes on: scores against the learning rate by batch, and their fields side by side."""
        job = deps.visible(job_id, kind, who)
        ledger = Ledger(sweep_folder(deps.settings.runs_dir, job))
        better = next((summary.headline.better for trial in ledger.trials if (summary := ledger.summary(trial)) is not None), "higher")
        return trial_figures(trials_of(deps, job), better)

    @router.get("/{job_id}/runs/{run_id}/series", **named("series_of_run_of", kind))
    def series_of_run(job_id: str, run_id: str, deps: Deps, who: Who, points: Points = 400) -> Series:
        """The curves of one of its runs, as of a run alone."""
        return read_series(trial_folder(deps, deps.visible(job_id, kind, who), run_id)[0], points)

    @router.get("/{job_id}/frontier", **named("frontier", kind))
    def frontier(job_id: str, deps: Deps, who: Who) -> SweepFrontier:
        """The choices that no other beats in both time and samples, or time and accuracy."""
        return findings_of(deps, deps.visible(job_id, kind, who), who.owner)  # the return type says what of them is sent

    @router.get("/{job_id}/advice", **named("advice", kind))
    def advice(job_id: str, deps: Deps, who: Who) -> SweepAdvice:
        """Soonest, cheapest, knee: with the settings that go with them, and in words."""
        return findings_of(deps, deps.visible(job_id, kind, who), who.owner)

    @router.get("/{job_id}/report", response_class=FileResponse, **named("report", kind))
    def report(job_id: str, deps: Deps, who: Who) -> FileResponse:
        """The report, one page that holds everything; there once the job is over."""
        job = deps.visible(job_id, kind, who)
        folder = sweep_folder(deps.settings.runs_dir, job).resolve()
        if not (folder / REPORT / "report.html").is_file():
            if job.state in FINAL:
                raise _ended_without(job, "a report")
            raise ConflictError("", f"this {job.kind} has no report yet.", "It is written when it ends; ask again later.")
        return confined(folder, f"{REPORT}/report.html")


def trial_folder(deps: Dependencies, job: Job, run_id: str) -> tuple[Path, TrialView]:
    """The folder of one of a sweep's runs, and how far it is. Raises: NotFoundError."""
    view = next((trial for trial in trials_of(deps, job) if trial.run_id == run_id), None)
    folder = sweep_folder(deps.settings.runs_dir, job) / run_id
    if view is None or not (folder / SPEC).is_file():
        raise NotFoundError("run_id", f"this {job.kind} has no run {run_id[:100]!r}, or it has not begun.", "Its records list them.")
    return folder, view


def trials_of(deps: Dependencies, job: Job) -> list[TrialView]:
    """All runs that were decided on so far."""
    return read_trials(sweep_folder(deps.settings.runs_dir, job), 0, MOST_RUNS, job.state in ACTIVE).items


def findings_of(deps: Dependencies, job: Job, asker: str, with_figures: bool = False) -> SweepFindings:
    """The answer. Raises: ConflictError where no run has ended."""
    try:
        answer: SweepFindings = deps.analysis_worker.ask("findings", str(sweep_folder(deps.settings.runs_dir, job)), with_figures, asker=asker)
    except InputError as error:
        if job.state in FINAL:
            raise _ended_without(job, "an answer", error.problem) from error
        why = "it waits for its turn" if job.state is State.QUEUED else f"the {job.kind} goes on"
        raise ConflictError("", error.problem, f"Ask again later: {why}.") from error
    return answer


def _ended_without(job: Job, missing: str, why: str = "") -> ConflictError:
    """The refusal where waiting does not help. Args: missing: what the job ended without."""
    reasons = " ".join(filter(None, (why, job.reason))) or "it says no more."
    problem = f"this {job.kind} is over ({job.state}), without {missing}: {reasons}"
    return ConflictError("", problem, "Mend what it says and submit it again, or resume it: runs that have ended are kept.")

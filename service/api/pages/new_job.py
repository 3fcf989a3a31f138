"""The pages that start jobs: plain forms, which work without a script. What was typed stands in the address, so that Back and a reload keep it."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, BinaryIO

import pydantic
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.datastructures import UploadFile

from largebatch.jobs.errors import LargebatchError
from largebatch.service.api.dependencies import Dependencies, Deps
from largebatch.service.api.errors import Mistake, Problem, of_validation, problem_of
from largebatch.service.api.forms.fields import RESOURCES, Here, Typed, View
from largebatch.service.api.forms.run_form import like_another, run_submission, run_view
from largebatch.service.api.forms.study_form import study_submission, study_view
from largebatch.service.api.forms.sweep_form import sweep_submission, sweep_view
from largebatch.service.api.pages.rendering import Visitor, render
from largebatch.service.api.requests import RunSubmit, StudySubmit, Submit, SweepSubmit, job_of_run, job_of_study, job_of_sweep, refuse_code
from largebatch.service.api.routes import runs, studies, sweeps
from largebatch.service.api.routes.code import kept
from largebatch.service.api.routes.jobs import submitted
from largebatch.service.bundle import FIELD as CODE
from largebatch.service.db.tokens import Principal
from largebatch.service.job import Job, Kind
from largebatch.service.settings import Settings

ZIP = "zip"
"""The field in which own code is sent; `code` then holds what it is called."""
PARTS_OF_NAMES = ("set.", "sweep.", "study.", "each.")
"""What a field's name may begin with in an error, and not in a form, or the other way round."""
router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Form:
    """How one kind of job is asked for."""

    kind: Kind
    intro: str
    view: Callable[[Typed, Here], View]
    submission: Callable[[Typed, Here], dict[str, Any]]
    takes: type[Submit]
    job: Callable[[Any, str, Settings], Job]
    plan: Callable[[Any, Dependencies, Principal], Any]


FORMS = {
    "runs": Form(Kind.RUN, "One training run.", run_view, run_submission, RunSubmit, job_of_run, runs.plan),
    "sweeps": Form(
        Kind.SWEEP, "Every combination of what is compared gets the same search over the learning rate.", sweep_view, sweep_submission,
        SweepSubmit, job_of_sweep, sweeps.plan,
    ),
    "studies": Form(
        Kind.STUDY, "Which batch size, optimizer and momentum reach the target soonest, found out within the time that you give.",
        study_view, study_submission, StudySubmit, job_of_study, studies.plan,
    ),
}  # fmt: skip


async def typed_in(request: Request) -> dict[str, str]:
    """What was typed: of the address, or of a form that was sent."""
    sent = request.query_params if request.method == "GET" else await request.form()
    return {name: value for name, value in sent.items() if isinstance(value, str)}


async def zip_in(request: Request) -> BinaryIO | None:
    """The zip of own code that came with a form."""
    sent = (await request.form()).get(ZIP) if request.method == "POST" else None
    return sent.file if isinstance(sent, UploadFile) and sent.filename else None


AsTyped = Annotated[dict[str, str], Depends(typed_in)]
Zip = Annotated[BinaryIO | None, Depends(zip_in)]


def form_page(kinds: str, request: Request, deps: Deps, who: Visitor, typed: AsTyped) -> HTMLResponse:
    """The form, with what was typed so far."""
    here = _here(FORMS[kinds], deps, who)
    return _page(request, FORMS[kinds], who, here, like_another(typed, here) if typed.get("like") and FORMS[kinds].kind is not Kind.SWEEP else typed)


def send(kinds: str, request: Request, deps: Deps, who: Visitor, typed: AsTyped, file: Zip) -> Response:
    """Plan what was typed, or start it, with own code that came along; a mistake is told beside its field.

    Args: who: before what is typed and the zip, since who asks is found out before their body is read.
    """
    form = FORMS[kinds]
    here = _here(form, deps, who)
    try:
        if file is not None:
            who.require("submit")
            refuse_code(deps.settings)
            with file:  # few at a time, as they are all of it in memory then
                typed = {**typed, CODE: deps.writers.submit(kept, deps, file, who).result().sha256}
        submission = _read(form, typed, here)
        if typed.get("do") == "plan":
            return _page(request, form, who, here, typed, plan=form.plan(submission, deps, who))
        who.require("submit")
        job = submitted(deps, form.job(submission, who.owner, deps.settings), who, submission, typed.get("key") or None, Response())
    except LargebatchError as error:
        return _page(request, form, who, here, typed, [problem_of(error), *_beside(error, form, typed, here, who)])
    return RedirectResponse(f"/{kinds}/{job.id}", 303)


@router.get("/plan/wait")
def wait_of_plan(deps: Deps, who: Visitor) -> HTMLResponse:
    """What the plan that somebody has asked for waits for."""
    return HTMLResponse(deps.analysis_worker.wait_in_words(who.owner))


for plural in FORMS:  # before /runs/{job_id}
    router.add_api_route(f"/{plural}/new", partial(form_page, plural), methods=["GET"])
    router.add_api_route(f"/{plural}/new", partial(send, plural), methods=["POST"])


def _here(form: Form, deps: Dependencies, who: Principal) -> Here:
    """Where a form is filled in; another job of its kind, for a run of any, is found as the run that it is, or begins from."""

    def find(job_id: str) -> Job:
        of_any = deps.store.find(job_id) if form.kind is Kind.RUN else None
        job = deps.visible(job_id, of_any.kind if of_any and deps.sees(who, of_any) else form.kind, who)
        return job if job.kind is Kind.RUN else job.model_copy(update={"spec": job.base})

    return Here(find, deps.settings)


def _read(form: Form, typed: Typed, here: Here) -> Submit:
    """The submission. Raises: InputError, with the same words as REST."""
    code = typed.get(CODE, "").strip()
    try:
        return form.takes.model_validate({**form.submission(typed, here), **({CODE: code} if code else {})})
    except pydantic.ValidationError as error:
        raise of_validation(error) from None


def _beside(error: LargebatchError, form: Form, typed: Typed, here: Here, who: Principal) -> list[Problem]:
    """What is wrong in what is to be trained, where something is in what the job holds: that is looked at first."""
    if error.field not in RESOURCES:
        return []
    try:
        form.job(_read(form, {name: text for name, text in typed.items() if name not in RESOURCES}, here), who.owner, here.settings)
    except LargebatchError as other:
        return [problem_of(other)]
    return []


def _page(request: Request, form: Form, who: Principal, here: Here, typed: Typed, problems: Sequence[Problem] = (), plan: Any = None) -> HTMLResponse:
    try:
        view = form.view(typed, here)
    except LargebatchError as error:  # what was chosen is not there: then as the form begins
        view, problems = form.view({}, here), [problem_of(error)]
    names = [CODE, *(field.name for _, fields in view.groups for field in fields)]
    wrong = _by_field([*problems, *(mistake for problem in problems for mistake in problem.others)], names, typed)
    return render(
        request, "new_job.html", 422 if problems else 200, form=form, view=view, wrong=wrong, plan=plan,
        key=secrets.token_hex(16), can_submit=who.may("submit"), entry_points=here.settings.entry_points,
        code=typed.get(CODE, ""),
    )  # fmt: skip


def _by_field(mistakes: Sequence[Problem | Mistake], names: list[str], typed: Typed) -> dict[str, str]:
    """What is wrong, in words, by the form's field that it is about; under "" what is about none."""
    told: dict[str, list[str]] = {}
    for mistake in mistakes:
        field = _field_of(mistake.field, names, typed)
        whose = f"{mistake.field}: " if mistake.field and field in {None, "set"} else ""
        told.setdefault(field or "", []).append(f"{whose}{mistake.problem} {mistake.hint}".strip())
    return {field: " ".join(words) for field, words in told.items()}


def _field_of(blamed: str, names: list[str], typed: Mapping[str, str]) -> str | None:
    """The form's field that an error is about: of the same name, or of the part that it is in; the box for a name that was typed there."""

    def plain(name: str) -> str:
        for part in PARTS_OF_NAMES:
            name = name.removeprefix(part)
        return name.removeprefix("--")

    asked = plain(blamed)
    known = {plain(name): name for name in names} | {"set": "set"}
    parts = asked.split(".")
    for length in range(len(parts), 0, -1):
        if (name := known.get(".".join(parts[:length]))) is not None:
            return name
    within = [name for inner, name in known.items() if asked and inner.startswith(f"{asked}.")]
    return within[0] if within else "set" if asked and asked in typed.get("set", "") else None

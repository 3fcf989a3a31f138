"""Submits jobs to a service and shows them: `largebatch remote`."""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO
from urllib.parse import quote

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from largebatch.jobs.errors import FaultError, InputError, SpecError
from largebatch.jobs.launch.options import Overrides
from largebatch.jobs.run.records import Headline
from largebatch.jobs.spec.read import build_spec, read_override, read_spec, recipe_paths
from largebatch.jobs.streams import print_answer, printable
from largebatch.jobs.tasks.metric import ACCURACY
from largebatch.jobs.whole_files import storage_errors, write_whole
from largebatch.service.cli.card_view import print_card
from largebatch.service.cli.options import TOKEN_VARIABLE, AsJson, seconds_of
from largebatch.service.cli.sent_code import bundle_of
from largebatch.service.cli.tables import output, print_log, table_of_jobs
from largebatch.service.cli.typer_parameters import spread
from largebatch.service.client import WORKED_OUT_S, Client, configured
from largebatch.service.job import Kind
from largebatch.service.present.commands import budget_command, set_options
from largebatch.tuning.results.card.card import Card
from largebatch.tuning.sweep.space import find_sweep, read_sweep, sweep_paths

app = typer.Typer()
remote = typer.Typer(help="Runs and sweeps on a largebatch service.", no_args_is_help=True, add_completion=False)
app.add_typer(remote, name="remote")
Server = Annotated[
    str | None, typer.Option(help=f"The service, such as http://127.0.0.1:8080; a token is read from {TOKEN_VARIABLE}.", envvar="LARGEBATCH_SERVER")
]
JobId = Annotated[str, typer.Argument(metavar="ID")]
JobIds = Annotated[list[str], typer.Argument(metavar="ID...")]
IsSweep = Annotated[bool, typer.Option("--sweep", help="It is a sweep, not a run.")]
IsStudy = Annotated[bool, typer.Option("--study", help="It is a study, not a run.")]
Recipe = Annotated[str, typer.Argument(help="A recipe (or, with --sweep, a sweep) that comes along, or a local YAML or JSON file.")]
KINDS_BESIDE = (Kind.SWEEP, Kind.STUDY)
COLUMNS = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
IsSweepFile = Annotated[bool, typer.Option("--sweep", help="RECIPE is a sweep.")]
IsStudyOf = Annotated[bool, typer.Option("--study", help="A study of RECIPE: which batch size reaches its target soonest.")]
Budget = Annotated[str | None, typer.Option(help="Of a study: its time in all, such as 30m or 2h; default 30m.")]
Compared = Annotated[str | None, typer.Option("--optimizers", metavar="NAME,NAME,...", help="Of a study: those that are compared.")]
Workers = Annotated[str | None, typer.Option(metavar="N|MIN:MAX", help="Workers by Ray.")]


def _client(server: str | None) -> Client:
    """A client of the service; its token is never an option: command lines are seen by everybody on a machine."""
    return Client(*configured(server, os.environ.get(TOKEN_VARIABLE)))


def _kind(is_sweep: bool, is_study: bool = False) -> Kind:
    """The kind of a job. Raises: SpecError."""
    if is_sweep and is_study:
        raise SpecError("--study", "a job is a sweep or a study, not both.", "Leave one of them out.")
    return Kind.SWEEP if is_sweep else Kind.STUDY if is_study else Kind.RUN


def _answer(server: str | None, kind: Kind, path: str, method: str = "GET", **options: Any) -> Any:
    """What the service answers to one request. Args: path: below that of all runs, or of all sweeps; options: httpx's."""
    with _client(server) as client:
        return client.request(method, f"/v1/{kind.plural}{path}", **options)


@remote.command(epilog="Example: largebatch remote submit digits-lamb --server http://127.0.0.1:8080 --follow")
@spread
def submit(
    recipe: Recipe,
    overrides: Overrides = (),
    server: Server = None,
    is_sweep: IsSweepFile = False,
    is_study: IsStudyOf = False,
    budget: Budget = None,
    optimizers: Compared = None,
    workers: Workers = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs to hold.")] = 0,
    cpus: Annotated[float | None, typer.Option(min=0.25, help="Cores to hold; default all.")] = None,
    memory_gib: Annotated[float | None, typer.Option("--memory-gib", min=0.5, help="Memory to hold; default 1.5 for each process.")] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher goes first, of your own.")] = 0,
    code: Annotated[str | None, typer.Option(metavar="FOLDER", help="Send the code in a folder along, which the recipe's entry points name.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print what it does until it is over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a recipe, a sweep or a study to a service."""
    kind = _kind(is_sweep, is_study)
    holds = {"priority": priority, "gpus": gpus, "workers": workers, "cpus": cpus, "memory_gib": memory_gib}
    document = _document(recipe, overrides, kind, **_of_a_study(kind, budget, optimizers), **holds)
    exit_code = 0
    with _client(server) as client:
        if code is not None:
            document["code"] = bundle_of(client, code, document)
        job = client.submit(kind, document)
        if follow or not as_json:
            print(f"Accepted: {job['id']}", file=sys.stderr if follow else sys.stdout)
        if follow:
            exit_code = _print_events(client, job["id"], kind, sys.stderr if as_json else sys.stdout)
            job = client.request("GET", f"/v1/{kind.plural}/{job['id']}") if as_json else job
    if as_json:
        print_answer(json.dumps(job))
    raise typer.Exit(exit_code)


def _of_a_study(kind: Kind, budget: str | None, optimizers: str | None) -> dict[str, Any]:
    """What of a request only a study has. Raises: SpecError."""
    told = {"budget_s": None if budget is None else seconds_of(budget), "optimizers": optimizers and [name.strip() for name in optimizers.split(",")]}
    given = {name: value for name, value in told.items() if value}
    if given and kind is not Kind.STUDY:
        raise SpecError("--budget" if budget else "--optimizers", "is for a study.", "Say so with --study.")
    return given


def _document(recipe: str, overrides: tuple[str, ...], kind: Kind, **others: Any) -> dict[str, Any]:
    """The body of a request, for what is to be trained. Raises: SpecError."""
    if kind is Kind.SWEEP:
        if overrides:
            raise SpecError("--set", "changes a recipe; a sweep has its own `set`.", "Write it into the sweep's file.")
        return {"sweep": _sweep(recipe), **others}
    if not _is_local(recipe):
        if recipe in sweep_paths():
            raise SpecError("RECIPE", f"{recipe} is a sweep.", "Say so with --sweep.")
        return {"recipe": recipe, "set": dict(map(read_override, overrides)), **others}
    spec = read_spec(recipe, overrides).model_dump(mode="json", exclude_defaults=True)
    build_spec(spec)
    return {"spec": spec, **others}


def _is_local(recipe: str) -> bool:
    """Whether a recipe is a file or pipe of this machine, or must be meant for one; else it is a name, which the service knows."""
    return recipe == "-" or os.sep in recipe or recipe.endswith((".yaml", ".yml", ".json")) or (os.path.exists(recipe) and not os.path.isdir(recipe))


def _sweep(name: str) -> dict[str, Any]:
    """A sweep's file, or one that comes along by its name. Raises: SpecError."""
    file = find_sweep(name)
    sweep = read_sweep(file)
    if sweep.recipe not in recipe_paths() and any(path.is_file() for path in (file.parent / sweep.recipe, Path(sweep.recipe))):
        hint = "Name one (largebatch recipes), with its changes under `set`; or run it here: largebatch sweep."
        raise SpecError("recipe", f"{sweep.recipe} is a file of yours, and a service's sweep begins from a recipe that comes along.", hint)
    return sweep.model_dump(mode="json", exclude_unset=True)


@remote.command(epilog="Example: largebatch remote plan digits-lamb --server http://127.0.0.1:8080")
@spread
def plan(
    recipe: Recipe,
    overrides: Overrides = (),
    server: Server = None,
    is_sweep: IsSweepFile = False,
    is_study: IsStudyOf = False,
    budget: Budget = None,
    optimizers: Compared = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Say what a service would do with a recipe, a sweep or a study, and run nothing."""
    kind = _kind(is_sweep, is_study)
    document = _document(recipe, overrides, kind, **_of_a_study(kind, budget, optimizers), workers=workers)
    facts = _answer(server, kind, "/plan", "POST", timeout=WORKED_OUT_S, json=document)
    if as_json:
        print_answer(json.dumps(facts))
        return
    for line in facts["lines"]:
        print(f"{line['what']}: {line['how']}")


@remote.command("list", epilog="Example: largebatch remote list --state running")
def list_jobs(
    server: Server = None,
    is_sweep: Annotated[bool, typer.Option("--sweep", "--sweeps", help="Sweeps, not runs.")] = False,
    is_study: Annotated[bool, typer.Option("--study", "--studies", help="Studies, not runs.")] = False,
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    where: Annotated[list[str] | None, typer.Option(metavar="CONDITION", help="Such as 'batch>=256' or tag=paper; all must hold.")] = None,
    sort: Annotated[str, typer.Option(help="A field, such as score; with - the largest first.")] = "-created_at",
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first unless told otherwise."""
    kind, in_state = _kind(is_sweep, is_study), {} if state is None else {"state": state}
    with _client(server) as client:
        asked = {"limit": limit, "total": True, "sort": sort, "where": where or [], **in_state}
        page = client.request("GET", f"/v1/{kind.plural}", params=asked)
        if as_json:
            print_answer(json.dumps(page))
            return
        output().print(table_of_jobs(page["items"], kind))
        if page["total"] > len(page["items"]):
            print(f"{len(page['items'])} of {page['total']}; --limit shows more.", file=sys.stderr)
        if kind is Kind.RUN and not where:
            totals = {
                other: client.request("GET", f"/v1/{other.plural}", params={"limit": 1, "total": True, **in_state})["total"] for other in KINDS_BESIDE
            }
            if told := [f"{num} {other if num == 1 else other.plural} (--{other.plural})" for other, num in totals.items() if num]:
                print(f"Not among these runs: {' and '.join(told)}.", file=sys.stderr)


@remote.command(epilog="Example: largebatch remote show digits-lamb-20260101-120000-ab12cd34")
def show(job_id: JobId, server: Server = None, is_sweep: IsSweep = False, is_study: IsStudy = False) -> None:
    """Print a job as JSON."""
    print(json.dumps(_answer(server, _kind(is_sweep, is_study), f"/{job_id}"), indent=2))


@remote.command(epilog="Example: largebatch remote edit digits-lamb-20260101-120000-ab12cd34 --name 'the best so far' --tag paper")
def edit(
    job_id: JobId,
    server: Server = None,
    is_sweep: IsSweep = False,
    is_study: IsStudy = False,
    name: Annotated[str | None, typer.Option(help="What it is called from now on; its id stays.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="In place of those it has; give it again for more, '' for none.")] = None,
    notes: Annotated[str | None, typer.Option()] = None,
    share: Annotated[bool | None, typer.Option("--share/--private", help="Let the people of your project read it.")] = None,
) -> None:
    """Give a job another name, tags or notes, or share it."""
    said = {"name": name, "tags": None if tag is None else [word for word in tag if word], "notes": notes}
    changed: dict[str, Any] = {field: value for field, value in said.items() if value is not None}
    with _client(server) as client:
        if share is not None:
            changed["project"] = client.request("GET", "/v1/me")["project"] if share else None
        job = client.request("PATCH", f"/v1/{_kind(is_sweep, is_study).plural}/{job_id}", json=changed)
    shared = f"shared with {job['project']}" if job["project"] else "private"
    print(f"{job['id']}: {job['name']}, {shared}{''.join(f' #{word}' for word in job['tags'])}")


@remote.command(epilog="Example: largebatch remote whoami")
def whoami(server: Server = None) -> None:
    """Say whose token it is, and what it may."""
    with _client(server) as client:
        me = client.request("GET", "/v1/me")
    print(f"{me['owner']}, scope {me['scope']}, project {me['project']}{'' if me['is_sharing'] else ' (this service shares nothing)'}")


@remote.command(epilog="Example: largebatch remote follow digits-lamb-20260101-120000-ab12cd34")
def follow(job_id: JobId, server: Server = None, is_sweep: IsSweep = False, is_study: IsStudy = False) -> None:
    """Print what a job does until it is over."""
    with _client(server) as client:
        raise typer.Exit(_print_events(client, job_id, _kind(is_sweep, is_study), sys.stdout))


def _print_events(client: Client, job_id: str, kind: Kind, out: TextIO) -> int:
    """Print what a job does until it is over. Returns the exit code."""
    state, reason, num_over, metric, part = "", None, None, ACCURACY, "test"
    for name, data in client.events(job_id, kind):
        if name == "job" and data["progress"].get("runs_over") != num_over:
            num_over = data["progress"].get("runs_over")
            print(f"{num_over} runs over", file=out, flush=True)
        if name == "job" and data["state"] != state:
            state, reason = data["state"], data["reason"]
            print(f"{state}{f': {reason}' if reason else ''}", file=sys.stderr, flush=True)
        elif name == "start":
            metric = Headline.model_validate(data.get("headline", {})).metric
            part = data.get("evaluated_on", part)
        elif name == "evaluation":
            score = f"{part} {metric.in_words(data['score'])}  {data['training_seconds']:.1f} s"
            print(f"step {data['step']}  epoch {data['epoch']:.2f}  {score}", file=out, flush=True)
        elif name == "notice":
            print(printable(data["text"], "\n\t"), file=sys.stderr, flush=True)
    return {"succeeded": 0, "cancelled": 4}.get(state, 1)


@remote.command(epilog="Example: largebatch remote logs digits-lamb-20260101-120000-ab12cd34")
def logs(job_id: JobId, server: Server = None, is_sweep: IsSweep = False, is_study: IsStudy = False) -> None:
    """Print what a job's newest attempt printed."""
    with _client(server) as client:
        print_log(client.logs(_kind(is_sweep, is_study), job_id))


@remote.command(epilog="Example: largebatch remote cancel digits-lamb-20260101-120000-ab12cd34")
def cancel(job_ids: JobIds, server: Server = None, is_sweep: IsSweep = False, is_study: IsStudy = False) -> None:
    """End jobs after their step; they can be resumed."""
    for job_id in job_ids:
        job = _answer(server, _kind(is_sweep, is_study), f"/{job_id}/cancel", "POST")
        print(f"{job_id}: {job['state']}, asked to stop")


@remote.command(epilog="Example: largebatch remote resume digits-lamb-20260101-120000-ab12cd34")
@spread
def resume(
    job_id: JobId,
    overrides: Overrides = (),
    server: Server = None,
    is_sweep: IsSweep = False,
    is_study: IsStudy = False,
    budget: Annotated[str | None, typer.Option(help="Of a study, which need not be said then: more time in all, such as 30m or 2h.")] = None,
) -> None:
    """Queue a failed or cancelled job again; with --set stop.epochs=N also a run that succeeded, which then goes on to N epochs."""
    kind = _kind(is_sweep, is_study or budget is not None)
    if overrides and kind is not Kind.RUN:
        raise SpecError("--set", f"a {kind} goes on as it was begun.", "Leave it out.")
    changes = {} if budget is None else {"budget_s": seconds_of(budget)}
    job = _answer(server, kind, f"/{job_id}/resume", "POST", json={"set": dict(map(read_override, overrides))} if overrides else changes)
    print(f"{job_id}: {job['state']}")


@remote.command("next", epilog="Example: largebatch remote next digits-lamb-20260101-120000-ab12cd34")
def next_of_job(job_id: JobId, server: Server = None, is_sweep: IsSweep = False, is_study: IsStudy = False, as_json: AsJson = False) -> None:
    """Print the command that does the same as a job, and after a run that went wrong what to change."""
    steps = _answer(server, _kind(is_sweep, is_study), f"/{job_id}/next")
    if as_json:
        print_answer(json.dumps(steps))
        return
    for remedy in steps["remedies"]:
        print(f"# {remedy['text']}")
        if is_study and remedy["set"]:
            print(budget_command(job_id, f"{remedy['set']['budget_s'] / 60:g}m"))
        elif remedy["set"]:
            print(f"largebatch remote resume {job_id}{set_options(remedy['set'])}" if remedy["resumes"] else f"# With{set_options(remedy['set'])}")
    if steps["remedies"]:
        print("# The same once more:")
    print(steps["submit_command"] or "# Another program's loop has trained it: run that.")


@remote.command(epilog="Example: largebatch remote add runs/recorded-20260101-120000-1a2b")
def add(run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...")], server: Server = None) -> None:
    """Show runs that were trained elsewhere beside a service's own: what their folders tell of them, and no weights."""
    with _client(server) as client:
        for run_dir in run_dirs:
            print(f"{run_dir}: {client.add(run_dir)['id']}")


@remote.command(epilog="Example: largebatch remote delete digits-lamb-20260101-120000-ab12cd34")
def delete(job_ids: JobIds, server: Server = None, is_sweep: IsSweep = False, is_study: IsStudy = False) -> None:
    """Forget jobs that are over, and remove their files from the server."""
    for job_id in job_ids:
        _answer(server, _kind(is_sweep, is_study), f"/{job_id}", "DELETE")
        print(f"{job_id}: deleted")


@remote.command(epilog="Example: largebatch remote advice my-sweep-20260101-120000-ab12cd34")
def advice(job_id: JobId, server: Server = None, is_study: IsStudy = False) -> None:
    """Print what a sweep, or a study, says so far."""
    answer = _answer(server, Kind.STUDY if is_study else Kind.SWEEP, f"/{job_id}/findings", timeout=WORKED_OUT_S)
    print_card(Card.model_validate(answer["card"]) if answer.get("card") else None)  # an older service has none
    print("\n".join(answer["words"]))


@remote.command(epilog="Example: largebatch remote download digits-lamb-20260101-120000-1a2b3c4d --output here")
@spread
def download(
    job_id: JobId,
    into: Annotated[Path, typer.Option("--output", metavar="DIR", help="A new folder.")],
    server: Server = None,
    is_sweep: IsSweep = False,
    is_study: IsStudy = False,
    best: Annotated[bool, typer.Option("--best", help="The weights of the best checkpoint; default the newest.")] = False,
    weights: Annotated[bool, typer.Option("--weights/--no-weights", help="A run's weights, too, as weights.safetensors.")] = True,
) -> None:
    """Fetch a job's files, and of a run the weights that it was evaluated with."""
    if into.exists():
        raise InputError("--output", f"{into} is there already.", "Give a new folder.")
    job = f"/v1/{_kind(is_sweep, is_study).plural}/{quote(job_id, safe='')}"
    with storage_errors(into):
        into.parent.mkdir(parents=True, exist_ok=True)
        begun = tempfile.TemporaryDirectory(dir=into.parent, prefix=f".{into.name}-", ignore_cleanup_errors=True)
    with _client(server) as client, begun as folder:
        files = [(one["path"], f"{job}/artifacts/{quote(one['path'])}", one["bytes"]) for one in client.request("GET", f"{job}/artifacts")]
        if weights and not (is_sweep or is_study):
            files.insert(0, ("weights.safetensors", f"{job}/weights{'?best=true' if best else ''}", None))
        whole = Path(folder) / "whole"
        with Progress(*COLUMNS, console=output(), transient=True, disable=not output().is_terminal) as progress:
            for name, path, size in files:
                _fetch(client, path, inside(whole, name), partial(progress.advance, progress.add_task(name, total=size)))
        with storage_errors(into):
            whole.rename(into)
    print(f"{len(files)} files: {into}")


def inside(folder: Path, name: str) -> Path:
    """A file below a folder, of a name that a server gave. Raises: FaultError where it leads out."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise FaultError("--server", f"it names a file {name[:100]!r}, which lies outside.", "It is none of ours; fetch nothing from it.")
    return file


def _fetch(client: Client, path: str, file: Path, on_bytes: Callable[[int], None]) -> None:
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(file) as part:
        client.download(path, part, on_bytes)

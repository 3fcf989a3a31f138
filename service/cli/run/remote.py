"""Submits jobs to a service and shows them: `largebatch remote`."""

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import typer

from largebatch.jobs.errors import SpecError
from largebatch.jobs.spec.read import build_spec, read_override, read_spec, recipe_paths
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.tables import output, plain_table
from largebatch.service.client import Client, configured
from largebatch.tuning.sweep.space import find_sweep, read_sweep, sweep_paths


def client_of(server: str | None) -> Client:
    """A client of the service; its token is never an option: command lines are seen by everybody on a machine."""
    return Client(*configured(server, os.environ.get("LARGEBATCH_TOKEN")))


def kind_of(is_sweep: bool) -> str:
    """The kind of a job, as the service calls it."""
    return "sweep" if is_sweep else "run"


def submit(document: dict[str, Any], server: str | None, is_sweep: bool, follows: bool, as_json: bool) -> None:
    """Submit a job, and follow it; ends with its exit code."""
    code = 0
    with client_of(server) as client:
        job = client.submit(kind_of(is_sweep), document)
        if follows or not as_json:
            print(f"Accepted: {job['id']}", file=sys.stderr if follows else sys.stdout)
        if follows:
            code = _print_events(client, job["id"], kind_of(is_sweep), sys.stderr if as_json else sys.stdout)
            job = client.request("GET", f"/v1/{kind_of(is_sweep)}s/{job['id']}") if as_json else job
    if as_json:
        print_answer(json.dumps(job))
    raise typer.Exit(code)


def document_of(recipe: str, overrides: tuple[str, ...], is_sweep: bool, **others: Any) -> dict[str, Any]:
    """The body of a request, for what is to be trained. Raises: SpecError."""
    if is_sweep:
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


def plan(document: dict[str, Any], server: str | None, is_sweep: bool, as_json: bool) -> None:
    """Print what the service would do."""
    with client_of(server) as client:
        facts = client.request("POST", f"/v1/{kind_of(is_sweep)}s/plan", json=document)
    if as_json:
        print_answer(json.dumps(facts))
        return
    for line in facts["lines"]:
        print(f"{line['what']}: {line['how']}")


def follow(job_id: str, server: str | None, is_sweep: bool) -> None:
    """Print what a job does; ends with its exit code."""
    with client_of(server) as client:
        raise typer.Exit(_print_events(client, job_id, kind_of(is_sweep), sys.stdout))


def _print_events(client: Client, job_id: str, kind: str, out: TextIO) -> int:
    """Print what a job does until it is over. Returns the exit code."""
    state, reason, num_over = "", None, None
    for name, data in client.events(job_id, kind):
        if name == "job" and data["progress"].get("runs_over") != num_over:
            num_over = data["progress"].get("runs_over")
            print(f"{num_over} runs over", file=out, flush=True)
        if name == "job" and data["state"] != state:
            state, reason = data["state"], data["reason"]
            print(f"{state}{f': {reason}' if reason else ''}", file=sys.stderr, flush=True)
        elif name == "evaluation":
            accuracy = f"test accuracy {data['test_accuracy']:.4f}  {data['training_seconds']:.1f} s"
            print(f"step {data['step']}  epoch {data['epoch']:.2f}  {accuracy}", file=out, flush=True)
        elif name == "notice":
            print(data["text"], file=sys.stderr, flush=True)
    return {"succeeded": 0, "cancelled": 4}.get(state, 1)


def print_jobs(server: str | None, is_sweep: bool, state: str | None, limit: int, as_json: bool) -> None:
    """A line for each job."""
    with client_of(server) as client:
        page = client.request("GET", f"/v1/{kind_of(is_sweep)}s", params={"limit": limit, **({} if state is None else {"state": state})})
    if as_json:
        print_answer(json.dumps(page))
        return
    table = plain_table("id", "state", "batch", "accuracy", "training", "owner")
    for job in page["items"]:
        accuracy, seconds = job["progress"].get("test_accuracy"), job["progress"].get("training_seconds")
        batch = "" if is_sweep else str(job["global_batch_size"] or "full")
        table.add_row(job["id"], job["state"], batch, "" if accuracy is None else f"{accuracy:.4f}",
                      "" if seconds is None else f"{seconds:.1f} s", job["owner"])  # fmt: skip
    output().print(table)


def show(job_id: str, server: str | None, is_sweep: bool) -> None:
    """Print a job as JSON."""
    with client_of(server) as client:
        print(json.dumps(client.request("GET", f"/v1/{kind_of(is_sweep)}s/{job_id}"), indent=2))


def print_logs(job_id: str, server: str | None, is_sweep: bool) -> None:
    """Print what a job's newest attempt printed."""
    with client_of(server) as client:
        print(client.logs(kind_of(is_sweep), job_id), end="")


def act(job_id: str, server: str | None, is_sweep: bool, action: str, words: str = "") -> None:
    """Cancel or resume a job, and print its state."""
    with client_of(server) as client:
        job = client.request("POST", f"/v1/{kind_of(is_sweep)}s/{job_id}/{action}")
    print(f"{job_id}: {job['state']}{words}")


def delete(job_id: str, server: str | None, is_sweep: bool) -> None:
    """Delete a job."""
    with client_of(server) as client:
        client.request("DELETE", f"/v1/{kind_of(is_sweep)}s/{job_id}")
    print(f"{job_id}: deleted")


def print_advice(job_id: str, server: str | None) -> None:
    """Print a sweep's findings in words."""
    with client_of(server) as client:
        for line in client.request("GET", f"/v1/sweeps/{job_id}/findings")["words"]:
            print(line)

"""Submits runs to a Ray cluster as jobs, and shows, stops and deletes these: `largebatch submit` and `largebatch jobs`."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.errors import SpecError
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.run.run_folder import new_run_id
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.streams import print_answer
from largebatch.service.backends.base import SPEC
from largebatch.service.backends.ray_jobs import Job, RayJobs, Submission
from largebatch.service.cli.options import AsJson, Recipe
from largebatch.service.cli.tables import output, plain_table
from largebatch.service.cli.typer_parameters import spread

POLL_S = 0.5

app = typer.Typer()
jobs = typer.Typer(help="Jobs that were submitted to a Ray cluster.", no_args_is_help=True, add_completion=False)
app.add_typer(jobs, name="jobs")
Dashboard = Annotated[str, typer.Option("--address", help="The cluster's dashboard, such as http://127.0.0.1:8265.", envvar="RAY_API_SERVER_ADDRESS")]
JobName = Annotated[str, typer.Argument(metavar="NAME", help="The job's name.")]
RunOptions = Annotated[
    TrainOptions, "overrides", "device", "workers", "gpus_per_worker", "cpus_per_worker", "max_failures", "worker_logs", "log_model", "register"
]


@app.command(epilog="Example: largebatch submit digits-lamb --address http://127.0.0.1:8265 --workers 2 --output-dir /shared/runs --follow")
@spread
def submit(
    recipe: Recipe,
    address: Dashboard,
    output_dir: Annotated[str, typer.Option(help="Where run folders go: a folder that all the cluster's machines share, whole path.")],
    options: RunOptions,
    data_dir: Annotated[str, typer.Option(help="Where data sets lie on the cluster's machines, whole path.")] = "/data",
    name: Annotated[str | None, typer.Option(help="The job's name and its run's id; a further attempt goes on with the run.")] = None,
    environment: Annotated[list[str] | None, typer.Option("--env", metavar="KEY=VALUE", help="Set a variable for the job.")] = None,
    ship_code: Annotated[bool, typer.Option(help="Send this project's code along, or use what the cluster's image holds.")] = True,
    python: Annotated[str, typer.Option(help="The cluster's Python, with the dependencies installed.")] = "python",
    follow: Annotated[bool, typer.Option("--follow", help="Print what the job prints, and end with its exit code.")] = False,
) -> None:
    """Send one recipe to a Ray cluster as a job that lives without this command."""
    spec = read_spec(recipe, options.all_overrides)
    name = name or new_run_id(spec.name)
    for option, folder in (("--output-dir", output_dir), ("--data-dir", data_dir)):
        if not folder.startswith("/") and "://" not in folder:
            raise SpecError(option, f"{folder} is relative, and the job runs elsewhere.", "Give the whole path on the cluster's machines.")
    job_options = replace(options, recipe=f"env:{SPEC}", overrides=(), run_id=name, data_dir=Path(data_dir)).storing(output_dir)
    variables = dict(map(_variable, environment or ()))
    cluster = RayJobs(address)
    job = cluster.submit(Submission(name, spec, job_options.arguments(), variables, ship_code, python))
    print(f"Submitted {job.submission_id}. Follow it with: largebatch jobs logs {job.name} --follow --address {address}", file=sys.stderr)
    if follow:
        follow_job(cluster, job.submission_id)


def _variable(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise SpecError("--env", f"{text!r} is not of the form KEY=VALUE.")
    return key, value


def follow_job(cluster: RayJobs, name: str, poll_s: float = POLL_S) -> None:
    """Print a job's lines; ends with its exit code. Ctrl-C leaves the job alone.

    Args: poll_s: seconds between two questions whether it is over, once its lines have ended.
    """
    try:
        for text in cluster.follow(name):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        print(f"\nThe job goes on. Look again with: largebatch jobs logs {name} --follow --address {cluster.address}", file=sys.stderr)
        raise typer.Exit(130) from None
    job = _ended(cluster, cluster.find(name), poll_s)
    if job.status == "SUCCEEDED":
        return
    if job.status == "STOPPED":
        print(f"Stopped. Go on with: largebatch submit ... --name {job.name}", file=sys.stderr)
        raise typer.Exit(4)
    print(f"Failed (exit code {job.exit_code}): {job.reason or 'no message'}", file=sys.stderr)
    raise typer.Exit(job.exit_code or 1)


def _ended(cluster: RayJobs, job: Job, poll_s: float = POLL_S) -> Job:
    """The job as it is once it is over."""
    while not job.is_over:
        time.sleep(poll_s)
        job = cluster.find(job.submission_id)
    return job


@jobs.command("list", epilog="Example: largebatch jobs list --address http://127.0.0.1:8265")
def list_jobs(address: Dashboard, as_json: AsJson = False) -> None:
    """List the jobs that the cluster remembers, newest first."""
    attempts = RayJobs(address).all()
    if as_json:
        print_answer(json.dumps([job._asdict() for job in attempts]))
        return
    table = plain_table("name", "attempt", "status", "exit code", "reason")
    for job in attempts:
        table.add_row(job.name, job.submission_id, job.status, "" if job.exit_code is None else str(job.exit_code), job.reason)
    output().print(table)


@jobs.command(epilog="Example: largebatch jobs status my-run --address http://127.0.0.1:8265")
def status(name: JobName, address: Dashboard, as_json: AsJson = False) -> None:
    """Say how the newest attempt at a job stands."""
    job = RayJobs(address).find(name)
    print_answer(json.dumps(job._asdict()) if as_json else f"{job.submission_id}: {job.status}")


@jobs.command(epilog="Example: largebatch jobs logs my-run --follow --address http://127.0.0.1:8265")
def logs(
    name: JobName, address: Dashboard, follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False
) -> None:
    """Print what a job has printed."""
    cluster = RayJobs(address)
    if follow:
        follow_job(cluster, cluster.find(name).submission_id)
    else:
        print(cluster.logs(name), end="")


@jobs.command(epilog="Example: largebatch jobs stop my-run --address http://127.0.0.1:8265")
def stop(name: JobName, address: Dashboard) -> None:
    """Let a job finish its step, save and end; submitting its name again goes on."""
    cluster = RayJobs(address)
    job = _ended(cluster, cluster.stop(name))
    print(f"{job.submission_id}: {job.status}")


@jobs.command(epilog="Example: largebatch jobs delete my-run --address http://127.0.0.1:8265")
def delete(name: JobName, address: Dashboard) -> None:
    """Make the cluster forget a job that is over; its run's folder stays."""
    print(f"{name}: {RayJobs(address).delete(name)} attempts forgotten.")

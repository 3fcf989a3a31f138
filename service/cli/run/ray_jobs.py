"""Submits runs to a Ray cluster as jobs, and shows, stops and deletes these: `largebatch submit` and `largebatch jobs`."""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import typer

from largebatch.jobs.errors import SpecError
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.train import spec_of
from largebatch.jobs.run.run_folder import new_run_id
from largebatch.jobs.streams import print_answer
from largebatch.service.backends.base import SPEC
from largebatch.service.backends.ray_jobs import Job, RayJobs, Submission
from largebatch.service.cli.tables import output, plain_table

POLL_S = 0.5


def submit(
    options: TrainOptions,
    name: str | None,
    output_dir: str,
    data_dir: str,
    address: str,
    environment: Iterable[str],
    *,
    ships_code: bool,
    python: str,
    follows: bool,
) -> None:
    """Send a recipe, to be trained with these options on the cluster's machines, where the two folders are."""
    spec = spec_of(options)
    name = name or new_run_id(spec.name)
    for option, folder in (("--output-dir", output_dir), ("--data-dir", data_dir)):
        if not folder.startswith("/") and "://" not in folder:
            raise SpecError(option, f"{folder} is relative, and the job runs elsewhere.", "Give the whole path on the cluster's machines.")
    job_options = replace(options, recipe=f"env:{SPEC}", overrides=(), run_id=name, data_dir=Path(data_dir)).storing(output_dir)
    variables = dict(map(_variable, environment))
    cluster = RayJobs(address)
    job = cluster.submit(Submission(name, spec, job_options.arguments(), variables, ships_code, python))
    print(f"Submitted {job.submission_id}. Follow it with: largebatch jobs logs {job.name} --follow --address {address}", file=sys.stderr)
    if follows:
        follow(cluster, job.submission_id)


def _variable(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise SpecError("--env", f"{text!r} is not of the form KEY=VALUE.")
    return key, value


def follow(cluster: RayJobs, name: str) -> None:
    """Print a job's lines; ends with its exit code. Ctrl-C leaves the job alone."""
    try:
        for text in cluster.follow(name):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        print(f"\nThe job goes on. Look again with: largebatch jobs logs {name} --follow --address {cluster.address}", file=sys.stderr)
        raise typer.Exit(130) from None
    job = _ended(cluster, cluster.find(name))
    if job.status == "SUCCEEDED":
        return
    if job.status == "STOPPED":
        print(f"Stopped. Go on with: largebatch submit ... --name {job.name}", file=sys.stderr)
        raise typer.Exit(4)
    print(f"Failed (exit code {job.exit_code}): {_first_line(job) or 'no message'}", file=sys.stderr)
    raise typer.Exit(job.exit_code or 1)


def _ended(cluster: RayJobs, job: Job) -> Job:
    """The job as it is once it is over."""
    while not job.is_over:
        time.sleep(POLL_S)
        job = cluster.find(job.submission_id)
    return job


def _first_line(job: Job) -> str:
    return job.message.splitlines()[0] if job.message else ""


def print_jobs(address: str, as_json: bool) -> None:
    """A line for each attempt that the cluster remembers."""
    attempts = RayJobs(address).all()
    if as_json:
        print_answer(json.dumps([job._asdict() for job in attempts]))
        return
    table = plain_table("name", "attempt", "status", "exit code", "message")
    for job in attempts:
        table.add_row(job.name, job.submission_id, job.status, "" if job.exit_code is None else str(job.exit_code), _first_line(job))
    output().print(table)


def print_status(address: str, name: str, as_json: bool) -> None:
    """The newest attempt's status."""
    job = RayJobs(address).find(name)
    print_answer(json.dumps(job._asdict()) if as_json else f"{job.submission_id}: {job.status}")


def print_logs(address: str, name: str, follows: bool) -> None:
    """What the newest attempt has printed."""
    cluster = RayJobs(address)
    if follows:
        follow(cluster, cluster.find(name).submission_id)
    else:
        print(cluster.logs(name), end="")


def stop(address: str, name: str) -> None:
    """Ask a job to stop, and wait until it has."""
    cluster = RayJobs(address)
    job = _ended(cluster, cluster.stop(name))
    print(f"{job.submission_id}: {job.status}")


def delete(address: str, name: str) -> None:
    """Make the cluster forget a job."""
    print(f"{name}: {RayJobs(address).delete(name)} attempts forgotten.")

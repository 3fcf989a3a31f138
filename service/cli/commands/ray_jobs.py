"""largebatch submit and largebatch jobs: runs that a Ray cluster carries out by itself."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from largebatch.jobs.streams import print_answer
from largebatch.service.cli.commands.options import (
    Address,
    AsJson,
    AskedWorkers,
    CpusPerWorker,
    Device,
    GpusPerWorker,
    MaxFailures,
    Overrides,
    Recipe,
    WorkerLogs,
)
from largebatch.service.cli.tables import output

if TYPE_CHECKING:
    from largebatch.service.backends.ray_jobs import RayJobs

app = typer.Typer()


@app.command(epilog="Example: largebatch submit digits-lamb --address http://127.0.0.1:8265 --workers 2 --output-dir /shared/runs --follow")
def submit(
    recipe: Recipe,
    address: Address,
    output_dir: Annotated[str, typer.Option(help="Where run folders go: a folder that all the cluster's machines share, whole path.")],
    overrides: Overrides = None,
    data_dir: Annotated[str, typer.Option(help="Where data sets lie on the cluster's machines, whole path.")] = "/data",
    device: Device = "auto",
    workers: AskedWorkers = None,
    gpus_per_worker: GpusPerWorker = None,
    cpus_per_worker: CpusPerWorker = None,
    max_failures: MaxFailures = 8,
    worker_logs: WorkerLogs = False,
    name: Annotated[
        str | None, typer.Option(help="The job's name and its run's id; a further attempt goes on with the run.", show_default=False)
    ] = None,
    environment: Annotated[
        list[str] | None, typer.Option("--env", metavar="KEY=VALUE", help="Set a variable for the job.", show_default=False)
    ] = None,
    ship_code: Annotated[bool, typer.Option(help="Send this project's code along, or use what the cluster's image holds.")] = True,
    python: Annotated[str, typer.Option(help="The cluster's Python, with the dependencies installed.")] = "python",
    follow: Annotated[bool, typer.Option("--follow", help="Print what the job prints, and end with its exit code.")] = False,
) -> None:
    """Send one recipe to a Ray cluster as a job that lives without this command."""
    from largebatch.jobs.errors import SpecError
    from largebatch.jobs.launch.options import read_workers
    from largebatch.jobs.run.run_folder import new_run_id
    from largebatch.jobs.spec.read import read_spec
    from largebatch.service.backends.ray_jobs import RayJobs, Submission

    spec = read_spec(recipe, overrides or [])
    name = name or new_run_id(spec.name)
    for option, place in (("--output-dir", output_dir), ("--data-dir", data_dir)):
        if not place.startswith("/") and "://" not in place:
            raise SpecError(option, f"{place} is relative, and the job runs elsewhere.", "Give the whole path on the cluster's machines.")
    arguments = ["--run-id", name, "--output-dir", output_dir, "--data-dir", data_dir, "--device", device]
    if workers is None:
        for option, value in (("--gpus-per-worker", gpus_per_worker), ("--cpus-per-worker", cpus_per_worker)):
            if value is not None:
                raise SpecError(option, "is for several workers.", "Say how many with --workers N.")
    else:
        read_workers(workers)
        arguments += ["--workers", workers, "--max-failures", str(max_failures)]
        arguments += ["--worker-logs"] if worker_logs else []
        arguments += [] if gpus_per_worker is None else ["--gpus-per-worker", str(gpus_per_worker)]
        arguments += [] if cpus_per_worker is None else ["--cpus-per-worker", str(cpus_per_worker)]
    variables = dict(_variable(text) for text in environment or [])
    cluster = RayJobs(address)
    job = cluster.submit(Submission(name, spec, arguments, variables, ship_code, python))
    print(f"Submitted {job.submission_id}. Follow it with: largebatch jobs logs {job.name} --follow --address {address}", file=sys.stderr)
    if follow:
        _follow(cluster, job.submission_id)


def _variable(text: str) -> tuple[str, str]:
    from largebatch.jobs.errors import SpecError

    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise SpecError("--env", f"{text!r} is not of the form KEY=VALUE.")
    return key, value


def _follow(cluster: "RayJobs", name: str) -> None:
    """Print a job's lines; ends with its exit code. Ctrl-C leaves the job alone."""
    try:
        for text in cluster.follow(name):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        print(f"\nThe job goes on. Look again with: largebatch jobs logs {name} --follow --address {cluster.address}", file=sys.stderr)
        raise typer.Exit(130) from None
    job = cluster.find(name)
    while not job.is_over:
        time.sleep(0.5)
        job = cluster.find(name)
    if job.status == "SUCCEEDED":
        return
    if job.status == "STOPPED":
        print(f"Stopped. Go on with: largebatch submit ... --name {job.name}", file=sys.stderr)
        raise typer.Exit(4)
    print(f"Failed (exit code {job.exit_code}): {job.message.splitlines()[0] if job.message else 'no message'}", file=sys.stderr)
    raise typer.Exit(job.exit_code or 1)


ray_jobs_app = typer.Typer(help="Jobs that were submitted to a Ray cluster.", no_args_is_help=True, add_completion=False)
app.add_typer(ray_jobs_app, name="jobs")
JobName = Annotated[str, typer.Argument(metavar="NAME", help="The job's name.", show_default=False)]


@ray_jobs_app.command("list", epilog="Example: largebatch jobs list --address http://127.0.0.1:8265")
def list_jobs(address: Address, as_json: AsJson = False) -> None:
    """List the jobs that the cluster remembers, newest first."""
    import json

    from largebatch.service.backends.ray_jobs import RayJobs

    found = RayJobs(address).all()
    if as_json:
        print_answer(json.dumps([job._asdict() for job in found]))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "attempt", "status", "exit code", "message"):
        table.add_column(column)
    for job in found:
        code = "" if job.exit_code is None else str(job.exit_code)
        table.add_row(job.name, job.submission_id, job.status, code, job.message.splitlines()[0] if job.message else "")
    output().print(table)


@ray_jobs_app.command("status", epilog="Example: largebatch jobs status my-run --address http://127.0.0.1:8265")
def job_status(name: JobName, address: Address, as_json: AsJson = False) -> None:
    """Say how the newest attempt at a job stands."""
    import json

    from largebatch.service.backends.ray_jobs import RayJobs

    job = RayJobs(address).find(name)
    print_answer(json.dumps(job._asdict()) if as_json else f"{job.submission_id}: {job.status}")


@ray_jobs_app.command("logs", epilog="Example: largebatch jobs logs my-run --follow --address http://127.0.0.1:8265")
def job_logs(
    name: JobName, address: Address, follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False
) -> None:
    """Print what a job has printed."""
    from largebatch.service.backends.ray_jobs import RayJobs

    cluster = RayJobs(address)
    if follow:
        _follow(cluster, cluster.find(name).submission_id)
    else:
        print(cluster.logs(name), end="")


@ray_jobs_app.command("stop", epilog="Example: largebatch jobs stop my-run --address http://127.0.0.1:8265")
def stop_job(name: JobName, address: Address) -> None:
    """Let a job finish its step, save and end; submitting its name again goes on."""
    from largebatch.service.backends.ray_jobs import RayJobs

    cluster = RayJobs(address)
    job = cluster.stop(name)
    while not job.is_over:
        time.sleep(0.5)
        job = cluster.find(job.submission_id)
    print(f"{job.submission_id}: {job.status}")


@ray_jobs_app.command("delete", epilog="Example: largebatch jobs delete my-run --address http://127.0.0.1:8265")
def delete_job(name: JobName, address: Address) -> None:
    """Make the cluster forget a job that is over; its run's folder stays."""
    from largebatch.service.backends.ray_jobs import RayJobs

    print(f"{name}: {RayJobs(address).delete(name)} attempts forgotten.")

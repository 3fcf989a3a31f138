"""largebatch submit and largebatch jobs: runs that a Ray cluster carries out by itself."""

from dataclasses import replace
from typing import Annotated

import typer

from largebatch.jobs.launch.options import TrainOptions
from largebatch.service.cli.options import AsJson, Dashboard, Recipe
from largebatch.service.cli.typer_parameters import Only, spread

app = typer.Typer()
RunOptions = Annotated[TrainOptions, Only("overrides", "device", "workers", "gpus_per_worker", "cpus_per_worker", "max_failures", "worker_logs")]


@app.command(epilog="Example: largebatch submit digits-lamb --address http://127.0.0.1:8265 --workers 2 --output-dir /shared/runs --follow")
@spread
def submit(
    recipe: Recipe,
    address: Dashboard,
    output_dir: Annotated[str, typer.Option(help="Where run folders go: a folder that all the cluster's machines share, whole path.")],
    options: RunOptions,
    data_dir: Annotated[str, typer.Option(help="Where data sets lie on the cluster's machines, whole path.")] = "/data",
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
    from largebatch.service.cli.run import ray_jobs

    options = replace(options, recipe=recipe)
    ray_jobs.submit(options, name, output_dir, data_dir, address, environment or (), ships_code=ship_code, python=python, follows=follow)


jobs = typer.Typer(help="Jobs that were submitted to a Ray cluster.", no_args_is_help=True, add_completion=False)
app.add_typer(jobs, name="jobs")
JobName = Annotated[str, typer.Argument(metavar="NAME", help="The job's name.", show_default=False)]


@jobs.command("list", epilog="Example: largebatch jobs list --address http://127.0.0.1:8265")
def list_jobs(address: Dashboard, as_json: AsJson = False) -> None:
    """List the jobs that the cluster remembers, newest first."""
    from largebatch.service.cli.run import ray_jobs

    ray_jobs.print_jobs(address, as_json)


@jobs.command("status", epilog="Example: largebatch jobs status my-run --address http://127.0.0.1:8265")
def job_status(name: JobName, address: Dashboard, as_json: AsJson = False) -> None:
    """Say how the newest attempt at a job stands."""
    from largebatch.service.cli.run import ray_jobs

    ray_jobs.print_status(address, name, as_json)


@jobs.command("logs", epilog="Example: largebatch jobs logs my-run --follow --address http://127.0.0.1:8265")
def job_logs(
    name: JobName, address: Dashboard, follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False
) -> None:
    """Print what a job has printed."""
    from largebatch.service.cli.run import ray_jobs

    ray_jobs.print_logs(address, name, follow)


@jobs.command("stop", epilog="Example: largebatch jobs stop my-run --address http://127.0.0.1:8265")
def stop_job(name: JobName, address: Dashboard) -> None:
    """Let a job finish its step, save and end; submitting its name again goes on."""
    from largebatch.service.cli.run import ray_jobs

    ray_jobs.stop(address, name)


@jobs.command("delete", epilog="Example: largebatch jobs delete my-run --address http://127.0.0.1:8265")
def delete_job(name: JobName, address: Dashboard) -> None:
    """Make the cluster forget a job that is over; its run's folder stays."""
    from largebatch.service.cli.run import ray_jobs

    ray_jobs.delete(address, name)

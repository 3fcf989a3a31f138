"""largebatch remote: runs and sweeps on a service."""

from typing import Annotated

import typer

from largebatch.service.cli.options import AsJson, Overrides
from largebatch.service.cli.typer_parameters import spread

remote = typer.Typer(help="Runs and sweeps on a largebatch service.", no_args_is_help=True, add_completion=False)
app = typer.Typer()
app.add_typer(remote, name="remote")
Server = Annotated[str | None, typer.Option(help="The service, such as http://127.0.0.1:8080.", envvar="LARGEBATCH_SERVER", show_default=False)]
JobId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
IsSweep = Annotated[bool, typer.Option("--sweep", help="It is a sweep, not a run.")]
Recipe = Annotated[
    str, typer.Argument(help="A recipe (or, with --sweep, a sweep) that comes along, or a local YAML or JSON file.", show_default=False)
]
IsSweepFile = Annotated[bool, typer.Option("--sweep", help="RECIPE is a sweep.")]
Workers = Annotated[str | None, typer.Option(metavar="N|MIN:MAX", help="Workers by Ray.", show_default=False)]


@remote.command(epilog="Example: largebatch remote submit digits-lamb --server http://127.0.0.1:8080 --follow")
@spread
def submit(
    recipe: Recipe,
    overrides: Overrides = (),
    server: Server = None,
    is_sweep: IsSweepFile = False,
    workers: Workers = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs to hold.")] = 0,
    cpus: Annotated[float | None, typer.Option(min=0.1, help="Cores to hold; default all.", show_default=False)] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher goes first.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", help="Print what it does until it is over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a recipe, or a sweep, to a service."""
    from largebatch.service.cli.run import remote

    document = remote.document_of(recipe, overrides, is_sweep, priority=priority, gpus=gpus, workers=workers, cpus=cpus)
    remote.submit(document, server, is_sweep, follow, as_json)


@remote.command(epilog="Example: largebatch remote plan digits-lamb --server http://127.0.0.1:8080")
@spread
def plan(
    recipe: Recipe,
    overrides: Overrides = (),
    server: Server = None,
    is_sweep: IsSweepFile = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Say what a service would do with a recipe, or a sweep, and run nothing."""
    from largebatch.service.cli.run import remote

    remote.plan(remote.document_of(recipe, overrides, is_sweep, workers=workers), server, is_sweep, as_json)


@remote.command("list", epilog="Example: largebatch remote list --state running")
def list_jobs(
    server: Server = None,
    is_sweep: Annotated[bool, typer.Option("--sweep", "--sweeps", help="Sweeps, not runs.")] = False,
    state: Annotated[str | None, typer.Option(help="Only those in this state.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from largebatch.service.cli.run import remote

    remote.print_jobs(server, is_sweep, state, limit, as_json)


@remote.command(epilog="Example: largebatch remote show digits-lamb-20260101-120000-ab12cd34")
def show(job_id: JobId, server: Server = None, is_sweep: IsSweep = False) -> None:
    """Print a job as JSON."""
    from largebatch.service.cli.run import remote

    remote.show(job_id, server, is_sweep)


@remote.command(epilog="Example: largebatch remote follow digits-lamb-20260101-120000-ab12cd34")
def follow(job_id: JobId, server: Server = None, is_sweep: IsSweep = False) -> None:
    """Print what a job does until it is over."""
    from largebatch.service.cli.run import remote

    remote.follow(job_id, server, is_sweep)


@remote.command(epilog="Example: largebatch remote logs digits-lamb-20260101-120000-ab12cd34")
def logs(job_id: JobId, server: Server = None, is_sweep: IsSweep = False) -> None:
    """Print what a job's newest attempt printed."""
    from largebatch.service.cli.run import remote

    remote.print_logs(job_id, server, is_sweep)


@remote.command(epilog="Example: largebatch remote cancel digits-lamb-20260101-120000-ab12cd34")
def cancel(job_id: JobId, server: Server = None, is_sweep: IsSweep = False) -> None:
    """End a job after its step; it can be resumed."""
    from largebatch.service.cli.run import remote

    remote.act(job_id, server, is_sweep, "cancel", ", asked to stop")


@remote.command(epilog="Example: largebatch remote resume digits-lamb-20260101-120000-ab12cd34")
def resume(job_id: JobId, server: Server = None, is_sweep: IsSweep = False) -> None:
    """Queue a failed or cancelled job again."""
    from largebatch.service.cli.run import remote

    remote.act(job_id, server, is_sweep, "resume")


@remote.command(epilog="Example: largebatch remote delete digits-lamb-20260101-120000-ab12cd34")
def delete(job_id: JobId, server: Server = None, is_sweep: IsSweep = False) -> None:
    """Forget a job that is over, and remove its files from the server."""
    from largebatch.service.cli.run import remote

    remote.delete(job_id, server, is_sweep)


@remote.command(epilog="Example: largebatch remote advice my-sweep-20260101-120000-ab12cd34")
def advice(job_id: JobId, server: Server = None) -> None:
    """Print what a sweep says so far."""
    from largebatch.service.cli.run import remote

    remote.print_advice(job_id, server)

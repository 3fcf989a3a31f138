"""largebatch train, plan, recipes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from largebatch.jobs.streams import print_answer
from largebatch.service.cli.commands.options import (
    AsJson,
    AskedWorkers,
    CpusPerWorker,
    DataDir,
    Device,
    GpusPerWorker,
    MaxFailures,
    OutputDir,
    Overrides,
    Recipe,
    WorkerLogs,
)
from largebatch.service.cli.tables import output, print_runs

if TYPE_CHECKING:
    from largebatch.jobs.launch.options import LocalOptions, RayOptions
    from largebatch.jobs.prepared import Prepared
    from largebatch.jobs.run.records import RunSummary
    from largebatch.jobs.spec.train_spec import TrainSpec
    from largebatch.jobs.tracking.mirror_process import MirrorProcess
    from largebatch.service.cli.console import TrainingView

app = typer.Typer()


@app.command(epilog="Example: largebatch train mnist-lars --set batch.global_batch_size=8192 --data-dir data")
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe's name (see `largebatch recipes`), the path of a YAML or JSON file, or - for standard input.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    data_dir: DataDir = Path("data"),
    output_dir: OutputDir = "runs",
    device: Device = "auto",
    resume: Annotated[str | None, typer.Option(metavar="RUN_DIR", help="Go on from a run's newest checkpoint.", show_default=False)] = None,
    workers: AskedWorkers = None,
    gpus_per_worker: GpusPerWorker = None,
    cpus_per_worker: CpusPerWorker = None,
    address: Annotated[
        str | None, typer.Option(help="An existing Ray, such as 10.0.0.1:6379; without it the command brings its own.", show_default=False)
    ] = None,
    max_failures: MaxFailures = 8,
    worker_logs: WorkerLogs = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, train nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one recipe: in this process, on one GPU or the CPU, or with --workers on many.

    Exit codes: 0 done, 2 bad input, 3 diverged, 4 stopped and resumable, 1 a fault of the machine.
    """
    from largebatch.jobs.launch.options import fetch_stored, mirrored_spec, read_places
    from largebatch.jobs.tracking.mirror_process import MirrorProcess

    options = fetch_stored(read_places(data_dir, output_dir, device, resume))
    spec = _spec(recipe, options.resume, overrides or [])
    ray_options = _ray_options(workers, gpus_per_worker, cpus_per_worker, address, max_failures, worker_logs)
    if dry_run:
        from largebatch.jobs.launch.local import prepare_locally

        _print_plan(prepare_locally(spec, options, ray_options.workers.most if ray_options else None), as_json)
        return
    if ray_options is not None:
        _train_on_ray(spec, options, ray_options, as_json)
        return
    with MirrorProcess(mirrored_spec(spec, options)) as mirror:  # before torch is imported: MLflow's import goes on beside it
        _train(spec, options, mirror, as_json)


def _spec(recipe: str | None, resume: Path | None, overrides: list[str]) -> "TrainSpec":
    from largebatch.jobs.errors import SpecError
    from largebatch.jobs.run.run_folder import resumed_spec
    from largebatch.jobs.spec.read import read_spec

    if resume is not None and recipe is not None:
        raise SpecError("RECIPE", "a resumed run has its recipe already.", "Leave it out; change single values with --set.")
    if resume is not None:
        return resumed_spec(resume, overrides)
    if recipe is None:
        raise SpecError("RECIPE", "is missing.", "Give a recipe's name or file, or --resume RUN_DIR. `largebatch recipes` lists them.")
    return read_spec(recipe, overrides)


def _train(spec: "TrainSpec", options: "LocalOptions", mirror: "MirrorProcess", as_json: bool) -> None:
    from largebatch.jobs.launch.local import prepare_locally, train_locally
    from largebatch.jobs.run.listener import Listener
    from largebatch.service.cli.console import TrainingView
    from largebatch.tuning.report.figures import draw_run

    job = prepare_locally(spec, options)
    console = Console(stderr=True)
    view = TrainingView(console)
    with _cut_off_in_words(view, console, options), view:
        view.expect(job.plan.total_steps, job.plan.total_progress)
        listener = Listener(on_record=view.record, on_notice=view.notice)
        summary = train_locally(job, options, listener, on_start=view.started, draw=draw_run, mirror=mirror)
    _end(summary, console, as_json, options)


@contextmanager
def _cut_off_in_words(view: "TrainingView", console: Console, options: "LocalOptions", ray_options: "RayOptions | None" = None) -> Iterator[None]:
    """Where a further Ctrl-C, a person's own code or what nobody foresaw cuts the run off: say how to go on with it, if there is a checkpoint."""
    from largebatch.jobs.__main__ import saved_place
    from largebatch.jobs.errors import CodeError, LargebatchError
    from largebatch.jobs.launch.last_words import unforeseen, with_way_on
    from largebatch.jobs.launch.options import resume_command

    def way_on() -> str | None:
        place = saved_place(view.run_dir, options.store) if view.run_dir else None
        return resume_command(place, ray_options) if place else None

    try:
        yield
    except KeyboardInterrupt:
        way = way_on()
        how = f" The last checkpoint is whole. Go on with: {way}" if way else ""
        console.print(f"Interrupted.{how}", highlight=False, soft_wrap=True, markup=False)
        raise
    except CodeError as error:
        raise with_way_on(error, way_on()) from error.__cause__
    except LargebatchError:
        raise
    except Exception as error:
        raise unforeseen(error, view.run_dir) from error


def _ray_options(
    workers: str | None, gpus_per_worker: float | None, cpus_per_worker: float | None, address: str | None, max_failures: int, worker_logs: bool
) -> "RayOptions | None":
    from largebatch.jobs.errors import SpecError
    from largebatch.jobs.launch.options import RayOptions, read_workers

    if workers is None:
        given = {"--gpus-per-worker": gpus_per_worker, "--cpus-per-worker": cpus_per_worker, "--address": address}
        for option, value in given.items():
            if value is not None:
                raise SpecError(option, "is for several workers.", "Say how many with --workers N.")
        return None
    return RayOptions(read_workers(workers), gpus_per_worker, cpus_per_worker, address, max_failures, worker_logs)


def _train_on_ray(spec: "TrainSpec", options: "LocalOptions", ray_options: "RayOptions", as_json: bool) -> None:
    from largebatch.jobs.launch.on_ray.train import train_on_ray
    from largebatch.jobs.run.listener import Listener
    from largebatch.service.cli.console import TrainingView
    from largebatch.tuning.report.figures import draw_run

    console = Console(stderr=True)
    view = TrainingView(console)
    with _cut_off_in_words(view, console, options, ray_options), view:
        listener = Listener(on_record=view.record, on_notice=view.notice)
        summary = train_on_ray(spec, options, ray_options, listener, on_start=view.started, on_plan=view.expect, draw=draw_run)
    _end(summary, console, as_json, options, ray_options)


def _end(summary: "RunSummary", console: Console, as_json: bool, options: "LocalOptions", ray_options: "RayOptions | None" = None) -> None:
    from largebatch.jobs.__main__ import exit_code
    from largebatch.jobs.launch.options import resume_command
    from largebatch.jobs.run.records import Outcome

    if summary.outcome is Outcome.STOPPED:
        how = resume_command(summary.run_dir, ray_options, options)
        console.print(f"Stopped at step {summary.steps}. Go on with: {how}", highlight=False, soft_wrap=True, markup=False)
    if as_json:
        print_answer(summary.model_dump_json())
    else:
        print_runs([summary.model_dump(mode="json")])
    raise typer.Exit(exit_code(summary))


def _print_plan(job: "Prepared", as_json: bool) -> None:
    import json

    if as_json:
        print_answer(json.dumps(job.plan_in_numbers()))
        return
    table = Table(show_header=False, box=None, title=f"Plan of {job.spec.name}", title_justify="left", padding=(0, 2, 0, 0))
    for what, how in job.plan_in_words():
        table.add_row(f"[bold]{what}[/bold]", how)
    output().print(table)


@app.command(epilog="Example: largebatch plan digits-lamb --set batch.micro_batch_size=240")
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    data_dir: DataDir = Path("data"),
    device: Device = "auto",
    workers: AskedWorkers = None,
    as_json: AsJson = False,
) -> None:
    """Print what a recipe would do, and why: split of the batch, steps, learning rate, memory."""
    from largebatch.jobs.device import choose_device
    from largebatch.jobs.job import prepare
    from largebatch.jobs.launch.options import read_workers

    spec = _spec(recipe, None, overrides or [])
    world_size = read_workers(workers).most if workers else None
    _print_plan(prepare(spec, choose_device(device), data_dir, world_size), as_json)


@app.command(epilog="Example: largebatch recipes")
def recipes() -> None:
    """List the recipes that come with this package."""
    from largebatch.jobs.spec.read import read_spec, recipe_paths

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("recipe", "data", "batch", "optimizer", "what it shows"):
        table.add_column(column)
    for name in recipe_paths():
        spec = read_spec(name)
        table.add_row(name, spec.dataset.name or "own", str(spec.batch.global_batch_size), spec.optimizer.name, spec.description)
    output().print(table)

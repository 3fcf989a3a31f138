"""The command `largebatch`. Heavy imports live inside the commands that need them, so that help is quick."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.errors import LargebatchError

if TYPE_CHECKING:
    from jobs.launch.options import LocalOptions, RayOptions
    from jobs.records import RunSummary
    from jobs.spec import TrainSpec
    from jobs.tracking.mirror_process import MirrorProcess
    from service.ray_jobs import RayJobs

app = typer.Typer(
    name="largebatch",
    help="Train with large batches: exact batches, honest clocks, and what each batch size costs.",
    epilog="Example: largebatch train digits-lamb",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Recipe = Annotated[str, typer.Argument(help="A recipe's name (see `largebatch recipes`) or the path of a YAML or JSON file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value, such as batch.global_batch_size=512.", show_default=False)
]
DataDir = Annotated[Path, typer.Option(help="Where data sets lie, as torchvision lays them out.", envvar="LARGEBATCH_DATA_DIR")]
OutputDir = Annotated[str, typer.Option(help="Where run folders go: a folder, or a URI such as s3://bucket/runs.", envvar="LARGEBATCH_OUTPUT_DIR")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
AskedWorkers = Annotated[
    str | None,
    typer.Option("--workers", metavar="N|MIN:MAX", help="Share each batch among so many workers, by Ray; MIN:MAX: as many as there are."),
]
GpusPerWorker = Annotated[float | None, typer.Option(metavar="G", help="GPUs of each worker; default 1 where there are enough.", show_default=False)]
CpusPerWorker = Annotated[float | None, typer.Option(metavar="C", help="CPUs of each worker; may be a fraction.", show_default=False)]
WorkerLogs = Annotated[bool, typer.Option("--worker-logs", help="Print what the workers print, not only what the run tells.")]
MaxFailures = Annotated[int, typer.Option(min=0, help="How often a run of several workers goes on by itself after a failure.")]
Address = Annotated[str, typer.Option(help="The cluster's dashboard, such as http://127.0.0.1:8265.", envvar="RAY_API_SERVER_ADDRESS")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]


@app.command(epilog="Example: largebatch train mnist-lars --set batch.global_batch_size=8192 --data-dir data")
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name (see `largebatch recipes`) or the path of a YAML or JSON file.", show_default=False)
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
    from jobs.launch.options import fetch_stored, mirrored_spec, read_places
    from jobs.tracking.mirror_process import MirrorProcess

    options = fetch_stored(read_places(data_dir, output_dir, device, resume))
    spec = _spec(recipe, options.resume, overrides or [])
    ray_options = _ray_options(workers, gpus_per_worker, cpus_per_worker, address, max_failures, worker_logs)
    if dry_run:
        _print_plan(spec, options, as_json, ray_options.workers.most if ray_options else None)
        return
    if ray_options is not None:
        _train_on_ray(spec, options, ray_options, as_json)
        return
    with MirrorProcess(mirrored_spec(spec, options)) as mirror:  # before torch is imported: MLflow's import goes on beside it
        _train(spec, options, mirror, as_json)


def _spec(recipe: str | None, resume: Path | None, overrides: list[str]) -> "TrainSpec":
    from jobs.errors import SpecError
    from jobs.spec_reader import read_spec, resumed_spec

    if resume is not None and recipe is not None:
        raise SpecError("RECIPE", "a resumed run has its recipe already.", "Leave it out; change single values with --set.")
    if resume is not None:
        return resumed_spec(resume, overrides)
    if recipe is None:
        raise SpecError("RECIPE", "is missing.", "Give a recipe's name or file, or --resume RUN_DIR. `largebatch recipes` lists them.")
    return read_spec(recipe, overrides)


def _train(spec: "TrainSpec", options: "LocalOptions", mirror: "MirrorProcess", as_json: bool) -> None:
    from jobs.job import Listener
    from jobs.launch.local import prepare_locally, train_locally
    from service.console import TrainingView
    from tuning.figures import draw_run

    job = prepare_locally(spec, options)
    console = Console(stderr=True)
    with TrainingView(console) as view:
        view.expect(job.plan.total_steps, job.plan.total_progress)
        listener = Listener(on_record=view.record, on_notice=view.notice)
        summary = train_locally(job, options, listener, on_start=view.started, draw=draw_run, mirror=mirror)
    _end(summary, console, as_json)


def _ray_options(
    workers: str | None, gpus_per_worker: float | None, cpus_per_worker: float | None, address: str | None, max_failures: int, worker_logs: bool
) -> "RayOptions | None":
    from jobs.errors import SpecError
    from jobs.launch.options import RayOptions, read_workers

    if workers is None:
        given = {"--gpus-per-worker": gpus_per_worker, "--cpus-per-worker": cpus_per_worker, "--address": address}
        for option, value in given.items():
            if value is not None:
                raise SpecError(option, "is for several workers.", "Say how many with --workers N.")
        return None
    return RayOptions(read_workers(workers), gpus_per_worker, cpus_per_worker, address, max_failures, worker_logs)


def _train_on_ray(spec: "TrainSpec", options: "LocalOptions", ray_options: "RayOptions", as_json: bool) -> None:
    from jobs.job import Listener
    from jobs.launch.ray_train import train_on_ray
    from service.console import TrainingView
    from tuning.figures import draw_run

    console = Console(stderr=True)
    with TrainingView(console) as view:
        listener = Listener(on_record=view.record, on_notice=view.notice)
        summary = train_on_ray(spec, options, ray_options, listener, on_start=view.started, on_plan=view.expect, draw=draw_run)
    _end(summary, console, as_json)


def _end(summary: "RunSummary", console: Console, as_json: bool) -> None:
    from jobs.__main__ import exit_code
    from jobs.records import Outcome

    if summary.outcome is Outcome.STOPPED:
        console.print(f"Stopped at step {summary.steps}. Go on with: largebatch train --resume {summary.run_dir}", highlight=False, soft_wrap=True)
    if as_json:
        print(summary.model_dump_json())
    else:
        _print_table([summary.model_dump(mode="json")])
    raise typer.Exit(exit_code(summary))


def _print_plan(spec: "TrainSpec", options: "LocalOptions", as_json: bool, world_size: int | None = None) -> None:
    import json

    from jobs.data.dataset import Images
    from jobs.engine.warm_up import activation_bytes_per_sample
    from jobs.launch.local import prepare_locally
    from jobs.plan_report import plan_facts, plan_lines

    job = prepare_locally(spec, options, world_size)
    if as_json:
        print(json.dumps(plan_facts(job.plan)))
        return
    per_sample = activation_bytes_per_sample(job.model, job.dataset)
    dataset_bytes = sum(part.num_bytes for part in (job.dataset.train, job.dataset.test) if isinstance(part, Images))
    table = Table(show_header=False, box=None, title=f"Plan of {spec.name}", title_justify="left", padding=(0, 2, 0, 0))
    for what, how in plan_lines(job.plan, job.model, per_sample, dataset_bytes):
        table.add_row(f"[bold]{what}[/bold]", how)
    _console().print(table)


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
    from jobs.launch.options import LocalOptions, read_workers

    world_size = read_workers(workers).most if workers else None
    _print_plan(_spec(recipe, None, overrides or []), LocalOptions(data_dir=data_dir, device=device), as_json, world_size)


@app.command(epilog="Example: largebatch recipes")
def recipes() -> None:
    """List the recipes that come with this package."""
    from jobs.spec_reader import read_spec, recipe_paths

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("recipe", "data", "batch", "optimizer", "what it shows"):
        table.add_column(column)
    for name in recipe_paths():
        spec = read_spec(name)
        table.add_row(name, spec.dataset.name or "own", str(spec.batch.global_batch_size), spec.optimizer.name, spec.description)
    _console().print(table)


@app.command(epilog="Example: largebatch compare runs/digits-small-* runs/digits-large-* --figure compare.html")
def compare(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)],
    figure: Annotated[Path | None, typer.Option(help="Write accuracy against training seconds here, .html or .png.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: a table, and a figure of accuracy against training seconds."""
    import json

    from jobs.errors import SpecError
    from jobs.run_folder import storage_errors
    from tuning.collect import collect
    from tuning.figures import write_html, write_png

    results = collect(run_dirs)
    if figure is not None:
        if figure.suffix not in {".html", ".png"}:
            raise SpecError("--figure", f"{figure.name} ends in neither .html nor .png.", "Choose one of the two.")
        with storage_errors(figure):
            figure.parent.mkdir(parents=True, exist_ok=True)
            (write_html if figure.suffix == ".html" else write_png)(results, figure)
    rows = [{"recipe": result.name, "optimizer": result.optimizer, **result.summary.model_dump(mode="json")} for result in results]
    if as_json:
        print(json.dumps(rows))
        return
    _print_table(rows)
    if figure is not None:
        print(f"Figure: {figure.resolve()}")


def _console() -> Console:
    """Standard output; piped, it has no width of its own, so nothing is cut to eighty characters."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "run": lambda row: str(row.get("recipe", row["run_id"])),
        "batch": lambda row: f"{row['global_batch_size']:,}",
        "outcome": lambda row: str(row["outcome"]),
        "steps": lambda row: f"{row['steps']:,}",
        "epochs": lambda row: f"{row['epochs']:g}" if row["epochs"] == round(row["epochs"], 2) else f"{row['epochs']:.2f}",
        "training s": lambda row: f"{row['training_seconds']:.2f}",
        "s to target": lambda row: "-" if row["time_to_accuracy_seconds"] is None else f"{row['time_to_accuracy_seconds']:.2f}",
        "test acc.": lambda row: "-" if row["test_accuracy"] is None else f"{row['test_accuracy']:.4f}",
        "best": lambda row: "-" if row["best_test_accuracy"] is None else f"{row['best_test_accuracy']:.4f}",
        "samples/s": lambda row: "-" if row["samples_per_second"] is None else f"{row['samples_per_second']:,.0f}",
        "noise scale": lambda row: "-" if row["gradient_noise_scale"] is None else f"{row['gradient_noise_scale']:,.0f}",
    }
    for column in columns:
        table.add_column(column, justify="left" if column in {"run", "outcome"} else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(show(row) for show in columns.values()))
    _console().print(table)


@app.command(epilog="Example: largebatch sync runs/digits-lamb-20260101-120000-ab12")
def sync(run_dirs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)]) -> None:
    """Bring MLflow up to what the runs' journals hold, for instance after its server was down."""
    from jobs.tracking.mlflow_mirror import sync_run

    for run_dir in run_dirs:
        state = sync_run(run_dir)
        print(f"{run_dir.name}: MLflow run {state.run_id} at {state.uri} has everything.")


@app.command(epilog="Example: largebatch doctor --data-dir data")
def doctor(data_dir: DataDir = Path("data"), output_dir: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs")) -> None:
    """Say what is installed, found and reachable, what is missing, and how to get it."""
    from service.doctor import examine

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    findings = list(examine(data_dir, output_dir))
    for finding in findings:
        mark = "[green]ok[/green]" if finding.is_fine else "[yellow]--[/yellow]"
        table.add_row(mark, finding.what, finding.state)
    _console().print(table)
    if any(finding.is_needed and not finding.is_fine for finding in findings):
        raise typer.Exit(1)


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
    from jobs.errors import SpecError
    from jobs.launch.options import read_workers
    from jobs.run_folder import new_run_id
    from jobs.spec_reader import read_spec
    from service.ray_jobs import RayJobs, Submission

    spec = read_spec(recipe, overrides or [])
    name = name or new_run_id(spec.name)
    for option, place in (("--output-dir", output_dir), ("--data-dir", data_dir)):
        if not place.startswith("/") and "://" not in place:
            raise SpecError(option, f"{place} is relative, and the job runs elsewhere.", "Give the whole path on the cluster's machines.")
    arguments = ["--run-id", name, "--output-dir", output_dir, "--data-dir", data_dir, "--device", device]
    if workers is not None:
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
    from jobs.errors import SpecError

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
        print(f"\nThe job goes on. Look again with: largebatch jobs logs {name} --follow", file=sys.stderr)
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

    from service.ray_jobs import RayJobs

    found = RayJobs(address).all()
    if as_json:
        print(json.dumps([job._asdict() for job in found]))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "attempt", "status", "exit code", "message"):
        table.add_column(column)
    for job in found:
        code = "" if job.exit_code is None else str(job.exit_code)
        table.add_row(job.name, job.submission_id, job.status, code, job.message.splitlines()[0] if job.message else "")
    _console().print(table)


@ray_jobs_app.command("status", epilog="Example: largebatch jobs status my-run --address http://127.0.0.1:8265")
def job_status(name: JobName, address: Address, as_json: AsJson = False) -> None:
    """Say how the newest attempt at a job stands."""
    import json

    from service.ray_jobs import RayJobs

    job = RayJobs(address).find(name)
    print(json.dumps(job._asdict()) if as_json else f"{job.submission_id}: {job.status}")


@ray_jobs_app.command("logs", epilog="Example: largebatch jobs logs my-run --follow --address http://127.0.0.1:8265")
def job_logs(
    name: JobName, address: Address, follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False
) -> None:
    """Print what a job has printed."""
    from service.ray_jobs import RayJobs

    cluster = RayJobs(address)
    if follow:
        _follow(cluster, cluster.find(name).submission_id)
    else:
        print(cluster.logs(name), end="")


@ray_jobs_app.command("stop", epilog="Example: largebatch jobs stop my-run --address http://127.0.0.1:8265")
def stop_job(name: JobName, address: Address) -> None:
    """Let a job finish its step, save and end; submitting its name again goes on."""
    from service.ray_jobs import RayJobs

    cluster = RayJobs(address)
    job = cluster.stop(name)
    while not job.is_over:
        time.sleep(0.5)
        job = cluster.find(job.submission_id)
    print(f"{job.submission_id}: {job.status}")


@ray_jobs_app.command("delete", epilog="Example: largebatch jobs delete my-run --address http://127.0.0.1:8265")
def delete_job(name: JobName, address: Address) -> None:
    """Make the cluster forget a job that is over; its run's folder stays."""
    from service.ray_jobs import RayJobs

    print(f"{name}: {RayJobs(address).delete(name)} attempts forgotten.")


def main() -> None:
    """Run the command; a person's mistakes and the machine's faults end in one sentence, not in a traceback."""
    try:
        app()
    except LargebatchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Interrupted; the last checkpoint is whole.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

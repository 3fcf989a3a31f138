"""largebatch study, profile, sharpness: measuring one's own model."""

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import AsJson, DataDir, Device, MaybeRecipe, Overrides, Recipe
from largebatch.service.cli.typer_parameters import spread

if TYPE_CHECKING:
    from largebatch.jobs.spec.train_spec import TrainSpec

app = typer.Typer()
Folder = Annotated[Path, typer.Option(help="Where the results go.", envvar="LARGEBATCH_OUTPUT_DIR")]


@app.command(epilog="Example: largebatch study digits-small-batch --budget 2m")
@spread
def study(
    recipe: MaybeRecipe = None,
    budget: Annotated[
        str | None, typer.Option(help="Wall-clock time for everything, such as 90s, 30m or 2h; 30m if not given.", show_default=False)
    ] = None,
    overrides: Overrides = (),
    data_dir: DataDir = Path("data"),
    output_dir: Folder = Path("runs"),
    device: Device = "auto",
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with a study that was stopped.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Profile, sweep, sharpness and report in one go: which batch size reaches the target soonest, on your own model.

    A part that only adds to the answer may fail: the report says so, and --resume tries it again.

    Exit codes: 0 done, 2 bad input, 4 stopped and resumable, 1 a fault of the machine.
    """
    from largebatch.jobs.spec.train_spec import TrainSpec
    from largebatch.service.cli.run.sweep import carry_out
    from largebatch.tuning.study.options import Stage, StudyOptions
    from largebatch.tuning.study.study import study as carry_on
    from largebatch.tuning.sweep.begin import begin_sweep, resume_command
    from largebatch.tuning.sweep.ledger import SWEEP
    from largebatch.tuning.sweep.space import refuse_impossible
    from largebatch.tuning.sweep.spec import SweepSpec

    folder, spec, budget_s = _begun(recipe, overrides, budget, data_dir, output_dir) if resume is None else _begun_before(recipe, budget, resume)
    console = Console(stderr=True)
    console.print(f"Study: {folder}", highlight=False, soft_wrap=True)

    def run_the_sweep(place: Path, wanted: SweepSpec, base: TrainSpec) -> int:
        total = refuse_impossible(wanted, base)
        if not (place / SWEEP).is_file():
            begin_sweep(place, wanted, base, name=folder.name)
        return carry_out(place, wanted, base, total, data_dir, device, None).num_left

    with console.status("") as status:

        def on_stage(stage: Stage) -> None:
            status.stop() if stage.name == "sweep" else status.start()
            console.print(f"[bold]{stage.number}/{stage.of}[/bold] {stage.name}", highlight=False)
            status.update("")

        options = StudyOptions(
            folder, data_dir, device, budget_s, on_stage, lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True),
            lambda fraction, text: status.update(f"{fraction:.0%} {text}"),
        )  # fmt: skip
        try:
            page = carry_on(spec, options, run_the_sweep)
        except KeyboardInterrupt:
            page = None
    if page is None:
        console.print(f"Stopped. Go on with: {resume_command('study', folder, data_dir, device)}", highlight=False, soft_wrap=True)
        raise typer.Exit(4)
    numbers = json.loads((page.parent / "report.json").read_text())
    if as_json:
        print_answer(json.dumps({"study_dir": str(folder), "report": str(page), **numbers}))
        return
    for line in numbers["words"]:
        print(line)
    print(f"Report: {page.resolve()}")


def _begun(recipe: str | None, overrides: tuple[str, ...], budget: str | None, data_dir: Path, output_dir: Path) -> "tuple[Path, TrainSpec, float]":
    """A new study's folder, what it studies, and its seconds. Raises: SpecError."""
    from largebatch.jobs.errors import SpecError
    from largebatch.jobs.spec.read import read_spec
    from largebatch.tuning.study.begin import begin_study, refuse_unstudied
    from largebatch.tuning.sweep.sweep import num_train_samples

    if recipe is None:
        raise SpecError("RECIPE", "give either a recipe or --resume DIR.")
    spec, budget_s = read_spec(recipe, overrides), seconds_of(budget or "30m")
    refuse_unstudied(spec, budget_s)
    num_train_samples(spec, data_dir)  # before a folder is made: the data may be missing
    folder = output_dir / f"study-{spec.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    begin_study(folder, spec, budget_s)
    return folder, spec, budget_s


def _begun_before(recipe: str | None, budget: str | None, folder: Path) -> "tuple[Path, TrainSpec, float]":
    """The same of a study that was stopped, or refused for its budget. Raises: SpecError."""
    from largebatch.jobs.errors import SpecError
    from largebatch.jobs.spec.train_spec import TrainSpec
    from largebatch.tuning.results.run_folders import STUDY
    from largebatch.tuning.study.begin import change_budget

    if recipe is not None:
        raise SpecError("RECIPE", "give either a recipe or --resume DIR.")
    if not (folder / STUDY).is_file():
        raise SpecError("--resume", f"{folder} is not a study's folder: it has no {STUDY}.", "Give the folder that the study printed.")
    if budget is not None:
        change_budget(folder, seconds_of(budget))
    begun = json.loads((folder / STUDY).read_text())
    return folder, TrainSpec.model_validate(begun["spec"]), float(begun["budget_s"])


def seconds_of(text: str) -> float:
    """`90s`, `30m`, `1.5h` or plain seconds. Raises: SpecError."""
    from largebatch.jobs.errors import SpecError

    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text.strip())
    if found is None or float(found[1]) == 0:
        raise SpecError("--budget", f"{text!r} is not a time.", "Examples: 90s, 30m, 2h.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


@app.command(epilog="Example: largebatch profile digits-lamb --figure figures")
@spread
def profile(
    recipe: Recipe,
    overrides: Overrides = (),
    data_dir: DataDir = Path("data"),
    device: Device = "auto",
    batch_sizes: Annotated[str | None, typer.Option(metavar="N,N,...", help="Default: 1, 2, 4 ... and the full set.", show_default=False)] = None,
    seconds: Annotated[float, typer.Option(min=0.05, help="How long to time each batch size.")] = 1.0,
    output: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Keep it here, for `advise` and `scale`.", show_default=False)] = None,
    figure: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the two figures here, as PNG.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Step time, epoch time, samples per second and memory against the batch size, on this machine."""
    from largebatch.jobs.device import choose_device
    from largebatch.jobs.job import prepare
    from largebatch.jobs.run.run_folder import refuse_unwritable, write_text
    from largebatch.jobs.spec.read import read_spec
    from largebatch.service.cli.checks import refuse_unless_positive, refuse_unwritable_file, whole_numbers
    from largebatch.service.cli.tables import output as standard_output
    from largebatch.tuning.measure.profile import profile as measure
    from largebatch.tuning.report.measured_figures import profile_charts
    from largebatch.tuning.report.picture_pen import write_pngs
    from largebatch.tuning.results.analysis.step_time import profile_in_words

    sizes = whole_numbers("--batch-sizes", batch_sizes) if batch_sizes else None
    refuse_unless_positive("--seconds", seconds)
    refuse_unwritable_file("--output", output)
    if figure is not None:
        refuse_unwritable(figure, "--figure")
    spec, place = read_spec(recipe, overrides), choose_device(device)
    with Console(stderr=True).status("") as status:
        found = measure(
            spec, lambda one: prepare(one, place, data_dir), sizes, seconds_per_batch=seconds,
            on_point=lambda batch, done, of: status.update(f"{done}/{of} batch {batch:,}"),
        )  # fmt: skip
    if output is not None:
        write_text(output, found.model_dump_json(indent=2) + "\n")
    if figure is not None:
        write_pngs(profile_charts(found), figure)
    if as_json:
        print_answer(found.model_dump_json())
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    memory = "peak memory" if place.type == "cuda" else "process memory so far"
    for column in ("batch", "micro-batch", "ms per step", "s per epoch", "samples/s", memory):
        table.add_column(column, justify="right", no_wrap=True)
    for point in found.points:
        table.add_row(
            f"{point.global_batch_size:,}", f"{point.micro_batch_size:,}", f"{point.seconds_per_step * 1000:,.3g}", f"{point.seconds_per_epoch:,.3g}",
            f"{point.samples_per_second:,.0f}", f"{point.peak_memory_bytes / 2**20:,.0f} MiB",
        )  # fmt: skip
    standard_output().print(table)
    print(profile_in_words(found))
    if place.type != "cuda":
        print("Memory on a CPU is the most that this process has held so far, from batch to batch: it never falls.")
    for size, why in found.left_out.items():
        print(f"Batch {size:,} was left out: {why}")


@app.command(epilog="Example: largebatch sharpness runs/keskar-f1-small-... runs/keskar-f1-large-... --data-dir data")
@spread
def sharpness(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)],
    other: Annotated[Path | None, typer.Argument(metavar="RUN2", help="Another, for the lines between them.", show_default=False)] = None,
    data_dir: DataDir = Path("data"),
    device: Device = "auto",
    num_samples: Annotated[int, typer.Option("--samples", min=10, help="Training images that the loss is taken over.")] = 5000,
    dimensions: Annotated[int, typer.Option(min=1, help="Of the random subspace.")] = 100,
    points: Annotated[int, typer.Option(min=2, help="Places on each line.")] = 25,
    figure: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the lines' figures here, as PNG.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """How sharp the minima are that runs found: Keskar's sharpness, the top Hessian eigenvalue, the lines between two."""
    from largebatch.jobs.device import choose_device, device_name
    from largebatch.jobs.errors import InputError
    from largebatch.jobs.run.run_folder import refuse_unwritable
    from largebatch.service.cli.tables import print_rows
    from largebatch.tuning.measure.lines import refuse_unlike
    from largebatch.tuning.measure.solution import load_solution
    from largebatch.tuning.report.attempts import Attempts
    from largebatch.tuning.report.measured_figures import line_chart, line_conditions
    from largebatch.tuning.report.picture_pen import write_pngs
    from largebatch.tuning.study.solutions import lines_between, sharpness_of

    if figure is not None:
        refuse_unwritable(figure, "--figure")
    place = choose_device(device)
    solutions = [load_solution(one, place, data_dir, num_samples) for one in (run, other) if one is not None]
    if len(solutions) == 2:
        refuse_unlike(*solutions)
    caption = line_conditions(f"{solutions[0].setting}, {device_name(place)}", [one.job.spec.seed for one in solutions], solutions[0].num_samples)
    found: dict[str, Any] = {"solutions": []}
    attempts = Attempts()
    with Console(stderr=True).status("") as status:
        for solution in solutions:
            measured = sharpness_of(solution, solution.name, dimensions, attempts, status.update)
            found["solutions"].append({"run": solution.name, "num_samples": solution.num_samples, **measured})
        lines = lines_between(solutions, points, attempts, status.update) if len(solutions) == 2 else {}
    found["lines"] = {name: [point._asdict() for point in walked] for name, walked in lines.items()}
    if figure is not None:
        write_pngs([line_chart(name, walked, solutions[0].name, solutions[1].name, caption) for name, walked in lines.items()], figure)
    if attempts.failed and not any(entry["sharpness"] or entry["top_eigenvalue"] is not None for entry in found["solutions"]):
        raise InputError("", attempts.failed[0].why)
    found["failed"] = [one._asdict() for one in attempts.failed]
    for one in attempts.failed:
        print(one.in_words, file=sys.stderr)
    if as_json:
        print_answer(json.dumps(found))
        return
    _print_sharpness(found)
    for name, walked in found["lines"].items():
        print(f"\nAlong the {name} line, from {solutions[0].name} (at 0) to {solutions[1].name} (at 1):")
        print_rows([{what.replace("_", " "): f"{value:.4g}" for what, value in at.items()} for at in walked])
    if found["lines"]:
        print(caption)


def _print_sharpness(found: dict[str, Any]) -> None:
    """A table with a column for each solution, and what must be said of its values."""
    from largebatch.service.cli.tables import output as standard_output
    from largebatch.tuning.measure.sharpness import sharpness_rows, slope_in_words

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for entry in found["solutions"]:
        table.add_column(entry["run"], justify="right")
    for what, values in sharpness_rows(found["solutions"]):
        table.add_row(what, *(f"{value:.4g}" for value in values))
    unsettled = "not measured" if any("eigenvalue" in one["what"] for one in found["failed"]) else "did not settle"
    eigenvalues = [entry["top_eigenvalue"] for entry in found["solutions"]]
    table.add_row("top Hessian eigenvalue", *(unsettled if value is None else f"{value:.4g}" for value in eigenvalues))
    standard_output().print(table)
    for entry in found["solutions"]:
        for sentence in slope_in_words(entry["run"], entry["sharpness"]):
            print(sentence)

"""Measures step times and the sharpness of minima: `largebatch profile` and `largebatch sharpness`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from largebatch.jobs.device import choose_device, device_name
from largebatch.jobs.errors import InputError
from largebatch.jobs.job import prepare
from largebatch.jobs.launch.options import DataDir, Device, Overrides
from largebatch.jobs.run.run_folder import refuse_unwritable
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.streams import print_answer
from largebatch.jobs.whole_files import write_text
from largebatch.service.cli.console import told_while_working
from largebatch.service.cli.options import AsJson, Recipe, refuse_unless_positive, refuse_unwritable_file, whole_numbers
from largebatch.service.cli.tables import GAP, output, plain_table, print_rows
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.measure.lines import line_chart, line_conditions, refuse_unlike
from largebatch.tuning.measure.profile import profile as measure_profile
from largebatch.tuning.measure.sharpness import sharpness_rows, slope_in_words
from largebatch.tuning.measure.solution import load_solution
from largebatch.tuning.report.batch_figures import in_unit, profile_charts
from largebatch.tuning.report.contents import Attempts
from largebatch.tuning.report.picture_pen import write_png
from largebatch.tuning.results.analysis.step_time import Profile, profile_in_words
from largebatch.tuning.study.solutions import lines_between, sharpness_of

app = typer.Typer()


@app.command(epilog="Example: largebatch profile digits-lamb --figure figures")
@spread
def profile(
    recipe: Recipe,
    overrides: Overrides = (),
    data_dir: DataDir = Path("data"),
    device: Device = "auto",
    batch_sizes: Annotated[str | None, typer.Option(metavar="N,N,...", help="Default: 1, 2, 4 ... and the full set.")] = None,
    seconds: Annotated[float, typer.Option(min=0.05, help="How long to time each batch size.")] = 1.0,
    output: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Keep it here, for `advise` and `scale`.")] = None,
    figure: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the two figures here, as PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Step time, epoch time, samples per second and memory against the batch size, on this machine."""
    sizes = whole_numbers("--batch-sizes", batch_sizes) if batch_sizes else None
    refuse_unless_positive("--seconds", seconds)
    refuse_unwritable_file("--output", output)
    if figure is not None:
        refuse_unwritable(figure, "--figure")
    spec, torch_device = read_spec(recipe, overrides), choose_device(device)
    with told_while_working() as tell:
        profile = measure_profile(
            spec, lambda at_batch: prepare(at_batch, torch_device, data_dir), sizes, seconds_per_batch=seconds,
            on_point=lambda batch, done, of: tell(f"{done}/{of} batch {batch:,}"),
        )  # fmt: skip
    if output is not None:
        write_text(output, profile.model_dump_json(indent=2) + "\n")
    if figure is not None:
        for chart in profile_charts(profile):
            write_png(in_unit(chart, profile.unit), figure / f"{chart.name}.png")
    if as_json:
        print_answer(profile.model_dump_json())
    else:
        _print_profile(profile, is_on_cpu=torch_device.type != "cuda")


def _print_profile(profile: Profile, is_on_cpu: bool) -> None:
    memory = "process memory so far" if is_on_cpu else "peak memory"
    unit = profile.unit
    table = plain_table("batch", "micro-batch", "ms per step", "s per epoch", f"{unit.name}/s", memory, numbers=True)
    for point in profile.points:
        table.add_row(
            unit.batch(point.global_batch_size), f"{point.micro_batch_size:,}", f"{point.seconds_per_step * 1000:,.3g}",
            f"{point.seconds_per_epoch:,.3g}", f"{unit.of(point.samples_per_second):,.0f}", f"{point.peak_memory_bytes / 2**20:,.0f} MiB",
        )  # fmt: skip
    output().print(table)
    print(profile_in_words(profile))
    if is_on_cpu:
        print("Memory on a CPU is the most that this process has held so far, from batch to batch: it never falls.")
    for size, why in profile.left_out.items():
        print(f"Batch {size:,} was left out: {why}")


@app.command(epilog="Example: largebatch sharpness runs/keskar-f1-small-... runs/keskar-f1-large-... --data-dir data")
@spread
def sharpness(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    other: Annotated[Path | None, typer.Argument(metavar="RUN2", help="Another, for the lines between them.")] = None,
    data_dir: DataDir = Path("data"),
    device: Device = "auto",
    num_samples: Annotated[int, typer.Option("--samples", min=10, help="Training samples that the loss is taken over.")] = 5000,
    dimensions: Annotated[int, typer.Option(min=1, help="Of the random subspace.")] = 100,
    points: Annotated[int, typer.Option(min=2, help="Places on each line.")] = 25,
    figure: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the lines' figures here, as PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """How sharp the minima are that runs found: Keskar's sharpness, the top Hessian eigenvalue, the lines between two."""
    if figure is not None:
        refuse_unwritable(figure, "--figure")
    torch_device = choose_device(device)
    solutions = [load_solution(run_dir, torch_device, data_dir, num_samples) for run_dir in (run, other) if run_dir is not None]
    has_lines = len(solutions) == 2
    if has_lines:
        refuse_unlike(*solutions)
    setting, seeds = f"{solutions[0].setting}, {device_name(torch_device)}", [solution.job.spec.seed for solution in solutions]
    part, metric = solutions[0].job.dataset.evaluated_on, solutions[0].job.metric
    caption = line_conditions(setting, seeds, solutions[0].num_samples, part)
    attempts, entries = Attempts(), list[dict[str, Any]]()
    with told_while_working() as tell:
        for solution in solutions:
            measured = sharpness_of(solution, solution.name, dimensions, attempts, tell)
            entries.append({"run": solution.name, "num_samples": solution.num_samples, **measured})
        lines = lines_between(solutions, points, attempts, tell) if has_lines else {}
    if figure is not None:
        names = solutions[0].name, solutions[-1].name
        for name, walked in lines.items():
            write_png(line_chart(name, walked, *names, caption, metric, part), figure / f"line-{name}.png")
    if attempts.failed and not any(entry["sharpness"] or entry["top_eigenvalue"] is not None for entry in entries):
        raise InputError("", attempts.failed[0].why)
    for failure in attempts.failed:
        print(failure.in_words, file=sys.stderr)
    answer: dict[str, Any] = {
        "solutions": entries,
        "evaluated_on": part,
        "lines": {name: [point._asdict() for point in points] for name, points in lines.items()},
        "failed": [failure.model_dump() for failure in attempts.failed],
    }
    if as_json:
        print_answer(json.dumps(answer))
    else:
        _print_sharpness(answer, caption)


def _print_sharpness(answer: dict[str, Any], caption: str) -> None:
    """A table with a column for each solution, what must be said of its values, and the lines' points."""
    entries = answer["solutions"]
    table = Table(box=None, padding=(0, GAP, 0, 0))
    table.add_column("")
    for entry in entries:
        table.add_column(entry["run"], justify="right")
    for what, values in sharpness_rows(entries):
        table.add_row(what, *(f"{value:.4g}" for value in values))
    unsettled = "not measured" if any("eigenvalue" in failure["what"] for failure in answer["failed"]) else "did not settle"
    eigenvalues = [entry["top_eigenvalue"] for entry in entries]
    table.add_row("top Hessian eigenvalue", *(unsettled if value is None else f"{value:.4g}" for value in eigenvalues))
    output().print(table)
    for entry in entries:
        for sentence in slope_in_words(entry["run"], entry["sharpness"]):
            print(sentence)
    for name, points in answer["lines"].items():
        print(f"\nAlong the {name} line, from {entries[0]['run']} (at 0) to {entries[1]['run']} (at 1):")
        named = {name: f"{answer['evaluated_on']} {name}" for name in ("loss", "score")}
        print_rows([{named.get(what, what.replace("_", " ")): f"{value:.4g}" for what, value in point.items()} for point in points])
    if answer["lines"]:
        print(caption)

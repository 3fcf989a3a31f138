"""Prints what a recipe would do: `largebatch plan` and `largebatch train --dry-run`."""

import json
from typing import Annotated

import typer

from largebatch.jobs.device import choose_device
from largebatch.jobs.job import prepare
from largebatch.jobs.launch.local import prepare_locally
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.stored_runs import fetch_stored
from largebatch.jobs.launch.train import spec_of
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.options import AsJson, Recipe
from largebatch.service.cli.tables import output, plain_table
from largebatch.service.cli.typer_parameters import spread

app = typer.Typer()
PlanOptions = Annotated[TrainOptions, "overrides", "data_dir", "device", "workers"]


@app.command(epilog="Example: largebatch plan digits-lamb --set batch.micro_batch_size=240")
@spread
def plan(recipe: Recipe, options: PlanOptions, as_json: AsJson = False) -> None:
    """Print what a recipe would do, and why: split of the batch, steps, learning rate, memory."""
    spec = read_spec(recipe, options.all_overrides)
    _print(prepare(spec, choose_device(options.device), options.data_dir, _num_workers(options)), as_json)


def check_and_print(options: TrainOptions, as_json: bool) -> None:
    """Check everything that a run would, also where it would be kept, and print its plan."""
    fetch_stored(options)
    _print(prepare_locally(spec_of(options), options, _num_workers(options)), as_json)


def _num_workers(options: TrainOptions) -> int | None:
    return options.workers.most if options.workers else None


def _print(job: Prepared, as_json: bool) -> None:
    if as_json:
        print_answer(json.dumps(job.plan_in_numbers()))
        return
    table = plain_table(title=f"Plan of {job.spec.name}")
    for what, how in job.plan_in_words():
        table.add_row(f"[bold]{what}[/bold]", how)
    output().print(table)

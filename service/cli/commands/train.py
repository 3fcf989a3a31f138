"""largebatch train, plan, recipes: one run of one recipe."""

from dataclasses import replace
from typing import Annotated

import typer

from largebatch.jobs.launch.options import TrainOptions
from largebatch.service.cli.options import AsJson, Recipe
from largebatch.service.cli.typer_parameters import Only, spread

app = typer.Typer()


@app.command(epilog="Example: largebatch train mnist-lars --set batch.global_batch_size=8192 --data-dir data")
@spread
def train(
    options: TrainOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, train nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one recipe: in this process, on one GPU or the CPU, or with --workers on many.

    Exit codes: 0 done, 2 bad input, 3 diverged, 4 stopped and resumable, 1 a fault of the machine.
    """
    if dry_run:
        from largebatch.service.cli.run import plan

        plan.dry_run(options, as_json)
    else:
        from largebatch.service.cli.run import train

        train.train(options, as_json)


@app.command(epilog="Example: largebatch plan digits-lamb --set batch.micro_batch_size=240")
@spread
def plan(recipe: Recipe, options: Annotated[TrainOptions, Only("overrides", "data_dir", "device", "workers")], as_json: AsJson = False) -> None:
    """Print what a recipe would do, and why: split of the batch, steps, learning rate, memory."""
    from largebatch.service.cli.run import plan

    plan.plan(replace(options, recipe=recipe), as_json)


@app.command(epilog="Example: largebatch recipes")
def recipes() -> None:
    """List the recipes that come with this package."""
    from largebatch.service.cli.run import train

    train.print_recipes()

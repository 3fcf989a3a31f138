"""Trains a recipe with a view of it, and lists recipes: `largebatch train` and `largebatch recipes`.

Torch is not imported here: MLflow's mirror begins first, and a driver on Ray needs none.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.train import exit_code
from largebatch.jobs.launch.train import train as train_and_keep
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.read import read_spec, recipe_paths
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.console import TrainingView
from largebatch.service.cli.options import AsJson
from largebatch.service.cli.tables import output, plain_table, print_runs
from largebatch.service.cli.typer_parameters import spread

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
        from largebatch.service.cli.commands.plan import check_and_print  # which brings torch along: see above

        check_and_print(options, as_json)
        return
    view = TrainingView(Console(stderr=True))
    listener = Listener(on_start=view.started, on_plan=view.expect, on_record=view.record, on_notice=view.notice, on_ending=view.ending)
    try:
        with view.progress:
            summary = train_and_keep(options, listener, draw=_draw)
    except KeyboardInterrupt as interrupt:
        view.notice(f"Interrupted. {interrupt}".strip())
        raise typer.Exit(130) from interrupt
    if as_json:
        print_answer(summary.model_dump_json())
    else:
        print_runs([summary.model_dump(mode="json")])
    if summary.outcome is Outcome.MISSED and summary.target is not None and summary.best_score is not None:
        metric = summary.headline.metric
        view.notice(
            f"It missed {metric.name} {summary.target:g}; its best is {metric.format(summary.best_score)}. Train on, to a later end (stop.epochs or"
            f" stop.steps): largebatch train --resume {summary.run_dir} --set ... Or look for a better rate: largebatch find-rate RECIPE"
        )
    raise typer.Exit(exit_code(summary))


def _draw(run_dir: Path) -> None:
    """Draw the run's figure, where it was trained."""
    from largebatch.tuning.report.run_figures import draw_run  # which brings torch along: see above

    draw_run(run_dir)


@app.command(epilog="Example: largebatch recipes")
def recipes() -> None:
    """List the recipes that come with this package."""
    table = plain_table("recipe", "data", "batch", "optimizer", "what it shows")
    for name in recipe_paths():
        spec = read_spec(name)
        tokens = spec.batch.global_batch_tokens
        batch = str(spec.batch.global_batch_size) if tokens is None else f"{tokens:,} tokens"
        table.add_row(name, spec.dataset.name or "own", batch, spec.optimizer.name, spec.description)
    output().print(table)

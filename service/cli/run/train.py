"""Trains a recipe with a view of it, and lists recipes: `largebatch train` and `largebatch recipes`.

Torch is not imported here: MLflow's mirror begins first, and a driver on Ray needs none.
"""

from pathlib import Path

import typer
from rich.console import Console

from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.train import exit_code, stopped_in_words
from largebatch.jobs.launch.train import train as train_and_keep
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.spec.read import read_spec, recipe_paths
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.console import TrainingView
from largebatch.service.cli.tables import output, plain_table, print_runs


def train(options: TrainOptions, as_json: bool) -> None:
    """Train, show how it goes, and print the summary."""
    console = Console(stderr=True)
    view = TrainingView(console)
    listener = Listener(on_record=view.record, on_notice=view.notice)
    try:
        with view:
            summary = train_and_keep(options, listener, on_start=view.started, on_plan=view.expect, draw=_draw)
    except KeyboardInterrupt as interrupt:
        view.notice(f"Interrupted. {interrupt}".strip())
        raise typer.Exit(130) from interrupt
    if (words := stopped_in_words(summary, options)) is not None:
        view.notice(words)
    if as_json:
        print_answer(summary.model_dump_json())
    else:
        print_runs([summary.model_dump(mode="json")])
    raise typer.Exit(exit_code(summary))


def _draw(run_dir: Path) -> None:
    """Draw the run's figure, where it was trained."""
    from largebatch.tuning.report.run_figures import draw_run  # which bring torch along: see above

    draw_run(run_dir)


def print_recipes() -> None:
    """A line for each recipe that comes along."""
    table = plain_table("recipe", "data", "batch", "optimizer", "what it shows")
    for name in recipe_paths():
        spec = read_spec(name)
        table.add_row(name, spec.dataset.name or "own", str(spec.batch.global_batch_size), spec.optimizer.name, spec.description)
    output().print(table)

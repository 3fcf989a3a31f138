"""Finds learning rates by short runs: `largebatch find-rate`."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.device import choose_device, device_name
from largebatch.jobs.job import prepare
from largebatch.jobs.launch.options import DataDir, Device, Overrides
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.streams import print_answer
from largebatch.jobs.tracking.params import flat
from largebatch.service.cli.console import told_while_working
from largebatch.service.cli.figure_file import refuse_figure, write_figure
from largebatch.service.cli.options import AsJson, Recipe, whole_numbers
from largebatch.service.cli.tables import print_rows
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.measure.rates import BatchRate, Rates, find_rates, rates_chart
from largebatch.tuning.results.run_result import part_in_words

app = typer.Typer()


@app.command(epilog="Example: largebatch find-rate digits-lamb --batches 64,256,1024")
@spread
def find_rate(
    recipe: Recipe,
    overrides: Overrides = (),
    batches: Annotated[str | None, typer.Option(metavar="N,N,...", help="Global batch sizes; default the recipe's own.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="That each short run trains on; default a tenth of the recipe's, or more.")] = None,
    data_dir: DataDir = Path("data"),
    device: Device = "auto",
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Write loss against rate here, .html or .png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the learning rate of each batch size by short runs, with the same search for each.

    About ten runs a batch, each the recipe in miniature, judged by its loss at the end. Rates a factor of 4 apart until the best has worse ones on
    both sides, then 2, then 1.4.
    """
    refuse_figure(figure)
    sizes = whole_numbers("--batches", batches) if batches else None
    spec, torch_device = read_spec(recipe, overrides), choose_device(device)
    with told_while_working() as tell:
        rates = find_rates(
            spec, lambda at_batch: prepare(at_batch, torch_device, data_dir), sizes, samples,
            on_run=lambda batch, rate: tell(f"batch {batch:,}, learning rate {rate:g}"),
        )  # fmt: skip
    if figure is not None:
        fields = flat(spec.model_dump(mode="json"))
        setting = f"{part_in_words(fields, 'model')} on {part_in_words(fields, 'dataset')}, {spec.optimizer.label}, {device_name(torch_device)}"
        write_figure(figure, rates_chart(rates, setting))
    commands = [_command(recipe, overrides, found) for found in rates.batches]
    if as_json:
        found = [{**found.model_dump(), "command": command} for found, command in zip(rates.batches, commands, strict=True)]
        print_answer(json.dumps({"batches": found, "num_samples": rates.num_samples, "share": rates.share, "evaluated_on": rates.evaluated_on}))
        return
    print_rows([_row(found, rates) for found in rates.batches])
    about = f"Runs of {rates.unit.words(rates.num_samples)}, {rates.share:.0%} of the recipe's; one seed"
    print(f"{about}. A longer run's best rate may be another: more with --samples, whole runs with `largebatch study`.\n")
    print("\n".join(commands))
    if figure is not None:
        print(f"Figure: {figure.resolve()}")


def _row(found: BatchRate, rates: Rates) -> dict[str, str]:
    low, high = ("no other" if end is None else f"{end:g}" for end in (found.low, found.high))
    return {
        "batch": rates.unit.batch(found.global_batch_size), "learning rate": f"{found.learning_rate:g}", "tried below and above": f"{low}, {high}",
        f"{rates.evaluated_on} loss": f"{found.loss:.4g}", "steps": f"{found.num_steps:,}", "runs": f"{len(found.tried)}",
    }  # fmt: skip


def _command(recipe: str, overrides: tuple[str, ...], found: BatchRate) -> str:
    """What trains with the rate that was found."""
    fields = [f"{field}={value if isinstance(value, int | str) else f'{value:g}'}" for field, value in found.fields.items()]
    return f"largebatch train {shlex.join([recipe, *(word for field in (*overrides, *fields) for word in ('--set', field))])}"

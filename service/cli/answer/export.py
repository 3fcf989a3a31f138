"""Writes the weights that a run was judged by as a file that any program loads: `largebatch export`."""

from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.models.weights import write_weights
from largebatch.jobs.resume import weights_of_run
from largebatch.jobs.spec.model_and_data import WEIGHT_FILES
from largebatch.jobs.whole_files import storage_errors
from largebatch.service.cli.options import refuse_unwritable_file

app = typer.Typer()


@app.command(epilog="Example: largebatch export runs/digits-lamb-20260101-120000 --best --output digits.safetensors")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="A new file: .safetensors, or .pt as torch.save writes it.")],
    best: Annotated[bool, typer.Option("--best", help="The checkpoint with the best score; default the newest.")] = False,
) -> None:
    """Write the weights that a run was evaluated with as a plain state_dict, for any program that loads one."""
    if output.suffix not in WEIGHT_FILES:
        raise SpecError("--output", f"{output.name} ends in neither {' nor '.join(WEIGHT_FILES)}.", "Choose one of the two.")
    refuse_unwritable_file("--output", output)
    if output.exists():
        raise InputError("--output", f"{output} is there already.", "Give a new file, or remove it first.")
    found = weights_of_run(run, best, lambda text: typer.echo(text, err=True))
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_weights(output, found.weights)
    print(f"{len(found.weights)} tensors, the {found.kind} of step {found.step}: {output.resolve()}")

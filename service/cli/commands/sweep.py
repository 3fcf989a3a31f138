"""largebatch sweep: many runs of one recipe, each batch searched with equal care."""

from pathlib import Path
from typing import Annotated

import typer

from largebatch.service.cli.options import AsJson, DataDir, Device, Machines, RayAddress
from largebatch.service.cli.typer_parameters import spread

app = typer.Typer()


@app.command(epilog="Example: largebatch sweep digits-batches")
@spread
def sweep(
    sweep: Annotated[str | None, typer.Argument(help="A sweep's file, or the name of one that comes along.", show_default=False)] = None,
    data_dir: DataDir = Path("data"),
    output_dir: Annotated[Path, typer.Option(help="Where the sweep's folder goes.", envvar="LARGEBATCH_OUTPUT_DIR")] = Path("runs"),
    device: Device = "auto",
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with a sweep that was stopped or killed.", show_default=False)] = None,
    address: RayAddress = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say how many runs there would be, run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run one recipe at many batch sizes, each with its own search for the learning rate, and say which is soonest.

    Exit codes: 0 done, 2 bad input, 4 stopped and resumable, 1 a fault of the machine.
    """
    from largebatch.service.cli.run import sweep as run

    machines = Machines(data_dir, device, address)
    if dry_run:
        run.print_plan(sweep, resume, data_dir, output_dir, as_json)
    else:
        run.sweep(sweep, resume, output_dir, machines, as_json)

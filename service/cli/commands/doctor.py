"""largebatch doctor: what is installed, found and reachable."""

from pathlib import Path

import typer

from largebatch.service.cli.options import DataDir, OutputDir
from largebatch.service.cli.typer_parameters import spread

app = typer.Typer()


@app.command(epilog="Example: largebatch doctor --data-dir data")
@spread
def doctor(data_dir: DataDir = Path("data"), output_dir: OutputDir = "runs") -> None:
    """Say what is installed, found and reachable, what is missing, and how to get it."""
    from largebatch.service.cli.run import doctor

    doctor.doctor(data_dir, output_dir)

"""largebatch sync: MLflow beside runs that are there."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(epilog="Example: largebatch sync runs/digits-lamb-20260101-120000-ab12")
def sync(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them, such as a sweep's or a study's.", show_default=False)],
) -> None:
    """Bring MLflow up to what the runs' journals hold, for instance after its server was down."""
    from largebatch.service.cli.run import sync

    sync.sync(run_dirs)

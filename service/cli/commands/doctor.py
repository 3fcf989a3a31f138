"""largebatch doctor."""

from pathlib import Path

import typer
from rich.table import Table

from largebatch.service.cli.options import DataDir, OutputDir
from largebatch.service.cli.spread import spread
from largebatch.service.cli.tables import output

app = typer.Typer()


@app.command(epilog="Example: largebatch doctor --data-dir data")
@spread
def doctor(data_dir: DataDir = Path("data"), output_dir: OutputDir = "runs") -> None:
    """Say what is installed, found and reachable, what is missing, and how to get it."""
    from largebatch.service.cli.doctor import examine

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    findings = list(examine(data_dir, output_dir))
    for finding in findings:
        mark = "[green]ok[/green]" if finding.is_fine else "[yellow]--[/yellow]"
        table.add_row(mark, finding.what, finding.state)
    output().print(table)
    if any(finding.is_needed and not finding.is_fine for finding in findings):
        raise typer.Exit(1)

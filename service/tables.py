"""What a command prints on standard output: tables that a pipe gets whole."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table


def output() -> Console:
    """Standard output; piped, it has no width of its own, so nothing is cut to eighty characters."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def print_rows(rows: list[dict[str, str]]) -> None:
    """Rows that are words already, with their names above."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in rows[0]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    output().print(table)


def print_runs(rows: list[dict[str, Any]]) -> None:
    """A line for each run's summary."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "run": lambda row: str(row.get("recipe", row["run_id"])),
        "batch": lambda row: f"{row['global_batch_size']:,}",
        "outcome": lambda row: str(row["outcome"]),
        "steps": lambda row: f"{row['steps']:,}",
        "epochs": lambda row: f"{row['epochs']:g}" if row["epochs"] == round(row["epochs"], 2) else f"{row['epochs']:.2f}",
        "training s": lambda row: f"{row['training_seconds']:.2f}",
        "s to target": lambda row: "-" if row["time_to_accuracy_seconds"] is None else f"{row['time_to_accuracy_seconds']:.2f}",
        "test acc.": lambda row: "-" if row["test_accuracy"] is None else f"{row['test_accuracy']:.4f}",
        "best": lambda row: "-" if row["best_test_accuracy"] is None else f"{row['best_test_accuracy']:.4f}",
        "samples/s": lambda row: "-" if row["samples_per_second"] is None else f"{row['samples_per_second']:,.0f}",
        "noise scale": lambda row: "-" if row["gradient_noise_scale"] is None else f"{row['gradient_noise_scale']:,.0f}",
    }
    for column in columns:
        table.add_column(column, justify="left" if column in {"run", "outcome"} else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(show(row) for show in columns.values()))
    output().print(table)

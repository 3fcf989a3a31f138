"""Prints tables on standard output: whole into a pipe, and with whole numbers on a terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.streams import printable
from largebatch.jobs.tasks.metric import in_places
from largebatch.service.job import Kind
from largebatch.tuning.files import told_apart
from largebatch.tuning.results.unit import clock_in_words

GAP = 2
"""Blanks behind a column."""
MOST_DIFFERING = 5
"""Columns of what runs differ in."""
SHORTEST_NAME = 16
"""Letters of a name that are left of it at least, where room is short."""


def output() -> Console:
    """Standard output; piped, it has no width of its own, so nothing is cut to eighty characters."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def plain_table(*columns: str, numbers: bool = False, title: str | None = None) -> Table:
    """A table without lines. Args: columns: their names, none for a table of pairs; numbers: whether they end at their right."""
    table = Table(box=None, padding=(0, GAP, 0, 0), show_header=bool(columns), title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if numbers else "left", no_wrap=numbers)
    return table


def print_runs(rows: list[dict[str, Any]]) -> None:
    """A line for each run's summary; a single one that is too long for the terminal becomes a line for each of its values."""
    has_own_names = len({row.get("recipe") for row in rows}) == len(rows) and all("recipe" in row for row in rows)
    names, parts = {row["headline"]["name"] for row in rows}, {row.get("evaluated_on", "test") for row in rows}
    part = parts.pop() if len(parts) == 1 else "last"
    test = f"{part} {'acc.' if names == {'accuracy'} else names.pop() if len(names) == 1 else 'score'}"
    counts_tokens = all(row.get("tokens_per_sample") for row in rows)
    rate = "tokens_per_second" if counts_tokens else "samples_per_second"
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "run": lambda row: str(row["recipe"] if has_own_names else row["run_id"]),
        **({"optimizer": lambda row: str(row["optimizer"])} if all("optimizer" in row for row in rows) else {}),
        "batch": lambda row: f"{row['global_batch_size']:,}",
        **{_short(name): partial(_differing, name) for name in [*rows[0].get("differs", {})][:MOST_DIFFERING]},
        "outcome": lambda row: str(row["outcome"]),
        "steps": lambda row: f"{row['steps']:,}",
        "epochs": lambda row: f"{row['epochs']:g}" if row["epochs"] == round(row["epochs"], 2) else f"{row['epochs']:.2f}",
        "training s": lambda row: clock_in_words(row["training_seconds"]),
        "s to target": lambda row: "-" if row["time_to_target_seconds"] is None else clock_in_words(row["time_to_target_seconds"]),
        test: lambda row: "-" if row["score"] is None else in_places(row["score"]),
        **({"test, at the end": lambda row: "-" if row.get("test_score") is None else in_places(row["test_score"])} if part != "test" else {}),
        "best": lambda row: "-" if row["best_score"] is None else in_places(row["best_score"]),
        "tokens/s" if counts_tokens else "samples/s": lambda row: "-" if row[rate] is None else f"{row[rate]:,.0f}",
        "noise scale": _noise_in_words,
    }
    print_rows(
        [{column: show(row) for column, show in columns.items()} for row in rows], names=("run", "optimizer"), words=("run", "optimizer", "outcome")
    )


def print_log(text: str) -> None:
    """What a job has printed, with a run's summary, which is JSON there, as `train` prints it."""
    for line in text.splitlines(keepends=True):
        try:
            summary = RunSummary.model_validate_json(line) if line.startswith('{"run_id":') else None
        except ValueError:
            summary = None
        if summary is None:
            print(printable(line, "\n\r\t"), end="", flush=True)
        else:
            print_runs([summary.model_dump(mode="json")])


def _short(field: str) -> str:
    """`warmup epochs` of `learning_rate.warmup_epochs`; whole where that is a column already."""
    name = field.rpartition(".")[2].replace("_", " ")
    return field if name in {"epochs", "steps"} else name


def _differing(name: str, row: Mapping[str, Any]) -> str:
    return str(row["differs"][name])


def _noise_in_words(row: Mapping[str, Any]) -> str:
    """The whole gradient's; that of the norms alone, or in the optimizer's own norm, is another number, and says so."""
    if (of_norms := row.get("norms_noise_scale")) is not None:
        return f"{of_norms:,.0f} (norms)"
    in_words = "-" if row["gradient_noise_scale"] is None else f"{row['gradient_noise_scale']:,.0f}"
    return in_words if (dual := row.get("dual_noise_scale")) is None else f"{in_words} (dual {dual:,.0f})"


def print_rows(rows: Sequence[dict[str, str]], names: Sequence[str] = (), words: Sequence[str] = ()) -> None:
    """A table of texts by their columns, no number of which is cut: where room is short names are cut, then the last columns are left out, in words.

    Args: names: columns that may be cut, at their beginning, since ends are what tells runs apart; words: columns that begin at their left.
    """
    console = output()
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in rows[0]}
    needed = {column: min(width, SHORTEST_NAME) if column in names else width for column, width in widths.items()}
    table = Table(box=None, padding=(0, GAP, 0, 0))
    if len(rows) == 1 and _room(widths.values()) > console.width:
        table.show_header = False
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for column, text in rows[0].items():
            table.add_row(column, text)
        console.print(table)
        return
    shown = list(rows[0])
    while len(shown) > 1 and _room(needed[column] for column in shown) > console.width:
        shown.pop()
    left = console.width - _room(needed[column] for column in shown)
    for column in shown:
        width = min(widths[column], needed[column] + max(left, 0))
        left -= width - needed[column]
        if width < widths[column]:
            short = told_apart([row[column] for row in rows])
            rows = [
                {**row, column: text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"} for row, text in zip(rows, short, strict=True)
            ]
        table.add_column(column, justify="left" if column in words else "right", no_wrap=True, width=width)
    for row in rows:
        table.add_row(*(row[column] for column in shown))
    console.print(table)
    if len(shown) < len(rows[0]):
        console.print(f"Left out, for the terminal is too narrow: {', '.join(list(rows[0])[len(shown) :])}.", highlight=False)


def _room(widths: Iterable[int]) -> int:
    """The width of a table whose columns have these."""
    return sum(width + GAP for width in widths)


def table_of_jobs(jobs: Iterable[dict[str, Any]], kind: Kind) -> Table:
    """Jobs of one kind, as the service answers them, a line each."""
    table = plain_table("id", "name", "state", "batch", "score", "training", "owner", "tags")
    for job in jobs:
        score, best, seconds = (job["progress"].get(name) for name in ("score", "best_score", "training_seconds"))
        told = "" if score is None else f"{in_places(score)}{'' if best is None else f' (best {in_places(best)})'}"
        batch = str(job["global_batch_size"] or job["progress"].get("global_batch_size") or "-") if kind is Kind.RUN else ""
        trained = "" if seconds is None else f"{seconds:.1f} s"
        table.add_row(job["id"], job["name"], job["state"], batch, told, trained, job["owner"], " ".join(job["tags"]))
    return table

"""The columns of lists: what each shows, how it is sorted, and which ones stand there until somebody chooses others."""

from typing import NamedTuple

from largebatch.service.job import Kind


class Column(NamedTuple):
    """One column. The cells themselves are in cells.html."""

    label: str
    sort: str = ""
    """The field that it is sorted by, with - where the largest come first at the first press; empty: it is not."""
    is_number: bool = False


_ALL = {
    "outcome": Column("Outcome", "outcome"), "answer": Column("Answer"), "score": Column("Score", "-score", True),
    "runs": Column("Runs over", "", True), "batch": Column("Batch", "batch", True), "optimizer": Column("Optimizer", "optimizer"),
    "rate": Column("Rate", "rate", True), "momentum": Column("Momentum", "momentum", True), "seed": Column("Seed", "seed", True),
    "steps": Column("Steps", "-steps", True), "training": Column("Training", "-training", True), "duration": Column("Duration", "-duration", True),
    "recipe": Column("Recipe", "recipe"), "owner": Column("Owner", "owner"), "project": Column("Shared with", "project"),
    "priority": Column("Priority", "-priority", True), "notes": Column("Notes"), "created": Column("Asked for", "-created_at"),
}  # fmt: skip
_OF_RUNS_ALONE = {"outcome", "score", "batch", "optimizer", "rate", "momentum", "seed", "steps", "training"}
_OF_STUDIES = {name: column for name, column in _ALL.items() if name not in _OF_RUNS_ALONE}
_OF_SWEEPS = {name: column for name, column in _OF_STUDIES.items() if name != "answer"}
_OF_RUNS = {name: column for name, column in _ALL.items() if name not in ("answer", "runs")}
COLUMNS: dict[Kind, dict[str, Column]] = {Kind.RUN: _OF_RUNS, Kind.SWEEP: _OF_SWEEPS, Kind.STUDY: _OF_STUDIES}
_USUAL_OF_MANY = ("runs", "recipe", "duration", "owner", "created")
USUAL: dict[Kind, tuple[str, ...]] = {
    Kind.RUN: ("outcome", "score", "batch", "optimizer", "rate", "momentum", "seed", "duration", "owner", "created"),
    Kind.SWEEP: _USUAL_OF_MANY, Kind.STUDY: ("answer", *_USUAL_OF_MANY),
}  # fmt: skip
SEPARATOR = "."


def chosen_columns(kind: Kind, asked: list[str] | None, remembered: str | None) -> dict[str, Column]:
    """The columns of a list, in their order. Args: asked: of this page; remembered: by the browser, as `remember` wrote them."""
    names = asked or (remembered or "").split(SEPARATOR)
    columns = {name: column for name, column in COLUMNS[kind].items() if name in names}
    return columns or {name: COLUMNS[kind][name] for name in USUAL[kind]}


def mixed(columns: dict[str, Column]) -> dict[str, Column]:
    """The same columns for a list of runs that has sweeps and studies among them."""
    return {name: column for name, column in _ALL.items() if name in columns or name == "runs"}


def remember(columns: dict[str, Column]) -> str:
    """What a browser keeps of a choice."""
    return SEPARATOR.join(columns)

"""Options that several commands share beside those of training. Light: help must not wait for torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from largebatch.jobs.launch import options
from largebatch.jobs.streams import standard_output_kept

RUN_FOLDERS = "Run folders, or folders that hold them, such as a sweep's or a study's."
Recipe = Annotated[str, options.RECIPE]
MaybeRecipe = Annotated[str | None, options.RECIPE]
Overrides = Annotated[tuple[str, ...], options.SET]
DataDir = Annotated[Path, options.DATA_DIR]
OutputDir = Annotated[str, options.OUTPUT_DIR]
Device = Annotated[str, options.DEVICE]
RayAddress = Annotated[str | None, options.ADDRESS]
Dashboard = Annotated[str, typer.Option("--address", help="The cluster's dashboard, such as http://127.0.0.1:8265.", envvar="RAY_API_SERVER_ADDRESS")]


class Machines(NamedTuple):
    """Where data lies, and on what runs are trained."""

    data_dir: Path
    device: str
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunsToRead:
    """Which runs a question is about, and what they are held against."""

    folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER...", help=RUN_FOLDERS, show_default=False)] = None
    experiment: Annotated[str | None, typer.Option(help="Read an MLflow experiment instead.", show_default=False)] = None
    mlflow_uri: Annotated[str | None, typer.Option(help="MLflow's address.", envvar="MLFLOW_TRACKING_URI", show_default=False)] = None
    target: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Test accuracy; default what the runs were given.", show_default=False)] = (
        None
    )
    profile: Annotated[Path | None, typer.Option(metavar="FILE.json", help="What `largebatch profile --output` wrote.", show_default=False)] = None
    reference: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="With --profile: the one run that a prediction was made from; says how far it was off.", show_default=False),
    ] = None


def _keep_standard_output(context: typer.Context, is_set: bool) -> bool:
    """Keeps standard output for `print_answer`, before a person's code runs: from now on plain `print` goes to standard error."""
    if is_set and not context.resilient_parsing:
        context.with_resource(standard_output_kept())
    return is_set


AsJson = Annotated[bool, typer.Option("--json", callback=_keep_standard_output, help="Print one JSON object on standard output, nothing else.")]

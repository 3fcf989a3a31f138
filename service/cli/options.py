"""Options that several commands share beside those of training, and checks of what was typed, made before any work is done."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.launch.options import RECIPE, Option
from largebatch.jobs.run.run_folder import refuse_unwritable
from largebatch.jobs.streams import standard_output_kept

RUN_FOLDERS = Option(
    "Run folders, or folders that hold them, such as a sweep's or a study's; or mlflow:EXPERIMENT.", metavar="FOLDER...", is_argument=True
)
EXPERIMENT = Option("Read an MLflow experiment instead.")
MLFLOW_URI = Option("MLflow's address.", variable="MLFLOW_TRACKING_URI")
MAPPING = Option("What the parameters of an experiment's runs mean that another program made; asked once, and kept.", metavar="FILE.yaml")
TARGET = Option("A score on what the runs were evaluated on, in their own metric; default what they were given.")
PROFILE = Option("What `largebatch profile --output` wrote.", metavar="FILE.json")
REFERENCE = Option("With --profile: the one run that a prediction was made from; says how far it was off.", metavar="RUN")

TOKEN_VARIABLE = "LARGEBATCH_TOKEN"
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}

Recipe = Annotated[str, RECIPE]


@dataclass(frozen=True, kw_only=True)
class RunsToRead:
    """Which runs a question is about, and what they are held against."""

    folders: Annotated[list[Path] | None, RUN_FOLDERS] = None
    experiment: Annotated[str | None, EXPERIMENT] = None
    mlflow_uri: Annotated[str | None, MLFLOW_URI] = None
    mapping: Annotated[Path | None, MAPPING] = None
    target: Annotated[float | None, TARGET] = None
    profile: Annotated[Path | None, PROFILE] = None
    reference: Annotated[Path | None, REFERENCE] = None


def _keep_standard_output(context: typer.Context, is_set: bool) -> bool:
    """Keeps standard output for `print_answer`, before a person's code runs: from now on plain `print` goes to standard error."""
    if is_set and not context.resilient_parsing:
        context.with_resource(standard_output_kept())
    return is_set


AsJson = Annotated[bool, typer.Option("--json", callback=_keep_standard_output, help="Print one JSON object on standard output, nothing else.")]


def refuse_unless_positive(option: str, value: float | None, hint: str = "") -> None:
    """Raise SpecError for a number that is not above 0, is infinite or is nan."""
    if value is not None and not 0 < value < math.inf:
        raise SpecError(option, f"{value:g} is not a number above 0.", hint)


def refuse_unless_finite(option: str, value: float | None) -> None:
    """Raise SpecError for a number that is infinite or nan; a score may be 0 or below."""
    if value is not None and not math.isfinite(value):
        raise SpecError(option, f"{value:g} is not a number that a score can reach.", "Example: --target 0.97.")


def refuse_unwritable_file(option: str, path: Path | None) -> None:
    """Raise InputError for a file that cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(option, f"{path} is a folder, not a file.", "Give a file's name in it.")
    refuse_unwritable(path.parent, option)


def whole_numbers(option: str, text: str) -> list[int]:
    """`64,256,1024` as numbers. Raises: SpecError."""
    try:
        numbers = [int(part) for part in text.replace("_", "").split(",")]
    except ValueError:
        raise SpecError(option, f"{text!r} is not a list of whole numbers.", "Example: 64,256,1024.") from None
    if min(numbers) < 1:
        raise SpecError(option, f"{min(numbers)} is below 1.")
    return numbers


def seconds_of(text: str) -> float:
    """`90s`, `30m`, `1.5h` or plain seconds, as --budget takes them. Raises: SpecError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise SpecError("--budget", f"{text!r} is not a time.", "Examples: 90s, 30m, 2h.")
    return float(match[1]) * SECONDS[match[2]]

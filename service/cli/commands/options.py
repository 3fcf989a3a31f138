"""Options that several commands share. Light: help must not wait for torch."""

import math
from pathlib import Path
from typing import Annotated

import typer

from largebatch.jobs.streams import standard_output_kept

RUN_FOLDERS = "Run folders, or folders that hold them, such as a sweep's or a study's."
Recipe = Annotated[
    str,
    typer.Argument(help="A recipe's name (see `largebatch recipes`), the path of a YAML or JSON file, or - for standard input.", show_default=False),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value, such as batch.global_batch_size=512.", show_default=False)
]
DataDir = Annotated[Path, typer.Option(help="Where data sets lie, as torchvision lays them out.", envvar="LARGEBATCH_DATA_DIR")]
OutputDir = Annotated[str, typer.Option(help="Where run folders go: a folder, or a URI such as s3://bucket/runs.", envvar="LARGEBATCH_OUTPUT_DIR")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
AskedWorkers = Annotated[
    str | None,
    typer.Option("--workers", metavar="N|MIN:MAX", help="Share each batch among so many workers, by Ray; MIN:MAX: as many as there are."),
]
GpusPerWorker = Annotated[float | None, typer.Option(metavar="G", help="GPUs of each worker; default 1 where there are enough.", show_default=False)]
CpusPerWorker = Annotated[float | None, typer.Option(metavar="C", help="CPUs of each worker; may be a fraction.", show_default=False)]
WorkerLogs = Annotated[bool, typer.Option("--worker-logs", help="Print what the workers print, not only what the run tells.")]
MaxFailures = Annotated[int, typer.Option(min=0, help="How often a run of several workers goes on by itself after a failure.")]
Address = Annotated[str, typer.Option(help="The cluster's dashboard, such as http://127.0.0.1:8265.", envvar="RAY_API_SERVER_ADDRESS")]


def _keep_standard_output(context: typer.Context, is_asked: bool) -> bool:
    """Before anybody's code runs; from here on the command says what it was asked for by `print_answer`, for plain `print` goes to standard error."""
    if is_asked and not context.resilient_parsing:
        context.with_resource(standard_output_kept())
    return is_asked


AsJson = Annotated[bool, typer.Option("--json", callback=_keep_standard_output, help="Print one JSON object on standard output, nothing else.")]


def refuse_unless_positive(option: str, value: float | None, hint: str = "") -> None:
    """Raise SpecError for a number that is given and is not above 0, or is none."""
    from largebatch.jobs.errors import SpecError

    if value is not None and not 0 < value < math.inf:
        raise SpecError(option, f"{value:g} is not a number above 0.", hint)


def refuse_unwritable_file(option: str, path: Path | None) -> None:
    """Raise InputError, before any work is done for it, for a file that cannot be written."""
    from largebatch.jobs.errors import InputError
    from largebatch.jobs.run.run_folder import refuse_unwritable

    if path is None:
        return
    if path.is_dir():
        raise InputError(option, f"{path} is a folder, not a file.", "Give a file's name in it.")
    refuse_unwritable(path.parent, option)


def whole_numbers(option: str, text: str) -> list[int]:
    """`64,256,1024` as numbers. Raises: SpecError."""
    from largebatch.jobs.errors import SpecError

    try:
        found = [int(part) for part in text.replace("_", "").split(",")]
    except ValueError:
        raise SpecError(option, f"{text!r} is not a list of whole numbers.", "Example: 64,256,1024.") from None
    if min(found) < 1:
        raise SpecError(option, f"{min(found)} is below 1.")
    return found

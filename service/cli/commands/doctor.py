"""Examines the installation, the data and the storage: `largebatch doctor`."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import httpx
import psutil
import typer

from largebatch.jobs.errors import InputError
from largebatch.jobs.launch.options import OUTPUT_DIR, DataDir, split_uri
from largebatch.jobs.run.run_folder import refuse_unwritable
from largebatch.jobs.tracking.mlflow_store import sqlite_uri
from largebatch.service.cli.tables import output, plain_table
from largebatch.service.cli.typer_parameters import spread

PACKAGES = ("torch", "torchvision", "numpy", "pydantic", "PyYAML", "typer", "rich", "mlflow", "plotly", "matplotlib", "scikit-learn", "ray")
NEEDED = {"torch", "numpy", "pydantic"}
PATIENCE_S = 3.0
SIZES = {
    "digits": (1437, 360, 10),
    "mnist": (60_000, 10_000, 10),
    "fashion-mnist": (60_000, 10_000, 10),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
}
"""Training samples, test samples and classes of the sets that are looked for; reading them here would take seconds."""
LOOKS_S = 0.3
BUSY = 0.25
"""The fraction of all cores from which on other work would show in a run's seconds."""


class Finding(NamedTuple):
    """The state of one thing that a run needs or can use."""

    what: str
    is_fine: bool
    state: str
    is_needed: bool = False
    """Whether nothing trains without it."""


app = typer.Typer()


@app.command(epilog="Example: largebatch doctor --data-dir data")
@spread
def doctor(data_dir: DataDir = Path("data"), output_dir: Annotated[str, OUTPUT_DIR] = "runs") -> None:
    """Say what is installed, found and reachable, what is missing, and how to get it."""
    table, findings = plain_table(), list(examine(data_dir, output_dir))
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.is_fine else "[yellow]--[/yellow]", finding.what, finding.state)
    output().print(table)
    if any(finding.is_needed and not finding.is_fine for finding in findings):
        raise typer.Exit(1)


def examine(data_dir: Path, output_dir: str) -> Iterator[Finding]:
    """Everything worth knowing before the first run. Args: output_dir: a folder or a URI."""
    yield Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    yield from _packages()
    device = _device()
    yield device
    yield _cores()
    if device.is_fine:
        yield from _data(data_dir)
    yield _output(output_dir)
    yield _mlflow(output_dir)


def _packages() -> Iterator[Finding]:
    for package in PACKAGES:
        try:
            yield Finding(package, True, importlib.metadata.version(package), package in NEEDED)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, False, f"not installed: pip install {package}", package in NEEDED)


def _device() -> Finding:
    try:
        import torch  # whose absence is a finding
    except ImportError as error:
        return Finding("device", False, f"torch cannot be imported: {error}", True)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Finding("device", True, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    threads = torch.get_num_threads()
    return Finding("device", True, f"CPU alone, {threads} thread{'s' if threads > 1 else ''} (no GPU found)")


def _cores() -> Finding:
    """Whether other work would slow a run that is timed now."""
    count, taken = os.cpu_count() or 1, psutil.cpu_percent(interval=LOOKS_S) / 100
    state = f"{count}, {taken:.0%} taken by other work now"
    if taken < BUSY:
        return Finding("cores", True, state)
    advice = "" if os.environ.get("OMP_NUM_THREADS") == "1" else "; if it stays so, set OMP_WAIT_POLICY=passive"
    return Finding("cores", False, f"{state}: a run's seconds would be longer than on a free machine{advice}")


def _data(data_dir: Path) -> Iterator[Finding]:
    from largebatch.jobs.data.sources.table import TORCHVISION_FILES  # brings torch along, whose absence is a finding

    yield Finding("digits", True, f"embedded in scikit-learn: {_size_in_words('digits')}")
    for name, files in TORCHVISION_FILES.items():
        missing = [file for file in files if not (data_dir / file).is_file()]
        if missing:
            yield Finding(name, False, f"not in {data_dir} ({missing[0]}): put it there, or train with --set dataset.download=true")
        else:
            yield Finding(name, True, f"found in {data_dir}: {_size_in_words(name)}")


def _size_in_words(name: str) -> str:
    num_train, num_test, num_classes = SIZES[name]
    return f"{num_train:,} training samples, {num_test:,} test samples, {num_classes} classes"


def _output(output_dir: str) -> Finding:
    try:
        folder, store = split_uri(output_dir)
        refuse_unwritable(folder)
    except InputError as error:
        return Finding("run folders", False, str(error), True)
    if store is not None:
        return Finding("run folders", True, f"{store}, which a run will try; its working copy in {folder} can be written")
    return Finding("run folders", True, f"{folder.resolve()} can be written")


def _mlflow(output_dir: str) -> Finding:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and "://" in output_dir and not output_dir.startswith("file:"):
        return Finding("mlflow store", True, f"none: a database beside {output_dir} would be lost; set MLFLOW_TRACKING_URI for a server")
    if not uri:
        database = split_uri(output_dir)[0].resolve() / "mlflow.db"
        return Finding("mlflow store", True, f"{sqlite_uri(database)} (no server needed; set MLFLOW_TRACKING_URI for one)")
    if not uri.startswith(("http://", "https://")):
        return Finding("mlflow store", True, uri)
    away = "runs are kept and `largebatch sync` catches up"
    try:
        status = httpx.get(f"{uri.rstrip('/')}/health", timeout=PATIENCE_S).status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return Finding("mlflow store", False, f"{uri} does not answer ({' '.join(str(error).split()) or type(error).__name__}): {away}")
    if status not in {200, 401, 403}:  # the latter two: it wants to know who asks
        return Finding("mlflow store", False, f"{uri} answers with status {status}, not as MLflow does: {away}")
    return Finding("mlflow store", True, f"{uri} answers")

"""`largebatch doctor`: what is here, what is missing, how to get it."""

import importlib.metadata
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

PACKAGES = ("torch", "torchvision", "numpy", "pydantic", "PyYAML", "typer", "rich", "mlflow", "plotly", "matplotlib", "scikit-learn", "ray")
NEEDED = {"torch", "numpy", "pydantic"}


class Finding(NamedTuple):
    """One thing looked at."""

    what: str
    is_fine: bool
    state: str
    is_needed: bool = False
    """Whether nothing trains without it."""


def examine(data_dir: Path, output_dir: Path) -> Iterator[Finding]:
    """Everything worth knowing before the first run."""
    yield Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    yield from _packages()
    yield _device()
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
        import torch
    except ImportError as error:
        return Finding("device", False, f"torch cannot be imported: {error}", True)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Finding("device", True, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return Finding("device", True, f"CPU alone, {torch.get_num_threads()} threads (no GPU found)")


def _data(data_dir: Path) -> Iterator[Finding]:
    from jobs.data.sources import TORCHVISION_FILES

    yield Finding("digits", True, "embedded in scikit-learn")
    for name, files in TORCHVISION_FILES.items():
        missing = [file for file in files if not (data_dir / file).is_file()]
        if missing:
            yield Finding(name, False, f"not in {data_dir} ({missing[0]}): put it there, or train with --set dataset.download=true")
        else:
            yield Finding(name, True, f"found in {data_dir}")


def _output(output_dir: Path) -> Finding:
    from jobs.errors import InputError
    from jobs.run_folder import refuse_unwritable

    try:
        refuse_unwritable(output_dir)
    except InputError as error:
        return Finding("run folders", False, str(error), True)
    return Finding("run folders", True, f"{output_dir.resolve()} can be written")


def _mlflow(output_dir: Path) -> Finding:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return Finding("mlflow store", True, f"sqlite:///{output_dir.resolve() / 'mlflow.db'} (no server needed; set MLFLOW_TRACKING_URI for one)")
    address = urlparse(uri)
    if address.scheme not in {"http", "https"}:
        return Finding("mlflow store", True, uri)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=3):
            return Finding("mlflow store", True, f"{uri} answers")
    except OSError as error:
        return Finding("mlflow store", False, f"{uri} does not answer ({error}): runs are kept and `largebatch sync` catches up")

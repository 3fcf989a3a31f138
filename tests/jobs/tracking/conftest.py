"""One store of MLflow's for all tests of the mirror, in a folder whose name means something to URIs."""

from pathlib import Path
from typing import Any

import pytest

from largebatch.jobs.tracking.mlflow_store import sqlite_database, sqlite_uri


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Made once: making its tables takes MLflow seconds."""
    return sqlite_uri(tmp_path_factory.mktemp("50% off? a#b") / "mlflow.db")


@pytest.fixture(scope="session")
def client(store: str) -> Any:
    """What reads the results back: MLflow's own client."""
    import mlflow

    found = mlflow.MlflowClient(tracking_uri=store)
    found.create_experiment("largebatch", artifact_location=(sqlite_database(store).parent / "artifacts").as_uri())
    return found


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow makes folders of its own in the current one; they belong to the test."""
    monkeypatch.chdir(tmp_path)

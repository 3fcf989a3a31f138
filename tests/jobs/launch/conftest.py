"""What several tests of workers start from."""

from pathlib import Path

import launch_runs as runs
import pytest
from launch_runs import Head

from largebatch.jobs.launch.options import Workers
from largebatch.jobs.run.records import Outcome


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, head: Head) -> Path:
    """The run of two workers that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    summary = runs.train(folder, head.address, Workers(2, 2), runs.document())
    assert (summary.outcome, summary.world_size, summary.steps) == (Outcome.COMPLETED, 2, runs.STEPS)
    return folder / "run"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points are found in the current folder."""
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture
def undrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine will be taken away, so no process of each run need watch for it; for `undisturbed`, test_storage and test_ray_jobs one does."""
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

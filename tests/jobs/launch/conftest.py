"""What several tests of workers start from."""

from pathlib import Path

import launch_runs as runs
import pytest
from launch_runs import Head

from largebatch.jobs.launch.options import Workers
from largebatch.jobs.run.records import Outcome


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, head: Head, bucket: str) -> Path:
    """The run of two workers that nothing happened to, kept on S3 as well: test_storage.py looks for it there."""
    folder = tmp_path_factory.mktemp("undisturbed")
    summary = runs.train(folder, head.address, Workers(2, 2), runs.document(), store=f"{bucket}/workers")
    assert (summary.outcome, summary.world_size, summary.steps) == (Outcome.COMPLETED, 2, runs.STEPS)
    assert summary.run_dir == f"{bucket}/workers/run"
    return folder / "run"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points are found in the current folder."""
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture
def undrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine will be taken away, so no process of each run need watch for it; for `undisturbed` and test_ray_jobs one does."""
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

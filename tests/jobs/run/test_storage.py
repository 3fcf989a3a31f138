"""Storage by URI, and the stored copy of a run: what is carried when, and what happens when the storage refuses.

Here the storage is a folder; tests/jobs/launch/test_storage.py goes to a real server that speaks S3.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_runs import wait_for

from largebatch.jobs.errors import InputError, StorageError
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.stored_runs import fetch_stored, is_started_again
from largebatch.jobs.run.storage import Storage, probe, read_patiently
from largebatch.jobs.run.stored_run import StoredRun


class Unreliable(Storage):
    """A storage that says what it is given, and refuses it when told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.refuses = False
        self.uploads: list[str] = []

    def upload(self, source: Path, name: str) -> None:
        if self.refuses:
            raise OSError("AWS Error SLOW_DOWN")
        self.uploads.append(name)
        super().upload(source, name)


@pytest.fixture
def storage(tmp_path: Path) -> Unreliable:
    return Unreliable(tmp_path / "store")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "records.jsonl").write_text("one\n")
    return run_dir


def test_an_address_that_no_file_system_knows() -> None:
    with pytest.raises(InputError, match="cannot be used as storage"):
        Storage("gopher://bucket/runs")


def test_storage_that_refuses_for_a_while_costs_nothing(storage: Unreliable, run_dir: Path) -> None:
    storage.refuses, notices = True, list[str]()
    with StoredRun(storage, run_dir, notices.append, push_every_s=0.05):
        wait_for(lambda: notices, 20)
        time.sleep(0.3)
        storage.refuses = False
        wait_for(lambda: len(notices) == 2, 20)
        (run_dir / "records.jsonl").write_text("one\ntwo\n")
    assert "cannot be written" in notices[0]
    assert "answers again" in notices[1]
    assert storage.read("run/records.jsonl") == b"one\ntwo\n"


def test_storage_that_refuses_for_good_says_where_the_run_is(storage: Unreliable, run_dir: Path) -> None:
    storage.refuses = True
    with pytest.raises(StorageError, match=f"whole run is in {run_dir}"), StoredRun(storage, run_dir, patience_s=0.2):
        pass
    with pytest.raises(KeyboardInterrupt), StoredRun(storage, run_dir, patience_s=60):  # what ended the run counts
        raise KeyboardInterrupt


def test_checkpoints_come_after_their_records_and_go_when_pruned(storage: Unreliable, run_dir: Path) -> None:
    first, second = (run_dir / "checkpoints" / f"step-0000000{step}.{str(step) * 32}.pt" for step in (1, 2))
    first.write_bytes(b"1")
    stored = StoredRun(storage, run_dir)
    stored.push()
    assert storage.uploads == ["run/records.jsonl", f"run/checkpoints/{first.name}"]
    first.unlink()
    second.write_bytes(b"2")
    stored.push()
    assert storage.uploads[2:] == [f"run/checkpoints/{second.name}"], "what has not changed is not sent again"
    assert set(storage.sizes("run")) == {"records.jsonl", f"checkpoints/{second.name}"}


def test_a_machine_that_another_went_on_from_takes_what_is_stored(storage: Unreliable, tmp_path: Path) -> None:
    def a_machine(name: str, journal: str, *checkpoints: int) -> StoredRun:
        folder = tmp_path / name / "run"
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "records.jsonl").write_text(journal)
        if journal:
            (folder / "mlflow.json").write_text(str(len(journal)))
        for step in checkpoints:
            (folder / "checkpoints" / f"step-{step:08}.{'0' * 32}.pt").write_bytes(b"x")
        return StoredRun(storage, folder)

    def held(name: str) -> tuple[str, list[str]]:
        folder = tmp_path / name / "run"
        assert (folder / "mlflow.json").read_text() == str((folder / "records.jsonl").stat().st_size), "what MLflow has is of this journal"
        return (folder / "records.jsonl").read_text(), sorted(path.name[:13] for path in (folder / "checkpoints").iterdir())

    first = a_machine("first", "1\n", 1)
    first.push()
    first = a_machine("first", "1\n2\n3\n", 3)  # and is cut off before this is stored
    second = a_machine("second", "")
    second.pull()
    assert held("second") == ("1\n", ["step-00000001"])
    first.pull()
    assert held("first") == ("1\n2\n3\n", ["step-00000001", "step-00000003"]), "nobody went on: what is here is more"
    a_machine("second", "1\n2b\n", 2).push()
    first.pull()
    assert held("first") == ("1\n2b\n", ["step-00000001", "step-00000002"]), "the longer journal here is no longer the run's"


def probed(*places: Path) -> list[str | None]:
    """What two workers find when each looks at its own place."""
    meeting, token = threading.Barrier(2), "12345"
    with ThreadPoolExecutor(2) as workers:
        futures = [workers.submit(probe, Storage(str(place)), token, rank, lambda: meeting.wait(10) and None) for rank, place in enumerate(places)]
        return [future.result(20) for future in futures]


def test_a_folder_that_is_not_the_same_everywhere_is_found_out_and_left_clean(tmp_path: Path) -> None:
    assert probed(tmp_path / "shared", tmp_path / "shared") == [None, None]
    assert probed(tmp_path / "one", tmp_path / "other") == [None, "does not hold what worker 0 wrote there"]
    (tmp_path / "file").touch()
    first, second = probed(tmp_path / "shared", tmp_path / "file")
    assert first is None
    assert second.startswith("cannot be written")
    assert not [path for path in tmp_path.rglob("*") if "probe" in path.name]


def test_storage_that_has_answered_before_is_waited_for() -> None:
    errors = [OSError("AWS Error SLOW_DOWN"), InputError("--output-dir", "cannot be resolved.")]

    def attempt() -> str:
        if errors:
            raise errors.pop()
        return "there"

    with pytest.raises(InputError):
        read_patiently("s3://x", attempt, 0.0)
    assert read_patiently("s3://x", attempt, 0.5) == "there"
    errors[:] = [InputError("--output-dir", "cannot be resolved.")] * 9
    with pytest.raises(StorageError, match="cannot be resolved"):
        read_patiently("s3://x", attempt, 0.01)


def test_a_run_that_goes_on_waits_only_where_it_was_started_again(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What refuses is a folder where the stored journal should be."""
    journal = tmp_path / "store" / "run" / "records.jsonl"
    journal.mkdir(parents=True)
    options = TrainOptions(output_dir=tmp_path, run_id="run", store=str(tmp_path / "store"))
    assert not is_started_again()
    with pytest.raises(StorageError, match="cannot be read"):
        fetch_stored(options)
    monkeypatch.setenv("LARGEBATCH_STARTED_AGAIN", "1")
    with pytest.raises(StorageError, match="cannot be read"):
        fetch_stored(options, patience_s=0.2)
    threading.Timer(0.3, journal.rmdir).start()
    assert fetch_stored(options, patience_s=20.0) == options

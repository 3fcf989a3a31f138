"""A folder that refuses is bad input (exit 2), a disk that fills a fault (exit 1): one sentence, and the last checkpoint is whole."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest
from forked import Forked
from small_runs import document, starts, steps, synthetic

from largebatch.jobs.__main__ import main
from largebatch.jobs.errors import StorageError
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import Journal, read_records
from largebatch.jobs.run.records import EndRecord, StartRecord
from largebatch.jobs.run.run_folder import refuse_unwritable
from largebatch.jobs.whole_files import storage_errors, write_text


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.json"
    parts = {"evaluation": {"every_epochs": 10}, "stop": {"steps": 60}, "checkpoint": {"every_steps": 1}}
    path.write_text(json.dumps(document(dataset=synthetic(16, 4), **parts)))
    return str(path)


def test_an_output_folder_that_is_a_file_is_refused_at_once(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file", tmp_path / "file" / "runs"):
        assert main([spec, "--output-dir", str(where), "--device", "cpu"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert f"InputError: --output-dir: {tmp_path / 'file'} is a file, not a folder." in captured.err


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that refuses folders even to root")
def test_an_output_folder_that_cannot_be_written_is_refused_at_once(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([spec, "--output-dir", "/proc/self/runs", "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "--output-dir: /proc/self cannot be written (" in captured.err


def test_asking_leaves_nothing_behind(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def limited(limit_bytes: int, *arguments: str) -> tuple[int | None, str, str]:
    """Exit code and words of the engine in a process whose files may not grow beyond a size: what a full disk says, `write` fails half-way."""
    process = Forked("-m", "largebatch.jobs", "--device", "cpu", *arguments, file_bytes=limit_bytes)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_disk_that_fills_in_the_middle_costs_one_step_at_most(
    spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is the file that grows. Its limit lies beyond a checkpoint's size (some 7 kB) and below sixty steps' lines."""
    code, out, err = limited(10_000, spec, "--output-dir", str(tmp_path / "runs"))
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    last_line = err.splitlines()[-1]
    assert last_line.startswith("StorageError: ")
    assert "cannot be written (File too large). The last checkpoint is whole" in last_line
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert not (run_dir / "summary.json").exists()
    assert not list(run_dir.rglob("*.part"))
    saved = list_checkpoints(run_dir / "checkpoints")[0].step
    assert 5 < saved < 60

    assert main(["--resume", str(run_dir), "--device", "cpu"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert [record.step for record in starts(run_dir)] == [0, saved]
    assert steps(run_dir) == list(range(1, 61))
    assert main([spec, "--output-dir", str(tmp_path / "whole"), "--device", "cpu"]) == 0
    assert resumed["parameters_sha256"] == json.loads(capsys.readouterr().out)["parameters_sha256"]


def test_a_checkpoint_that_does_not_fit_leaves_the_journal_and_no_torn_file(spec: str, tmp_path: Path) -> None:
    """A limit below a checkpoint's size: the first step is told, nothing lies under a checkpoint's name."""
    code, _, err = limited(5_000, spec, "--output-dir", str(tmp_path / "runs"))
    assert code == 1
    assert err.splitlines()[-1].startswith("StorageError: ")
    assert ".pt: cannot be written (File too large)" in err
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert list((run_dir / "checkpoints").iterdir()) == []
    assert steps(run_dir) == [1]


def test_a_journal_line_that_fits_only_in_part_is_an_error(tmp_path: Path) -> None:
    """A disk's last bytes: `write` takes some of the line and says no word of it but the count."""
    line = StartRecord(at_s=1.0, step=0, training_seconds=0.0, world_size=1, device="cpu")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(tmp_path) as journal:
        journal.write(line)
        size = journal.path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
        try:
            with pytest.raises(StorageError, match="cannot be written"):
                journal.write(line)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with Journal(tmp_path) as journal:
        journal.write(line)
    assert len(read_records(tmp_path)) == 2
    assert not any(isinstance(record, EndRecord) for record in read_records(tmp_path))


def test_a_small_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StorageError, match=r"summary\.json: cannot be written \(File too large\)"):
            write_text(path, "after" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").symlink_to("/dev/full")
    with Journal(tmp_path) as journal, pytest.raises(StorageError, match=r"records\.jsonl: cannot be written \(the disk is full\)\. The last"):
        journal.write(StartRecord(at_s=1.0, step=0, training_seconds=0.0, world_size=1, device="cpu"))


def test_a_quota_that_is_used_up_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot be written \(the disk quota is used up\)"), storage_errors(tmp_path):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

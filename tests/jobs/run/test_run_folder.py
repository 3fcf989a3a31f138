"""A run's folder: whole files or none, one process at a time, nothing left by asking."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import ROOT

from largebatch.jobs.errors import InputError, StorageError
from largebatch.jobs.run import run_folder
from largebatch.jobs.whole_files import write_text, write_whole


def test_ids_sort_by_name_and_time_and_differ() -> None:
    ids = {run_folder.new_run_id("digits") for _ in range(20)}
    assert len(ids) > 1  # eight random digits within one second
    assert all(re.fullmatch(r"digits-\d{8}-\d{6}-[0-9a-f]{8}", run_id) for run_id in ids)


def test_a_new_folder_has_room_for_checkpoints(tmp_path: Path) -> None:
    run_dir = run_folder.create(tmp_path / "a" / "b", "x")
    assert run_dir == tmp_path / "a" / "b" / "x"
    assert (run_dir / run_folder.CHECKPOINTS).is_dir()


def test_a_folder_is_never_shared(tmp_path: Path) -> None:
    run_folder.create(tmp_path, "x")
    with pytest.raises(StorageError):
        run_folder.create(tmp_path, "x")


class TestRefuseUnwritable:
    def test_asking_leaves_nothing(self, tmp_path: Path) -> None:
        run_folder.refuse_unwritable(tmp_path / "not" / "yet")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("below", ["", "deep/er"])
    def test_a_file_is_no_folder(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="is a file, not a folder"):
            run_folder.refuse_unwritable(tmp_path / "file" / below)

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no folders from anyone, root included")
    def test_a_file_system_that_refuses(self) -> None:
        with pytest.raises(InputError, match="cannot be written") as refused:
            run_folder.refuse_unwritable(Path("/proc/runs"))
        assert refused.value.field == "--output-dir"
        with pytest.raises(InputError, match=r"^--figure: /proc cannot be written .* Give another --figure\."):
            run_folder.refuse_unwritable(Path("/proc/figures"), "--figure")


class TestWriteWhole:
    def test_it_replaces(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.json"
        write_text(path, "old")
        write_text(path, "new")
        assert path.read_text() == "new"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.json"
        write_text(path, "old")

        def interrupted() -> None:
            with write_whole(path) as file:
                file.write(b"half of the n")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_folder_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="cannot be written"):
            write_text(tmp_path / "gone" / "plan.json", "x")


class TestExclusive:
    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        code = f"""
from pathlib import Path
from largebatch.jobs.run import run_folder
from largebatch.jobs.errors import InputError
try:
    with run_folder.exclusive(Path({str(tmp_path)!r}), "train"):
        print("entered")
except InputError as error:
    print(error)
"""
        command = [sys.executable, "-c", code]
        with run_folder.exclusive(tmp_path, "train"):
            second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
        assert "another process is at work on this run (train)" in second
        third = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
        assert third == "entered\n"

    def test_two_purposes_do_not_meet(self, tmp_path: Path) -> None:
        with run_folder.exclusive(tmp_path, "train"), run_folder.exclusive(tmp_path, "mirror"):
            pass

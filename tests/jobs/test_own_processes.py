"""What a process of ours sets up before it works: its streams, its import paths, its garbage collector, how its threads wait."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from largebatch.jobs.entry_points import call_entry_point
from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.import_paths import PACKAGES, add_folder, environment, python, refuse_hiding
from largebatch.jobs.launch.openmp_threads import BRIEFLY, spin_briefly
from largebatch.jobs.streams import print_answer, standard_output_kept

HIDING = ("random", "largebatch", "logging", "queue", "statistics", "select", "types", "yaml", "mlflow")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, full of names that are somebody else's."""
    for name in HIDING:
        (tmp_path / f"{name}.py").write_text("X = 1\nraise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.mark.parametrize("python_path", [None, "", os.pathsep, f"{os.pathsep}/somewhere"])
def test_a_process_of_ours_finds_our_packages_and_nothing_of_the_current_folder(
    python_path: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if python_path is not None:
        monkeypatch.setenv("PYTHONPATH", python_path)
    code = (
        "import random, statistics, queue, yaml, largebatch.jobs.run.records, largebatch, sys; print(largebatch.__file__); sys.exit('' in sys.path)"
    )
    done = subprocess.run(python("-c", code), env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).parents[1] == PACKAGES
    assert "" not in environment().get("PYTHONPATH", "x").split(os.pathsep)


def test_the_engines_own_command_leaves_the_current_folder_alone(folder: Path) -> None:
    """Python itself looks there for `largebatch`, and for what starts modules, before ours begin."""
    for name in ("largebatch", "types"):
        (folder / f"{name}.py").unlink()
    command = [sys.executable, "-m", "largebatch.jobs", "--help"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_comes_behind_pythons_own_modules_and_before_installed_ones(folder: Path) -> None:
    add_folder(str(folder))
    add_folder(str(folder))
    assert sys.path.count(str(folder)) == 1
    assert sys.path.index(sysconfig.get_path("stdlib")) < sys.path.index(str(folder)) < sys.path.index(sysconfig.get_path("purelib"))


@pytest.mark.parametrize("name", ["random", "largebatch", "yaml"])
def test_an_entry_point_in_a_file_of_anothers_name_is_refused(name: str, folder: Path) -> None:
    __import__(name)
    with pytest.raises(SpecError, match=f"^model.entry_point: {name} is .* to Python, not {folder}/{name}.py. Call your file by another name.$"):
        call_entry_point("model.entry_point", f"{name}:build", {})


@pytest.mark.parametrize("name", HIDING)
def test_ray_is_not_started_where_it_would_import_a_persons_file(name: str, tmp_path: Path) -> None:
    (tmp_path / f"my_{name}.py").touch()
    refuse_hiding(tmp_path)
    (tmp_path / f"{name}.py").touch()
    with pytest.raises(InputError, match=f"{name}.py: Ray's processes search the current folder first"):
        refuse_hiding(tmp_path)


def test_our_own_checkout_hides_nothing() -> None:
    refuse_hiding(PACKAGES)


BEGIN = "import os, sys; from largebatch.jobs.streams import *; drop_what_nobody_reads()\n"
GONE = (
    BEGIN
    + """
import subprocess
sys.stdin.readline()  # by now the reader is gone
for number in range(3):
    print("to standard output", number)
    print("to standard error", number, file=sys.stderr, flush=True)
    sys.stdout.flush()
os.write(2, b"as a library in C")
subprocess.run(["sh", "-c", "echo from a further process >&2"], check=True)
open(sys.argv[1], "w").write("worked on")
"""
)
ANSWER = (
    BEGIN
    + """
import ctypes, subprocess
print("before")
with standard_output_kept():
    print("from a person's code")
    os.write(1, b"from a library\\n")
    ctypes.CDLL(None).printf(b"held back by a library in C\\n")
    subprocess.run(["echo", "from a further process"], check=True)
    print_answer('{"answer": 1}')
print("afterwards")
"""
)


@pytest.mark.parametrize("gone", ["stderr", "both"])
def test_a_reader_that_ends_ends_no_work(gone: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", GONE, tmp_path / "done"],
        stdin=subprocess.PIPE, stdout=write if gone == "both" else subprocess.PIPE, stderr=write, text=True,
    )  # fmt: skip
    os.close(read)
    os.close(write)
    out, _ = process.communicate("go on\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "done").read_text() == "worked on"
    if gone == "stderr":
        assert out == "".join(f"to standard output {number}\n" for number in range(3))


def test_streams_that_are_closed_from_the_start_are_no_files_that_are_opened_later(tmp_path: Path) -> None:
    code = BEGIN + "f = open(sys.argv[1], 'w'); os.write(2, b'noise'); print('noise'); f.write('kept')"
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-c", code, tmp_path / "journal"], check=False)
    assert done.returncode == 0
    assert (tmp_path / "journal").read_text() == "kept"


def test_standard_output_holds_the_answer_alone() -> None:
    done = subprocess.run([sys.executable, "-c", ANSWER], capture_output=True, text=True, check=True)
    assert done.stdout == 'before\n{"answer": 1}\n'
    for line in ("from a person's code", "from a library", "held back by a library in C", "from a further process", "afterwards"):
        assert line in done.stderr


def test_within_a_process_that_has_its_output_captured_it_is_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    stream = sys.stdout
    with standard_output_kept():
        print("noise")
        print_answer(json.dumps([1]))
    assert sys.stdout is stream
    print_answer("later")
    assert capsys.readouterr() == ("[1]\nlater\n", "noise\n")


def test_a_command_collects_seldom() -> None:
    code = "import gc\nfrom largebatch.jobs.garbage_collection import collect_seldom\ncollect_seldom()\nprint(gc.get_threshold()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("10000\n", "")


@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_a_person_chose_stays(chosen: dict[str, str]) -> None:
    environment = dict(chosen)
    spin_briefly(environment)
    assert environment == chosen


def test_otherwise_briefly() -> None:
    environment: dict[str, str] = {}
    spin_briefly(environment)
    assert environment == {"GOMP_SPINCOUNT": BRIEFLY}


@pytest.mark.parametrize("module", ["largebatch.jobs", "largebatch"])
def test_a_command_sets_it_before_torch_is_imported(module: str) -> None:
    """The runtime reads it when torch is loaded."""
    probe = (
        "import os, runpy, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': print('spins', os.environ.get('GOMP_SPINCOUNT'), file=sys.__stderr__, flush=True); os._exit(0)\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"sys.argv = ['x', *{['digits-lamb'] if module == 'largebatch.jobs' else ['plan', 'digits-lamb']!r}]\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    out = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True, env=environment)
    assert (out.stdout + out.stderr).strip() == f"spins {BRIEFLY}"

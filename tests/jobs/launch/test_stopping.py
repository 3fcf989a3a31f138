"""Ctrl-C and SIGTERM of a command with workers, and its driver's end. Real Ray, real signals."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import launch_runs as runs
import psutil
import pytest
import slow
import small_runs
from launch_runs import Head
from ray.util.state import list_actors
from small_runs import ROOT, wait_for

from largebatch.jobs.launch.options import Workers
from largebatch.jobs.run.checkpoints import list_checkpoints

# Ray warns of its own old ways.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("here", "undrained")]
TWO = Workers(2, 2)


class Command(NamedTuple):
    """A `largebatch train` that was asked to end."""

    exit_code: int
    summary: dict[str, Any]
    stderr: str

    @property
    def resumes_with(self) -> list[str]:
        """The arguments of the command that it says to go on with."""
        (line,) = [line for line in self.stderr.splitlines() if "Go on with: largebatch " in line]
        return shlex.split(line.partition("largebatch ")[2])


def largebatch(*arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
    """The command in a session of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "largebatch", *arguments], env={**os.environ, **environment}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def asked_to_end(process: "subprocess.Popen[str]", output_dir: Path, ask: Callable[[], None]) -> Command:
    """Wait until the command's run is in the middle, ask it to end, and take what it says."""

    def is_training() -> bool:
        assert process.poll() is None, process.communicate()
        return any('"step":5,' in journal.read_text() for journal in output_dir.glob("*/records.jsonl"))

    try:
        runs.wait_for(is_training, 90)
        ask()
        output, stderr = process.communicate(timeout=60)
    except BaseException:
        process.kill()
        print(*process.communicate())
        raise
    (line,) = output.splitlines()
    return Command(process.returncode, json.loads(line), stderr)


def stopped_by_ctrl_c(head: Head, tmp_path: Path, first: Callable[[Path, "subprocess.Popen[str]"], None] = lambda *_: None) -> tuple[Command, Path]:
    """The command of a slow run on two workers, and the run's folder. Args: first: what is done before, in the middle of the run."""
    recipe, output_dir = tmp_path / "recipe.json", tmp_path / "runs"
    recipe.write_text(json.dumps(runs.slow_document(tmp_path / "acted")))
    places = ["--output-dir", output_dir, "--data-dir", "data", "--device", "cpu"]
    process = largebatch("train", recipe, "--workers", "2", "--cpus-per-worker", "0.5", "--address", head.address, *places, "--json")

    def ask() -> None:
        first(next(output_dir.glob("*/records.jsonl")).parent, process)
        os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the whole group

    stopped = asked_to_end(process, output_dir, ask)
    assert stopped.exit_code == 4, stopped.stderr
    assert "SIGINT: finishing this step and saving." in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert (stopped.summary["outcome"], stopped.summary["world_size"]) == ("stopped", 2)
    assert 5 <= stopped.summary["steps"] < runs.STEPS
    (run_dir,) = output_dir.iterdir()
    assert stopped.resumes_with[:3] == ["train", "--resume", str(run_dir)]
    return stopped, run_dir


def test_a_killed_worker_leaves_the_same_run_and_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
    head: Head, undisturbed: Path, tmp_path: Path
) -> None:
    """One run for both: what starts on Ray takes far longer than what it does. Both by themselves, and to the run's end, in slow tests."""

    def kill(run_dir: Path, command: "subprocess.Popen[str]") -> None:
        runs.wait_for(lambda: runs.steps(run_dir)[-1] >= 12, 90, command)
        runs.kill_a_worker(tmp_path)
        runs.wait_for(lambda: runs.steps(run_dir)[-1] >= 22, 90, command)

    stopped, run_dir = stopped_by_ctrl_c(head, tmp_path, first=kill)
    began, after = runs.starts(run_dir)
    assert (began.world_size, after.world_size) == (2, 2)
    assert 10 <= after.step < 22, "from a checkpoint"
    (notice,) = runs.notices(run_dir)
    assert "its process ended" in notice
    assert f"from step {after.step}" in notice
    last = stopped.summary["steps"]
    assert runs.steps(run_dir) == list(range(1, last + 1)), "no record lost or doubled"
    assert small_runs.losses(run_dir) == small_runs.losses(undisturbed)[:last]
    assert runs.same(runs.parameters(undisturbed, 20), runs.parameters(run_dir, 20))
    assert head.address in stopped.resumes_with
    assert list_checkpoints(run_dir / "checkpoints")[0].step == last, "its last step is saved"


@pytest.mark.slow
def test_after_ctrl_c_the_command_that_was_printed_goes_on_with_the_same_run(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    """Ordinary tests: that a run on Ray goes on from a checkpoint, by a killed worker above; that the printed command does, in tests/faults."""
    stopped, run_dir = stopped_by_ctrl_c(head, tmp_path)
    (tmp_path / "acted").touch()
    again = largebatch(*stopped.resumes_with, "--json", "--worker-logs")
    output, stderr = again.communicate(timeout=120)
    assert again.returncode == 0, stderr
    assert json.loads(output)["steps"] == runs.STEPS
    assert slow.SAYS in stderr
    assert slow.SAYS not in stopped.stderr
    assert runs.steps(run_dir) == list(range(1, runs.STEPS + 1))
    assert runs.same(runs.parameters(undisturbed), runs.parameters(run_dir))
    over, same = runs.Watcher(), runs.slow_document(tmp_path / "acted")
    assert runs.train(run_dir.parent, head.address, TWO, same, over, run_id=run_dir.name).steps == runs.STEPS
    assert any("ended before" in notice for notice in over.notices)


@pytest.mark.slow
def test_ctrl_c_before_any_step_says_so(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers are at the model, which takes its time."""
    building, output_dir, recipe = tmp_path / "building", tmp_path / "runs", tmp_path / "recipe.json"
    (tmp_path / "late_model.py").write_text(
        "import pathlib, time, torch\n\n\ndef build(num_classes):\n"
        f"    pathlib.Path({str(building)!r}).touch()\n    time.sleep(5)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
    )
    recipe.write_text(json.dumps(runs.document(model={"entry_point": "late_model:build"}, batch={"global_batch_size": 250})))
    monkeypatch.chdir(tmp_path)
    places = ["--output-dir", output_dir, "--data-dir", ROOT / "data", "--device", "cpu"]
    process = largebatch("train", recipe, "--workers", "2", "--cpus-per-worker", "0.5", "--address", head.address, *places)
    try:
        wait_for(building.exists, 90)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=90)
    finally:
        process.kill()
    assert "SIGINT: ending as soon as the workers can; no step has been done yet." in stderr, stderr
    assert "Traceback" not in stderr
    assert not list(output_dir.glob(".*"))


@pytest.mark.slow
def test_ctrl_c_while_the_workers_start_leaves_nothing_and_promises_nothing(head: Head, tmp_path: Path) -> None:
    output_dir = tmp_path / "runs"
    places = ["--output-dir", output_dir, "--data-dir", ROOT / "data", "--device", "cpu", "--set", "tracking.enabled=false"]
    process = largebatch("train", "digits-lamb", "--workers", "2", "--cpus-per-worker", "0.5", "--address", head.address, *places)
    try:
        alive = [("state", "=", "ALIVE")]
        wait_for(lambda: any("TrainController" in actor.class_name for actor in list_actors(address=head.dashboard, filters=alive)), 90)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=150)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "Interrupted."
    assert "no step has been done yet" in stderr
    assert not output_dir.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_no_process_of_its_own_ray(tmp_path: Path, number: signal.Signals) -> None:
    recipe, output_dir, folder = tmp_path / "recipe.json", tmp_path / "runs", tempfile.mkdtemp(prefix="lb", dir="/tmp")
    recipe.write_text(json.dumps(runs.slow_document(tmp_path / "never")))
    places = ["--output-dir", output_dir, "--data-dir", "data", "--device", "cpu"]
    started = list[psutil.Process]()
    try:
        process = largebatch("train", recipe, "--workers", "2", *places, "--json", RAY_TMPDIR=folder, TMPDIR=folder)

        def ask() -> None:
            started.extend(runs.descendants(process.pid))
            os.killpg(process.pid, number)

        stopped = asked_to_end(process, output_dir, ask)
        assert stopped.exit_code == 4, stopped.stderr
        assert f"{number.name}: finishing this step and saving." in stopped.stderr
        assert "Ray's dashboard: http://127.0.0.1:" in stopped.stderr
        assert stopped.resumes_with[-2:] == ["--workers", "2"]
        assert len(started) > 5, "Ray's own processes and two workers"
        runs.wait_for(lambda: not [each for each in started if _is_alive(each)], 30)
        left = [path for path in Path(folder).glob("pymp-*/*") if not path.is_socket()]
        assert not left, "of Ray's dashboard folders stay, without a file"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: psutil.Process) -> bool:
    """Whether it is there, and not just waiting to be buried."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.slow
def test_a_driver_that_is_killed_is_started_again(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": head.address, "SPEC": json.dumps(runs.slow_document(tmp_path / "acted"))}
    command = [sys.executable, "-m", "largebatch.jobs.launch.supervise", "env:SPEC", "--workers", "2", "--cpus-per-worker", "0.5", "--run-id", "run"]
    supervisor = subprocess.Popen(
        [*command, "--output-dir", str(tmp_path), "--data-dir", "data", "--device", "cpu"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        journal = tmp_path / "run" / "records.jsonl"
        runs.wait_for(lambda: journal.exists() and '"step":11,' in journal.read_text(), 90, supervisor)
        (driver,) = [child for child in psutil.Process(supervisor.pid).children() if "largebatch.jobs" in child.cmdline()]
        driver.kill()
        (tmp_path / "acted").touch()
        output, _ = supervisor.communicate(timeout=120)
    finally:
        supervisor.kill()
    assert supervisor.returncode == 0
    assert json.loads(output.splitlines()[-1])["steps"] == runs.STEPS
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))
    assert runs.steps(tmp_path / "run") == list(range(1, runs.STEPS + 1))


SUPERVISE = ROOT / "jobs" / "launch" / "supervise.py"


@contextlib.contextmanager
def supervised(folder: Path, code: str, *arguments: str, first: str = "") -> Iterator["subprocess.Popen[str]"]:
    """The supervisor, with a driver of ours in place of `jobs`. Args: first: what its process does before it."""
    ours = folder / "largebatch" / "jobs"
    ours.mkdir(parents=True)
    (ours.parent / "__init__.py").touch()
    (ours / "__init__.py").write_text(f"__path__.append({str(SUPERVISE.parents[1])!r})")
    (ours / "__main__.py").write_text(code)
    script = f"{first}\nimport sys; sys.argv = ['supervise', *{list(arguments)!r}]; exec(open({str(SUPERVISE)!r}).read())"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            runs.kill(runs.descendants(process.pid))
            process.kill()


def test_a_killed_driver_is_started_again_and_an_exit_code_is_passed_on(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys
count = pathlib.Path("count"); n = int(count.read_text()) + 1 if count.exists() else 1; count.write_text(str(n))
if n < 3: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(len(sys.argv) + 10 * bool(os.environ.get("LARGEBATCH_STARTED_AGAIN")))
"""
    with supervised(tmp_path, code, "one", "two") as process:
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 13, "it knows that it is not the first"
    assert (tmp_path / "count").read_text() == "3"
    assert stderr.count("ended by SIGKILL") == 2


WAITS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
pathlib.Path("up").write_text("")
time.sleep(60)
"""


def test_a_supervisor_that_is_asked_to_end_asks_its_driver_and_starts_no_other(tmp_path: Path) -> None:
    with supervised(tmp_path, WAITS) as process:
        wait_for((tmp_path / "up").exists, 30)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 4


def test_a_supervisor_that_is_asked_while_it_starts_its_driver_asks_it_as_soon_as_it_is_there(tmp_path: Path) -> None:
    """A driver may be up before the call that starts it has returned; a signal in between was lost once in some hundred runs."""
    first = """
import os, pathlib, signal, subprocess, time

class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        while not pathlib.Path("up").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Popen
"""
    with supervised(tmp_path, WAITS, first=first) as process:
        process.communicate(timeout=30)
    assert process.returncode == 4

"""What the launch is made of, without a cluster."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.errors import FaultError, InputError
from jobs.launch.mailbox import Mailbox
from jobs.launch.options import RayOptions, Workers, resume_command
from jobs.launch.ray_controller import first_cause, first_failure, sentence
from jobs.launch.ray_network import interface_of
from jobs.launch.termination import SAVED
from jobs.plan import Position, Slice
from jobs.planning import Facts, make_plan
from jobs.spec_reader import build_spec
from jobs.storage import Storage, probe

pytestmark = pytest.mark.filterwarnings("ignore")


def mailbox(max_failures: int) -> Mailbox:
    """The actor's class, in this process."""
    made: Mailbox = Mailbox.__ray_metadata__.modified_class(max_failures, "Logs are there.")  # type: ignore[attr-defined]
    return made


def test_failures_are_counted_and_preemptions_are_not() -> None:
    box = mailbox(1)
    assert box.begin() == ([], False)
    box.failed("worker 1: gone.", False)
    assert box.begin() == (["Failure: worker 1: gone."], False)
    box.failed(f"worker 0: {SAVED}.", True)
    reasons, is_over = box.begin()
    assert (len(reasons), is_over, box.is_over()) == (1, False, False)
    assert box.stands() == (3, False)
    box.failed("worker 1: gone again.", False)
    assert box.is_over()
    assert box.stands() == (3, True)
    _, outcome = box.take()
    assert outcome is not None
    assert str(outcome["error"]) == "the run failed more than 1 times, at last: worker 1: gone again. Logs are there."


def test_a_group_after_the_outcome_is_told_that_it_is_over() -> None:
    box = mailbox(0)
    box.begin()
    box.finish({"summary": {}})
    reasons, is_over = box.begin()
    assert is_over
    assert "anew" in reasons[0]
    box.failed("worker 1: its process ended.", False)
    assert box.take() == ([], {"summary": {}}), "what befalls the workers afterwards changes nothing"


def test_messages_are_taken_once() -> None:
    box = mailbox(8)
    box.put([{"notice": "one"}])
    box.put([{"notice": "two"}])
    assert box.take() == ([{"notice": "one"}, {"notice": "two"}], None)
    assert box.take() == ([], None)
    assert not box.wants_stop()
    box.ask_to_stop()
    assert box.wants_stop()


def test_the_first_real_error_is_not_another_ranks_echo() -> None:
    failures = {0: RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1"), 1: ValueError("bad"), 2: ValueError("worse")}
    rank, error = first_failure(failures)
    assert (rank, str(error)) == (1, "bad")
    assert first_failure({0: failures[0]})[0] == 0
    assert first_cause(FaultError("", "no.", "Try.")) == "no. Try."


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("bad"), "ValueError: bad."), (ValueError(""), "ValueError."), (RuntimeError("Traceback\n  line\nKeyError: 'x'"), "KeyError: 'x'."),
     (InputError("field", "is wrong.", "Mend it."), "field: is wrong. Mend it."),
     (RuntimeError("The actor is dead because its worker process has died."), "its process ended (killed, out of memory, or its machine is gone).")],
)  # fmt: skip
def test_an_error_in_one_line(error: Exception, words: str) -> None:
    assert sentence(error) == words


def probed(*places: Path) -> list[str | None]:
    """What two workers find when each looks at its own place."""
    meeting, token = threading.Barrier(2), "12345"
    with ThreadPoolExecutor(2) as workers:
        asked = [workers.submit(probe, Storage(str(place)), token, rank, lambda: meeting.wait(10) and None) for rank, place in enumerate(places)]
        return [one.result(20) for one in asked]


def test_a_folder_that_is_not_the_same_everywhere_is_found_out_and_left_clean(tmp_path: Path) -> None:
    assert probed(tmp_path / "shared", tmp_path / "shared") == [None, None]
    assert probed(tmp_path / "one", tmp_path / "other") == [None, "does not hold what worker 0 wrote there"]
    (tmp_path / "file").touch()
    first, second = probed(tmp_path / "shared", tmp_path / "file")
    assert first is None
    assert second is not None
    assert second.startswith("cannot be written")
    assert not [found for found in tmp_path.rglob("*") if "probe" in found.name]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's kernel")
def test_the_interface_that_has_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None


def test_how_to_go_on_is_a_command_in_the_way_in_which_the_run_was_begun() -> None:
    assert resume_command("runs/one") == "largebatch train --resume runs/one"
    on_ray = RayOptions(Workers(2, 4), cpus_per_worker=0.5, address="10.0.0.1:6379")
    assert resume_command("my runs/one", on_ray) == (
        "largebatch train --resume 'my runs/one' --workers 2:4 --cpus-per-worker 0.5 --address 10.0.0.1:6379"
    )


def supervised(folder: Path, code: str, *arguments: str) -> "subprocess.Popen[str]":
    """The supervisor, with a driver of ours in place of `jobs`."""
    (folder / "jobs").mkdir()
    (folder / "jobs" / "__init__.py").write_text("")
    (folder / "jobs" / "__main__.py").write_text(code)
    script = f"import sys; sys.argv = ['supervise', *{list(arguments)!r}]; exec(open({str(SUPERVISE)!r}).read())"
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, stderr=subprocess.PIPE, text=True
    )


SUPERVISE = Path(__file__).parents[2] / "jobs" / "launch" / "supervise.py"


def test_a_killed_driver_is_started_again_and_an_exit_code_is_passed_on(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys
count = pathlib.Path("count"); n = int(count.read_text()) + 1 if count.exists() else 1; count.write_text(str(n))
if n < 3: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(len(sys.argv))
"""
    process = supervised(tmp_path, code, "one", "two")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert (tmp_path / "count").read_text() == "3"
    assert said.count("ended by SIGKILL") == 2


def test_a_supervisor_that_is_asked_to_end_asks_its_driver_and_starts_no_other(tmp_path: Path) -> None:
    code = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
pathlib.Path("up").write_text("")
time.sleep(60)
"""
    process = supervised(tmp_path, code)
    ends_at = time.monotonic() + 30
    while not (tmp_path / "up").exists():
        assert time.monotonic() < ends_at
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 4


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("span", [None, 8])
def test_shares_cover_every_batch_once_in_whole_groups(world_size: int, span: int | None) -> None:
    document = {
        "dataset": {"name": "digits"},
        "model": {"name": "mlp"},
        "batch": {"global_batch_size": 64, "micro_batch_size": 8},
        "batch_norm": {"span": span or "auto"},
        "optimizer": {"name": "sgd"},
        "learning_rate": {"base": 0.1},
        "stop": {"epochs": 2},
    }
    plan = make_plan(build_spec(document), Facts(203, span is not None, 8, world_size))
    for batch in plan.batches():
        shares = [plan.rank_share(batch, rank) for rank in range(world_size)]
        assert [share.start for share in shares[1:]] == [share.stop for share in shares[:-1]]
        assert (shares[0].start, shares[-1].stop) == (batch.start, batch.stop)
        sizes = [-(-share.size // (span or 1)) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert plan.largest_share(batch) >= max(share.size for share in shares) - (span or 1) + 1
        assert plan.batch_norm_groups(batch) == sizes
        assert plan.num_sharing(batch) == sum(size > 0 for size in sizes)
    stream = plan.shares_from(1, world_size - 1)
    first = plan.next_batch(Position(1, 0))
    assert next(stream) == plan.rank_share(first, world_size - 1)
    assert plan.gradient_accumulation_steps == -(-plan.largest_share(Slice(0, 0, 64)) // plan.micro_batch_size)


def test_what_only_watches_needs_no_torch() -> None:
    """The command and Ray Train's controller: torch's import is two seconds of a core in each."""
    watching = "jobs.launch.ray_train, jobs.launch.process_group, jobs.launch.ray_controller, jobs.launch.mailbox"
    script = f"import sys; import {watching}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


LIFELINE = """
import sys, time
from jobs.launch.lifeline import lifeline

answers = [letter == "y" for letter in sys.argv[1]]

def ask():
    if not (answers.pop(0) if len(answers) > 1 else answers[0]):
        raise TimeoutError("nobody answers")

with lifeline(ask, every_s=0.01, misses=3):
    time.sleep(float(sys.argv[2]))
time.sleep(0.2)
print("at its end")
"""


@pytest.mark.parametrize(
    ("answers", "seconds", "ends_itself"),
    [("yynnn", "60", True), ("nnynnynny", "0.5", False), ("y" * 20 + "n", "0.05", False)],
    ids=["cut off", "answers now and then", "over before"],
)
def test_a_worker_that_has_lost_its_run_ends_itself(answers: str, seconds: str, ends_itself: bool) -> None:
    done = subprocess.run([sys.executable, "-c", LIFELINE, answers, seconds], capture_output=True, text=True, timeout=30, check=False)
    if ends_itself:
        assert done.returncode == 75
        assert "has lost its run (TimeoutError: nobody answers)" in done.stderr
    else:
        assert (done.returncode, done.stdout.strip()) == (0, "at its end")

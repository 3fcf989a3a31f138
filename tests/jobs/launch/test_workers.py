"""Ray Train's workers against one process, and what they survive. Real Ray, real signals."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import launch_runs as runs
import pytest
import ray
import small_runs
from launch_runs import Head
from ray.util.state import list_actors

from largebatch.jobs.errors import CheckpointError, CodeError, FaultError
from largebatch.jobs.launch.on_ray.driver import StoppedError
from largebatch.jobs.launch.on_ray.train import ended_before
from largebatch.jobs.launch.options import Workers
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import Outcome, StepRecord
from largebatch.jobs.spec.read import build_spec

# Ray warns of its own old ways.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("here", "undrained")]
TWO = Workers(2, 2)
MORE = {"steps": runs.STEPS + 10}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("one") / "run"
    with small_runs.one_thread():
        small_runs.trained(small_runs.prepared(**runs.document()), run_dir)
    return run_dir


@pytest.mark.slow
def test_one_worker_is_one_process_bit_for_bit(head: Head, one_process: Path, tmp_path: Path) -> None:
    """The ordinary test is of two workers, below."""
    watcher = runs.Watcher()
    summary = runs.train(tmp_path, head.address, Workers(1, 1), runs.document(), watcher)
    assert runs.same(runs.parameters(one_process), runs.parameters(tmp_path / "run"))
    assert runs.steps(tmp_path / "run") == list(range(1, runs.STEPS + 1))
    assert watcher.records[-1].kind == "end"  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["parameters_sha256"] == summary.parameters_sha256
    assert not (tmp_path / ".ray").exists()


def test_two_workers_are_one_process_within_rounding(one_process: Path, undisturbed: Path) -> None:
    assert 0 < runs.distance(runs.parameters(one_process), runs.parameters(undisturbed)) < 1e-4
    assert runs.starts(undisturbed)[0].samples_per_rank == [125, 125]


@pytest.mark.slow
def test_three_workers_of_an_uneven_batch_score_a_validation_part_as_one_process_does(head: Head, tmp_path: Path) -> None:
    """Of one step at a rate too small to matter, so that the weights are the same to the last digits: every score is, whatever the shares."""
    parts = {
        "dataset": {"name": "digits", "validation": 301},
        "stop": {"steps": 1},
        "learning_rate": {"base": 1e-12},
        "batch_norm": {"span": 25},
    }
    summary = runs.train(tmp_path, head.address, Workers(3, 3), runs.document(**parts))
    alone = small_runs.trained(small_runs.prepared(**runs.document(**parts)), tmp_path / "alone")
    assert (summary.world_size, summary.global_batch_size, summary.evaluated_on) == (3, 250, "validation")
    assert runs.starts(tmp_path / "run")[0].samples_per_rank == [75, 75, 100]
    step, of_one = ([record for record in read_records(tmp_path / folder) if isinstance(record, StepRecord)] for folder in ("run", "alone"))
    assert (step[0].loss, step[0].gradient_norm) == pytest.approx((of_one[0].loss, of_one[0].gradient_norm), rel=1e-5)
    scores = {"score", "best_score", "train_score", "test_score", "evaluated_on"}
    assert summary.model_dump(include=scores) == alone.model_dump(include=scores)
    assert None not in summary.model_dump(include=scores).values()
    assert summary.test_scores == pytest.approx(alone.test_scores, rel=1e-5)


def kill_actor(head: Head, kind: str) -> None:
    """The one actor of that kind that is alive: this test's own, for tests on the shared head come one after the other."""
    alive = [actor for actor in list_actors(address=head.dashboard, filters=[("state", "=", "ALIVE")]) if actor.class_name.endswith(kind)]
    (actor,) = alive
    os.kill(actor.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_leaves_the_same_run(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    """The ordinary test is in test_stopping.py, of a run that is stopped before its end."""

    def kill() -> None:
        runs.kill_a_worker(tmp_path)
        (tmp_path / "acted").touch()

    summary = runs.train(tmp_path, head.address, TWO, runs.slow_document(tmp_path / "acted"), runs.Watcher(15, kill), max_failures=1)
    assert summary.outcome is Outcome.COMPLETED
    began, after = runs.starts(tmp_path / "run")
    assert (began.world_size, after.world_size) == (2, 2)
    assert 10 <= after.step < 60
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))
    assert runs.steps(tmp_path / "run") == list(range(1, runs.STEPS + 1)), "no record lost or doubled"
    (notice,) = runs.notices(tmp_path / "run")
    assert "its process ended" in notice
    assert f"from step {after.step}" in notice


@pytest.mark.slow
def test_a_preempted_worker_a_killed_controller_and_a_killed_worker_leave_the_same_run(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    """On a Ray of others, with room for one group at a time."""
    spec_document = runs.slow_document(tmp_path / "acted", checkpoint={"every_steps": 30, "every_seconds": None, "best": False, "keep": 99})

    def preempt() -> None:
        runs.kill_a_worker(tmp_path, signal.SIGTERM)
        watcher.then(32, kill_controller)

    def kill_controller() -> None:
        kill_actor(head, "TrainController")
        watcher.then(50, kill)

    def kill() -> None:
        runs.kill_a_worker(tmp_path)
        (tmp_path / "acted").touch()

    watcher = runs.Watcher(15, preempt)
    summary = runs.train(tmp_path, head.address, TWO, spec_document, watcher, max_failures=2, cpus=1.5)
    assert summary.outcome is Outcome.COMPLETED, "preemptions are not counted as failures: together they would be too many"
    began, preempted, *killed = runs.starts(tmp_path / "run")
    assert [record.world_size for record in (began, preempted, *killed)] == [2, 2, 2, 2]
    assert preempted.step >= 15
    assert preempted.step != 30, "the signal saved, within its second: nothing was lost"
    newest = max(30, preempted.step)
    after_controller, after_worker = (record.step for record in killed)
    # Ray may end the workers of a controller that is gone by SIGTERM, and then they save what they have; at the least the newest checkpoint is there.
    assert newest <= after_controller <= after_worker < 60
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))
    assert runs.steps(tmp_path / "run") == list(range(1, runs.STEPS + 1)), "no record lost or doubled"
    notices = runs.notices(tmp_path / "run")
    assert len(notices) == 3
    assert "SIGTERM" in notices[0]
    assert f"from step {preempted.step}" in notices[0]
    assert "the controller: its process ended" in notices[1]
    assert "its process ended" in notices[2]
    assert "controller" not in notices[2]
    assert [f"from step {step}" in text for step, text in zip((after_controller, after_worker), notices[1:], strict=True)] == [True, True]
    assert "\n" not in "".join(notices)


@pytest.mark.slow
def test_a_start_that_fails_is_a_failure_and_keeps_no_cores(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    """A worker's error first, then the controller's end; two groups would not fit at once."""
    stumbled, killed = tmp_path / "stumbled", tmp_path / "killed"

    class Stumbling:
        """Draws nothing, and fails once where a worker takes it up, and once where the controller does. Of this function, so Ray sends it along."""

        def __call__(self, run_dir: Path) -> None:
            pass

        def __reduce__(self) -> Any:
            return stumble, ()

    def stumble() -> Any:
        is_worker = ray.util.get_current_placement_group() is not None
        if is_worker and not stumbled.exists():
            stumbled.touch()
            raise RuntimeError("a worker stumbles")
        if not is_worker and stumbled.exists() and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Stumbling()

    watcher = runs.Watcher()
    summary = runs.train(tmp_path, head.address, TWO, runs.document(), watcher, cpus=1.5, max_failures=2, draw=Stumbling())
    assert summary.outcome is Outcome.COMPLETED
    notices = runs.notices(tmp_path / "run")
    assert "Failure: a worker could not start: RuntimeError: a worker stumbles." in notices[0]
    assert "the controller: its process ended" in notices[1]
    assert {text.removesuffix(" Going on from step 0.") for text in notices} <= set(watcher.notices), "told when it happened"
    assert runs.same(runs.parameters(undisturbed), runs.parameters(tmp_path / "run"))


@pytest.mark.slow
def test_a_run_without_its_run_channel_ends_with_one_sentence(head: Head, tmp_path: Path) -> None:
    watcher = runs.Watcher(5, lambda: kill_actor(head, "RunChannel"))
    with pytest.raises(FaultError, match=r"^ray: the run channel, or the whole cluster, is gone .* Go on with: largebatch train --resume") as caught:
        runs.train(tmp_path, head.address, Workers(1, 1), runs.slow_document(tmp_path / "never"), watcher)
    assert "\n" not in str(caught.value)


def test_a_run_that_is_asked_to_stop_before_it_has_workers_starts_none(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    watcher, goes_on = runs.Watcher(), runs.document(stop=MORE)
    watcher.stops.set()
    with pytest.raises(StoppedError, match=r"stopped while the run waited for workers. Go on with: largebatch train --resume") as caught:
        runs.train(tmp_path, head.address, Workers(1, 1), goes_on, watcher)
    assert caught.value.exit_code == 4
    assert len(runs.starts(tmp_path / "run")) == 1
    with pytest.raises(KeyboardInterrupt):  # nothing was trained that could go on
        runs.train(tmp_path, head.address, Workers(1, 1), goes_on, watcher, run_id="new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_run_that_waits_for_workers_stops_at_once(head: Head, tmp_path: Path) -> None:
    watcher = runs.Watcher()

    def act() -> None:
        runs.kill_a_worker(tmp_path)
        watcher.stops.set()

    watcher.then(15, act)
    with pytest.raises(StoppedError, match=r"stopped while the run waited for workers. Go on with: largebatch train --resume") as caught:
        runs.train(tmp_path, head.address, Workers(1, 1), runs.slow_document(tmp_path / "never"), watcher)
    assert caught.value.exit_code == 4
    assert len(runs.starts(tmp_path / "run")) == 1, "no new workers were started to be told"


@pytest.mark.slow
def test_a_machine_that_will_be_taken_away_loses_nothing(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines more, each with room for the run, which the head has not."""
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
    watcher = runs.Watcher()
    with runs.new_node(head, 12), runs.new_node(head, 12):

        def drain() -> None:
            first = next(iter(places()))
            runs.drain(head, first)
            drained.append(first)
            (tmp_path / "acted").touch()

        def places() -> set[str]:
            alive = list_actors(address=head.dashboard, filters=[("state", "=", "ALIVE")])
            return {str(actor.node_id) for actor in alive if actor.class_name.endswith("RayTrainWorker")}

        drained, nodes = list[str](), list[set[str]]()
        watcher.then(15, drain)
        spec_document = runs.slow_document(tmp_path / "acted", checkpoint={"every_steps": 1000, "every_seconds": None, "best": False})
        spec_document["stop"] = {"steps": 3000}
        ended: list[Any] = []

        def train() -> None:
            ended.append(runs.train(tmp_path, head.address, TWO, spec_document, watcher, cpus=5.0, max_failures=0))

        trains = threading.Thread(target=train)
        trains.start()
        runs.wait_for(lambda: len(drained) == 1 and len(runs.starts(tmp_path / "run")) == 2, 120)
        nodes.append(places())
        watcher.stops.set()
        trains.join(90)
    assert ended
    assert ended[0].outcome is Outcome.STOPPED
    assert not nodes[0] & set(drained), "the new workers are elsewhere"
    lines = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1)), "no step was done twice"
    assert "Preempted: Ray will take a machine away; the run was saved." in runs.notices(tmp_path / "run")[0]


@pytest.mark.slow
def test_a_run_that_keeps_failing_ends_with_the_first_real_error(head: Head, tmp_path: Path) -> None:
    workers = tmp_path / "workers"
    workers.mkdir()
    spec_document = runs.document(model={"entry_point": "failing:breaks", "arguments": {"workers": str(workers)}}, batch_norm={"span": "auto"})
    with pytest.raises(FaultError, match=r"more than 1 times.*worker 1: AcceleratorError: CUDA error: uncorrectable ECC error") as caught:
        runs.train(tmp_path / "runs", head.address, TWO, spec_document, max_failures=1)
    assert "\n" not in str(caught.value)
    assert len(list(workers.iterdir())) == 4, "twice two, and none to be told that it is over"


@pytest.mark.slow
def test_what_a_model_of_ones_own_raises_is_not_tried_again(head: Head, tmp_path: Path) -> None:
    """Ordinary tests: that no other group begins, in test_early_stops.py; the sentence of all ranks, in tests/equality/test_ranks.py."""
    workers = tmp_path / "workers"
    workers.mkdir()
    spec_document = runs.document(model={"entry_point": "failing:build", "arguments": {"workers": str(workers)}}, batch_norm={"span": "auto"})
    with pytest.raises(
        CodeError, match=r"failed at step \d+, training on \d+ samples: ZeroDivisionError: rank 1 cannot go on .*traceback\.txt"
    ) as caught:
        runs.train(tmp_path / "runs", head.address, TWO, spec_document, max_failures=1)
    assert "\n" not in str(caught.value)
    assert len(list(workers.iterdir())) == 2


def test_a_name_that_has_ended_goes_on_with_more_steps_alone(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    ended = ended_before(str(tmp_path), "run", build_spec(runs.document()))
    assert ended is not None
    assert ended.steps == runs.STEPS
    assert ended_before(str(tmp_path), "run", build_spec(runs.document(stop=MORE))) is None, "a run that goes on"


@pytest.mark.slow
def test_a_name_that_has_ended_refuses_another_recipe(head: Head, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    other = runs.document(stop=MORE, learning_rate={"base": 0.2, "warmup_epochs": 1.0})
    with pytest.raises(CheckpointError, match=r"learning_rate\.base: the checkpoint was made with 0\.1, and the spec now says 0\.2"):
        runs.train(tmp_path, head.address, Workers(1, 1), other)

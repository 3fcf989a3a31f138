"""`largebatch.Recorder`: what a loop of one's own leaves behind, and what it may not do."""

import math
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forked
from torch import nn

import largebatch
from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.recorder.loop_clock import LoopClock
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import NoticeRecord, Outcome

LOSS = largebatch.Metric("loss", "lower")
IMPORTED = ("largebatch.jobs.recorder.recorder", "torch._dynamo")
"""By the programs below: torch's own optimizers import the second when they are made."""


def optimizer(rate: float = 0.1, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=rate, **options)


def recorder(folder: Path, **given: Any) -> largebatch.Recorder:
    usual = {"model": "net", "dataset": "data", "optimizer": optimizer(momentum=0.9), "global_batch_size": 8, "num_train_samples": 20}
    return largebatch.Recorder(**{**usual, "output_dir": folder, **given})


def notices(run_dir: Path) -> list[str]:
    return [record.text for record in read_records(run_dir) if isinstance(record, NoticeRecord)]


def test_steps_and_evaluations_are_written_as_they_were(tmp_path: Path) -> None:
    sgd = optimizer(0.5, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(sgd, 1, 0.5)
    with recorder(tmp_path, optimizer=sgd, target=0.6, seed=7, settings={"epochs": 2}) as recording:
        for epoch, score in enumerate((0.5, 0.7)):
            for number, size in enumerate(recording.training((8, 8, 4))):
                sgd.step()
                schedule.step()  # before the recorder is told: the rate is that of the step
                recording.step(torch.tensor(1.0 / (1 + 3 * epoch + number), requires_grad=True), size)
            recording.evaluation({"accuracy": torch.tensor(score), "loss": 2.0 - score, "other": math.nan})
    run = largebatch.load_run(recording.run_dir)
    assert [step.step for step in run.steps] == [1, 2, 3, 4, 5, 6]
    assert [step.global_batch_size for step in run.steps] == [8, 8, 4, 8, 8, 4]
    assert [step.samples_seen for step in run.steps] == [8, 16, 20, 28, 36, 40]
    assert [step.epoch for step in run.steps] == [0.4, 0.8, 1.0, 1.4, 1.8, 2.0]
    assert [step.learning_rate for step in run.steps] == [0.5 / 2**number for number in range(6)]
    assert [step.loss for step in run.steps] == pytest.approx([1 / number for number in range(1, 7)], rel=1e-7)  # float32's rounding
    assert [step.gradient_norm for step in run.steps] == [None] * 6
    seconds = [step.training_seconds for step in run.steps]
    assert seconds == sorted(seconds)
    assert [(at.step, at.samples_seen, at.epoch) for at in run.evaluations] == [(3, 20, 1.0), (6, 40, 2.0)]
    assert [at.score for at in run.evaluations] == pytest.approx([0.5, 0.7], rel=1e-7)
    assert run.evaluations[1].scores.keys() == {"accuracy", "loss"}
    summary = run.summary
    assert summary is not None
    assert summary == recording.summary
    assert (summary.outcome, summary.steps, summary.samples_seen, summary.epochs, summary.steps_to_target) == (Outcome.REACHED, 6, 40, 2.0, 6)
    assert summary.time_to_target_seconds == run.evaluations[1].training_seconds
    assert (summary.best_score, summary.evaluated_on, summary.test_score) == (run.evaluations[1].score, "validation", None)
    assert run.spec.model_dump(exclude_defaults=True) == {
        "recorded": {"trainer": "plain loop"}, "dataset": {"name": "data"}, "model": {"name": "net"}, "batch": {"global_batch_size": 8},
        "optimizer": {"name": "sgd", "momentum": 0.9, "dampening": 0.0, "maximize": False, "nesterov": False, "weight_decay": 0.0},
        "learning_rate": {"base": 0.5}, "stop": {"target": {"metric": "accuracy", "value": 0.6}}, "settings": {"epochs": 2}, "seed": 7,
    }  # fmt: skip


def test_the_clock_counts_training_and_nothing_else(tmp_path: Path) -> None:
    """Each pause is slept through, so wall time bounds the clock from above whatever else the machine does."""

    def slow_batches() -> Any:
        for _ in range(3):
            time.sleep(0.02)
            yield 8

    began = time.perf_counter()
    with recorder(tmp_path) as recording:
        for epoch in range(2):
            for number, size in enumerate(recording.training(slow_batches())):
                time.sleep(0.01)
                recording.step(None if number == 1 else 1.0, size)
                if number == 0:
                    with recording.evaluating():
                        time.sleep(0.1)
                if number == 1:
                    with recording.paused():
                        time.sleep(0.1)
                if epoch == 1 and number == 1:
                    break
            time.sleep(0.1)  # after the loop over batches: nothing need be said
    wall = time.perf_counter() - began
    summary = recording.summary
    assert summary is not None
    assert summary.steps == 5
    assert 5 * 0.03 <= summary.training_seconds <= wall - 4 * 0.1 - 2 * 0.1
    assert 2 * 0.1 <= summary.evaluation_seconds <= wall - 5 * 0.03 - 4 * 0.1
    run = largebatch.load_run(recording.run_dir)
    assert [(step.step, step.samples_seen) for step in run.steps] == [(1, 8), (3, 24), (4, 32)]
    assert summary.samples_seen == 40


def test_the_noise_scale_is_a_ratio_of_means(tmp_path: Path) -> None:
    with recorder(tmp_path) as recording:
        for trace, norm in zip(recording.training((6.0, 2.0)), (1.0, -0.5), strict=False):
            recording.step(1.0, 8, noise=(trace, norm), gradient_norm=torch.tensor(3.0))
    assert recording.summary is not None
    assert recording.summary.gradient_noise_scale == (6.0 + 2.0) / (1.0 - 0.5)
    steps = largebatch.load_run(recording.run_dir).steps
    assert [(step.covariance_trace, step.gradient_norm_squared, step.gradient_norm) for step in steps] == [(6.0, 1.0, 3.0), (2.0, -0.5, 3.0)]


def test_a_run_ends_as_its_loop_does(tmp_path: Path) -> None:
    def recorded(**given: Any) -> largebatch.Recorder:
        return recorder(tmp_path, **given)

    for given, score, outcome in (({}, 0.5, "completed"), ({"target": 0.6}, 0.5, "missed"), ({"target": 0.6, "metric": LOSS}, 0.5, "reached")):
        with recorded(**given) as recording:
            recording.evaluation({"accuracy": score, "loss": score})
        assert recording.summary is not None
        assert recording.summary.outcome == outcome
        assert recording.has_reached_target == (outcome == "reached")
    with pytest.raises(ZeroDivisionError), recorded() as recording:
        raise ZeroDivisionError("by\nzero")
    assert recording.summary is not None
    assert (recording.summary.outcome, notices(recording.run_dir)[-1]) == ("failed", "Failed: ZeroDivisionError: by zero")
    with pytest.raises(KeyboardInterrupt), recorded() as recording:
        raise KeyboardInterrupt
    assert recording.summary is not None
    assert recording.summary.outcome == "stopped"


@pytest.mark.parametrize("where", ["loss", "evaluation"])
def test_what_is_not_finite_ends_the_recording_and_not_the_loop(where: str, tmp_path: Path) -> None:
    with recorder(tmp_path, target=0.5) as recording:
        for number, size in enumerate(recording.training((8, 8, 8))):
            recording.step(math.nan if where == "loss" and number == 1 else 1.0, size)
            if number == 1:
                recording.evaluation({"accuracy": math.inf if where == "evaluation" else 0.9})
        assert recording.has_diverged
    summary = recording.summary
    assert summary is not None
    assert (summary.outcome, summary.steps, summary.score) == ("diverged", 2, None)
    run = largebatch.load_run(recording.run_dir)
    assert ([step.step for step in run.steps], run.evaluations) == ([1] if where == "loss" else [1, 2], [])
    said = "the loss is nan at step 2" if where == "loss" else "the validation accuracy is inf after step 2"
    assert notices(recording.run_dir)[-1] == f"Diverged: {said}. The recording ends here."


def test_a_killed_program_leaves_whole_lines_and_no_end(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, torch, largebatch\n"
        "sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)\n"
        "said = {'model': 'net', 'dataset': 'data', 'global_batch_size': 8, 'num_train_samples': 20}\n"
        "recording = largebatch.Recorder(optimizer=sgd, output_dir=sys.argv[1], **said)\n"
        "with recording:\n"
        "    for number, size in enumerate(recording.training([8] * 9)):\n"
        "        recording.step(1.0, size)\n"
        "        if number == 4:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = Forked("-c", program, tmp_path, imports=IMPORTED)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (run_dir,) = tmp_path.iterdir()
    run = largebatch.load_run(run_dir)
    assert (run.summary, [step.step for step in run.steps]) == (None, [1, 2, 3, 4, 5])
    assert (run_dir / "records.jsonl").read_bytes().endswith(b"}\n")


def test_a_program_that_was_stopped_for_a_while_says_so(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, torch, largebatch\n"
        "sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)\n"
        "said = {'model': 'net', 'dataset': 'data', 'global_batch_size': 8, 'num_train_samples': 20}\n"
        "with largebatch.Recorder(optimizer=sgd, output_dir=sys.argv[1], **said) as recording:\n"
        "    for number, size in enumerate(recording.training([8] * 3)):\n"
        "        if number == 1:\n"
        "            print('stops', flush=True)\n"
        "            os.kill(os.getpid(), signal.SIGSTOP)\n"
        "        recording.step(1.0, size)\n"
    )
    stopped = Forked("-c", program, tmp_path, imports=IMPORTED)
    assert stopped.stdout.readline() == "stops\n"
    time.sleep(4.5)
    stopped.send_signal(signal.SIGCONT)
    stopped.communicate(timeout=60)
    (run_dir,) = tmp_path.iterdir()
    summary = largebatch.load_run(run_dir).summary
    assert summary is not None
    assert 3.0 <= (summary.stopped_seconds or 0.0) <= summary.training_seconds
    assert f"The run stood still for {summary.stopped_seconds:.0f} s (Ctrl-Z" in notices(run_dir)[-1]


def test_ranks_add_up_what_each_of_them_read(tmp_path: Path) -> None:
    program = (
        "import sys, torch, largebatch\n"
        "rank = int(sys.argv[2])\n"
        "torch.distributed.init_process_group('gloo', init_method=f'file://{sys.argv[1]}/meet', rank=rank, world_size=2)\n"
        "sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)\n"
        "said = {'model': 'net', 'dataset': 'data', 'global_batch_size': 8, 'num_train_samples': 16}\n"
        "recording = largebatch.Recorder(optimizer=sgd, output_dir=sys.argv[1] + '/runs', **said)\n"
        "with recording:\n"
        "    for number in recording.training(range(3)):\n"
        "        recording.step(None if number == 1 else 1.0 + 2.0 * rank, 3 if rank else 5)\n"
        "    recording.evaluation({'accuracy': 0.25 * (1 + rank)})\n"
        "torch.distributed.destroy_process_group()\n"
    )
    ranks = [Forked("-c", program, tmp_path, rank, imports=IMPORTED) for rank in (0, 1)]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    (run_dir,) = (tmp_path / "runs").iterdir()
    run = largebatch.load_run(run_dir)
    assert [(step.step, step.samples_seen, step.global_batch_size, step.loss) for step in run.steps] == [(1, 8, 8, 1.75), (3, 24, 8, 1.75)]  # 14 / 8
    assert run.summary is not None
    assert (run.summary.world_size, run.summary.samples_seen, run.summary.epochs, run.summary.score) == (2, 24, 1.5, 0.25)


def test_an_optimizer_is_told_in_our_words(tmp_path: Path) -> None:
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    adam = torch.optim.AdamW(
        [{"params": layers[0].parameters(), "weight_decay": 0.1}, {"params": layers[1].parameters(), "weight_decay": 0, "lr": 0.002}], lr=0.001
    )
    told = recorder(tmp_path, optimizer=adam).spec
    assert told.optimizer == {
        "name": "adamw", "amsgrad": False, "beta1": 0.9, "beta2": 0.999, "decoupled_weight_decay": True, "epsilon": 1e-08, "maximize": False,
        "weight_decay": 0.1, "by_group": {"weight_decay": [0.1, 0.0], "learning_rate_factor": [1.0, 2.0]},
    }  # fmt: skip
    lamb = recorder(tmp_path, optimizer=largebatch.LAMB(layers[0].parameters(), lr=0.02), optimizer_name="my-lamb").spec
    assert lamb.optimizer["name"] == "my-lamb"
    assert recorder(tmp_path, optimizer=largebatch.LAMB(layers[0].parameters(), lr=0.02)).spec.optimizer["name"] == "lamb"


def test_the_rate_is_that_at_the_peak_of_the_schedule(tmp_path: Path) -> None:
    one_cycle, warm_up, risen = optimizer(0.1, momentum=0.9), optimizer(0.1), optimizer(0.1)
    torch.optim.lr_scheduler.OneCycleLR(one_cycle, 0.8, total_steps=10)
    torch.optim.lr_scheduler.LinearLR(warm_up, 0.1, total_iters=5)
    assert recorder(tmp_path, optimizer=one_cycle).spec.learning_rate.base == 0.8
    assert recorder(tmp_path, optimizer=warm_up).spec.learning_rate.base == 0.1
    assert recorder(tmp_path, optimizer=warm_up, learning_rate=0.3).spec.learning_rate.base == 0.3
    with recorder(tmp_path, optimizer=risen) as recording:
        for rate in recording.training((0.1, 0.2, 0.3)):
            risen.param_groups[0]["lr"] = rate
            recording.step(1.0, 8)
    above = "The learning rate is 0.2, above the 0.1 that the run is known by: say its peak when the recorder is made."
    assert notices(recording.run_dir)[1:] == [above]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": ""}, "model.name: "),
        ({"global_batch_size": 0}, "batch.global_batch_size: "),
        ({"seed": -1}, "seed: "),
        ({"name": "a/b"}, "name: may hold letters"),
        ({"settings": {"object": object()}}, "settings"),
        ({"num_train_samples": 0}, "num_train_samples: is 0"),
        ({"evaluated_on": "train"}, "evaluated_on: is 'train'."),
        ({"target": math.inf}, "stop.target.value: "),
    ],
)
def test_what_says_no_run_is_refused_and_nothing_is_written(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises((SpecError, InputError)) as refused:
        recorder(tmp_path, **given)
    assert str(refused.value).startswith(sentence)
    assert not any(tmp_path.iterdir())


def test_a_recorder_is_used_as_it_is_meant(tmp_path: Path) -> None:
    recording = recorder(tmp_path)
    with pytest.raises(InputError, match="recorder: has not begun"):
        recording.evaluation({"accuracy": 0.5})
    with recording:
        with pytest.raises(InputError, match="step: the training clock does not run"):
            recording.step(1.0, 8)
        for _ in recording.training((8,)):
            with pytest.raises(InputError, match="num_samples: is 0"):
                recording.step(1.0, 0)
        with pytest.raises(InputError, match=r"evaluation: has no accuracy, which the run is judged by\. It got f1, loss"):
            recording.evaluation({"f1": 0.5, "loss": 1.0})
    with pytest.raises(InputError, match="recorder: has ended"):
        recording.step(1.0, 8)
    with pytest.raises(InputError, match="has recorded a run already"):
        recording.begin()


@pytest.mark.parametrize(("batch", "read"), [(8, 16), (8, 4), (8, 64)])
def test_a_batch_that_the_first_step_contradicts_is_refused(batch: int, read: int, tmp_path: Path) -> None:
    def records() -> None:
        with recorder(tmp_path, global_batch_size=batch) as recording:
            for _ in recording.training(range(3)):
                recording.step(None, read)

    with pytest.raises(InputError, match=f"global_batch_size: is {batch}, and the first step has {read} samples"):
        records()
    (run_dir,) = tmp_path.iterdir()
    summary = largebatch.load_run(run_dir).summary
    assert summary is not None
    assert summary.outcome is Outcome.FAILED


def test_a_batch_that_grows_is_said_once(tmp_path: Path) -> None:
    with recorder(tmp_path) as recording:
        for size in recording.training((7, 5, 12, 13)):  # such as of token sequences, sorted by length
            recording.step(1.0, size)
    assert notices(recording.run_dir)[1:] == ["Step 3 has 12 samples, above the 8 that the run is known by."]


def test_a_first_group_that_stands_still_has_rates_beside(tmp_path: Path) -> None:
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    sgd = torch.optim.SGD([{"params": layers[0].parameters(), "lr": 0.0}, {"params": layers[1].parameters()}], lr=0.1)
    with pytest.raises(SpecError, match=r"learning_rate.base: must be above 0"):
        recorder(tmp_path, optimizer=sgd)
    assert recorder(tmp_path, optimizer=sgd, learning_rate=0.1).spec.optimizer["by_group"] == {"learning_rate": [0.0, 0.1]}


def test_all_ranks_go_by_the_scores_of_the_first(tmp_path: Path) -> None:
    """One whose own score is not finite, or meets the target, does neither alone: the others would wait for it."""
    program = (
        "import sys, torch, largebatch\n"
        "rank = int(sys.argv[2])\n"
        "torch.distributed.init_process_group('gloo', init_method=f'file://{sys.argv[1]}/meet', rank=rank, world_size=2)\n"
        "sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)\n"
        "said = {'model': 'net', 'dataset': 'data', 'global_batch_size': 8, 'num_train_samples': 16, 'target': 0.5}\n"
        "recording = largebatch.Recorder(optimizer=sgd, output_dir=sys.argv[1] + '/runs', **said)\n"
        "reached = []\n"
        "with recording:\n"
        "    for score in ((0.25, 0.75), (0.375, float('nan')), (0.625, 0.625)):\n"
        "        for number in recording.training(range(1)):\n"
        "            recording.step(1.0, 4)\n"
        "        recording.evaluation({'accuracy': score[rank], 'loss': score[rank]})\n"
        "        reached.append(recording.has_reached_target)\n"
        "print(reached)\n"
        "torch.distributed.destroy_process_group()\n"
    )
    ranks = [Forked("-c", program, tmp_path, rank, imports=IMPORTED) for rank in (0, 1)]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [out for out, _ in said] == ["[False, False, True]\n"] * 2, said
    (run_dir,) = (tmp_path / "runs").iterdir()
    run = largebatch.load_run(run_dir)
    assert [(at.step, at.samples_seen, at.score) for at in run.evaluations] == [(1, 8, 0.25), (2, 16, 0.375), (3, 24, 0.625)]
    assert notices(run_dir)[1:] == ["The processes' accuracy differ, such as after step 1: that of the first of them is recorded."]


class Bar:
    """As a progress bar that a loop leaves, and that lives on with the batches in it."""

    def __init__(self, batches: Any) -> None:
        self.batches = iter(batches)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self.batches)


@pytest.mark.parametrize("way", ["left early", "beside another", "in the middle"])
@pytest.mark.parametrize("loss", [1.0, None])
def test_what_comes_after_the_last_step_is_no_training(way: str, loss: float | None, tmp_path: Path) -> None:
    bars, evaluation_s, train_s = [], 0.5, 0.02
    with recorder(tmp_path) as recording:
        for _ in range(2):
            batches = recording.training(range(5))
            bars.append(Bar(zip(batches, recording.training(range(5)), strict=True) if way == "beside another" else batches))
            for number, _batch in enumerate(bars[-1]):
                time.sleep(train_s)
                recording.step(loss, 8)
                if number == 3 and way == "left early":
                    break
                if number == 3 and way == "in the middle":
                    time.sleep(evaluation_s)
                    recording.evaluation({"accuracy": 0.5}, evaluation_s)
            if way != "in the middle":
                time.sleep(evaluation_s)
                recording.evaluation({"accuracy": 0.5}, evaluation_s)
    run = largebatch.load_run(recording.run_dir)
    seconds = [at.training_seconds for at in run.evaluations]
    per_loop = 4 * train_s
    assert per_loop <= seconds[0] < evaluation_s
    assert seconds[0] + per_loop <= seconds[1] < evaluation_s
    assert run.summary is not None
    assert seconds[1] <= run.summary.training_seconds < evaluation_s


def test_an_evaluation_inside_of_itself_counts_once() -> None:
    """A person's own evaluation function, called from a loop that already says it evaluates."""
    clock = LoopClock(torch.device("cpu"))
    with clock.evaluating():
        with clock.evaluating():
            time.sleep(0.05)
        assert clock.evaluation_s == 0.0, "it has not ended"
        time.sleep(0.05)
    once = clock.evaluation_s
    assert 0.1 <= once <= clock.wall_s
    with clock.evaluating():
        time.sleep(0.01)
    assert clock.evaluation_s >= once + 0.01


def test_on_a_gpu_that_is_not_waited_for_the_last_step_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    clock = LoopClock(torch.device("cuda"))
    clock.begin_loop()
    num_waits = len(waits)
    clock.pass_step()
    assert len(waits) == num_waits
    assert clock.leave_last_step() is None
    with clock.evaluating(), clock.pausing():
        pass
    assert clock.leave_last_step() is not None
    at_step_s = clock.take_step()
    assert clock.leave_last_step() == at_step_s

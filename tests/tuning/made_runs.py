"""Runs and sweeps that nobody trained: a curve with a planted critical batch; summaries as a run's process would leave them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from made_records import evaluation, start, summary

from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import EndRecord, Outcome
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.whole_files import write_text
from largebatch.tuning.results.analysis.step_time import Profile, ProfilePoint
from largebatch.tuning.results.run_result import Evaluation, RunResult
from largebatch.tuning.sweep.ledger import Ledger, Trial
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.spec import SweepSpec

CRITICAL, MIN_SAMPLES = 500.0, 20_000.0
STEP_S = 0.002
RATE = 40_000.0
TARGET = 0.9


def made_run(batch: int, seed: int = 0, factor: float = 1.0, *, reaches: bool = True, **changed: Any) -> RunResult:
    """A run that reaches the target at the sample that the curve says, times `factor`."""
    samples = round(factor * MIN_SAMPLES * (1 + batch / CRITICAL))
    steps = max(round(samples / batch), 1)
    seconds = steps * (STEP_S + batch / RATE)
    best = TARGET + 0.01 if reaches else TARGET - 0.1
    points = (Evaluation(max(steps // 2, 1), samples // 2, seconds / 2, 0.5), Evaluation(steps, steps * batch, seconds, best))
    found = summary(
        f"b{batch}-s{seed}-{factor:g}", global_batch_size=batch, steps=steps, samples_seen=steps * batch, training_seconds=seconds,
        target=TARGET, time_to_target_seconds=seconds if reaches else None, steps_to_target=steps if reaches else None,
        best_score=best, score=best, train_score=0.99, gradient_noise_scale=400.0,
        outcome=Outcome.REACHED if reaches else Outcome.MISSED,
    )  # fmt: skip
    given = {
        "dataset": "made", "model": "mlp", "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1 * factor, "seed": seed, "device": "cpu (test)",
        "settings": (("batch.global_batch_size", str(batch)), ("learning_rate.base", str(factor)),
                     ("optimizer.momentum", str(changed.get("momentum", 0.9)))),
    }  # fmt: skip
    return RunResult(name="made", summary=found, evaluations=points, **{**given, **changed})


def fine(run: RunResult, num: int = 10) -> RunResult:
    """The run, evaluated so many times on its way, at even distances."""
    last = run.evaluations[-1]
    steps = [Evaluation(max(last.step * n // num, 1), last.samples * n // num, last.training_seconds * n / num, 0.8 * n / num) for n in range(1, num)]
    return replace(run, evaluations=(*steps, last))


def made_folder(folder: Path, batch: int, seed: int = 0) -> Path:
    """The same as a run's folder."""
    result = made_run(batch, seed)
    run_dir = run_folder.create(folder, result.summary.run_id)
    spec = read_spec("digits-small-batch", [f"batch.global_batch_size={min(batch, 1437)}", f"seed={seed}", "optimizer.momentum=0.9"])
    with Journal(run_dir) as journal:
        journal.write(start(at_s=batch + seed / 1000))
        for at in result.evaluations:
            journal.write(evaluation(at.step, at.training_seconds, samples_seen=at.samples, score=at.score))
        journal.write(EndRecord(summary=result.summary))
    write_text(run_dir / run_folder.SPEC, spec.model_dump_json())
    write_text(run_dir / run_folder.ENVIRONMENT, json.dumps({"device": "cpu (test)"}))
    write_text(run_dir / run_folder.PLAN, json.dumps({"global_batch_size": batch, "peak_learning_rate": 0.25}))
    write_text(run_dir / run_folder.SUMMARY, result.summary.model_copy(update={"run_dir": str(run_dir)}).model_dump_json())
    return run_dir


def made_profile() -> Profile:
    """Step times of the same device, exactly as the runs have them."""
    points = [
        ProfilePoint(
            global_batch_size=batch, micro_batch_size=batch, seconds_per_step=STEP_S + batch / RATE, seconds_per_epoch=1.0, samples_per_second=1.0,
            peak_memory_bytes=1, num_steps=5,
        )
        for batch in (1, 16, 256, 4096)
    ]  # fmt: skip
    return Profile(recipe="made", device="cpu (test)", num_train_samples=4096, gradient_bytes=4000, points=points, left_out={}, optimizer="sgd")


BASE = read_spec("digits-small-batch")
RATES = {"learning_rate.base": {"low": 0.01, "high": 1.0}}


def sweep(**fields: Any) -> SweepSpec:
    """Three batch sizes, four random learning rates at each, nothing repeated."""
    return SweepSpec.model_validate(
        {
            "recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 128, 512]},
            "search": {"method": "random", "trials": 4, "space": RATES}, "repeats": 0, **fields,
        }
    )  # fmt: skip


def begin(search: Search) -> Trial:
    """The next run, where there must be one."""
    trial = search.next_trial()
    assert isinstance(trial, Trial)
    return trial


def finish(ledger: Ledger, trial: Trial, **fields: Any) -> None:
    """A run's summary. Learning rate 0.1 is best, and rates above 0.7 diverge."""
    rate = trial.fields.get("learning_rate.base", 0.1)
    steps = int(1000 * (1 + abs(rate - 0.1)))
    result = summary(
        trial.run_id,
        **{
            "global_batch_size": trial.fields["batch.global_batch_size"], "samples_seen": 1000, "best_score": 0.9 - abs(rate - 0.1) / 10,
            "steps_to_target": steps, "time_to_target_seconds": steps / 100,
            "outcome": Outcome.DIVERGED if rate > 0.7 else Outcome.REACHED, **fields,
        },
    )  # fmt: skip
    (ledger.folder / trial.run_id).mkdir(exist_ok=True)
    write_text(ledger.folder / trial.run_id / run_folder.SUMMARY, result.model_dump_json())


def work(folder: Path, sweep: SweepSpec, at_once: int = 2, most_events: int = 10**6) -> Search:
    """Begin runs and end them in the order in which they began; killed after so many events: begun, summary written, end taken in."""
    folder.mkdir(exist_ok=True)
    with Ledger(folder) as ledger:
        search, running, num_events = Search(sweep, BASE, ledger), list[Trial](), 0
        while num_events < most_events:
            trial = search.next_trial() if len(running) < at_once else "wait"
            num_events += 1
            if isinstance(trial, Trial):
                running.append(trial)
                continue
            if not running:
                assert trial == "over", "it waits for nothing"
                break
            ended = running.pop(0)
            finish(ledger, ended)
            num_events += 1
            if num_events <= most_events:
                search.ended(ended)
        return search

"""Sweeps whose runs nobody trains: their summaries are written as a run's process would leave them."""

from pathlib import Path
from typing import Any

from made_records import summary

from largebatch.jobs.run import run_folder
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.read import read_spec
from largebatch.tuning.sweep.ledger import Ledger, Trial
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.spec import SweepSpec

BASE = read_spec("digits-small-batch")
RATES = {"learning_rate.base": {"low": 0.01, "high": 1.0}}


def sweep(**fields: Any) -> SweepSpec:
    """Three batch sizes, four random learning rates at each."""
    return SweepSpec.model_validate(
        {
            "recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 128, 512]},
            "search": {"method": "random", "trials": 4, "space": RATES}, **fields,
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
            "global_batch_size": trial.fields["batch.global_batch_size"], "samples_seen": 1000, "best_test_accuracy": 0.9 - rate / 10,
            "steps_to_accuracy": steps, "time_to_accuracy_seconds": steps / 100,
            "outcome": Outcome.DIVERGED if rate > 0.7 else Outcome.REACHED, **fields,
        },
    )  # fmt: skip
    (ledger.folder / trial.run_id).mkdir(exist_ok=True)
    run_folder.write_text(ledger.folder / trial.run_id / run_folder.SUMMARY, result.model_dump_json())


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

"""A sweep's folder as a sweep leaves it, without any training."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

from made_records import evaluation, start, summary

from largebatch.jobs.run.journal import Journal
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.ledger import Ending, Ledger, Trial


def write_sweep(folder: Path, base: dict[str, Any] | None) -> None:
    """Four runs: three ended, one of them without its target, and one pruned."""
    folder.mkdir(parents=True)
    spec = TrainSpec.model_validate(base)
    with Ledger(folder) as ledger:
        for number in range(4):
            batch = 32 if number < 2 else 64
            fields = {"batch.global_batch_size": batch, "learning_rate.base": 0.1, "seed": number % 2}
            trial = Trial(number=number, group=number // 2, phase="search", fields=fields, run_id=f"run-{number}")
            ledger.add(trial)
            run = folder / trial.run_id
            run.mkdir()
            (run / "spec.json").write_text(trial.spec(spec).model_dump_json())
            (run / "environment.json").write_text(json.dumps({"device": "cpu"}))
            with Journal(run) as journal:
                journal.write(start(at_s=1.0))
                journal.write(evaluation(30, 1.5, samples_seen=30 * batch, score=0.8 if number == 1 else 0.95))
            if number == 3:
                ledger.add(Ending(number=3, how="pruned", score=0.5))
                continue
            met = {"outcome": "missed"} if number == 1 else {"time_to_target_seconds": 2.0 - number / 4, "steps_to_target": 30}
            told = summary(trial.run_id, global_batch_size=batch, steps=40, target_accuracy=0.9, best_score=0.95, score=0.93, **met)
            (run / "summary.json").write_text(told.model_dump_json())


def write_grid(folder: Path, base: dict[str, Any] | None) -> None:
    """Thirty-six runs of three batch sizes, three momenta and four learning rates, all of which ended and most met the target."""
    folder.mkdir(parents=True)
    spec = TrainSpec.model_validate(base)
    grid = itertools.product((16, 64, 256), (0.0, 0.9, 0.97), (0.003, 0.03, 0.3, 1.5))
    with Ledger(folder) as ledger:
        for number, (batch, momentum, rate) in enumerate(grid):
            fields = {"batch.global_batch_size": batch, "optimizer.momentum": momentum, "learning_rate.base": rate}
            trial = Trial(number=number, group=number // 4, phase="search", fields=fields, run_id=f"run-{number}")
            ledger.add(trial)
            run = folder / trial.run_id
            run.mkdir()
            (run / "spec.json").write_text(trial.spec(spec).model_dump_json())
            (run / "environment.json").write_text(json.dumps({"device": "cpu"}))
            steps = round((1 + abs(math.log(rate * (1 + momentum) / 0.3))) * 4000 * (1 + batch / 100) / batch)
            seconds, meets = steps * (0.002 + batch / 40_000), rate < 1
            with Journal(run) as journal:
                journal.write(start(at_s=1.0))
                for part in range(1, 9):
                    at = steps * part // 8
                    journal.write(evaluation(at, seconds * part / 8, samples_seen=at * batch, score=0.9 if meets and part == 8 else 0.1 * part))
            met = {"time_to_target_seconds": seconds, "steps_to_target": steps} if meets else {"outcome": "missed"}
            score = 0.9 if meets else 0.8 - momentum / 4
            told = {"samples_seen": steps * batch, "training_seconds": seconds, "best_score": score, "score": score}
            ended = summary(trial.run_id, global_batch_size=batch, steps=steps, target_accuracy=0.9, **told, **met)
            (run / "summary.json").write_text(ended.model_dump_json())

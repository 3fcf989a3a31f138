"""Records and summaries of runs that nobody trained, and journals as a kill leaves them."""

from pathlib import Path
from typing import Any

from largebatch.jobs.run import run_folder
from largebatch.jobs.run.records import EvalRecord, Outcome, RunSummary, StartRecord, StepRecord


def start(step: int = 0, seconds: float = 0.0, **given: Any) -> StartRecord:
    return StartRecord(**{"at_s": 0.0, "step": step, "training_seconds": seconds, "world_size": 1, "device": "cpu", **given})


def step(number: int, seconds: float = 1.0, batch: int = 1, **given: Any) -> StepRecord:
    usual = {"epoch": 1.0, "samples_seen": batch * number, "loss": 1.0, "learning_rate": 0.1, "gradient_norm": 1.0}
    return StepRecord(**{"step": number, "global_batch_size": batch, "training_seconds": seconds, **usual, **given})


def evaluation(number: int, seconds: float = 1.0, batch: int = 1, **given: Any) -> EvalRecord:
    scores = {"accuracy": given.get("score", 0.5), "loss": 1.0}
    usual = {"epoch": 1.0, "samples_seen": batch * number, "score": 0.5, "scores": scores, "evaluation_seconds": 0.1}
    return EvalRecord(**{"step": number, "training_seconds": seconds, **usual, **given})


def summary(run_id: str = "run", **given: Any) -> RunSummary:
    """Of a run that reached its target; what is not given is 1, or not there where a run may lack it."""
    fields = dict.fromkeys(RunSummary.model_fields.keys() - {"headline", "evaluated_on"})
    numbers = {key: 1 for key in ("micro_batch_size", "gradient_accumulation_steps", "world_size", "steps", "samples_seen", "global_batch_size")}
    times = {key: 1.0 for key in ("epochs", "training_seconds", "evaluation_seconds", "wall_seconds")}
    return RunSummary.model_validate({**fields, **numbers, **times, "run_id": run_id, "outcome": Outcome.REACHED, "run_dir": run_id, **given})


def drop_end(run_dir: Path, torn: str = "") -> None:
    """Of the journal: what a kill had no time to write; `torn` is what it had begun."""
    journal = run_dir / run_folder.JOURNAL
    journal.write_text("".join(line for line in journal.read_text().splitlines(keepends=True) if '"kind":"end"' not in line) + torn)

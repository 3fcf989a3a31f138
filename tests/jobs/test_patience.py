"""A run ends after so many evaluations that were no better, told from the curve that the same run draws without patience."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import notices, prepared, stopping_after, synthetic, trained

from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.run.records import Outcome, RunSummary

NUM_STEPS = 16
UNMET = {"metric": "loss", "value": 0.0}


def run(run_dir: Path, *, resumes: bool = False, stop_after: int | None = None, **stop: Any) -> RunSummary:
    """An evaluation after each step; the rate is so high that the scores go up and down."""
    parts = {"dataset": synthetic(16, 64), "evaluation": {"every_epochs": 1.0}, "checkpoint": {"every_seconds": None}, "learning_rate": {"base": 1.0}}
    return trained(prepared(**parts, stop={"steps": NUM_STEPS, **stop}), run_dir, stopping_after(stop_after), resumes=resumes)


def curve(run_dir: Path, metric: str = "accuracy") -> list[float]:
    return [record.scores[metric] for record in evaluations(read_records(run_dir))]


def end_of(scores: list[float], patience: int) -> int:
    """After how many evaluations patience ends: those since the first of the best so far are as many."""
    for count in range(1, len(scores) + 1):
        if count - 1 - scores.index(max(scores[:count])) >= patience:
            return count
    return len(scores)


@pytest.mark.parametrize("target", [None, UNMET], ids=["no target", "a target in loss"])
def test_it_ends_where_the_curve_says(target: dict[str, Any] | None, tmp_path: Path) -> None:
    """Of a loss lower is better; the outcome says what became of the target, the notice why the run ended."""
    whole = run(tmp_path / "whole", target=target)
    assert whole.steps == NUM_STEPS
    assert notices(tmp_path / "whole") == []
    metric, sign = ("accuracy", 1) if target is None else ("loss", -1)
    scores = curve(tmp_path / "whole", metric)
    ends = {patience: end_of([sign * score for score in scores], patience) for patience in (1, 2, 3)}
    assert ends[1] < ends[3] < NUM_STEPS, "the curve must tell these apart"
    for patience, end in ends.items():
        run_dir = tmp_path / str(patience)
        summary = run(run_dir, patience=patience, target=target)
        assert summary.steps == end
        assert summary.outcome is (Outcome.COMPLETED if target is None else Outcome.MISSED)
        assert curve(run_dir, metric) == scores[:end]
        assert list_checkpoints(run_dir / "checkpoints")[0].step == end
        (words,) = notices(run_dir)
        assert words.endswith(f"stop.patience ends the run after step {end}.")
        assert words.startswith("One evaluation was" if patience == 1 else f"{patience} evaluations in a row were")


def test_a_stop_after_every_step_keeps_the_count(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", patience=3)
    summary = run(tmp_path / "chain", patience=3, stop_after=1)
    while summary.outcome is Outcome.STOPPED:
        summary = run(tmp_path / "chain", patience=3, resumes=True, stop_after=1)
    assert (summary.outcome, summary.steps, summary.parameters_sha256) == (whole.outcome, whole.steps, whole.parameters_sha256)


def test_a_run_that_it_ended_goes_on_with_more_patience_alone(tmp_path: Path) -> None:
    """Also with patience that was not asked for at first: evaluations are counted all the same."""
    whole = run(tmp_path / "whole", patience=3)
    first = run(tmp_path / "run", patience=1)
    again = run(tmp_path / "run", patience=1, resumes=True)
    assert (again.steps, again.parameters_sha256) == (first.steps, first.parameters_sha256)
    more = run(tmp_path / "run", patience=3, resumes=True)
    assert (more.steps, more.parameters_sha256) == (whole.steps, whole.parameters_sha256)
    run(tmp_path / "late", stop_after=whole.steps - 1)
    late = run(tmp_path / "late", patience=3, resumes=True)
    assert late.steps == whole.steps


def test_with_another_target_the_count_is_of_its_metric(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", patience=3, target=UNMET)
    run(tmp_path / "run", stop_after=whole.steps - 1)
    assert run(tmp_path / "run", patience=3, target=UNMET, resumes=True).steps == whole.steps

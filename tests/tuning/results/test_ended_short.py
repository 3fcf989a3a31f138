"""Answers about runs that ended at the target that they were given, asked about a harder one: they did not miss it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import TARGET, made_folder, made_run

from largebatch.jobs.errors import InputError
from largebatch.jobs.run import run_folder
from largebatch.tuning.results.analysis.configurations import common_target
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.run_result import RunResult

HARDER = TARGET + 0.05


def ended(batch: int, seed: int = 0, *, target: float = TARGET, best: float = TARGET + 0.01) -> RunResult:
    """A run that ended at its target, met with this score."""
    run = made_run(batch, seed)
    points = (*run.evaluations[:-1], run.evaluations[-1]._replace(score=best))
    return replace(run, evaluations=points, summary=run.summary.model_copy(update={"target": target, "best_score": best}), ends_at_target=True)


def test_a_harder_target_is_refused() -> None:
    """Not a sure answer of the one batch whose last step happened to pass both."""
    runs = [*(ended(batch, seed) for batch in (32, 64) for seed in (0, 1)), *(ended(128, seed, best=0.97) for seed in (0, 1))]
    with pytest.raises(InputError) as error:
        find(runs, HARDER)
    assert error.value.field == "--target"
    assert error.value.problem.startswith("4 of 6 runs ended at their own target, accuracy 0.9, before they came to 0.95")
    assert "Give 0.9 or an easier one" in (error.value.hint or "")
    assert [choice.global_batch_size for choice in find(runs, TARGET).choices] == [32, 64, 128]
    assert len(find(runs, 0.5).choices) == 3


def test_runs_that_went_on_have_missed_it() -> None:
    runs = [replace(ended(batch), ends_at_target=False) for batch in (32, 64)]
    assert [best.global_batch_size for best in find(runs, HARDER).missed] == [32, 64]


def test_a_run_that_ended_without_its_target_has_missed_the_harder_one_too() -> None:
    assert len(find([replace(made_run(32, reaches=False), ends_at_target=True)], HARDER).missed) == 1


def test_the_target_that_most_were_given_is_taken_only_where_none_ended_short_of_it() -> None:
    runs = [ended(32), *(ended(64, seed, target=HARDER, best=0.97) for seed in (0, 1, 2))]
    assert common_target(runs) == TARGET
    assert not find(runs).missed
    assert common_target([replace(run, ends_at_target=False) for run in runs]) == HARDER


@pytest.mark.parametrize(
    ("stop", "num_epochs", "expected"),
    [
        ({"at_target": True}, 3.0, True),
        ({"at_target": True}, 40.0, False),  # its budget was spent as well: it would not have gone on
        ({"at_target": True, "steps": 800}, 3.0, False),
        ({"at_target": False}, 3.0, False),
    ],
)
def test_a_folder_says_whether_its_run_was_to_end_there(tmp_path: Path, stop: dict[str, object], num_epochs: float, expected: bool) -> None:
    folder = made_folder(tmp_path, 32)
    spec, summary = (json.loads((folder / name).read_text()) for name in (run_folder.SPEC, run_folder.SUMMARY))
    (folder / run_folder.SPEC).write_text(json.dumps({**spec, "stop": {**spec["stop"], **stop}}))
    (folder / run_folder.SUMMARY).write_text(json.dumps({**summary, "epochs": num_epochs, "steps": 800}))
    (run,) = collect([folder])
    assert run.ends_at_target is expected
    assert run.ended_short_of(HARDER) is expected
    assert not run.ended_short_of(TARGET)

"""From run folders to results."""

from pathlib import Path

import pytest
from made_records import evaluation, start, summary

from largebatch.jobs.errors import InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.read import read_spec
from largebatch.tuning.results.analysis.settings import settings_of
from largebatch.tuning.results.collect import collect

CURVE = ((1.5, 0.4), (3.0, 0.8), (4.5, 0.9))


def write_run(folder: Path, name: str, *overrides: str) -> Path:
    """A run's folder as a job leaves it, with a resume that supersedes one evaluation."""
    run_dir = run_folder.create(folder, name)
    with Journal(run_dir) as journal:
        journal.write(start())
        for step, (seconds, accuracy) in enumerate([*CURVE[:2], (4.0, 0.1)], start=1):
            journal.write(evaluation(step, seconds, test_accuracy=accuracy))
        journal.write(start(2))
        journal.write(evaluation(3, CURVE[2][0], test_accuracy=CURVE[2][1]))
    run_folder.write_text(run_dir / run_folder.SUMMARY, summary(name, outcome=Outcome.MISSED, world_size=3).model_dump_json())
    run_folder.write_text(run_dir / run_folder.SPEC, read_spec("digits-lamb", [f"name={name}", "seed=7", *overrides]).model_dump_json())
    run_folder.write_text(run_dir / run_folder.ENVIRONMENT, '{"device": "cpu (test)"}')
    return run_dir


def test_in_the_order_given(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, name) for name in ("b", "a")]
    assert [result.name for result in collect(runs)] == ["b", "a"]
    assert collect([]) == []


def test_what_is_read(tmp_path: Path) -> None:
    (result,) = collect([write_run(tmp_path, "one")])
    assert result.curve == CURVE
    assert (result.optimizer, result.seed, result.device) == ("lamb", 7, "cpu (test)")
    assert (result.summary.outcome, result.summary.time_to_accuracy_seconds) == (Outcome.MISSED, None)


def test_no_run_or_one_that_has_not_ended(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, "one")
    (run_dir / run_folder.SUMMARY).unlink()
    for folder in (run_dir, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="has not ended") as refused:
            collect([folder])
        assert refused.value.field == str(folder)


def test_data_and_model_are_known_with_their_arguments(tmp_path: Path) -> None:
    own = ["dataset.name=null", "dataset.entry_point=my_code:load"]
    runs = [
        write_run(tmp_path, "a", *own, "dataset.arguments.num_train=2000", "model.arguments.width=512"),
        write_run(tmp_path, "b", *own, "dataset.arguments.num_train=20000", "model.arguments.width=512"),
        write_run(tmp_path, "c", *own, "dataset.arguments.num_train=20000", "model.arguments.width=64"),
    ]
    settings = {str(setting): [run.name for run in members] for setting, members in settings_of(collect(runs)).items()}
    assert settings == {
        "mlp (batch_norm True, depth 2) on my_code:load (num_train 20000), cpu (test), 3 workers": ["b", "c"],
        "mlp (batch_norm True, depth 2, width 512) on my_code:load (num_train 2000), cpu (test), 3 workers": ["a"],
    }


def test_the_decays_horizon_tells_configurations_apart_and_the_target_does_not(tmp_path: Path) -> None:
    one, other, longer = (
        dict(collect([write_run(tmp_path, name, *overrides)])[0].settings)
        for name, overrides in (
            ("a", ()),
            ("b", ("stop.target_accuracy=0.5", "stop.max_seconds=9", "stop.at_target=false")),
            ("c", ("stop.epochs=77",)),
        )
    )
    assert one == other
    assert longer["stop.epochs"] == "77.0"
    assert one["stop.epochs"] != "77.0"

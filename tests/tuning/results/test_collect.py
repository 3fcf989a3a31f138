"""From run folders to results; runs of other data under one name are told apart, and refused within a sweep."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_records import evaluation, start, summary
from made_runs import made_folder
from small_runs import Samples

from largebatch.jobs.data.fingerprint import DATA, DatasetFingerprint, fingerprint
from largebatch.jobs.errors import DataError, InputError
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import Journal
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.samples.dataset import Dataset, Images
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.whole_files import write_text
from largebatch.tuning.report.run_figures import on_unlike_footing
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.findings import find_in
from largebatch.tuning.results.run_result import settings_of
from largebatch.tuning.results.wording import answer_of
from largebatch.tuning.sweep.trials.same_data import refuse_unlike_others

CURVE = ((1.5, 0.4), (3.0, 0.8), (4.5, 0.9))


def write_run(folder: Path, name: str, *overrides: str) -> Path:
    """A run's folder as a job leaves it, with a resume that supersedes one evaluation."""
    run_dir = run_folder.create(folder, name)
    with Journal(run_dir) as journal:
        journal.write(start())
        for step, (seconds, accuracy) in enumerate([*CURVE[:2], (4.0, 0.1)], start=1):
            journal.write(evaluation(step, seconds, score=accuracy))
        journal.write(start(2))
        journal.write(evaluation(3, CURVE[2][0], score=CURVE[2][1]))
    write_text(run_dir / run_folder.SUMMARY, summary(name, outcome=Outcome.MISSED, world_size=3).model_dump_json())
    write_text(run_dir / run_folder.SPEC, read_spec("digits-lamb", [f"name={name}", "seed=7", *overrides]).model_dump_json())
    write_text(run_dir / run_folder.ENVIRONMENT, '{"device": "cpu (test)"}')
    return run_dir


def test_in_the_order_given(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, name) for name in ("b", "a")]
    assert [result.name for result in collect(runs)] == ["b", "a"]
    assert collect([]) == []


def test_what_is_read(tmp_path: Path) -> None:
    (result,) = collect([write_run(tmp_path, "one")])
    assert result.curve == CURVE
    assert (result.optimizer, result.seed, result.device) == ("lamb", 7, "cpu (test)")
    assert (result.summary.outcome, result.summary.time_to_target_seconds) == (Outcome.MISSED, None)


def test_momentum_by_its_half_life_is_what_it_comes_to_at_the_runs_batch(tmp_path: Path) -> None:
    """Beside the half-life, by which runs are told apart whose batches differ."""
    half_life = ("optimizer.beta1_half_life_samples=512.0",)
    one, other, number = collect([write_run(tmp_path, name, *said) for name, said in (("a", half_life), ("b", half_life), ("c", ()))])
    assert one.momentum == pytest.approx(0.5 ** (one.summary.global_batch_size / 512))
    assert (one.momentum_half_life_samples, number.momentum_half_life_samples) == (512.0, None)
    assert one.momentum_at(1024) == pytest.approx(0.25)
    assert number.momentum_at(1024) == number.momentum == 0.9
    assert one.settings == other.settings != number.settings
    assert dict(one.settings).keys() & {"optimizer.beta1", "optimizer.beta1_half_life_samples"} == {"optimizer.beta1_half_life_samples"}


def test_a_half_life_in_tokens_is_told_in_samples(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, "one", "optimizer.beta1_half_life_tokens=65536.0")
    ended = summary("one", outcome=Outcome.MISSED, tokens_per_sample=128)
    write_text(run_dir / run_folder.SUMMARY, ended.model_dump_json())
    (result,) = collect([run_dir])
    assert result.momentum_half_life_samples == 512.0
    assert result.momentum == pytest.approx(0.5 ** (ended.global_batch_size / 512))


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


def one_by_one(part: Images, factor: float) -> Samples:
    """Read sample by sample, its inputs times a factor."""
    return Samples(len(part), lambda index: (part.inputs[index] * factor, int(part.labels[index])))


def taken(split: int, augmented: float | None = None) -> DatasetFingerprint:
    """Of one set of samples, cut into training and test set by a seed."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(200, 5, generator=generator), torch.randint(0, 3, (200,), generator=generator)
    order = torch.randperm(200, generator=generator.manual_seed(split))
    train, test = (Images(inputs[places], labels[places]) for places in (order[:150], order[150:]))
    parts: list[Any] = [train, test] if augmented is None else [one_by_one(train, augmented), one_by_one(test, 1.0)]
    return fingerprint(Dataset("made", *parts, 3, (5,)))


def sweep_of(folder: Path, *fingerprints: DatasetFingerprint | None) -> list[Path]:
    run_dirs = [made_folder(folder, 100 * (number + 1)) for number in range(len(fingerprints))]
    for run_dir, one in zip(run_dirs, fingerprints, strict=True):
        if one is not None:
            (run_dir / DATA).write_text(one.model_dump_json())
    return run_dirs


def test_runs_of_other_data_are_no_runs_of_one_setting(tmp_path: Path) -> None:
    run_dirs = sweep_of(tmp_path, taken(1), taken(2), taken(1), None, taken(2))
    results = collect(run_dirs)
    assert [result.dataset == results[0].dataset for result in results] == [True, False, True, True, False]
    assert results[1].dataset == results[4].dataset
    assert f"in {run_dirs[1].name}" in results[1].dataset
    assert f"in {run_dirs[0].name}" in results[1].dataset
    assert sorted(map(len, settings_of(results).values())) == [2, 3]
    assert "not on one footing" in on_unlike_footing(results)
    assert any(line.startswith("Left out: 2 runs of mlp (depth 2, width 128) on digits (other data: ") for line in answer_of(find_in(tmp_path)).words)


def test_the_same_data_and_another_augmentation_are_one_setting(tmp_path: Path) -> None:
    for number, prints in enumerate([(taken(1), taken(1)), (taken(1, 1.0), taken(1, 2.0)), (None, taken(1))]):
        assert len(settings_of(collect(sweep_of(tmp_path / str(number), *prints)))) == 1


def test_a_run_of_a_sweep_is_refused_by_the_data_of_another(tmp_path: Path) -> None:
    run_dirs = sweep_of(tmp_path, taken(1))
    spec = read_spec("digits-small-batch", [])
    refuse_unlike_others(taken(1), spec, tmp_path, "new")
    with pytest.raises(DataError, match=f"differs between the sweep's runs: the label of .* in new, .* in {run_dirs[0].name}.*Seed the split"):
        refuse_unlike_others(taken(2), spec, tmp_path, "new")
    refuse_unlike_others(taken(2), spec, tmp_path, run_dirs[0].name)  # itself, begun anew


def test_runs_of_another_data_set_say_nothing(tmp_path: Path) -> None:
    (run_dir,) = sweep_of(tmp_path, taken(1))
    other = json.loads((run_dir / run_folder.SPEC).read_text())
    other["dataset"]["arguments"] = {"fold": 1}
    (run_dir / run_folder.SPEC).write_text(json.dumps(other))
    refuse_unlike_others(taken(2), read_spec("digits-small-batch", []), tmp_path, "new")

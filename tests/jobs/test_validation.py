"""A validation part: held out the same for every run, not trained on, what decides while training; the test set is scored once, at the end."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import CPU, Samples, document, notices, prepared, stopping_after, synthetic, trained
from torch.utils.data import TensorDataset

from largebatch.jobs.data.make_tokens import byte_tokenizer, make_tokens
from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.data.sources.tokens import TokenSequences
from largebatch.jobs.errors import CheckpointError, DataError, InputError, PlanError, SpecError
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.samples.dataset import Dataset, Images, Tensors
from largebatch.jobs.spec.model_and_data import DatasetSpec
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.tracking.metrics import end_points, points_of
from largebatch.jobs.tracking.mirror_state import MirrorState
from largebatch.tuning.measure.lines import line, line_chart, line_conditions
from largebatch.tuning.measure.solution import load_solution
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.wording import answer_of
from largebatch.tuning.sweep.sweep import recipes_training_set

OFTEN: dict[str, Any] = {"evaluation": {"every_epochs": 0.5}, "checkpoint": {"every_seconds": None}}


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_code", sys.modules[__name__])


def numbered(size: int, first: int = 0) -> Samples:
    """Samples that tell which they are."""
    return Samples(size, lambda index: (torch.full((1, 2, 2), float(first + index)), index % 3))


def two_parts(size: int = 20) -> list[Samples]:
    return [numbered(size), numbered(6, first=1000)]


def three_parts(held_out: int = 5) -> tuple[Samples, ...]:
    return numbered(20), numbered(held_out, first=500), numbered(6, first=1000)


def three_tensor_parts() -> tuple[TensorDataset, ...]:
    images = torch.arange(32 * 4, dtype=torch.uint8).reshape(32, 1, 2, 2)
    return tuple(TensorDataset(images[: 4 * count], torch.arange(4 * count) % 3) for count in (8, 2, 1))


def three_without_classes(width: int = 3) -> tuple[Samples, ...]:
    return tuple(Samples(size, lambda index, n=n: (torch.randn(n), torch.randn(1))) for size, n in ((20, 3), (5, width), (6, 3)))


def load(**dataset: Any) -> Dataset:
    return load_dataset(DatasetSpec.model_validate(dataset), Path("nowhere"))


def numbers(part: Any) -> list[int]:
    return [int(part[index][0][0, 0, 0]) for index in range(len(part))]


def rows_of(part: Images) -> list[bytes]:
    return [row.numpy().tobytes() for row in part.inputs]


@pytest.mark.parametrize(("amount", "size"), [(16, 16), (0.25, 16), (1, 1), (0.26, 17)])
def test_a_held_set_falls_into_two_parts(amount: float, size: int) -> None:
    whole, split = load(**synthetic()), load(**synthetic(), validation=amount)
    assert isinstance(split.train, Images)
    assert isinstance(split.validation, Images)
    assert (len(split.train), len(split.validation), split.evaluated_on) == (64 - size, size, "validation")
    both = rows_of(split.train) + rows_of(split.validation)
    assert sorted(both) == sorted(rows_of(whole.train))
    place = {row: index for index, row in enumerate(rows_of(whole.train))}
    for part in (split.train, split.validation):
        places = [place[row] for row in rows_of(part)]
        assert places == sorted(places), "the file's order"
        assert [int(whole.train.labels[at]) for at in places] == part.labels.tolist()
    assert torch.equal(split.test.inputs, whole.test.inputs)
    assert split.normalises


def test_without_one_nothing_is_touched() -> None:
    whole = load(**synthetic())
    assert (whole.validation, whole.evaluated_on) == (None, "test")
    assert whole.evaluated is whole.test
    assert list(whole.parts) == ["training", "test"]


def test_which_samples_follows_from_their_number_alone() -> None:
    """Not from the run's seed, which the loader is not even told: that it is spread over the file is all that is random."""
    one, other = (load(entry_point="own_code:two_parts", validation=8) for _ in range(2))
    assert numbers(one.validation) == numbers(other.validation) != list(range(12, 20))
    assert sorted(numbers(one.train) + numbers(one.validation)) == list(range(20))
    assert numbers(one.test) == list(range(1000, 1006))


def test_sets_without_classes_are_split_too() -> None:
    spec = build_spec(document(dataset={"name": "diabetes", "validation": 0.1}, task={"name": "regression"}))
    split = load_dataset(spec.dataset, Path("nowhere"), spec.task)
    assert isinstance(split.train, Tensors)
    assert isinstance(split.validation, Tensors)
    assert (len(split.train), len(split.validation), len(split.test)) == (319, 35, 88)


def test_a_sweep_counts_what_is_trained_on() -> None:
    spec = build_spec(document(dataset={"name": "diabetes", "validation": 0.1}, task={"name": "regression"}))
    assert recipes_training_set(spec, Path("nowhere")).num_samples == 319


@pytest.mark.parametrize("documents", ["packed", "padded"])
def test_of_text_it_is_the_end(documents: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefghij" * 40)
    make_tokens([tmp_path / "a.txt"], tmp_path / "tokens", byte_tokenizer(), test_fraction=0.25)
    arguments = {"path": "tokens", "sequence_length": 8, "documents": documents}
    spec = build_spec(document(dataset={"name": "tokens", "arguments": arguments}, task={"name": "language-modelling"}))
    whole = load_dataset(spec.dataset, tmp_path, spec.task)
    split = load_dataset(spec.dataset.model_copy(update={"validation": 5}), tmp_path, spec.task)
    assert isinstance(split.train, TokenSequences)
    assert isinstance(split.validation, TokenSequences)
    total = len(whole.train)
    for part, places in ((split.train, range(total - 5)), (split.validation, range(total - 5, total))):
        assert len(part) == len(places)
        for index, place in enumerate(places):
            assert all(torch.equal(*pair) for pair in zip(part[index], whole.train[place], strict=True))


def test_of_an_image_folder_it_has_no_random_changes(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 1)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    folder = {"name": "image-folder", "arguments": {"image_size": 16}}
    augment = {"resized_crop": True, "horizontal_flip": "random"}
    plain, augmented = (
        load_dataset(DatasetSpec.model_validate({**folder, "validation": 3, "augment": changes}), tmp_path) for changes in ({}, augment)
    )
    assert (len(augmented.train), len(augmented.validation)) == (5, 3)
    for index in range(3):
        assert torch.equal(augmented.validation[index][0], plain.validation[index][0])
        assert augmented.validation[index][1] == plain.validation[index][1]
    assert not torch.equal(augmented.train[0][0], plain.train[0][0])


def test_three_sets_are_training_validation_test() -> None:
    own = load(entry_point="own_code:three_parts")
    assert [numbers(part)[0] for part in own.parts.values()] == [0, 500, 1000]
    held = load(entry_point="own_code:three_tensor_parts")
    assert {kind: len(part) for kind, part in held.parts.items()} == {"training": 32, "validation": 8, "test": 4}
    assert held.is_in_memory
    assert held.normalises
    spec = build_spec(document(dataset={"entry_point": "own_code:three_without_classes"}, task={"name": "regression"}))
    assert len(load_dataset(spec.dataset, Path("nowhere"), spec.task).validation) == 5


def test_what_cannot_be_is_refused_by_name() -> None:
    for amount, words in ((0.001, "0.001 of 64 training samples is none"), (64, "64 of 64 training samples leaves none"), (0.999, "leaves none")):
        with pytest.raises(DataError, match=words) as refused:
            load(**synthetic(), validation=amount)
        assert refused.value.field == "dataset.validation"
    with pytest.raises(SpecError, match="a validation set of its own"):
        load(entry_point="own_code:three_parts", validation=3)
    with pytest.raises(DataError, match="20 training, 0 validation and 6 test samples; all must have some"):
        load(entry_point="own_code:three_parts", arguments={"held_out": 0})
    spec = build_spec(document(dataset={"entry_point": "own_code:three_without_classes", "arguments": {"width": 4}}, task={"name": "regression"}))
    with pytest.raises(DataError, match="training and validation samples differ"):
        load_dataset(spec.dataset, Path("nowhere"), spec.task)
    with pytest.raises(DataError, match=r"leaves 12 to train on, fewer than batch\.global_batch_size 16") as refused:
        prepared(dataset={**synthetic(), "validation": 52})
    assert refused.value.field == "dataset.validation"
    with pytest.raises(PlanError, match="100 is more than the 32 samples"):  # it would be too many without one, too
        prepared(dataset={**synthetic(), "validation": 0.5}, batch={"global_batch_size": 100})


@pytest.mark.parametrize("amount", [0, -1, 1.0, 1.5, True, "some"])
def test_other_amounts_are_no_spec(amount: Any) -> None:
    with pytest.raises(SpecError, match=r"dataset\.validation"):
        build_spec(document(dataset={**synthetic(), "validation": amount}))


def run(run_dir: Path, *, resumes: bool = False, stop_after: int | None = None, **parts: Any) -> RunSummary:
    job = prepared(**{**OFTEN, "dataset": {**synthetic(), "validation": 0.25}, **parts})
    return trained(job, run_dir, stopping_after(stop_after), resumes=resumes)


def as_two_sets(test: str) -> list[TensorDataset]:
    """What is trained on, and the validation part or the test set in the test set's place: as a run of an earlier version was given them."""
    split = load(**synthetic(), validation=0.25)
    return [TensorDataset(part.inputs, part.labels) for part in (split.train, split.parts[test])]


def test_a_run_is_the_one_that_is_given_the_validation_part_as_its_test_set(tmp_path: Path) -> None:
    """The same order, steps, weights and scores; and its test score is that of the run which is given the test set."""
    own = run(tmp_path / "own")
    given = {
        kind: run(tmp_path / kind, dataset={"entry_point": "own_code:as_two_sets", "arguments": {"test": kind}}) for kind in ("validation", "test")
    }
    same = {"steps", "epochs", "samples_seen", "parameters_sha256", "train_score", "gradient_noise_scale"}
    assert own.model_dump(include=same) == given["validation"].model_dump(include=same) == given["test"].model_dump(include=same)
    assert (own.score, own.best_score) == (given["validation"].score, given["validation"].best_score)
    curves = [[record.scores for record in evaluations(read_records(tmp_path / name))] for name in ("own", "validation", "test")]
    assert curves[0] == curves[1] != curves[2]
    assert own.test_score == given["test"].score
    assert own.test_scores == curves[2][-1]
    assert (given["test"].test_score, given["test"].test_scores) == (None, None)


def test_the_records_say_what_a_score_is_of(tmp_path: Path) -> None:
    summary = run(tmp_path / "run")
    (start,) = [record for record in read_records(tmp_path / "run") if record.kind == "start"]
    assert (start.evaluated_on, start.num_train_samples, start.num_validation_samples, start.num_test_samples) == ("validation", 48, 16, 16)
    assert summary.evaluated_on == "validation"
    plain = run(tmp_path / "plain", dataset=synthetic())
    (start,) = [record for record in read_records(tmp_path / "plain") if record.kind == "start"]
    assert (start.evaluated_on, start.num_validation_samples, plain.evaluated_on) == ("test", None, "test")


CHOSEN = "chosen on the test set, whose scores are therefore better than those of new data"


def test_the_test_set_may_decide_beside_a_validation_part(tmp_path: Path) -> None:
    """The run that trains on the same samples and has the test set alone; and it says what it was chosen by."""
    parts = {"dataset": {**synthetic(), "validation": 0.25}, "evaluation": {"every_epochs": 0.5, "part": "test"}}
    summary = run(tmp_path / "run", **parts)
    alone = run(tmp_path / "alone", dataset={"entry_point": "own_code:as_two_sets", "arguments": {"test": "test"}})
    same = {"parameters_sha256", "score", "best_score", "train_score", "evaluated_on", "test_score", "test_scores"}
    assert summary.model_dump(include=same) == alone.model_dump(include=same)
    assert (summary.evaluated_on, summary.test_score) == ("test", None)
    said = f"{CHOSEN}; 16 validation samples are held out and not looked at"
    assert f"Evaluation: target and best are {said}." in notices(tmp_path / "run")
    job = prepared(**parts)
    assert dict(job.plan_in_words())["evaluation"] == f"every 0.5 epochs; target and best are {said}"
    assert job.plan_in_numbers()["evaluated_on"] == "test"
    assert not [text for text in notices(tmp_path / "alone") if "Evaluation" in text]
    assert dict(prepared().plan_in_words())["evaluation"] == f"every 1 epochs; target and best are {CHOSEN}"
    results = collect([tmp_path / "run", tmp_path / "alone"])
    assert f"Target, best rates and batch sizes are {CHOSEN}." in answer_of(find(results[:1])).words


def test_a_part_that_is_not_there_and_another_one_midway_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no validation part") as refused:
        prepared(evaluation={"part": "validation"})
    assert refused.value.field == "evaluation.part"
    assert prepared(dataset={**synthetic(), "validation": 3}, evaluation={"part": "validation"}).dataset.evaluated_on == "validation"
    run(tmp_path / "run", stop_after=2)
    with pytest.raises(CheckpointError, match=r"evaluation\.part"):
        run(tmp_path / "run", resumes=True, evaluation={"part": "test", "every_epochs": 0.5})


def test_runs_that_were_chosen_by_another_part_never_share_an_axis(tmp_path: Path) -> None:
    for name, evaluation in (("one", {}), ("other", {"part": "test"})):
        run(tmp_path / name, dataset={"entry_point": "own_code:three_parts"}, batch={"global_batch_size": 8}, evaluation=evaluation)
    found = find(collect([tmp_path / "one", tmp_path / "other"]))
    (words,) = [text for text in answer_of(found).words if "est rates and batch sizes are" in text]
    assert words.endswith("chosen on the validation part; the test set is scored once, at the end of each run.")
    assert found.setting.evaluated_on == "validation"
    assert [other.evaluated_on for other in found.other_settings] == ["test"]
    assert answer_of(found).words[0].startswith("mlp (width 4) on own_code:three_parts, ")
    assert ", by validation accuracy: 1 run of 1 batch size, to validation accuracy" in answer_of(found).words[0]


def test_lines_between_solutions_leave_the_test_set_alone(tmp_path: Path) -> None:
    """Against the scores that the run itself had, on its validation part, at its last weights."""
    runs = [run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    one, two = (load_solution(tmp_path / name, CPU, Path("nowhere")) for name in ("0", "1"))
    points = line(one, two, points=4)
    assert [(point.at, point.score) for point in points[1:3]] == [(0.0, runs[0].score), (1.0, runs[1].score)]
    last = list(evaluations(read_records(tmp_path / "0")))[-1]
    assert points[1].loss == pytest.approx(last.loss, rel=1e-5)
    chart = line_chart("straight", points, "0", "1", "caption", evaluated_on="validation")
    assert [series.name for series in chart.series] == ["train loss", "validation loss", "train error", "validation error"]
    assert "the whole validation part" in line_conditions("here", [0], 64, "validation")
    run(tmp_path / "tested", evaluation={"part": "test"})
    with pytest.raises(InputError, match="was evaluated on its test samples, 0 on its validation samples"):
        line(one, load_solution(tmp_path / "tested", CPU, Path("nowhere")))


def test_epochs_and_plan_count_what_is_trained_on() -> None:
    job = prepared(dataset={**synthetic(), "validation": 0.25}, stop={"epochs": 2.0})
    assert (job.plan.num_train_samples, job.plan.total_steps) == (48, 6)
    assert dict(job.plan_in_words())["data"].startswith("48 training samples, 16 validation samples, 16 test samples")
    assert job.plan_in_numbers()["num_validation_samples"] == 16
    full = prepared(dataset={**synthetic(), "validation": 0.25}, batch={"global_batch_size": "full"})
    assert full.plan.global_batch_size == 48


def test_mlflow_names_the_part(tmp_path: Path) -> None:
    summary, state, records = run(tmp_path / "run"), MirrorState(), read_records(tmp_path / "run")
    names = {point.name for record in records if record.kind in {"start", "evaluation"} for point in points_of(record, state, 0.0)}
    assert names == {"validation_samples_seen", "validation_accuracy", "validation_loss", "evaluation_seconds"}
    ends = {point.name: point.value for point in end_points(summary)}
    assert ends["final_validation_accuracy"] == summary.score
    assert ends["final_best_validation_accuracy"] == summary.best_score
    assert ends["final_test_accuracy"] == summary.test_score
    plain = {point.name for point in end_points(run(tmp_path / "plain", dataset=synthetic()))}
    assert {"final_test_accuracy", "final_best_test_accuracy", "final_train_accuracy"} <= plain
    assert not any("validation" in name for name in plain)


def test_runs_with_and_without_one_are_of_two_settings(tmp_path: Path) -> None:
    """Their scores are of other samples: no answer puts them on one axis."""
    run(tmp_path / "own")
    run(tmp_path / "plain", dataset=synthetic())
    own, plain = (collect([tmp_path / name])[0] for name in ("own", "plain"))
    assert "validation 0.25" in own.dataset
    assert "validation" not in plain.dataset
    assert own.setting != plain.setting


@pytest.mark.parametrize("entry_point", [None, "own_code:three_parts"])
def test_stopping_after_any_step_changes_no_bit(entry_point: str | None, tmp_path: Path) -> None:
    parts = {"stop": {"steps": 5}} | ({"dataset": {"entry_point": entry_point}, "batch": {"global_batch_size": 8}} if entry_point else {})
    whole = run(tmp_path / "whole", **parts)
    for stop_after in range(1, 5):
        stopped = run(tmp_path / str(stop_after), **parts, stop_after=stop_after)
        assert stopped.test_score is None, "the test set is scored at the end alone"
        resumed = run(tmp_path / str(stop_after), **parts, resumes=True)
        same = {"outcome", "parameters_sha256", "score", "best_score", "test_score", "test_scores", "train_score"}
        assert resumed.model_dump(include=same) == whole.model_dump(include=same)


def test_a_resumed_run_keeps_its_validation_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "run", stop_after=2)
    with pytest.raises(CheckpointError, match=r"dataset\.validation"):
        run(tmp_path / "run", resumes=True, dataset={**synthetic(), "validation": 16})
    run(tmp_path / "own", stop_after=2, dataset={"entry_point": "own_code:three_parts"})
    monkeypatch.setattr(sys.modules[__name__], "three_parts", two_parts)
    with pytest.raises(DataError, match="no validation part now, a validation part when"):
        run(tmp_path / "own", resumes=True, dataset={"entry_point": "own_code:three_parts"})


def test_a_target_is_met_on_the_validation_part(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", stop={"steps": 8})
    curve = list(evaluations(read_records(tmp_path / "whole")))
    first = next(record for record in curve if record.score == whole.best_score)
    summary = run(tmp_path / "run", stop={"steps": 8, "target_accuracy": first.score})
    assert (summary.outcome, summary.steps_to_target) == ("reached", first.step)

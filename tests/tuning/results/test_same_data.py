"""Runs of other data under one name are told apart, and refused within a sweep."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import made_folder
from torch import Tensor

from largebatch.jobs.data.dataset import Dataset, Images
from largebatch.jobs.data.fingerprint import DatasetFingerprint, fingerprint
from largebatch.jobs.errors import DataError
from largebatch.jobs.run import run_folder
from largebatch.jobs.spec.read import read_spec
from largebatch.tuning.report.run_figures import on_unlike_footing
from largebatch.tuning.results.collect import collect
from largebatch.tuning.results.findings import find_in
from largebatch.tuning.results.run_result import settings_of
from largebatch.tuning.results.wording import answer_of
from largebatch.tuning.sweep.trials.train import refuse_unlike_others


class Single:
    """Read sample by sample, its inputs times a factor."""

    num_classes = 3

    def __init__(self, part: Images, factor: float) -> None:
        self.part, self.factor = part, factor

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.part.inputs[index] * self.factor, int(self.part.labels[index])


def taken(split: int, augmented: float | None = None) -> DatasetFingerprint:
    """Of one set of samples, cut into training and test set by a seed."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(200, 5, generator=generator), torch.randint(0, 3, (200,), generator=generator)
    order = torch.randperm(200, generator=generator.manual_seed(split))
    train, test = (Images(inputs[places], labels[places]) for places in (order[:150], order[150:]))
    parts: list[Any] = [train, test] if augmented is None else [Single(train, augmented), Single(test, 1.0)]
    return fingerprint(Dataset("made", *parts, 3, (5,)))


def sweep_of(folder: Path, *fingerprints: DatasetFingerprint | None) -> list[Path]:
    run_dirs = [made_folder(folder, 100 * (number + 1)) for number in range(len(fingerprints))]
    for run_dir, one in zip(run_dirs, fingerprints, strict=True):
        if one is not None:
            (run_dir / run_folder.DATA).write_text(one.model_dump_json())
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

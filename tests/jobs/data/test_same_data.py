"""A run goes on with the data that it began with, or says that it does not."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Samples, notices, prepared, trained
from torch import Tensor
from torch.utils.data import TensorDataset

from largebatch.jobs.data.fingerprint import DATA, read_fingerprint
from largebatch.jobs.errors import DataError, LargebatchError
from largebatch.jobs.run.records import Outcome, RunSummary

NUM_TRAIN, NUM_TEST = 300, 90


def noise(num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, 8, generator=generator), torch.randint(0, 3, (num_samples,), generator=generator)


def unseeded_split(**_: Any) -> tuple[TensorDataset, TensorDataset]:
    inputs, labels = noise(NUM_TRAIN + NUM_TEST, 1)
    order = list(range(NUM_TRAIN + NUM_TEST))
    random.SystemRandom().shuffle(order)
    return tuple(TensorDataset(inputs[places], labels[places]) for places in (order[:NUM_TRAIN], order[NUM_TRAIN:]))  # type: ignore[return-value]


def growing(folder: str) -> tuple[TensorDataset, TensorDataset]:
    """As many samples as the files say."""
    sizes = [int((Path(folder) / name).read_text()) for name in ("train", "test")]
    return TensorDataset(*noise(sizes[0], 1)), TensorDataset(*noise(sizes[1], 2))


def numbered(folder: str) -> tuple[TensorDataset, TensorDataset]:
    """Classes numbered in the order in which the folder is listed."""
    numbers = torch.tensor([int(name) for name in (Path(folder) / "classes").read_text().split()])
    return tuple(TensorDataset(inputs, numbers[labels]) for inputs, labels in (noise(NUM_TRAIN, 1), noise(NUM_TEST, 2)))  # type: ignore[return-value]


def listed(shuffles: bool = True, augments: bool = False) -> list[Samples]:
    """One sample a file, in the order of a list; `augments` by draws out of any seed's reach."""
    inputs, labels = noise(NUM_TRAIN, 1)

    def in_order(size: int) -> Samples:
        order = list(range(size))
        if shuffles:
            random.SystemRandom().shuffle(order)
        scale = random.SystemRandom().random if augments else lambda: 1.0
        return Samples(size, lambda index: (inputs[order[index]] * scale(), int(labels[order[index]])))

    return [in_order(NUM_TRAIN), in_order(NUM_TEST)]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def train(run_dir: Path, entry_point: str, *, epochs: float, resumes: bool = False, may_change: bool = False, **arguments: Any) -> RunSummary:
    dataset = {"entry_point": f"{__name__}:{entry_point}", "arguments": arguments, "may_change": may_change}
    return trained(prepared(dataset=dataset, batch={"global_batch_size": 50}, stop={"epochs": epochs}), run_dir, resumes=resumes)


CHANGES: dict[str, tuple[str, dict[str, str], dict[str, str], str]] = {
    "split": ("unseeded_split", {}, {}, r"the label of training sample \d+ is \d now, \d when run run began"),
    "listing": ("listed", {}, {}, r"(the label of )?training sample \d+ is"),
    "classes": ("numbered", {"classes": "0 1 2"}, {"classes": "1 0 2"}, r"the label of training sample \d+ is"),
    "test set grew": ("growing", {"train": "300", "test": "90"}, {"train": "300", "test": "120"}, "120 test samples now, 90 when"),
}


@pytest.mark.parametrize(("entry_point", "before", "after", "words"), CHANGES.values(), ids=CHANGES)
def test_other_data_are_refused_unless_they_may_change(
    run_dir: Path, entry_point: str, before: dict[str, str], after: dict[str, str], words: str
) -> None:
    arguments = {"folder": str(run_dir.parent)} if before else {}

    def write(files: dict[str, str]) -> None:
        for name, content in files.items():
            (run_dir.parent / name).write_text(content)

    write(before)
    train(run_dir, entry_point, epochs=1, **arguments)
    kept, checkpoints = (run_dir / DATA).read_bytes(), sorted(os.listdir(run_dir / "checkpoints"))
    write(after)
    with pytest.raises(DataError, match=f"dataset: has changed: {words}.*may_change=true"):
        train(run_dir, entry_point, epochs=2, resumes=True, **arguments)
    assert (run_dir / DATA).read_bytes() == kept
    assert sorted(os.listdir(run_dir / "checkpoints")) == checkpoints
    summary = train(run_dir, entry_point, epochs=2, resumes=True, may_change=True, **arguments)
    assert (summary.outcome, summary.steps) == (Outcome.COMPLETED, 12)
    (notice,) = notices(run_dir)
    assert notice.startswith("The data have changed: ")
    assert (run_dir / DATA).read_bytes() != kept


@pytest.mark.parametrize("size", [450, 120])
@pytest.mark.parametrize("may_change", [False, True])
def test_a_training_set_of_another_length_is_refused_whatever_is_allowed(run_dir: Path, size: int, may_change: bool) -> None:
    """Epochs, order and schedule are counted in its samples: 4 epochs of 300 are none of 450."""
    for name, number in (("train", 300), ("test", 90)):
        (run_dir.parent / name).write_text(str(number))
    train(run_dir, "growing", epochs=1, folder=str(run_dir.parent))
    (run_dir.parent / "train").write_text(str(size))
    with pytest.raises(DataError, match=f"{size} training samples now, 300 when run run began.*start a new run"):
        train(run_dir, "growing", epochs=2, resumes=True, may_change=may_change, folder=str(run_dir.parent))


@pytest.mark.parametrize("augments", [False, True])
def test_the_same_data_go_on_in_silence(run_dir: Path, augments: bool) -> None:
    train(run_dir, "listed", epochs=1, shuffles=False, augments=augments)
    assert train(run_dir, "listed", epochs=2, resumes=True, shuffles=False, augments=augments).steps == 12
    assert [notice for notice in notices(run_dir) if "is another when it is read again" not in notice] == []
    assert bool(notices(run_dir)) is augments, "what no seed reaches is told"


def test_a_run_of_an_earlier_version_keeps_its_data_from_now_on(run_dir: Path) -> None:
    train(run_dir, "unseeded_split", epochs=1)
    (run_dir / DATA).unlink()
    train(run_dir, "unseeded_split", epochs=2, resumes=True)
    assert read_fingerprint(run_dir) is not None
    with pytest.raises(LargebatchError, match="has changed"):
        train(run_dir, "unseeded_split", epochs=3, resumes=True)

"""A sample must follow from its number and the seeds that it is read under: what overwrites others is refused, what draws elsewhere is told."""

import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from largebatch.jobs.data.read_again import read_again
from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.errors import DataError
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.model_and_data import DatasetSpec

INPUTS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


class Part(TorchDataset[Any]):
    """Samples whose inputs are what `make` makes of those in memory."""

    num_classes = 2

    def __init__(self, make: Callable[[Tensor], Any], size: int = 20) -> None:
        self.inputs, self.make, self.size = INPUTS.clone(), make, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return self.make(self.inputs[index]), index % 2


def load(monkeypatch: pytest.MonkeyPatch, train: Any, test: Any) -> Dataset:
    module = types.ModuleType("odd_data")
    module.load = lambda: (train, test)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "odd_data", module)
    return load_dataset(DatasetSpec(entry_point="odd_data:load"), Path("nowhere"))


def plain(inputs: Tensor) -> Tensor:
    return inputs


@pytest.mark.parametrize("size", [2, 20])
def test_samples_in_one_buffer_are_refused(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of them would hold the last of each chunk alone; the run scored as chance does."""
    buffer = np.zeros(4, dtype=np.float32)

    def in_buffer(inputs: Tensor) -> Tensor:
        buffer[:] = inputs.numpy()
        return torch.from_numpy(buffer)

    with pytest.raises(DataError, match=r"reading other samples changes what test sample 0 gave.*\.clone\(\)"):
        load(monkeypatch, Part(plain), Part(in_buffer, size))
    assert load(monkeypatch, Part(plain), Part(lambda inputs: in_buffer(inputs).clone(), size)).notices == ()


def own_numpy() -> Callable[[Tensor], Tensor]:
    draws = np.random.default_rng(0)
    return lambda inputs: inputs + torch.from_numpy(draws.standard_normal(4).astype(np.float32))


def own_torch() -> Callable[[Tensor], Tensor]:
    draws = torch.Generator().manual_seed(0)
    return lambda inputs: inputs + torch.randn(4, generator=draws)


def flips() -> Callable[[Tensor], Tensor]:
    draws = random.Random(3)
    return lambda inputs: inputs.flip(0) if draws.random() < 0.5 else inputs


ELSEWHERE = {
    "numpy's generator": own_numpy,
    "torch's generator": own_torch,
    "flips": flips,
    "changed in place": lambda: lambda inputs: inputs.mul_(1.5),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_samples_that_are_others_when_they_are_read_again_are_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (notice,) = load(monkeypatch, Part(ELSEWHERE[name]()), Part(plain)).notices
    assert notice.startswith("Data: training sample ")
    assert "is another when it is read again, under the same seeds" in notice
    assert "a resume, or another dataset.num_workers, gives other samples" in notice


def test_draws_that_belong_to_the_sample_are_no_difference() -> None:
    def augmented(inputs: Tensor) -> Tensor:
        return inputs + torch.randn(4) + np.random.rand() + random.random() + torch.tensor([0.0, torch.nan, torch.inf, 0.0])  # NaN is as it was

    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index, union-attr]
    assert read_again(Part(augmented), "dataset", "training", has_label=True) is None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[index]
    assert random.getstate() == states[2]

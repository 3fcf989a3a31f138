"""Data that hold NaN or infinity are named as such; a rate that is too large stays a divergence, whatever the data hold."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Net, document
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from largebatch.jobs.__main__ import main

NUM_TRAIN, NUM_TEST, BATCH = 60, 30, 20


def part(num_samples: int, bad: list[int], value: float, is_held: bool) -> Any:
    labels = torch.arange(num_samples) % 3
    inputs = torch.randn(num_samples, 4, generator=torch.Generator().manual_seed(num_samples)) + labels[:, None]
    inputs[bad, 1] = value
    held = TensorDataset(inputs, labels)
    return held if is_held else Subset(held, range(num_samples))


def masking(num_classes: int) -> nn.Module:
    """Made for samples with gaps."""
    return Net(lambda m, x: m.layer(x.nan_to_num(0.0, 0.0, 0.0)), layer=nn.Linear(4, num_classes))


def plain(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_classes))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def train(train: Any, test: Any, model: Any = plain, rate: float = 0.05, **batch: Any) -> tuple[int, str]:
        """Exit code, and what was said."""
        module = types.ModuleType("gaps")
        module.load, module.build = lambda: (train, test), model  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "gaps", module)
        own = {"dataset": {"entry_point": "gaps:load"}, "model": {"entry_point": "gaps:build"}, "batch": {"global_batch_size": BATCH, **batch}}
        run = document(**own, optimizer={"name": "sgd", "momentum": 0.0}, learning_rate={"base": rate}, stop={"epochs": 2})
        (tmp_path / "spec.json").write_text(json.dumps(run))
        code = main([str(tmp_path / "spec.json"), "--output-dir", str(tmp_path / "runs"), "--device", "cpu"])
        return code, capsys.readouterr().err

    return train


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("kind", ["training", "test"])
def test_the_sample_is_named(trained: Any, kind: str, is_held: bool, value: float) -> None:
    bad = {"training": [], "test": [], kind: [17]}
    code, said = trained(part(NUM_TRAIN, bad["training"], value, is_held), part(NUM_TEST, bad["test"], value, is_held))
    assert code == 2
    assert f"DataError: dataset: {kind} sample 17 holds NaN or infinity, so the " in said
    assert "learning_rate" not in said


def test_a_sample_of_huge_numbers_is_named(trained: Any) -> None:
    code, said = trained(part(NUM_TRAIN, [17], 3e38, False), part(NUM_TEST, [], 0.0, True), nn_without_batch_norm)
    assert code == 2
    assert "training sample 17 holds numbers as large as 3e+38, so the loss of step" in said


def test_the_first_of_several_micro_batches(trained: Any) -> None:
    bad = list(range(5, NUM_TRAIN, 6))
    groups = {"micro_batch_size": 5}
    code, said = trained(part(NUM_TRAIN, bad, float("nan"), True), part(NUM_TEST, [], 0.0, True), nn_without_batch_norm, **groups)
    assert code == 2
    number = int(said.partition("training sample ")[2].split()[0])
    assert number in bad
    assert f"more of the {BATCH} that were read" in said


def nn_without_batch_norm(num_classes: int) -> nn.Module:
    return nn.Linear(4, num_classes)


def test_a_model_that_is_made_for_it_trains(trained: Any) -> None:
    code, said = trained(part(NUM_TRAIN, [3, 17], float("nan"), True), part(NUM_TEST, [5], float("inf"), True), masking)
    assert code == 0
    assert "Data: 2 of 60 training samples with NaN or infinity; the first is sample 3." in said


def test_and_diverges_where_the_rate_is_too_large(trained: Any) -> None:
    code, said = trained(part(NUM_TRAIN, [3, 17], float("nan"), True), part(NUM_TEST, [5], float("nan"), True), masking, rate=1e38)
    assert code == 3
    assert "Lower learning_rate.base" in said


class RootOfZero(nn.Linear):
    """Finite logits, whose gradient is infinite where the weights begin."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + (self.bias - self.bias.detach()).sqrt()


class Overflowing(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * torch.exp(self.weight.norm() * 1e3)


@pytest.mark.parametrize(("model", "parameter"), [(RootOfZero, "bias"), (Overflowing, "weight")])
def test_before_the_first_update_no_rate_is_the_cause(trained: Any, model: type[nn.Linear], parameter: str) -> None:
    samples = part(NUM_TRAIN, [], 0.0, True), part(NUM_TEST, [], 0.0, True)
    code, said = trained(*samples, lambda num_classes: model(4, num_classes))
    assert code == 3
    assert f"before the first update, so no learning rate is the cause; the gradient of {parameter} is not finite" in said
    assert "learning_rate.base" not in said

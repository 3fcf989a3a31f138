"""What a model may give: a tensor, alone or as `logits`; anything else is refused whatever the task, with what to give in its place."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import prepared
from torch import nn
from torch.utils.data import TensorDataset

from largebatch.jobs.errors import PlanError
from largebatch.jobs.tasks.outputs import logits_of

LOGITS = torch.zeros(2, 3)


@pytest.mark.parametrize("output", [LOGITS, {"logits": LOGITS, "other": 1}, SimpleNamespace(logits=LOGITS)])
def test_the_tensor_is_found(output: Any) -> None:
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize(("output", "words"), [((LOGITS, 1), "gives a tuple of 2"), ({"out": LOGITS}, "gives a dict"), (None, "gives a NoneType")])
def test_what_is_none_is_refused(output: Any, words: str) -> None:
    with pytest.raises(PlanError, match=f"model: {words}, not one tensor. Give the logits, or predictions, alone"):
        logits_of(output)


class Paired(nn.Linear):
    """Gives its inputs beside what it tells of them, as recurrent layers give their states."""

    def forward(self, inputs: torch.Tensor) -> Any:
        return super().forward(inputs), inputs


def test_it_is_not_the_samples_that_are_to_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step, of a model that took the samples well."""
    data = TensorDataset(torch.randn(40, 4), torch.zeros(40))
    monkeypatch.setitem(sys.modules, "paired", SimpleNamespace(load=lambda: (data, data), build=lambda **_: Paired(4, 1)))  # type: ignore[arg-type]
    own = {"dataset": {"entry_point": "paired:load"}, "model": {"entry_point": "paired:build"}}
    with pytest.raises(PlanError, match="gives a tuple of 2, not one tensor") as refused:
        prepared(task={"name": "regression"}, batch={"global_batch_size": 10}, stop={"steps": 1}, **own)
    assert "change the samples" not in str(refused.value)

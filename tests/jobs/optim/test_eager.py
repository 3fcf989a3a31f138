"""torch's own optimizers, and what they must not bring along."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from jobs.optim.eager import EagerAdamW, EagerSGD

EQUALS = [
    (EagerSGD, SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (EagerAdamW, AdamW, {"betas": (0.8, 0.9), "weight_decay": 0.1, "fused": True}),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), EQUALS)
def test_they_are_torchs_bit_for_bit_also_after_a_checkpoint(ours: type[Optimizer], theirs: type[Optimizer], options: dict[str, object]) -> None:
    def trained(kind: type[Optimizer]) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        optimizer = kind(model.parameters(), lr=0.1, **options)  # type: ignore[call-arg]
        for step in range(6):
            if step == 3:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = kind(model.parameters(), lr=1.0, **options)  # type: ignore[call-arg]
                optimizer.load_state_dict(saved)
            optimizer.zero_grad()
            model(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    assert all(torch.equal(one, other) for one, other in zip(trained(ours), trained(theirs), strict=True))


def test_training_saving_and_loading_leave_torchs_compiler_out() -> None:
    code = """
import sys, torch
from torch import nn
from jobs.optim.table import OPTIMIZERS, build_optimizer
from jobs.spec import OptimizerSpec
for name in OPTIMIZERS:
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, OptimizerSpec(name=name))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

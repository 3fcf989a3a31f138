"""torch's own optimizers, and what they must not bring along."""

import copy
from typing import Any

import pytest
import torch
from forked import Forked
from small_runs import Net
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from largebatch.jobs.optim import adamw
from largebatch.jobs.optim.groupwise import eager

EQUALS = [
    (eager(SGD), SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (eager(adamw.AdamW), AdamW, {"betas": (0.8, 0.9), "weight_decay": 0.1, "fused": True}),
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


def two_halves(second: torch.dtype) -> Any:
    """A model with a half that not every step reaches: (n, 3) of inputs (n, 4)."""

    def forward(model: Any, inputs: Tensor, reaches_second: bool) -> Tensor:
        outputs: Tensor = model.first(inputs)
        return outputs + model.second(inputs.to(second)).float() if reaches_second else outputs

    return Net(forward, first=nn.Linear(4, 3), second=nn.Linear(4, 3, dtype=second))


@pytest.mark.parametrize("second", [torch.float32, torch.float64])
@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("reached", [(1, 1, 1, 1, 1), (1, 1, 0, 1, 1), (0, 1, 1, 0, 1), (0, 0, 0, 0, 0)])
def test_adamw_is_torchs_whatever_a_step_reaches(second: torch.dtype, closes: bool, reached: tuple[int, ...]) -> None:
    """Also in two groups, in two precisions, and called with a closure."""

    def trained(kind: type[Optimizer]) -> tuple[list[Tensor], list[float]]:
        torch.manual_seed(0)
        model = two_halves(second)
        groups = [{"params": model.first.parameters(), "weight_decay": 0.1}, {"params": model.second.parameters(), "weight_decay": 0.0}]
        optimizer = kind(groups, lr=0.1, fused=True)  # type: ignore[call-arg]
        for reaches_second in reached:
            optimizer.zero_grad()
            optimizer.param_groups[1]["lr"] *= 0.9
            model(torch.randn(5, 4), bool(reaches_second)).square().sum().backward()
            assert optimizer.step((lambda: 1.5) if closes else None) == (1.5 if closes else None)
        steps = [float(state["step"]) for state in optimizer.state_dict()["state"].values()]
        return [parameter.detach() for parameter in model.parameters()], steps

    (ours, our_steps), (theirs, their_steps) = trained(adamw.AdamW), trained(AdamW)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert our_steps == their_steps


def test_training_saving_and_loading_leave_torchs_compiler_out() -> None:
    code = """
import sys, torch
from torch import nn
from largebatch.jobs.optim.parameter_groups import build_optimizer
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
for name in (name for name, config in OPTIMIZERS.items() if config.library is None):
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, OPTIMIZERS[name](name=name))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
    if name != "muon":
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, 2))]})
        optimizer.step()
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    out, err = Forked("-c", code).communicate(timeout=60)
    assert out.strip() == "[]", err

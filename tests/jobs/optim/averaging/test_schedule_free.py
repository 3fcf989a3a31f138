"""Schedule-free optimizers against their equations in float64 and the averages that they reduce to; the average is what is evaluated."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import RATES, drawn
from small_runs import CPU, notices, prepared, trained
from torch import Tensor, nn
from torch.optim import AdamW

from largebatch.jobs.engine.evaluation.evaluate import evaluate
from largebatch.jobs.errors import InputError
from largebatch.jobs.models.weights import evaluated_weights
from largebatch.jobs.optim.averaging.schedule_free import EvaluatedAverage, ScheduleFreeAdamW, ScheduleFreeSGD
from largebatch.jobs.preparing.batches import evaluation_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.resume import load_checkpoint
from largebatch.jobs.run.checkpoints import list_checkpoints


def stepped(kind: type, weights: Tensor, gradients: list[Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    """The parameter and the average after a step for each gradient."""
    param = nn.Parameter(weights.clone())
    optimizer = kind([param], lr=1.0, **options)
    for gradient, rate in zip(gradients, RATES, strict=True):
        param.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return param.detach(), optimizer.state[param]["x"]


def by_the_equations(weights: Tensor, gradients: list[Tensor], beta: float, decay: float, power: float, beta2: float | None) -> tuple[Tensor, Tensor]:
    """Algorithm 1 and its AdamW form, each line as the paper has it."""
    y = z = x = weights
    second, total, largest = torch.zeros_like(weights), 0.0, 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, RATES, strict=True), 1):
        direction = gradient
        if beta2 is not None:
            second = beta2 * second + (1 - beta2) * gradient**2
            direction = gradient / ((second / (1 - beta2**t)).sqrt() + 1e-8)
        largest = max(largest, rate)
        total += largest**power
        z = z - rate * (direction + decay * y)
        x = (1 - largest**power / total) * x + largest**power / total * z
        y = (1 - beta) * z + beta * x
    return y, x


@pytest.mark.parametrize("power", [0.0, 2.0])
@pytest.mark.parametrize(("kind", "beta2"), [(ScheduleFreeSGD, None), (ScheduleFreeAdamW, 0.95)])
def test_they_follow_the_paper(kind: type, beta2: float | None, power: float) -> None:
    weights, gradients = drawn(4)
    own = {} if beta2 is None else {"beta2": beta2}
    got = stepped(kind, weights, gradients, beta=0.8, weight_decay=0.1, weight_lr_power=power, **own)
    for tensor, expected in zip(got, by_the_equations(weights, gradients, 0.8, 0.1, power, beta2), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)


def test_without_momentum_it_is_averaged_sgd() -> None:
    """Polyak and Ruppert's: the iterates are plain SGD's, and what is evaluated is their mean."""
    weights, gradients = drawn(5)
    iterates, iterate = [], weights
    for gradient, rate in zip(gradients, RATES, strict=True):
        iterate = iterate - rate * gradient
        iterates.append(iterate)
    at, average = stepped(ScheduleFreeSGD, weights, gradients, beta=0.0, weight_lr_power=0.0)
    torch.testing.assert_close(at, iterate, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(average, torch.stack(iterates).mean(0), rtol=1e-13, atol=1e-13)


def test_without_momentum_the_iterates_are_adamws() -> None:
    weights, gradients = drawn(6)
    param = nn.Parameter(weights.clone())
    adamw = AdamW([param], lr=1.0, betas=(0.0, 0.95), weight_decay=0.1)
    for gradient, rate in zip(gradients, RATES, strict=True):
        param.grad, adamw.param_groups[0]["lr"] = gradient.clone(), rate
        adamw.step()
    at, _ = stepped(ScheduleFreeAdamW, weights, gradients, beta=0.0, beta2=0.95, weight_decay=0.1)
    torch.testing.assert_close(at, param.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evaluating_leaves_no_trace(dtype: torch.dtype) -> None:
    model = nn.Linear(4, 3).to(dtype)
    optimizer = ScheduleFreeSGD(model.parameters(), lr=0.1)
    average = EvaluatedAverage(model, optimizer)
    for number in (1.0, 2.0):
        for param in model.parameters():
            param.grad = torch.full_like(param, number)
        optimizer.step()
    before = copy.deepcopy(model.state_dict())
    average.swap()
    assert torch.equal(model.weight, optimizer.state[model.weight]["x"].to(dtype))
    assert not torch.equal(model.weight, before["weight"])
    average.swap()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["schedule-free-sgd", "schedule-free-adamw"])
def test_what_is_scored_and_exported_is_the_average(name: str, tmp_path: Path) -> None:
    job = prepared(optimizer={"name": name}, model={"name": "mlp", "arguments": {"width": 4}})
    summary = trained(job, tmp_path)
    saved = load_checkpoint(list_checkpoints(tmp_path / "checkpoints")[0].path, CPU)["state"]
    exported = evaluated_weights(saved)
    for index, name_of in enumerate(saved["parameters"]):
        assert torch.equal(exported[name_of], saved["optimizer"]["state"][index]["x"])
        assert not torch.equal(exported[name_of], saved["model"][name_of])
    again = prepared(optimizer={"name": "sgd"}, model={"name": "mlp", "arguments": {"width": 4}})
    again.model.load_state_dict(exported)
    scores = evaluate(new_state(again), evaluation_batches(again, again.dataset.test), len(again.dataset.test), "float32")
    assert scores["accuracy"] == summary.score


def test_a_second_average_is_refused() -> None:
    with pytest.raises(InputError, match="schedule-free-adamw averages the weights that are evaluated itself; leave ema out"):
        prepared(optimizer={"name": "schedule-free-adamw"}, ema={"decay": 0.9})


def test_a_decay_besides_is_told(tmp_path: Path) -> None:
    told = "under schedule-free-sgd an average of the weights takes the place of a decay, and here the rate falls besides (cosine)"
    decaying, constant = (
        {"optimizer": {"name": "schedule-free-sgd"}, "learning_rate": {"base": 0.1, "decay": decay}} for decay in ("cosine", "constant")
    )
    assert ("", f"{told}; the method's own is learning_rate.decay=constant") in prepared(**decaying).plan_in_words()
    assert not any("takes the place" in how for _, how in prepared(**constant).plan_in_words())
    trained(prepared(**decaying), tmp_path / "run")
    assert f"Optimizer: {told}; the method's own is learning_rate.decay=constant." in notices(tmp_path / "run")

"""What LARS and LAMB keep alike: a ratio for each tensor, gradients as they were found, state in float32 that a checkpoint gives back."""

import copy
from typing import Any

import pytest
import torch
from optimizer_steps import RATES, STEPS, drawn, run
from small_runs import state_of
from torch import nn

from largebatch.jobs.engine.state import TrainState
from largebatch.jobs.optim.lamb import LAMB
from largebatch.jobs.optim.lars import LARS
from largebatch.jobs.tasks.classification import Classification

FLOAT64 = {"rtol": 1e-12, "atol": 1e-14}
BOTH = pytest.mark.parametrize("kind", [LARS, LAMB])
STATE = {LARS: ["velocity"], LAMB: ["first_moment", "second_moment", "step"]}


@BOTH
def test_each_tensor_has_a_ratio_of_its_own(kind: Any) -> None:
    (first, first_gradients), (second, second_gradients) = drawn(10), drawn(11)
    params = [nn.Parameter(first.clone()), nn.Parameter(100 * second), nn.Parameter(second.clone())]
    optimizer = kind([{"params": params[:2]}, {"params": params[2:], "adapts": False, "weight_decay": 0.0}], lr=0.1, weight_decay=0.01)
    for gradients in zip(first_gradients, second_gradients, second_gradients, strict=True):
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient.clone()
        optimizer.step()
    alone = [
        run(kind, first, first_gradients, [0.1] * STEPS, weight_decay=0.01),
        run(kind, 100 * second, second_gradients, [0.1] * STEPS, weight_decay=0.01),
        run(kind, second, second_gradients, [0.1] * STEPS, adapts=False),
    ]
    torch.testing.assert_close([param.detach() for param in params], alone, **(FLOAT64 if kind is LARS else {"rtol": 1e-11, "atol": 1e-13}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LARS, {"weight_decay": 0.0, "nesterov": True}),
        (LARS, {"weight_decay": 0.1, "nesterov": True}),
        (LAMB, {"weight_decay": 0.1, "bias_correction": False}),
        (LAMB, {"weight_decay": 0.1, "bias_correction": True}),
    ],
)
def test_gradients_are_left_as_they_were_found(kind: Any, options: dict[str, Any], dtype: torch.dtype) -> None:
    weights, gradients = drawn(12)
    param = nn.Parameter(weights.to(dtype))
    optimizer = kind([param], lr=0.1, **options)
    for gradient in gradients:
        param.grad = gradient.to(dtype)
        given, held = param.grad, param.grad.clone()
        optimizer.step()
        assert param.grad is given
        assert torch.equal(given, held)


@BOTH
def test_memory_layout_does_not_matter(kind: Any) -> None:
    """A channels-last weight whose gradient is in plain order, as a person's own code may leave it; and a transposed one."""
    weights = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in range(STEPS)]
    plain = run(kind, weights, gradients, RATES, weight_decay=0.1)
    for layout in (weights.contiguous(memory_format=torch.channels_last), weights.transpose(0, 1).contiguous().transpose(0, 1)):
        tolerance = FLOAT64 if kind is LARS else {"rtol": 1e-11, "atol": 1e-13}
        torch.testing.assert_close(run(kind, layout, gradients, RATES, weight_decay=0.1), plain, **tolerance)


@pytest.mark.parametrize(("kind", "options"), [(LARS, {"lr": 0.3, "trust_coefficient": 0.1}), (LAMB, {"lr": 0.1})])
def test_float32_state_of_bfloat16_weights_survives_a_checkpoint(kind: Any, options: dict[str, float]) -> None:
    def new() -> TrainState:
        torch.manual_seed(0)
        model = nn.Linear(5, 3).to(torch.bfloat16)
        return state_of(model, kind(model.parameters(), **options), 1, task=Classification(3))

    def step(state: TrainState, seeds: range) -> None:
        for generator in map(torch.Generator().manual_seed, seeds):
            for param in state.model.parameters():
                param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
            state.optimizer.step()

    whole, first, second = new(), new(), new()
    step(whole, range(6))
    step(first, range(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    loaded = [second.optimizer.state[param][key] for param in second.model.parameters() for key in STATE[kind]]
    assert {value.dtype for value in loaded} == {torch.float32}
    assert any(not torch.equal(value, value.to(torch.bfloat16).float()) for value in loaded), "nothing that bfloat16 would have lost"
    step(second, range(3, 6))
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
        for key in STATE[kind]:
            assert torch.equal(whole.optimizer.state[one][key], second.optimizer.state[other][key])


@pytest.mark.parametrize(
    ("kind", "options"),
    [(LARS, {}), (LAMB, {"bias_correction": False, "phi_max": 2.0}), (LAMB, {"bias_correction": True, "phi_max": 2.0})],
)
def test_a_loaded_optimizer_goes_on_bit_for_bit(kind: Any, options: dict[str, Any]) -> None:
    weights, gradients = drawn(13)
    expected = run(kind, weights.float(), [gradient.float() for gradient in gradients], RATES, weight_decay=0.1, **options)
    param = nn.Parameter(weights.float())
    optimizer = kind([param], lr=1.0, weight_decay=0.1, **options)
    for step, (gradient, rate) in enumerate(zip(gradients, RATES, strict=True)):
        if step == 5:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = kind([param], lr=7.0)  # the options, too, come from what was saved
            optimizer.load_state_dict(saved)
        param.grad = gradient.float()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert torch.equal(param.detach(), expected)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((kind, name, value) for kind in (LARS, LAMB) for name, value in (("lr", -0.1), ("weight_decay", -1e-4))),
        *((LARS, name, value) for name, value in (("momentum", 1.0), ("momentum", -0.1), ("epsilon", -1e-8), ("trust_coefficient", 0.0))),
        *((LAMB, name, value) for name, value in (("betas", (1.0, 0.9)), ("betas", (0.9, 1.0)), ("betas", (-0.1, 0.9)), ("epsilon", 0.0))),
    ],
)
def test_impossible_options_are_refused(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        kind([nn.Parameter(torch.ones(1))], **{"lr": 0.1, name: value})

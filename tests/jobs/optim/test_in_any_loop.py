"""What a loop of anybody's expects of an optimizer, held of each of ours; after torch's tests of its own."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from our_optimizers import ALL, KINDS, Kind, set_gradients, small_model, train, weights_of
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, OneCycleLR
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from largebatch import LAMB, LARS

CAN_CLIMB = pytest.mark.parametrize(
    "kind", [pytest.param(KINDS[name], id=name) for name in ("LARS", "LARS, Nesterov", "LAMB", "Lion", "RMSpropSGD", "AdamW")]
)


def assert_equal(some: list[Tensor], others: list[Tensor]) -> None:
    torch.testing.assert_close(some, others, rtol=0, atol=0)


@ALL
def test_hooks_are_called_around_each_step_once(kind: Kind) -> None:
    model, seen = small_model(), []
    optimizer = kind(model.parameters(), lr=0.1)
    before = weights_of(model)
    unmoved = lambda: all(map(torch.equal, before, weights_of(model)))  # noqa: E731
    everywhere = [
        register_optimizer_step_pre_hook(lambda *_: seen.append(("all, before", unmoved()))),
        register_optimizer_step_post_hook(lambda *_: seen.append(("all, after", unmoved()))),
    ]
    optimizer.register_step_pre_hook(lambda *_: seen.append(("before", unmoved())))
    hook = optimizer.register_step_post_hook(lambda *_: seen.append(("after", unmoved())))
    try:
        train(model, optimizer, [0])
        assert seen == [("all, before", True), ("before", True), ("after", False), ("all, after", False)]
    finally:
        for handle in (*everywhere, hook):
            handle.remove()
    train(model, optimizer, [1])
    assert len(seen) == 5


@ALL
def test_a_profile_shows_the_step_by_the_class(kind: Kind) -> None:
    model = small_model()
    optimizer = kind(model.parameters(), lr=0.1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(model, optimizer, range(2))
        optimizer.zero_grad()
    names = [event.name for event in profile.events() if event.name.startswith("Optimizer")]
    name = type(optimizer).__name__
    assert sorted(names) == [*[f"Optimizer.step#{name}.step"] * 2, f"Optimizer.zero_grad#{name}.zero_grad"]


@ALL
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_rate_that_is_a_tensor(kind: Kind, shape: tuple[int, ...]) -> None:
    """Also under a scheduler, which changes the tensor in place."""
    rates: list[Any] = [torch.full(shape, 0.125), 0.125]
    moved = []
    for rate in rates:
        model = small_model()
        optimizer = kind(model.parameters(), lr=rate)
        schedule = ExponentialLR(optimizer, 0.5)
        for seed in range(4):
            train(model, optimizer, [seed])
            schedule.step()
        moved.append(weights_of(model))
    assert_equal(*moved)
    assert rates[0].item() == 0.125 / 2**4


@ALL
def test_schedulers_of_torchs_drive_it(kind: Kind) -> None:
    optimizer = kind(small_model().parameters(), lr=0.1)
    schedules = [LinearLR(optimizer, 0.5, total_iters=4)]
    if {"momentum", "betas"} & set(optimizer.defaults):
        schedules.append(OneCycleLR(optimizer, max_lr=0.1, total_steps=8))
    for schedule in schedules:
        for seed in range(3):
            set_gradients(optimizer.param_groups[0]["params"], seed)
            optimizer.step()
            schedule.step()


@ALL
@pytest.mark.parametrize("rate", [float("nan"), -0.1, float("inf"), torch.tensor(float("nan")), torch.ones(2)], ids=str)
def test_a_rate_that_cannot_be_is_refused(kind: Kind, rate: Any) -> None:
    with pytest.raises(ValueError, match=r"lr|learning rate"):
        kind(small_model().parameters(), lr=rate)
    first, second = small_model().parameters()
    optimizer = kind([first], lr=0.1)
    with pytest.raises(ValueError, match="lr"):
        optimizer.add_param_group({"params": [second], "lr": rate})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="lr"):
        kind([{"params": [first]}, {"params": [second], "lr": rate}], lr=0.1)


@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_a_rate_that_is_a_text_is_refused(kind: type[Optimizer]) -> None:
    with pytest.raises(ValueError, match="lr must be a number or a tensor of one element, not a str"):
        kind(small_model().parameters(), lr="0.1")  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_a_graph_that_needs_the_weights_before_the_step_is_told_of(kind: type[Optimizer]) -> None:
    """As under torch's unfused ones: its gradient would be of other weights, without a word."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = kind(model.parameters(), lr=0.1)
    model(torch.ones(3, 4)).sum().backward()
    late = model(torch.ones(3, 4)).square().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


@ALL
def test_what_it_cannot_update_is_refused(kind: Kind) -> None:
    param = nn.Parameter(torch.ones(3, 2))
    with pytest.raises(ValueError, match="empty"):
        kind([], lr=0.1)
    with pytest.raises(ValueError, match="non-leaf"):
        kind([param * 2], lr=0.1)
    with pytest.raises(ValueError, match="more than one"):
        kind([{"params": [param]}, {"params": [param]}], lr=0.1)
    with pytest.raises(ValueError, match="complex"):
        kind([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))], lr=0.1)
    optimizer = kind([param], lr=0.1)
    for gradient in (torch.sparse_coo_tensor([[1], [0]], [1.0], (3, 2), check_invariants=True), torch.eye(3, 2).to_sparse_coo()):
        param.grad = gradient
        with pytest.raises(ValueError, match="sparse"):
            optimizer.step()
    assert torch.equal(param, torch.ones(3, 2))


@ALL
def test_without_gradients_nothing_happens(kind: Kind) -> None:
    model = small_model()
    optimizer = kind(model.parameters(), lr=0.1)
    before = weights_of(model)
    optimizer.step()
    assert_equal(weights_of(model), before)
    assert not optimizer.state


@ALL
def test_a_group_that_comes_late(kind: Kind) -> None:
    """It begins where it would alone, by its own options; what is there goes on."""
    together, alone = small_model(), small_model()
    (first, second), (other_first, other_second) = together.parameters(), alone.parameters()
    optimizer = kind([first], lr=0.1)
    others = [kind([other_first], lr=0.1), kind([other_second], lr=0.3, weight_decay=0.1)]
    for step in range(6):
        if step == 3:
            optimizer.add_param_group({"params": [second], "lr": 0.3, "weight_decay": 0.1})
        for model in (together, alone):
            set_gradients(model.parameters(), step)
        optimizer.step()
        others[0].step()
        if step >= 3:
            others[1].step()
    assert_equal(weights_of(together), weights_of(alone))


@ALL
def test_copies_and_pickles_go_on_alike_and_apart(kind: Kind) -> None:
    model = small_model()
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.1)
    train(model, optimizer, range(3))
    copies = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    assert {repr(other) for _, other in copies} == {repr(optimizer)}
    train(model, optimizer, range(3, 6))
    for other_model, other in copies:
        train(other_model, other, range(3, 6))
        assert_equal(weights_of(other_model), weights_of(model))


@ALL
def test_named_parameters_keep_their_names(kind: Kind) -> None:
    model = small_model()
    optimizer = kind(model.named_parameters(), lr=0.1)
    train(model, optimizer, [0])
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["0.weight", "2.weight"]


@ALL
def test_a_checkpoint_of_weights_only_goes_on_bit_for_bit(kind: Kind) -> None:
    whole, model = small_model(), small_model()
    train(whole, kind(whole.parameters(), lr=0.1), range(6))
    optimizer = kind(model.parameters(), lr=0.1)
    train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer = kind(model.parameters(), lr=0.7)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    train(model, optimizer, range(3, 6))
    assert_equal(weights_of(model), weights_of(whole))


@ALL
def test_float32_state_of_bfloat16_weights_survives_torchs_own_loading(kind: Kind) -> None:
    """Also what a hook put in its place; and hooks that look at it afterwards see it so."""
    whole, model = small_model(torch.bfloat16), small_model(torch.bfloat16)
    train(whole, kind(whole.parameters(), lr=0.1), range(6))
    optimizer = kind(model.parameters(), lr=0.1)
    train(model, optimizer, range(3))
    saved, seen = copy.deepcopy(optimizer.state_dict()), []
    optimizer = kind(model.parameters(), lr=0.7)
    optimizer.register_load_state_dict_pre_hook(lambda _, empty: {**empty, **saved})
    optimizer.register_load_state_dict_post_hook(lambda loaded: seen.extend(value for state in loaded.state.values() for value in state.values()))
    optimizer.load_state_dict({"state": {}, "param_groups": optimizer.state_dict()["param_groups"]})
    assert [value.dtype for value in seen if isinstance(value, Tensor)] == [
        value.dtype for state in saved["state"].values() for value in state.values() if isinstance(value, Tensor)
    ]
    train(model, optimizer, range(3, 6))
    assert_equal(weights_of(model), weights_of(whole))


@ALL
def test_state_that_was_rounded_to_bfloat16_goes_on_in_float32(kind: Kind) -> None:
    def rounded(value: Any, dtype: torch.dtype) -> Any:
        return value.bfloat16().to(dtype) if isinstance(value, Tensor) else value

    moved = []
    for dtype in (torch.bfloat16, torch.float32):
        model = small_model()
        optimizer = kind(model.parameters(), lr=0.1)
        train(model, optimizer, range(3))
        saved = copy.deepcopy(optimizer.state_dict())
        saved["state"] = {index: {key: rounded(value, dtype) for key, value in state.items()} for index, state in saved["state"].items()}
        optimizer.load_state_dict(saved)
        train(model, optimizer, range(3, 6))
        moved.append(weights_of(model))
        assert {value.dtype for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)} == {torch.float32}
    assert_equal(*moved)


@ALL
@pytest.mark.parametrize("layouts", [(torch.contiguous_format, torch.channels_last), (torch.channels_last, torch.contiguous_format)], ids=str)
def test_state_from_weights_that_lay_otherwise(kind: Kind, layouts: tuple[torch.memory_format, torch.memory_format]) -> None:
    """Loaded by torch's own method; rounding alone may differ, for norms add up in another order."""
    generator = torch.Generator().manual_seed(0)
    weights, *gradients = (torch.randn(4, 3, 2, 2, generator=generator) for _ in range(7))
    moved = []
    for before, after in ((layouts[0], layouts[0]), layouts):
        model = nn.Module()
        model.weight = nn.Parameter(weights.clone(memory_format=before))
        optimizer = kind([model.weight], lr=0.1)
        for step, gradient in enumerate(gradients):
            if step == 3:
                saved = copy.deepcopy(optimizer.state_dict())
                model.weight = nn.Parameter(model.weight.detach().clone(memory_format=after))
                optimizer = kind([model.weight], lr=0.7)
                optimizer.load_state_dict(saved)
            model.weight.grad = gradient
            optimizer.step()
        moved.append(model.weight.detach())
    # Six float32 steps of some twenty roundings of 2^-24 on numbers near 1; Muon's iteration is bfloat16 and its order the same.
    torch.testing.assert_close(*moved, rtol=2e-6, atol=2e-6)


@ALL
def test_state_of_another_shape_is_refused_and_not_read_beyond_its_end(kind: Kind) -> None:
    small, large = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(64, 64))
    optimizer, other = kind([small], lr=0.1), kind([large], lr=0.1)
    for param in (small, large):
        param.grad = torch.ones_like(param)
    optimizer.step()
    other.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="shape"):
        other.step()


@CAN_CLIMB
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_to_maximize_is_to_minimize_along_the_opposite_gradients(kind: Kind, dtype: torch.dtype) -> None:
    moved = []
    for maximize in (True, False):
        model = small_model(dtype)
        optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.1, maximize=maximize)
        for seed in range(4):
            set_gradients(model.parameters(), seed)
            for param in model.parameters():
                param.grad = param.grad if maximize else -param.grad  # type: ignore[operator]
            optimizer.step()
        moved.append(weights_of(model))
    assert_equal(*moved)


@ALL
def test_a_grad_scaler_changes_nothing(kind: Kind) -> None:
    moved = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):  # type: ignore[attr-defined]
        model = small_model()
        optimizer = kind(model.parameters(), lr=0.1)
        for seed in range(4):
            inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            loss = model(inputs).square().mean()
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        moved.append(weights_of(model))
    assert_equal(*moved)


@ALL
def test_a_compiled_step_gives_the_same_numbers(kind: Kind) -> None:
    moved = []
    for compiles in (False, True):
        torch._dynamo.reset()
        model = small_model()
        optimizer: Optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.1)
        schedule = ExponentialLR(optimizer, 0.5)

        def step(optimizer: Optimizer = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        stepper = torch.compile(step, backend="aot_eager") if compiles else step
        for seed in range(4):
            set_gradients(model.parameters(), seed)
            stepper()
            schedule.step()
        moved.append(weights_of(model))
    # Compiled arithmetic may round otherwise: four float32 steps on numbers near 1, Muon's through bfloat16.
    torch.testing.assert_close(*moved, rtol=1e-6, atol=1e-6)

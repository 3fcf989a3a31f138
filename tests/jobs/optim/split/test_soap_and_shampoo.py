"""SOAP and Shampoo follow the papers' equations, restated in NumPy, and become optimizers of torch's where their factors say so."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Forked
from numpy.typing import NDArray
from small_runs import document, prepared, synthetic
from torch import Tensor, nn

from largebatch.jobs.errors import PlanError, SpecError
from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate, shapes_by_main_rule

BOTH = ("soap", "shampoo")
RATES = [0.02, 0.05, 0.01, 0.03, 0.02, 0.04, 0.0, 0.03]
DECAY, TINY = 0.1, 1e-30
Array = NDArray[np.float64]
needs_library = pytest.mark.usefixtures("library")


@pytest.fixture
def library() -> None:
    pytest.importorskip("pytorch_optimizer")


def config(name: str, **options: Any) -> OptimizerConfig:
    return OPTIMIZERS[name].model_validate({"name": name, **options})


def drawn(*shape: int, num_steps: int = len(RATES)) -> tuple[Array, list[Array]]:
    """Weights, and a gradient for each step."""
    random = np.random.default_rng(7)
    return random.normal(size=shape), [random.normal(size=shape) for _ in range(num_steps)]


class Weights(nn.Module):
    """One parameter, which is the weight of a layer."""

    def __init__(self, values: Array) -> None:
        super().__init__()
        layer = {2: lambda: nn.Linear(1, 1, bias=False), 4: lambda: nn.Conv2d(1, 1, 1, bias=False)}[values.ndim]()
        layer.weight = nn.Parameter(torch.tensor(values))
        self.layer = layer


def moved(name: str, weights: Array, gradients: list[Array], lay: Callable[[Tensor], Tensor] = lambda tensor: tensor, **options: Any) -> Array:
    """The weights after a step for each gradient, by the config's optimizer."""
    model = Weights(weights)
    model.layer.weight = nn.Parameter(lay(model.layer.weight.detach()))
    optimizer = build_optimizer(model, config(name, **options))
    for rate, gradient in zip(RATES, gradients, strict=False):
        set_learning_rate(optimizer, rate)
        model.layer.weight.grad = lay(torch.tensor(gradient))
        optimizer.step()
        assert torch.equal(model.layer.weight.grad, torch.tensor(gradient)), "left as it was found"
    return model.layer.weight.detach().numpy()


def along(tensor: Array, matrices: list[Array | None]) -> Array:
    """A tensor of which each dimension is multiplied by a matrix."""
    for number, matrix in enumerate(matrices):
        if matrix is not None:
            tensor = np.moveaxis(np.tensordot(matrix, tensor, (1, number)), 0, number)
    return tensor


def products(gradient: Array) -> list[Array]:
    """G G^T of each dimension, the others flattened."""
    unfolded = [np.moveaxis(gradient, number, 0).reshape(size, -1) for number, size in enumerate(gradient.shape)]
    return [each @ each.T for each in unfolded]


def soap_by_the_paper(weights: Array, gradients: list[Array], beta1: float, beta2: float, shampoo_beta: float, every: int, longest: int) -> Array:
    """arXiv:2409.11321, Algorithms 3 and 4, with what their authors' code adds: the first step makes a basis alone, and where that is renewed
    its vectors are sorted by how much of the factor lies along them. Weight decay comes after the step.
    """
    size = [length if length <= longest else None for length in weights.shape]
    factors = [None if length is None else (1 - shampoo_beta) * product for length, product in zip(size, products(gradients[0]), strict=True)]
    bases = [None if factor is None else np.linalg.eigh(factor)[1][:, ::-1] for factor in factors]
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step, (rate, gradient) in enumerate(zip(RATES[1:], gradients[1:], strict=False), 1):
        into: list[Array | None] = [None if basis is None else basis.T for basis in bases]
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * along(gradient, into) ** 2
        inner = (along(mean, into) / (1 - beta1**step)) / np.sqrt(square / (1 - beta2**step))
        weights = (weights - rate * along(inner, bases)) * (1 - rate * DECAY)
        for number, (factor, product) in enumerate(zip(factors, products(gradient), strict=True)):
            basis = bases[number]
            if factor is None or basis is None:
                continue
            factors[number] = factor = shampoo_beta * factor + (1 - shampoo_beta) * product
            if step % every == 0:
                order = np.argsort(-np.diag(basis.T @ factor @ basis))
                square = np.take(square, order, axis=number)
                bases[number] = np.linalg.qr((factor @ basis)[:, order])[0]
    return weights


def shampoo_by_the_paper(weights: Array, gradients: list[Array], epsilon: float, every: int) -> Array:
    """arXiv:1802.09568, Algorithm 2, with decoupled weight decay before the step, and roots that are kept for some steps."""
    factors = [epsilon * np.eye(length) for length in weights.shape]
    roots: list[Array | None] = []
    for step, (rate, gradient) in enumerate(zip(RATES, gradients, strict=False), 1):
        factors = [factor + product for factor, product in zip(factors, products(gradient), strict=True)]
        if step == 1 or step % every == 0:
            decomposed = [np.linalg.eigh(factor) for factor in factors]
            roots = [(vectors * values ** (-1 / (2 * weights.ndim))) @ vectors.T for values, vectors in decomposed]
        weights = weights * (1 - rate * DECAY) - rate * along(gradient, roots)
    return weights


@needs_library
@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize(("shape", "longest"), [((5, 5), 100), ((7, 4), 5), ((4, 7), 5), ((3, 2, 2, 3), 100)], ids=str)
def test_soap_follows_the_paper(shape: tuple[int, ...], longest: int, every: int) -> None:
    """Shapes whose first gradient says the whole basis: along a matrix's longer side there is none in some directions yet, and any basis of them
    will do.

    The library renews a basis in float32: 2^-24 in each of its numbers, some ten of which make one of an update, over a way of 0.2 in all. A first
    basis is float64's, 2^-53 raised by the inverse of gaps between eigenvalues and of gradients in the basis, some 1e-3 each.
    """
    weights, gradients = drawn(*shape)
    options = {"beta1": 0.9, "beta2": 0.8, "shampoo_beta": 0.7, "precondition_frequency": every, "max_precondition_dim": longest}
    got = moved("soap", weights, gradients, weight_decay=DECAY, epsilon=TINY, **options)
    np.testing.assert_allclose(got, soap_by_the_paper(weights, gradients, 0.9, 0.8, 0.7, every, longest), rtol=0, atol=2e-7 if every < 100 else 1e-9)
    unlike = soap_by_the_paper(weights, gradients, 0.9, 0.8, 0.6 if every < 100 else 0.7, every if every < 100 else 2, longest)
    assert np.abs(got - unlike).max() > 1e-6, "the bound tells other factors apart"


@needs_library
@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (4, 7), (4, 2, 3, 3)], ids=str)
def test_shampoo_follows_the_paper(shape: tuple[int, ...], every: int) -> None:
    """Singular values and eigenvalues of a factor are the same to 2^-53 of its largest, which is some 1e3 / epsilon times its smallest."""
    weights, gradients = drawn(*shape)
    got = moved("shampoo", weights, gradients, weight_decay=DECAY, epsilon=0.01, precondition_frequency=every)
    np.testing.assert_allclose(got, shampoo_by_the_paper(weights, gradients, 0.01, every), rtol=0, atol=1e-9)
    assert np.abs(got - shampoo_by_the_paper(weights, gradients, 0.02, every)).max() > 1e-6


@needs_library
def test_one_step_of_shampoo_is_what_its_name_says() -> None:
    """L^(-1/4) G R^(-1/4); without epsilon that puts every singular value at 1, U V^T of G = U S V^T."""
    weights, (gradient,) = drawn(4, 4, num_steps=1)
    left, _, right = np.linalg.svd(gradient)
    np.testing.assert_allclose(moved("shampoo", weights, [gradient], epsilon=1e-14), weights - RATES[0] * left @ right, rtol=0, atol=1e-10)


def by_torch(kind: Callable[[list[nn.Parameter]], torch.optim.Optimizer], weights: Array, gradients: list[Array], rates: list[float]) -> Array:
    param = nn.Parameter(torch.tensor(weights))
    optimizer = kind([param])
    for rate, gradient in zip(rates, gradients, strict=False):
        optimizer.param_groups[0]["lr"] = rate
        param.grad = torch.tensor(gradient)
        optimizer.step()
        param.data.mul_(1 - rate * DECAY)
    return param.detach().numpy()


@needs_library
@pytest.mark.parametrize("shape", [(6, 4), (4, 2, 3, 3)], ids=str)
def test_soap_without_factors_is_torchs_adamw_that_decays_after_its_step(shape: tuple[int, ...]) -> None:
    """From its second step on, the first of which is Adam's."""
    weights, gradients = drawn(*shape)
    got = moved("soap", weights, gradients, weight_decay=DECAY, epsilon=TINY, max_precondition_dim=1, beta1=0.9, beta2=0.99)
    expected = by_torch(lambda params: torch.optim.Adam(params, betas=(0.9, 0.99), eps=TINY), weights, gradients[1:], RATES[1:])
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@needs_library
def test_soap_of_one_basis_is_torchs_adam_in_it() -> None:
    weights, gradients = drawn(5, 5)
    left, right = (np.linalg.eigh(product)[1] for product in products(gradients[0]))
    got = moved("soap", weights, gradients, weight_decay=DECAY, epsilon=TINY, precondition_frequency=1000)
    rotated = [left.T @ gradient @ right for gradient in gradients[1:]]
    expected = by_torch(lambda params: torch.optim.Adam(params, betas=(0.95, 0.95), eps=TINY), left.T @ weights @ right, rotated, RATES[1:])
    np.testing.assert_allclose(got, left @ expected @ right.T, rtol=0, atol=1e-10)


@needs_library
def test_shampoo_of_diagonal_gradients_is_torchs_adagrad() -> None:
    """Factors are diagonal then: both are epsilon + sum g^2, to the power -1/4 each."""
    random = np.random.default_rng(3)
    weights, gradients = np.diag(random.normal(size=6)), [np.diag(random.normal(size=6)) for _ in RATES]
    got = moved("shampoo", weights, gradients, weight_decay=0.0, epsilon=0.01)
    param = nn.Parameter(torch.tensor(np.diag(weights).copy()))
    optimizer = torch.optim.Adagrad([param], initial_accumulator_value=0.01, eps=0.0)
    for rate, gradient in zip(RATES, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        param.grad = torch.tensor(np.diag(gradient).copy())
        optimizer.step()
    np.testing.assert_allclose(np.diag(got), param.detach().numpy(), rtol=1e-10)
    assert not (got - np.diag(np.diag(got))).any()


@needs_library
@pytest.mark.parametrize("name", BOTH)
def test_weights_may_lie_in_any_way(name: str) -> None:
    """The same numbers in another order of memory: products add them up in another order."""
    weights, gradients = drawn(3, 2, 2, 3)
    expected = moved(name, weights, gradients, epsilon=1e-4)
    for lay in (lambda tensor: tensor.to(memory_format=torch.channels_last), lambda tensor: tensor.transpose(0, 3).contiguous().transpose(0, 3)):
        np.testing.assert_allclose(moved(name, weights, gradients, lay=lay, epsilon=1e-4), expected, rtol=0, atol=1e-9)


@needs_library
@pytest.mark.parametrize("name", BOTH)
def test_a_learning_rate_of_zero_moves_nothing(name: str) -> None:
    weights, gradients = drawn(4, 4)
    model = Weights(weights)
    optimizer = build_optimizer(model, config(name, weight_decay=DECAY))
    for gradient in gradients:
        model.layer.weight.grad = torch.tensor(gradient)
        optimizer.step()
    assert np.array_equal(model.layer.weight.detach().numpy(), weights)


def tensors_in(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values] if values.ndim else []
    return [tensor for value in values for tensor in tensors_in(value)] if isinstance(values, (list, tuple)) else []


@needs_library
@pytest.mark.parametrize("options", [{"name": "soap"}, {"name": "soap", "max_precondition_dim": 8}, {"name": "shampoo"}], ids=str)
def test_state_bytes_are_those_of_the_real_state(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 9), nn.Linear(9, 3))
    made = config(**options)
    optimizer = build_optimizer(model, made, heads=("4.weight",))
    for _ in range(2):
        for param in model.parameters():
            param.grad = torch.randn_like(param)
        optimizer.step()
    held = sum(tensor.nbytes for state in optimizer.state.values() for tensor in tensors_in(list(state.values())))
    shapes = shapes_by_main_rule(model, made, ("4.weight",))
    assert shapes == [(2, 1, 3, 3), (9, 8)]
    assert made.state_bytes(sum(param.numel() for param in model.parameters()), shapes) == held


@needs_library
@pytest.mark.parametrize(("name", "told"), [("soap", "a basis every 10 steps"), ("shampoo", "roots at every step")])
def test_the_plan_says_which_parameters_go_where(name: str, told: str) -> None:
    model = {"name": "lenet", "arguments": {"channels": [2, 2], "width": 8}}
    job = prepared(optimizer={"name": name, "weight_decay": 0.1}, model=model, dataset=synthetic(shape=(1, 16, 16)))
    lines = dict(job.plan_in_words())
    assert re.fullmatch(rf"hidden matrices .*\(weight decay 0\.1, {told}\)", lines[f"by {name}"])
    assert lines["by adamw"].startswith("biases and norms ")
    assert "output heads" in lines["by adamw"]


@needs_library
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("*", "{name} has no hidden matrix to update in this model"),
        ("nothing", "has the pattern 'nothing', which matches no parameter that is trained"),
    ],
)
def test_what_cannot_be_is_refused(name: str, pattern: str, sentence: str) -> None:
    with pytest.raises((PlanError, SpecError), match=sentence.format(name=name)):
        prepared(optimizer={"name": name, "assign": [{"pattern": pattern, "to": "other"}]})


@pytest.mark.parametrize("name", BOTH)
def test_a_rule_that_it_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'0.weight' to 'muon'; it must be to {name} or to other"):
        config(name, assign=[{"pattern": "0.weight", "to": "muon"}])


@pytest.mark.parametrize("name", BOTH)
def test_matrices_in_a_narrow_type_are_refused(name: str) -> None:
    with pytest.raises(PlanError, match=rf"{name} factors matrices in float32 or float64, and the model holds one of shape \(3, 4\) in bfloat16"):
        build_optimizer(nn.Linear(4, 3, bias=False).bfloat16(), config(name))


@pytest.mark.parametrize("name", BOTH)
def test_without_the_library_one_sentence_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    """Beside Python's path lies what is found first, and cannot be imported."""
    (tmp_path / "pytorch_optimizer.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "recipe.json").write_text(json.dumps(document(optimizer={"name": name})))
    done = Forked("-m", "largebatch", "train", "recipe.json", "--dry-run", folder=tmp_path, PYTHONPATH=str(tmp_path))
    said = " ".join(" ".join(done.communicate(timeout=60)).split())
    assert done.returncode == 2, said
    assert f"optimizer.name: {name} comes with the library pytorch_optimizer, which is not installed. pip install 'largebatch[optimizers]'" in said
    assert list(tmp_path.glob("runs/*")) == [], "nothing is written"

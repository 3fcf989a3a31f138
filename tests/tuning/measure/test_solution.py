"""Strangers' models as functions: gradient and curvature against differences of a float64 copy, and what cannot be had in one sentence."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import Net
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from largebatch.jobs.errors import FaultError, InputError
from largebatch.jobs.samples.dataset import Dataset, Images
from largebatch.jobs.tasks.classification import Classification
from largebatch.tuning.measure.sharpness import epsilon_sharpness, top_eigenvalue
from largebatch.tuning.measure.solution import Solution

CPU, CLASSES, SAMPLES = torch.device("cpu"), 3, 12


def convolutions(memory_format: torch.memory_format = torch.contiguous_format) -> nn.Module:
    """Two of them with batch-norm; a layer that is frozen and one that nothing uses."""
    used = {"first": nn.Conv2d(2, 3, 3), "norm": nn.BatchNorm2d(3), "second": nn.Conv2d(3, CLASSES, 2)}
    model = Net(
        lambda m, x: m.second(torch.tanh(m.norm(m.first(m.frozen(x))))).mean((2, 3)),
        **used, frozen=nn.Conv2d(2, 2, 1).requires_grad_(False), unused=nn.Linear(2, 2),
    )  # fmt: skip
    return model.to(memory_format=memory_format)  # type: ignore[call-overload]


def transformer() -> nn.Module:
    """Torch's own layer: attention by scaled_dot_product_attention."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True), 1)
    return Net(lambda m, x: m.head(m.encoder(x.flatten(1).reshape(len(x), -1, 4)).mean(1)), encoder=encoder, head=nn.Linear(4, CLASSES))


def recurrent() -> nn.Module:
    cells = nn.LSTM(8, 3, batch_first=True)
    return Net(lambda m, x: m.head(m.cells(x.flatten(1).reshape(len(x), -1, 8))[0][:, -1]), cells=cells, head=nn.Linear(3, CLASSES))


def layouts() -> nn.Module:
    """Weights that are parts of others, lie transposed, or are used twice."""
    generator = torch.Generator().manual_seed(0)
    sliced = nn.Parameter(torch.randn(32, 9, generator=generator)[:, ::3])
    turned = nn.Parameter(torch.randn(3, 3, generator=generator).t())
    forward = lambda m, x: torch.tanh(x.flatten(1) @ m.sliced.to(x.dtype)) @ m.turned @ torch.tanh(m.again)  # noqa: E731
    return Net(forward, sliced=sliced, turned=turned, again=turned)


def sparse_rows() -> nn.Module:
    rows = nn.Embedding(5, 4, sparse=True)
    numbers = lambda x: (x.flatten(1)[:, :6].abs() * 2).long().clamp(max=4)  # noqa: E731
    return Net(lambda m, x: m.head(torch.tanh(m.rows(numbers(x)).mean(1))), rows=rows, head=nn.Linear(4, CLASSES))


def mixed() -> nn.Module:
    """Float32 and float64 weights."""
    body, head = nn.Linear(32, 3), nn.Linear(3, CLASSES, dtype=torch.float64)
    return Net(lambda m, x: m.head(torch.tanh(m.body(x.flatten(1))).double()), body=body, head=head)


STRANGERS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": convolutions,
    "channels last": lambda: convolutions(torch.channels_last),
    "transformer": transformer,
    "recurrent": recurrent,
    "layouts": layouts,
    "sparse": sparse_rows,
    "mixed": mixed,
}


def solution_of(model: nn.Module, chunk: int = 5) -> Solution:
    generator = torch.Generator().manual_seed(0)
    part = Images(torch.randn(SAMPLES, 2, 4, 4, generator=generator), torch.randint(0, CLASSES, (SAMPLES,), generator=generator))
    dataset = Dataset("made", part, part, CLASSES, (2, 4, 4))
    spec = SimpleNamespace(model=SimpleNamespace(channels_last=False), seed=0)
    job: Any = SimpleNamespace(dataset=dataset, device=CPU, spec=spec, task=Classification(CLASSES))
    return Solution("run", job, model.eval(), SAMPLES, chunk)


def reference_gradient(model: nn.Module, data: Images, weights: Tensor) -> Tensor:
    """In float64, all samples at once; the reference of every derivative here."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    vector_to_parameters(weights, trained)
    loss = functional.cross_entropy(model(data.inputs.double()), data.labels)
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g.to_dense()).reshape(-1) for p, g in zip(trained, gradients, strict=True)])


@pytest.mark.parametrize("stranger", STRANGERS)
def test_gradient_and_curvature(stranger: str) -> None:
    torch.manual_seed(0)
    solution = solution_of(STRANGERS[stranger]())
    data = solution.job.dataset.train
    exact = copy.deepcopy(solution.model).double()
    for parameter in exact.parameters():
        parameter.data = parameter.data.contiguous()
    start = solution.weights
    strides = [parameter.stride() for parameter in solution.parameters]
    assert torch.equal(start, parameters_to_vector([p.contiguous() for p in solution.parameters]))
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss, gradient = solution.loss_and_gradient(start)
    curvature = solution.curvature(direction.to(start))
    with torch.no_grad():
        assert loss == pytest.approx(float(functional.cross_entropy(solution.model(data.inputs).double(), data.labels)), rel=1e-6)
    true = reference_gradient(exact, data, start.double())
    step = 1e-5
    slope = (reference_gradient(exact, data, start + step * direction) - reference_gradient(exact, data, start - step * direction)) / (2 * step)
    # Float32 forward and backward against float64; the difference of gradients errs by step squared.
    assert torch.allclose(gradient.double(), true, rtol=1e-3, atol=1e-5 * float(true.abs().max()))
    assert torch.allclose(curvature.double(), slope, rtol=1e-3, atol=1e-4 * float(slope.abs().max()))
    solution.put(start + 1.0)
    assert torch.allclose(solution.weights, start + 1.0, rtol=1e-6)
    solution.put(start)
    assert [parameter.stride() for parameter in solution.parameters] == strides, "layouts stay"
    assert all(parameter.grad is None for parameter in solution.parameters)


@pytest.mark.parametrize("stranger", ["channels last", "layouts"])
def test_sharpness_and_eigenvalue_of_strangers(stranger: str) -> None:
    torch.manual_seed(0)
    solution = solution_of(STRANGERS[stranger](), SAMPLES)
    size = len(solution.weights)
    columns = torch.stack([solution.curvature(column) for column in torch.eye(size)])
    assert top_eigenvalue(solution) == pytest.approx(float(torch.linalg.eigvalsh((columns + columns.T).double() / 2)[-1]), rel=0.01)
    full, part = epsilon_sharpness(solution, 1e-3), epsilon_sharpness(solution, 1e-3, 4)
    assert full.value > part.value > 0


def odd(use: Callable[[Tensor], Tensor]) -> nn.Module:
    return Net(lambda m, x: m.head(use(torch.tanh(m.body(x.flatten(1))))), body=nn.Linear(32, 4), head=nn.Linear(4, CLASSES))


def fails(error: Exception) -> Callable[[Tensor], Tensor]:
    def use(values: Tensor) -> Tensor:
        raise error

    return use


def test_what_a_model_raises_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"run: the model has no gradient in evaluation mode \(KeyError: 'no'\)"):
        epsilon_sharpness(solution_of(odd(fails(KeyError("no")))), 1e-3)
    with pytest.raises(FaultError, match="run: memory runs out with 5 samples at once"):
        top_eigenvalue(solution_of(odd(fails(torch.OutOfMemoryError("CUDA out of memory")))))

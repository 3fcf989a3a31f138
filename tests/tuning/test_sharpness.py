"""Sharpness against functions whose answer is known, and against a direct search of the box."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from jobs import run_folder
from jobs.errors import InputError
from jobs.job import prepare, run_job
from jobs.listener import Listener
from jobs.spec_reader import build_spec
from tuning.sharpness import Solution, epsilon_sharpness, line, load_solution, top_eigenvalue

CPU = torch.device("cpu")


class Quadratic(Solution):
    """f(w) = base + (w - centre)^T D (w - centre) / 2."""

    def __init__(self, diagonal: list[float], at: list[float], centre: list[float], base: float = 0.3) -> None:
        model = nn.Linear(len(diagonal), 1, bias=False, dtype=torch.float64)
        vector_to_parameters(torch.tensor(at, dtype=torch.float64), model.parameters())
        super().__init__("quadratic", None, model, 1)  # type: ignore[arg-type]
        self.diagonal, self.centre, self.base = torch.tensor(diagonal, dtype=torch.float64), torch.tensor(centre, dtype=torch.float64), base

    def loss(self, weights: Tensor | None = None) -> float:
        away = (self.weights if weights is None else weights) - self.centre
        return self.base + float(away @ (self.diagonal * away)) / 2

    def loss_and_gradient(self, weights: Tensor) -> tuple[float, Tensor]:
        return self.loss(weights), self.diagonal * (weights - self.centre)

    def curvature(self, direction: Tensor) -> Tensor:
        return self.diagonal * direction


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_a_quadratics_box(epsilon: float) -> None:
    """The largest value of a separable convex function is at the corner away from its centre on every axis."""
    diagonal, at, centre = [4.0, 1.0, 0.25, 9.0], [1.0, -2.0, 0.5, 0.1], [0.9, -1.5, 0.5, 0.2]
    function = Quadratic(diagonal, at, centre)
    highest = 0.3 + sum(d * (abs(a - c) + epsilon * (abs(a) + 1)) ** 2 / 2 for d, a, c in zip(diagonal, at, centre, strict=True))
    here = function.loss()
    found = epsilon_sharpness(function, epsilon)
    # Ten iterations leave the last part of the way on the axis that hardly matters.
    assert found.value == pytest.approx(100 * (highest - here) / (1 + here), rel=1e-3)
    assert torch.equal(function.weights, torch.tensor(at, dtype=torch.float64)), "the weights are as they were"


def test_at_the_very_minimum_there_is_a_way_up_too() -> None:
    function = Quadratic([2.0, 2.0], [1.0, 1.0], [1.0, 1.0])
    assert epsilon_sharpness(function, 0.1).value == pytest.approx(100 * 2 * 0.2**2 / 1.3, rel=1e-3)


def test_the_subspace_is_a_part_of_the_whole() -> None:
    generator = np.random.default_rng(0)
    function = Quadratic(list(generator.uniform(0.5, 5, 60)), list(generator.normal(size=60)), [0.0] * 60)
    whole, part = epsilon_sharpness(function, 0.01), epsilon_sharpness(function, 0.01, 5)
    assert 0 < part.value < whole.value
    assert part == epsilon_sharpness(function, 0.01, 5), "drawn from a seed"


@pytest.mark.parametrize("diagonal", [[3.0, -8.0, 0.5, 7.0, 1.0], [2.0, 1.0]])
def test_the_top_eigenvalue_is_the_largest_not_the_longest(diagonal: list[float]) -> None:
    zeros = [0.0] * len(diagonal)
    assert top_eigenvalue(Quadratic(diagonal, zeros, zeros)) == pytest.approx(max(diagonal), rel=1e-3)


def document(**parts: Any) -> dict[str, Any]:
    return {
        "dataset": {"name": "digits"},
        "model": {"name": "mlp", "arguments": {"width": 4, "batch_norm": True}},
        "batch": {"global_batch_size": 256},
        "optimizer": {"name": "sgd"},
        "learning_rate": {"base": 0.1},
        "stop": {"steps": 60},
        **parts,
    }


def trained(folder: Path, **parts: Any) -> Path:
    run_dir = run_folder.create(folder, "run")
    run_job(prepare(build_spec(document(**parts)), CPU, Path("data")), run_dir, Listener())
    return run_dir


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = tmp_path_factory.mktemp("solutions")
    return trained(made / "one"), trained(made / "two", seed=1, ema={"decay": 0.5})


def test_a_trained_network_against_a_direct_search(runs: tuple[Path, Path]) -> None:
    solution = load_solution(runs[0], CPU, Path("data"), 500)
    found = epsilon_sharpness(solution, 0.01).value
    start, here = solution.weights, solution.loss()
    reach, generator = 0.01 * (start.abs() + 1), torch.Generator().manual_seed(0)
    best = here
    for _ in range(300):
        corner = torch.randint(0, 2, start.shape, generator=generator) * 2.0 - 1
        best = max(best, solution.loss(start + reach * corner))
    _, gradient = solution.loss_and_gradient(start)
    best = max(best, solution.loss(start + reach * gradient.sign()))
    assert found >= 100 * (best - here) / (1 + here) * 0.999


def test_curvature_is_the_gradients_change(runs: tuple[Path, Path]) -> None:
    solution = load_solution(runs[0], CPU, Path("data"), 300)
    solution.model.double()
    solution.job.model.double()
    start = solution.weights
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    data = [(inputs.double(), labels) for inputs, labels in chunks(solution)]

    def gradient(weights: Tensor) -> Tensor:
        vector_to_parameters(weights, solution.model.parameters())
        losses = [nn.functional.cross_entropy(solution.model(inputs), labels, reduction="sum") for inputs, labels in data]
        return parameters_to_vector(torch.autograd.grad(torch.stack(losses).sum() / 300, list(solution.model.parameters())))

    step = 1e-6
    slope = (gradient(start + step * direction) - gradient(start - step * direction)) / (2 * step)
    vector_to_parameters(start, solution.model.parameters())
    single = load_solution(runs[0], CPU, Path("data"), 300)
    assert torch.allclose(single.curvature(direction.float()).double(), slope, rtol=1e-2, atol=1e-3 * float(slope.abs().max()))


def chunks(solution: Solution) -> Any:
    from jobs.job import evaluation_batches
    from jobs.plan import Slice

    return [evaluation_batches(solution.job, solution.job.dataset.train).read(Slice(0, 0, solution.num_samples))]


def test_the_ends_of_a_line_are_the_solutions(runs: tuple[Path, Path]) -> None:
    one, two = (load_solution(run, CPU, Path("data"), 1437) for run in runs)
    for is_curved in (False, True):
        points = {round(point.at, 6): point for point in line(one, two, is_curved=is_curved, points=7)}
        assert sorted(points) == [-1, -0.5, 0, 0.5, 1, 1.5, 2]
        for at, solution in ((0.0, one), (1.0, two)):
            # Statistics are taken anew, so not to the last digit.
            assert points[at].train_loss == pytest.approx(solution.loss(), rel=0.3)
            assert points[at].train_accuracy > 0.6
        assert points[0.5].train_loss > min(points[0.0].train_loss, points[1.0].train_loss)
        assert math.isfinite(points[2.0].test_loss)
    assert not one.model.training


def test_two_architectures_are_not_joined(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = trained(tmp_path, model={"name": "mlp", "arguments": {"width": 5}}, stop={"steps": 2})
    with pytest.raises(InputError, match="other weights"):
        line(load_solution(runs[0], CPU, Path("data")), load_solution(other, CPU, Path("data")))

"""Sharpness against functions whose answer is known, and against a direct search of the box."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
from command_line import largebatch
from small_runs import CPU, prepared
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from largebatch.jobs.errors import InputError
from largebatch.tuning.measure.lines import line
from largebatch.tuning.measure.sharpness import epsilon_sharpness, sharpness_rows, slope_in_words, top_by_power_iteration, top_eigenvalue
from largebatch.tuning.measure.solution import Solution, load_solution
from largebatch.tuning.measure.subspace import Subspace


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


@pytest.mark.parametrize("dimensions", [None, 3])
def test_the_slope_that_training_left_is_told_from_curvature(dimensions: int | None) -> None:
    """Against the plane and the parabola themselves; the first doubles with epsilon, the second grows fourfold."""
    diagonal, at, centre = [4.0, 1.0, 0.25, 9.0], [1.0, -2.0, 0.5, 0.1], [-0.6, 1.5, 9.5, -0.2]
    function = Quadratic(diagonal, at, centre)
    here, slope = function.loss(), torch.tensor([d * (a - c) for d, a, c in zip(diagonal, at, centre, strict=True)], dtype=torch.float64)
    weights = torch.tensor(at, dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    if dimensions is not None:
        basis = Subspace(weights, dimensions, seed=0)
        matrix = torch.stack([basis.spread(axis) for axis in torch.eye(dimensions, dtype=torch.float64)], dim=1)
    small, large = (epsilon_sharpness(function, epsilon, dimensions) for epsilon in (1e-3, 2e-3))
    for value in (small, large):
        reach = value.epsilon * ((torch.linalg.pinv(matrix) @ weights).abs() + 1)
        corner = reach * (matrix.T @ slope).sign()
        plane, parabola = slope @ matrix @ corner, (matrix @ corner) @ (torch.tensor(diagonal, dtype=torch.float64) * (matrix @ corner)) / 2
        assert value.linear == pytest.approx(100 * float(plane) / (1 + here), rel=1e-9)
        assert value.curved == pytest.approx(100 * float(parabola) / (1 + here), rel=1e-6)
        assert value.value == pytest.approx(value.linear + value.curved, rel=1e-9), "the largest value is at that corner"
    assert large.linear / small.linear == pytest.approx(2)
    assert large.curved / small.curved == pytest.approx(4)


@pytest.mark.parametrize("dimensions", [None, 3])
def test_where_little_gradient_is_left_the_corner_is_found(dimensions: int | None) -> None:
    """By itself the search ends where it begins: the gradient is below its tolerance."""
    function = Quadratic([1e-9] * 4, [1.0, -2.0, 0.5, 0.1], [-0.6, 1.5, 9.5, -0.2])
    found = epsilon_sharpness(function, 1e-3, dimensions)
    assert found.value == pytest.approx(found.linear, rel=1e-2)


def test_longer_columns_are_a_larger_box() -> None:
    """Against the plane over the box of A = 7 (unit columns): |z_i| <= epsilon (|(A^+ x)_i| + 1)."""
    function = Quadratic([1e-9] * 4, [1.0, -2.0, 0.5, 0.1], [-0.6, 1.5, 9.5, -0.2])
    basis = Subspace(function.weights, 3, seed=0)
    matrix = 7 * torch.stack([basis.spread(axis) for axis in torch.eye(3, dtype=torch.float64)], dim=1)
    reach = 1e-3 * ((torch.linalg.pinv(matrix) @ function.weights).abs() + 1)
    plane = float(reach @ (matrix.T @ function.loss_and_gradient(function.weights)[1]).abs())
    assert epsilon_sharpness(function, 1e-3, 3, length=7.0).linear == pytest.approx(100 * plane / (1 + function.loss()), rel=1e-9)


def test_a_sharpness_that_is_mostly_slope_is_said() -> None:
    steep, flat = Quadratic([1.0] * 4, [1.0] * 4, [9.0] * 4), Quadratic([1.0] * 4, [1.0] * 4, [1.0] * 4)
    (told,) = slope_in_words("batch 16", [epsilon_sharpness(steep, 1e-3, 2)._asdict()])
    assert re.match(r"Sharpness of batch 16 in random directions is for (9\d\.\d|100\.0)% the slope that training left, not curvature", told)
    assert slope_in_words("batch 16", [epsilon_sharpness(flat, 1e-3, 2)._asdict()]) == []
    before = {"epsilon": 1e-3, "dimensions": 100, "value": 0.1}
    assert slope_in_words("batch 16", [before]) == [], "a study of before does not know"
    assert sharpness_rows([{"sharpness": [before]}]) == [("epsilon 0.001, random 100", [0.1])]


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


@pytest.mark.parametrize("diagonal", [[3.0, -8.0, 0.5, 7.0, 1.0], [3.0, 8.0, 0.5, 7.0, 1.0], [-3.0, -8.0, -0.5], [8.0, -8.0, 1.0], [0.0] * 4])
def test_power_iteration(diagonal: list[float]) -> None:
    """What goes on where Lanczos does not converge."""
    # A residual of a hundredth of the largest size, 0.08, leaves the square of it over the gap to the next eigenvalue, 1 at the least.
    assert by_power_iteration(diagonal, 300) == pytest.approx(max(diagonal), abs=0.0064)


def test_an_eigenvalue_that_does_not_settle_is_none() -> None:
    assert by_power_iteration([1.0, 2.0, 3.0], 1) is None


def by_power_iteration(diagonal: list[float], iterations: int) -> float | None:
    start = np.random.default_rng(0).standard_normal(len(diagonal))
    return top_by_power_iteration(lambda direction: np.array(diagonal) * direction, start, 0.01, iterations)


def test_a_hessian_of_zeros_has_the_eigenvalue_zero() -> None:
    assert top_eigenvalue(Quadratic([0.0] * 30, [0.0] * 30, [0.0] * 30)) == 0.0


def test_fewer_weights_than_dimensions() -> None:
    function = Quadratic([2.0, 1.0, 3.0], [1.0, -1.0, 0.5], [0.0, 0.0, 0.0])
    found = epsilon_sharpness(function, 0.01, 100)
    assert found.dimensions == 3
    assert math.isfinite(found.value)
    assert found.value > 0


@pytest.mark.parametrize("most_bytes", [2**30, 8 * 5 * 17])
def test_a_subspace_kept_or_drawn_anew_is_its_matrix(most_bytes: int) -> None:
    weights = torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    drawn = Subspace(weights, 5, seed=0, most_bytes=most_bytes)
    matrix = torch.stack([drawn.spread(axis) for axis in torch.eye(5, dtype=torch.float64)], dim=1)
    assert torch.allclose(matrix.norm(dim=0), torch.ones(5, dtype=torch.float64))
    assert torch.linalg.matrix_rank(matrix) == 5
    assert torch.allclose(drawn.project(weights), matrix.T @ weights)
    assert torch.allclose(drawn.seen_from(weights), torch.linalg.pinv(matrix) @ weights)
    assert torch.equal(drawn.spread(weights[:5]), Subspace(weights, 5, 0, most_bytes).spread(weights[:5]))


def trained(folder: Path, **parts: Any) -> Path:
    own = {
        "dataset": {"name": "digits"},
        "model": {"name": "mlp", "arguments": {"width": 4, "batch_norm": True}},
        "batch": {"global_batch_size": 256},
    }
    small_runs.trained(prepared(**{**own, "learning_rate": {"base": 0.1}, "stop": {"steps": 60}, **parts}), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = tmp_path_factory.mktemp("solutions")
    return trained(made / "one"), trained(made / "two", seed=1, ema={"decay": 0.5})


def test_a_trained_network_against_a_direct_search(runs: tuple[Path, Path]) -> None:
    solution = load_solution(runs[0], CPU, Path("data"), 500)
    found = epsilon_sharpness(solution, 0.01).value
    start = solution.weights
    here = solution.loss_and_gradient(start)[0]
    reach, generator = 0.01 * (start.abs() + 1), torch.Generator().manual_seed(0)
    best = here
    for _ in range(300):
        corner = torch.randint(0, 2, start.shape, generator=generator) * 2.0 - 1
        best = max(best, solution.loss_and_gradient(start + reach * corner)[0])
    _, gradient = solution.loss_and_gradient(start)
    best = max(best, solution.loss_and_gradient(start + reach * gradient.sign())[0])
    assert found >= 100 * (best - here) / (1 + here) * 0.999


def test_a_small_curvature_is_not_lost_in_the_rounding_of_float32(runs: tuple[Path, Path]) -> None:
    """Against differences of float64 losses; the kinks of ReLU leave a fifth, and the losses of float32 differ in their last digits only."""
    solution = load_solution(runs[0], CPU, Path("data"), 500)
    single = epsilon_sharpness(solution, 3e-4, 5)
    solution.model.double()
    solution.model.register_forward_pre_hook(lambda model, inputs: tuple(each.double() for each in inputs))
    exact = epsilon_sharpness(solution, 3e-4, 5, small=-1.0)
    assert abs(exact.curved) < 1e-2 * exact.value
    assert single.curved == pytest.approx(exact.curved, rel=0.3)
    assert single.linear == pytest.approx(exact.linear, rel=1e-5)


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
    from largebatch.jobs.preparing.batches import evaluation_batches
    from largebatch.jobs.samples.slice import Slice

    return [evaluation_batches(solution.job, solution.part).read(Slice(0, 0, solution.num_samples))]


def test_the_ends_of_a_line_are_the_solutions(runs: tuple[Path, Path]) -> None:
    one, two = (load_solution(run, CPU, Path("data"), 1437) for run in runs)
    for is_curved in (False, True):
        points = {round(point.at, 6): point for point in line(one, two, is_curved=is_curved, points=7)}
        assert sorted(points) == [-1, -0.5, 0, 0.5, 1, 1.5, 2]
        for at, solution in ((0.0, one), (1.0, two)):
            # Statistics are taken anew, so not to the last digit.
            assert points[at].train_loss == pytest.approx(solution.loss_and_gradient(solution.weights)[0], rel=0.3)
            assert points[at].train_score > 0.6
        assert points[0.5].train_loss > min(points[0.0].train_loss, points[1.0].train_loss)
        assert math.isfinite(points[2.0].loss)
    assert not one.model.training


STRANGER = """
import torch
from pathlib import Path
from small_runs import Net
from torch import nn

BROKEN = Path(__file__).with_name("broken")

class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        return inputs * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * 2

def logits(model, inputs):
    if BROKEN.exists():
        raise KeyError("broken")
    return model.head(Once.apply(model.body(inputs.flatten(1))))

def kinked(model, inputs):
    return model.head(inputs.flatten(1)) + model.kink.abs() ** 1.5  # its second derivative at 0 is not finite

def build(num_classes):
    return Net(logits, body=nn.Linear(64, 3), head=nn.Linear(3, num_classes))

def build_kinked(num_classes):
    return Net(kinked, head=nn.Linear(64, num_classes), kink=nn.Parameter(torch.zeros(num_classes)))
"""


def test_what_has_no_second_derivative_costs_the_command_only_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "once_only.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = trained(tmp_path, model={"entry_point": "once_only:build"}, stop={"steps": 2})
    command = ["sharpness", str(run), "--device", "cpu", "--samples", "50", "--dimensions", "3"]
    result = largebatch(*command, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    (failed,) = found["failed"]
    assert failed["what"] == "top Hessian eigenvalue of run"
    assert failed["why"].startswith("run: the model has no second derivative (RuntimeError: trying to differentiate twice")
    assert f"Left out: top Hessian eigenvalue of run. {failed['why']}" in result.stderr
    assert [value["dimensions"] for value in found["solutions"][0]["sharpness"]] == [None, 3, None, 3]
    assert "not measured" in largebatch(*command).stdout
    kinked = trained(tmp_path / "kinked", model={"entry_point": "once_only:build_kinked"}, stop={"steps": 2})
    assert "did not settle" in largebatch("sharpness", kinked, *command[2:]).stdout
    (tmp_path / "broken").touch()
    with pytest.raises(InputError, match="broken"):
        largebatch(*command)


def test_samples_that_are_read_one_by_one_have_the_same_sharpness(tmp_path: Path) -> None:
    """A data set class of a person's own is no `TensorDataset`: its samples are read, pass after pass."""
    told = []
    for one_by_one in (False, True):
        run = trained(
            tmp_path / str(one_by_one),
            task={"name": "language-modelling"},
            dataset={"entry_point": "own_tasks:documents", "arguments": {"one_by_one": one_by_one}},
            model={"name": "transformer", "arguments": {"width": 8, "depth": 1, "num_heads": 2}},
            batch={"global_batch_size": 20},
            stop={"steps": 3},
        )
        result = largebatch("sharpness", str(run), "--device", "cpu", "--samples", "50", "--dimensions", "3", "--json")
        told.append({key: value for key, value in json.loads(result.stdout).items() if key != "seconds"})
    assert told[0]["failed"] == told[1]["failed"] == []
    assert told[0]["solutions"][0]["sharpness"] == told[1]["solutions"][0]["sharpness"]


@pytest.mark.parametrize("weights", [(), (1.0, 1.0, 1.0, 1.0), (1.0, 3.0, 1.0, 0.5)])
def test_the_loss_has_no_label_smoothing_with_class_weights_nor_without(weights: tuple[float, ...], tmp_path: Path) -> None:
    task = {"name": "classification", "class_weights": [*weights]}
    run = trained(
        tmp_path, task=task, dataset=small_runs.synthetic(), loss={"label_smoothing": 0.3}, batch={"global_batch_size": 32}, stop={"steps": 3}
    )
    solution = load_solution(run, CPU, Path("data"), 64)
    inputs, labels = chunks(solution)[0]
    with torch.no_grad():
        losses = nn.functional.cross_entropy(solution.model(inputs).double(), labels, reduction="none")
    shares = torch.tensor(weights or [1.0] * 4, dtype=torch.float64)[labels]
    expected = float((losses * shares).sum() / shares.sum())
    assert solution.loss_and_gradient(solution.weights)[0] == pytest.approx(expected, rel=1e-9)


def test_an_own_loss_of_all_samples_together_is_not_sharp(tmp_path: Path) -> None:
    own = {name: {"entry_point": f"own_tasks:{what}"} for name, what in (("task", "Coupled"), ("dataset", "views"), ("model", "Towers"))}
    run = trained(tmp_path, **own, batch={"global_batch_size": 32, "micro_batch_size": 32}, stop={"steps": 1}, gradient={"noise_every_steps": 0})
    with pytest.raises(InputError, match="its loss looks at all samples of a batch together"):
        load_solution(run, CPU, Path("data"))


def test_two_architectures_are_not_joined(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = trained(tmp_path, model={"name": "mlp", "arguments": {"width": 5}}, stop={"steps": 2})
    with pytest.raises(InputError, match="other weights"):
        line(load_solution(runs[0], CPU, Path("data")), load_solution(other, CPU, Path("data")))


def test_solutions_of_other_data_are_not_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    shape = {"shape": [1, 8, 8], "num_train": 100, "num_test": 10}
    other = trained(tmp_path, dataset={"name": "synthetic", "arguments": shape}, batch={"global_batch_size": 50}, stop={"steps": 2})
    told = r"run was trained on synthetic \(num_test 10, num_train 100, shape \[1, 8, 8\]\), run on digits"
    with pytest.raises(InputError, match=told):
        line(load_solution(runs[0], CPU, Path("data")), load_solution(other, CPU, Path("data")))
    with pytest.raises(InputError, match=told):
        largebatch("sharpness", runs[0], other, "--device", "cpu")


def test_the_command_prints_the_lines_and_their_conditions(runs: tuple[Path, Path], tmp_path: Path) -> None:
    options = ["--device", "cpu", "--samples", "50", "--points", "4", "--dimensions", "3", "--figure", str(tmp_path)]
    said = largebatch("sharpness", *runs, *options).stdout
    assert "top Hessian eigenvalue" in said
    for name in ("straight", "curved"):
        assert f"Along the {name} line, from run (at 0) to run (at 1):" in said
        assert (tmp_path / f"line-{name}.png").is_file()
    assert said.count("train score") == said.count("test loss") == 2
    assert "mlp (batch_norm True, width 4) on digits, cpu" in said
    assert "seeds 0 and 1; 50 training samples and the whole test set" in said

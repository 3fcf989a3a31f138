"""How sharp a minimum is: epsilon-sharpness, the top Hessian eigenvalue, and lines between two solutions.

f is the mean cross-entropy of the first `num_samples` training images, without augmentation, in evaluation mode: a
function of the weights alone. Full-space sharpness changes under re-parametrisations that change no prediction
(Dinh et al., arXiv:1703.04933): compare solutions of one architecture and one recipe with each other, nothing else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from jobs import checkpoints, run_folder
from jobs.data.batches import Batches
from jobs.engine.evaluate import Score, evaluate
from jobs.errors import InputError
from jobs.job import Prepared, evaluation_batches, new_state, prepare
from jobs.models.ghost_batch_norm import GhostBatchNorm
from jobs.plan import Slice
from jobs.spec_reader import resumed_spec
from jobs.tracking.mlflow_mirror import flat
from tuning.analysis.line_point import LinePoint
from tuning.collect import described
from tuning.subspace import Subspace

Vector = NDArray[np.float64]
CHUNK = 1000
NUM_SAMPLES = 5000
LINE_POINTS = 25
SUBSPACE = 100
ITERATIONS = 10
SIZE_ITERATIONS, POWER_ITERATIONS = 30, 300
START_ASIDE = 0.01
"""Where the search for the largest loss begins, as a fraction of the way to a random corner of the box."""


class Sharpness(NamedTuple):
    """Keskar et al., arXiv:1609.04836, Metric 2.1: 100 (max f in the box - f) / (1 + f)."""

    epsilon: float
    dimensions: int | None
    """Of the random subspace; None: all weights."""
    value: float


@dataclass
class Solution:
    """A run's final weights, with its data."""

    name: str
    job: Prepared
    model: nn.Module
    """In evaluation mode, with the weights that are evaluated."""
    num_samples: int

    @property
    def setting(self) -> str:
        """Model and data set in words."""
        fields = flat(self.job.spec.model_dump(mode="json"))
        return f"{described(fields, 'model')} on {described(fields, 'dataset')}"

    @property
    def weights(self) -> Tensor:
        """All trainable weights, flat."""
        return parameters_to_vector(_trained(self.model)).detach().clone()

    def loss(self, weights: Tensor | None = None) -> float:
        """F at other weights, or at its own."""
        with torch.no_grad():
            return self._sum(weights, lambda loss: None)

    def loss_and_gradient(self, weights: Tensor) -> tuple[float, Tensor]:
        """F and its gradient, flat."""
        self.model.zero_grad()
        value = self._sum(weights, lambda loss: loss.backward())  # type: ignore[no-untyped-call]
        return value, _flat_gradient(_trained(self.model))

    def _sum(self, weights: Tensor | None, use: Callable[[Tensor], None]) -> float:
        if weights is not None:
            vector_to_parameters(weights, _trained(self.model))
        total, batches = 0.0, evaluation_batches(self.job, self.job.dataset.train)
        for inputs, labels in _chunks(batches, self.num_samples):
            loss = functional.cross_entropy(self.model(inputs).float(), labels, reduction="sum") / self.num_samples
            use(loss)
            total += float(loss.detach())
        return total

    def curvature(self, direction: Tensor) -> Tensor:
        """The Hessian of f at the weights in force, times a direction."""
        parameters = _trained(self.model)
        total = torch.zeros_like(direction)
        for inputs, labels in _chunks(evaluation_batches(self.job, self.job.dataset.train), self.num_samples):
            loss = functional.cross_entropy(self.model(inputs).float(), labels, reduction="sum") / self.num_samples
            gradient = parameters_to_vector(torch.autograd.grad(loss, parameters, create_graph=True))
            total += parameters_to_vector(torch.autograd.grad(gradient @ direction, parameters))
        return total


def load_solution(run_dir: Path, device: torch.device, data_dir: Path, num_samples: int = NUM_SAMPLES) -> Solution:
    """A run's newest checkpoint as a function. Raises: CheckpointError for a folder without one; DataError."""
    if not (run_dir / run_folder.SPEC).is_file():
        raise InputError("RUN", f"{run_dir} is not a run's folder: it has no {run_folder.SPEC}.", "Give the folder that the run printed.")
    spec = resumed_spec(run_dir, [])
    loaded = checkpoints.load_newest(run_dir / run_folder.CHECKPOINTS, device, lambda text: None)
    job = prepare(spec, device, data_dir)
    state = new_state(job)
    state.load_state_dict(loaded["state"])
    if state.average:
        state.average.swap()
    return Solution(run_dir.name, job, state.model.eval(), min(num_samples, len(job.dataset.train)))


def epsilon_sharpness(solution: Solution, epsilon: float, dimensions: int | None = None, seed: int = 0) -> Sharpness:
    """The largest relative growth of f in a small box, by ten iterations of L-BFGS-B as in the paper.

        max over |z_i| <= epsilon (|(A^+ x)_i| + 1) of f(x + A z)

    Args:
        dimensions: columns of A, which are random and of length one (the paper leaves their length open); at most as many as there are
            weights; None: A = I.
    """
    start = solution.weights
    try:
        if dimensions is None:
            return Sharpness(epsilon, None, _largest_growth(solution, start, epsilon, start.abs(), _same, _same))
        basis = Subspace(start, min(dimensions, len(start)), seed)
        value = _largest_growth(solution, start, epsilon, basis.seen_from(start).abs(), basis.spread, basis.project)
        return Sharpness(epsilon, basis.dimensions, value)
    finally:
        vector_to_parameters(start, _trained(solution.model))


def _same(vector: Tensor) -> Tensor:
    return vector


def _largest_growth(
    solution: Solution, start: Tensor, epsilon: float, seen_from: Tensor, spread: Callable[[Tensor], Tensor], project: Callable[[Tensor], Tensor]
) -> float:
    """Args: seen_from: |A^+ x|; spread: z to A z; project: g to A^T g."""
    from scipy.optimize import minimize

    here = solution.loss(start)
    reach = (epsilon * (seen_from + 1)).cpu().double().numpy()
    highest = here

    def fall(z: Vector) -> tuple[float, Vector]:
        nonlocal highest
        value, gradient = solution.loss_and_gradient(start + spread(torch.from_numpy(z).to(start)))
        if not math.isfinite(value):
            return -highest, np.zeros_like(z)
        highest = max(highest, value)
        return -value, -project(gradient).cpu().double().numpy()

    # At a minimum the gradient is zero, and the search would end where it begins.
    aside = START_ASIDE * reach * np.random.default_rng(0).choice([-1.0, 1.0], len(reach))
    minimize(fall, aside, jac=True, method="L-BFGS-B", bounds=np.stack([-reach, reach], axis=1), options={"maxiter": ITERATIONS})
    return 100 * (highest - here) / (1 + here)


def top_eigenvalue(solution: Solution, tolerance: float = 0.01) -> float | None:
    """The largest eigenvalue of the Hessian of f, by Lanczos (scipy's eigsh) on Hessian-vector products.

    Where Lanczos does not converge, as near a Hessian of zeros, power iteration takes over; None where that does not settle either.

    Args: tolerance: relative.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    weights = solution.weights
    size = len(weights)

    def times(direction: Vector) -> Vector:
        return solution.curvature(torch.from_numpy(direction.reshape(-1)).to(weights)).cpu().double().numpy()

    if size < 3:
        columns = np.stack([times(column) for column in np.eye(size)])
        return float(np.linalg.eigvalsh(columns)[-1])
    start = np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size, size), matvec=times, dtype=np.float64)
    try:
        return float(eigsh(operator, k=1, which="LA", tol=tolerance, v0=start, maxiter=100, return_eigenvectors=False)[0])
    except ArpackError:
        return _top_by_power_iteration(times, start, tolerance)


def _top_by_power_iteration(times: Callable[[Vector], Vector], start: Vector, tolerance: float) -> float | None:
    """Of H + |H|, whose eigenvalues are not below zero, the largest is H's largest plus |H|. None where it does not settle.

    Args: tolerance: of the residual, relative to |H|.
    """
    direction, size = start / np.linalg.norm(start), 0.0
    for _ in range(SIZE_ITERATIONS):
        turned = times(direction)
        size = float(np.linalg.norm(turned))
        if size == 0:
            return 0.0
        direction = turned / size
    direction = start / np.linalg.norm(start)
    for _ in range(POWER_ITERATIONS):
        turned = times(direction) + size * direction
        value = float(direction @ turned)
        if np.linalg.norm(turned - value * direction) <= tolerance * size:
            return value - size
        direction = turned / np.linalg.norm(turned)
    return None


def refuse_unlike(first: Solution, second: Solution) -> None:
    """Raises: InputError for solutions of two architectures, or trained on different data: nothing of them can be compared."""
    of_first, of_second = (described(flat(one.job.spec.model_dump(mode="json")), "dataset") for one in (first, second))
    if of_first != of_second:
        told = f"{second.name} was trained on {of_second}, {first.name} on {of_first}: losses of different data cannot be compared."
        raise InputError("RUN2", told, "Give two runs on the same data.")
    if [p.shape for p in _trained(first.model)] != [p.shape for p in _trained(second.model)]:
        raise InputError("RUN2", f"{second.name} has other weights than {first.name}: no line joins them.", "Give two runs of one model.")


def line(first: Solution, second: Solution, *, is_curved: bool = False, points: int = LINE_POINTS) -> list[LinePoint]:
    """Loss and accuracy along f(a x_2 + (1 - a) x_1), or f(sin(a pi/2) x_2 + cos(a pi/2) x_1), for a from -1 to 2.

    Running statistics mean nothing between two networks, so batch-norm takes those of the samples at each place.
    Raises: InputError for two architectures, or different data.
    """
    refuse_unlike(first, second)
    one, other = first.weights, second.weights
    state = new_state(first.job)
    state.model, state.average = first.model, None
    held = [buffer.clone() for buffer in first.model.buffers()]
    found = []
    try:
        for at in np.linspace(-1, 2, points):
            to, of = (math.sin(at * math.pi / 2), math.cos(at * math.pi / 2)) if is_curved else (at, 1 - at)
            vector_to_parameters(float(to) * other + float(of) * one, _trained(first.model))
            _take_statistics(first)
            train, test = _scores(first, state)
            found.append(LinePoint(float(at), train.loss, train.accuracy, test.loss, test.accuracy))
    finally:
        vector_to_parameters(one, _trained(first.model))
        for buffer, value in zip(first.model.buffers(), held, strict=True):
            buffer.copy_(value)
    return found


def _scores(solution: Solution, state: Any) -> tuple[Score, Score]:
    dataset = solution.job.dataset
    scores = (
        evaluate(state, evaluation_batches(solution.job, dataset.train), solution.num_samples, False),
        evaluate(state, evaluation_batches(solution.job, dataset.test), len(dataset.test), False),
    )
    solution.model.eval()  # evaluating leaves it ready to train on
    return scores


@torch.no_grad()
def _take_statistics(solution: Solution) -> None:
    """Let every batch-norm average its statistics over the samples."""
    norms = [module for module in solution.model.modules() if isinstance(module, GhostBatchNorm) and module.running_mean is not None]
    if not norms:
        return
    held = [(norm.momentum, norm.span) for norm in norms]
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0)
        norm.num_batches_tracked.zero_()
        norm.momentum, norm.span = None, CHUNK
        norm.train()
    for inputs, _ in _chunks(evaluation_batches(solution.job, solution.job.dataset.train), solution.num_samples):
        solution.model(inputs)
    for norm, (momentum, span) in zip(norms, held, strict=True):
        norm.momentum, norm.span = momentum, span
        norm.eval()


def _chunks(batches: Batches, num_samples: int) -> Any:
    return (batches.read(Slice(0, start, min(start + CHUNK, num_samples))) for start in range(0, num_samples, CHUNK))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _flat_gradient(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])

"""How sharp a minimum is: epsilon-sharpness, with what of it is only the slope that training left, and the top eigenvalue of the Hessian.

Full-space sharpness changes under re-parametrisations that change no prediction (Dinh et al., arXiv:1703.04933): compare
solutions of one architecture and one recipe with each other, nothing else.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

from largebatch.tuning.measure.solution import Solution
from largebatch.tuning.measure.subspace import Subspace

Vector = NDArray[np.float64]
MOSTLY_SLOPE = 0.5
"""Of a sharpness: from such a share on a person is told."""
SIZE_ITERATIONS, POWER_ITERATIONS = 30, 300
"""Of power iteration, for the size of the Hessian, and then for its top eigenvalue."""
TOLERANCE = 0.01
"""Of the top eigenvalue, relative."""
LANCZOS_RESTARTS = 100
BOX_ITERATIONS = 10
"""Of L-BFGS-B, which searches the box for the largest loss; the paper's."""
ASIDE = 0.01
"""Where that search begins, as a fraction of the way to a random corner: at a minimum the gradient is zero, and it would end where it begins."""
SMALL, MIDPOINTS = 1e-3, 4
"""Below this growth, relative, what lies beyond the plane is summed up from the gradients at so many points on the way: between two losses of float32
it is lost in their rounding."""


class Sharpness(NamedTuple):
    """Keskar et al., arXiv:1609.04836, Metric 2.1: 100 (max f in the box - f) / (1 + f).

    Where training has left a gradient g, and the box is small, it is the height of the plane with that slope and says nothing of curvature.
    """

    epsilon: float
    dimensions: int | None
    """Of the random subspace; None: all weights."""
    value: float
    linear: float
    """The same of the plane alone, over the whole box: 100 sum_i reach_i |(A^T g)_i| / (1 + f). It doubles with epsilon; curvature grows fourfold."""
    curved: float
    """What `value` has beyond the plane at the place of the largest loss: 100 (f(x + A z) - f - g A z) / (1 + f)."""


def epsilon_sharpness(solution: Solution, epsilon: float, dimensions: int | None = None, length: float = 1.0, small: float = SMALL) -> Sharpness:
    """The largest relative growth of f in a small box, by L-BFGS-B as in the paper, or at the corner where the gradient points.

        max over |z_i| <= epsilon (|(A^+ x)_i| + 1) of f(x + A z)

    Args:
        dimensions: columns of A, which are random; at most as many as there are weights; None: A = I.
        small: see `SMALL`.
        length: of the columns, which the paper leaves open; normal draws as they come have the root of the number of weights.
    Raises: InputError for a model without a gradient in evaluation mode; FaultError.
    """
    start = solution.weights
    space = None if dimensions is None else Subspace(start, min(dimensions, len(start)), seed=0)
    reach = epsilon * (start.abs() + 1) if space is None else epsilon * length * (space.seen_from(start).abs() / length + 1)
    try:
        return Sharpness(epsilon, None if space is None else space.dimensions, *_largest_growth(solution, reach, space, small))
    finally:
        solution.put(start)


def _largest_growth(solution: Solution, box: Tensor, space: Subspace | None, small: float) -> tuple[float, float, float]:
    """(value, linear, curved). Args: box: how far z may go on each axis; space: None: all weights."""
    start = solution.weights

    def loss_at(z: Vector) -> tuple[float, Vector]:
        step = torch.from_numpy(z).to(start)
        loss, gradient = solution.loss_and_gradient(start + (step if space is None else space.spread(step)))
        return loss, (gradient if space is None else space.project(gradient)).cpu().double().numpy()

    reach = box.cpu().double().numpy()
    farthest = np.zeros_like(reach)
    loss, slope = loss_at(farthest)
    highest = loss

    def fall(z: Vector) -> tuple[float, Vector]:
        nonlocal highest, farthest
        value, gradient = loss_at(z)
        if not math.isfinite(value):
            return -highest, np.zeros_like(z)
        if value > highest:
            highest, farthest = value, z.copy()
        return -value, -gradient

    aside = ASIDE * reach * np.random.default_rng(0).choice([-1.0, 1.0], len(reach))
    minimize(fall, aside, jac=True, method="L-BFGS-B", bounds=np.stack([-reach, reach], axis=1), options={"maxiter": BOX_ITERATIONS})
    # Where little gradient is left, ten iterations do not come to the corner that it points to.
    fall(reach * np.sign(slope))
    growth = highest - loss
    beyond = growth - float(slope @ farthest)
    if growth < small * (1 + loss):
        parts = [(number + 0.5) / MIDPOINTS for number in range(MIDPOINTS)]
        beyond = sum(float((loss_at(part * farthest)[1] - slope) @ farthest) for part in parts) / MIDPOINTS
    value, linear, curved = (100 * part / (1 + loss) for part in (growth, float(reach @ np.abs(slope)), beyond))
    return value, linear, curved


def top_eigenvalue(solution: Solution) -> float | None:
    """The largest eigenvalue of the Hessian of f, its curvature in the steepest direction, by Lanczos (scipy's eigsh) on Hessian-vector products.

    Where Lanczos does not converge, as near a Hessian of zeros, power iteration takes over; None where that does not settle either.

    Raises: InputError for a model that has no second derivative; FaultError.
    """
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
        return float(eigsh(operator, k=1, which="LA", tol=TOLERANCE, v0=start, maxiter=LANCZOS_RESTARTS, return_eigenvectors=False)[0])
    except ArpackError:
        return top_by_power_iteration(times, start, TOLERANCE, POWER_ITERATIONS)


def top_by_power_iteration(times: Callable[[Vector], Vector], start: Vector, tolerance: float, iterations: int) -> float | None:
    """Of H + |H|, whose eigenvalues are not below zero, the largest is H's largest plus |H|. None where it does not settle.

    Args: tolerance: of the residual, relative to |H|.
    """
    direction, size = start / np.linalg.norm(start), 0.0
    for _ in range(SIZE_ITERATIONS):
        turned = times(direction)
        size = float(np.linalg.norm(turned))
        if size == 0:
            return 0.0
        if not math.isfinite(size):
            return None
        direction = turned / size
    direction = start / np.linalg.norm(start)
    for _ in range(iterations):
        turned = times(direction) + size * direction
        value = float(direction @ turned)
        if np.linalg.norm(turned - value * direction) <= tolerance * size:
            return value - size
        direction = turned / np.linalg.norm(turned)
    return None


def sharpness_rows(solutions: Sequence[dict[str, Any]]) -> list[tuple[str, list[float]]]:
    """(what, its number for each solution) of sharpness as JSON has it; nothing where it was not measured for all."""
    if not all(len(solution["sharpness"]) == len(solutions[0]["sharpness"]) for solution in solutions):
        return []
    rows = []
    for values in zip(*(solution["sharpness"] for solution in solutions), strict=True):
        where = "full space" if values[0]["dimensions"] is None else f"random {values[0]['dimensions']}"
        what = f"epsilon {values[0]['epsilon']:g}, {where}"
        rows.append((what, [value["value"] for value in values]))
        if all("linear" in value for value in values):  # a study of before has none
            rows.append((f"{what}: the gradient alone", [value["linear"] for value in values]))
            rows.append((f"{what}: beyond the gradient", [value["curved"] for value in values]))
    return rows


def slope_in_words(name: str, sharpness: Sequence[dict[str, Any]]) -> list[str]:
    """What must be said of values that the gradient makes which training left. Args: sharpness: of one solution, as JSON has it."""
    shares = [
        1 - value["curved"] / value["value"] for value in sharpness if value["dimensions"] is not None and "curved" in value and value["value"] > 0
    ]
    if not shares or max(shares) < MOSTLY_SLOPE:
        return []
    return [
        f"Sharpness of {name} in random directions is for {max(shares):.1%} the slope that training left, not curvature: train to the end, or "
        "compare what lies beyond the gradient."
    ]

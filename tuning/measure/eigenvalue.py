"""The top eigenvalue of the Hessian at a solution: the curvature in the steepest direction."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from largebatch.tuning.measure.solution import Solution

Vector = NDArray[np.float64]
SIZE_ITERATIONS = 30


def top_eigenvalue(solution: Solution, tolerance: float = 0.01, lanczos_restarts: int = 100, power_iterations: int = 300) -> float | None:
    """The largest eigenvalue of the Hessian of f, by Lanczos (scipy's eigsh) on Hessian-vector products.

    Where Lanczos does not converge, as near a Hessian of zeros, power iteration takes over; None where that does not settle either.

    Args: tolerance: relative.
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
        return float(eigsh(operator, k=1, which="LA", tol=tolerance, v0=start, maxiter=lanczos_restarts, return_eigenvectors=False)[0])
    except ArpackError:
        return top_by_power_iteration(times, start, tolerance, power_iterations)


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

"""Keskar's sharpness of two solutions trained to the end, random directions in both lengths that the paper may mean.

largebatch train keskar-f1-small --data-dir data
largebatch train keskar-f1-large --data-dir data
python benchmarks/keskar_sharpness.py data runs/keskar-f1-small-* runs/keskar-f1-large-*
"""

import math
import sys
from pathlib import Path

import torch

from largebatch.tuning.measure.sharpness import epsilon_sharpness, top_eigenvalue
from largebatch.tuning.measure.solution import Solution, load_solution

NUM_SAMPLES, DIMENSIONS = 2000, 100


def rows(solution: Solution) -> list[tuple[str, str]]:
    """(what, its number)."""
    weights = solution.weights
    loss, gradient = solution.loss_and_gradient(weights)
    measured = [("weights", f"{len(weights):,}"), ("loss", f"{loss:.4g}"), ("length of the gradient", f"{float(gradient.norm()):.4g}")]
    spaces = [
        ("full space", None, 1.0),
        ("random, columns of length 1", DIMENSIONS, 1.0),
        ("random, columns as drawn", DIMENSIONS, math.sqrt(len(weights))),
    ]
    for name, dimensions, length in spaces:
        for epsilon in (1e-3, 5e-4):
            found = epsilon_sharpness(solution, epsilon, dimensions, length=length)
            measured.append((f"{name}, epsilon {epsilon:g}", f"{found.value:.3g} (slope {found.linear:.3g}, beyond it {found.curved:.3g})"))
    return [*measured, ("top Hessian eigenvalue", f"{top_eigenvalue(solution):.3g}")]


def main() -> None:
    """Print a table with one column for each run."""
    data_dir, *run_dirs = map(Path, sys.argv[1:])
    solutions = [load_solution(run_dir, torch.device("cpu"), data_dir, NUM_SAMPLES) for run_dir in run_dirs]
    print("| | " + " | ".join(solution.name for solution in solutions) + " |\n|---" + "|---:" * len(solutions) + "|")
    for row in zip(*map(rows, solutions), strict=True):
        print(f"| {row[0][0]} | " + " | ".join(value for _, value in row) + " |")


if __name__ == "__main__":
    main()

"""A random subspace of all weights, in which sharpness is measured: its columns are of length one, drawn from a seed, in memory only as far as
there is room.

A hundred columns of a large network's weights are tens of gigabytes; beyond `MOST_BYTES` the rows are drawn anew, block by
block, each time they are needed.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

MOST_BYTES = 2**30
EXACT_ROWS = 2**16
"""So many rows at a time are summed up in float64."""


class Subspace:
    """The matrix A = R / lengths: R of normal draws, (size, dimensions), and the lengths of its columns.

    Args: like: the weights, (size,), for their device and type; dimensions: columns, at most `size`; most_bytes: of R that may be kept.
    """

    def __init__(self, like: Tensor, dimensions: int, seed: int, most_bytes: int = MOST_BYTES) -> None:
        self._like, self.dimensions, self._seed = like, dimensions, seed
        self._rows = min(len(like), max(most_bytes // (like.element_size() * dimensions), 1))
        self._kept = self._draw(0) if self._rows == len(like) else None
        gram = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=like.device)
        for _, block in self._blocks():
            for part in torch.split(block, EXACT_ROWS):
                exact = part.double()
                gram += exact.T @ exact
        self._lengths = gram.diagonal().sqrt()
        self._gram = gram / torch.outer(self._lengths, self._lengths)

    def spread(self, z: Tensor) -> Tensor:
        """A z, from (dimensions,) to (size,)."""
        shortened, vector = z / self._lengths.to(z), torch.empty_like(self._like)
        for rows, block in self._blocks():
            vector[rows] = block @ shortened
        return vector

    def project(self, vector: Tensor) -> Tensor:
        """A^T v, from (size,) to (dimensions,)."""
        sums = torch.zeros(self.dimensions, dtype=torch.float64, device=vector.device)
        for rows, block in self._blocks():
            sums += block.T @ vector[rows]
        return (sums / self._lengths).to(vector)

    def seen_from(self, vector: Tensor) -> Tensor:
        """A^+ v, (dimensions,): the coordinates of what A reaches nearest to v."""
        coordinates: Tensor = torch.linalg.solve(self._gram, self.project(vector).double())
        return coordinates.to(vector)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """R, some rows at a time, with the slice that they are."""
        for number, start in enumerate(range(0, len(self._like), self._rows)):
            block = self._kept if self._kept is not None else self._draw(number)
            yield slice(start, start + len(block)), block

    def _draw(self, number: int) -> Tensor:
        """What is kept is drawn by the CPU, alike for every device; what is drawn again and again, where it is used."""
        count = min(self._rows, len(self._like) - number * self._rows)
        device = torch.device("cpu") if self._rows == len(self._like) else self._like.device
        generator = torch.Generator(device).manual_seed(self._seed + number)
        return torch.randn(count, self.dimensions, generator=generator, device=device).to(self._like)

"""The pictures of paths on a surface: what is drawn of each step, as charts for pages and PNGs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from largebatch.tuning.landscape.paths import PLAIN, Noise, Path
from largebatch.tuning.landscape.surfaces import Surface
from largebatch.tuning.report.charts import Chart, Field, Series

ARROWS = ("negative gradient", "last move", "real move")
ARROW_COLOURS = (1, 4, 2)
PATH, BALL, PLACES = "path", "ball", "named places"
LONGEST, SHORTEST, APART = 0.3, 0.015, 0.02
"""Of arrows, in widths of the picture: the longest, what is too short to be drawn, and how far they begin from each other in two dimensions."""
NUM_PLACES = {1: 201, 2: 61}
"""Places along each axis at which a surface is drawn, by its dimensions."""
Line = tuple[tuple[float, float], tuple[float, float]]
"""From the first point to the second, in the picture's coordinates."""


@dataclass(frozen=True)
class Scene:
    """Optimizers side by side on one surface."""

    surface: Surface
    paths: Sequence[Path]
    noise: Noise

    @property
    def conditions(self) -> str:
        """Rate, noise and the arrows' scale in words."""
        batch, noise = min(path.side.batch for path in self.paths), self.noise
        of_sample, of_batch = (f"{noise.deviation_of(size):g}" for size in (1, batch))
        told = f"noise of standard deviation {of_sample} in one sample, {of_batch} in a batch of {batch:g}, seed {noise.seed}"
        of_gradients, of_moves = self.arrow_scales
        return (
            f"Learning rate {self.paths[0].learning_rate:g}; {told if batch < math.inf else 'no noise'}. Arrows: moves times {of_moves:.2g}, "
            f"gradients times {of_gradients:.2g}; those too short to see are left out."
        )

    @cached_property
    def arrow_scales(self) -> tuple[float, float]:
        """Factors of gradients and of moves, the same in all panels: the longest arrow is as long as `LONGEST` says.

        Under plain SGD a gradient times the rate has the length that it adds to a move, so that real = momentum * last + gradient can be
        seen; others divide gradients by norms, so that theirs have a scale of their own.
        """
        rate, whole = self.paths[0].learning_rate, self.surface.width
        move = max(_longest(path.real_moves) for path in self.paths)
        gradient = max(_longest(path.negative_gradients) for path in self.paths)
        if self.paths[0].side.config.name == PLAIN:
            scale = LONGEST * whole / min(max(move, rate * gradient), whole)  # what diverges leaves the picture anyhow
            return rate * scale, scale
        return LONGEST * whole / gradient, LONGEST * whole / min(move, whole)

    @cached_property
    def y_range(self) -> tuple[float, float]:
        """Of the picture; above a curve there is room for arrows."""
        if self.surface.num_dimensions == 2:
            return self.surface.view[1]
        heights = self.surface.height(_axis(self.surface, 0))
        low, high = heights.min().item(), heights.max().item()
        return low - 0.05 * (high - low), high + 0.3 * (high - low)

    def points(self, path: Path) -> list[tuple[float, float]]:
        """Where the path's positions lie in the picture."""
        if self.surface.num_dimensions == 2:
            return [(x, y) for x, y in path.positions.tolist()]
        return [(x, y) for (x,), y in zip(path.positions.tolist(), self.surface.height(path.positions[:, 0]).tolist(), strict=True)]

    def arrows(self, path: Path, step: int) -> list[Line]:
        """The arrows of `ARROWS` at the beginning of a step, side by side, over the ball where it has one coordinate; without length at the end."""
        (x, y), (of_gradients, of_moves) = self.points(path)[step], self.arrow_scales
        vectors = torch.zeros(len(ARROWS), self.surface.num_dimensions)
        if step < len(path.negative_gradients):
            vectors = torch.stack([path.negative_gradients[step] * of_gradients, path.last_moves[step] * of_moves, path.real_moves[step] * of_moves])
        vectors[vectors.norm(dim=1) < SHORTEST * self.surface.width] = 0.0
        ends = [(*vector, 0.0)[:2] for vector in vectors.tolist()]
        if self.surface.num_dimensions == 2:
            dx, dy = max(ends, key=lambda end: math.hypot(*end))
            length = math.hypot(dx, dy) or 1.0
            aside = [APART * self.surface.width * side / length for side in (1, 0, -1)]
            tails = [(x - dy * shift, y + dx * shift) for shift in aside]
        else:
            bottom, top = self.y_range
            tails = [(x, y + (top - bottom) * (0.06 + 0.05 * rank)) for rank in (3, 2, 1)]
        return [((x, y), (x + dx, y + dy)) for (x, y), (dx, dy) in zip(tails, ends, strict=True)]

    def telling_step(self, path: Path) -> int:
        """The step, not the first, that begins nearest to the place that the surface is about."""
        subject = torch.tensor(self.surface.subject, dtype=torch.float64)
        distances = (path.positions[1:-1] - subject).norm(dim=1)
        return 1 + int(distances.argmin()) if len(distances) else 0

    def panel(self, path: Path, step: int) -> Chart:
        """One optimizer's path, with the ball and its arrows at the beginning of a step."""
        surface, points, is_plane = self.surface, self.points(path), self.surface.num_dimensions == 2
        arrows = zip(ARROWS, ARROW_COLOURS, self.arrows(path, step), strict=True)
        series = [
            *self._curve(),
            _through(PATH, points, colour=0, draws="both" if is_plane else "marks", mark_size=0.6),
            *(_through(name, line, colour=colour, draws="arrow") for name, colour, line in arrows),
            _through(BALL, [points[step]], colour=3, draws="marks", mark_size=1.5),
        ]
        return Chart(
            surface.name, f"{path.side.name}: {path.in_words}", "x", "y" if is_plane else "f(x)", series,
            field=self._field(), x_range=surface.view[0], y_range=self.y_range, same_scale=is_plane,
        )  # fmt: skip

    def panels(self) -> list[Chart]:
        """Each path at its telling step."""
        return [self.panel(path, self.telling_step(path)) for path in self.paths]

    def _curve(self) -> list[Series]:
        """The surface itself in one dimension, and the places that have names."""
        surface, places = self.surface, torch.tensor([place.at for place in self.surface.places], dtype=torch.float64)
        if surface.num_dimensions == 2:
            return [_through(PLACES, places.tolist(), colour=6, draws="marks", symbol="x")]
        x, at = _axis(surface, 0), places[:, 0]
        return [
            Series("f(x)", x.tolist(), surface.height(x).tolist(), draws="line", colour=6),
            Series(PLACES, at.tolist(), surface.height(at).tolist(), draws="marks", symbol="x", colour=6),
        ]

    def _field(self) -> Field | None:
        """Level lines in two dimensions; the logarithm keeps the flat parts in sight beside steep walls."""
        if self.surface.num_dimensions == 1:
            return None
        x, y = _axis(self.surface, 0), _axis(self.surface, 1)
        heights = self.surface.height(*torch.meshgrid(x, y, indexing="xy"))
        return Field(x.tolist(), y.tolist(), (heights - heights.min()).log1p().tolist())


def _through(name: str, points: Sequence[Sequence[float]], **looks: Any) -> Series:
    return Series(name, [x for x, _ in points], [y for _, y in points], **looks)


def _axis(surface: Surface, coordinate: int) -> Tensor:
    return torch.linspace(*surface.view[coordinate], NUM_PLACES[surface.num_dimensions], dtype=torch.float64)


def _longest(vectors: Tensor) -> float:
    """The greatest length, or a short one where all are shorter."""
    return vectors.norm(dim=1).max().clamp(min=SHORTEST).item() if len(vectors) else SHORTEST

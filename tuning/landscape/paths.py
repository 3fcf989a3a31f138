"""The path of an optimizer down a surface: the very optimizer that trains, built by its config, one step after another."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.optim.configs.two_rules import TwoRulesConfig
from largebatch.jobs.optim.parameter_groups import build_optimizer, set_learning_rate
from largebatch.tuning.landscape.surfaces import Surface

PLAIN = "sgd"
NAMES = {"sgd": "SGD", "adamw": "AdamW", "lars": "LARS", "lamb": "LAMB"}
RATES = {"lars": 20.0}
"""Of optimizers that do not take a surface's own rate; lars multiplies its rate by the trust coefficient, 0.001."""
USUAL_RATE = 0.05
"""Of the others, whose first steps are about as long as their rate."""
FAR = 100
"""Widths of the picture; a path that leads so far away diverges."""
IN_WORDS = {"minimum": "in the minimum", "local minimum": "in the local minimum", "saddle": "at the saddle", "plateau": "on the plateau"}


@dataclass(frozen=True)
class Side:
    """One of the optimizers that are shown side by side."""

    name: str
    config: OptimizerConfig
    batch: float = math.inf
    """Samples of a gradient; infinite: no noise."""


@dataclass(frozen=True)
class Noise:
    """The noise of a gradient that is a mean over a batch of samples: normal, its variance `deviation`^2 / batch in each coordinate."""

    deviation: float
    """Standard deviation of one sample's gradient."""
    seed: int

    def deviation_of(self, batch: float) -> float:
        """The standard deviation of a batch's gradient; of an endless batch's 0."""
        return self.deviation / math.sqrt(batch)


@dataclass(frozen=True)
class Path:
    """Where an optimizer went: of n steps in d dimensions."""

    surface: Surface
    side: Side
    learning_rate: float
    positions: Tensor
    """(n + 1, d) float64: the start, and where each step led."""
    negative_gradients: Tensor
    """(n, d): what the optimizer was given at the beginning of each step, noise and all, with its sign changed."""
    diverged: bool
    """Whether it ended before all steps were done, at its last position that was less than `FAR` away from the start."""

    @property
    def real_moves(self) -> Tensor:
        """(n, d): from each position to the next."""
        return self.positions.diff(dim=0)

    @property
    def last_moves(self) -> Tensor:
        """(n, d): the move that led to each position; none to the start."""
        return torch.cat([torch.zeros_like(self.positions[:1]), self.real_moves[:-1]])[: len(self.negative_gradients)]

    @property
    def in_words(self) -> str:
        """Where the path ends."""
        if self.diverged:
            return f"diverges in step {len(self.positions)}"
        end = tuple(self.positions[-1].tolist())
        place = self.surface.place_near(end)
        return f"ends at {', '.join(f'{coordinate:.2f}' for coordinate in end)}" if place is None else f"ends {IN_WORDS[place.kind]}"


def sides_of(optimizer: str, momentum: float, batch: float) -> list[Side]:
    """An optimizer without momentum, with it, with Nesterov's where it has that, and without momentum on a small batch.

    Args: optimizer: one of `OPTIMIZERS`; momentum: of its momentum option, above 0 and below 1; batch: samples, perhaps infinite.
    """
    config, prefix = OPTIMIZERS[optimizer], "" if optimizer == PLAIN else f"{NAMES.get(optimizer, optimizer)}, "
    option = config.momentum_option
    own = {"name": optimizer, **({"assign": [{"pattern": "*", "to": optimizer}]} if issubclass(config, TwoRulesConfig) else {})}

    def built(value: float, **options: bool) -> OptimizerConfig:
        return config.model_validate({**own, option: value, **options})

    size = f"batch of {batch:g}" if batch < math.inf else "endless batch"
    if not option:
        return [Side(optimizer, config.model_validate(own)), Side(f"{optimizer}, {size}", config.model_validate(own), batch)]
    plain = "gradient descent" if optimizer == PLAIN else f"{prefix}{option} 0"
    sides = [Side(plain, built(0.0)), Side(f"{prefix}{option} {momentum:g}", built(momentum))]
    if "nesterov" in config.model_fields:
        sides.append(Side(f"{prefix}Nesterov {momentum:g}", built(momentum, nesterov=True)))
    return [*sides, Side(f"{plain}, {size}", built(0.0), batch)]


def roll(surface: Surface, side: Side, num_steps: int, noise: Noise, learning_rate: float | None = None) -> Path:
    """The path from the surface's start. Args: learning_rate: default the surface's own, or the optimizer's usual one."""
    if learning_rate is None:
        learning_rate = surface.learning_rate if side.config.name == PLAIN else RATES.get(side.config.name, USUAL_RATE)
    ball = _Ball(surface)
    optimizer = build_optimizer(ball, side.config)
    set_learning_rate(optimizer, learning_rate)
    deviation = noise.deviation_of(side.batch)
    generator = torch.Generator().manual_seed(noise.seed)
    positions, gradients = [ball.weight.detach().clone()], list[Tensor]()
    for _ in range(num_steps):
        optimizer.zero_grad()
        ball().backward()
        gradient = ball.weight.grad
        assert gradient is not None
        if deviation > 0:
            gradient += deviation * torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
        given = gradient.clone()
        optimizer.step()
        position = ball.weight.detach().clone()
        if not (position - positions[0]).norm() < FAR * surface.width:  # nan, too
            break
        gradients.append(given)
        positions.append(position)
    negative = -torch.cat(gradients) if gradients else torch.empty(0, surface.num_dimensions, dtype=torch.float64)
    return Path(surface, side, learning_rate, torch.cat(positions), negative, diverged=len(gradients) < num_steps)


class _Ball(nn.Module):
    """A model whose only weight is its position, of shape (1, d): a matrix, so that optimizers treat it as they treat weights, not as biases."""

    def __init__(self, surface: Surface) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([surface.start], dtype=torch.float64))
        self._height = surface.height

    def forward(self) -> Tensor:
        """The height where it is."""
        return self._height(*self.weight[0])
